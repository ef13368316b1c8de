//! The policy of a test, and what stands for its compilation.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use serde_json::{Value, json};

use super::{ADMIN_KEY, READ_KEY, UPSTREAM_TOKEN, WORK_KEY, listeners};
use crate::config::{
    AuditConfig, BanConfig, Config, GatewayConfig, KernelConfig, OnExit, SandboxConfig,
    SandboxProvider, TlsConfig, TlsVersion, UiAccess, Upstream, UpstreamAuth, XdpMode,
    certificate_digest,
};
use crate::event::EventKind;
use crate::gateway::auth::Presented;
use crate::ipc::{PolicyUpdate, TlsMaterial, ToGateway};
use crate::policy::{
    AddressPolicy, AddressRule, Credentials, PacketPolicy, People, Policy, PrefixRule,
    PrincipalSpec, RequestLimit, Scope, ToolRules, UnknownMethods, UserId,
};

/// What a test changes about the policy.
#[derive(Clone)]
pub(in crate::gateway) struct Rules {
    pub(in crate::gateway) generation: u64,
    pub(in crate::gateway) allowed: &'static str,
    pub(in crate::gateway) keys: Vec<&'static str>,
    pub(in crate::gateway) requests: u32,
    pub(in crate::gateway) hosts: Vec<&'static str>,
    pub(in crate::gateway) tls: Option<TlsMaterial>,
    pub(in crate::gateway) upstream_port: Option<u16>,
    /// `{allowedIPs, bypass, proxyFrom}` of the one listener.
    pub(in crate::gateway) listen: Value,
    /// The upstream believes clawsec about who asks.
    pub(in crate::gateway) vouches: bool,
    /// A client certificate's public key that stands for the administrator.
    pub(in crate::gateway) certificate: Option<[u8; 32]>,
    pub(in crate::gateway) observe: bool,
    /// `gateway.ui: "open"`.
    pub(in crate::gateway) is_open: bool,
    /// The name of clawsec's node.
    pub(in crate::gateway) node: Option<&'static str>,
    /// `security.rateLimit.ban.after`.
    pub(in crate::gateway) ban_after: Option<u32>,
}

impl Default for Rules {
    fn default() -> Self {
        Self {
            generation: 1,
            allowed: "127.0.0.0/8",
            keys: vec![ADMIN_KEY, READ_KEY],
            requests: 1000,
            hosts: Vec::new(),
            tls: None,
            upstream_port: None,
            listen: Value::Null,
            vouches: false,
            certificate: None,
            observe: false,
            is_open: false,
            node: None,
            ban_after: None,
        }
    }
}

impl Rules {
    pub(in crate::gateway) fn policy(&self, upstream_port: u16) -> ToGateway {
        ToGateway::Policy(Box::new(self.update(upstream_port)))
    }

    pub(in crate::gateway) fn update(&self, upstream_port: u16) -> PolicyUpdate {
        let port = self.upstream_port.unwrap_or(upstream_port);
        PolicyUpdate {
            generation: self.generation,
            document: json!({
                "port": port, "allowed": self.allowed, "keys": self.keys,
                "requests": self.requests, "hosts": self.hosts, "tls": self.tls.is_some(),
                "listen": self.listen, "vouches": self.vouches, "certificate": self.certificate,
                "observe": self.observe, "node": self.node, "open": self.is_open,
                "banAfter": self.ban_after,
            })
            .to_string(),
            path: "test".into(),
            tls: self.tls.clone(),
            upstream_token: Some(UPSTREAM_TOKEN.into()),
            device_seeds: BTreeMap::from([
                ("admin".into(), [1; 32]),
                ("reader".into(), [2; 32]),
                ("work".into(), [3; 32]),
                (":observer".into(), [4; 32]),
                (":node".into(), [5; 32]),
            ]),
        }
    }
}

/// Stands for `config::compile`.
pub(in crate::gateway) fn compile(update: &PolicyUpdate) -> Result<Config, String> {
    let rules: Value = serde_json::from_str(&update.document).map_err(|e| e.to_string())?;
    let list = |key: &str| -> Vec<String> {
        let items = rules[key].as_array().into_iter().flatten();
        items
            .filter_map(|v| v.as_str().map(str::to_owned))
            .collect()
    };
    let allowed = rules["allowed"].as_str().unwrap_or_default();
    let prefix = allowed
        .parse()
        .map_err(|_invalid| format!("no prefix: {allowed}"))?;
    let spec = |key: &String| PrincipalSpec {
        id: match key.as_str() {
            ADMIN_KEY => "admin",
            WORK_KEY => "work",
            _ => "reader",
        }
        .into(),
        digest: Presented::new(key).digest(),
        path: format!("security.auth.tokens.{key:.4}"),
        scopes: vec![match key.as_str() {
            ADMIN_KEY => Scope::Admin,
            WORK_KEY => Scope::Write,
            _ => Scope::Read,
        }],
        user: None,
        groups: None,
        agents: (key == WORK_KEY).then(|| vec!["work".to_owned()]),
        tools: ToolRules::default(),
        not_before: None,
        not_after: None,
    };
    let certificate: Option<[u8; 32]> =
        serde_json::from_value(rules["certificate"].clone()).unwrap_or_default();
    let certified = certificate.map(|spki| PrincipalSpec {
        id: "laptop".into(),
        digest: certificate_digest(spki),
        ..spec(&ADMIN_KEY.to_owned())
    });
    let tools = |path, allow: &[&str], deny: &[&str]| {
        let owned = |names: &[&str]| names.iter().map(ToString::to_string).collect::<Vec<_>>();
        ToolRules::new(path, None, &owned(allow), &owned(deny)).ok_or("rules")
    };
    Ok(Config {
        path: PathBuf::from("test"),
        gateway: GatewayConfig {
            listen: listeners::listen(&rules["listen"]),
            upstream: Upstream {
                host: "127.0.0.1".into(),
                port: u16::try_from(rules["port"].as_u64().unwrap_or(0)).unwrap_or(0),
            },
            upstream_token: None,
            upstream_token_reference: None,
            upstream_auth: match rules["vouches"].as_bool() {
                Some(true) => UpstreamAuth::TrustedProxy,
                _ => UpstreamAuth::Token,
            },
            hosts: list("hosts"),
            origins: Vec::new(),
            unknown_methods: UnknownMethods::Admin,
            observe: rules["observe"] == true,
            max_connections: 4096,
            tls: (rules["tls"] == true).then(|| TlsConfig {
                cert: PathBuf::new(),
                key: PathBuf::new(),
                min_version: TlsVersion::Tls12,
                client_ca: None,
                acme: None,
            }),
            ui: if rules["open"] == true {
                UiAccess::Open
            } else {
                UiAccess::SignIn
            },
            admin_socket: PathBuf::new(),
            metrics: None,
        },
        policy: Policy {
            generation: 0,
            addresses: AddressPolicy::new(vec![PrefixRule {
                prefix,
                rule: AddressRule::Allow { class: 0 },
                path: "security.network.allowedIPs[0]".into(),
            }]),
            credentials: Credentials::new(list("keys").iter().map(spec).chain(certified)),
            people: People {
                users: Some(vec![UserId::new("+15551234567")]),
                groups: None,
            },
            tools: tools("tools", &[], &["browser"])?,
            sandboxed: tools("security.sandbox.tools", &["exec", "process"], &[])?,
            agents: Vec::new(),
            default_agent: "main".into(),
            unknown_methods: UnknownMethods::Admin,
            limit: RequestLimit {
                enabled: true,
                requests: u32::try_from(rules["requests"].as_u64().unwrap_or(0)).unwrap_or(0),
                window_ms: 60_000,
            },
        },
        packets: PacketPolicy::default(),
        kernel: KernelConfig {
            interfaces: Vec::new(),
            mode: XdpMode::Auto,
            on_exit: OnExit::Enforce,
            guard_upstream: true,
        },
        ban: rules["banAfter"].as_u64().map(|after| BanConfig {
            after: u32::try_from(after).unwrap_or(u32::MAX),
            duration: Duration::from_mins(1),
        }),
        sandbox: SandboxConfig {
            provider: SandboxProvider::None,
            timeout: Duration::from_secs(5),
            concurrency: 1,
            ..SandboxConfig::defaults(true)
        },
        node_host: rules["node"].as_str().map(str::to_owned),
        audit: AuditConfig {
            enabled: rules["observe"] == true,
            events: vec![EventKind::Message, EventKind::Tool],
            ..AuditConfig::at(PathBuf::new())
        },
        literal_secrets: Vec::new(),
        secret_files: Vec::new(),
        warnings: Vec::new(),
        redacted_document: String::new(),
    })
}
