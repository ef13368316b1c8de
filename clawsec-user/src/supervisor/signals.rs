//! What a running daemon waits for: stop, reload, and the end of a policy's probation.

use std::sync::Arc;

use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;

use super::confirm::{self, Probation};
use super::link::Applied;
use super::reload;
use super::start::StartError;
use super::state::State;
use crate::causes;
use crate::config::Config;
use crate::enforcer;
use crate::event::Outcome;

/// The signals that the daemon answers, caught from the start.
pub(super) struct Signals {
    terminate: tokio::signal::unix::Signal,
    interrupt: tokio::signal::unix::Signal,
    hang_up: tokio::signal::unix::Signal,
}

impl Signals {
    pub(super) fn new() -> std::io::Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            hang_up: signal(SignalKind::hangup())?,
        })
    }

    /// Reloads on SIGHUP and when the file changes, until asked to stop. With `--confirm` each
    /// policy is on probation first, the one at start included.
    pub(super) async fn until_stop(
        mut self,
        state: &Arc<State>,
        mut applied: watch::Receiver<Applied>,
        at_start: Option<Probation>,
    ) -> Result<(), StartError> {
        let mut watch = reload::FileWatch::new(&state.config());
        // What is put back if nobody confirms; at start that is the kernel's other slot.
        let mut probation = at_start.map(|probation| (probation, None));
        loop {
            let replaced = tokio::select! {
                _ = self.terminate.recv() => break,
                _ = self.interrupt.recv() => break,
                _ = self.hang_up.recv() => {
                    state.records.reopen();
                    // Before it is read: what changes while it is, is read again.
                    watch.settle();
                    reload::reload(state, &mut applied).await
                }
                () = watch.changed() => reload::reload(state, &mut applied).await,
                confirmed = outcome(&mut probation) => {
                    state.confirmation.end();
                    let before = probation.take().and_then(|(_, before)| before);
                    if confirmed {
                        tracing::info!("the policy is confirmed");
                        confirm::report(state, "confirmed", Outcome::Allow, "by the operator");
                    } else {
                        take_back(state, before, &mut applied, "nobody confirmed it in time").await?;
                    }
                    None
                }
            };
            watch.follow(&state.config());
            if let (Some(within), Some(before)) = (state.options.confirm, replaced) {
                let generation = state.config().policy.generation;
                probation = Some((state.confirmation.begin(generation, within), Some(before)));
            }
        }
        match probation {
            // A policy that nobody has confirmed does not outlive the daemon.
            Some((_, before)) => {
                state.confirmation.end();
                take_back(
                    state,
                    before,
                    &mut applied,
                    "stopped before it was confirmed",
                )
                .await
            }
            None => Ok(()),
        }
    }
}

/// The probation's end, if there is one.
async fn outcome(probation: &mut Option<(Probation, Option<Arc<Config>>)>) -> bool {
    match probation {
        Some((probation, _)) => probation.outcome().await,
        None => std::future::pending().await,
    }
}

/// Puts back what was in force before. For the first policy of this daemon that is what an
/// earlier one left in the kernel, or no filter at all; the daemon then ends, since its gateway
/// process knows no other policy.
async fn take_back(
    state: &Arc<State>,
    before: Option<Arc<Config>>,
    applied: &mut watch::Receiver<Applied>,
    why: &str,
) -> Result<(), StartError> {
    let generation = state.config().policy.generation;
    let Some(before) = before else {
        let done = put_the_kernel_back(state);
        let detail = format!("generation {generation}: {why}; {done}");
        tracing::error!("{detail}");
        confirm::report(state, "unconfirmed", Outcome::Deny, &detail);
        return Err(StartError::Unconfirmed);
    };
    let number = before.policy.generation;
    match reload::put_back(state, &before, applied).await {
        Ok(()) => {
            let detail = format!("generation {generation}: {why}; {number} is in force again");
            tracing::error!("{detail}");
            confirm::report(state, "unconfirmed", Outcome::Deny, &detail);
        }
        Err(error) => {
            let detail = format!("generation {generation}: {why}; put {number} back: {error}");
            tracing::error!("{detail}");
            confirm::report(state, "rollback_failed", Outcome::Error, &detail);
        }
    }
    Ok(())
}

fn put_the_kernel_back(state: &State) -> String {
    let Some(rolled_back) = state.enforcer().map(|mut enforcer| {
        let found = enforcer.found_generation();
        enforcer.roll_back().map(|done| found.filter(|_| done))
    }) else {
        return "no packets were filtered".into();
    };
    match rolled_back {
        Ok(Some(generation)) => format!("generation {generation} is in force again"),
        Ok(None) => match enforcer::detach(&state.options.pin_dir) {
            Ok(_) => "there was none before, so the packet filter is removed".into(),
            Err(error) => format!("remove the packet filter: {}", causes::chain(&error)),
        },
        Err(error) => format!("put the packet filter back: {}", causes::chain(&error)),
    }
}
