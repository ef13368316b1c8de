//! What systemd is told of the daemon, and that it lives (sd_notify(3)).
//!
//! `READY=1` means that the policy is in force in both planes. The watchdog is fed only while the
//! gateway process goes on telling its figures: one that hangs serves nobody.

use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::sync::Arc;
use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};

use super::state::State;

/// A service manager that listens, or none.
#[derive(Debug, Default)]
pub(super) struct Service {
    manager: Option<(UnixDatagram, SocketAddr)>,
    /// How often it wants to hear that we live.
    watchdog: Option<Duration>,
}

impl Service {
    /// By `NOTIFY_SOCKET`, `WATCHDOG_USEC` and `WATCHDOG_PID`.
    pub(super) fn of_this_process() -> Self {
        let variable = |name: &str| std::env::var(name).ok();
        let manager = variable("NOTIFY_SOCKET").and_then(|name| {
            let address = match name.strip_prefix('@') {
                Some(name) => SocketAddr::from_abstract_name(name),
                None => SocketAddr::from_pathname(&name),
            };
            let socket = UnixDatagram::unbound().ok()?;
            // It must not stand still for a manager that does not read.
            socket.set_nonblocking(true).ok()?;
            Some((socket, address.ok()?))
        });
        Self {
            watchdog: watchdog(&variable, std::process::id()).filter(|_| manager.is_some()),
            manager,
        }
    }

    /// The policy is in force, after a start or a reload.
    pub(super) fn ready(&self, status: &str) {
        self.tell(&format!("READY=1\nSTATUS={status}"));
    }

    pub(super) fn reloading(&self) {
        let now = clock_gettime(ClockId::Monotonic);
        let micros = now.tv_sec * 1_000_000 + now.tv_nsec / 1000;
        self.tell(&format!("RELOADING=1\nMONOTONIC_USEC={micros}"));
    }

    pub(super) fn stopping(&self) {
        self.tell("STOPPING=1\nSTATUS=draining");
    }

    /// A manager that is gone, or full, misses it; the watchdog's next word comes soon.
    fn tell(&self, text: &str) {
        if let Some((socket, address)) = &self.manager
            && let Err(error) = socket.send_to_addr(text.as_bytes(), address)
        {
            tracing::debug!(%error, "the service manager was not told: {text:?}");
        }
    }
}

/// Feeds the watchdog for ever, if there is one.
///
/// # Cancel safety
///
/// Cancel safe: it awaits nothing but the next word.
pub(super) async fn live(state: Arc<State>) {
    let Some(every) = state.service.watchdog else {
        return;
    };
    loop {
        // sd_watchdog_enabled(3): at half of the time.
        tokio::time::sleep(every / 2).await;
        if state.seen.gateway_spoke_within(SILENCE) {
            state.service.tell("WATCHDOG=1");
        } else {
            tracing::warn!("the gateway process is silent; the watchdog is not fed");
        }
    }
}

fn watchdog(variable: &dyn Fn(&str) -> Option<String>, own: u32) -> Option<Duration> {
    let ours = variable("WATCHDOG_PID").is_none_or(|pid| pid.parse() == Ok(own));
    let micros: u64 = variable("WATCHDOG_USEC")?.parse().ok()?;
    (ours && micros > 0).then(|| Duration::from_micros(micros))
}

/// The gateway process tells its figures every second; one that is being started again, or whose
/// machine is very busy, takes longer.
const SILENCE: Duration = Duration::from_secs(10);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_watchdog_is_this_processes() {
        let rows = [
            ("none", None, None, None),
            (
                "ours",
                Some("2000000"),
                Some("7"),
                Some(Duration::from_secs(2)),
            ),
            (
                "anybody's",
                Some("2000000"),
                None,
                Some(Duration::from_secs(2)),
            ),
            ("another's", Some("2000000"), Some("8"), None),
            ("off", Some("0"), None, None),
            ("no number", Some("soon"), None, None),
        ];
        for (row, usec, pid, expected) in rows {
            let variable = |name: &str| {
                let value = match name {
                    "WATCHDOG_USEC" => usec,
                    _ => pid,
                };
                value.map(str::to_owned)
            };
            assert_eq!(watchdog(&variable, 7), expected, "{row}");
        }
    }
}
