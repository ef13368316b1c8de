//! Confinement cannot be undone, so each check runs in a child process of its own.

use std::net::{TcpListener, TcpStream};
use std::process::Command;

use rustix::net::{AddressFamily, SocketType};

use super::*;

const CHILD: &str = "CLAWSEC_TEST_CONFINE_CHILD";
const NOBODY: u32 = 65534;

/// Runs this very test in a child, whose part it is to be confined.
fn in_child(name: &str, confined: impl FnOnce()) {
    if std::env::var_os(CHILD).is_some() {
        confined();
        return;
    }
    let path = format!("gateway::confine::tests::{name}");
    let child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", &path, "--test-threads=1", "--nocapture"])
        .env(CHILD, "1")
        .env("RUST_BACKTRACE", "0")
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&child.stdout).into_owned()
        + &String::from_utf8_lossy(&child.stderr);
    assert!(child.status.success(), "{said}");
    assert!(said.contains("1 passed"), "the child ran no test: {said}");
}

#[test]
fn a_confined_process_can_do_nothing_but_serve() {
    in_child("a_confined_process_can_do_nothing_but_serve", || {
        let was_root = geteuid().is_root();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let confinement = confine(NOBODY, NOBODY).unwrap();
        if was_root {
            let dropped = IdentityChange::Dropped {
                uid: NOBODY,
                gid: NOBODY,
            };
            assert_eq!(confinement.identity, dropped);
            assert_eq!(geteuid().as_raw(), NOBODY);
            assert!(
                !capability_is_in_bounding_set(CapabilitySet::NET_ADMIN).unwrap_or(false),
                "the bounding set is empty"
            );
        }
        let capabilities = rustix::thread::capabilities(None);
        assert!(capabilities.is_err() || capabilities.unwrap().permitted.is_empty());

        let denied: &[(&str, bool)] = &[
            ("run a program", Command::new("/bin/true").status().is_err()),
            (
                "write a file",
                std::fs::write("/tmp/clawsec-confine-test", "x").is_err(),
            ),
            (
                "make a folder",
                std::fs::create_dir("/tmp/clawsec-confine-dir").is_err(),
            ),
            ("listen", TcpListener::bind("127.0.0.1:0").is_err()),
            (
                "use a Unix socket",
                rustix::net::socket(AddressFamily::UNIX, SocketType::STREAM, None).is_err(),
            ),
            (
                "use netlink",
                rustix::net::socket(AddressFamily::NETLINK, SocketType::RAW, None).is_err(),
            ),
            (
                "use vsock",
                rustix::net::socket(AddressFamily::VSOCK, SocketType::STREAM, None).is_err(),
            ),
            ("mount", rustix::mount::mount_bind("/tmp", "/mnt").is_err()),
            (
                "become root",
                setresuid(Uid::from_raw(0), Uid::from_raw(0), Uid::from_raw(0)).is_err(),
            ),
            (
                "signal another",
                nix::sys::signal::kill(nix::unistd::getppid(), None).is_err(),
            ),
            (
                "raise a limit",
                setrlimit(Resource::RLIMIT_CORE, 1, 1).is_err(),
            ),
            (
                "read files",
                confinement.landlock == LandlockState::Absent
                    || std::fs::read("/etc/passwd").is_err(),
            ),
        ];
        for (what, is_denied) in denied {
            assert!(is_denied, "it could {what}");
        }

        // And it can serve: a runtime with threads, sockets both ways, randomness.
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build()
            .unwrap();
        runtime.block_on(async {
            listener.set_nonblocking(true).unwrap();
            let listener = tokio::net::TcpListener::from_std(listener).unwrap();
            let client = tokio::task::spawn_blocking(move || TcpStream::connect(address));
            listener.accept().await.unwrap();
            client.await.unwrap().unwrap();
            tokio::time::sleep(std::time::Duration::from_millis(5)).await;
        });
        assert!(crate::gateway::shared::random_id().is_some());
    });
}

#[test]
fn uid_0_is_refused() {
    in_child("uid_0_is_refused", || {
        if geteuid().is_root() {
            assert!(matches!(confine(0, 0), Err(ConfineError::StillRoot)));
        }
    });
}
