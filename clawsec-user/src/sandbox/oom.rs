//! Whether the kernel has killed for want of memory, in a cgroup of ours or of a container's.

use std::fs;

/// Whether the kernel killed something in the cgroup of `pid`, if that is the one `name` stands for:
/// a process id that another host's daemon has told must not be believed.
pub(super) fn ran_out_of_memory(pid: u32, name: &str) -> bool {
    let own = fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap_or_default();
    let mut files = own.lines().filter_map(|line| {
        let mut parts = line.splitn(3, ':').skip(1);
        let (controllers, path) = (parts.next()?, parts.next()?);
        match controllers {
            _ if !path.contains(name) => None,
            "" => Some(format!("/sys/fs/cgroup{path}/memory.events")),
            "memory" => Some(format!("/sys/fs/cgroup/memory{path}/memory.oom_control")),
            _ => None,
        }
    });
    files.any(|file| oom_kills(&fs::read_to_string(file).unwrap_or_default()) > 0)
}

pub(super) fn oom_kills(text: &str) -> u64 {
    text.lines()
        .find_map(|line| line.strip_prefix("oom_kill "))
        .and_then(|count| count.trim().parse().ok())
        .unwrap_or(0)
}
