//! The gateway whole, in process: real sockets on loopback, a fake upstream that speaks the
//! gateway's protocol, and a fake supervisor at the other end of the socketpair.

mod answers;
mod bad_input;
mod canvas;
mod client;
mod drain;
mod failures;
mod fake_supervisor;
mod fake_upstream;
mod http;
mod http2;
mod limits;
mod listeners;
mod node;
mod own;
mod reuse;
mod routes;
mod slow;
mod timed;
mod tls;
mod ui;
mod websocket;

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr, TcpListener};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use serde_json::{Value, json};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use self::fake_supervisor::supervisor_answer;
use self::fake_upstream::FakeUpstream;
use super::auth::Presented;
use super::serve::{self, GatewayError};
use super::shared::Deadlines;
use crate::config::{
    AuditConfig, AuditOnFailure, BanConfig, Config, Fsync, GatewayConfig, KernelConfig, OnExit,
    SandboxConfig, SandboxProvider, TlsConfig, TlsVersion, UiAccess, Upstream, UpstreamAuth,
    XdpMode, certificate_digest,
};
use crate::event::{Event, EventKind, Outcome};
use crate::ipc::{self, OwnRole, OwnState, PolicyUpdate, TlsMaterial, ToGateway, ToSupervisor};
use crate::policy::{
    AddressPolicy, AddressRule, Credentials, PacketPolicy, People, Policy, PrefixRule,
    PrincipalSpec, RequestLimit, Scope, ToolRules, UnknownMethods, UserId,
};

pub(super) const ADMIN_KEY: &str = "admin-key-0123456789";
pub(super) const READ_KEY: &str = "read-key-0123456789ab";
/// Writes, and is bound to the agent `work`.
pub(super) const WORK_KEY: &str = "work-key-0123456789ab";
pub(super) const UPSTREAM_TOKEN: &str = "upstream-token-0123456789";

/// What a test changes about the policy.
#[derive(Clone)]
pub(super) struct Rules {
    pub(super) generation: u64,
    pub(super) allowed: &'static str,
    pub(super) keys: Vec<&'static str>,
    pub(super) requests: u32,
    pub(super) hosts: Vec<&'static str>,
    pub(super) tls: Option<TlsMaterial>,
    pub(super) upstream_port: Option<u16>,
    /// `{allowedIPs, bypass, proxyFrom}` of the one listener.
    pub(super) listen: Value,
    /// The upstream believes clawsec about who asks.
    pub(super) vouches: bool,
    /// A client certificate's public key that stands for the administrator.
    pub(super) certificate: Option<[u8; 32]>,
    pub(super) observe: bool,
    /// `gateway.ui: "open"`.
    pub(super) is_open: bool,
    /// The name of clawsec's node.
    pub(super) node: Option<&'static str>,
    /// `security.rateLimit.ban.after`.
    pub(super) ban_after: Option<u32>,
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
    fn policy(&self, upstream_port: u16) -> ToGateway {
        ToGateway::Policy(Box::new(self.update(upstream_port)))
    }

    fn update(&self, upstream_port: u16) -> PolicyUpdate {
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
fn compile(update: &PolicyUpdate) -> Result<Config, String> {
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
            path: PathBuf::new(),
            events: vec![EventKind::Message, EventKind::Tool],
            on_failure: AuditOnFailure::Continue,
            fsync: Fsync::Never,
            rotate_bytes: 0,
            rotate_keep: 0,
            interval: Duration::from_secs(1),
            chain_key: None,
        },
        warnings: Vec::new(),
        redacted_document: String::new(),
    })
}

/// A running gateway with its two neighbours.
pub(super) struct Rig {
    pub(super) address: SocketAddr,
    pub(super) upstream: FakeUpstream,
    pub(super) gateway: JoinHandle<Result<(), GatewayError>>,
    to_gateway: mpsc::Sender<ToGateway>,
    /// What the supervisor was told, events apart.
    told: mpsc::Receiver<ToSupervisor>,
    /// States of clawsec's own connections.
    own: mpsc::Receiver<(OwnRole, OwnState)>,
    events: Arc<Mutex<Vec<Event>>>,
}

impl Rig {
    pub(super) async fn start(rules: Rules) -> Self {
        Self::start_with(rules, Deadlines::default()).await
    }

    pub(super) async fn start_with(rules: Rules, deadlines: Deadlines) -> Self {
        Self::start_before(FakeUpstream::start().await, rules, deadlines).await
    }

    /// The same, before an upstream that was told what to do.
    async fn start_before(upstream: FakeUpstream, rules: Rules, deadlines: Deadlines) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let (ours, theirs) = UnixStream::pair().unwrap();
        let gateway = tokio::spawn(serve::run_with(vec![listener], theirs, compile, deadlines));

        ours.set_nonblocking(true).unwrap();
        let ours = tokio::net::UnixStream::from_std(ours).unwrap();
        let (mut reader, mut writer) = ipc::split::<ToSupervisor, ToGateway>(ours);
        let (to_gateway, mut outgoing) = mpsc::channel::<ToGateway>(16);
        let (tell, told) = mpsc::channel(1024);
        let (tell_own, own) = mpsc::channel(1024);
        let events: Arc<Mutex<Vec<Event>>> = Arc::default();
        tokio::spawn(async move {
            while let Some(message) = outgoing.recv().await {
                writer.send(&message).await.unwrap();
            }
        });
        let answers = to_gateway.clone();
        let seen = Arc::clone(&events);
        tokio::spawn(async move {
            while let Ok(message) = reader.receive().await {
                match message {
                    ToSupervisor::Event(event) => seen.lock().unwrap().push(*event),
                    // They come by the clock; what is counted has tests of its own.
                    ToSupervisor::Figures { .. } => {}
                    ToSupervisor::Tool { id, call } => {
                        if let Some(answer) = supervisor_answer(&call.command) {
                            let answer = ToGateway::Answer { id, answer };
                            answers.send(answer).await.unwrap();
                        }
                        tell.send(ToSupervisor::Tool { id, call }).await.unwrap();
                    }
                    ToSupervisor::Own { role, state } => {
                        tell_own.send((role, state)).await.unwrap();
                    }
                    message => {
                        if tell.send(message).await.is_err() {
                            return;
                        }
                    }
                }
            }
        });
        let mut rig = Self {
            address,
            upstream,
            gateway,
            to_gateway,
            told,
            own,
            events,
        };
        rig.install(rules).await;
        rig
    }

    /// Puts a policy in force and waits until it is.
    pub(super) async fn install(&mut self, rules: Rules) {
        let generation = rules.generation;
        self.send(rules.policy(self.upstream.port)).await;
        let answer = self.told().await;
        assert!(
            matches!(answer, ToSupervisor::Ready { generation: g } if g == generation),
            "{answer:?}"
        );
    }

    pub(super) async fn send(&self, message: ToGateway) {
        self.to_gateway.send(message).await.unwrap();
    }

    /// The next thing the supervisor is told that is not an event.
    pub(super) async fn told(&mut self) -> ToSupervisor {
        let told = tokio::time::timeout(Duration::from_secs(5), self.told.recv());
        told.await.expect("in time").expect("a message")
    }

    /// Every event so far with this action and reason.
    pub(super) fn seen(&self, action: &str, reason: &str) -> Vec<Event> {
        let events = self.events.lock().unwrap();
        let found = events
            .iter()
            .filter(|e| e.action == action && e.reason == reason);
        found.cloned().collect()
    }

    /// Waits for an event with this action, outcome and reason.
    pub(super) async fn event(&self, action: &str, outcome: Outcome, reason: &str) -> Event {
        let is_it = |event: &&Event| {
            event.action == action && event.outcome == outcome && event.reason == reason
        };
        self.event_where(is_it)
            .await
            .unwrap_or_else(|told| panic!("no {action} {outcome:?} {reason} in {told:#?}"))
    }

    /// Waits for an event with this action, reason and source.
    pub(super) async fn event_of(&self, action: &str, reason: &str, source: IpAddr) -> Event {
        let is_it = |event: &&Event| {
            event.action == action && event.reason == reason && event.source == Some(source)
        };
        self.event_where(is_it)
            .await
            .unwrap_or_else(|told| panic!("no {action} {reason} of {source} in {told:#?}"))
    }

    /// Waits until what happened is told as often as it did, and no more; the events.
    pub(super) async fn counted(&self, action: &str, reason: &str, count: u64) -> Vec<Event> {
        for _ in 0..500 {
            let events = self.seen(action, reason);
            let told: u64 = events.iter().map(|event| event.count).sum();
            assert!(told <= count, "{action} {reason}: {told} of {count}");
            if told == count {
                return events;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        panic!("less {action} {reason} than {count}");
    }

    /// Waits for an event; all there were, if it does not come.
    async fn event_where(&self, is_it: impl Fn(&&Event) -> bool) -> Result<Event, Vec<Event>> {
        for _ in 0..500 {
            if let Some(event) = self.events.lock().unwrap().iter().find(&is_it) {
                return Ok(event.clone());
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        Err(self.events.lock().unwrap().clone())
    }
}
