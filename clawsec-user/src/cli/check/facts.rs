//! What is known when the checks judge: the configuration, and this host as it was found.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;

use crate::config::{Config, SandboxProvider};
use crate::counterpart::Product;
use crate::supervisor::certificate::Validity;

#[derive(Debug, Clone)]
pub(super) struct Facts {
    pub(super) config: Config,
    /// Those of clawsec's files that are there.
    pub(super) files: Vec<FileFact>,
    /// `None` without TLS.
    pub(super) certificate: Option<Result<CertificateFacts, String>>,
    pub(super) gateways: Vec<GatewayFact>,
    /// Whether anything listens where the protected gateway should; `None` if it is elsewhere.
    pub(super) upstream_listens: Option<bool>,
    /// Ports that containers publish.
    pub(super) published: Vec<Published>,
    pub(super) interfaces: Vec<InterfaceFact>,
    /// What the running daemon says; `None` if none answers.
    pub(super) daemon: Option<DaemonFact>,
    /// The provider that `auto` settles on here, and what is wrong with it.
    pub(super) sandbox: SandboxFact,
    pub(super) host: HostFacts,
}

/// What a file is for; how private it has to be follows from it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Role {
    Configuration,
    CertificateKey,
    /// Of `${secret:NAME}`.
    Secret,
    AuditLog,
    State,
}

#[derive(Debug, Clone)]
pub(super) struct FileFact {
    pub(super) role: Role,
    pub(super) path: PathBuf,
    /// Permission bits.
    pub(super) mode: u32,
    /// Who besides root and the caller could change it, in words.
    pub(super) changeable: Vec<String>,
}

#[derive(Debug, Clone)]
pub(super) struct CertificateFacts {
    pub(super) validity: Validity,
    pub(super) fits_key: bool,
    pub(super) is_self_signed: bool,
    /// Names of `gateway.hosts` that it does not hold.
    pub(super) missing: Vec<String>,
}

/// A running gateway of either product.
#[derive(Debug, Clone)]
pub(super) struct GatewayFact {
    pub(super) product: Product,
    pub(super) pid: u32,
    pub(super) uid: u32,
    /// Where it can be reached, in this host's own network.
    pub(super) listening: Vec<SocketAddr>,
}

#[derive(Debug, Clone)]
pub(super) struct Published {
    pub(super) container: String,
    pub(super) address: IpAddr,
    pub(super) port: u16,
    /// In the container.
    pub(super) inner: u16,
}

#[derive(Debug, Clone)]
pub(super) struct InterfaceFact {
    pub(super) name: String,
    /// Programs of others at its hooks, in words.
    pub(super) others: Vec<String>,
}

#[derive(Debug, Clone)]
pub(super) struct DaemonFact {
    pub(super) filters: bool,
    /// Interfaces that are filtered in a slower mode: name, mode, why.
    pub(super) slower: Vec<(String, String, String)>,
    pub(super) audit_writable: bool,
}

#[derive(Debug, Clone)]
pub(super) struct SandboxFact {
    /// What runs, where the configuration leaves it to clawsec.
    pub(super) provider: SandboxProvider,
    /// Why tools would be denied.
    pub(super) problem: Option<String>,
}

/// `None` is what cannot be known here.
#[derive(Debug, Clone)]
#[expect(clippy::struct_excessive_bools, reason = "each is a fact of its own")]
pub(super) struct HostFacts {
    pub(super) kernel: Option<(u32, u32)>,
    pub(super) has_btf: bool,
    pub(super) has_bpffs: bool,
    /// `kernel.unprivileged_bpf_disabled`.
    pub(super) unprivileged_bpf_disabled: Option<u32>,
    /// `net.core.bpf_jit_enable`.
    pub(super) bpf_jit: Option<u32>,
    pub(super) has_landlock: Option<bool>,
    pub(super) has_cgroup_v2: bool,
    pub(super) clock_is_synchronised: Option<bool>,
    /// Seconds since the Unix epoch.
    pub(super) now: i64,
    pub(super) has_gateway_user: bool,
    pub(super) has_sandbox_user: bool,
    /// On the disk of the audit log.
    pub(super) free_bytes: Option<u64>,
    pub(super) free_inodes: Option<u64>,
    /// `fs.suid_dumpable`: 1 lets any process that changed its user leave a core file.
    pub(super) suid_dumpable: Option<u32>,
    /// `RLIMIT_NOFILE`, the hard one.
    pub(super) most_files: u64,
}

impl Facts {
    /// Whether clients come from other machines.
    pub(super) fn is_public(&self) -> bool {
        let listen = &self.config.gateway.listen;
        listen.iter().any(|entry| !entry.address.ip().is_loopback())
    }

    /// The provider that tools run in.
    pub(super) fn provider(&self) -> SandboxProvider {
        match self.config.sandbox.provider {
            SandboxProvider::Auto => self.sandbox.provider,
            named => named,
        }
    }
}
