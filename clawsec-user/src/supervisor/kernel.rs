//! What the packet plane reports: events as they come, counters at each checkpoint.
//!
//! One task does both, because between reading the counters and taking the checkpoint no event
//! may be attributed.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::state::State;
use crate::audit::{Attribution, CheckpointCause, Maps};
use crate::causes;
use crate::enforcer::{EnforcerError, PacketBatch, PacketEvents, PacketLog};

/// Between tries to read packet events after a failure.
const PAUSE: Duration = Duration::from_secs(1);

/// Events are read no faster than this each, on average: a flood of sources would otherwise
/// spend the daemon's time on naming them. The first of a calm is read at once.
const PACE: Duration = Duration::from_millis(1);

/// Starts the tasks; takes the first checkpoint.
pub(super) fn start(
    state: &Arc<State>,
    tasks: &mut JoinSet<()>,
    stop: &CancellationToken,
) -> Result<(), EnforcerError> {
    let Some((events, log, adopted)) = open(state)? else {
        return Ok(());
    };
    state
        .records
        .resume(if adopted { Maps::Adopted } else { Maps::Fresh }, now_ns());
    checkpoint(state, CheckpointCause::Forced);
    tasks.spawn(follow(Arc::clone(state), events, stop.clone()));
    if let Some(mut log) = log {
        tasks.spawn(async move {
            if let Err(error) = log.pump().await {
                tracing::warn!(%error, "the BPF program's log ended");
            }
        });
    }
    Ok(())
}

type Opened = (PacketEvents, Option<PacketLog>, bool);

fn open(state: &State) -> Result<Option<Opened>, EnforcerError> {
    let Some(mut enforcer) = state.enforcer() else {
        return Ok(None);
    };
    let events = enforcer.take_events()?;
    let log = state
        .options
        .bpf_log
        .then(|| enforcer.take_log())
        .transpose()?;
    Ok(Some((events, log, enforcer.has_adopted_maps())))
}

async fn follow(state: Arc<State>, mut events: PacketEvents, stop: CancellationToken) {
    let mut interval = tokio::time::interval(state.config().audit.interval);
    interval.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut next_reading = Instant::now();
    let mut lost = 0_u64;
    loop {
        // Not before its time: until then the kernel's buffers hold what comes, or lose it.
        let reading = async {
            tokio::time::sleep_until(next_reading).await;
            events.next().await
        };
        tokio::select! {
            batch = reading => match batch {
                Ok(batch) => {
                    let mut read = take(&state, &batch, &mut lost);
                    read += take(&state, &events.drain(), &mut lost);
                    next_reading = Instant::now() + PACE * read;
                }
                Err(error) => {
                    tracing::error!(%error, "packet events cannot be read; counters go on");
                    state.records.lost(1, "packet events cannot be read");
                    tokio::time::sleep(PAUSE).await;
                }
            },
            _ = interval.tick() => {
                take(&state, &events.drain(), &mut lost);
                report_lost(&state, &mut lost);
                checkpoint(&state, CheckpointCause::Interval);
            }
            () = stop.cancelled() => {
                take(&state, &events.drain(), &mut lost);
                report_lost(&state, &mut lost);
                return;
            }
        }
    }
}

/// Names sources; how many events there were.
fn take(state: &State, batch: &PacketBatch, lost: &mut u64) -> u32 {
    *lost = lost.saturating_add(batch.lost);
    let dropped = batch.events.iter().filter(|event| event.effect.is_drop());
    state.records.attribute(dropped.filter_map(|event| {
        let attribution = Attribution {
            source: event.counted_as?,
            reason: event.reason,
            created_ns: event.created_ns,
            total: event.total,
            cpu: event.cpu,
            event_ns: Some(event.at_ns),
        };
        Some((attribution, event.generation))
    }));
    u32::try_from(batch.events.len()).unwrap_or(u32::MAX)
}

/// One record for an interval: a flood loses events all the time, and each carries its total.
fn report_lost(state: &State, lost: &mut u64) {
    match std::mem::take(lost) {
        0 => {}
        count => state
            .records
            .lost(count, "packet events that found their buffer full"),
    }
}

/// Names what the tallies have seen since their last events, then makes the sums agree.
pub(super) fn checkpoint(state: &State, cause: CheckpointCause) {
    let Some(enforcer) = state.enforcer() else {
        return;
    };
    // Totals first: the kernel counts a drop before it reports it, so they cannot exceed the
    // counters that are read after them.
    let read = enforcer
        .harvest()
        .and_then(|totals| Ok((totals, enforcer.counters()?)));
    drop(enforcer);
    let (totals, counters) = match read {
        Ok(read) => read,
        Err(error) => {
            tracing::error!("read the kernel's counters: {}", causes::chain(&error));
            state
                .records
                .lost(1, "the kernel's counters cannot be read");
            return;
        }
    };
    let generation = state.config().policy.generation;
    let dropped = totals.iter().filter(|total| total.effect.is_drop());
    state.records.attribute(dropped.filter_map(|total| {
        let attribution = Attribution {
            source: total.source?,
            reason: total.reason,
            created_ns: total.created_ns,
            total: total.total,
            cpu: total.cpu,
            event_ns: None,
        };
        Some((attribution, generation))
    }));
    let counters: BTreeMap<String, u64> = counters
        .into_iter()
        .filter(|counter| counter.effect.is_drop())
        .map(|counter| (counter.reason.to_owned(), counter.packets))
        .collect();
    state.records.checkpoint(&counters, now_ns(), cause);
}

/// The kernel's monotonic clock, which `bpf_ktime_get_ns` reads too.
fn now_ns() -> u64 {
    let now = clock_gettime(ClockId::Monotonic);
    let seconds = u64::try_from(now.tv_sec).unwrap_or(0);
    seconds
        .saturating_mul(1_000_000_000)
        .saturating_add(u64::try_from(now.tv_nsec).unwrap_or(0))
}
