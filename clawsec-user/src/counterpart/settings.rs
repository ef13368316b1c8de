//! What should stand in the gateway's file, setting by setting, in the order it is written.

use std::net::IpAddr;

use serde_json::{Map, Value, json};

use super::{Product, channels, tools};
use crate::config::{Config, UpstreamAuth};
use crate::policy::Agent;

/// One value of the gateway's file.
#[derive(Debug)]
pub(super) struct Setting {
    pub(super) path: Vec<String>,
    pub(super) value: Value,
    /// Why it stands there; a comment in the file.
    pub(super) why: Option<String>,
}

/// All of them, and what a person has to know besides.
#[derive(Debug, Default)]
pub(super) struct Settings {
    pub(super) list: Vec<Setting>,
    pub(super) notes: Vec<String>,
}

/// Something that this gateway cannot do.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum Unsupported {
    #[error(
        "clawdbot has no trusted-proxy mode: set gateway.upstreamAuth to \"token\", or use openclaw"
    )]
    TrustedProxy,
}

impl Settings {
    pub(super) fn put(&mut self, path: &str, value: Value, why: &str) {
        self.list.push(Setting {
            path: path.split('.').map(str::to_owned).collect(),
            value,
            why: (!why.is_empty()).then(|| why.to_owned()),
        });
    }

    fn note(&mut self, text: impl Into<String>) {
        self.notes.push(text.into());
    }
}

/// What the gateway's file should hold; `named` are channels to write besides those that ids tell.
pub(super) fn settings(
    product: Product,
    config: &Config,
    named: &[String],
) -> Result<Settings, Unsupported> {
    let mut settings = Settings::default();
    gateway(product, config, &mut settings)?;
    channels::settings(product, &config.policy.people, named, &mut settings);
    if people_differ(config) {
        let why = "one conversation for each person, not one for all";
        settings.put("session.dmScope", json!("per-channel-peer"), why);
    }
    tools::settings(product, config, &mut settings);
    exec(product, config, &mut settings);
    agents(product, config, &mut settings);
    Ok(settings)
}

fn gateway(product: Product, config: &Config, settings: &mut Settings) -> Result<(), Unsupported> {
    let upstream = &config.gateway.upstream;
    settings.put("gateway.mode", json!("local"), "");
    if let Some(addresses) = loopback(&upstream.host) {
        let why = "nobody reaches it but by clawsec";
        settings.put("gateway.bind", json!("loopback"), why);
        settings.put("gateway.port", json!(upstream.port), "gateway.upstream");
        if config.gateway.upstream_auth == UpstreamAuth::TrustedProxy {
            let why = "clawsec says who asks, and from where";
            settings.put("gateway.trustedProxies", json!(addresses), why);
        }
    } else {
        settings.put("gateway.port", json!(upstream.port), "gateway.upstream");
        settings.note(format!(
            "The gateway stands on another host ({}): bind it to an address that clawsec alone reaches.",
            upstream.authority()
        ));
    }
    match config.gateway.upstream_auth {
        UpstreamAuth::Token => token(product, config, settings),
        UpstreamAuth::TrustedProxy if product == Product::Clawdbot => {
            return Err(Unsupported::TrustedProxy);
        }
        UpstreamAuth::TrustedProxy => {
            let mut users: Vec<&str> = config.policy.credentials.ids().collect();
            users.sort_unstable();
            settings.put(
                "gateway.auth.mode",
                json!("trusted-proxy"),
                "gateway.upstreamAuth",
            );
            let proxy = json!({
                "userHeader": "x-forwarded-user", "allowLoopback": true, "allowUsers": users,
            });
            settings.put(
                "gateway.auth.trustedProxy",
                proxy,
                "the ids of clawsec's keys",
            );
            settings.note(
                "Approve each key's first WebSocket connection once: openclaw devices approve. \
                 That needs gateway.auth.password on the gateway's own host.",
            );
        }
    }
    Ok(())
}

/// The addresses that clawsec connects from, where the gateway is on this host.
pub(super) fn loopback(host: &str) -> Option<Vec<&'static str>> {
    match host.parse::<IpAddr>() {
        Ok(IpAddr::V4(ip)) if ip.is_loopback() || ip.is_unspecified() => Some(vec!["127.0.0.1"]),
        Ok(IpAddr::V6(ip)) if ip.is_loopback() || ip.is_unspecified() => Some(vec!["::1"]),
        Err(_) if host == "localhost" => Some(vec!["127.0.0.1", "::1"]),
        _ => None,
    }
}

fn token(product: Product, config: &Config, settings: &mut Settings) {
    settings.put("gateway.auth.mode", json!("token"), "");
    let reference = config.gateway.upstream_token_reference.as_deref();
    // The gateway knows `${VAR}`, and no provider of clawsec's.
    let whole = reference.filter(|text| {
        let name = text
            .strip_prefix("${")
            .and_then(|rest| rest.strip_suffix('}'));
        name.is_some_and(|name| !name.contains(['$', '{', '}', ':']))
    });
    let variable = product.token_variable();
    let (text, why) = match whole {
        Some(text) => (
            text.to_owned(),
            "gateway.upstreamToken: clients never learn it".to_owned(),
        ),
        None => (
            format!("${{{variable}}}"),
            format!(
                "set {variable} to the token that clawsec shows (gateway.upstreamToken): clients never learn it"
            ),
        ),
    };
    settings.put("gateway.auth.token", json!(text), &why);
}

/// Whether more than one person may write.
fn people_differ(config: &Config) -> bool {
    config
        .policy
        .people
        .users
        .as_ref()
        .is_none_or(|users| users.len() > 1)
}

fn exec(product: Product, config: &Config, settings: &mut Settings) {
    let Some(node) = &config.node_host else {
        if config.sandbox.enabled {
            settings.note(
                "security.sandbox.nodeHost is not set: what the agent itself executes runs on the \
                 gateway's host.",
            );
        }
        return;
    };
    let why = "commands run on clawsec's node, in its sandbox, or not at all";
    settings.put("tools.exec.host", json!("node"), why);
    settings.put("tools.exec.node", json!(node), "");
    let why = "clawsec decides; nobody is asked a second time";
    match product {
        Product::Clawdbot => {
            settings.put("tools.exec.security", json!("full"), why);
            settings.put("tools.exec.ask", json!("off"), "");
        }
        Product::Openclaw => settings.put("tools.exec.mode", json!("full"), why),
    }
    let why = "no way around the sandbox by a chat command";
    settings.put("tools.elevated.enabled", json!(false), why);
}

fn agents(product: Product, config: &Config, settings: &mut Settings) {
    let policy = &config.policy;
    if policy.agents.is_empty() {
        return;
    }
    let isolated = policy.credentials.bind_agents();
    let mut list = Vec::new();
    let knows_default = policy
        .agents
        .iter()
        .any(|agent| agent.id == policy.default_agent);
    if !knows_default {
        // Without it the first of the list would be the default agent.
        list.push(json!({ "id": policy.default_agent, "default": true }));
    }
    let entries = policy.agents.iter();
    list.extend(entries.map(|agent| entry(product, agent, &policy.default_agent, isolated)));
    if isolated {
        let why = "agents do not speak to one another";
        settings.put("tools.agentToAgent.enabled", json!(false), why);
    }
    if config.sandbox.enabled {
        let why = "the gateway's own sandbox needs docker's socket, which is root for the agent it contains";
        settings.put("agents.defaults.sandbox.mode", json!("off"), why);
    }
    let why = match (isolated, product) {
        (false, _) => "each with its own workspace, sessions and tools",
        (true, Product::Openclaw) => "file tools stay in the agent's own workspace",
        (true, Product::Clawdbot) => {
            "file tools reach the whole host in clawdbot, so that isolated agents have none"
        }
    };
    settings.put("agents.list", Value::Array(list), why);
}

fn entry(product: Product, agent: &Agent, default: &str, isolated: bool) -> Value {
    let mut entry = Map::new();
    entry.insert("id".into(), json!(agent.id));
    if agent.id == default {
        entry.insert("default".into(), json!(true));
    }
    if let Some(workspace) = &agent.workspace {
        entry.insert("workspace".into(), json!(workspace));
    }
    let mut rules = tools::lists(product, &agent.tools);
    if isolated {
        match product {
            Product::Openclaw => {
                rules.insert("fs".into(), json!({ "workspaceOnly": true }));
            }
            Product::Clawdbot => {
                let deny = rules.entry("deny").or_insert_with(|| json!([]));
                if let Some(deny) = deny.as_array_mut()
                    && !deny.contains(&json!("group:fs"))
                {
                    deny.push(json!("group:fs"));
                }
            }
        }
    }
    if !rules.is_empty() {
        entry.insert("tools".into(), Value::Object(rules));
    }
    Value::Object(entry)
}
