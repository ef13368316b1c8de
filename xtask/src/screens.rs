//! `cargo xtask screens`: takes the screens of a daemon with something to show, for `docs/screens`.
//!
//! Like the demo it lives in namespaces of its own. What is on the screens happens here: requests,
//! refusals, drops of several strangers, a ban, an execution that still runs.

use std::fs;
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail, ensure};
use xtask::lab::{self, Host, Lab, ensure_user};
use xtask::say;

use crate::build;

const KEY: &str = "screens-key-of-thirty-two-letters";
const PHONE: &str = "screens-key-of-somebodys-telephone";
const TOKEN: &str = "screens-token-of-the-admin-page";
const METRICS: &str = "127.0.0.1:9464";
/// Long enough for the lines of the page to have a shape.
const SHOWN: Duration = Duration::from_secs(100);

/// Takes every screen anew.
pub(crate) fn run(chromium: &str) -> anyhow::Result<()> {
    if !crate::tiers::is_root()? {
        bail!("the screens are of a real daemon: run it as root");
    }
    let clawsec = build::build(false)?;
    let top = clawsec.with_file_name("clawsec-top");
    ensure_user("clawsec", None)?;
    ensure_user("clawsec-sbx", Some("/home/clawsec-sbx"))?;
    let world = World::new(clawsec)?;
    let _standin = world.stand_in()?;
    let _daemon = world.daemon()?;
    world.wait()?;
    let _execution = world.live_for(SHOWN)?;

    let screens = xtask::root().join("docs/screens");
    fs::create_dir_all(&screens).context("create docs/screens")?;
    let status = world.output(Command::new(&world.clawsec).arg("status"))?;
    fs::write(screens.join("status.txt"), status).context("write status.txt")?;
    let once = world.output(Command::new(top).arg("--once"))?;
    fs::write(screens.join("top.txt"), once).context("write top.txt")?;
    world.report()?;
    let page = format!("http://operator:{TOKEN}@{METRICS}/");
    let report = format!("file://{}", world.folder.join("report.html").display());
    for (name, page, size, scheme) in [
        ("page-light.png", &page, "980,760", 1),
        ("page-dark.png", &page, "980,760", 0),
        ("page-phone.png", &page, "390,840", 1),
        ("report-light.png", &report, "1280,3700", 1),
        ("report-dark.png", &report, "1280,3700", 0),
        ("report-phone.png", &report, "390,8200", 1),
    ] {
        world.picture(chromium, page, &screens.join(name), size, scheme)?;
    }
    say(&format!("the screens are in {}", screens.display()));
    Ok(())
}

struct World {
    lab: Lab,
    folder: PathBuf,
    clawsec: PathBuf,
}

/// A process of this world, ended with it.
struct Ended(Child);

impl Drop for Ended {
    fn drop(&mut self) {
        let pid = self.0.id().to_string();
        let _gone = Command::new("kill").args(["-TERM", &pid]).status();
        let deadline = Instant::now() + Duration::from_secs(15);
        while matches!(self.0.try_wait(), Ok(None)) && Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(50));
        }
        let _dead = self.0.kill();
        let _reaped = self.0.wait();
    }
}

impl Drop for World {
    fn drop(&mut self) {
        // What cannot be removed is replaced by the next run.
        let _kept = fs::remove_dir_all(&self.folder);
    }
}

impl World {
    fn new(clawsec: PathBuf) -> anyhow::Result<Self> {
        let folder = PathBuf::from("/run/clawsec-screens");
        if folder.exists() {
            fs::remove_dir_all(&folder).context("remove the files of an earlier run")?;
        }
        fs::DirBuilder::new()
            .mode(0o700)
            .create(&folder)
            .context("create /run/clawsec-screens")?;
        let world = Self {
            lab: Lab::new("clawsec-screens")?,
            folder,
            clawsec,
        };
        let names = ["localhost", lab::GATEWAY_INSIDE].map(str::to_owned);
        let made = rcgen::generate_simple_self_signed(names).context("make a certificate")?;
        world.write("cert.pem", &made.cert.pem())?;
        world.write("key.pem", &made.signing_key.serialize_pem())?;
        world.write("clawsec.json", &world.config().to_string())?;
        Ok(world)
    }

    fn config(&self) -> serde_json::Value {
        let path = |name: &str| self.folder.join(name).display().to_string();
        serde_json::json!({
            "gateway": {
                "listen": ["0.0.0.0:8443"],
                "upstream": "http://127.0.0.1:18789",
                "upstreamToken": crate::demo::UPSTREAM_TOKEN,
                "observe": false,
                "tls": { "cert": path("cert.pem"), "key": path("key.pem") },
                "admin": { "socket": path("admin.sock"), "metrics": METRICS, "token": TOKEN },
            },
            "security": {
                "auth": { "type": "token", "tokens": [
                    { "id": "laptop", "token": KEY, "scopes": ["operator.admin"] },
                    { "id": "phone", "token": PHONE, "scopes": ["operator.admin"] },
                ] },
                "network": {
                    "allowedIPs": ["192.0.2.0/24"],
                    "interfaces": ["inside", "outside"],
                    "onExit": "detach",
                },
                "rateLimit": { "enabled": true, "requests": 100_000, "window": 60000 },
                "sandbox": { "enabled": true, "provider": "firejail", "timeout": 300_000 },
                "audit": { "enabled": true, "path": path("audit.log"), "interval": 1000 },
            },
            "tools": { "deny": ["browser"] },
        })
    }

    fn write(&self, name: &str, text: &str) -> anyhow::Result<()> {
        use std::io::Write as _;
        let path = self.folder.join(name);
        fs::OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&path)
            .and_then(|mut file| file.write_all(text.as_bytes()))
            .with_context(|| format!("write {}", path.display()))
    }

    fn stand_in(&self) -> anyhow::Result<Ended> {
        let this = std::env::current_exe().context("find this program")?;
        let mut command = self.lab.command(Host::Gateway, &this.to_string_lossy());
        let child = command.arg("stand-in").spawn();
        Ok(Ended(child.context("start the stand-in gateway")?))
    }

    fn daemon(&self) -> anyhow::Result<Ended> {
        let clawsec = self.clawsec.to_string_lossy();
        let child = self
            .lab
            .command(Host::Gateway, &clawsec)
            .arg("run")
            .arg("--config")
            .arg(self.folder.join("clawsec.json"))
            .args(["--pin-dir", "/sys/fs/bpf/clawsec-screens"])
            .arg("--state-dir")
            .arg(self.folder.join("state"))
            .spawn();
        Ok(Ended(child.context("start clawsec")?))
    }

    fn wait(&self) -> anyhow::Result<()> {
        let deadline = Instant::now() + Duration::from_secs(30);
        while Instant::now() < deadline {
            if self.get(KEY, "/") == "200" {
                return Ok(());
            }
            std::thread::sleep(Duration::from_millis(200));
        }
        bail!("clawsec did not answer within 30 seconds")
    }

    /// A while of everything; the execution that is returned goes on.
    fn live_for(&self, time: Duration) -> anyhow::Result<Ended> {
        let ban = self
            .clawsec(&[
                "ban",
                "add",
                "203.0.113.0/24",
                "--for",
                "2h",
                "--note",
                "a scan",
            ])
            .status();
        ensure!(
            ban.is_ok_and(|status| status.success()),
            "the ban was refused"
        );
        for n in 2..6 {
            self.stranger_address(n)?;
        }
        let execution = self
            .curl(PHONE)
            .args(["--max-time", "280", "--json"])
            .arg(r#"{"tool":"exec","args":{"command":"sleep 250"}}"#)
            .arg(url("/tools/invoke"))
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .context("start curl")?;
        let execution = Ended(execution);
        let end = Instant::now() + time;
        let mut turn: u32 = 0;
        while Instant::now() < end {
            turn += 1;
            self.get(KEY, "/");
            if turn.is_multiple_of(3) {
                self.get("a-key-that-nobody-has-given-out", "/");
            }
            if turn.is_multiple_of(7) {
                let denied = self
                    .curl(KEY)
                    .args(["--json", r#"{"tool":"browser"}"#])
                    .arg(url("/tools/invoke"))
                    .stdout(Stdio::null())
                    .status();
                denied.context("run curl")?;
            }
            self.strangers(turn);
        }
        Ok(execution)
    }

    fn stranger_address(&self, n: u32) -> anyhow::Result<()> {
        let address = format!("198.51.100.{n}/24");
        // The first is the host's own.
        let _there = self
            .lab
            .command(Host::Outside, "ip")
            .args(["address", "add", &address, "dev", "eth0"])
            .stderr(Stdio::null())
            .status()
            .context("run ip")?;
        Ok(())
    }

    /// Tries of one stranger, more or fewer by the turn.
    fn strangers(&self, turn: u32) {
        let source = format!("198.51.100.{}", 2 + turn % 4);
        let tries = 1 + (turn / 9) % 5;
        for _ in 0..tries {
            let _dropped = self
                .lab
                .command(Host::Outside, "curl")
                .args(["-s", "--interface", &source, "--connect-timeout", "0.05"])
                .arg(format!("https://{}:8443/", lab::GATEWAY_OUTSIDE))
                .status();
        }
    }

    fn get(&self, key: &str, path: &str) -> String {
        let output = self
            .curl(key)
            .args(["--max-time", "5", "-o", "/dev/null", "-w", "%{http_code}"])
            .arg(url(path))
            .stderr(Stdio::null())
            .output();
        output.map_or_else(
            |_not_run| String::new(),
            |output| String::from_utf8_lossy(&output.stdout).into_owned(),
        )
    }

    fn curl(&self, key: &str) -> Command {
        let mut command = self.lab.command(Host::Inside, "curl");
        command
            .args(["-s", "--cacert"])
            .arg(self.folder.join("cert.pem"))
            .args(["-H", &format!("X-API-Key: {key}")]);
        command
    }

    fn clawsec(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(&self.clawsec);
        command
            .args(arguments)
            .args(["--socket"])
            .arg(self.socket());
        command
    }

    fn socket(&self) -> PathBuf {
        self.folder.join("admin.sock")
    }

    fn output(&self, command: &mut Command) -> anyhow::Result<Vec<u8>> {
        let output = command
            .arg("--socket")
            .arg(self.socket())
            .stderr(Stdio::inherit())
            .output()
            .context("take a screen")?;
        ensure!(output.status.success(), "a screen could not be taken");
        Ok(output.stdout)
    }

    /// Of a day and a half as the example makes it: what happens here is over in two minutes.
    fn report(&self) -> anyhow::Result<()> {
        let log = self.folder.join("report.log");
        let made = Command::new(env!("CARGO"))
            .current_dir(xtask::root())
            .args(["run", "--quiet", "--package", "clawsec-user"])
            .args(["--example", "audit_log", "--"])
            .arg(&log)
            .arg("100000000")
            .env(build::OBJECT, xtask::root().join("target/bpf/clawsec.o"))
            .status()
            .context("run the example audit_log")?;
        ensure!(made.success(), "the log of the report could not be made");
        let config = self.folder.join("report.json");
        let mut document = self.config();
        document["security"]["audit"]["path"] = log.display().to_string().into();
        fs::write(&config, document.to_string()).context("write report.json")?;
        let reported = Command::new(&self.clawsec)
            .args([
                "audit",
                "report",
                "--html",
                "--since",
                "2026-01-02",
                "--config",
            ])
            .arg(config)
            .arg("--out")
            .arg(self.folder.join("report.html"))
            .status()
            .context("run clawsec audit report")?;
        ensure!(reported.success(), "the report was not made");
        Ok(())
    }

    fn picture(
        &self,
        chromium: &str,
        page: &str,
        file: &Path,
        size: &str,
        scheme: u8,
    ) -> anyhow::Result<()> {
        let taken = self
            .lab
            .command(Host::Gateway, chromium)
            .args([
                "--headless",
                "--no-sandbox",
                "--disable-gpu",
                "--hide-scrollbars",
            ])
            .arg(format!(
                "--user-data-dir={}",
                self.folder.join("chromium").display()
            ))
            .arg(format!("--blink-settings=preferredColorScheme={scheme}"))
            .arg(format!("--screenshot={}", file.display()))
            .arg(format!("--window-size={size}"))
            .arg(page)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status()
            .context("run chromium")?;
        ensure!(taken.success() && file.exists(), "chromium took no picture");
        Ok(())
    }
}

fn url(path: &str) -> String {
    format!("https://{}:8443{path}", lab::GATEWAY_INSIDE)
}
