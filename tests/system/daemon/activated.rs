//! Starts a daemon as systemd does from a socket unit: with sockets that somebody else holds.

use std::net::TcpListener;
use std::os::fd::OwnedFd;
use std::process::Stdio;

use xtask::lab::Host;

use super::{Daemon, clawsec};

/// The shell's number is the daemon's: `exec` keeps it. What came as standard input and output
/// becomes the first two descriptors after standard error.
const HAND_OVER: &str = r#"exec 3<&0 4<&1 0</dev/null 1>/dev/null
LISTEN_PID=$$ LISTEN_FDS="$1" LISTEN_FDNAMES=first:second
export LISTEN_PID LISTEN_FDS LISTEN_FDNAMES
shift
exec "$@""#;

impl Daemon {
    /// As `launch`, with one or two listening sockets that stay the caller's, too.
    pub(crate) fn launch_activated(&mut self, sockets: &[TcpListener]) {
        self.spawn_activated(sockets);
        self.await_answer();
    }

    /// The same without waiting.
    pub(crate) fn spawn_activated(&mut self, sockets: &[TcpListener]) {
        let [first, rest @ ..] = sockets else {
            panic!("no socket to hand over");
        };
        let second = rest.first().unwrap_or(first);
        let copy = |socket: &TcpListener| {
            let copy = socket.try_clone().expect("copy a socket");
            Stdio::from(OwnedFd::from(copy))
        };
        let mut command = self.lab.command(Host::Gateway, "sh");
        command
            .args(["-c", HAND_OVER, "sh", &sockets.len().to_string()])
            .arg(clawsec())
            .stdin(copy(first))
            .stdout(copy(second));
        self.spawn_by(command, &[], &[]);
    }
}
