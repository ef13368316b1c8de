//! `security.audit.sinks` and `security.audit.alerts`.

use std::path::{Path, PathBuf};
use std::time::Duration;

use super::super::model::Secret;
use super::super::outlet::{
    AlertConfig, AlertRule, AlertTarget, Endpoint, SinkConfig, SinkTarget, WebTarget,
};
use super::super::reader::{Field, Section};
use super::super::redact::Change;

pub(super) fn sinks(section: &mut Section<'_, '_>) -> Vec<SinkConfig> {
    // The gateway process needs none of it, and there are credentials in it.
    section.at("sinks").redact(Change::Remove);
    let list = section.at("sinks").list(|sink| sink.object(one_sink)?);
    list.unwrap_or_default()
}

pub(super) fn alerts(section: &mut Section<'_, '_>) -> Vec<AlertConfig> {
    section.at("alerts").redact(Change::Remove);
    let list = section.at("alerts").list(|alert| alert.object(one_alert)?);
    list.unwrap_or_default()
}

fn one_sink(sink: &mut Section<'_, '_>) -> Option<SinkConfig> {
    let kind = sink
        .at("type")
        .required("one of \"journald\", \"syslog\", \"otlp\"")
        .choice(&[("journald", 0), ("syslog", 1), ("otlp", 2)])?;
    let queue = sink.at("queue").small(16..=1_000_000).unwrap_or(8192);
    let to = match kind {
        0 => SinkTarget::Journald {
            socket: sink
                .at("socket")
                .file()
                .unwrap_or_else(|| PathBuf::from("/run/systemd/journal/socket")),
        },
        1 => {
            let ca = sink.at("ca").file();
            let expected = "such as \"tls://logs.example.org:6514\" or \"tcp://10.0.0.2:601\"";
            let address = sink.at("address").required(expected);
            let (mut endpoint, _) = url(
                address,
                expected,
                [("tls", true, 6514), ("tcp", false, 601)],
            )?;
            endpoint.ca = ca;
            SinkTarget::Syslog(endpoint)
        }
        _ => SinkTarget::Otlp(web(sink, "endpoint", "/v1/logs")?),
    };
    Some(SinkConfig {
        to,
        queue: usize::try_from(queue).unwrap_or(usize::MAX),
    })
}

fn one_alert(alert: &mut Section<'_, '_>) -> Option<AlertConfig> {
    let every = alert.at("every").millis(1000..=86_400_000);
    let count = alert.at("count").integer(1..=1_000_000);
    let window = alert.at("window").millis(1000..=86_400_000);
    let failed_logins = AlertRule::FailedLogins {
        count: count.unwrap_or(10),
        window: window.unwrap_or(Duration::from_mins(1)),
    };
    let when = alert
        .at("when")
        .required("what to tell of, such as \"failedLogins\"")
        .choice(&[
            ("failedLogins", failed_logins),
            ("newSource", AlertRule::NewSource),
            ("toolDenied", AlertRule::ToolDenied),
            ("chainBroken", AlertRule::ChainBroken),
            ("eventsLost", AlertRule::EventsLost),
        ]);
    if when.is_some_and(|when| when != failed_logins) {
        for (key, given) in [("count", count.is_some()), ("window", window.is_some())] {
            if given {
                alert
                    .at(key)
                    .problem("is of `failedLogins` only; leave it out here");
            }
        }
    }
    let to = target(alert);
    Some(AlertConfig {
        when: when?,
        to: to?,
        every: every.unwrap_or(Duration::from_mins(5)),
    })
}

fn target(alert: &mut Section<'_, '_>) -> Option<AlertTarget> {
    match (alert.has("webhook"), alert.has("command")) {
        (true, true) => {
            let command = alert.at("command");
            command.problem("stands beside `webhook`; an alert goes to one of them");
            None
        }
        (true, false) => web(alert, "webhook", "/").map(AlertTarget::Webhook),
        (false, true) => {
            let words = alert.at("command").texts()?;
            let program = words.first().map(Path::new);
            if !program.is_some_and(Path::is_absolute) {
                let command = alert.at("command");
                command.problem("begins with a program's absolute path");
                return None;
            }
            Some(AlertTarget::Command(words))
        }
        (false, false) => Some(AlertTarget::Journal),
    }
}

fn web(section: &mut Section<'_, '_>, key: &str, default_path: &str) -> Option<WebTarget> {
    let ca = section.at("ca").file();
    let authorization = section
        .at("authorization")
        .secret("the whole header, such as \"Bearer ${TOKEN}\"")
        .map(|(value, _)| Secret::new(value.to_owned()));
    let expected = "a URL such as \"https://example.org:4318/v1/logs\"";
    let address = section.at(key).required(expected);
    let (mut endpoint, path) = url(
        address,
        expected,
        [("https", true, 443), ("http", false, 80)],
    )?;
    endpoint.ca = ca;
    let path = if path == "/" || path.is_empty() {
        default_path.to_owned()
    } else {
        path
    };
    Some(WebTarget {
        endpoint,
        path,
        authorization,
    })
}

/// Reads `scheme://host[:port][/path]`; each scheme with its TLS and its port.
fn url(
    field: Field<'_, '_>,
    expected: &str,
    schemes: [(&str, bool, u16); 2],
) -> Option<(Endpoint, String)> {
    field.parsed(expected, |text| {
        let uri: hyper::Uri = text.parse().ok().ok_or(None)?;
        let scheme = schemes
            .iter()
            .find(|(name, ..)| uri.scheme_str() == Some(name));
        let (_, tls, port) = scheme.ok_or(None)?;
        let host = uri.host().filter(|host| !host.is_empty()).ok_or(None)?;
        let host = host.trim_start_matches('[').trim_end_matches(']');
        let endpoint = Endpoint {
            host: host.to_owned(),
            port: uri.port_u16().unwrap_or(*port),
            tls: *tls,
            ca: None,
        };
        let path = uri.path_and_query().map_or("/", |path| path.as_str());
        Ok((endpoint, path.to_owned()))
    })
}
