//! The systemd unit that matches a configuration, and the socket unit beside it.
//!
//! It is narrowed as far as the sandbox's provider lets it be: docker's tools run elsewhere, the
//! native launcher and firejail build their namespaces inside this service.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use crate::cli::run::DEFAULT_PIN_DIR;
use crate::config::{Config, SandboxConfig, SandboxProvider, WorkspaceAccess};
use crate::sandbox;
use crate::supervisor::privileges::NEEDED;

/// What the configuration does not say itself.
pub(super) struct Place<'a> {
    /// The program.
    pub(super) program: &'a Path,
    pub(super) state_dir: &'a Path,
}

pub(super) fn unit(config: &Config, place: &Place<'_>) -> String {
    let provider = sandbox::settled(&config.sandbox);
    let mut unit = Unit(String::new());
    unit.head(config, place);
    unit.folders(config, place);
    unit.secrets(&config.secret_files);
    unit.narrowed(config, provider);
    unit.calls(provider);
    unit.line("");
    unit.line("[Install]");
    unit.line("WantedBy=multi-user.target");
    unit.0
}

/// One `ListenStream=` for each address of `gateway.listen`, and of `gateway.admin.metrics` and
/// `gateway.tls.acme.listen` where they are.
pub(super) fn socket(config: &Config) -> String {
    let mut unit = Unit(String::new());
    unit.line(
        "# The listening sockets outlive the daemon: while it is started again, connections wait.",
    );
    unit.line("[Unit]");
    unit.line("Description=Sockets of clawsec");
    unit.line("");
    unit.line("[Socket]");
    let gateway = &config.gateway;
    let acme = gateway.tls.as_ref().and_then(|tls| tls.acme.as_ref());
    let others = acme
        .into_iter()
        .flat_map(|acme| acme.listen.iter().copied());
    let others = gateway
        .metrics
        .iter()
        .map(|metrics| metrics.address)
        .chain(others);
    for address in gateway
        .listen
        .iter()
        .map(|entry| entry.address)
        .chain(others)
    {
        unit.line(&format!("ListenStream={address}"));
    }
    for line in ["BindIPv6Only=ipv6-only", "Backlog=1024", "", "[Install]"] {
        unit.line(line);
    }
    unit.line("WantedBy=sockets.target");
    unit.0
}

struct Unit(String);

impl Unit {
    fn line(&mut self, line: &str) {
        // Writing to a `String` cannot fail.
        let _infallible = writeln!(self.0, "{line}");
    }

    fn lines(&mut self, lines: &[&str]) {
        for line in lines {
            self.line(line);
        }
    }

    fn head(&mut self, config: &Config, place: &Place<'_>) {
        let program = place.program.display();
        let file = config.path.display();
        self.line("# Printed by `clawsec render systemd`; print it again when the sandbox or a path changes.");
        self.lines(&[
            "[Unit]",
            "Description=clawsec, in front of an OpenClaw / Clawdbot gateway",
            "Documentation=man:clawsec(8)",
            "Wants=network-online.target",
            "After=network-online.target docker.service",
            "StartLimitIntervalSec=60",
            "StartLimitBurst=5",
            "",
            "[Service]",
            "# Ready when the policy is in force in both planes; fed while the gateway process speaks.",
            "Type=notify",
            "NotifyAccess=main",
            "WatchdogSec=30",
        ]);
        self.line(&format!(
            "ExecStart={program} run --config {file} --state-dir {}",
            place.state_dir.display()
        ));
        self.lines(&[
            "ExecReload=kill -HUP $MAINPID",
            "Restart=on-failure",
            "RestartSec=1",
            "# A configuration that is refused is the operator's to mend.",
            "RestartPreventExitStatus=2",
            "# Clients have eight seconds to end, tools five.",
            "TimeoutStopSec=30",
            "KillMode=mixed",
            "# ${VAR} of the configuration, if it names any: NAME=value lines, mode 600.",
            "EnvironmentFile=-/etc/clawsec/environment",
        ]);
        let files = u64::from(config.gateway.max_connections) * 2 + 8192;
        self.line(&format!("LimitNOFILE={}", files.max(16_384)));
        self.line("LimitCORE=0");
        self.line("UMask=0077");
    }

    fn folders(&mut self, config: &Config, place: &Place<'_>) {
        self.line("");
        self.line("# What it writes; all else is read-only.");
        self.line("ProtectSystem=strict");
        let mut written: BTreeSet<PathBuf> = BTreeSet::new();
        for (directive, top, folder) in [
            ("StateDirectory", "/var/lib", Some(place.state_dir)),
            ("LogsDirectory", "/var/log", config.audit.path.parent()),
            (
                "RuntimeDirectory",
                "/run",
                config.gateway.admin_socket.parent(),
            ),
        ] {
            let Some(folder) = folder else { continue };
            match folder.strip_prefix(top) {
                Ok(name) if !name.as_os_str().is_empty() => {
                    self.line(&format!("{directive}={}", name.display()));
                    self.line(&format!("{directive}Mode=0700"));
                }
                _ => {
                    written.insert(folder.to_owned());
                }
            }
        }
        self.line("RuntimeDirectoryPreserve=restart");
        // All of /sys is read-only to it but this folder, which has to be there beforehand.
        self.line(&format!("ExecStartPre=+mkdir -p -m 0700 {DEFAULT_PIN_DIR}"));
        self.line(&format!("ReadWritePaths=-{DEFAULT_PIN_DIR}"));
        let acme = config
            .gateway
            .tls
            .as_ref()
            .and_then(|tls| tls.acme.as_ref());
        written.extend(acme.map(|acme| acme.dir.clone()));
        written.extend(workspaces(&config.sandbox));
        written.retain(|folder| !folder.starts_with(place.state_dir));
        for folder in written {
            self.line(&format!("ReadWritePaths=-{}", folder.display()));
        }
    }

    fn secrets(&mut self, files: &[PathBuf]) {
        if files.is_empty() {
            return;
        }
        self.line("");
        self.line("# ${secret:NAME} is looked up here first, then in secrets.dir.");
        for file in files {
            let name = file.file_name().unwrap_or_default();
            self.line(&format!(
                "LoadCredential={}:{}",
                name.display(),
                file.display()
            ));
        }
    }

    fn narrowed(&mut self, config: &Config, provider: SandboxProvider) {
        let inside = provider != SandboxProvider::Docker;
        self.line("");
        self.line("# The gateway process gives up all of them.");
        self.line(&format!(
            "CapabilityBoundingSet={}",
            bounds(config).join(" ")
        ));
        self.lines(&[
            "ProtectProc=default",
            "ProtectClock=yes",
            "ProtectKernelLogs=yes",
            "ProtectKernelModules=yes",
            "ProtectKernelTunables=yes",
            "LockPersonality=yes",
            "MemoryDenyWriteExecute=yes",
            "RestrictRealtime=yes",
            "RestrictSUIDSGID=yes",
            "RemoveIPC=yes",
            "KeyringMode=private",
            "PrivateTmp=yes",
            "RestrictAddressFamilies=AF_UNIX AF_INET AF_INET6 AF_NETLINK",
        ]);
        let at_home = |path: &Path| HOMES.iter().any(|home| path.starts_with(home));
        let is_home = at_home(&config.path) || at_home(&config.audit.path) || inside;
        self.line(if is_home {
            "ProtectHome=read-only"
        } else {
            "ProtectHome=yes"
        });
        if inside {
            self.lines(&[
                "# A sandbox's limits are control groups of its own below this service's.",
                "Delegate=yes",
                "DelegateSubgroup=supervisor",
                "ReadWritePaths=/sys/fs/cgroup",
            ]);
        } else {
            self.lines(&[
                "ProtectControlGroups=yes",
                "ProtectHostname=yes",
                "RestrictNamespaces=yes",
                "PrivateDevices=yes",
            ]);
        }
        if provider == SandboxProvider::Firejail {
            self.line("# firejail is set-uid and makes its own /dev: neither NoNewPrivileges nor PrivateDevices.");
        } else {
            self.line("NoNewPrivileges=yes");
        }
        if provider == SandboxProvider::Native || provider == SandboxProvider::None {
            self.line(
                "# The launcher builds a sandbox out of namespaces and the host's own devices.",
            );
            self.line("DevicePolicy=closed");
        }
    }

    fn calls(&mut self, provider: SandboxProvider) {
        self.line("");
        self.line("SystemCallArchitectures=native");
        let more = match provider {
            SandboxProvider::Docker => "bpf",
            _ => "bpf @mount @privileged",
        };
        self.line(&format!("SystemCallFilter=@system-service {more}"));
        self.line("SystemCallFilter=~@clock @cpu-emulation @debug @module @obsolete @raw-io @reboot @swap");
        self.line("# Of @debug the kernel's events of dropped packets; the gateway and the launcher narrow themselves.");
        self.line("SystemCallFilter=perf_event_open seccomp landlock_create_ruleset landlock_add_rule landlock_restrict_self");
        self.line("SystemCallErrorNumber=EPERM");
    }
}

/// Folders that tools may write to.
fn workspaces(sandbox: &SandboxConfig) -> impl Iterator<Item = PathBuf> {
    let all = std::iter::once(sandbox).chain(sandbox.agents.values());
    all.filter(|one| one.workspace_access == WorkspaceAccess::ReadWrite)
        .filter_map(|one| one.workspace.clone())
}

/// The capabilities that this configuration needs.
fn bounds(config: &Config) -> Vec<&'static str> {
    let inside = sandbox::settled(&config.sandbox) != SandboxProvider::Docker;
    let gateway = &config.gateway;
    let acme = gateway.tls.as_ref().and_then(|tls| tls.acme.as_ref());
    let challenged = acme.into_iter().flat_map(|acme| &acme.listen);
    let listen = gateway.listen.iter().map(|entry| &entry.address);
    let is_low = listen.chain(challenged).any(|at| at.port() < 1024);
    let wants = |name: &&str| match *name {
        "CAP_NET_BIND_SERVICE" => is_low,
        name => inside || !OF_A_SANDBOX.contains(&name),
    };
    NEEDED.iter().map(|(name, _)| *name).filter(wants).collect()
}

const HOMES: [&str; 3] = ["/home", "/root", "/run/user"];

/// Needed where a sandbox is built inside this service.
const OF_A_SANDBOX: [&str; 9] = [
    "CAP_CHOWN",
    "CAP_DAC_OVERRIDE",
    "CAP_FOWNER",
    "CAP_SYS_RESOURCE",
    "CAP_SYS_ADMIN",
    "CAP_SYS_CHROOT",
    "CAP_SYS_PTRACE",
    "CAP_MKNOD",
    "CAP_NET_RAW",
];

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{NoSources, compile};

    fn configured(sandbox: &str, gateway: &str) -> Config {
        let text = format!(
            r#"{{ gateway: {{ tls: {{ cert: "/etc/clawsec/cert.pem", key: "/etc/clawsec/key.pem" }}, {gateway} }},
                security: {{ auth: {{ type: "apiKey", key: "0123456789abcdef0123456789abcdef" }},
                  sandbox: {{ enabled: true, {sandbox} }},
                  audit: {{ path: "/var/log/clawsec/audit.log" }} }} }}"#
        );
        compile(&text, Path::new("/etc/clawsec/clawsec.json"), &NoSources).unwrap()
    }

    fn rendered(config: &Config) -> String {
        let place = Place {
            program: Path::new("/usr/sbin/clawsec"),
            state_dir: Path::new("/var/lib/clawsec"),
        };
        unit(config, &place)
    }

    /// What the package installs fits every provider: it is firejail's, the widest.
    #[test]
    fn the_packaged_units_are_these() {
        let config = configured("provider: \"firejail\"", "");
        for (name, text) in [
            ("clawsec.service", rendered(&config)),
            ("clawsec.socket", socket(&config)),
        ] {
            let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../packaging/systemd");
            let path = Path::new(folder).join(name);
            if std::env::var_os("BLESS").is_some() {
                std::fs::write(&path, &text).unwrap();
            }
            let packaged = std::fs::read_to_string(&path).unwrap();
            assert_eq!(packaged, text, "BLESS=1 rewrites packaging/systemd/{name}");
        }
    }

    #[test]
    fn the_unit_follows_the_configuration() {
        let docker = rendered(&configured("provider: \"docker\"", ""));
        for line in [
            "Type=notify",
            "StateDirectory=clawsec",
            "LogsDirectory=clawsec",
            "RuntimeDirectory=clawsec",
            "ReadWritePaths=-/sys/fs/bpf/clawsec",
            "NoNewPrivileges=yes",
            "RestrictNamespaces=yes",
            "ProtectHome=yes",
        ] {
            assert!(
                docker.lines().any(|found| found == line),
                "{line}\n{docker}"
            );
        }
        assert!(!docker.contains("CAP_SYS_ADMIN") && !docker.contains("LoadCredential"));
        let native = rendered(&configured("provider: \"native\"", ""));
        assert!(native.contains("CAP_SYS_ADMIN") && native.contains("Delegate=yes"));
        assert!(native.contains("NoNewPrivileges=yes"));
        let firejail = rendered(&configured("provider: \"firejail\"", ""));
        assert!(!firejail.contains("NoNewPrivileges=yes"));

        let low = configured("provider: \"docker\"", "listen: [\"0.0.0.0:443\"]");
        assert!(rendered(&low).contains("CAP_NET_BIND_SERVICE"));
        assert!(!docker.contains("CAP_NET_BIND_SERVICE"));
        assert!(socket(&low).contains("ListenStream=0.0.0.0:443\n"));
        let mut secret = low;
        secret.secret_files = vec![PathBuf::from("/etc/clawsec/secrets/gateway-token")];
        let line = "LoadCredential=gateway-token:/etc/clawsec/secrets/gateway-token";
        assert!(rendered(&secret).contains(line));
        secret.sandbox.workspace_access = WorkspaceAccess::ReadWrite;
        secret.sandbox.workspace = Some(PathBuf::from("/srv/work"));
        secret.audit.path = PathBuf::from("/srv/log/audit.log");
        let unit = rendered(&secret);
        assert!(
            unit.contains("ReadWritePaths=-/srv/work\n")
                && unit.contains("ReadWritePaths=-/srv/log\n")
        );
    }
}
