//! `--confirm`: a policy on probation, taken back unless the operator still gets through to say
//! that it is good.
//!
//! Invariant: while one policy is on probation no other is put in force, so that what it replaced
//! is still whole in the kernel's other slot.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::oneshot;
use tokio::time::Instant;

use super::state::State;
use crate::event::{Event, EventKind, Outcome};

/// At most one policy on probation.
#[derive(Debug, Default)]
pub(super) struct Confirmation(Mutex<Option<Pending>>);

#[derive(Debug)]
struct Pending {
    generation: u64,
    deadline: Instant,
    confirmed: oneshot::Sender<()>,
}

/// Ends with the probation.
#[derive(Debug)]
pub(super) struct Probation {
    deadline: Instant,
    confirmed: oneshot::Receiver<()>,
}

impl Confirmation {
    /// Begins to wait for `clawsec confirm`.
    pub(super) fn begin(&self, generation: u64, within: Duration) -> Probation {
        let (sender, confirmed) = oneshot::channel();
        let deadline = Instant::now() + within;
        *self.lock() = Some(Pending {
            generation,
            deadline,
            confirmed: sender,
        });
        tracing::warn!(
            generation,
            "the policy is taken back in {} s unless `clawsec confirm` arrives",
            within.as_secs()
        );
        Probation {
            deadline,
            confirmed,
        }
    }

    /// The operator's word. Gives the generation that stays.
    pub(super) fn confirm(&self) -> Result<u64, String> {
        let pending = self.lock().take();
        pending
            .and_then(|pending| {
                let heard = pending.confirmed.send(()).is_ok();
                heard.then_some(pending.generation)
            })
            .ok_or_else(|| "no policy waits to be confirmed".into())
    }

    /// Why no other policy may be put in force now.
    pub(super) fn refusal(&self) -> Option<String> {
        let pending = self.lock();
        let pending = pending.as_ref()?;
        let left = pending.deadline.saturating_duration_since(Instant::now());
        Some(format!(
            "generation {} waits for `clawsec confirm` for another {} s; until then no other \
             policy is put in force",
            pending.generation,
            left.as_millis().div_ceil(1000)
        ))
    }

    /// The probation is over, however it ended.
    pub(super) fn end(&self) {
        *self.lock() = None;
    }

    fn lock(&self) -> MutexGuard<'_, Option<Pending>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Probation {
    /// Waits for the operator's word; false when the time is over.
    ///
    /// # Cancel safety
    ///
    /// Cancel safe: a word that came is still there at the next call.
    pub(super) async fn outcome(&mut self) -> bool {
        tokio::select! {
            biased;
            confirmed = &mut self.confirmed => confirmed.is_ok(),
            () = tokio::time::sleep_until(self.deadline) => false,
        }
    }
}

/// How a probation ended, or that it could not be taken back.
pub(super) fn report(state: &State, reason: &'static str, outcome: Outcome, detail: &str) {
    let mut event = Event::new(EventKind::Config, "confirm", outcome, reason);
    event.generation = state.config().policy.generation;
    event.detail = Some(detail.to_owned());
    state.records.report(event);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_policy_stays_only_by_the_operator_s_word() {
        let confirmation = Confirmation::default();
        assert!(confirmation.confirm().is_err(), "nothing waits");
        assert!(confirmation.refusal().is_none());

        let mut probation = confirmation.begin(7, Duration::from_secs(10));
        let refusal = confirmation.refusal().unwrap();
        assert!(
            refusal.contains("generation 7") && refusal.contains("10 s"),
            "{refusal}"
        );
        assert_eq!(confirmation.confirm(), Ok(7));
        assert!(probation.outcome().await, "confirmed in time");
        confirmation.end();

        let mut probation = confirmation.begin(8, Duration::from_secs(10));
        let began = Instant::now();
        assert!(!probation.outcome().await, "nobody confirmed");
        assert_eq!(began.elapsed().as_secs(), 10);
        drop(probation);
        assert!(confirmation.confirm().is_err(), "too late");
        confirmation.end();
        assert!(confirmation.refusal().is_none());
    }
}
