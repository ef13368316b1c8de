//! The gateway process, looked at from outside while it serves.

use std::fs;

use xtask::lab::Host;

use super::daemon::Daemon;

#[test]
fn the_gateway_process_can_do_nothing_but_talk() {
    let daemon = Daemon::start("confine", |_| {});
    assert_eq!(daemon.get(Host::Inside, "/").status, 200);
    let pid = daemon.status()["gateway_pid"].as_u64().expect("a pid");
    let tasks = fs::read_dir(format!("/proc/{pid}/task")).expect("list threads");
    for task in tasks {
        let path = task.expect("a thread").path().join("status");
        let status = fs::read_to_string(&path).expect("read a thread's status");
        let field = |name: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(name));
            line.unwrap_or_else(|| panic!("no {name} in {status}"))
                .trim()
                .to_owned()
        };
        for uid in field("Uid:")
            .split_whitespace()
            .chain(field("Gid:").split_whitespace())
        {
            assert_ne!(uid, "0", "{status}");
        }
        assert_eq!(field("Groups:"), "", "no supplementary group");
        for set in ["CapInh:", "CapPrm:", "CapEff:", "CapBnd:", "CapAmb:"] {
            assert_eq!(field(set), "0000000000000000", "{set}");
        }
        assert_eq!(field("NoNewPrivs:"), "1");
        assert_eq!(field("Seccomp:"), "2");
    }
    for entry in fs::read_dir(format!("/proc/{pid}/fd")).expect("list descriptors") {
        let Ok(target) = fs::read_link(entry.expect("a descriptor").path()) else {
            continue;
        };
        let target = target.display().to_string();
        let known = [
            "socket:",
            "pipe:",
            "anon_inode:[eventpoll]",
            "anon_inode:[eventfd]",
            "/dev/null",
        ]
        .iter()
        .any(|prefix| target.starts_with(prefix))
            || target.ends_with("daemon.log");
        assert!(known, "the gateway process holds {target}");
    }
    // Unix sockets: the socketpair has no name; docker's would have one.
    let unix = fs::read_to_string(format!("/proc/{pid}/net/unix")).unwrap_or_default();
    let inodes: Vec<String> = fs::read_dir(format!("/proc/{pid}/fd"))
        .expect("list descriptors")
        .filter_map(|entry| fs::read_link(entry.ok()?.path()).ok())
        .filter_map(|target| {
            target
                .to_str()?
                .strip_prefix("socket:[")?
                .strip_suffix(']')
                .map(str::to_owned)
        })
        .collect();
    for line in unix.lines().filter(|line| line.contains('/')) {
        let inode = line.split_whitespace().nth(6).unwrap_or_default();
        assert!(
            !inodes.iter().any(|own| own == inode),
            "a named Unix socket: {line}"
        );
    }
    let environment = fs::read(format!("/proc/{pid}/environ")).expect("read the environment");
    let environment = String::from_utf8_lossy(&environment);
    assert!(
        !environment.contains("TOKEN") && !environment.contains("KEY"),
        "{environment}"
    );
}
