//! Starts clawsec in a lab's gateway host, with a stand-in gateway behind it, and asks it things.

mod activated;
mod ask;

pub(crate) use ask::Response;

use std::fs;
use std::io::Write as _;
use std::net::TcpListener;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde_json::Value;
use xtask::lab::{self, Host, Lab};
use xtask::standin::{self, Seen};

use crate::schema::breach;

pub(crate) const KEY: &str = "test-key-of-thirty-two-characters";
pub(crate) const UPSTREAM_TOKEN: &str = "upstream-token-of-the-stand-in";

/// A running daemon and its world. Dropping it stops and removes everything.
pub(crate) struct Daemon {
    child: Option<Child>,
    pub(crate) lab: Lab,
    pub(crate) folder: tempfile::TempDir,
    pub(crate) pin_dir: PathBuf,
    /// More arguments of `clawsec run`.
    arguments: Vec<&'static str>,
    pub(crate) seen: Arc<Seen>,
}

impl Daemon {
    /// Starts with the tests' configuration; `edit` changes it first.
    pub(crate) fn start(name: &str, edit: impl FnOnce(&mut Value)) -> Self {
        Self::start_with(name, &[], edit)
    }

    /// Starts with more arguments of `clawsec run`.
    pub(crate) fn start_with(
        name: &str,
        arguments: &[&'static str],
        edit: impl FnOnce(&mut Value),
    ) -> Self {
        let lab = Lab::of_this_process(name).expect("make the lab's namespaces");
        let seen = Arc::new(Seen::default());
        serve_stand_in(&lab, &seen);
        let mut daemon = Self::prepare(lab, seen, edit);
        daemon.arguments = arguments.to_vec();
        daemon.launch();
        daemon
    }

    /// Everything but the start; the caller launches.
    pub(crate) fn prepare(lab: Lab, seen: Arc<Seen>, edit: impl FnOnce(&mut Value)) -> Self {
        let folder = tempfile::Builder::new()
            .prefix("clawsec-")
            .tempdir()
            .expect("make a folder");
        let pin_dir = Path::new("/sys/fs/bpf").join(lab.name());
        let daemon = Self {
            child: None,
            lab,
            folder,
            pin_dir,
            arguments: Vec::new(),
            seen,
        };
        daemon.detach();
        let names = ["localhost", lab::GATEWAY_INSIDE, lab::GATEWAY_OUTSIDE].map(str::to_owned);
        let certificate = rcgen::generate_simple_self_signed(names).expect("make a certificate");
        daemon.write("cert.pem", &certificate.cert.pem());
        daemon.write("key.pem", &certificate.signing_key.serialize_pem());
        let mut config = daemon.default_config();
        edit(&mut config);
        daemon.write("clawsec.json", &config.to_string());
        daemon
    }

    fn default_config(&self) -> Value {
        let path = |name: &str| self.path(name).display().to_string();
        serde_json::json!({
            "gateway": {
                "listen": ["0.0.0.0:8443", "[::]:8443"],
                "upstream": "http://127.0.0.1:18789",
                "upstreamToken": UPSTREAM_TOKEN, "observe": false,
                "tls": { "enabled": true, "cert": path("cert.pem"), "key": path("key.pem") },
                "admin": { "socket": path("admin.sock") },
            },
            "security": {
                "auth": { "type": "apiKey", "key": KEY },
                "network": {
                    "allowedIPs": ["192.0.2.0/24", "2001:db8:1::/64"],
                    "interfaces": Lab::interfaces(),
                },
                "rateLimit": { "enabled": true, "requests": 1000, "window": 60000,
                               "connections": 5000 },
                "sandbox": { "enabled": false, "provider": "none" },
                "audit": { "enabled": true, "path": path("audit.log"), "interval": 1000,
                           "events": ["auth", "message", "tool", "config"] },
            },
            "tools": { "deny": ["browser"] },
        })
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub(crate) fn write(&self, name: &str, text: &str) {
        let path = self.path(name);
        // Written whole under another name first: the daemon watches its configuration.
        let new = path.with_extension("new");
        fs::OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(&new)
            .and_then(|mut file| file.write_all(text.as_bytes()))
            .and_then(|()| fs::rename(&new, &path))
            .unwrap_or_else(|error| panic!("write {}: {error}", path.display()));
    }

    /// Changes the configuration file under the running daemon.
    pub(crate) fn rewrite_config(&self, edit: impl FnOnce(&mut Value)) {
        let text = fs::read_to_string(self.path("clawsec.json")).expect("read the configuration");
        let mut config = serde_json::from_str(&text).expect("parse the configuration");
        edit(&mut config);
        self.write("clawsec.json", &config.to_string());
    }

    /// Starts the daemon and waits until it answers.
    pub(crate) fn launch(&mut self) {
        self.launch_with(&[]);
    }

    /// As `launch`, with more arguments.
    pub(crate) fn launch_with(&mut self, arguments: &[&str]) {
        self.spawn_with(arguments, &[]);
        self.await_answer();
    }

    fn await_answer(&mut self) {
        let answers = |daemon: &mut Self| {
            let ended = daemon
                .child
                .as_mut()
                .is_none_or(|c| !matches!(c.try_wait(), Ok(None)));
            assert!(!ended, "clawsec ended at start:\n{}", daemon.log());
            daemon.get(Host::Inside, "/").status == 200
        };
        let deadline = Instant::now() + Duration::from_secs(30);
        while !answers(self) {
            assert!(
                Instant::now() < deadline,
                "clawsec does not answer:\n{}",
                self.log()
            );
            std::thread::sleep(Duration::from_millis(100));
        }
    }

    /// Starts the daemon without waiting.
    pub(crate) fn spawn(&mut self) {
        self.spawn_with(&[], &[]);
    }

    /// As `spawn`, with more arguments and variables.
    pub(crate) fn spawn_with(&mut self, arguments: &[&str], variables: &[(&str, &str)]) {
        let mut command = self
            .lab
            .command(Host::Gateway, &clawsec().to_string_lossy());
        command.stdin(Stdio::null());
        self.spawn_by(command, arguments, variables);
    }

    /// Starts the daemon by a command that takes its arguments.
    fn spawn_by(&mut self, mut command: Command, more: &[&str], variables: &[(&str, &str)]) {
        let log = fs::OpenOptions::new()
            .create(true)
            .append(true)
            .open(self.path("daemon.log"))
            .expect("open the daemon's log");
        let child = command
            .arg("run")
            .arg("--config")
            .arg(self.path("clawsec.json"))
            .arg("--pin-dir")
            .arg(&self.pin_dir)
            .arg("--state-dir")
            .arg(self.path("state"))
            .args(&self.arguments)
            .args(more)
            .env("NO_COLOR", "1")
            .envs(variables.iter().copied())
            .stderr(log)
            .spawn()
            .expect("start clawsec");
        self.child = Some(child);
    }

    pub(crate) fn log(&self) -> String {
        fs::read_to_string(self.path("daemon.log")).unwrap_or_default()
    }

    /// SIGKILL, as the kernel's OOM killer sends it.
    pub(crate) fn kill(&mut self) {
        let mut child = self.child.take().expect("the daemon runs");
        child.kill().expect("kill clawsec");
        child.wait().expect("reap clawsec");
    }

    pub(crate) fn pid(&self) -> u64 {
        self.child.as_ref().expect("the daemon runs").id().into()
    }

    /// SIGHUP: read the configuration again.
    pub(crate) fn hang_up(&self) {
        Command::new("kill")
            .args(["-HUP", &self.pid().to_string()])
            .status()
            .expect("run kill");
    }

    /// Waits until the daemon ends of itself; its exit code.
    pub(crate) fn await_end(&mut self) -> Option<i32> {
        let mut child = self.child.take().expect("the daemon runs");
        let deadline = Instant::now() + Duration::from_secs(30);
        loop {
            if let Ok(Some(status)) = child.try_wait() {
                return status.code();
            }
            assert!(
                Instant::now() < deadline,
                "clawsec does not end:\n{}",
                self.log()
            );
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// SIGTERM, and waits for the end.
    pub(crate) fn stop(&mut self) {
        let Some(mut child) = self.child.take() else {
            return;
        };
        let pid = child.id().to_string();
        Command::new("kill")
            .args(["-TERM", &pid])
            .status()
            .expect("run kill");
        let deadline = Instant::now() + Duration::from_secs(15);
        while matches!(child.try_wait(), Ok(None)) {
            assert!(
                Instant::now() < deadline,
                "clawsec does not stop:\n{}",
                self.log()
            );
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// Runs another command of clawsec's.
    pub(crate) fn clawsec(&self, arguments: &[&str]) -> Output {
        Command::new(clawsec())
            .args(arguments)
            .env("CLAWSEC_CONFIG", self.path("clawsec.json"))
            .env("NO_COLOR", "1")
            .output()
            .expect("run clawsec")
    }

    pub(crate) fn status(&self) -> Value {
        let output = self.clawsec(&["status", "--json"]);
        assert!(
            output.status.success(),
            "{}",
            String::from_utf8_lossy(&output.stderr)
        );
        serde_json::from_slice(&output.stdout).expect("parse the status")
    }

    /// The audit log, parsed; every record is held against the schema.
    pub(crate) fn audit(&self) -> Vec<Value> {
        let text = fs::read_to_string(self.path("audit.log")).unwrap_or_default();
        let record = |line: &str| {
            let record: Value = serde_json::from_str(line).expect("a record is JSON");
            assert_eq!(breach(&record), None, "{record}");
            record
        };
        text.lines().map(record).collect()
    }

    /// Waits until a record fits, at most ten seconds.
    pub(crate) fn await_record(&self, what: &str, fits: impl Fn(&Value) -> bool) -> Value {
        let deadline = Instant::now() + Duration::from_secs(10);
        loop {
            if let Some(record) = self.audit().into_iter().find(|record| fits(record)) {
                return record;
            }
            let log = || fs::read_to_string(self.path("audit.log")).unwrap_or_default();
            assert!(
                Instant::now() < deadline,
                "no record of {what} in:\n{}",
                log()
            );
            std::thread::sleep(Duration::from_millis(100));
        }
    }

    /// Removes what the daemon left in the kernel.
    pub(crate) fn detach(&self) {
        // Nothing pinned is the usual case.
        let _nothing = Command::new(clawsec())
            .args(["detach", "--pin-dir"])
            .arg(&self.pin_dir)
            .output();
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let text = format!("--- the daemon's log:\n{}\n", self.log());
            let _closed = std::io::stderr().write_all(text.as_bytes());
            if let Some(mut child) = self.child.take() {
                let _gone = child.kill();
                let _reaped = child.wait();
            }
        } else {
            self.stop();
        }
        self.detach();
    }
}

/// Serves the stand-in gateway on the gateway host's loopback until the test process ends.
pub(crate) fn serve_stand_in(lab: &Lab, seen: &Arc<Seen>) {
    let listener = in_namespace(lab, Host::Gateway, || {
        TcpListener::bind("127.0.0.1:18789").expect("bind the stand-in gateway")
    });
    let seen = Arc::clone(seen);
    // A socket stays in the namespace it was made in, whichever thread serves it.
    std::thread::spawn(move || standin::serve(&listener, UPSTREAM_TOKEN, &seen));
}

/// Runs `work` on a thread of its own inside a host's network namespace.
pub(crate) fn in_namespace<T: Send>(lab: &Lab, host: Host, work: impl FnOnce() -> T + Send) -> T {
    let namespace = fs::File::open(lab.path(host)).expect("open the namespace");
    std::thread::scope(|scope| {
        let thread = scope.spawn(|| {
            use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
            use std::os::fd::AsFd as _;
            move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Network))
                .expect("enter the namespace");
            work()
        });
        thread
            .join()
            .expect("the thread in the namespace ends well")
    })
}

/// The program under test.
pub(crate) fn clawsec() -> PathBuf {
    if let Some(path) = std::env::var_os("CLAWSEC_BIN") {
        return PathBuf::from(path);
    }
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/debug/clawsec")
}
