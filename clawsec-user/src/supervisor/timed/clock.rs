//! Ends are wall time, and the packet filter counts by a clock that nobody sets and that stands
//! while the host sleeps: where the two part, the filter's ends are made anew.

use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rustix::time::{ClockId, clock_gettime};
use tokio_util::sync::CancellationToken;

use crate::causes::chain;
use crate::event::{Event, EventKind, Outcome};
use crate::supervisor::state::State;

/// Between two looks at both clocks.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// A clock that is slewed parts slowly: it is followed once it is so far.
const APART_MS: i128 = 1_000;

/// Follows the wall clock until the daemon stops.
pub(super) async fn follow(state: Arc<State>, stop: CancellationToken) {
    let mut before = offset_ms();
    loop {
        tokio::select! {
            () = tokio::time::sleep(LOOK_EVERY) => {}
            () = stop.cancelled() => return,
        }
        let now = offset_ms();
        let moved = now - before;
        if moved.abs() <= APART_MS {
            continue;
        }
        before = now;
        let (outcome, detail) = match renew(&state) {
            Ok(()) => (Outcome::Allow, said(moved)),
            Err(why) => (Outcome::Error, format!("{}: {why}", said(moved))),
        };
        tracing::warn!("{detail}");
        let mut event = Event::new(EventKind::System, "clock", outcome, "set");
        event.generation = state.config().policy.generation;
        event.detail = Some(detail);
        state.records.report(event);
    }
}

fn renew(state: &State) -> Result<(), String> {
    if let Some(mut enforcer) = state.enforcer() {
        enforcer.follow_clock().map_err(|error| chain(&error))?;
    }
    state.timed.follow_clock();
    Ok(())
}

fn said(moved_ms: i128) -> String {
    let seconds = moved_ms / 1_000;
    format!(
        "the wall clock went by {seconds:+} s more than the time that passed: bans and admissions \
         end by it"
    )
}

/// How far the wall clock is ahead of the program's.
fn offset_ms() -> i128 {
    let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH);
    let wall_ms = since_epoch.unwrap_or_default().as_millis();
    let program = clock_gettime(ClockId::Monotonic);
    let program_ms = i128::from(program.tv_sec) * 1_000 + i128::from(program.tv_nsec) / 1_000_000;
    i128::try_from(wall_ms).unwrap_or(i128::MAX) - program_ms
}
