//! The request level of `explain`: the gateway's own decision, from the names on the command line.

use std::net::IpAddr;
use std::time::{SystemTime, UNIX_EPOCH};

use serde::Serialize;

use super::frame::Segment;
use crate::config::Config;
use crate::gateway::{self, Reach};
use crate::policy::{
    Denial, GroupId, Permit, Reason, Request, RequestFacts, ToolName, UserId, decide_address,
};

/// What the request in the packet would name.
#[derive(Debug, clap::Args)]
pub(crate) struct RequestArguments {
    /// The user that a message speaks for.
    #[arg(long, value_name = "U")]
    user: Option<String>,
    /// The group that a message comes from.
    #[arg(long, value_name = "G")]
    group: Option<String>,
    /// The tool that is invoked.
    #[arg(long, value_name = "T")]
    tool: Option<String>,
    /// The agent that it goes to.
    #[arg(long, value_name = "A")]
    agent: Option<String>,
    /// The id of the key that is shown [default: the only one there is]
    #[arg(long, value_name = "ID")]
    token_id: Option<String>,
}

#[derive(Debug, PartialEq, Eq, Serialize)]
pub(super) struct RequestAnswer {
    /// `allow`, `deny`, `not_reached` (no request comes this way) or `unknown`.
    pub(super) outcome: &'static str,
    pub(super) reason: &'static str,
    pub(super) rule: Option<String>,
    /// Not part of the promised form; the joined answer has it.
    #[serde(skip)]
    pub(super) is_sandboxed: bool,
}

impl RequestAnswer {
    fn denied(denial: Denial) -> Self {
        Self {
            outcome: "deny",
            reason: denial.reason.as_str(),
            rule: Some(denial.rule),
            is_sandboxed: false,
        }
    }

    fn not_reached(reason: &'static str) -> Self {
        Self {
            outcome: "not_reached",
            reason,
            rule: None,
            is_sandboxed: false,
        }
    }
}

/// The packet is dropped: the check at accept would deny it too, or nothing reaches it.
pub(super) fn not_reached(config: &Config, source: IpAddr, reason: &'static str) -> RequestAnswer {
    match config.policy.addresses.admit(source) {
        Err(denial) => RequestAnswer::denied(denial),
        Ok(_) => RequestAnswer::not_reached(reason),
    }
}

/// Without a configuration nothing can be said of requests.
pub(super) fn unknown() -> RequestAnswer {
    RequestAnswer {
        outcome: "unknown",
        reason: "no_configuration",
        rule: None,
        is_sandboxed: false,
    }
}

/// The packet comes through: address, key, then what the request names, in the gateway's order.
pub(super) fn judge(
    config: &Config,
    source: IpAddr,
    port: u16,
    segment: Segment,
    arguments: &RequestArguments,
    admitted: bool,
) -> RequestAnswer {
    let mut listens = config.gateway.listen.iter();
    if segment == Segment::Udp || !listens.any(|listen| listen.address.port() == port) {
        return RequestAnswer::not_reached("not_a_gateway_port");
    }
    match decide(config, source, port, arguments, admitted) {
        Ok(permit) => RequestAnswer {
            outcome: "allow",
            reason: Reason::Ok.as_str(),
            rule: Some(permit.rule().to_owned()),
            is_sandboxed: permit.is_sandboxed(),
        },
        Err(denial) => RequestAnswer::denied(denial),
    }
}

fn decide(
    config: &Config,
    source: IpAddr,
    port: u16,
    arguments: &RequestArguments,
    admitted: bool,
) -> Result<Permit, Denial> {
    let policy = &config.policy;
    decide_listener(config, source, port, admitted)?;
    let only = || {
        let mut ids = policy.credentials.ids();
        ids.next().filter(|_| ids.next().is_none())
    };
    let id = arguments
        .token_id
        .as_deref()
        .or_else(only)
        .ok_or_else(|| Denial::new(Reason::CredentialMissing, "security.auth"))?;
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    let now = now.map_or(0, |now| i64::try_from(now.as_secs()).unwrap_or(i64::MAX));
    // A principal that nobody authenticated: it is asked about here, and nothing acts on it.
    let principal = policy.credentials.vouched(id, now)?;
    policy.decide(&principal, facts(arguments))
}

/// The check at accept. Of several listeners at one port the one that lets most in answers: which
/// address the packet was for is not asked.
fn decide_listener(
    config: &Config,
    source: IpAddr,
    port: u16,
    admitted: bool,
) -> Result<(), Denial> {
    let addresses = &config.policy.addresses;
    let mut refused = None;
    let listens = config.gateway.listen.iter();
    for listen in listens.filter(|listen| listen.address.port() == port) {
        let common = decide_address(addresses, source, false, admitted).map(drop);
        match gateway::reach_of(addresses, Some(listen), source, common) {
            Ok(Reach::Everything) => return Ok(()),
            Ok(Reach::Webhooks) => {
                let rule = format!("{}.bypass", listen.path);
                refused = Some(Denial::new(Reason::AddressNotAllowed, &rule));
            }
            Err(denial) => refused = refused.or(Some(denial)),
        }
    }
    refused.map_or(Ok(()), Err)
}

/// A tool where one is named, a message where somebody is, else a page.
fn facts(arguments: &RequestArguments) -> RequestFacts {
    let request = match &arguments.tool {
        Some(tool) => Request::Tool(ToolName::new(tool)),
        None if arguments.user.is_some()
            || arguments.group.is_some()
            || arguments.agent.is_some() =>
        {
            Request::Message
        }
        None => Request::Route,
    };
    let mut facts = RequestFacts::new(request);
    facts
        .users
        .extend(arguments.user.as_deref().map(UserId::new));
    facts
        .groups
        .extend(arguments.group.as_deref().map(GroupId::new));
    facts.agent.clone_from(&arguments.agent);
    facts
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::config::{NoSources, compile};

    fn config() -> Config {
        let text = r#"{
            "gateway": { "listen": ["192.0.2.1:8443"] },
            "tools": { "deny": ["browser"] },
            "security": {
                "auth": { "type": "token", "tokens": [
                    { "id": "ops", "token": "a-key-of-more-than-16-bytes" },
                    { "id": "reader", "token": "b-key-of-more-than-16-bytes",
                      "scopes": ["operator.read"] } ] },
                "network": { "allowedIPs": ["10.0.0.0/8"] },
                "users": { "allowList": ["+15551234567"] },
                "audit": { "path": "/var/log/clawsec.log" },
            } }"#;
        compile(text, Path::new("c.json"), &NoSources).unwrap()
    }

    fn ask(from: &str, token: Option<&str>, tool: Option<&str>, user: Option<&str>) -> String {
        let arguments = RequestArguments {
            user: user.map(str::to_owned),
            group: None,
            tool: tool.map(str::to_owned),
            agent: None,
            token_id: token.map(str::to_owned),
        };
        let from = from.parse().unwrap();
        let answer = judge(&config(), from, 8443, Segment::Syn, &arguments, false);
        let rule = answer.rule.unwrap_or_default();
        format!("{} {} {rule}", answer.outcome, answer.reason)
    }

    #[test]
    fn requests_are_judged_as_the_gateway_judges_them() {
        let rows = [
            (
                ask("10.0.0.1", Some("ops"), None, None),
                "allow ok security.auth.tokens[0]",
            ),
            (
                ask("9.0.0.1", Some("ops"), None, None),
                "deny address_not_allowed security.network.allowedIPs",
            ),
            (
                ask("10.0.0.1", None, None, None),
                "deny credential_missing security.auth",
            ),
            (
                ask("10.0.0.1", Some("nobody"), None, None),
                "deny credential_unknown security.auth",
            ),
            (
                ask("10.0.0.1", Some("ops"), Some("Browser"), None),
                "deny tool_denied tools.deny[0]",
            ),
            (
                ask("10.0.0.1", Some("reader"), Some("cron"), None),
                "deny scope_missing security.auth.tokens[1]",
            ),
            (
                ask("10.0.0.1", Some("ops"), None, Some("+1 555 123 4567")),
                "allow ok security.auth.tokens[0]",
            ),
            (
                ask("10.0.0.1", Some("ops"), None, Some("+19999999")),
                "deny user_not_allowed security.users.allowList",
            ),
        ];
        for (found, expected) in rows {
            assert_eq!(found, expected);
        }
    }

    #[test]
    fn a_listeners_own_list_is_asked() {
        let text = r#"{
            "gateway": { "tls": { "enabled": false }, "listen": [
                "192.0.2.1:8443",
                { "address": "192.0.2.1:9443", "allowedIPs": ["203.0.113.0/24"] },
                { "address": "192.0.2.1:9444", "allowedIPs": ["203.0.113.0/24"],
                  "bypass": ["/slack/events"] } ] },
            "security": {
                "auth": { "type": "apiKey", "key": "a-key-of-more-than-16-bytes" },
                "network": { "allowedIPs": ["10.0.0.0/8"],
                             "rules": [{ "cidr": "203.0.113.9/32", "action": "deny" }] },
                "audit": { "path": "/var/log/clawsec.log" },
            } }"#;
        let config = compile(text, Path::new("c.json"), &NoSources).unwrap();
        let rows = [
            ("10.0.0.1", 8443, "allow security.auth.key"),
            ("203.0.113.7", 8443, "deny security.network.allowedIPs"),
            ("203.0.113.7", 9443, "allow security.auth.key"),
            ("10.0.0.1", 9443, "deny gateway.listen[1].allowedIPs"),
            ("203.0.113.9", 9443, "deny security.network.rules[0]"),
            ("203.0.113.7", 9444, "deny gateway.listen[2].bypass"),
        ];
        for (from, port, expected) in rows {
            let source = from.parse().unwrap();
            let answer = judge(&config, source, port, Segment::Syn, &nothing(), false);
            let found = format!("{} {}", answer.outcome, answer.rule.unwrap_or_default());
            assert_eq!(found, expected, "{from} {port}");
        }
    }

    fn nothing() -> RequestArguments {
        RequestArguments {
            user: None,
            group: None,
            tool: None,
            agent: None,
            token_id: None,
        }
    }

    #[test]
    fn a_port_without_a_gateway_is_reached_by_no_request() {
        let arguments = nothing();
        let from = "10.0.0.1".parse().unwrap();
        for (port, segment) in [(22, Segment::Syn), (8443, Segment::Udp)] {
            let answer = judge(&config(), from, port, segment, &arguments, false);
            assert_eq!(answer.outcome, "not_reached");
        }
    }
}
