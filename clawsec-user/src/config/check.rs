//! Schema to policy, section by section, in the order an operator reads the manual.
//!
//! Invariant: where the file is silent, the answer is never an open one. A reader that finds a
//! problem reports it and goes on with a default; `Report::finish` then throws the result away.

mod acme;
mod admin;
mod agents;
mod audit;
mod auth;
pub use auth::certificate_digest;
pub use gateway::is_local;
mod gateway;
mod network;
mod outlet;
mod sandbox;
#[cfg(test)]
mod tests;
mod tls;

use std::collections::HashSet;
use std::path::PathBuf;
use std::time::Duration;

use ipnet::IpNet;

use self::network::Network;
use super::audit::AuditConfig;
use super::model::{BanConfig, GatewayConfig, KernelConfig, Listen, SandboxConfig};
use super::reader::{Field, Section};
use crate::policy::{
    AddressPolicy, Credentials, GroupId, PacketPolicy, PacketRule, People, Policy, PrincipalSpec,
    RateClass, RequestLimit, ToolRules, ToolSelector, UserId,
};

/// Everything the document says.
pub(super) struct Checked {
    pub(super) gateway: GatewayConfig,
    pub(super) policy: Policy,
    pub(super) packets: PacketPolicy,
    pub(super) kernel: KernelConfig,
    pub(super) ban: Option<BanConfig>,
    pub(super) sandbox: SandboxConfig,
    pub(super) node_host: Option<String>,
    pub(super) audit: AuditConfig,
}

/// Reads the whole document.
pub(super) fn document(root: &mut Section<'_, '_>) -> Checked {
    let gateway = root.at("gateway").section(gateway::read);
    let mut security = root.at("security").section(security);
    let tools = root.at("tools").section(tools);
    let asks = gateway
        .tls
        .as_ref()
        .is_some_and(|tls| tls.client_ca.is_some());
    for (path, offset) in security.certificates.iter().filter(|_| !asks) {
        let message = "needs `gateway.tls.clientCa`: no certificate is asked for";
        root.report.problem(*offset, path, message);
    }
    // Read by `secrets` before substitution; asked for here so that it is known.
    root.at("secrets");
    let mut principals = security.principals;
    let agents = root
        .at("agents")
        .section(|agents| agents::read(agents, &mut principals, &mut security.sandbox));

    let Network { kernel, .. } = security.network;
    let mut tcp_ports = security.network.tcp_ports;
    let public = gateway
        .listen
        .iter()
        .filter(|listen| !listen.address.ip().is_loopback());
    tcp_ports.extend(public.map(|listen| listen.address.port()));
    let metrics = gateway.metrics.map(|metrics| metrics.address);
    tcp_ports.extend(metrics.filter(|a| !a.ip().is_loopback()).map(|a| a.port()));
    tcp_ports.sort_unstable();
    tcp_ports.dedup();
    let own = |port: u16| {
        gateway
            .listen
            .iter()
            .any(|listen| listen.address.port() == port)
    };
    let guarded = kernel.guard_upstream && is_local(&gateway.upstream);
    let guarded_tcp_ports = match gateway.upstream.port {
        port if guarded && !own(port) => vec![port],
        _ => Vec::new(),
    };

    let addresses = AddressPolicy::new(security.network.rules);
    let mut prefixes = addresses.packet_rules();
    widen(
        root,
        &gateway.listen,
        &tcp_ports,
        &security.network.udp_ports,
        &mut prefixes,
    );
    let packets = PacketPolicy {
        generation: 0,
        prefixes,
        classes: security.network.classes,
        tcp_ports,
        udp_ports: security.network.udp_ports,
        guarded_tcp_ports,
        observe: security.network.observe,
        drop_fragments: security.network.drop_fragments,
        packet_ceiling: security.packet_ceiling,
    };
    let policy = Policy {
        generation: 0,
        addresses,
        credentials: Credentials::new(principals),
        people: security.people,
        tools,
        sandboxed: security.sandboxed,
        agents: agents.list,
        default_agent: agents.default,
        unknown_methods: gateway.unknown_methods,
        limit: security.limit,
    };
    Checked {
        gateway,
        policy,
        packets,
        kernel,
        ban: security.ban,
        sandbox: security.sandbox,
        node_host: security.node_host,
        audit: security.audit,
    }
}

/// Admits at the network card whom a listener of its own rules admits.
///
/// The packet plane has one list for all protected ports, so it gets the union, and the check at
/// accept is exact for each listener. A protected port that is not clawsec's has no such check.
fn widen(
    root: &mut Section<'_, '_>,
    listen: &[Listen],
    tcp_ports: &[u16],
    udp_ports: &[u16],
    prefixes: &mut Vec<(IpNet, PacketRule)>,
) {
    let is_own = |port: &u16| listen.iter().any(|entry| entry.address.port() == *port);
    let foreign = tcp_ports
        .iter()
        .find(|port| !is_own(port))
        .or(udp_ports.first());
    let known: HashSet<IpNet> = prefixes.iter().map(|(prefix, _)| *prefix).collect();
    let mut added = HashSet::new();
    for entry in listen
        .iter()
        .filter(|entry| !entry.address.ip().is_loopback())
    {
        let own = entry.allowed.iter().flatten().chain(&entry.proxy_from);
        let new: Vec<IpNet> = own
            .map(IpNet::trunc)
            .filter(|prefix| !known.contains(prefix))
            .collect();
        if let (Some(prefix), Some(port)) = (new.first(), foreign) {
            let message = format!(
                "admits {prefix} at every protected port, and nothing but the packet filter guards \
                 {port} of `security.network.ports`; leave out one of the two"
            );
            let place = root
                .at("gateway")
                .section(|gateway| gateway.at("listen").offset());
            root.report.problem(place, &entry.path, message);
        }
        added.extend(new);
    }
    let mut added: Vec<IpNet> = added.into_iter().collect();
    added.sort_unstable();
    prefixes.extend(
        added
            .into_iter()
            .map(|prefix| (prefix, PacketRule::Allow { class: 0 })),
    );
}

/// What `security` says.
struct Security {
    principals: Vec<PrincipalSpec>,
    /// Where a client certificate is named.
    certificates: Vec<(String, usize)>,
    network: Network,
    limit: RequestLimit,
    packet_ceiling: Option<RateClass>,
    ban: Option<BanConfig>,
    sandbox: SandboxConfig,
    sandboxed: ToolRules,
    node_host: Option<String>,
    people: People,
    audit: AuditConfig,
}

fn security(section: &mut Section<'_, '_>) -> Security {
    let auth::Auth { principals, certificates } = section
        .at("auth")
        .required("{ type: \"apiKey\", key } or { type: \"token\", tokens }: clawsec does not start without a key")
        .object(auth::read)
        .unwrap_or_default();
    let rate = section.at("rateLimit").section(rate_limit);
    let network = section
        .at("network")
        .section(|network| network::read(network, rate.connections));
    let (sandbox, sandboxed, node_host) = sandbox::read(section.at("sandbox"));
    let people = People {
        users: section
            .at("users")
            .section(allow_list)
            .map(|names| names.iter().map(|name| UserId::new(name)).collect()),
        groups: section
            .at("groups")
            .section(allow_list)
            .map(|names| names.iter().map(|name| GroupId::new(name)).collect()),
    };
    Security {
        principals,
        certificates,
        network,
        limit: rate.limit,
        packet_ceiling: rate.packet_ceiling,
        ban: rate.ban,
        sandbox,
        sandboxed,
        node_host,
        people,
        audit: section.at("audit").section(audit::read),
    }
}

/// What `security.rateLimit` says.
struct Rate {
    limit: RequestLimit,
    packet_ceiling: Option<RateClass>,
    /// The packet plane's default class.
    connections: RateClass,
    ban: Option<BanConfig>,
}

fn rate_limit(section: &mut Section<'_, '_>) -> Rate {
    let enabled = section.at("enabled").boolean().unwrap_or(true);
    if !enabled {
        section
            .at("enabled")
            .warn("no limit on requests or connections");
    }
    let requests = section.at("requests").small(COUNT).unwrap_or(60);
    let window_ms = section
        .at("window")
        .millis_number(WINDOW_MS)
        .unwrap_or(60_000);
    // A client opens a connection for its page and one for its socket; 60 requests need 120.
    let connections = section
        .at("connections")
        .small(COUNT)
        .unwrap_or(requests.saturating_mul(2));
    let packets = section.at("packets").small(COUNT);
    if let Some(packets) = packets
        && packets < connections.saturating_mul(PACKETS_PER_CONNECTION)
    {
        section
            .at("packets")
            .warn("one connection takes about ten packets: this is the stricter limit");
    }
    let ban = section.at("ban").object(|ban| BanConfig {
        after: ban
            .at("after")
            .required("a whole number")
            .small(COUNT)
            .unwrap_or(1),
        duration: ban
            .at("for")
            .required("milliseconds")
            .millis(1_000..=2_592_000_000)
            .unwrap_or(Duration::from_mins(1)),
    });
    Rate {
        limit: RequestLimit {
            enabled,
            requests,
            window_ms,
        },
        connections: RateClass {
            burst: if enabled { connections } else { 0 },
            per_window: connections,
            window_ms,
        },
        packet_ceiling: packets.filter(|_| enabled).map(|packets| RateClass {
            burst: packets,
            per_window: packets,
            window_ms,
        }),
        ban,
    }
}

/// `users` and `groups`: a list that is left out admits everybody, an empty one nobody.
fn allow_list(section: &mut Section<'_, '_>) -> Option<Vec<String>> {
    let names = section.at("allowList").texts()?;
    if names.is_empty() {
        section
            .at("allowList")
            .warn("an empty list admits nobody; leave it out to admit everybody");
    }
    Some(names)
}

/// `tools`, of the document, of an agent or of a token.
fn tools(section: &mut Section<'_, '_>) -> ToolRules {
    let profile = section.at("profile").choice(PROFILES);
    let allow = section.at("allow").list(selector).unwrap_or_default();
    let deny = section.at("deny").list(selector).unwrap_or_default();
    ToolRules::new(section.path(), profile, &allow, &deny).unwrap_or_default()
}

/// A tool's name, a `group:` or a pattern with `*`.
fn selector(field: Field<'_, '_>) -> Option<String> {
    field.text_or_warning(|text| {
        let known = ToolSelector::parse(text).is_known();
        (!known).then(|| format!("{text:?} is no group that clawsec knows, and matches nothing"))
    })
}

/// Where `${secret:NAME}` is looked up.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Provider {
    /// The variable `<prefix>NAME`.
    Environment { prefix: String },
    /// The file `NAME` in this folder, as systemd and docker leave credentials.
    Files { dir: PathBuf },
}

/// Reads `secrets`; `None` if it is not valid.
pub(super) fn secrets(field: Field<'_, '_>) -> Option<Provider> {
    field.section(|section| {
        let kind = section.at("provider");
        let given = kind.is_present();
        let kind = kind.choice(&[("env", Kind::Env), ("file", Kind::File)]);
        let prefix = section
            .at("prefix")
            .parsed("the beginning of a variable's name", |text| {
                let plain = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
                if text.bytes().all(plain) {
                    Ok(text.to_owned())
                } else {
                    Err(None)
                }
            });
        match kind {
            Some(Kind::File) => {
                if section.has("prefix") {
                    section
                        .at("prefix")
                        .problem("belongs to the provider \"env\"");
                }
                let dir = section
                    .at("dir")
                    .required("the folder of the secrets' files")
                    .file()?;
                Some(Provider::Files { dir })
            }
            None if given => {
                section.at("dir");
                None
            }
            Some(Kind::Env) | None => {
                if section.at("dir").is_present() {
                    section
                        .at("dir")
                        .problem("belongs to the provider \"file\"");
                }
                let prefix = prefix.unwrap_or_else(|| "CLAWDBOT_SECRET_".to_owned());
                Some(Provider::Environment { prefix })
            }
        }
    })
}

#[derive(Clone, Copy)]
enum Kind {
    Env,
    File,
}

/// Requests or connections in one window.
/// A handshake, TLS, one exchange and an end.
const PACKETS_PER_CONNECTION: u32 = 10;
const COUNT: std::ops::RangeInclusive<u32> = 1..=1_000_000;

/// A tenth of a second to a day.
const WINDOW_MS: std::ops::RangeInclusive<u64> = 100..=86_400_000;

const PROFILES: &[(&str, &str)] = &[
    ("minimal", "minimal"),
    ("coding", "coding"),
    ("messaging", "messaging"),
    ("full", "full"),
];
