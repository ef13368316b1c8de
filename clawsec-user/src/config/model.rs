//! The checked configuration: what the rest of the daemon is given.

use std::collections::BTreeMap;
use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use ipnet::IpNet;
use zeroize::Zeroizing;

use super::audit::AuditConfig;
use crate::policy::{KeyDigest, PacketPolicy, Policy, UnknownMethods};

/// One configuration, whole and valid.
#[derive(Debug, Clone)]
pub struct Config {
    pub path: PathBuf,
    pub gateway: GatewayConfig,
    /// Generation 0; the supervisor numbers it when it puts it in force.
    pub policy: Policy,
    pub packets: PacketPolicy,
    pub kernel: KernelConfig,
    pub ban: Option<BanConfig>,
    pub sandbox: SandboxConfig,
    /// What clawsec is called as a node of the protected gateway; `None` where it is none.
    pub node_host: Option<String>,
    pub audit: AuditConfig,
    /// Paths of secrets that stand in the file in so many words; a client's key as `sha256:` does not.
    pub literal_secrets: Vec<String>,
    /// Files that `${secret:NAME}` was looked up in.
    pub secret_files: Vec<PathBuf>,
    /// What works but should not stay; printed by `check` and at start.
    pub warnings: Vec<Warning>,
    /// The document after substitution as JSON, with each client secret as `sha256:<hex>` and the
    /// upstream token and audit chain key left out: `compile` of it gives the same policy. It is
    /// what the gateway process is sent.
    pub redacted_document: String,
}

impl Config {
    /// Gives the policy its number, in both planes.
    pub fn number(&mut self, generation: u64) {
        self.policy.generation = generation;
        self.packets.generation = generation;
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Warning {
    /// Such as `security.auth.tokens[0]`.
    pub path: String,
    pub message: String,
}

#[derive(Debug, Clone)]
pub struct GatewayConfig {
    pub listen: Vec<Listen>,
    pub upstream: Upstream,
    pub upstream_token: Option<Secret>,
    /// The same as the file has it, where it stands there by reference: `${VAR}`.
    pub upstream_token_reference: Option<String>,
    pub upstream_auth: UpstreamAuth,
    /// Lower case; empty accepts any.
    pub hosts: Vec<String>,
    pub origins: Vec<String>,
    /// Copied into the policy.
    pub unknown_methods: UnknownMethods,
    /// Records what reaches the gateway past clawsec, from the gateway's own events.
    pub observe: bool,
    /// That clients may have open at once.
    pub max_connections: u32,
    pub tls: Option<TlsConfig>,
    pub ui: UiAccess,
    pub admin_socket: PathBuf,
    /// Where figures are served over the network; the admin socket serves them always.
    pub metrics: Option<MetricsConfig>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MetricsConfig {
    pub address: SocketAddr,
    /// Opens the page, and everything else where `address` is not a loopback one.
    pub token: Option<KeyDigest>,
}

/// How a browser, which sends no key for a page's assets, gets at the Control UI's pages.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum UiAccess {
    /// By a key on clawsec's own sign-in page, and a cookie after that.
    #[default]
    SignIn,
    /// Every allowed address may read what is the same for everybody.
    Open,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listen {
    pub address: SocketAddr,
    /// The configuration path, such as `gateway.listen[0]`.
    pub path: String,
    /// Who may connect here, in place of `security.network.allowedIPs`.
    pub allowed: Option<Vec<IpNet>>,
    /// Webhook paths that need no key of clawsec's: exact, POST only.
    pub bypass: Vec<String>,
    /// Proxies that are believed about whom they speak for.
    pub proxy_from: Vec<IpNet>,
}

impl Listen {
    /// An address without rules of its own.
    pub fn plain(address: SocketAddr) -> Self {
        Self {
            address,
            path: "gateway.listen".to_owned(),
            allowed: None,
            bypass: Vec::new(),
            proxy_from: Vec::new(),
        }
    }

    pub fn is_proxy(&self, source: IpAddr) -> bool {
        holds(&self.proxy_from, source)
    }
}

/// Whether one of `prefixes` holds `source`; an IPv4-mapped address is the IPv4 one.
pub fn holds(prefixes: &[IpNet], source: IpAddr) -> bool {
    let source = source.to_canonical();
    prefixes.iter().any(|prefix| prefix.contains(&source))
}

/// How clawsec shows the gateway behind who is asking.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum UpstreamAuth {
    /// By the gateway's own token, as one for all.
    #[default]
    Token,
    /// By name, in openclaw's `trusted-proxy` mode: `X-Forwarded-User` is the key's id.
    TrustedProxy,
}

/// `http://host:port` of the protected gateway.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Upstream {
    pub host: String,
    pub port: u16,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TlsConfig {
    pub cert: PathBuf,
    pub key: PathBuf,
    pub min_version: TlsVersion,
    /// Client certificates signed by these authorities are asked for and stand for principals.
    pub client_ca: Option<PathBuf>,
    /// Who issues the certificate; `cert` and `key` are then one file in its folder.
    pub acme: Option<AcmeConfig>,
}

/// A certificate that clawsec asks an authority for and renews (RFC 8555).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AcmeConfig {
    /// Of the authority's directory: `https`.
    pub server: String,
    /// Authorities that the server itself is verified by; the system's where left out.
    pub ca: Option<PathBuf>,
    /// Lower case; not empty.
    pub names: Vec<String>,
    /// `mailto:` URLs.
    pub contact: Vec<String>,
    pub challenge: AcmeChallenge,
    /// Where `Http01` is answered, without TLS; empty for `TlsAlpn01`.
    pub listen: Vec<SocketAddr>,
    /// Holds the account, the certificate and its key.
    pub dir: PathBuf,
}

impl AcmeConfig {
    /// The chain and its key, in one file so that neither is ever without the other.
    pub fn certificate(&self) -> PathBuf {
        self.dir.join("certificate.pem")
    }
}

/// How the authority is shown that the names are ours.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AcmeChallenge {
    /// A text at port 80 (RFC 8555, 8.3).
    Http01,
    /// A certificate at port 443, on clawsec's own listener (RFC 8737).
    TlsAlpn01,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TlsVersion {
    Tls12,
    Tls13,
}

/// How the packet plane is attached.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KernelConfig {
    /// Empty: the supervisor chooses by the listen addresses.
    pub interfaces: Vec<String>,
    pub mode: XdpMode,
    pub on_exit: OnExit,
    pub guard_upstream: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum XdpMode {
    Auto,
    Native,
    Tcx,
    Generic,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OnExit {
    /// The filter outlives the daemon.
    Enforce,
    Detach,
}

/// Sources with more than `after` denials in one rate-limit window are banned for this long.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BanConfig {
    pub after: u32,
    pub duration: Duration,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SandboxConfig {
    pub enabled: bool,
    pub provider: SandboxProvider,
    /// A docker image reference, by name or by digest; required when the provider is docker.
    pub image: Option<String>,
    /// Docker's runtime, such as `runsc`; its default where left out.
    pub runtime: Option<String>,
    /// The networks that `network` may name, of all agents.
    pub networks: Vec<String>,
    pub network: SandboxNetwork,
    pub memory_bytes: u64,
    /// Thousandths of a CPU.
    pub cpu_millis: u32,
    pub pids: u32,
    pub timeout: Duration,
    /// Kept bytes per stream; head and tail are kept, the middle is dropped.
    pub output_bytes: usize,
    /// Executions at once, over all agents.
    pub concurrency: usize,
    /// The ordinary user that firejail, native and none run as.
    pub user: String,
    /// The program that builds a native sandbox: clawsec itself.
    pub launcher: PathBuf,
    pub docker_socket: PathBuf,
    /// Started idle containers, for each agent with settings of its own and for all others.
    pub pool: usize,
    pub workspace_access: WorkspaceAccess,
    /// The agent's folder; mounted where the access is not none.
    pub workspace: Option<PathBuf>,
    /// Of agents that say something for themselves: each whole, by lower-case id.
    pub agents: BTreeMap<String, SandboxConfig>,
}

/// The user that tools run as where `security.sandbox.user` is left out.
pub const SANDBOX_USER: &str = "clawsec-sbx";

impl SandboxConfig {
    /// The defaults.
    pub fn defaults(enabled: bool) -> Self {
        Self {
            enabled,
            provider: SandboxProvider::Auto,
            image: Some("clawsec-sandbox:latest".to_owned()),
            runtime: None,
            networks: Vec::new(),
            network: SandboxNetwork::None,
            memory_bytes: 512 << 20,
            cpu_millis: 1000,
            pids: 128,
            timeout: Duration::from_secs(30),
            output_bytes: 262_144,
            concurrency: 4,
            user: SANDBOX_USER.to_owned(),
            // Also after an upgrade has put another file in its place.
            launcher: PathBuf::from("/proc/self/exe"),
            docker_socket: PathBuf::from("/var/run/docker.sock"),
            pool: 2,
            workspace_access: WorkspaceAccess::None,
            workspace: None,
            agents: BTreeMap::new(),
        }
    }

    /// What holds for this agent.
    pub fn of(&self, agent: Option<&str>) -> &Self {
        let own = agent.and_then(|agent| self.agents.get(&agent.to_lowercase()));
        own.unwrap_or(self)
    }
}

/// What a tool may do with its agent's folder.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WorkspaceAccess {
    None,
    ReadOnly,
    ReadWrite,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SandboxProvider {
    /// What is installed: docker, else firejail, else native.
    Auto,
    Docker,
    Firejail,
    Native,
    None,
}

impl SandboxProvider {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Auto => "auto",
            Self::Docker => "docker",
            Self::Firejail => "firejail",
            Self::Native => "native",
            Self::None => "none",
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SandboxNetwork {
    None,
    /// A docker network the operator made.
    Named(String),
}

/// A secret that is wiped when dropped and never printed.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(Zeroizing<String>);

impl Secret {
    pub fn new(text: String) -> Self {
        Self(Zeroizing::new(text))
    }

    /// The text itself; callers pass it on and keep no copy.
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(…)")
    }
}

impl Upstream {
    /// `host:port`, as it stands in a `Host` header.
    pub fn authority(&self) -> String {
        match self.host.parse::<IpAddr>() {
            Ok(IpAddr::V6(address)) => format!("[{address}]:{}", self.port),
            _ => format!("{}:{}", self.host, self.port),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Compiles only as long as `Secret` is not `Serialize`: with it, `some` would have two
    /// meanings.
    #[test]
    fn a_secret_can_neither_be_serialised_nor_printed() {
        trait Ambiguous<A> {
            fn some() {}
        }
        struct Serialisable;
        impl<T> Ambiguous<()> for T {}
        impl<T: serde::Serialize> Ambiguous<Serialisable> for T {}
        <Secret as Ambiguous<_>>::some();
        let secret = Secret::new("hunter2".to_owned());
        assert_eq!(format!("{secret:?}"), "Secret(…)");
    }
}
