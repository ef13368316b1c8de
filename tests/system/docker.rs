//! A dockerd for the tests: the one that is named, or one of our own that dies with us.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use clawsec_user::sandbox::build_image;
use tokio::sync::OnceCell;

static SOCKET: OnceCell<PathBuf> = OnceCell::const_new();

/// The image that the tests run tools in.
pub(crate) const IMAGE: &str = "clawsec-test/sandbox";

/// The socket of a daemon that has the tests' image.
pub(crate) async fn socket_with_image() -> PathBuf {
    let start = || async {
        let socket = match std::env::var_os("CLAWSEC_TEST_DOCKER") {
            Some(socket) => PathBuf::from(socket),
            None => start().await,
        };
        build_image(&socket, IMAGE, None)
            .await
            .unwrap_or_else(|error| panic!("build the test image: {}", chain(&error)));
        socket
    };
    SOCKET.get_or_init(start).await.clone()
}

/// Runs `docker` against the tests' daemon and returns what it prints.
pub(crate) fn docker(socket: &Path, arguments: &[&str]) -> String {
    let output = Command::new("docker")
        .arg("--host")
        .arg(format!("unix://{}", socket.display()))
        .args(arguments)
        .output()
        .unwrap();
    assert!(output.status.success(), "docker {arguments:?}: {output:?}");
    String::from_utf8(output.stdout).unwrap()
}

/// Starts a daemon that touches no host network: no bridge, no packet filter rules.
async fn start() -> PathBuf {
    remove_stale();
    start_in(&folder("")).await
}

/// A folder of this process that the next run removes.
pub(crate) fn folder(suffix: &str) -> PathBuf {
    PathBuf::from(format!(
        "/tmp/clawsec-test-docker-{}{suffix}",
        std::process::id()
    ))
}

/// Starts one with everything it has in this folder, its process number in `pid`; again, where it
/// was killed.
pub(crate) async fn start_in(dir: &Path) -> PathBuf {
    std::fs::create_dir_all(dir).unwrap();
    let socket = dir.join("docker.sock");
    let path = |name: &str| dir.join(name).display().to_string();
    let arguments = [
        "--pdeathsig".to_owned(),
        "TERM".into(),
        "dockerd".into(),
        format!("--host=unix://{}", socket.display()),
        format!("--data-root={}", path("data")),
        format!("--exec-root={}", path("exec")),
        format!("--pidfile={}", path("pid")),
        "--bridge=none".into(),
        "--iptables=false".into(),
    ];
    let log = std::fs::File::create(dir.join("log")).unwrap();
    // The death signal comes when the thread that started it ends, so that thread never does.
    std::thread::spawn(move || {
        let mut daemon = Command::new("setpriv")
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .unwrap();
        daemon.wait().unwrap();
    });
    let deadline = Instant::now() + Duration::from_mins(1);
    while std::os::unix::net::UnixStream::connect(&socket).is_err() {
        let log = std::fs::read_to_string(dir.join("log")).unwrap_or_default();
        assert!(Instant::now() < deadline, "dockerd did not start:\n{log}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    socket
}

/// A daemon ends after the tests that started it, so only the next run can remove its files.
fn remove_stale() {
    for entry in std::fs::read_dir("/tmp").unwrap().flatten() {
        let name = entry.file_name();
        let pid = name
            .to_str()
            .and_then(|name| name.strip_prefix("clawsec-test-docker-"))
            .and_then(|rest| rest.split('-').next());
        if pid.is_some_and(|pid| !Path::new("/proc").join(pid).exists()) {
            // Something may still be mounted there; then the run after this one does it.
            std::fs::remove_dir_all(entry.path()).ok();
        }
    }
}

/// An error and its causes on one line.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text = format!("{text}: {cause}");
        source = cause.source();
    }
    text
}
