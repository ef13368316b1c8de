//! Where the gateway's own file does not say what clawsec's configuration asks of it.
//!
//! Stricter than asked is no drift. What stands behind a reference (`${VAR}`) is not judged.

mod agents;
mod channels;

use serde_json::{Value, json};

use super::settings::{self, Settings, Unsupported};
use super::{Product, tools};
use crate::config::{Config, UpstreamAuth};

/// How much it matters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Severity {
    /// Something gets around clawsec.
    Critical,
    Warn,
    /// Good to know; nothing is wrong.
    Info,
}

impl Severity {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Critical => "critical",
            Self::Warn => "warn",
            Self::Info => "info",
        }
    }
}

/// One key that differs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Drift {
    /// `gateway.drift.` and the path without names, such as `gateway.drift.channels.*.allowFrom`.
    pub id: String,
    /// The path in the gateway's file.
    pub path: String,
    pub severity: Severity,
    pub detail: String,
    pub remediation: String,
}

/// Compares the gateway's file with clawsec's configuration.
///
/// # Errors
/// Where this gateway cannot do what clawsec's configuration asks for.
pub fn drift(product: Product, config: &Config, found: &Value) -> Result<Vec<Drift>, Unsupported> {
    let wanted = settings::settings(product, config, &[])?;
    let mut comparison = Comparison {
        product,
        config,
        found,
        wanted,
        drifts: Vec::new(),
    };
    comparison.gateway();
    comparison.tools();
    comparison.channels();
    comparison.agents();
    Ok(comparison.drifts)
}

struct Comparison<'a> {
    product: Product,
    config: &'a Config,
    found: &'a Value,
    wanted: Settings,
    drifts: Vec<Drift>,
}

impl<'a> Comparison<'a> {
    fn at(&self, path: &str) -> Option<&'a Value> {
        at(self.found, path)
    }

    fn wanted(&self, path: &str) -> Option<&Value> {
        let is_it = |setting: &&settings::Setting| setting.path.join(".") == path;
        self.wanted
            .list
            .iter()
            .find(is_it)
            .map(|setting| &setting.value)
    }

    fn add(&mut self, severity: Severity, id: &str, path: &str, detail: String, remedy: String) {
        self.drifts.push(Drift {
            id: format!("gateway.drift.{id}"),
            path: path.to_owned(),
            severity,
            detail,
            remediation: remedy,
        });
    }

    /// One value that has to be as wanted, if one is wanted; `default` is what a key that is left
    /// out means.
    fn same(&mut self, severity: Severity, path: &str, default: &Value, why: &str) {
        let Some(wanted) = self.wanted(path).cloned() else {
            return;
        };
        let found = self.at(path).unwrap_or(default);
        if *found == wanted || is_reference(found) {
            return;
        }
        let detail = format!("{}, should be {wanted}: {why}", says(self.at(path)));
        self.add(
            severity,
            path,
            path,
            detail,
            format!("set {path} to {wanted}"),
        );
    }

    fn gateway(&mut self) {
        use Severity::{Critical, Warn};
        if self.at("$include").is_some() {
            let detail = "clawsec does not follow $include: what stands in the other file is not \
                          compared";
            let remedy = "compare the merged file, or write the sections here";
            self.add(
                Warn,
                "include",
                "$include",
                detail.to_owned(),
                remedy.to_owned(),
            );
        }
        self.same(
            Warn,
            "gateway.mode",
            &json!("local"),
            "it serves no one otherwise",
        );
        let why = "whoever reaches its port passes clawsec by";
        self.same(Critical, "gateway.bind", &json!("loopback"), why);
        let why = "clawsec speaks to another port";
        self.same(Warn, "gateway.port", &json!(18789), why);
        let why = "anybody on this host is let in";
        let severity = match self.at("gateway.auth.mode").and_then(Value::as_str) {
            Some("none") => Critical,
            _ => Warn,
        };
        let why = if severity == Critical {
            why
        } else {
            "clawsec shows another credential"
        };
        self.same(severity, "gateway.auth.mode", &json!("token"), why);
        self.token();
        self.proxies();
        if self.at("gateway.tls.enabled") == Some(&json!(true)) {
            let detail = "on: clawsec speaks plain HTTP to its upstream".to_owned();
            let path = "gateway.tls.enabled";
            self.add(Warn, path, path, detail, format!("set {path} to false"));
        }
        if let Some(mode @ ("serve" | "funnel")) =
            self.at("gateway.tailscale.mode").and_then(Value::as_str)
        {
            let detail = format!("{mode:?}: it is reached past clawsec");
            let path = "gateway.tailscale.mode";
            let remedy = "set it to \"off\", and let tailscale serve clawsec's port";
            self.add(Critical, path, path, detail, remedy.to_owned());
        }
        if self.wanted("session.dmScope").is_some() {
            let path = "session.dmScope";
            let scope = self.at(path).and_then(Value::as_str).unwrap_or("main");
            if scope == "main" {
                let detail = "\"main\": all people share one conversation".to_owned();
                let remedy = format!("set {path} to \"per-channel-peer\"");
                self.add(Warn, path, path, detail, remedy);
            }
        }
    }

    /// The token, where both files have it in clear or both by reference. No text of it is shown.
    fn token(&mut self) {
        let path = "gateway.auth.token";
        let Some(found) = self.at(path).and_then(Value::as_str) else {
            return;
        };
        let gateway = &self.config.gateway;
        if gateway.upstream_auth == UpstreamAuth::TrustedProxy {
            let detail = "a token beside the trusted-proxy mode".to_owned();
            self.add(Severity::Warn, path, path, detail, format!("remove {path}"));
            return;
        }
        let clear = gateway
            .upstream_token
            .as_ref()
            .map(crate::config::Secret::reveal);
        if !found.contains("${") && clear.is_some_and(|token| token != found) {
            let detail = "not the token that clawsec shows".to_owned();
            let remedy = "write the same reference in both files".to_owned();
            self.add(Severity::Warn, path, path, detail, remedy);
        }
    }

    fn proxies(&mut self) {
        let path = "gateway.trustedProxies";
        let found: Vec<&str> = texts(self.at(path)).collect();
        let wanted = self.wanted(path).cloned();
        let wanted: Vec<&str> = texts(wanted.as_ref()).collect();
        let missing: Vec<&str> = difference(&wanted, &found);
        if !missing.is_empty() {
            let detail = format!("lacks {}: who asks is not believed", missing.join(", "));
            let remedy = format!("set {path} to {}", json!(wanted));
            self.add(Severity::Warn, path, path, detail, remedy);
        }
        let more: Vec<&str> = difference(&found, &wanted);
        if !more.is_empty() {
            let detail = format!(
                "{} may claim any client's address; clawsec sends no such claim from there",
                more.join(", ")
            );
            let remedy = format!("take {} out of {path}", more.join(", "));
            self.add(Severity::Warn, path, path, detail, remedy);
        }
        let path = "gateway.auth.trustedProxy";
        if let Some(wanted) = self.wanted(path).cloned() {
            for key in ["userHeader", "allowLoopback"] {
                let (found, path) = (self.at(&format!("{path}.{key}")), format!("{path}.{key}"));
                if found != wanted.get(key) {
                    let wanted = wanted.get(key).unwrap_or(&Value::Null);
                    let detail = format!("{}, should be {wanted}", says(found));
                    let remedy = format!("set {path} to {wanted}");
                    self.add(Severity::Critical, &path, &path, detail, remedy);
                }
            }
            let users = format!("{path}.allowUsers");
            let found: Vec<&str> = texts(self.at(&users)).collect();
            let wanted: Vec<&str> = texts(wanted.get("allowUsers")).collect();
            let (missing, more) = (difference(&wanted, &found), difference(&found, &wanted));
            // An empty list admits every name.
            if !(found.is_empty() || missing.is_empty() && more.is_empty()) {
                let detail = format!(
                    "lacks [{}], has [{}] besides",
                    missing.join(", "),
                    more.join(", ")
                );
                let remedy = format!("set {users} to {}", json!(wanted));
                self.add(Severity::Warn, &users, &users, detail, remedy);
            }
        }
    }

    fn tools(&mut self) {
        let theirs = tools::read(self.at("tools"));
        let ours = &self.config.policy.tools;
        for (list, tools) in tools::let_through(self.product, ours, &[&theirs]) {
            self.tools_drift(&format!("tools.{list}"), &format!("tools.{list}"), &tools);
        }
        let why = "commands run outside clawsec's sandbox";
        self.same(Severity::Critical, "tools.exec.host", &Value::Null, why);
        let why = "commands run on another node, outside clawsec's sandbox";
        self.same(Severity::Critical, "tools.exec.node", &Value::Null, why);
        let why = "commands that clawsec allows are refused or asked about there";
        for (path, default) in [("mode", ""), ("security", "deny"), ("ask", "on-miss")] {
            self.same(
                Severity::Warn,
                &format!("tools.exec.{path}"),
                &json!(default),
                why,
            );
        }
        self.elevated("tools", "tools");
        let why = "agents speak to one another";
        self.same(
            Severity::Critical,
            "tools.agentToAgent.enabled",
            &json!(false),
            why,
        );
    }

    fn tools_drift(&mut self, id: &str, path: &str, tools: &[String]) {
        let shown: Vec<&str> = tools.iter().take(8).map(String::as_str).collect();
        let more = match tools.len().saturating_sub(shown.len()) {
            0 => String::new(),
            more => format!(" and {more} more"),
        };
        let detail = format!(
            "lets through what clawsec denies: {}{more}",
            shown.join(", ")
        );
        let remedy = format!("deny them in {path} as clawsec's own file does");
        self.add(Severity::Critical, id, path, detail, remedy);
    }

    /// `elevated` runs commands on the host for whom it lists.
    fn elevated(&mut self, id: &str, path: &str) {
        if self.config.node_host.is_none() {
            return;
        }
        let section = format!("{path}.elevated");
        let off = self.at(&format!("{section}.enabled")) == Some(&json!(false));
        let listed = self
            .at(&format!("{section}.allowFrom"))
            .and_then(Value::as_object);
        let listed = listed.is_some_and(|listed| !listed.is_empty());
        if listed && !off {
            let detail = "lets some people run commands on the host itself".to_owned();
            let remedy = format!("set {section}.enabled to false");
            let id = format!("{id}.elevated.enabled");
            self.add(
                Severity::Critical,
                &id,
                &format!("{section}.enabled"),
                detail,
                remedy,
            );
        }
    }
}

pub(super) fn at<'a>(value: &'a Value, path: &str) -> Option<&'a Value> {
    path.split('.').try_fold(value, |value, key| value.get(key))
}

fn is_reference(value: &Value) -> bool {
    value.as_str().is_some_and(|text| text.contains("${"))
}

fn says(found: Option<&Value>) -> String {
    found.map_or_else(|| "left out".to_owned(), Value::to_string)
}

fn texts(list: Option<&Value>) -> impl Iterator<Item = &str> {
    let list = list.and_then(Value::as_array);
    list.into_iter().flatten().filter_map(Value::as_str)
}

fn difference<'a>(of: &[&'a str], without: &[&str]) -> Vec<&'a str> {
    of.iter()
        .filter(|text| !without.contains(text))
        .copied()
        .collect()
}
