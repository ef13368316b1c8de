//! The daemon killed and restarted, and its gateway process too.

use std::io::ErrorKind;
use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use xtask::lab::{self, Host};

use super::daemon::{Daemon, in_namespace};

#[test]
fn the_filter_outlives_the_daemon_and_is_adopted() {
    let mut daemon = Daemon::start("adopt", |_| {});
    assert!(daemon.pin_dir.exists(), "the filter is pinned");
    let stop = AtomicBool::new(false);
    let tries = AtomicU64::new(0);
    let wrong = std::sync::Mutex::new(Vec::new());
    let inside: SocketAddr = format!("{}:8443", lab::GATEWAY_INSIDE)
        .parse()
        .expect("parse");
    let outside: SocketAddr = format!("{}:8443", lab::GATEWAY_OUTSIDE)
        .parse()
        .expect("parse");
    let namespaces = [
        std::fs::File::open(daemon.lab.path(Host::Inside)).expect("open"),
        std::fs::File::open(daemon.lab.path(Host::Outside)).expect("open"),
    ];
    std::thread::scope(|scope| {
        for (namespace, address) in namespaces.iter().zip([inside, outside]) {
            let (stop, tries, wrong) = (&stop, &tries, &wrong);
            scope.spawn(move || {
                use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
                use std::os::fd::AsFd as _;
                move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Network))
                    .expect("enter the namespace");
                while !stop.load(Ordering::Relaxed) {
                    // An allowed packet is answered, by a connection or, while no daemon
                    // listens, by a reset. A stranger's is never answered at all.
                    let wait = if address == inside { 3000 } else { 60 };
                    let result = TcpStream::connect_timeout(&address, Duration::from_millis(wait));
                    let kind = result.map(drop).map_err(|error| error.kind());
                    let right = match kind {
                        Ok(()) | Err(ErrorKind::ConnectionRefused | ErrorKind::ConnectionReset) => {
                            address == inside
                        }
                        Err(ErrorKind::TimedOut) => address == outside,
                        Err(_) => false,
                    };
                    if !right {
                        wrong
                            .lock()
                            .expect("lock")
                            .push(format!("{address}: {kind:?}"));
                    }
                    tries.fetch_add(1, Ordering::Relaxed);
                    std::thread::sleep(Duration::from_millis(5));
                }
            });
        }
        for _round in 0..3 {
            daemon.kill();
            std::thread::sleep(Duration::from_millis(500));
            daemon.launch();
            std::thread::sleep(Duration::from_millis(300));
        }
        daemon.stop();
        std::thread::sleep(Duration::from_millis(300));
        daemon.launch();
        stop.store(true, Ordering::Relaxed);
    });
    let wrong = wrong.into_inner().expect("lock");
    assert!(wrong.is_empty(), "{wrong:?}");
    assert!(
        tries.load(Ordering::Relaxed) > 100,
        "the test sent packets throughout"
    );
}

#[test]
fn a_dead_gateway_process_is_started_again_and_recorded() {
    let daemon = Daemon::start("regate", |_| {});
    let pid = daemon.status()["gateway_pid"]
        .as_u64()
        .expect("a pid")
        .to_string();
    std::process::Command::new("kill")
        .args(["-KILL", &pid])
        .status()
        .expect("run kill");
    daemon.await_record("the gateway's end", |record| {
        record["action"] == "gateway_exit"
    });
    let deadline = Instant::now() + Duration::from_secs(10);
    while daemon.get(Host::Inside, "/").status != 200 {
        assert!(
            Instant::now() < deadline,
            "the gateway process does not come back"
        );
        std::thread::sleep(Duration::from_millis(100));
    }
}

#[test]
fn a_ban_drops_an_allowed_source_and_ends() {
    let daemon = Daemon::start("ban", |_| {});
    assert_eq!(daemon.get(Host::Inside, "/").status, 200);
    let banned = daemon.clawsec(&["ban", "add", lab::CLIENT_INSIDE, "--for", "1h"]);
    assert!(
        banned.status.success(),
        "{}",
        String::from_utf8_lossy(&banned.stderr)
    );
    assert_eq!(
        daemon.get(Host::Inside, "/").exit,
        28,
        "banned packets are dropped"
    );
    let list = daemon.clawsec(&["ban", "list"]);
    assert!(String::from_utf8_lossy(&list.stdout).contains(lab::CLIENT_INSIDE));
    let removed = daemon.clawsec(&["ban", "remove", lab::CLIENT_INSIDE]);
    assert!(removed.status.success());
    assert_eq!(daemon.get(Host::Inside, "/").status, 200);
    let address: SocketAddr = format!("{}:8443", lab::GATEWAY_INSIDE)
        .parse()
        .expect("parse");
    in_namespace(&daemon.lab, Host::Inside, || {
        TcpStream::connect_timeout(&address, Duration::from_secs(2)).expect("connect again");
    });
}
