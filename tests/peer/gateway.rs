//! Starts a real gateway on a lab's gateway host, with a stub of a model server beside it, and
//! clawsec in front; and asks it things with its own command line, curl, and a small client.

use std::fs;
use std::path::PathBuf;
use std::process::{Child, Command, Output, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use xtask::lab::{GATEWAY_INSIDE, Host, Lab};
use xtask::standin::Seen;

use super::product::Product;
use crate::system::daemon::{Daemon, KEY, Response};

/// clawsec with a real gateway as its upstream.
pub(super) struct Protected {
    pub(super) daemon: Daemon,
    pub(super) product: Product,
    children: Vec<Child>,
    home: tempfile::TempDir,
}

/// A client that goes on while the test does.
pub(super) struct Background(Option<Child>);

/// What the small client heard, in order.
#[derive(Debug)]
pub(super) struct Heard(pub(super) Vec<Value>);

impl Protected {
    pub(super) fn start(product: Product, name: &str, edit: impl FnOnce(&mut Value)) -> Self {
        Self::start_with(product, name, product.configuration(), edit)
    }

    /// As `start`, with another configuration of the gateway's.
    pub(super) fn start_with(
        product: Product,
        name: &str,
        configuration: &str,
        edit: impl FnOnce(&mut Value),
    ) -> Self {
        let name = format!("{name}{}", &product.name()[..2]);
        let lab = Lab::of_this_process(&name).expect("make the lab's namespaces");
        let home = tempfile::tempdir().expect("make a home for the gateway");
        let model = start_model(product, &lab, &home);
        configure(product, &home, configuration);
        let gateway = start_gateway(product, &lab, &home);
        wait_for_gateway(product, &lab, &home);
        let mut daemon = Daemon::prepare(lab, Arc::new(Seen::default()), edit);
        daemon.launch();
        Self {
            daemon,
            product,
            children: vec![gateway, model],
            home,
        }
    }

    fn url() -> String {
        format!("wss://{GATEWAY_INSIDE}:8443")
    }

    /// `gateway call METHOD` of its own command line, over wss through clawsec.
    pub(super) fn call(&self, token: &str, method: &str, params: &Value) -> Output {
        // A home of its own: what a first connect leaves there must not help the next.
        let home = tempfile::tempdir().expect("make a home for the command line");
        self.product
            .command(&self.daemon.lab, Host::Inside, &home)
            .args(["gateway", "call", method, "--json", "--timeout", "20000"])
            .args(["--url", &Self::url()])
            .args(["--params", &params.to_string()])
            .args(["--token", token])
            // The older one takes it from here.
            .env(self.product.variable("GATEWAY_TOKEN"), token)
            .env("NODE_EXTRA_CA_CERTS", self.daemon.path("cert.pem"))
            .output()
            .expect("run the gateway's own command line")
    }

    /// A command of its own on the host that it runs on.
    pub(super) fn on_its_host(&self, arguments: &[&str]) -> Output {
        self.product
            .command(&self.daemon.lab, Host::Gateway, &self.home)
            .args(arguments)
            .env("OPENCLAW_GATEWAY_PASSWORD", "password-of-the-own-host-only")
            .output()
            .expect("run the gateway's own command line")
    }

    /// Any command of its own command line, set up for a remote gateway as its documents say.
    pub(super) fn remote(&self, token: &str, arguments: &[&str]) -> Output {
        let home = tempfile::tempdir().expect("make a home for the command line");
        let remote = json!({ "gateway": { "mode": "remote",
            "remote": { "url": Self::url(), "token": token } } });
        configure(self.product, &home, &remote.to_string());
        self.product
            .command(&self.daemon.lab, Host::Inside, &home)
            .args(arguments)
            .env("NODE_EXTRA_CA_CERTS", self.daemon.path("cert.pem"))
            .output()
            .expect("run the gateway's own command line")
    }

    /// The answer of its own command line, which has to be one.
    pub(super) fn answer(&self, token: &str, method: &str, params: &Value) -> Value {
        let output = self.call(token, method, params);
        let stdout = String::from_utf8_lossy(&output.stdout);
        assert!(
            output.status.success(),
            "{method}: {stdout}\n{}\n{}",
            String::from_utf8_lossy(&output.stderr),
            self.logs()
        );
        let start = stdout.find(['{', '[']).expect("a JSON answer");
        serde_json::from_str(&stdout[start..]).expect("parse the answer")
    }

    /// What its own command line says when it is refused.
    pub(super) fn refusal(&self, token: &str, method: &str, params: &Value) -> String {
        let output = self.call(token, method, params);
        let text = format!(
            "{}{}",
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr)
        );
        assert!(!output.status.success(), "{method} was not refused: {text}");
        text
    }

    /// The small client, with these options.
    pub(super) fn client(&self, options: &Value) -> Heard {
        let output = self
            .client_command(options)
            .output()
            .expect("run the client");
        Heard::parse(&output.stdout)
    }

    /// The small client in the background, until it is ended.
    pub(super) fn spawn_client(&self, options: &Value) -> Background {
        let mut options = options.clone();
        options["lingerMs"] = json!(600_000);
        options["deadlineMs"] = json!(600_000);
        let child = self
            .client_command(&options)
            .stdout(Stdio::piped())
            .spawn()
            .expect("run the client");
        Background(Some(child))
    }

    /// The small client straight to the gateway, on its own host.
    pub(super) fn client_on_its_host(&self, options: &Value) -> Heard {
        let mut command = self
            .product
            .node(&self.daemon.lab, Host::Gateway, &self.home);
        let command = command
            .arg(driver("client.cjs"))
            .arg("ws://127.0.0.1:18789")
            .arg(options.to_string());
        Heard::parse(&command.output().expect("run the client").stdout)
    }

    fn client_command(&self, options: &Value) -> Command {
        let mut command = self
            .product
            .node(&self.daemon.lab, Host::Inside, &self.home);
        command
            .arg(driver("client.cjs"))
            .arg(Self::url())
            .arg(options.to_string())
            .env("NODE_EXTRA_CA_CERTS", self.daemon.path("cert.pem"));
        command
    }

    /// A file of the client's, such as its device key.
    pub(super) fn file(&self, name: &str) -> PathBuf {
        self.home.path().join(name)
    }

    /// `POST` of JSON with a key.
    pub(super) fn post(&self, key: &str, path: &str, body: &Value, more: &[&str]) -> Response {
        let key = format!("Authorization: Bearer {key}");
        let body = body.to_string();
        let mut arguments = vec!["-H", &key, "--json", &body, "--max-time", "60"];
        arguments.extend_from_slice(more);
        self.daemon.curl(Host::Inside, path, &arguments)
    }

    pub(super) fn invoke(&self, call: &Value) -> Response {
        self.post(KEY, "/tools/invoke", call, &[])
    }

    /// Ends the gateway at once.
    pub(super) fn kill_gateway(&mut self) {
        end(&mut self.children[0]);
    }

    pub(super) fn logs(&self) -> String {
        let gateway = fs::read_to_string(self.file("gateway.log")).unwrap_or_default();
        format!(
            "--- clawsec:\n{}\n--- the gateway:\n{gateway}",
            self.daemon.log()
        )
    }
}

impl Background {
    /// Waits until it ends by itself, as by a close of the other side.
    pub(super) fn until_closed(mut self) -> Heard {
        let child = self.0.take().expect("it is ended once");
        let output = child.wait_with_output().expect("wait for the client");
        Heard::parse(&output.stdout)
    }

    /// Ends it; what it has printed.
    pub(super) fn end(mut self) -> String {
        let mut child = self.0.take().expect("it is ended once");
        child.kill().expect("end the client");
        let output = child.wait_with_output().expect("wait for the client");
        String::from_utf8_lossy(&output.stdout).into_owned()
    }
}

impl Drop for Background {
    fn drop(&mut self) {
        if let Some(mut child) = self.0.take() {
            let _gone = child.kill();
            let _reaped = child.wait();
        }
    }
}

impl Heard {
    fn parse(lines: &[u8]) -> Self {
        let text = String::from_utf8_lossy(lines);
        Self(
            text.lines()
                .map(|line| serde_json::from_str(line).expect("a line of JSON"))
                .collect(),
        )
    }

    fn of<'a>(&'a self, kind: &'a str) -> impl Iterator<Item = &'a Value> {
        self.0
            .iter()
            .filter(move |line| line["kind"] == kind)
            .map(|line| &line["value"])
    }

    /// The answer to `connect`.
    pub(super) fn hello(&self) -> &Value {
        self.of("hello").next().unwrap_or(&Value::Null)
    }

    /// The answers to the calls, in order.
    pub(super) fn answers(&self) -> Vec<&Value> {
        self.of("res").collect()
    }

    pub(super) fn events(&self) -> Vec<&Value> {
        self.of("event").collect()
    }

    /// The close code and its reason.
    pub(super) fn close(&self) -> (u64, String) {
        let close = self.of("close").next().unwrap_or(&Value::Null);
        (
            close["code"].as_u64().unwrap_or(0),
            close["reason"].as_str().unwrap_or_default().to_owned(),
        )
    }
}

impl Drop for Protected {
    fn drop(&mut self) {
        if std::thread::panicking() {
            use std::io::Write as _;
            let log = fs::read_to_string(self.file("gateway.log")).unwrap_or_default();
            let text = format!("--- the gateway's log:\n{log}\n");
            let _closed = std::io::stderr().write_all(text.as_bytes());
        }
        for child in &mut self.children {
            end(child);
        }
    }
}

/// Kills the whole group: the gateway has children of its own.
fn end(child: &mut Child) {
    let group = format!("-{}", child.id());
    let _gone = Command::new("kill").args(["-KILL", "--", &group]).status();
    let _reaped = child.wait();
}

/// A script of these tests.
pub(super) fn driver(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
        .join("peer/drivers")
        .join(name)
}

/// The options of a client with this key.
pub(super) fn with_key(key: &str, calls: &Value) -> Value {
    json!({ "auth": { "token": key }, "calls": calls })
}

fn start_model(product: Product, lab: &Lab, home: &tempfile::TempDir) -> Child {
    use std::os::unix::process::CommandExt as _;
    product
        .node(lab, Host::Gateway, home)
        .arg(driver("model.cjs"))
        .process_group(0)
        .spawn()
        .expect("start the stub model")
}

fn start_gateway(product: Product, lab: &Lab, home: &tempfile::TempDir) -> Child {
    use std::os::unix::process::CommandExt as _;
    let log = fs::File::create(home.path().join("gateway.log")).expect("open the gateway's log");
    product
        .command(lab, Host::Gateway, home)
        .args(["gateway", "run"])
        .stdout(log.try_clone().expect("duplicate"))
        .stderr(log)
        .process_group(0)
        .spawn()
        .expect("start the gateway")
}

/// Writes its configuration file, for its owner alone.
fn configure(product: Product, home: &tempfile::TempDir, text: &str) {
    use std::os::unix::fs::PermissionsExt as _;
    let folder = home.path().join(format!(".{}", product.name()));
    fs::create_dir(&folder).expect("make the gateway's folder");
    fs::set_permissions(&folder, fs::Permissions::from_mode(0o700)).expect("chmod");
    let config = folder.join(format!("{}.json", product.name()));
    fs::write(&config, text).expect("write the gateway's configuration");
    fs::set_permissions(&config, fs::Permissions::from_mode(0o600)).expect("chmod");
}

/// The first start takes most of a minute.
fn wait_for_gateway(product: Product, lab: &Lab, home: &tempfile::TempDir) {
    let deadline = Instant::now() + Duration::from_mins(3);
    let url = format!("http://127.0.0.1:18789{}", product.ready_path());
    loop {
        let answered = lab
            .command(Host::Gateway, "curl")
            .args(["-sSf", "-o", "/dev/null", "--max-time", "2", &url])
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
