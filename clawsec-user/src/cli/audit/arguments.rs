//! What the reading commands take: which log, which records, in which form.

use std::io::{self, IsTerminal as _};
use std::net::IpAddr;
use std::path::PathBuf;

use clap::Args;
use ipnet::IpNet;

use crate::audit::{Filter, Stamp};
use crate::cli::{ConfigArgument, Failure};
use crate::config::{Config, Secret};
use crate::event::{EventKind, Outcome};

/// Which log; by default the one the configuration names.
#[derive(Debug, Args)]
pub(super) struct LogArgument {
    #[command(flatten)]
    config: ConfigArgument,
    /// The log itself, without a configuration
    #[arg(long, value_name = "FILE", conflicts_with = "config")]
    path: Option<PathBuf>,
}

/// Which records. A list asks for any of its words; different options must all fit.
#[derive(Debug, Clone, Args)]
pub(super) struct FilterArguments {
    #[command(flatten)]
    time: TimeArguments,
    /// auth, message, tool, config, network, system
    #[arg(long, value_name = "EVENT,…", value_delimiter = ',', value_parser = parse_event)]
    event: Vec<EventKind>,
    /// allow, deny, error
    #[arg(long, value_name = "OUTCOME,…", value_delimiter = ',', value_parser = parse_outcome)]
    outcome: Vec<Outcome>,
    /// Such as connect, invoke, drop
    #[arg(long, value_name = "ACTION,…", value_delimiter = ',')]
    action: Vec<String>,
    /// Such as tool_denied, not_allowed
    #[arg(long, value_name = "REASON,…", value_delimiter = ',')]
    reason: Vec<String>,
    /// Source address, or prefix
    #[arg(long, value_name = "IP|CIDR,…", value_delimiter = ',', value_parser = parse_network)]
    ip: Vec<IpNet>,
    /// As the request named it
    #[arg(long, value_name = "USER,…", value_delimiter = ',')]
    user: Vec<String>,
    /// The id of the key that was used
    #[arg(long, value_name = "ID,…", value_delimiter = ',')]
    principal: Vec<String>,
    /// The agent's id
    #[arg(long, value_name = "AGENT,…", value_delimiter = ',')]
    agent: Vec<String>,
    /// As policy judged it
    #[arg(long, value_name = "TOOL,…", value_delimiter = ',')]
    tool: Vec<String>,
    /// What ties the records of one request
    #[arg(long, value_name = "ID,…", value_delimiter = ',')]
    request: Vec<String>,
}

#[derive(Debug, Clone, Args)]
pub(super) struct TimeArguments {
    /// `90s`, `30m`, `6h`, `7d` ago, a day, a time
    #[arg(long, value_name = "WHEN", value_parser = parse_when)]
    since: Option<Stamp>,
    /// The same
    #[arg(long, value_name = "WHEN", value_parser = parse_when)]
    until: Option<Stamp>,
}

/// A table on a terminal, else JSON lines; either can be asked for.
#[derive(Debug, Clone, Copy, Args)]
pub(super) struct FormArguments {
    /// The lines as they stand in the file
    #[arg(long, conflicts_with = "table")]
    json: bool,
    /// A table, also where it is not for a terminal
    #[arg(long)]
    table: bool,
}

impl LogArgument {
    pub(super) fn find(&self) -> Result<(PathBuf, Option<Secret>), Failure> {
        if let Some(path) = &self.path {
            return Ok((path.clone(), None));
        }
        let audit = self.config.read()?.audit;
        Ok((audit.path, audit.chain_key))
    }

    /// With the configuration itself, unless the log was named without one.
    pub(super) fn find_with_config(
        &self,
    ) -> Result<(PathBuf, Option<Secret>, Option<Config>), Failure> {
        if let Some(path) = &self.path {
            return Ok((path.clone(), None, None));
        }
        let config = self.config.read()?;
        let audit = config.audit.clone();
        Ok((audit.path, audit.chain_key, Some(config)))
    }
}

impl FilterArguments {
    pub(super) fn filter(&self) -> Filter {
        Filter {
            events: self.event.clone(),
            actions: self.action.clone(),
            outcomes: self.outcome.clone(),
            reasons: self.reason.clone(),
            sources: self.ip.clone(),
            principals: self.principal.clone(),
            users: self.user.clone(),
            agents: self.agent.clone(),
            tools: self.tool.clone(),
            requests: self.request.clone(),
            ..self.time.filter()
        }
    }

    /// What is asked for besides the time, for a person.
    pub(super) fn words(&self) -> Vec<String> {
        let texts = |name: &str, texts: &[String]| {
            (!texts.is_empty()).then(|| format!("{name} {}", texts.join(" or ")))
        };
        let events = self.event.iter().map(|event| event.as_str().to_owned());
        let outcomes = self
            .outcome
            .iter()
            .map(|outcome| outcome.as_str().to_owned());
        let sources = self.ip.iter().map(ToString::to_string);
        [
            texts("event", &events.collect::<Vec<_>>()),
            texts("outcome", &outcomes.collect::<Vec<_>>()),
            texts("action", &self.action),
            texts("reason", &self.reason),
            texts("source", &sources.collect::<Vec<_>>()),
            texts("user", &self.user),
            texts("key", &self.principal),
            texts("agent", &self.agent),
            texts("tool", &self.tool),
            texts("request", &self.request),
        ]
        .into_iter()
        .flatten()
        .collect()
    }
}

impl TimeArguments {
    pub(super) fn filter(&self) -> Filter {
        Filter {
            since: self.since,
            until: self.until,
            ..Filter::default()
        }
    }
}

impl FormArguments {
    pub(super) fn is_json(self) -> bool {
        self.json || !(self.table || io::stdout().is_terminal())
    }
}

/// `90s`, `30m`, `6h`, `7d` ago, a day, or a time.
pub(super) fn parse_when(text: &str) -> Result<Stamp, String> {
    let unit_seconds = match text.as_bytes().last() {
        Some(b's') => Some(1),
        Some(b'm') => Some(60),
        Some(b'h') => Some(3600),
        Some(b'd') => Some(86_400),
        _ => None,
    };
    if let Some(unit) = unit_seconds
        && let Ok(number) = text[..text.len() - 1].parse::<u32>()
    {
        let micros = i64::from(number) * unit * 1_000_000;
        return Ok(Stamp::from_micros(Stamp::now().micros() - micros));
    }
    Stamp::parse(text)
        .or_else(|| Stamp::parse(&format!("{text}T00:00:00Z")))
        .ok_or_else(|| "not like 90s, 30m, 6h, 7d, 2026-01-31 or 2026-01-31T12:00:00Z".to_owned())
}

/// An address is a prefix of full length.
pub(super) fn parse_network(text: &str) -> Result<IpNet, String> {
    text.parse::<IpNet>()
        .or_else(|_not_a_prefix| text.parse::<IpAddr>().map(IpNet::from))
        .map(|network| network.trunc())
        .map_err(|_neither| "not like 203.0.113.7, 203.0.113.0/24 or 2001:db8::/64".to_owned())
}

fn parse_event(text: &str) -> Result<EventKind, String> {
    let known = EventKind::ALL.into_iter();
    one_of(text, known.map(|kind| (kind.as_str(), kind)))
}

fn parse_outcome(text: &str) -> Result<Outcome, String> {
    let known = [Outcome::Allow, Outcome::Deny, Outcome::Error].into_iter();
    one_of(text, known.map(|outcome| (outcome.as_str(), outcome)))
}

fn one_of<T>(
    text: &str,
    known: impl Iterator<Item = (&'static str, T)> + Clone,
) -> Result<T, String> {
    let words: Vec<_> = known.clone().map(|(word, _)| word).collect();
    let mut known = known;
    known
        .find(|(word, _)| *word == text)
        .map(|(_, value)| value)
        .ok_or_else(|| format!("not one of {}", words.join(", ")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn when_takes_spans_days_and_times() {
        let now = Stamp::now().micros();
        let hour = parse_when("1h").unwrap().micros();
        assert!((now - 3_600_000_000 - hour).abs() < 60_000_000);
        for text in [
            "2026-01-01T00:00:00Z",
            "2026-01-01",
            "2026-01-01T01:00:00+01:00",
        ] {
            let expected = Ok(Stamp::from_micros(1_767_225_600_000_000));
            assert_eq!(parse_when(text), expected, "{text}");
        }
        for bad in ["", "h", "-1h", "soon", "1w", "é"] {
            assert!(parse_when(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn sources_are_addresses_or_prefixes() {
        for (text, network) in [
            ("203.0.113.7", "203.0.113.7/32"),
            ("203.0.113.7/24", "203.0.113.0/24"),
            ("2001:db8::1", "2001:db8::1/128"),
        ] {
            assert_eq!(parse_network(text).unwrap().to_string(), network);
        }
        assert!(parse_network("example.org").is_err());
        assert_eq!(parse_event("tool"), Ok(EventKind::Tool));
        assert_eq!(
            parse_outcome("denied"),
            Err("not one of allow, deny, error".to_owned())
        );
    }
}
