//! A service manager's view: what the daemon tells systemd, and what it has given up.

use std::os::unix::net::UnixDatagram;
use std::time::{Duration, Instant};

use clawsec_user::supervisor::privileges::NEEDED;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use xtask::lab::Lab;

use super::daemon::{Daemon, serve_stand_in};

/// What came, with the time.
struct Manager(UnixDatagram);

impl Manager {
    /// Waits for a message that holds `part`; messages before it are dropped.
    fn await_word(&self, part: &str, within: Duration) -> Option<String> {
        let deadline = Instant::now() + within;
        loop {
            let left = deadline.checked_duration_since(Instant::now())?;
            let left = left.max(Duration::from_millis(1));
            self.0.set_read_timeout(Some(left)).expect("set a deadline");
            let mut text = [0; 4096];
            let Ok(length) = self.0.recv(&mut text) else {
                continue;
            };
            let text = String::from_utf8_lossy(&text[..length]).into_owned();
            if text.contains(part) {
                return Some(text);
            }
        }
    }

    /// Takes what is there already.
    fn forget(&self) {
        self.0.set_nonblocking(true).expect("set non-blocking");
        while self.0.recv(&mut [0; 4096]).is_ok() {}
        self.0.set_nonblocking(false).expect("set blocking");
    }
}

#[test]
fn systemd_hears_of_start_reload_life_and_stop() {
    let lab = Lab::of_this_process("service").expect("make the lab's namespaces");
    let seen = std::sync::Arc::default();
    serve_stand_in(&lab, &seen);
    let mut daemon = Daemon::prepare(lab, seen, |_| {});
    let socket = daemon.path("notify");
    let manager = Manager(UnixDatagram::bind(&socket).expect("bind the manager's socket"));
    let variables = [
        ("NOTIFY_SOCKET", socket.to_str().expect("a text")),
        ("WATCHDOG_USEC", "1000000"),
    ];
    daemon.spawn_with(&[], &variables);
    let soon = Duration::from_secs(30);

    let ready = manager.await_word("READY=1", soon).expect("it gets ready");
    assert!(
        ready.contains("STATUS=generation 1 in force, filtering inside (native), outside (native)"),
        "{ready}"
    );
    assert_eq!(
        daemon.get(xtask::lab::Host::Inside, "/").status,
        200,
        "and it is"
    );

    daemon.hang_up();
    let reloading = manager.await_word("RELOADING=1", soon).expect("it reloads");
    assert!(reloading.contains("MONOTONIC_USEC="), "{reloading}");
    let ready = manager
        .await_word("READY=1", soon)
        .expect("it is ready again");
    assert!(ready.contains("generation 2"), "{ready}");

    // Fed while the gateway process speaks, and not while it hangs.
    manager.await_word("WATCHDOG=1", soon).expect("it lives");
    let gateway = daemon.status()["gateway_pid"].as_i64().expect("its number");
    let gateway = Pid::from_raw(i32::try_from(gateway).expect("a process number"));
    kill(gateway, Signal::SIGSTOP).expect("stop the gateway process");
    // It is believed for ten seconds.
    std::thread::sleep(Duration::from_secs(11));
    manager.forget();
    let fed = manager.await_word("WATCHDOG=1", Duration::from_secs(3));
    kill(gateway, Signal::SIGCONT).expect("let it go on");
    assert_eq!(fed, None, "the watchdog bites");
    manager
        .await_word("WATCHDOG=1", soon)
        .expect("it lives again");

    daemon.stop();
    manager
        .await_word("STOPPING=1", soon)
        .expect("it says that it stops");
}

#[test]
fn the_supervisor_holds_no_capability_that_it_does_not_need() {
    let daemon = Daemon::start("privileges", |config| {
        config["security"]["sandbox"] =
            serde_json::json!({ "enabled": true, "provider": "native" });
    });
    let status = std::fs::read_to_string(format!("/proc/{}/status", daemon.pid())).expect("read");
    let needed = NEEDED.iter().fold(0, |all, (_, one)| all | one.bits());
    for set in ["CapEff", "CapPrm", "CapBnd"] {
        let line = status.lines().find_map(|line| line.strip_prefix(set));
        let digits = line.expect("a set").trim_start_matches([':', '\t']);
        let held = u64::from_str_radix(digits, 16).expect("digits");
        assert_eq!(held & !needed, 0, "{set} {held:x}");
        assert_ne!(held, 0, "{set}: root has some");
    }
    // And with those it works.
    let call = serde_json::json!({ "tool": "exec", "args": { "command": "hostname" } });
    let executed = daemon.invoke(&call);
    assert!(executed.body.contains("sandbox"), "{}", executed.body);
}
