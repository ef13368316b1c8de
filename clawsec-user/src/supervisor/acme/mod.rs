//! The certificate that an authority issues for us: obtained, renewed, recorded (RFC 8555).
//!
//! The supervisor asks the authority, since it holds the account and the key; what the authority
//! then tries is answered by the gateway process. A new certificate is a new file, which a reload
//! takes up as it does a file of the operator's.

mod client;
mod held;
mod order;
mod store;

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

pub(super) use held::Held;
pub(super) use store::prepare;

use super::certificate::Validity;
use super::state::State;
use crate::causes;
use crate::config::AcmeConfig;
use crate::event::{Event, EventKind, Outcome};

/// Keeps the certificate fresh for ever.
///
/// # Cancel safety
///
/// An order that is cut short is made anew by the next start; files are replaced whole.
pub(super) async fn keep(state: Arc<State>) {
    let mut tries = Tries::default();
    loop {
        let config = state.config();
        let acme = config
            .gateway
            .tls
            .as_ref()
            .and_then(|tls| tls.acme.as_ref());
        // A reload may have mended what failed.
        tries.of(config.policy.generation);
        if let Some(acme) = acme
            && is_due(store::validity(acme), now())
            && tries.is_time()
        {
            match renew(&state, acme).await {
                Ok(()) => tries = Tries::default(),
                Err(why) => {
                    let pause = tries.failed(state.config().policy.generation);
                    tracing::error!(
                        "no certificate: {why}; tried again in {} s",
                        pause.as_secs()
                    );
                    report(&state, Outcome::Error, "failed", why);
                }
            }
        }
        tokio::time::sleep(LOOK).await;
    }
}

async fn renew(state: &Arc<State>, acme: &AcmeConfig) -> Result<(), String> {
    tracing::info!(
        "asking {} to certify {}",
        acme.server,
        acme.names.join(", ")
    );
    let certificate = order::obtain(state, acme).await;
    let certificate = certificate.map_err(|error| causes::chain(&error))?;
    store::keep_certificate(acme, &certificate.chain, &certificate.key)
        .map_err(|error| format!("keep it in {}: {error}", acme.dir.display()))?;
    let until = store::validity(acme)
        .and_then(|validity| jiff::Timestamp::from_second(validity.not_after).ok());
    let until = until.map_or_else(String::new, |until| format!(", until {until}"));
    let detail = format!("{} by {}{until}", acme.names.join(", "), acme.server);
    tracing::info!("certified: {detail}");
    report(state, Outcome::Allow, "ok", detail);
    Ok(())
}

fn report(state: &State, outcome: Outcome, reason: &'static str, detail: String) {
    let mut event = Event::new(EventKind::System, "certificate", outcome, reason);
    event.generation = state.config().policy.generation;
    event.rule = Some("gateway.tls.acme".to_owned());
    event.detail = Some(detail);
    state.records.report(event);
}

/// Whether the last third of its life has begun, which is when authorities advise to renew.
fn is_due(validity: Option<Validity>, now: i64) -> bool {
    validity.is_none_or(
        |Validity {
             not_before,
             not_after,
         }| { now >= not_after - (not_after - not_before) / 3 },
    )
}

fn now() -> i64 {
    jiff::Timestamp::now().as_second()
}

/// When it may be tried again: an authority that is asked too often answers nobody for an hour.
#[derive(Debug, Default)]
struct Tries {
    generation: u64,
    next: Option<Instant>,
    pause: Duration,
}

impl Tries {
    fn of(&mut self, generation: u64) {
        if self.generation != generation {
            *self = Self {
                generation,
                ..Self::default()
            };
        }
    }

    fn is_time(&self) -> bool {
        self.next.is_none_or(|next| Instant::now() >= next)
    }

    /// How long to wait now.
    fn failed(&mut self, generation: u64) -> Duration {
        self.generation = generation;
        self.pause = (self.pause * 2).clamp(FIRST_PAUSE, LAST_PAUSE);
        self.next = Some(Instant::now() + self.pause);
        self.pause
    }
}

/// How often the clock and the configuration are looked at.
const LOOK: Duration = Duration::from_secs(1);
const FIRST_PAUSE: Duration = Duration::from_mins(5);
const LAST_PAUSE: Duration = Duration::from_hours(6);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_renewed_in_the_last_third() {
        let of = |not_before, not_after| {
            Some(Validity {
                not_before,
                not_after,
            })
        };
        for (row, validity, now, expected) in [
            ("none", None, 0, true),
            ("new", of(0, 90), 1, false),
            ("before the last third", of(0, 90), 59, false),
            ("in it", of(0, 90), 60, true),
            ("past", of(0, 90), 91, true),
            ("of the future", of(100, 190), 50, false),
        ] {
            assert_eq!(is_due(validity, now), expected, "{row}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn failures_wait_longer_each_time_until_the_policy_changes() {
        let mut tries = Tries::default();
        tries.of(1);
        assert!(tries.is_time());
        let pauses: Vec<u64> = (0..9).map(|_| tries.failed(1).as_secs() / 60).collect();
        assert_eq!(pauses, [5, 10, 20, 40, 80, 160, 320, 360, 360]);
        assert!(!tries.is_time());
        tries.of(1);
        assert!(!tries.is_time());
        tokio::time::advance(LAST_PAUSE).await;
        assert!(tries.is_time());
        tries.failed(1);
        tries.of(2);
        assert!(tries.is_time());
    }
}
