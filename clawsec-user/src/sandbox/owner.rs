//! Which process started an execution, so that a later one can tell an orphan from a neighbour's.
//!
//! A process id alone is reused; with the start time in clock ticks since boot it is unique.

use super::SandboxError;

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Owner {
    pid: u32,
    start_ticks: u64,
}

impl Owner {
    pub(super) fn current() -> Result<Self, SandboxError> {
        let pid = std::process::id();
        let start_ticks = start_ticks(pid).ok_or_else(|| SandboxError::File {
            operation: "read the start time in",
            path: "/proc/self/stat".into(),
            source: std::io::ErrorKind::InvalidData.into(),
        })?;
        Ok(Self { pid, start_ticks })
    }

    /// `<pid>-<ticks>`, as it stands in labels and cgroup names.
    pub(super) fn text(&self) -> String {
        format!("{}-{}", self.pid, self.start_ticks)
    }

    /// Reads `text` back; anything after a further `-` is left to the caller.
    pub(super) fn parse(text: &str) -> Option<(Self, &str)> {
        let (pid, rest) = text.split_once('-')?;
        let (ticks, rest) = rest.split_once('-').unwrap_or((rest, ""));
        let owner = Self {
            pid: pid.parse().ok()?,
            start_ticks: ticks.parse().ok()?,
        };
        Some((owner, rest))
    }

    pub(super) fn is_alive(&self) -> bool {
        start_ticks(self.pid) == Some(self.start_ticks)
    }
}

/// Field 22 of `/proc/<pid>/stat`; the name in field 2 may hold spaces and parentheses. A zombie
/// counts as gone: it runs nothing any more.
pub(super) fn start_ticks(pid: u32) -> Option<u64> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let (_, after_name) = stat.rsplit_once(") ")?;
    if after_name.starts_with(['Z', 'X']) {
        return None;
    }
    after_name.split(' ').nth(19)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_dead_are_told_from_the_living() {
        let own = Owner::current().unwrap();
        let text = format!("{}-job-7", own.text());
        let (parsed, rest) = Owner::parse(&text).unwrap();
        assert_eq!((&parsed, rest), (&own, "job-7"));
        let rows = [
            ("this process", own.clone(), true),
            (
                "its id, used before",
                Owner {
                    start_ticks: 1,
                    ..own
                },
                false,
            ),
            (
                "no such process",
                Owner {
                    pid: u32::MAX,
                    start_ticks: 1,
                },
                false,
            ),
        ];
        for (name, owner, expected) in rows {
            assert_eq!(owner.is_alive(), expected, "{name}");
        }
        assert_eq!(Owner::parse("what"), None);
    }
}
