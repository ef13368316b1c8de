//! Seven points that every deployment is asked for first, each with what shows it.

use serde::Serialize;

use super::areas::tools;
use super::facts::Facts;
use crate::policy::{AddressRule, ToolSelector};

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct Point {
    pub(crate) id: &'static str,
    pub(crate) title: &'static str,
    pub(crate) ok: bool,
    /// What shows it, or what is missing.
    pub(crate) evidence: String,
    /// The configuration key to change.
    pub(crate) key: &'static str,
}

pub(super) fn points(facts: &Facts) -> Vec<Point> {
    let config = &facts.config;
    let point = |id, title, key, (ok, evidence)| Point {
        id,
        title,
        ok,
        evidence,
        key,
    };
    vec![
        point("tls", "TLS enabled", "gateway.tls", encryption(facts)),
        point("key", "API key configured", "security.auth", {
            let count = config.policy.credentials.len();
            (count > 0, counted(count, "key"))
        }),
        point(
            "tools",
            "Dangerous tools denied",
            "tools.deny",
            dangerous(facts),
        ),
        point("limits", "Rate limiting enabled", "security.rateLimit", {
            let limit = config.policy.limit;
            let rate = format!("{} requests in {} ms", limit.requests, limit.window_ms);
            (
                limit.enabled,
                if limit.enabled {
                    rate
                } else {
                    "off".to_owned()
                },
            )
        }),
        point(
            "allowlist",
            "IP allowlist configured",
            "security.network.allowedIPs",
            allowlist(facts),
        ),
        point("audit", "Audit logging enabled", "security.audit", {
            let path = config.audit.path.display().to_string();
            let enabled = config.audit.enabled;
            (enabled, if enabled { path } else { "off".to_owned() })
        }),
        point(
            "secrets",
            "Secrets out of the file",
            "${VAR}, ${secret:NAME}, sha256:",
            {
                let inline = &config.literal_secrets;
                let evidence = if inline.is_empty() {
                    "none stands in it".to_owned()
                } else {
                    inline.join(", ")
                };
                (inline.is_empty(), evidence)
            },
        ),
    ]
}

fn encryption(facts: &Facts) -> (bool, String) {
    match (&facts.config.gateway.tls, &facts.certificate) {
        (None, _) => (false, "off".to_owned()),
        (Some(_), Some(Err(why))) => (false, why.clone()),
        (Some(_), Some(Ok(found))) if !found.fits_key => {
            (false, "the key is of another certificate".to_owned())
        }
        (Some(tls), Some(Ok(_))) => (true, tls.cert.display().to_string()),
        (Some(_), None) => (true, "an authority is asked at the first start".to_owned()),
    }
}

/// Commands are contained, and what changes the gateway itself is denied.
fn dangerous(facts: &Facts) -> (bool, String) {
    let contained = |tool: &&str| tools::contains(facts, tool);
    let open: Vec<&str> = ["exec", "process", "gateway"]
        .into_iter()
        .filter(|tool| tools::allows(facts, tool) && !contained(tool))
        .collect();
    let denied: Vec<&str> = facts
        .config
        .policy
        .tools
        .denied()
        .map(ToolSelector::as_str)
        .collect();
    match (open.is_empty(), denied.is_empty()) {
        (false, _) => (false, format!("allowed: {}", open.join(", "))),
        (true, true) => (true, "none is allowed".to_owned()),
        (true, false) => (true, format!("denied: {}", denied.join(", "))),
    }
}

fn allowlist(facts: &Facts) -> (bool, String) {
    let rules = facts.config.policy.addresses.rules().iter();
    let allowed: Vec<u8> = rules
        .filter(|rule| matches!(rule.rule, AddressRule::Allow { .. }))
        .map(|rule| rule.prefix.prefix_len())
        .collect();
    let ok = !allowed.is_empty() && !allowed.contains(&0);
    if ok {
        (true, counted(allowed.len(), "network"))
    } else {
        (false, "every address may connect".to_owned())
    }
}

fn counted(count: usize, what: &str) -> String {
    format!("{count} {what}{}", if count == 1 { "" } else { "s" })
}
