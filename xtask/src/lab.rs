//! Network namespaces and veth pairs: the only network that the demo and the tests ever use.
//!
//! A lab is three hosts. The `gateway` host runs clawsec; the `inside` host's address is allowed,
//! the `outside` host's is not. All addresses are of documentation ranges (RFC 5737, RFC 3849).

use std::path::PathBuf;
use std::process::{Command, Stdio};

use anyhow::{Context as _, bail};

use crate::say;

/// Where the gateway host listens, as seen from inside.
pub const GATEWAY_INSIDE: &str = "192.0.2.1";
/// The allowed client.
pub const CLIENT_INSIDE: &str = "192.0.2.2";
/// Where the gateway host listens, as seen from outside.
pub const GATEWAY_OUTSIDE: &str = "198.51.100.1";
/// The client that is not allowed.
pub const CLIENT_OUTSIDE: &str = "198.51.100.2";
/// The same hosts over IPv6.
pub const GATEWAY_INSIDE_V6: &str = "2001:db8:1::1";
pub const CLIENT_INSIDE_V6: &str = "2001:db8:1::2";
pub const GATEWAY_OUTSIDE_V6: &str = "2001:db8:2::1";
pub const CLIENT_OUTSIDE_V6: &str = "2001:db8:2::2";

/// Three namespaces, removed when dropped.
#[derive(Debug)]
pub struct Lab {
    name: String,
}

/// A host of the lab.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Host {
    Gateway,
    Inside,
    Outside,
}

impl Lab {
    /// Makes the hosts; the namespaces of an earlier lab of that name are removed.
    pub fn new(name: &str) -> anyhow::Result<Self> {
        let lab = Self {
            name: name.to_owned(),
        };
        lab.remove();
        for host in [Host::Gateway, Host::Inside, Host::Outside] {
            ip(&["netns", "add", &lab.namespace(host)])?;
            ip(&["-n", &lab.namespace(host), "link", "set", "lo", "up"])?;
        }
        lab.link(
            Host::Inside,
            "inside",
            [GATEWAY_INSIDE, GATEWAY_INSIDE_V6],
            [CLIENT_INSIDE, CLIENT_INSIDE_V6],
        )?;
        lab.link(
            Host::Outside,
            "outside",
            [GATEWAY_OUTSIDE, GATEWAY_OUTSIDE_V6],
            [CLIENT_OUTSIDE, CLIENT_OUTSIDE_V6],
        )?;
        Ok(lab)
    }

    /// Makes a lab of this process alone, so that two test runs can go on side by side; removes
    /// those that a killed run has left.
    pub fn of_this_process(name: &str) -> anyhow::Result<Self> {
        remove_stale();
        Self::new(&format!("{TEST_PREFIX}{name}-{}", std::process::id()))
    }

    /// What it was called.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The namespace's name, for `ip netns`.
    pub fn namespace(&self, host: Host) -> String {
        let host = match host {
            Host::Gateway => "gateway",
            Host::Inside => "inside",
            Host::Outside => "outside",
        };
        format!("{}-{host}", self.name)
    }

    /// The namespace's file, for `setns`.
    pub fn path(&self, host: Host) -> PathBuf {
        PathBuf::from("/run/netns").join(self.namespace(host))
    }

    /// A command that runs on a host. Only the network is another: `ip netns exec` would also
    /// remount /sys and hide bpffs.
    pub fn command(&self, host: Host, program: &str) -> Command {
        let mut command = Command::new("nsenter");
        command
            .arg(format!("--net={}", self.path(host).display()))
            .arg("--")
            .arg(program);
        command
    }

    /// The gateway host's two interfaces, towards `Inside` and `Outside`.
    pub fn interfaces() -> [&'static str; 2] {
        ["inside", "outside"]
    }

    fn link(
        &self,
        peer: Host,
        interface: &str,
        gateway_addresses: [&str; 2],
        peer_addresses: [&str; 2],
    ) -> anyhow::Result<()> {
        let (gateway, peer) = (self.namespace(Host::Gateway), self.namespace(peer));
        ip(&[
            "-n", &gateway, "link", "add", interface, "type", "veth", "peer", "name", "eth0",
            "netns", &peer,
        ])?;
        for (namespace, device, addresses) in [
            (&gateway, interface, gateway_addresses),
            (&peer, "eth0", peer_addresses),
        ] {
            let [v4, v6] = addresses;
            ip(&[
                "-n",
                namespace,
                "addr",
                "add",
                &format!("{v4}/24"),
                "dev",
                device,
            ])?;
            let v6 = format!("{v6}/64");
            // Without duplicate address detection the address can be bound at once.
            ip(&["-n", namespace, "addr", "add", &v6, "dev", device, "nodad"])?;
            ip(&["-n", namespace, "link", "set", device, "up"])?;
        }
        Ok(())
    }

    fn remove(&self) {
        for host in [Host::Inside, Host::Outside, Host::Gateway] {
            // Gone already is as good as removed.
            let _absent = Command::new("ip")
                .args(["netns", "del", &self.namespace(host)])
                .stderr(Stdio::null())
                .status();
        }
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        self.remove();
    }
}

const TEST_PREFIX: &str = "cslab-";

/// Removes namespaces whose process is gone: `cslab-NAME-PID-HOST`.
fn remove_stale() {
    let entries = std::fs::read_dir("/run/netns")
        .into_iter()
        .flatten()
        .flatten();
    for name in entries.filter_map(|entry| entry.file_name().into_string().ok()) {
        let pid = name
            .strip_prefix(TEST_PREFIX)
            .and_then(|rest| rest.rsplit('-').nth(1));
        let is_gone = |pid: &str| !PathBuf::from("/proc").join(pid).exists();
        if pid.is_some_and(is_gone) {
            // Another run may have removed it in the meantime.
            let _gone = Command::new("ip").args(["netns", "del", &name]).status();
        }
    }
}

fn ip(arguments: &[&str]) -> anyhow::Result<()> {
    let output = Command::new("ip")
        .args(arguments)
        .output()
        .context("run ip (package iproute2)")?;
    if output.status.success() {
        return Ok(());
    }
    bail!(
        "ip {}: {}",
        arguments.join(" "),
        String::from_utf8_lossy(&output.stderr).trim()
    )
}

/// Makes a system user if it is absent; says so.
pub fn ensure_user(name: &str, home: Option<&str>) -> anyhow::Result<()> {
    let mut known = Command::new("id");
    known
        .arg("-u")
        .arg(name)
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    if known.status().context("run id")?.success() {
        return Ok(());
    }
    let mut command = Command::new("useradd");
    command.args(["--user-group", "--shell", "/usr/sbin/nologin"]);
    match home {
        Some(home) => command.args(["--create-home", "--home-dir", home]),
        None => command.args(["--system", "--no-create-home", "--home-dir", "/nonexistent"]),
    };
    say(&format!("making the user {name}"));
    let status = command
        .arg(name)
        .status()
        .context("run useradd (package passwd)")?;
    if !status.success() {
        bail!("useradd {name} failed");
    }
    Ok(())
}
