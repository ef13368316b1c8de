//! Starts the real gateway on a lab's gateway host.

use std::fs;
use std::path::PathBuf;
use std::process::{Child, Command, Output, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use xtask::lab::{Host, Lab};
use xtask::standin::Seen;

use crate::system::daemon::{Daemon, KEY, UPSTREAM_TOKEN};

/// clawsec with the real gateway as its upstream.
pub(super) struct Protected {
    pub(super) daemon: Daemon,
    gateway: Child,
    home: tempfile::TempDir,
}

impl Protected {
    pub(super) fn start(name: &str, edit: impl FnOnce(&mut serde_json::Value)) -> Self {
        let lab = Lab::of_this_process(name).expect("make the lab's namespaces");
        let home = tempfile::tempdir().expect("make a home for the gateway");
        let gateway = start_gateway(&lab, &home);
        wait_for_gateway(&lab, &home);
        let mut daemon = Daemon::prepare(lab, Arc::new(Seen::default()), edit);
        daemon.launch();
        Self {
            daemon,
            gateway,
            home,
        }
    }

    /// `clawdbot gateway call METHOD` over wss through clawsec, from a host.
    pub(super) fn call(&self, from: Host, url: &str, token: &str, method: &str) -> Output {
        clawdbot(&self.daemon.lab, from, &self.home)
            .args(["gateway", "call", method, "--json", "--timeout", "20000"])
            .args(["--url", url])
            .env("CLAWDBOT_GATEWAY_TOKEN", token)
            .env("NODE_EXTRA_CA_CERTS", self.daemon.path("cert.pem"))
            .output()
            .expect("run clawdbot")
    }

    pub(super) fn health(&self, token: &str) -> Output {
        let url = format!("wss://{}:8443", xtask::lab::GATEWAY_INSIDE);
        self.call(Host::Inside, &url, token, "health")
    }

    pub(super) fn invoke(&self, call: &serde_json::Value) -> crate::system::daemon::Response {
        let key = format!("Authorization: Bearer {KEY}");
        self.daemon.curl(
            Host::Inside,
            "/tools/invoke",
            &["-H", &key, "--json", &call.to_string()],
        )
    }
}

impl Drop for Protected {
    fn drop(&mut self) {
        // The whole group: the gateway has children of its own.
        let group = format!("-{}", self.gateway.id());
        let _gone = Command::new("kill").args(["-KILL", "--", &group]).status();
        let _reaped = self.gateway.wait();
    }
}

fn peer_dir() -> PathBuf {
    let folder = std::env::var_os("CLAWSEC_PEER_DIR").map_or_else(
        || PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../.cache/peer"),
        PathBuf::from,
    );
    assert!(
        folder.join("cb").exists(),
        "no gateway in {}: run cargo xtask test",
        folder.display()
    );
    folder
}

/// The gateway's own program, on a host of the lab.
fn clawdbot(lab: &Lab, host: Host, home: &tempfile::TempDir) -> Command {
    let peer = peer_dir();
    let node = peer.join("node22/node_modules/node/bin");
    let mut command = lab.command(host, &node.join("node").to_string_lossy());
    let path = std::env::var_os("PATH").unwrap_or_default();
    let paths = std::iter::once(node).chain(std::env::split_paths(&path));
    command
        .arg(peer.join("cb/node_modules/.bin/clawdbot"))
        .env("PATH", std::env::join_paths(paths).expect("join PATH"))
        .env("HOME", home.path())
        .env("CLAWDBOT_DISABLE_BONJOUR", "1")
        .env("CLAWDBOT_TEST_TOKEN", UPSTREAM_TOKEN)
        .env("NO_COLOR", "1")
        .current_dir(home.path())
        .stdin(Stdio::null());
    command
}

fn start_gateway(lab: &Lab, home: &tempfile::TempDir) -> Child {
    use std::os::unix::fs::PermissionsExt as _;
    use std::os::unix::process::CommandExt as _;
    let folder = home.path().join(".clawdbot");
    fs::create_dir(&folder).expect("make the gateway's folder");
    fs::set_permissions(&folder, fs::Permissions::from_mode(0o700)).expect("chmod");
    let config = folder.join("clawdbot.json");
    fs::write(&config, include_str!("clawdbot.json5")).expect("write the gateway's configuration");
    fs::set_permissions(&config, fs::Permissions::from_mode(0o600)).expect("chmod");
    let log = fs::File::create(home.path().join("gateway.log")).expect("open the gateway's log");
    clawdbot(lab, Host::Gateway, home)
        .args(["gateway", "run"])
        .stdout(log.try_clone().expect("duplicate"))
        .stderr(log)
        .process_group(0)
        .spawn()
        .expect("start the gateway")
}

/// The first start takes most of a minute.
fn wait_for_gateway(lab: &Lab, home: &tempfile::TempDir) {
    let deadline = Instant::now() + Duration::from_mins(3);
    loop {
        let answered = lab
            .command(Host::Gateway, "curl")
            .args([
                "-sS",
                "-o",
                "/dev/null",
                "--max-time",
                "2",
                "http://127.0.0.1:18789/",
            ])
            .stderr(Stdio::null())
            .status()
            .expect("run curl");
        if answered.success() {
            return;
        }
        let log = || fs::read_to_string(home.path().join("gateway.log")).unwrap_or_default();
        assert!(
            Instant::now() < deadline,
            "the gateway does not start:\n{}",
            log()
        );
        std::thread::sleep(Duration::from_millis(500));
    }
}
