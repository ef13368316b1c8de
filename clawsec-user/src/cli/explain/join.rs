//! Both levels in one answer: what happens in the end, at which level, by which line of the file.

use std::path::PathBuf;

use serde::Serialize;

use super::request::RequestAnswer;
use super::{Explanation, PacketAnswer};
use crate::config::{self, Config};

/// The level that has the last word.
#[derive(Debug, PartialEq, Eq, Serialize)]
pub(super) struct Joined {
    /// `allow`, `deny`, or `unknown` where nothing can be said of the request.
    outcome: &'static str,
    /// `packet` or `request`.
    level: &'static str,
    reason: &'static str,
    /// A path of the configuration, or the command that made the entry.
    rule: Option<String>,
    file: Option<PathBuf>,
    line: Option<usize>,
    /// A tool that is let through runs here: `sandbox` or `gateway`.
    runs: Option<&'static str>,
}

impl Joined {
    pub(super) fn is_denied(&self) -> bool {
        self.outcome == "deny"
    }
}

/// The configuration's text, to find a rule's line in.
pub(super) struct Places {
    file: Option<(PathBuf, String)>,
}

impl Places {
    pub(super) fn of(config: Option<&Config>) -> Self {
        let read = |config: &Config| {
            let text = std::fs::read_to_string(&config.path).ok()?;
            Some((config.path.clone(), text))
        };
        Self {
            file: config.and_then(read),
        }
    }

    fn of_rule(&self, rule: Option<&str>) -> Option<(PathBuf, usize)> {
        let (path, text) = self.file.as_ref()?;
        Some((path.clone(), config::line_of(text, rule?)?))
    }
}

pub(super) fn join(packet: &PacketAnswer, request: &RequestAnswer, places: &Places) -> Joined {
    let banned = (packet.reason == "banned").then(|| BAN_RULE.to_owned());
    let (outcome, level, reason, rule) = if packet.verdict == "drop" {
        let rule = packet.rule.clone().or(banned);
        ("deny", "packet", packet.reason, rule)
    } else {
        match request.outcome {
            "not_reached" => ("allow", "packet", packet.reason, packet.rule.clone()),
            outcome => (outcome, "request", request.reason, request.rule.clone()),
        }
    };
    let place = places.of_rule(rule.as_deref());
    let (file, line) = place.unzip();
    let runs = (outcome == "allow" && level == "request").then_some(if request.is_sandboxed {
        "sandbox"
    } else {
        "gateway"
    });
    Joined {
        outcome,
        level,
        reason,
        rule,
        file,
        line,
        runs,
    }
}

/// Three lines: the answer, and what each level said.
pub(super) fn describe(explanation: &Explanation, places: &Places) -> String {
    let place = |rule: Option<&str>| {
        let Some(rule) = rule else {
            return String::new();
        };
        let line = places.of_rule(Some(rule));
        let line = line.map(|(file, line)| format!(" ({}:{line})", file.display()));
        format!(", by {rule}{}", line.unwrap_or_default())
    };
    let joined = &explanation.answer;
    let word = match joined.outcome {
        "allow" => "allowed",
        "deny" => "denied",
        _ => "not known",
    };
    let runs = joined.runs.filter(|runs| *runs == "sandbox");
    let runs = runs.map_or("", |_| ", runs in the sandbox");
    let (packet, request) = (&explanation.packet, &explanation.request);
    format!(
        "answer   {word} at the {} level: {}{}{runs}\npacket   {}: {}{}\nrequest  {}: {}{}\n",
        joined.level,
        joined.reason,
        place(joined.rule.as_deref()),
        packet.verdict,
        packet.reason,
        place(packet.rule.as_deref()),
        request.outcome,
        request.reason,
        place(request.rule.as_deref()),
    )
}

/// As `policy::ADMISSION_RULE` for an admission.
const BAN_RULE: &str = "clawsec ban";

#[cfg(test)]
mod tests {
    use super::*;

    fn places() -> Places {
        let text = "{\n  tools: {\n    deny: ['browser'] },\n  security: {\n    network: { allowedIPs: [] } }\n}";
        Places {
            file: Some((PathBuf::from("/etc/c.json"), text.to_owned())),
        }
    }

    fn packet(verdict: &'static str, reason: &'static str, rule: Option<&str>) -> PacketAnswer {
        PacketAnswer {
            verdict,
            reason,
            rule: rule.map(str::to_owned),
        }
    }

    fn request(outcome: &'static str, reason: &'static str, rule: Option<&str>) -> RequestAnswer {
        RequestAnswer {
            outcome,
            reason,
            rule: rule.map(str::to_owned),
            is_sandboxed: outcome == "allow",
        }
    }

    #[test]
    fn the_level_that_decides_has_the_word() {
        let listed = Some("security.network.allowedIPs");
        let pass = || packet("pass", "allowed", listed);
        let rows = [
            (
                packet("drop", "not_allowed", listed),
                request("deny", "address_not_allowed", listed),
                "denied at the packet level: not_allowed, by security.network.allowedIPs (/etc/c.json:5)",
            ),
            (
                packet("drop", "banned", None),
                request("not_reached", "banned", None),
                "denied at the packet level: banned, by clawsec ban",
            ),
            (
                pass(),
                request("deny", "tool_denied", Some("tools.deny[0]")),
                "denied at the request level: tool_denied, by tools.deny[0] (/etc/c.json:3)",
            ),
            (
                packet("would_drop", "not_allowed", listed),
                request("deny", "address_not_allowed", listed),
                "denied at the request level: address_not_allowed, by security.network.allowedIPs (/etc/c.json:5)",
            ),
            (
                pass(),
                request("allow", "ok", Some("tools")),
                "allowed at the request level: ok, by tools (/etc/c.json:2), runs in the sandbox",
            ),
            (
                packet("pass", "unprotected_port", None),
                request("not_reached", "not_a_gateway_port", None),
                "allowed at the packet level: unprotected_port",
            ),
            (
                pass(),
                request("unknown", "no_configuration", None),
                "not known at the request level: no_configuration",
            ),
        ];
        for (packet, request, expected) in rows {
            let explanation = Explanation {
                answer: join(&packet, &request, &places()),
                packet,
                request,
            };
            let text = describe(&explanation, &places());
            assert_eq!(text.lines().next(), Some(&*format!("answer   {expected}")));
            assert_eq!(
                explanation.answer.is_denied(),
                expected.starts_with("denied")
            );
        }
    }
}
