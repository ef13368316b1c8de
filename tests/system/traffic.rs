//! Connections without end from an allowed and a denied host, each answer judged.

use std::fs::File;
use std::io::ErrorKind;
use std::net::{SocketAddr, TcpStream};
use std::os::fd::AsFd as _;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use xtask::lab::{self, Host, Lab};

/// What the daemon is doing meanwhile.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Daemon {
    /// It listens throughout: an allowed connection succeeds.
    Listens,
    /// It is killed and started: while nobody listens the kernel answers with a reset.
    Restarts,
}

/// Tries of each host, and the answers that no policy of the test gives.
#[derive(Debug)]
pub(crate) struct Outcome {
    pub(crate) allowed_tries: u64,
    pub(crate) denied_tries: u64,
    pub(crate) wrong: Vec<String>,
}

/// The two hosts' namespaces, held open apart from the lab.
#[derive(Debug)]
pub(crate) struct Namespaces([(Host, File); 2]);

impl Namespaces {
    pub(crate) fn of(lab: &Lab) -> Self {
        Self([Host::Inside, Host::Outside].map(|host| {
            let file = File::open(lab.path(host)).expect("open the namespace");
            (host, file)
        }))
    }
}

/// Runs `work` under traffic; gives what the traffic saw.
pub(crate) fn under_traffic(hosts: &Namespaces, daemon: Daemon, work: impl FnOnce()) -> Outcome {
    let stop = AtomicBool::new(false);
    let wrong = Mutex::new(Vec::new());
    let tries = [AtomicU64::new(0), AtomicU64::new(0)];
    std::thread::scope(|scope| {
        for ((host, namespace), tries) in hosts.0.iter().zip(&tries) {
            let (stop, wrong, host) = (&stop, &wrong, *host);
            let gateway = match host {
                Host::Outside => lab::GATEWAY_OUTSIDE,
                _ => lab::GATEWAY_INSIDE,
            };
            let address: SocketAddr = format!("{gateway}:8443").parse().expect("parse");
            scope.spawn(move || {
                move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Network))
                    .expect("enter the namespace");
                while !stop.load(Ordering::Relaxed) {
                    if let Some(answer) = try_once(host, address, daemon) {
                        wrong
                            .lock()
                            .unwrap_or_else(PoisonError::into_inner)
                            .push(answer);
                    }
                    tries.fetch_add(1, Ordering::Relaxed);
                    std::thread::sleep(Duration::from_millis(2));
                }
            });
        }
        // The traffic ends even where the work fails.
        let stopper = Stopper(&stop);
        work();
        drop(stopper);
    });
    let [allowed, denied] = tries.map(AtomicU64::into_inner);
    Outcome {
        allowed_tries: allowed,
        denied_tries: denied,
        wrong: wrong.into_inner().unwrap_or_else(PoisonError::into_inner),
    }
}

/// Ends what goes on beside a test, also where the test fails.
pub(crate) struct Stopper<'a>(pub(crate) &'a AtomicBool);

impl Drop for Stopper<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// A wrong answer, in words. A stranger's packet is never answered, by anything.
fn try_once(host: Host, address: SocketAddr, daemon: Daemon) -> Option<String> {
    let patience = if host == Host::Inside { 3000 } else { 40 };
    let result = TcpStream::connect_timeout(&address, Duration::from_millis(patience));
    let kind = result.map(drop).map_err(|error| error.kind());
    let right = match (host, kind) {
        (Host::Inside, Ok(())) | (Host::Outside, Err(ErrorKind::TimedOut)) => true,
        (Host::Inside, Err(ErrorKind::ConnectionRefused | ErrorKind::ConnectionReset)) => {
            daemon == Daemon::Restarts
        }
        _ => false,
    };
    (!right).then(|| format!("{host:?} to {address}: {kind:?}"))
}
