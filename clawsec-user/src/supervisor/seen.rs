//! What the supervisor has seen of the other half and of itself, for whoever looks.

use std::collections::{HashMap, VecDeque};
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::admin;
use super::state::State;
use super::tools::now_unix;
use crate::ipc::{GatewayFigures, Present};
use crate::ops::{Execution, Moment};

#[derive(Debug)]
pub(super) struct Seen {
    /// Wall time of the start and of the last change of policy, in seconds since the Unix epoch.
    pub(super) started: i64,
    in_force_since: AtomicI64,
    gateway: Mutex<GatewaySeen>,
    /// When a gateway process last told anything.
    spoke: Mutex<Instant>,
    history: Mutex<VecDeque<Moment>>,
    /// Of the certificate that came with a generation.
    certificate: Mutex<Option<(u64, Option<i64>)>>,
    pub(super) executions: Executions,
}

/// What the gateway process has said since it began.
#[derive(Debug, Default, Clone)]
pub(super) struct GatewaySeen {
    pub(super) generation: Option<u64>,
    pub(super) figures: Option<GatewayFigures>,
    pub(super) present: Vec<Present>,
}

impl Seen {
    pub(super) fn new() -> Self {
        let now = now_unix();
        Self {
            started: now,
            in_force_since: AtomicI64::new(now),
            gateway: Mutex::default(),
            spoke: Mutex::new(Instant::now()),
            history: Mutex::default(),
            certificate: Mutex::default(),
            executions: Executions::default(),
        }
    }

    pub(super) fn policy_changed(&self) {
        self.in_force_since.store(now_unix(), Ordering::Relaxed);
    }

    pub(super) fn in_force_since(&self) -> i64 {
        self.in_force_since.load(Ordering::Relaxed)
    }

    pub(super) fn gateway_ready(&self, generation: u64) {
        lock(&self.gateway).generation = Some(generation);
    }

    pub(super) fn gateway_says(&self, figures: GatewayFigures, present: Vec<Present>) {
        *lock(&self.spoke) = Instant::now();
        let mut gateway = lock(&self.gateway);
        gateway.figures = Some(figures);
        gateway.present = present;
    }

    /// Another process counts anew.
    pub(super) fn gateway_gone(&self) {
        *lock(&self.gateway) = GatewaySeen::default();
    }

    pub(super) fn gateway(&self) -> GatewaySeen {
        lock(&self.gateway).clone()
    }

    pub(super) fn gateway_spoke_within(&self, time: Duration) -> bool {
        lock(&self.spoke).elapsed() <= time
    }

    pub(super) fn history(&self) -> Vec<Moment> {
        lock(&self.history).iter().copied().collect()
    }

    /// When the certificate in force ends; read once for each generation, since a file that was
    /// changed and refused is not what is served.
    pub(super) fn certificate_end(
        &self,
        generation: u64,
        read: impl FnOnce() -> Option<i64>,
    ) -> Option<i64> {
        let mut held = lock(&self.certificate);
        match *held {
            Some((of, end)) if of == generation => end,
            _ => held.insert((generation, read())).1,
        }
    }

    fn remember(&self, moment: Moment) {
        let mut history = lock(&self.history);
        if history.len() >= MOMENTS {
            history.pop_front();
        }
        history.push_back(moment);
    }
}

/// Notes the totals now and then, so that rates can be shown to somebody who has just come.
pub(super) async fn remember(state: Arc<State>) {
    let mut every = tokio::time::interval(REMEMBER_EVERY);
    every.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        every.tick().await;
        state.seen.remember(admin::moment(&state));
    }
}

/// Executions that are asked for and not over, by agent and principal.
#[derive(Debug, Default, Clone)]
pub(super) struct Executions {
    running: Arc<Mutex<HashMap<u64, Begun>>>,
    next: Arc<AtomicU64>,
}

#[derive(Debug)]
struct Begun {
    agent: String,
    principal: String,
    at: Instant,
}

/// One execution, until this is dropped.
#[derive(Debug)]
#[must_use]
pub(super) struct Running {
    executions: Executions,
    id: u64,
}

impl Executions {
    pub(super) fn begin(&self, agent: Option<&str>, principal: &str) -> Running {
        let id = self.next.fetch_add(1, Ordering::Relaxed);
        let begun = Begun {
            agent: agent.unwrap_or("main").to_owned(),
            principal: principal.to_owned(),
            at: Instant::now(),
        };
        lock(&self.running).insert(id, begun);
        Running {
            executions: self.clone(),
            id,
        }
    }

    /// The longest first.
    pub(super) fn list(&self) -> Vec<Execution> {
        let running = lock(&self.running);
        let mut list: Vec<Execution> = running
            .values()
            .map(|begun| Execution {
                agent: begun.agent.clone(),
                principal: begun.principal.clone(),
                seconds: begun.at.elapsed().as_secs(),
            })
            .collect();
        drop(running);
        list.sort_by(|a, b| {
            b.seconds
                .cmp(&a.seconds)
                .then_with(|| a.agent.cmp(&b.agent))
        });
        list
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        lock(&self.executions.running).remove(&self.id);
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

const REMEMBER_EVERY: Duration = Duration::from_secs(2);
/// Five minutes.
const MOMENTS: usize = 150;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_over_is_not_running() {
        let executions = Executions::default();
        let first = executions.begin(None, "phone");
        let second = executions.begin(Some("work"), "laptop");
        assert_eq!(executions.list().len(), 2);
        drop(first);
        assert_eq!(executions.list()[0].agent, "work");
        drop(second);
        assert!(executions.list().is_empty());
    }

    #[test]
    fn the_history_is_bounded() {
        let seen = Seen::new();
        for at_ms in 0..500 {
            seen.remember(Moment {
                at_ms,
                ..Moment::default()
            });
        }
        let history = seen.history();
        assert_eq!((history.len(), history[149].at_ms), (MOMENTS, 499));
    }
}
