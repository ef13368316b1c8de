//! Memory, process and CPU limits around a process tree on the host, and its sure end.
//!
//! Works on cgroup v2 and on v1 with its separate hierarchies. Invariant: a tree in a `Leaf` cannot
//! outlive `kill`: the process limit is set to zero first, so nothing forks while it is killed.

use std::collections::BTreeSet;
use std::fs::{self, OpenOptions};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use tokio::time::{Instant, sleep};

use super::SandboxError;
use super::limits::Limits;
use super::oom::oom_kills;
use super::owner::Owner;

/// The place under which one instance of the daemon makes its leaves.
#[derive(Debug, Clone)]
pub(super) struct Cgroups {
    layout: Layout,
}

/// Folders of this instance, already made.
#[derive(Debug, Clone)]
enum Layout {
    V1 {
        memory: PathBuf,
        pids: PathBuf,
        cpu: Option<PathBuf>,
    },
    V2 {
        base: PathBuf,
    },
}

impl Cgroups {
    /// Finds the hierarchies that carry memory and pids, and makes `clawsec/<instance>` in them.
    pub(super) fn open(instance: &str) -> Result<Self, SandboxError> {
        let mounts = fs::read_to_string("/proc/self/mountinfo").map_err(SandboxError::file(
            "read the mounts in",
            "/proc/self/mountinfo",
        ))?;
        let own = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
        let layout = match choose(&mounts, &own) {
            Choice::V1 { memory, pids, cpu } => {
                let make = |mount: PathBuf| {
                    let path = mount.join("clawsec").join(instance);
                    make_dir(&path).map(|()| path)
                };
                Layout::V1 {
                    memory: make(memory)?,
                    pids: make(pids)?,
                    cpu: cpu.map(make).transpose()?,
                }
            }
            Choice::V2 { parent } => {
                let top = parent.join("clawsec");
                let base = top.join(instance);
                delegate(&parent)?;
                make_dir(&top)?;
                delegate(&top)?;
                make_dir(&base)?;
                delegate(&base)?;
                Layout::V2 { base }
            }
            Choice::Nothing(why) => return Err(SandboxError::NoCgroup(why)),
        };
        if matches!(layout, Layout::V1 { cpu: None, .. }) {
            tracing::warn!("no cpu hierarchy is mounted: sandboxed tools have no CPU limit");
        }
        Ok(Self { layout })
    }

    /// Makes the cgroup of one execution with its limits set.
    pub(super) fn leaf(
        &self,
        owner: &Owner,
        id: &str,
        limits: Limits,
    ) -> Result<Leaf, SandboxError> {
        let leaf = self.named(&format!("{}-{id}", owner.text()));
        match leaf.make(limits) {
            Ok(()) => Ok(leaf),
            Err(error) => {
                leaf.remove_now();
                Err(error)
            }
        }
    }

    /// Leaves whose owner is gone, or that are the current owner's but not `live`.
    pub(super) fn orphans(&self, current: &Owner, live: impl Fn(&str) -> bool) -> Vec<Leaf> {
        let bases: Vec<&PathBuf> = match &self.layout {
            Layout::V1 { memory, pids, cpu } => [memory, pids].into_iter().chain(cpu).collect(),
            Layout::V2 { base } => vec![base],
        };
        let mut names = BTreeSet::new();
        for base in bases {
            let Ok(entries) = fs::read_dir(base) else {
                continue;
            };
            let is_dir = |entry: &fs::DirEntry| entry.file_type().is_ok_and(|kind| kind.is_dir());
            names.extend(
                entries
                    .flatten()
                    .filter(is_dir)
                    .filter_map(|entry| entry.file_name().into_string().ok()),
            );
        }
        names.retain(|name| match Owner::parse(name) {
            Some((owner, id)) if owner == *current => !live(id),
            Some((owner, _)) => !owner.is_alive(),
            None => false,
        });
        names.iter().map(|name| self.named(name)).collect()
    }

    fn named(&self, name: &str) -> Leaf {
        let layout = match &self.layout {
            Layout::V1 { memory, pids, cpu } => Layout::V1 {
                memory: memory.join(name),
                pids: pids.join(name),
                cpu: cpu.as_ref().map(|cpu| cpu.join(name)),
            },
            Layout::V2 { base } => Layout::V2 {
                base: base.join(name),
            },
        };
        Leaf { layout }
    }
}

/// The cgroup of one execution.
#[derive(Debug)]
pub(super) struct Leaf {
    layout: Layout,
}

impl Leaf {
    /// Descriptors to which the child writes `0` to put itself in, before it gives up its rights.
    /// The kernel judges that write by who opened them (5.16), or else by the child's own uid.
    pub(super) fn entrances(&self) -> Result<Vec<OwnedFd>, SandboxError> {
        let open = |dir: &Path| {
            let path = dir.join("cgroup.procs");
            OpenOptions::new()
                .write(true)
                .open(&path)
                .map(OwnedFd::from)
                .map_err(SandboxError::file("open", path))
        };
        self.dirs().into_iter().map(open).collect()
    }

    /// Whether the kernel killed a process in here for want of memory.
    pub(super) fn oom_killed(&self) -> bool {
        let file = match &self.layout {
            // The count stands here since Linux 4.13.
            Layout::V1 { memory, .. } => memory.join("memory.oom_control"),
            Layout::V2 { base } => base.join("memory.events"),
        };
        let text = fs::read_to_string(file).unwrap_or_default();
        oom_kills(&text) > 0
    }

    /// Kills everything in it and waits until it is empty; false if the deadline passed first.
    pub(super) async fn kill(&self) -> bool {
        let deadline = Instant::now() + KILL_DEADLINE;
        let processes = self.processes_dir();
        loop {
            // Nothing can fork from here on; a failed write only means more rounds.
            drop(fs::write(processes.join("pids.max"), "0"));
            // cgroup.kill came with 5.14; it is atomic.
            if fs::write(processes.join("cgroup.kill"), "1").is_err() {
                kill_listed(processes);
            }
            if list(processes).is_empty() {
                return true;
            }
            if Instant::now() >= deadline {
                return false;
            }
            sleep(POLL).await;
        }
    }

    /// Kills what is left and removes the folders.
    pub(super) async fn remove(&self) -> bool {
        let emptied = self.kill().await;
        let deadline = Instant::now() + KILL_DEADLINE;
        // A killed process leaves its cgroup a moment after it leaves the list.
        while !self.remove_now() {
            if Instant::now() >= deadline {
                return false;
            }
            sleep(POLL).await;
        }
        emptied
    }

    fn make(&self, limits: Limits) -> Result<(), SandboxError> {
        for dir in self.dirs() {
            make_dir(dir)?;
        }
        let memory = limits.memory_bytes.to_string();
        let pids = limits.pids.to_string();
        let quota_us = u64::from(limits.cpu_millis) * PERIOD_US / 1000;
        match &self.layout {
            Layout::V1 {
                memory: dir,
                pids: pids_dir,
                cpu,
            } => {
                set(dir, "memory.limit_in_bytes", &memory)?;
                // Absent where swap is not accounted.
                set_if_there(dir, "memory.memsw.limit_in_bytes", &memory)?;
                set(pids_dir, "pids.max", &pids)?;
                if let Some(cpu) = cpu {
                    set(cpu, "cpu.cfs_period_us", &PERIOD_US.to_string())?;
                    set(cpu, "cpu.cfs_quota_us", &quota_us.to_string())?;
                }
            }
            Layout::V2 { base } => {
                set(base, "memory.max", &memory)?;
                set_if_there(base, "memory.swap.max", "0")?;
                // One process out of memory ends the whole execution, not a random part of it.
                set_if_there(base, "memory.oom.group", "1")?;
                set(base, "pids.max", &pids)?;
                set_if_there(base, "cpu.max", &format!("{quota_us} {PERIOD_US}"))?;
            }
        }
        Ok(())
    }

    /// True when no folder is left.
    fn remove_now(&self) -> bool {
        let mut gone = true;
        for dir in self.dirs() {
            match fs::remove_dir(dir) {
                Ok(()) => {}
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
                Err(_) => gone = false,
            }
        }
        gone
    }

    fn processes_dir(&self) -> &Path {
        match &self.layout {
            Layout::V1 { pids, .. } => pids,
            Layout::V2 { base } => base,
        }
    }

    fn dirs(&self) -> Vec<&Path> {
        match &self.layout {
            Layout::V1 { memory, pids, cpu } => [memory.as_path(), pids.as_path()]
                .into_iter()
                .chain(cpu.as_deref())
                .collect(),
            Layout::V2 { base } => vec![base],
        }
    }
}

#[derive(Debug, PartialEq, Eq)]
enum Choice {
    V1 {
        memory: PathBuf,
        pids: PathBuf,
        cpu: Option<PathBuf>,
    },
    V2 {
        parent: PathBuf,
    },
    Nothing(String),
}

/// Decides from `/proc/self/mountinfo` and `/proc/self/cgroup`. A v1 hierarchy that carries memory
/// wins: on such hosts a mounted v2 tree has no controllers.
fn choose(mountinfo: &str, own: &str) -> Choice {
    let (mut memory, mut pids, mut cpu, mut unified) = (None, None, None, None);
    for line in mountinfo.lines() {
        // … mount-point options [optional…] - type source super-options
        let Some((before, after)) = line.split_once(" - ") else {
            continue;
        };
        let Some(point) = before.split(' ').nth(4).map(PathBuf::from) else {
            continue;
        };
        let mut after = after.split(' ');
        match after.next() {
            Some("cgroup2") => unified = Some(point),
            Some("cgroup") => {
                for option in after.nth(1).unwrap_or_default().split(',') {
                    match option {
                        "memory" => memory = Some(point.clone()),
                        "pids" => pids = Some(point.clone()),
                        "cpu" => cpu = Some(point.clone()),
                        _ => {}
                    }
                }
            }
            _ => {}
        }
    }
    match (memory, pids, unified) {
        (Some(memory), Some(pids), _) => Choice::V1 { memory, pids, cpu },
        (None, None, Some(root)) => {
            // With `Delegate=yes` and `DelegateSubgroup=supervisor` the unit's cgroup is ours and
            // holds no process itself, as v2 demands of a parent of controllers.
            let own = own.lines().find_map(|line| line.strip_prefix("0::"));
            let delegated = own
                .and_then(|own| own.strip_suffix("/supervisor"))
                .map(|unit| root.join(unit.trim_start_matches('/')));
            Choice::V2 {
                parent: delegated.unwrap_or(root),
            }
        }
        (None, None, None) => Choice::Nothing("no cgroup file system is mounted".into()),
        (memory, pids, _) => Choice::Nothing(format!(
            "cgroup v1 is mounted, but without {}{}",
            if memory.is_none() { "memory " } else { "" },
            if pids.is_none() { "pids" } else { "" },
        )),
    }
}

/// Hands the needed v2 controllers of `dir` down to its children.
fn delegate(dir: &Path) -> Result<(), SandboxError> {
    let file = dir.join("cgroup.subtree_control");
    for (controller, needed) in [("memory", true), ("pids", true), ("cpu", false)] {
        if let Err(error) = fs::write(&file, format!("+{controller}"))
            && needed
        {
            return Err(SandboxError::NoCgroup(format!(
                "the {controller} controller cannot be had in {}: {error}",
                dir.display()
            )));
        }
    }
    Ok(())
}

fn make_dir(path: &Path) -> Result<(), SandboxError> {
    fs::create_dir_all(path).map_err(SandboxError::file("make the cgroup", path))
}

fn set(dir: &Path, file: &str, value: &str) -> Result<(), SandboxError> {
    let path = dir.join(file);
    fs::write(&path, value).map_err(SandboxError::file("set the limit", path))
}

fn set_if_there(dir: &Path, file: &str, value: &str) -> Result<(), SandboxError> {
    if dir.join(file).exists() {
        set(dir, file, value)
    } else {
        Ok(())
    }
}

fn list(dir: &Path) -> BTreeSet<i32> {
    fs::read_to_string(dir.join("cgroup.procs"))
        .unwrap_or_default()
        .lines()
        .filter_map(|line| line.parse().ok())
        .collect()
}

/// Signals every listed process through a pidfd that was opened before the list was read again,
/// so that a reused id is never hit.
fn kill_listed(dir: &Path) {
    let handles: Vec<(i32, OwnedFd)> = list(dir)
        .into_iter()
        .filter_map(|pid| {
            let handle = pidfd_open(Pid::from_raw(pid)?, PidfdFlags::empty()).ok()?;
            Some((pid, handle))
        })
        .collect();
    let still = list(dir);
    for (pid, handle) in handles {
        if still.contains(&pid) {
            // It may have ended by itself meanwhile.
            pidfd_send_signal(handle, Signal::KILL).ok();
        }
    }
}

/// The kernel's own default, and Docker's.
const PERIOD_US: u64 = 100_000;
const KILL_DEADLINE: Duration = Duration::from_secs(5);
const POLL: Duration = Duration::from_millis(2);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_hierarchy_that_carries_limits_is_chosen() {
        let v1 = "30 20 0:26 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n\
                  31 20 0:27 / /sys/fs/cgroup/pids rw - cgroup cgroup rw,pids\n\
                  32 20 0:28 / /sys/fs/cgroup/cpu,cpuacct rw shared:9 - cgroup cgroup rw,cpu,cpuacct\n";
        let v2 = "35 20 0:30 / /sys/fs/cgroup rw shared:4 - cgroup2 cgroup2 rw,nsdelegate\n";
        let hybrid = "36 20 0:31 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n";
        let separate = |cpu: Option<&str>| Choice::V1 {
            memory: "/sys/fs/cgroup/memory".into(),
            pids: "/sys/fs/cgroup/pids".into(),
            cpu: cpu.map(Into::into),
        };
        let unified = |parent: &str| Choice::V2 {
            parent: parent.into(),
        };
        let no_cpu: String = v1.split_inclusive('\n').take(2).collect();
        let rows = [
            (
                "v1",
                v1.to_owned(),
                "",
                separate(Some("/sys/fs/cgroup/cpu,cpuacct")),
            ),
            ("v1 without cpu", no_cpu, "", separate(None)),
            (
                "hybrid",
                format!("{v1}{hybrid}"),
                "0::/",
                separate(Some("/sys/fs/cgroup/cpu,cpuacct")),
            ),
            (
                "v2",
                v2.to_owned(),
                "0::/user.slice\n",
                unified("/sys/fs/cgroup"),
            ),
            (
                "v2 delegated by systemd",
                v2.to_owned(),
                "0::/system.slice/clawsec.service/supervisor\n",
                unified("/sys/fs/cgroup/system.slice/clawsec.service"),
            ),
        ];
        for (name, mounts, own, expected) in rows {
            assert_eq!(choose(&mounts, own), expected, "{name}");
        }
        assert!(matches!(choose("", ""), Choice::Nothing(_)));
        let memory_only: String = v1.lines().take(1).collect();
        assert!(matches!(choose(&memory_only, ""), Choice::Nothing(_)));
    }

    #[test]
    fn kills_for_memory_are_counted() {
        let rows = [
            ("v1", "oom_kill_disable 0\nunder_oom 0\noom_kill 2\n", 2),
            ("v2", "low 0\noom 1\noom_kill 1\noom_group_kill 1\n", 1),
            ("none", "oom_kill_disable 0\nunder_oom 1\noom_kill 0\n", 0),
            ("unreadable", "", 0),
        ];
        for (name, text, expected) in rows {
            assert_eq!(oom_kills(text), expected, "{name}");
        }
    }
}
