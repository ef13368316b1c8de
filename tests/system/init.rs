//! `clawsec init`, as somebody uses it who has never seen clawsec.

use std::fs;
use std::net::TcpListener;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use xtask::lab::{CLIENT_INSIDE, Host, Lab};
use xtask::standin::Seen;

use super::daemon::{Daemon, UPSTREAM_TOKEN, clawsec, in_namespace, serve_stand_in};

#[test]
fn what_init_writes_starts_and_answers_to_the_printed_key() {
    let lab = Lab::of_this_process("init").expect("make the lab's namespaces");
    let seen = Arc::new(Seen::default());
    serve_stand_in(&lab, &seen);
    let mut daemon = Daemon::prepare(lab, seen, |_| {});
    for name in ["clawsec.json", "cert.pem", "key.pem"] {
        fs::remove_file(daemon.path(name)).unwrap();
        symlink(Path::new("etc/clawsec").join(name), daemon.path(name)).unwrap();
    }
    let theirs = daemon.path("openclaw.json");
    fs::write(
        &theirs,
        format!("{{ gateway: {{ auth: {{ token: '{UPSTREAM_TOKEN}' }} }} }}"),
    )
    .unwrap();

    let output = daemon
        .lab
        .command(Host::Gateway, &clawsec().to_string_lossy())
        .args(["init", "--name", "claw.example.org", "--gateway"])
        .arg(&theirs)
        .arg("--root")
        .arg(daemon.folder.path())
        // The network of the lab is a public one; the operator is at the allowed client.
        .env(
            "SSH_CONNECTION",
            format!("{CLIENT_INSIDE} 50000 192.0.2.1 22"),
        )
        .output()
        .expect("run clawsec init");
    let said = succeeded(&output);
    let key = line_after(&said, "key of \"owner\"").to_owned();
    let pin = said.lines().find(|line| line.contains("tlsFingerprint"));
    let pin = pin.expect("the fingerprint is printed").trim().to_owned();
    assert!(said.contains("\"deny\": [\"gateway\"]"), "{said}");
    assert!(
        !said.contains("\"bind\""),
        "loopback is its default: {said}"
    );
    for secret in [&key, UPSTREAM_TOKEN] {
        let config = fs::read_to_string(daemon.path("clawsec.json")).unwrap();
        assert!(!config.contains(secret), "no secret stands in the file");
    }
    assert!(!said.contains(UPSTREAM_TOKEN), "{said}");

    // The lab's cables are veths, which clawsec takes for a container's unless they are named.
    let interfaces = Lab::interfaces().map(|name| ["--interface", name]);
    daemon.spawn_with(interfaces.as_flattened(), &[]);
    let with_key = format!("X-API-Key: {key}");
    let deadline = Instant::now() + Duration::from_secs(30);
    while daemon.curl(Host::Inside, "/", &["-H", &with_key]).status != 200 {
        assert!(Instant::now() < deadline, "no answer:\n{}", daemon.log());
        std::thread::sleep(Duration::from_millis(100));
    }
    assert_eq!(
        daemon.curl(Host::Inside, "/", &[]).status,
        401,
        "without the key"
    );
    let log = daemon.log();
    let shown = log
        .lines()
        .find_map(|line| line.split_once("certificate sha256 "));
    let shown = shown.expect("the daemon says its fingerprint").1;
    assert_eq!(pin, format!("tlsFingerprint: \"{shown}\" }} }}"));
    assert!(
        !log.contains("WARN"),
        "a first start warns of nothing: {log}"
    );
}

#[test]
fn a_running_gateway_is_found_with_its_port_and_its_file() {
    let lab = Lab::of_this_process("initfind").expect("make the lab's namespaces");
    let home = tempfile::tempdir().unwrap();
    fs::create_dir(home.path().join(".openclaw")).unwrap();
    let file = home.path().join(".openclaw/openclaw.json");
    fs::write(&file, "{ gateway: { auth: { token: '${THEIR_TOKEN}' } } }").unwrap();
    // A program that does nothing, called as the gateway is, with its socket.
    let mut gateway = in_namespace(&lab, Host::Gateway, || {
        let listener = TcpListener::bind("0.0.0.0:28789").expect("bind");
        Command::new("sleep")
            .arg0("openclaw-gateway")
            .arg("600")
            .env_clear()
            .env("HOME", home.path())
            .env("THEIR_TOKEN", "a-token-of-the-found-gateway")
            .stdin(Stdio::from(OwnedFd::from(listener)))
            .spawn()
            .expect("start the stand-in")
    });
    let init = |arguments: &[&str]| {
        let mut command = lab.command(Host::Gateway, &clawsec().to_string_lossy());
        let command = command.arg("init").args(arguments).arg("--root");
        command.arg(home.path()).output().expect("run clawsec init")
    };
    let preview = succeeded(&init(&["--gateway", "--dry-run"]));
    assert!(
        !home.path().join("etc").exists(),
        "a dry run writes nothing"
    );
    assert!(
        preview.contains("upstream: \"http://127.0.0.1:28789\""),
        "{preview}"
    );
    assert!(
        preview.contains("upstreamToken: \"${secret:gateway-token}\""),
        "{preview}"
    );

    let said = succeeded(&init(&["--gateway"]));
    gateway.kill().expect("end the stand-in");
    gateway.wait().expect("reap the stand-in");
    let pid = gateway.id();
    assert!(
        said.contains(&format!("openclaw, process {pid}, {}", file.display())),
        "{said}"
    );
    assert!(said.contains("around clawsec, at 0.0.0.0:28789"), "{said}");
    let token = home.path().join("etc/clawsec/secrets/gateway-token");
    assert_eq!(
        fs::read_to_string(token).unwrap(),
        "a-token-of-the-found-gateway"
    );

    let again = init(&["--gateway", "/nowhere/openclaw.json"]);
    assert_eq!(again.status.code(), Some(1), "what exists is named first");
}

/// Root, with copies of `/etc`, `/var` and `/home` that are this test's own.
#[test]
fn init_makes_users_and_folders_and_overwrites_nothing() {
    let script = r#"
        set -e
        mkdir "$W/etc" && cp -a /etc/passwd /etc/group /etc/shadow /etc/gshadow /etc/login.defs \
            /etc/nsswitch.conf /etc/localtime "$W/etc" 2>/dev/null || true
        sed -i '/^clawsec/d' "$W"/etc/passwd "$W"/etc/group "$W"/etc/shadow "$W"/etc/gshadow
        mount --bind "$W/etc" /etc
        for d in /var/log /var/lib /home; do mount -t tmpfs tmpfs "$d"; done
        "$CLAWSEC" init
        stat -c '%a %U %n' /etc/clawsec/* /var/log/clawsec /var/lib/clawsec
        id -nu clawsec; id -nu clawsec-sbx; stat -c '%U %n' /home/clawsec-sbx
        cp /etc/clawsec/clawsec.json before
        set +e
        "$CLAWSEC" init; echo "again $?"
        cmp /etc/clawsec/clawsec.json before && echo same
        rm /etc/clawsec/clawsec.json /etc/clawsec/key.pem
        "$CLAWSEC" init; echo "half $?"
        test -e /etc/clawsec/clawsec.json || echo nothing
    "#;
    let folder = tempfile::tempdir().unwrap();
    let output = Command::new("unshare")
        .args(["--mount", "--propagation", "private", "sh", "-c", script])
        .current_dir(&folder)
        .env("W", folder.path())
        .env("CLAWSEC", fs::canonicalize(clawsec()).unwrap())
        .output()
        .expect("run unshare");
    let said = succeeded(&output);
    for expected in [
        "600 root /etc/clawsec/clawsec.json",
        "644 root /etc/clawsec/cert.pem",
        "600 root /etc/clawsec/key.pem",
        "700 root /etc/clawsec/secrets",
        "700 root /var/log/clawsec",
        "700 root /var/lib/clawsec",
        "made  user clawsec\n",
        "made  user clawsec-sbx\n",
        "clawsec-sbx /home/clawsec-sbx",
        "again 1",
        "same",
        "half 4",
        "nothing",
    ] {
        assert!(said.contains(expected), "{expected:?} in:\n{said}");
    }
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(
        errors.contains("clawsec.json exists and stays as it is"),
        "{errors}"
    );
    assert!(errors.contains("cert.pem is there without"), "{errors}");
    let mode = fs::metadata(folder.path().join("before"))
        .unwrap()
        .permissions()
        .mode();
    assert_eq!(mode & 0o777, 0o600);
}

fn succeeded(output: &Output) -> String {
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}\n{errors}");
    said
}

/// The line after the one that begins so, without its indent.
fn line_after<'a>(text: &'a str, start: &str) -> &'a str {
    let mut lines = text.lines().skip_while(|line| !line.starts_with(start));
    lines.next();
    lines.next().unwrap_or_default().trim()
}
