//! What a tool can and cannot do in each provider, seen from inside.
//!
//! Each test names its provider: `docker::…` needs dockerd and busybox-static (it starts a daemon
//! of its own unless `CLAWSEC_TEST_DOCKER` names a socket), `firejail::…` and `none::…` need root
//! and the user `clawsec-sbx`, which is made if it is missing; `firejail::…` needs firejail.

mod liar;
mod lifetime;
mod load;
mod probe;
mod setup;

use std::collections::BTreeMap;
use std::path::Path;
use std::time::{Duration, Instant};

pub(crate) use self::probe::workspace;
pub(crate) use self::setup::make_user;
use self::setup::{USER, config, job, open_as, permit, permit_of, run, shell};
use crate::system::docker::chain;
use clawsec_user::config::SandboxProvider;
use clawsec_user::sandbox::{CancellationToken, JobCommand, Sandbox};

/// The rules that hold in every provider.
macro_rules! provider {
    ($module:ident, $provider:expr) => {
        mod $module {
            use clawsec_user::config::SandboxProvider;

            provider! { @rows super::open($provider),
                hello, exit_codes, signals, arguments, missing_programs, stdin, environment,
                timeout, output_cap, memory_bomb, fork_bomb, no_network, read_only_root,
                ordinary_user, no_rights, no_dangerous_calls, no_inherited_descriptors,
                background_processes_end, workdir,
            }
            provider! { @lifetime $provider,
                cancel_kills, dropping_the_caller_kills, orphans_of_a_crash, queue_is_bounded,
                registry_shows_only_ones_own, start_cost,
            }
            provider! { @load $provider, two_hundred_at_once, a_killed_daemon_leaves_nothing, }
            provider! { @probe $provider, system_calls_are_filtered, workspaces_keep_their_access, }
        }
    };
    (@rows $open:expr, $($name:ident,)*) => { $(
        #[tokio::test(flavor = "multi_thread")]
        async fn $name() {
            let sandbox = $open.await;
            super::$name(&sandbox).await;
            super::finish(sandbox).await;
        }
    )* };
    (@probe $provider:expr, $($name:ident,)*) => { $(
        #[tokio::test(flavor = "multi_thread")]
        async fn $name() {
            super::probe::$name($provider).await;
        }
    )* };
    (@load $provider:expr, $($name:ident,)*) => { $(
        #[tokio::test(flavor = "multi_thread")]
        async fn $name() {
            super::load::$name($provider).await;
        }
    )* };
    (@lifetime $provider:expr, $($name:ident,)*) => { $(
        #[tokio::test(flavor = "multi_thread")]
        async fn $name() {
            super::lifetime::$name($provider).await;
        }
    )* };
}

mod pooled;
provider!(docker, SandboxProvider::Docker);

provider!(firejail, SandboxProvider::Firejail);
provider!(native, SandboxProvider::Native);
provider!(none, SandboxProvider::None);

async fn hello(sandbox: &Sandbox) {
    let execution = shell(sandbox, "echo out; echo err >&2").await;
    assert_eq!(execution.exit_code, Some(0), "{execution:?}");
    assert_eq!(execution.stdout.text(), "out\n");
    assert_eq!(execution.stderr.text(), "err\n");
    assert!(!execution.timed_out && !execution.oom && !execution.cancelled);
    sandbox.health().await.unwrap();
}

async fn exit_codes(sandbox: &Sandbox) {
    for code in [0, 1, 7, 126] {
        let execution = shell(sandbox, &format!("exit {code}")).await;
        assert_eq!(
            (execution.exit_code, execution.signal),
            (Some(code), None),
            "{code}"
        );
    }
}

async fn signals(sandbox: &Sandbox) {
    for signal in [9, 15] {
        let execution = shell(sandbox, &format!("kill -{signal} $$; sleep 5")).await;
        assert_eq!(
            (execution.exit_code, execution.signal),
            (None, Some(signal)),
            "{execution:?}"
        );
        assert_eq!(execution.status(), 128 + signal);
    }
}

async fn arguments(sandbox: &Sandbox) {
    let option = job(JobCommand::Argv(vec!["--version".into()]));
    if let Ok(execution) = sandbox
        .run(permit(), option, CancellationToken::new())
        .await
    {
        assert_ne!(execution.status(), 0, "{execution:?}");
    }
    let hostile = [
        "a b",
        "$HOME",
        "`id`",
        "it's",
        "\"q\"",
        "a;b",
        "",
        "-x",
        "*",
        "new\nline",
    ];
    let mut argv = vec!["printf".to_owned(), "<%s>".to_owned()];
    argv.extend(hostile.iter().map(ToString::to_string));
    let execution = run(sandbox, job(JobCommand::Argv(argv))).await;
    let expected = format!("<{}>", hostile.join("><"));
    assert_eq!(execution.stdout.text(), expected);
}

async fn missing_programs(sandbox: &Sandbox) {
    let execution = run(
        sandbox,
        job(JobCommand::Argv(vec!["no-such-program".into()])),
    )
    .await;
    assert_ne!(execution.status(), 0, "{execution:?}");
    assert!(
        execution.stderr.text().contains("no-such-program"),
        "{execution:?}"
    );
}

async fn stdin(sandbox: &Sandbox) {
    let mut input = job(JobCommand::Argv(vec!["wc".into(), "-c".into()]));
    input.stdin = vec![b'x'; 300_000];
    assert_eq!(run(sandbox, input).await.stdout.text().trim(), "300000");
    // Without input the tool sees the end at once, and one that does not read loses nothing.
    assert_eq!(shell(sandbox, "wc -c").await.stdout.text().trim(), "0");
    let mut unread = job(JobCommand::Shell("echo done".into()));
    unread.stdin = vec![b'x'; 300_000];
    assert_eq!(run(sandbox, unread).await.stdout.text(), "done\n");
}

async fn environment(sandbox: &Sandbox) {
    let mut named = job(JobCommand::Shell("env".into()));
    named.env = BTreeMap::from([("GIVEN".to_owned(), "a b=c".to_owned())]);
    let text = run(sandbox, named).await.stdout.text();
    assert!(text.contains("GIVEN=a b=c\n"), "{text}");
    assert!(text.contains("LANG=C.UTF-8\n"), "{text}");
    assert!(!text.contains("CLAWSEC"), "{text}");
    assert!(!text.contains("CARGO"), "{text}");
}

async fn timeout(sandbox: &Sandbox) {
    // A tool that ignores the polite signal, and one whose child does.
    for line in [
        "sleep 30",
        "trap '' TERM; echo started; sleep 30 & wait; sleep 30",
    ] {
        let mut slow = job(JobCommand::Shell(line.into()));
        slow.timeout = Duration::from_millis(700);
        let started = Instant::now();
        let execution = run(sandbox, slow).await;
        assert!(execution.timed_out, "{execution:?}");
        assert_eq!(execution.status(), 124);
        assert!(
            started.elapsed() < Duration::from_secs(8),
            "{:?}",
            started.elapsed()
        );
    }
}

async fn output_cap(sandbox: &Sandbox) {
    let before = resident_kib();
    let mut flood = job(JobCommand::Shell(
        "echo first; yes | head -c 100000000; echo last".into(),
    ));
    flood.timeout = Duration::from_mins(1);
    let execution = run(sandbox, flood).await;
    assert_eq!(execution.exit_code, Some(0), "{:?}", execution.signal);
    let stdout = &execution.stdout;
    assert_eq!(stdout.total_bytes, 100_000_000 + 6 + 5);
    assert!(stdout.truncated);
    assert!(stdout.bytes().len() <= config(SandboxProvider::None).output_bytes);
    assert!(stdout.head.starts_with(b"first\ny\n"));
    assert!(stdout.tail.ends_with(b"y\nlast\n"));
    let grown = resident_kib().saturating_sub(before);
    assert!(grown < 64 * 1024, "{grown} KiB more than before");
}

async fn memory_bomb(sandbox: &Sandbox) {
    // tail keeps the whole of a line without end.
    let execution = shell(sandbox, "tail -n 1 /dev/zero").await;
    assert!(execution.oom, "{execution:?}");
    assert_ne!(execution.status(), 0, "{execution:?}");
    assert!(!shell(sandbox, "true").await.oom);
}

async fn fork_bomb(sandbox: &Sandbox) {
    let mut bomb = job(JobCommand::Shell(
        "bomb() { bomb | bomb & }; bomb; sleep 20".into(),
    ));
    bomb.timeout = Duration::from_secs(2);
    let started = Instant::now();
    run(sandbox, bomb).await;
    assert!(
        started.elapsed() < Duration::from_secs(15),
        "{:?}",
        started.elapsed()
    );
    // The host still forks, and the sandbox still works.
    assert_eq!(shell(sandbox, "echo alive").await.stdout.text(), "alive\n");
}

async fn no_network(sandbox: &Sandbox) {
    let devices = shell(sandbox, "cat /proc/net/dev").await.stdout.text();
    let names: Vec<&str> = devices
        .lines()
        .skip(2)
        .filter_map(|line| line.split(':').next())
        .map(str::trim)
        .collect();
    let strange: Vec<_> = names.iter().filter(|name| !is_idle_device(name)).collect();
    assert!(strange.is_empty(), "{devices}");
    let routes = shell(sandbox, "cat /proc/net/route").await.stdout.text();
    assert_eq!(routes.lines().skip(1).count(), 0, "{routes}");
}

/// Loopback, and the tunnels the kernel makes in every new namespace, down and without address.
fn is_idle_device(name: &str) -> bool {
    name == "lo"
        || ["sit", "tunl", "gre", "erspan", "ip_vti", "ip6"]
            .iter()
            .any(|kind| name.starts_with(kind))
}

async fn read_only_root(sandbox: &Sandbox) {
    for path in [
        "/x",
        "/etc/x",
        "/usr/x",
        "/bin/x",
        "/proc/sys/kernel/hostname",
        "/sys/x",
    ] {
        let execution = shell(sandbox, &format!("echo bad > {path}")).await;
        assert_ne!(execution.status(), 0, "{path}: {execution:?}");
    }
    let own_places = "a=/tmp/$$; echo a > $a && echo b > b && cat $a b; rm $a";
    let execution = shell(sandbox, own_places).await;
    assert_eq!(execution.stdout.text(), "a\nb\n", "{execution:?}");
}

async fn ordinary_user(sandbox: &Sandbox) {
    let text = shell(sandbox, "id -u; id -g; cat /proc/self/status")
        .await
        .stdout
        .text();
    let mut lines = text.lines();
    assert_ne!(lines.next(), Some("0"), "{text}");
    assert_ne!(lines.next(), Some("0"), "{text}");
    let groups = status_field(&text, "Groups");
    assert!(
        !groups.split_whitespace().any(|group| group == "0"),
        "{groups}"
    );
    let shadow = shell(sandbox, "cat /etc/shadow").await;
    assert_ne!(shadow.status(), 0);
    assert_eq!(shadow.stdout.total_bytes, 0);
}

async fn no_rights(sandbox: &Sandbox) {
    let text = shell(sandbox, "cat /proc/self/status").await.stdout.text();
    let mut sets = vec!["CapInh", "CapPrm", "CapEff", "CapAmb"];
    // `none` leaves the bounding set: NoNewPrivs already keeps it from being used.
    if sandbox.provider() != SandboxProvider::None {
        sets.push("CapBnd");
    }
    for set in sets {
        assert_eq!(status_field(&text, set), "0000000000000000", "{set}");
    }
    assert_eq!(status_field(&text, "NoNewPrivs"), "1");
    assert_eq!(status_field(&text, "Seccomp"), "2");
}

async fn no_dangerous_calls(sandbox: &Sandbox) {
    // busybox has an applet for each of these. A shell in a new namespace would say so.
    for line in [
        "unshare -U sh -c 'echo escaped'",
        "unshare -r -m sh -c 'echo escaped'",
        "mount -t tmpfs none /tmp && echo escaped",
        "nsenter -t 1 -m sh -c 'echo escaped'",
        "chroot / sh -c 'echo escaped'",
        "dmesg >/dev/null 2>&1 && echo escaped",
        "mknod /tmp/disk b 8 0 && echo escaped",
        "hostname escaped && echo escaped",
    ] {
        let execution = shell(sandbox, line).await;
        assert!(
            !execution.stdout.text().contains("escaped"),
            "{line}: {execution:?}"
        );
    }
}

async fn no_inherited_descriptors(sandbox: &Sandbox) {
    // Held open without CLOEXEC, as a socket handed in by systemd would be.
    let held = std::fs::File::open("/etc/hostname").unwrap();
    rustix::io::fcntl_setfd(&held, rustix::io::FdFlags::empty()).unwrap();
    // `ls` itself opens the directory, hence up to 3.
    let text = shell(sandbox, "ls -l /proc/self/fd | grep -v '[0-9] -> pipe:' ")
        .await
        .stdout
        .text();
    let open: Vec<_> = text.lines().filter(|line| line.contains(" -> ")).collect();
    let known = |line: &&str| line.contains("/proc/") || line.ends_with("/dev/null");
    assert!(open.iter().all(known), "{text}");
}

async fn background_processes_end(sandbox: &Sandbox) {
    let started = Instant::now();
    let execution = shell(sandbox, "sleep 25 & echo gone").await;
    assert_eq!(execution.stdout.text(), "gone\n");
    assert!(
        started.elapsed() < Duration::from_secs(10),
        "{:?}",
        started.elapsed()
    );
}

async fn workdir(sandbox: &Sandbox) {
    let mut there = job(JobCommand::Shell("pwd; touch here".into()));
    there.workdir = Some("/workspace".into());
    let execution = run(sandbox, there).await;
    assert_eq!(execution.exit_code, Some(0), "{execution:?}");
    // Docker makes a directory of that name in the container's own root, which holds nothing.
    let mut outside = job(JobCommand::Shell("ls -A".into()));
    outside.workdir = Some("/root".into());
    if let Ok(execution) = sandbox
        .run(permit(), outside, CancellationToken::new())
        .await
    {
        assert_eq!(execution.stdout.text(), "", "{execution:?}");
    }
}

async fn open(provider: SandboxProvider) -> Sandbox {
    open_as(provider, &lifetime::unique("rule"))
        .await
        .unwrap_or_else(|error| {
            panic!(
                "this test needs the {provider:?} provider: {}",
                chain(&error)
            )
        })
}

/// Waits until nothing is left of it, and removes the folders that bear its name.
async fn finish(sandbox: Sandbox) {
    let instance = sandbox.instance().to_owned();
    assert!(sandbox.close(Duration::from_secs(20)).await, "close");
    assert_eq!(lifetime::remains(sandbox.provider(), &instance).await, "");
    for hierarchy in ["memory", "pids", "cpu", ""] {
        let path = Path::new("/sys/fs/cgroup")
            .join(hierarchy)
            .join("clawsec")
            .join(&instance);
        // Not every host has every hierarchy.
        std::fs::remove_dir(path).ok();
    }
    std::fs::remove_dir(Path::new("/run/clawsec/sandbox").join(&instance)).ok();
}

fn status_field<'a>(status: &'a str, name: &str) -> &'a str {
    status
        .lines()
        .find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))
        .map_or_else(|| panic!("no {name} in {status}"), str::trim)
}

fn resident_kib() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    status_field(&status, "VmRSS")
        .trim_end_matches(" kB")
        .parse()
        .unwrap()
}
