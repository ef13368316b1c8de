//! Executions in the background, by the principal that started them: the `process` tool.
//!
//! Invariant: every look-up takes the principal, and one that does not own an id gets the answer
//! of an id that does not exist.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::{Captured, Execution, Job, Output, Sandbox, SandboxError};
use crate::policy::Permit;

#[derive(Debug, Clone)]
pub struct Registry {
    sandbox: Sandbox,
    slots: Arc<Mutex<HashMap<String, Slot>>>,
    tasks: TaskTracker,
}

/// One execution as its owner sees it.
#[derive(Debug, Clone)]
pub struct Entry {
    pub id: String,
    pub agent: String,
    pub state: EntryState,
    /// Since it was started; up to its end if it has ended.
    pub elapsed: Duration,
    /// What has come so far, under the cap.
    pub stdout: Captured,
    pub stderr: Captured,
}

#[derive(Debug, Clone)]
pub enum EntryState {
    /// Waiting for a slot, or running.
    Running,
    Finished(Arc<Result<Execution, SandboxError>>),
}

#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum RegistryError {
    #[error("{limit} background executions are running already")]
    TooMany { limit: usize },
    #[error("an execution with this id exists")]
    Duplicate,
    #[error("no execution has this id")]
    Unknown,
}

#[derive(Debug)]
struct Slot {
    principal: String,
    agent: String,
    started: Instant,
    output: Output,
    cancel: CancellationToken,
    end: Option<(Instant, Arc<Result<Execution, SandboxError>>)>,
}

impl Registry {
    pub fn new(sandbox: Sandbox) -> Self {
        Self {
            sandbox,
            slots: Arc::default(),
            tasks: TaskTracker::new(),
        }
    }

    /// Starts a job for the permit's principal and returns at once; the job's id names it.
    /// `at_end` is told how it ended, whether anybody polls or not.
    pub fn start(
        &self,
        permit: Permit,
        job: Job,
        at_end: impl FnOnce(&Result<Execution, SandboxError>) + Send + 'static,
    ) -> Result<(), RegistryError> {
        let (id, agent) = (job.id.clone(), job.agent.clone());
        let output = Output::new(self.sandbox.output_bytes(&agent));
        let cancel = CancellationToken::new();
        {
            let mut slots = self.lock();
            forget(&mut slots, Instant::now());
            admit(&slots, permit.principal(), &id)?;
            slots.insert(
                id.clone(),
                Slot {
                    principal: permit.principal().to_owned(),
                    agent,
                    started: Instant::now(),
                    output: output.clone(),
                    cancel: cancel.clone(),
                    end: None,
                },
            );
        }
        let registry = self.clone();
        self.tasks.spawn(async move {
            let result = registry.sandbox.run_into(permit, job, cancel, output).await;
            at_end(&result);
            if let Some(slot) = registry.lock().get_mut(&id) {
                slot.end = Some((Instant::now(), Arc::new(result)));
            }
        });
        Ok(())
    }

    /// The principal's own executions, oldest first.
    pub fn list(&self, principal: &str) -> Vec<Entry> {
        let mut slots = self.lock();
        forget(&mut slots, Instant::now());
        let mut own: Vec<(&String, &Slot)> = slots
            .iter()
            .filter(|(_, slot)| slot.principal == principal)
            .collect();
        own.sort_by_key(|(_, slot)| slot.started);
        own.into_iter().map(|(id, slot)| slot.entry(id)).collect()
    }

    pub fn poll(&self, principal: &str, id: &str) -> Result<Entry, RegistryError> {
        let mut slots = self.lock();
        forget(&mut slots, Instant::now());
        own(&slots, principal, id).map(|slot| slot.entry(id))
    }

    /// Asks for its end; `poll` tells when it has come. Killing what has ended changes nothing.
    pub fn kill(&self, principal: &str, id: &str) -> Result<(), RegistryError> {
        own(&self.lock(), principal, id).map(|slot| slot.cancel.cancel())
    }

    /// Kills everything of a principal whose key is no longer valid.
    pub fn kill_all(&self, principal: &str) {
        for slot in self
            .lock()
            .values()
            .filter(|slot| slot.principal == principal)
        {
            slot.cancel.cancel();
        }
    }

    /// Kills everything and waits for the tasks; false if `deadline` passed first.
    pub async fn close(&self, deadline: Duration) -> bool {
        for slot in self.lock().values() {
            slot.cancel.cancel();
        }
        self.tasks.close();
        tokio::time::timeout(deadline, self.tasks.wait())
            .await
            .is_ok()
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<String, Slot>> {
        self.slots.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Slot {
    fn entry(&self, id: &str) -> Entry {
        let (stdout, stderr) = self.output.so_far();
        let (state, until) = match &self.end {
            None => (EntryState::Running, Instant::now()),
            Some((at, result)) => (EntryState::Finished(Arc::clone(result)), *at),
        };
        Entry {
            id: id.to_owned(),
            agent: self.agent.clone(),
            state,
            elapsed: until.saturating_duration_since(self.started),
            stdout,
            stderr,
        }
    }
}

fn own<'a>(
    slots: &'a HashMap<String, Slot>,
    principal: &str,
    id: &str,
) -> Result<&'a Slot, RegistryError> {
    slots
        .get(id)
        .filter(|slot| slot.principal == principal)
        .ok_or(RegistryError::Unknown)
}

fn admit(slots: &HashMap<String, Slot>, principal: &str, id: &str) -> Result<(), RegistryError> {
    if slots.contains_key(id) {
        return Err(RegistryError::Duplicate);
    }
    let running = || slots.values().filter(|slot| slot.end.is_none());
    if running().count() >= RUNNING {
        return Err(RegistryError::TooMany { limit: RUNNING });
    }
    if running().filter(|slot| slot.principal == principal).count() >= RUNNING_EACH {
        return Err(RegistryError::TooMany {
            limit: RUNNING_EACH,
        });
    }
    Ok(())
}

/// Drops finished entries that are old, then each principal's oldest beyond its share.
fn forget(slots: &mut HashMap<String, Slot>, now: Instant) {
    slots.retain(|_, slot| match &slot.end {
        Some((at, _)) => now.saturating_duration_since(*at) < KEEP,
        None => true,
    });
    let mut finished: Vec<(String, String, Instant)> = slots
        .iter()
        .filter_map(|(id, slot)| {
            let (at, _) = slot.end.as_ref()?;
            Some((slot.principal.clone(), id.clone(), *at))
        })
        .collect();
    // Newest first, so that what is beyond a share is the oldest.
    finished.sort_by_key(|(_, _, at)| std::cmp::Reverse(*at));
    let mut kept: HashMap<String, usize> = HashMap::new();
    for (index, (principal, id, _)) in finished.into_iter().enumerate() {
        let share = kept.entry(principal).or_default();
        *share += 1;
        if *share > FINISHED_EACH || index >= FINISHED {
            slots.remove(&id);
        }
    }
}

/// Running at once, of one principal and of all. Each holds at most two output caps.
const RUNNING_EACH: usize = 16;
const RUNNING: usize = 64;
/// Finished and kept, of one principal and of all.
const FINISHED_EACH: usize = 32;
const FINISHED: usize = 128;
const KEEP: Duration = Duration::from_mins(30);

#[cfg(test)]
mod tests {
    use super::*;

    fn slot(principal: &str, ended: Option<Instant>) -> Slot {
        Slot {
            principal: principal.into(),
            agent: "main".into(),
            started: Instant::now(),
            output: Output::new(0),
            cancel: CancellationToken::new(),
            end: ended.map(|at| (at, Arc::new(Err(SandboxError::Cancelled)))),
        }
    }

    #[test]
    fn another_principals_execution_looks_like_none() {
        let slots = HashMap::from([("a".to_owned(), slot("phone", None))]);
        let rows = [
            ("its owner", "phone", "a", true),
            ("another", "laptop", "a", false),
            ("no such id", "phone", "b", false),
        ];
        for (name, principal, id, expected) in rows {
            let found = own(&slots, principal, id).map(drop);
            let wanted = if expected {
                Ok(())
            } else {
                Err(RegistryError::Unknown)
            };
            assert_eq!(found, wanted, "{name}");
        }
    }

    #[test]
    fn one_principal_cannot_take_every_place() {
        let mut slots = HashMap::new();
        for index in 0..RUNNING_EACH {
            assert_eq!(admit(&slots, "phone", &index.to_string()), Ok(()));
            slots.insert(index.to_string(), slot("phone", None));
        }
        let full = RegistryError::TooMany {
            limit: RUNNING_EACH,
        };
        assert_eq!(admit(&slots, "phone", "x"), Err(full));
        assert_eq!(admit(&slots, "laptop", "x"), Ok(()));
        assert_eq!(admit(&slots, "laptop", "0"), Err(RegistryError::Duplicate));
    }

    #[test]
    fn finished_entries_are_kept_for_a_while_and_within_bounds() {
        let base = Instant::now();
        let now = base + KEEP * 2;
        let mut slots = HashMap::from([
            ("old".to_owned(), slot("phone", Some(base + KEEP))),
            ("fresh".to_owned(), slot("phone", Some(now))),
            ("running".to_owned(), slot("phone", None)),
        ]);
        for index in 0..FINISHED_EACH {
            // Later for a lower index, all before `now` and none old.
            let at = base + KEEP + Duration::from_secs(1000 - index as u64);
            slots.insert(format!("f{index:02}"), slot("phone", Some(at)));
        }
        forget(&mut slots, now);
        let oldest = format!("f{:02}", FINISHED_EACH - 1);
        for (id, expected) in [
            ("old", false),
            ("fresh", true),
            ("running", true),
            ("f00", true),
            (&*oldest, false),
        ] {
            assert_eq!(slots.contains_key(id), expected, "{id}");
        }
    }
}
