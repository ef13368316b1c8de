//! How the filter gets onto interfaces and stays there: modes, interfaces that go and come back,
//! and the two guards against locking oneself out.

use std::process::Stdio;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use xtask::lab::{self, Host};

use super::daemon::Daemon;
use super::traffic::{self, Namespaces, under_traffic};

const TIMED_OUT: i32 = 28;

fn prepared(name: &str, edit: impl FnOnce(&mut Value)) -> Daemon {
    let mut daemon = Daemon::start(name, edit);
    daemon.stop();
    daemon.detach();
    daemon
}

fn modes(daemon: &Daemon) -> Vec<String> {
    let status = daemon.status();
    let interfaces = status["interfaces"].as_array().expect("a list");
    interfaces
        .iter()
        .map(|interface| interface["mode"].as_str().expect("a mode").to_owned())
        .collect()
}

fn allow(config: &mut Value, prefixes: &[&str]) {
    config["security"]["network"]["allowedIPs"] = json!(prefixes);
}

#[test]
fn the_mode_changes_under_traffic_without_a_gap() {
    let mut daemon = Daemon::start("modes", |config| {
        config["security"]["rateLimit"]["connections"] = json!(1_000_000);
    });
    assert_eq!(modes(&daemon), ["native", "native"]);
    let hosts = Namespaces::of(&daemon.lab);
    let outcome = under_traffic(&hosts, traffic::Daemon::Restarts, || {
        for mode in ["generic", "native", "tcx", "generic", "tcx", "native"] {
            daemon.stop();
            daemon.rewrite_config(|config| {
                config["security"]["network"]["mode"] = json!(mode);
            });
            daemon.launch();
            assert_eq!(modes(&daemon), [mode, mode]);
            assert_eq!(daemon.get(Host::Outside, "/").exit, TIMED_OUT, "{mode}");
        }
    });
    assert!(outcome.wrong.is_empty(), "{:?}", outcome.wrong);
    assert!(outcome.denied_tries > 50, "{outcome:?}");
}

#[test]
fn an_interface_that_comes_back_is_filtered_again_and_the_gap_recorded() {
    let daemon = Daemon::start("vanish", |_| {});
    let gateway = daemon.lab.namespace(Host::Gateway);
    let ip = |arguments: &[&str]| {
        let mut command = std::process::Command::new("ip");
        let status = command.args(arguments).status().expect("run ip");
        assert!(status.success(), "ip {arguments:?}");
    };
    ip(&["-n", &gateway, "link", "del", "outside"]);
    daemon.await_record("the interface's end", |record| {
        record["reason"] == "interface_gone" && record["event"] == "system"
    });
    let peer = daemon.lab.namespace(Host::Outside);
    ip(&[
        "-n", &gateway, "link", "add", "outside", "type", "veth", "peer", "name", "eth0", "netns",
        &peer,
    ]);
    for (namespace, device, address) in [
        (&gateway, "outside", lab::GATEWAY_OUTSIDE),
        (&peer, "eth0", lab::CLIENT_OUTSIDE),
    ] {
        let address = format!("{address}/24");
        ip(&["-n", namespace, "addr", "add", &address, "dev", device]);
        ip(&["-n", namespace, "link", "set", device, "up"]);
    }
    let back = daemon.await_record("the interface's return", |record| {
        record["reason"] == "interface_back"
    });
    let detail = back["detail"].as_str().expect("a detail");
    assert!(
        detail.starts_with("outside is back and filtered (native) after "),
        "{detail}"
    );
    assert_eq!(
        daemon.get(Host::Outside, "/").exit,
        TIMED_OUT,
        "filtered again"
    );
    assert_eq!(daemon.get(Host::Inside, "/").status, 200);
    assert_eq!(modes(&daemon), ["native", "native"]);
}

#[test]
fn an_unconfirmed_first_policy_is_detached() {
    let mut daemon = prepared("unconf", |_| {});
    daemon.spawn_with(&["--confirm", "3"], &[]);
    assert_eq!(daemon.await_end(), Some(1), "{}", daemon.log());
    let record = daemon.await_record("the roll-back", |record| record["reason"] == "unconfirmed");
    let detail = record["detail"].as_str().expect("a detail");
    assert!(detail.contains("the packet filter is removed"), "{detail}");
    assert!(!daemon.pin_dir.exists());
}

#[test]
fn an_unconfirmed_start_leaves_the_earlier_policy_in_the_kernel() {
    let mut daemon = Daemon::start("unconf2", |_| {});
    daemon.stop();
    daemon.rewrite_config(|config| allow(config, &["192.0.2.0/24", "198.51.100.0/24"]));
    daemon.launch_with(&["--confirm", "4"]);
    assert_eq!(daemon.get(Host::Outside, "/").status, 200, "the new policy");
    assert_eq!(daemon.await_end(), Some(1), "{}", daemon.log());
    daemon.await_record("the roll-back", |record| {
        let detail = record["detail"].as_str().unwrap_or_default();
        record["reason"] == "unconfirmed" && detail.ends_with("generation 1 is in force again")
    });
    // Nobody listens any more: an allowed packet is answered by a reset, a denied one by nothing.
    assert_eq!(daemon.get(Host::Inside, "/").exit, 7);
    assert_eq!(daemon.get(Host::Outside, "/").exit, TIMED_OUT);
}

#[test]
fn a_reload_is_taken_back_unless_confirmed_and_meanwhile_no_other_is_taken() {
    let mut daemon = prepared("probation", |_| {});
    daemon.launch_with(&["--confirm", "8"]);
    let confirmed = daemon.clawsec(&["confirm"]);
    assert!(confirmed.status.success(), "{confirmed:?}");
    daemon.await_record("the word", |record| record["reason"] == "confirmed");
    let nothing = daemon.clawsec(&["confirm"]);
    assert_eq!(nothing.status.code(), Some(1), "nothing waits: {nothing:?}");

    let before = daemon.status()["generation"].clone();
    daemon.rewrite_config(|config| allow(config, &["192.0.2.0/24", "198.51.100.0/24"]));
    daemon.hang_up();
    let deadline = Instant::now() + Duration::from_secs(5);
    while daemon.status()["generation"] == before {
        assert!(Instant::now() < deadline, "{}", daemon.log());
        std::thread::sleep(Duration::from_millis(20));
    }
    assert_eq!(daemon.get(Host::Outside, "/").status, 200, "on probation");
    daemon.rewrite_config(|config| allow(config, &["192.0.2.0/24"]));
    daemon.hang_up();
    daemon.await_record("the refusal", |record| {
        let detail = record["detail"].as_str().unwrap_or_default();
        record["reason"] == "configuration_refused"
            && detail.contains("waits for `clawsec confirm`")
    });
    daemon.await_record("the roll-back", |record| record["reason"] == "unconfirmed");
    assert_eq!(daemon.status()["generation"], before);
    assert_eq!(daemon.get(Host::Outside, "/").exit, TIMED_OUT, "taken back");
    assert_eq!(daemon.get(Host::Inside, "/").status, 200);
}

#[test]
fn a_policy_that_cuts_off_the_operator_s_shell_is_refused() {
    let mut daemon = prepared("lockout", |config| {
        config["security"]["network"]["ports"] = json!(["22/tcp"]);
    });
    let shell = ("SSH_CONNECTION", "203.0.113.5 51234 192.0.2.1 22");
    daemon.spawn_with(&[], &[shell]);
    assert_eq!(daemon.await_end(), Some(2), "{}", daemon.log());
    for word in ["203.0.113.5", "port 22", "allowedIPs", "--confirm", "--yes"] {
        assert!(daemon.log().contains(word), "{word}: {}", daemon.log());
    }
    assert!(!daemon.pin_dir.exists(), "nothing was attached");

    // A real session, as the kernel's table has it: a program called sshd, and its peer outside.
    let sshd = daemon.path("sshd");
    std::fs::copy("/bin/busybox", &sshd).expect("copy busybox");
    // Its first word says which of busybox's programs it is to be.
    let serve = format!("exec -a busybox {} nc -l -p 22", sshd.display());
    let mut server = daemon
        .lab
        .command(Host::Gateway, "bash")
        .args(["-c", &serve])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .spawn()
        .expect("start the server");
    let address = format!("{}:22", lab::GATEWAY_OUTSIDE)
        .parse()
        .expect("parse");
    let _session = super::daemon::in_namespace(&daemon.lab, Host::Outside, || {
        let deadline = Instant::now() + Duration::from_secs(5);
        loop {
            let wait = Duration::from_secs(1);
            match std::net::TcpStream::connect_timeout(&address, wait) {
                Ok(stream) => return stream,
                Err(error) => assert!(Instant::now() < deadline, "connect: {error}"),
            }
            std::thread::sleep(Duration::from_millis(50));
        }
    });
    daemon.spawn();
    let ended = daemon.await_end();
    assert_eq!(ended, Some(2), "{}", daemon.log());
    assert!(
        daemon.log().contains(lab::CLIENT_OUTSIDE),
        "{}",
        daemon.log()
    );

    daemon.launch_with(&["--yes"]);
    assert_eq!(daemon.get(Host::Inside, "/").status, 200);

    // Nor is it banned by a slip.
    let ban = ["ban", "add", "198.51.100.0/24"];
    let refused = daemon.clawsec(&ban);
    assert_eq!(refused.status.code(), Some(1), "{refused:?}");
    let said = String::from_utf8_lossy(&refused.stderr);
    let names_both = said.contains(lab::CLIENT_OUTSIDE) && said.contains("--yes");
    assert!(names_both, "{said}");
    let banned = daemon.clawsec(&[&ban[..], &["--yes"]].concat());
    assert!(banned.status.success(), "{banned:?}");
    server.kill().expect("end the server");
    server.wait().expect("reap the server");
}
