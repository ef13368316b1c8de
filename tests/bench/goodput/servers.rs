//! clawsec, and nginx behind nftables, with the same limits, in the lab's gateway host on CPU 0.

use std::fs;
use std::net::IpAddr;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};
use xtask::lab::{GATEWAY_INSIDE, Host, Lab, ensure_user};

use crate::setup::run;

pub(crate) const KEY: &str = "bench-key-of-thirty-two-characters";
/// New connections a minute of one source; the client opens its few once.
const CONNECTIONS: u32 = 600;
/// At once.
const AT_ONCE: u32 = 256;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Who {
    Clawsec,
    Nginx,
}

impl Who {
    pub(crate) const BOTH: [Self; 2] = [Self::Clawsec, Self::Nginx];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Clawsec => "clawsec",
            Self::Nginx => "nginx and nftables",
        }
    }
}

/// What both share.
pub(crate) struct World {
    pub(crate) lab: Lab,
    folder: tempfile::TempDir,
    upstream: Child,
}

impl World {
    pub(crate) fn new(lab: Lab) -> Result<Self> {
        ensure_user("clawsec", None)?;
        // Root's own, since clawsec refuses a configuration that others can write.
        let folder = tempfile::Builder::new()
            .prefix("clawsec-attack-")
            .tempdir_in("/run")
            .context("make a folder")?;
        let names = ["localhost".to_owned(), GATEWAY_INSIDE.to_owned()];
        let made = rcgen::generate_simple_self_signed(names).context("make a certificate")?;
        fs::write(folder.path().join("cert.pem"), made.cert.pem())?;
        fs::write(
            folder.path().join("key.pem"),
            made.signing_key.serialize_pem(),
        )?;
        let load = std::env::var_os("CLAWSEC_LOAD").context("CLAWSEC_LOAD is unset")?;
        let upstream = lab
            .command(Host::Gateway, "taskset")
            .args(["-c", "0"])
            .arg(load)
            .args(["upstream", "18789"])
            .spawn()
            .context("start what is behind")?;
        let world = Self {
            lab,
            folder,
            upstream,
        };
        world.write("clawsec.json", &world.clawsec().to_string())?;
        world.write("nginx.conf", &world.nginx())?;
        Ok(world)
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Addresses that attackers have on the inside host.
    pub(crate) fn add_addresses(&self, sources: &[IpAddr]) -> Result<()> {
        for source in sources {
            let address = format!("{source}/24");
            run(
                &self.lab,
                Host::Inside,
                "ip",
                &["addr", "add", &address, "dev", "eth0"],
            )?;
        }
        Ok(())
    }

    fn write(&self, name: &str, text: &str) -> Result<()> {
        fs::write(self.path(name), text).with_context(|| format!("write {name}"))
    }

    fn clawsec(&self) -> Value {
        let path = |name: &str| self.path(name).display().to_string();
        let rate = 1_000_000;
        json!({
            "gateway": {
                "listen": ["0.0.0.0:8443"],
                "upstream": "http://127.0.0.1:18789",
                "upstreamToken": "bench-upstream-token",
                "observe": false,
                "tls": { "cert": path("cert.pem"), "key": path("key.pem") },
                "admin": { "socket": path("admin.sock") },
            },
            "security": {
                "auth": { "type": "apiKey", "key": KEY },
                "network": { "allowedIPs": ["192.0.2.0/24"], "interfaces": Lab::interfaces() },
                // The client asks as often as it can; connections are what is limited.
                "rateLimit": { "requests": rate, "window": 60_000, "connections": CONNECTIONS,
                    // As `clawsec init` writes it.
                    "ban": { "after": 60, "for": 60_000 } },
                "audit": { "path": path("audit.log"), "events": ["auth", "message", "tool", "config"] },
            },
        })
    }

    /// nginx as one would set it up in this place: keys, limits, short deadlines for heads.
    fn nginx(&self) -> String {
        let folder = self.folder.path().display();
        format!(
            "daemon off; worker_processes 1; pid {folder}/nginx.pid; error_log {folder}/nginx.error.log;\n\
             events {{ worker_connections 4096; }}\n\
             http {{ access_log {folder}/nginx.access.log; keepalive_requests 1000000000;\n\
             client_header_timeout 10s; client_body_timeout 15s;\n\
             limit_conn_zone $binary_remote_addr zone=each:10m; limit_conn each {AT_ONCE};\n\
             map $http_upgrade $hop {{ default upgrade; '' ''; }}\n\
             map $http_x_api_key $known {{ default 0; '{KEY}' 1; }}\n\
             upstream behind {{ server 127.0.0.1:18789; keepalive 64; keepalive_requests 1000000000; }}\n\
             server {{ listen 8443 ssl http2; ssl_certificate {folder}/cert.pem;\n\
             ssl_certificate_key {folder}/key.pem; ssl_protocols TLSv1.2 TLSv1.3;\n\
             location / {{ if ($known = 0) {{ return 401; }}\n\
             proxy_pass http://behind; proxy_http_version 1.1;\n\
             proxy_set_header Upgrade $http_upgrade; proxy_set_header Connection $hop; }} }} }}\n"
        )
    }
}

impl Drop for World {
    fn drop(&mut self) {
        let _gone = self.upstream.kill();
        let _reaped = self.upstream.wait();
    }
}

/// The allowlist and the limit of connections, as early as nftables takes them.
const RULESET: &str = "table inet attack {
set allowed {
type ipv4_addr
flags interval
elements = { 192.0.2.0/24 }
}
set busy {
type ipv4_addr
size 65535
flags dynamic,timeout
timeout 60s
}
chain pre {
type filter hook prerouting priority raw
tcp dport 8443 ip saddr != @allowed counter drop
tcp dport 8443 tcp flags syn update @busy { ip saddr limit rate over 600/minute burst 600 packets } drop
}
}
";

/// A server that runs; stopped when dropped, its filter with it.
pub(crate) struct Server<'a> {
    who: Who,
    child: Child,
    world: &'a World,
    pins: PathBuf,
}

impl<'a> Server<'a> {
    pub(crate) fn start(world: &'a World, who: Who) -> Result<Self> {
        Self::start_with(world, who, &[])
    }

    /// clawsec, without its packet filter.
    pub(crate) fn start_without_filter(world: &'a World) -> Result<Self> {
        Self::start_with(world, Who::Clawsec, &["--no-xdp"])
    }

    fn start_with(world: &'a World, who: Who, arguments: &[&str]) -> Result<Self> {
        let pins = PathBuf::from("/sys/fs/bpf").join(world.lab.name());
        let log = fs::File::create(world.path("server.log"))?;
        // Bans are kept: this one knows nobody yet.
        if world.path("state").exists() {
            fs::remove_dir_all(world.path("state")).context("forget what was kept")?;
        }
        let mut command = world.lab.command(Host::Gateway, "taskset");
        command.args(["-c", "0"]);
        match who {
            Who::Clawsec => {
                let program = std::env::var_os("CLAWSEC_BIN").context("CLAWSEC_BIN is unset")?;
                command
                    .arg(program)
                    .arg("run")
                    .args(arguments)
                    .arg("--config");
                command
                    .arg(world.path("clawsec.json"))
                    .arg("--pin-dir")
                    .arg(&pins);
                command.arg("--state-dir").arg(world.path("state"));
            }
            Who::Nginx => {
                // A program that went took the frames' way into the stack with it: open it anew.
                for interface in Lab::interfaces() {
                    for state in ["off", "on"] {
                        let arguments = ["-K", interface, "gro", state];
                        run(&world.lab, Host::Gateway, "ethtool", &arguments)
                            .context("needs ethtool (Debian: apt-get install ethtool)")?;
                    }
                }
                run(&world.lab, Host::Gateway, "nft", &[RULESET])
                    .context("needs nftables (Debian: apt-get install nftables)")?;
                command.args(["nginx", "-c"]).arg(world.path("nginx.conf"));
            }
        }
        let child = command
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .with_context(|| format!("start {}", who.name()))?;
        let server = Self {
            who,
            child,
            world,
            pins,
        };
        server.await_answer()?;
        Ok(server)
    }

    fn await_answer(&self) -> Result<()> {
        let deadline = Instant::now() + Duration::from_secs(20);
        loop {
            let asked = self
                .world
                .lab
                .command(Host::Inside, "curl")
                .args(["-skf", "--max-time", "2", "-o", "/dev/null", "-H"])
                .arg(format!("X-API-Key: {KEY}"))
                .arg(format!("https://{GATEWAY_INSIDE}:8443/"))
                .status();
            if asked.is_ok_and(|status| status.success()) {
                return Ok(());
            }
            let log = fs::read_to_string(self.world.path("server.log")).unwrap_or_default();
            ensure!(
                Instant::now() < deadline,
                "{} does not answer:\n{log}",
                self.who.name()
            );
            std::thread::sleep(Duration::from_millis(100));
        }
    }

    /// Packets that its filter dropped because their source is not allowed.
    pub(crate) fn dropped(&self, world: &World) -> Result<u64> {
        match self.who {
            Who::Nginx => {
                let shown = run(&world.lab, Host::Gateway, "nft", &["list", "ruleset"])?;
                let rule = shown.lines().find(|line| line.contains("counter packets"));
                let rule = rule.context("no counter")?;
                let mut words = rule
                    .split_whitespace()
                    .skip_while(|word| *word != "packets");
                words
                    .nth(1)
                    .context("no number")?
                    .parse()
                    .context("read the counter")
            }
            Who::Clawsec => {
                let program = std::env::var_os("CLAWSEC_BIN").context("CLAWSEC_BIN is unset")?;
                let output = Command::new(program)
                    .args(["status", "--json", "--config"])
                    .arg(world.path("clawsec.json"))
                    .output()
                    .context("run clawsec status")?;
                let status: Value =
                    serde_json::from_slice(&output.stdout).context("read the status")?;
                let reasons = status["reasons"].as_array().context("no reasons")?;
                let found = reasons
                    .iter()
                    .find(|reason| reason["name"] == "not_allowed");
                found
                    .and_then(|reason| reason["packets"].as_u64())
                    .context("no counter")
            }
        }
    }
}

impl Drop for Server<'_> {
    fn drop(&mut self) {
        let _told = Command::new("kill")
            .args(["-TERM", &self.child.id().to_string()])
            .status();
        let _reaped = self.child.wait();
        match self.who {
            Who::Nginx => {
                let _gone = run(&self.world.lab, Host::Gateway, "nft", &["flush", "ruleset"]);
            }
            Who::Clawsec => {
                let program = std::env::var_os("CLAWSEC_BIN").unwrap_or_default();
                let _gone = Command::new(program)
                    .args(["detach", "--pin-dir"])
                    .arg(&self.pins)
                    .output();
            }
        }
    }
}
