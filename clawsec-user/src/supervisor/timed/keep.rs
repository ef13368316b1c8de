//! The book's life with the daemon: what the kernel held is taken in, the file is kept in step.

use std::sync::{Arc, PoisonError};
use std::time::Duration;

use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::book::{By, Entry};
use super::journal::Plane;
use super::{Timed, WRITE_EVERY, clock, unix_ms};
use crate::causes::chain;
use crate::enforcer::{Enforcer, EnforcerError};
use crate::event::{Event, EventKind, Outcome};
use crate::policy::TimedKind;
use crate::supervisor::state::State;

/// Between two looks for what has run out.
const SWEEP_EVERY: Duration = Duration::from_mins(1);

/// Takes in what the kernel holds, writes the file, and keeps it from then on.
pub(in crate::supervisor) async fn start(
    state: &Arc<State>,
    tasks: &mut JoinSet<()>,
    stop: &CancellationToken,
) {
    let timed = &state.timed;
    if let Some(mut enforcer) = state.enforcer() {
        if let Some(error) = enforcer.not_carried() {
            let why = format!("not every ban and admission is in force: {}", chain(error));
            tracing::error!("{why}");
            report(state, "not_carried", Outcome::Error, &why);
        }
        if let Err(error) = take_in(timed, &mut enforcer) {
            let why = format!("read the kernel's bans: {}", chain(&error));
            tracing::error!("{why}");
            report(state, "unreadable", Outcome::Error, &why);
        }
        let mut journal = timed.journal.lock().unwrap_or_else(PoisonError::into_inner);
        journal.keep_with(Plane::Filter);
    }
    let damage = {
        let mut damage = timed.damage.lock().unwrap_or_else(PoisonError::into_inner);
        damage.take()
    };
    if let Some(why) = damage {
        report(state, "damaged", Outcome::Error, &why);
    }
    let mut is_kept = true;
    note(state, write(state).await, &mut is_kept);
    tasks.spawn(keep(Arc::clone(state), is_kept, stop.clone()));
    tasks.spawn(clock::follow(Arc::clone(state), stop.clone()));
}

/// Writes what the last second has changed, for the last time.
pub(in crate::supervisor) async fn finish(state: &Arc<State>) {
    note(state, write(state).await, &mut true);
}

/// Makes the file hold what the book holds; returns when it is on disk.
pub(in crate::supervisor) async fn write(state: &Arc<State>) -> Result<(), String> {
    let state = Arc::clone(state);
    let written = tokio::task::spawn_blocking(move || {
        let path = state.options.state_dir.join("timed");
        let written = state.timed.catch_up();
        written.map_err(|error| format!("cannot write {}: {error}", path.display()))
    });
    written.await.unwrap_or_else(|ended| Err(ended.to_string()))
}

/// Bans and admissions that only the kernel's maps hold.
fn take_in(timed: &Timed, enforcer: &mut Enforcer) -> Result<(), EnforcerError> {
    let held = [
        (TimedKind::Ban, enforcer.bans()?),
        (TimedKind::Admission, enforcer.admissions()?),
    ];
    let mut book = timed.book();
    for (kind, entries) in held {
        for held in entries {
            let key = (kind, held.prefix);
            let until_ms = unix_ms(held.until);
            if book
                .get(key)
                .is_some_and(|entry| entry.until_ms == until_ms)
            {
                continue;
            }
            let known = timed.doubtful.get(&key).cloned();
            let entry = known.filter(|entry| entry.until_ms == until_ms);
            book.set(
                key,
                entry.unwrap_or(Entry {
                    until_ms,
                    by: By::Kernel,
                    note: None,
                }),
            );
        }
    }
    Ok(())
}

/// Follows the book for ever: a flood of bans is written once a second.
async fn keep(state: Arc<State>, mut is_kept: bool, stop: CancellationToken) {
    let mut changed = state.timed.changed.subscribe();
    let mut sweep = tokio::time::interval(SWEEP_EVERY);
    sweep.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            _ = changed.changed() => {}
            // What could not be written is tried again.
            () = tokio::time::sleep(WRITE_EVERY), if !is_kept => {}
            _ = sweep.tick() => sweep_all(&state),
            () = stop.cancelled() => return,
        }
        note(&state, write(&state).await, &mut is_kept);
        tokio::time::sleep(WRITE_EVERY).await;
    }
}

/// Forgets what has run out, in the book and in the kernel.
fn sweep_all(state: &State) {
    if !state.timed.sweep_if(|_| true) {
        return;
    }
    if let Some(mut enforcer) = state.enforcer() {
        let swept = enforcer
            .bans()
            .and_then(|_| enforcer.admissions().map(drop));
        if let Err(error) = swept {
            tracing::warn!("remove what has run out: {}", chain(&error));
        }
    }
}

/// The first failure to keep the file, and its end, are records.
fn note(state: &State, written: Result<(), String>, is_kept: &mut bool) {
    match (written, *is_kept) {
        (Err(why), true) => {
            tracing::error!("bans and admissions would not survive a restart: {why}");
            report(state, "unwritable", Outcome::Error, &why);
            *is_kept = false;
        }
        (Ok(()), false) => {
            report(
                state,
                "ok",
                Outcome::Allow,
                "bans and admissions are kept again",
            );
            *is_kept = true;
        }
        _ => {}
    }
}

fn report(state: &State, reason: &'static str, outcome: Outcome, detail: &str) {
    let mut event = Event::new(EventKind::System, "keep", outcome, reason);
    event.generation = state.config().policy.generation;
    event.detail = Some(detail.to_owned());
    state.records.report(event);
}
