//! `cargo xtask run`: the daemon in a network of its own, with something to try.
//!
//! Everything happens in namespaces that are removed at the end: no interface, route or firewall
//! of the machine is touched, and XDP never sees the uplink.

use std::fs;
use std::io::Write as _;
use std::net::TcpListener;
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use xtask::lab::{self, Host, Lab, ensure_user};
use xtask::say;
use xtask::standin::{self, Seen};

use crate::build;

pub(crate) const UPSTREAM_TOKEN: &str = "stand-in-upstream-token";
const UPSTREAM: &str = "127.0.0.1:18789";

/// Sets up, starts, prints what to try, and waits for Ctrl-C.
pub(crate) fn run(upstream: Option<&str>) -> anyhow::Result<()> {
    if !crate::tiers::is_root()? {
        bail!(
            "the demo loads a BPF program and makes network namespaces: run it as root, \
               `sudo -E env PATH=\"$PATH\" cargo xtask run`"
        );
    }
    let clawsec = build::build(false)?;
    ensure_user("clawsec", None)?;
    ensure_user("clawsec-sbx", Some("/home/clawsec-sbx"))?;
    let lab = Lab::new("clawsec")?;
    let folder = Folder::new()?;
    let provider = choose_provider(&clawsec);
    let key = random_key()?;
    folder.fill(&key, provider, upstream)?;

    let mut children = Children(Vec::new());
    if upstream.is_none() {
        let this = std::env::current_exe().context("find this program")?;
        let mut standin = lab.command(Host::Gateway, &this.to_string_lossy());
        children.0.push(
            standin
                .arg("stand-in")
                .spawn()
                .context("start the stand-in gateway")?,
        );
    }
    let mut daemon = lab.command(Host::Gateway, &clawsec.to_string_lossy());
    daemon
        .arg("run")
        .arg("--config")
        .arg(folder.0.join("clawsec.json"))
        .args(["--pin-dir", "/sys/fs/bpf/clawsec-demo"])
        .arg("--state-dir")
        .arg(folder.0.join("state"))
        .env("CLAWSEC_DEMO_KEY", &key);
    children.0.push(daemon.spawn().context("start clawsec")?);
    wait_until_ready(&lab, &folder, &key, &mut children)?;
    print_what_to_try(&lab, &clawsec, &folder, &key, provider)?;

    let (sender, receiver) = std::sync::mpsc::channel();
    ctrlc::set_handler(move || {
        // A second Ctrl-C finds the receiver gone; the first is enough.
        let _stopping = sender.send(());
    })
    .context("listen for Ctrl-C")?;
    loop {
        if receiver.recv_timeout(Duration::from_millis(300)).is_ok() {
            break;
        }
        if children.any_ended() {
            bail!("a process of the demo ended by itself; its last lines are above");
        }
    }
    say("stopping; the demo's network and files are removed");
    Ok(())
}

/// `xtask stand-in`, inside the gateway host.
pub(crate) fn stand_in() -> anyhow::Result<()> {
    let listener = TcpListener::bind(UPSTREAM).with_context(|| format!("listen on {UPSTREAM}"))?;
    standin::serve(&listener, UPSTREAM_TOKEN, &Arc::new(Seen::default()));
    Ok(())
}

/// /run/clawsec-demo: root's own, since a configuration that others can write is refused.
struct Folder(PathBuf);

impl Folder {
    fn new() -> anyhow::Result<Self> {
        let path = PathBuf::from("/run/clawsec-demo");
        if path.exists() {
            fs::remove_dir_all(&path).context("remove the files of an earlier demo")?;
        }
        fs::DirBuilder::new()
            .mode(0o700)
            .create(&path)
            .context("create /run/clawsec-demo")?;
        Ok(Self(path))
    }

    fn fill(&self, key: &str, provider: &str, upstream: Option<&str>) -> anyhow::Result<()> {
        let names = ["localhost", lab::GATEWAY_INSIDE, lab::GATEWAY_OUTSIDE].map(str::to_owned);
        let certificate =
            rcgen::generate_simple_self_signed(names).context("make a certificate")?;
        self.write("cert.pem", &certificate.cert.pem())?;
        self.write("key.pem", &certificate.signing_key.serialize_pem())?;
        self.write("api-key", key)?;
        // The stand-in tells its operators nothing.
        let is_real = upstream.is_some();
        let upstream = upstream.unwrap_or("http://127.0.0.1:18789");
        let config = include_str!("demo.json5")
            .replace("@FOLDER@", &self.0.display().to_string())
            .replace("@ALLOWED@", "192.0.2.0/24")
            .replace("@UPSTREAM@", upstream)
            .replace("@UPSTREAM_TOKEN@", UPSTREAM_TOKEN)
            .replace("@OBSERVE@", &is_real.to_string())
            .replace("@PROVIDER@", provider);
        self.write("clawsec.json", &config)
    }

    fn write(&self, name: &str, text: &str) -> anyhow::Result<()> {
        let path = self.0.join(name);
        fs::OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&path)
            .and_then(|mut file| file.write_all(text.as_bytes()))
            .with_context(|| format!("write {}", path.display()))
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        // What cannot be removed is replaced by the next demo.
        let _kept = fs::remove_dir_all(&self.0);
    }
}

/// Stops the demo's processes when dropped: the daemon by SIGTERM, so that it detaches.
struct Children(Vec<Child>);

impl Children {
    fn any_ended(&mut self) -> bool {
        self.0
            .iter_mut()
            .any(|child| !matches!(child.try_wait(), Ok(None)))
    }
}

impl Drop for Children {
    fn drop(&mut self) {
        for child in self.0.iter_mut().rev() {
            let pid = child.id().to_string();
            let _gone = Command::new("kill")
                .args(["-TERM", &pid])
                .stderr(Stdio::null())
                .status();
            let deadline = Instant::now() + Duration::from_secs(15);
            while matches!(child.try_wait(), Ok(None)) && Instant::now() < deadline {
                std::thread::sleep(Duration::from_millis(50));
            }
            let _dead = child.kill();
            let _reaped = child.wait();
        }
    }
}

/// The best provider that works here; the demo says which and why not a better one.
fn choose_provider(clawsec: &Path) -> &'static str {
    if Path::new("/var/run/docker.sock").exists() && Path::new("/bin/busybox").exists() {
        let image = Command::new(clawsec).args(["sandbox", "image"]).status();
        if image.is_ok_and(|status| status.success()) {
            return "docker";
        }
        say("docker is here but its image could not be made; trying firejail");
    }
    if Path::new("/usr/bin/firejail").exists() {
        return "firejail";
    }
    say(
        "neither docker (with busybox-static) nor firejail is here: tools run as an ordinary \
         user without a sandbox",
    );
    "none"
}

fn random_key() -> anyhow::Result<String> {
    use std::io::Read as _;
    let mut bytes = [0; 24];
    fs::File::open("/dev/urandom")
        .and_then(|mut file| file.read_exact(&mut bytes))
        .context("read /dev/urandom")?;
    Ok(bytes.iter().fold(String::from("demo-"), |text, byte| {
        format!("{text}{byte:02x}")
    }))
}

fn wait_until_ready(
    lab: &Lab,
    folder: &Folder,
    key: &str,
    children: &mut Children,
) -> anyhow::Result<()> {
    let deadline = Instant::now() + Duration::from_secs(30);
    while Instant::now() < deadline {
        if children.any_ended() {
            bail!("clawsec did not start; its error is above");
        }
        let answered = curl(lab, folder)
            .args(["--output", "/dev/null", "-H", &format!("X-API-Key: {key}")])
            .arg(format!("https://{}:8443/", lab::GATEWAY_INSIDE))
            .stderr(Stdio::null())
            .status();
        if answered.is_ok_and(|status| status.success()) {
            return Ok(());
        }
        std::thread::sleep(Duration::from_millis(200));
    }
    bail!("clawsec did not answer within 30 seconds")
}

fn curl(lab: &Lab, folder: &Folder) -> Command {
    let mut command = lab.command(Host::Inside, "curl");
    command
        .args(["-sS", "--max-time", "5", "--cacert"])
        .arg(folder.0.join("cert.pem"));
    command
}

fn print_what_to_try(
    lab: &Lab,
    clawsec: &Path,
    folder: &Folder,
    key: &str,
    provider: &str,
) -> anyhow::Result<()> {
    let inside = format!("nsenter --net={} ", lab.path(Host::Inside).display());
    let outside = format!("nsenter --net={} ", lab.path(Host::Outside).display());
    let folder = folder.0.display();
    let text = include_str!("demo.txt")
        .replace("@INSIDE@", &inside)
        .replace("@OUTSIDE@", &outside)
        .replace("@KEY@", key)
        .replace("@FOLDER@", &folder.to_string())
        .replace("@PROVIDER@", provider)
        .replace("@CLAWSEC@", &clawsec.display().to_string());
    std::io::stdout()
        .write_all(text.as_bytes())
        .context("print")
}
