//! Two hundred at once: all run, memory stays bounded, and a daemon that is killed among them leaves
//! nothing behind its next start.

use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use clawsec_user::config::SandboxProvider;
use clawsec_user::sandbox::{CancellationToken, JobCommand, Sandbox};

use super::lifetime::{remains, unique, until};
use super::{config, finish, job, make_user, permit, resident_kib};
use crate::system::docker;

const MANY: usize = 200;

pub(super) async fn two_hundred_at_once(provider: SandboxProvider) {
    let sandbox = open(provider, &unique("many")).await;
    let before = resident_kib();
    let runs: Vec<_> = (0..MANY)
        .map(|index| {
            // Far more than is kept: two hundred times this is a gigabyte.
            let line = format!("yes {index} | head -c 5000000");
            let (sandbox, mut job) = (sandbox.clone(), job(JobCommand::Shell(line)));
            job.timeout = Duration::from_secs(50);
            tokio::spawn(async move { sandbox.run(permit(), job, CancellationToken::new()).await })
        })
        .collect();
    let kept = config(provider).output_bytes;
    for (index, run) in runs.into_iter().enumerate() {
        let execution = run.await.unwrap().unwrap();
        assert_eq!(execution.exit_code, Some(0), "{index}: {execution:?}");
        assert_eq!(execution.stdout.total_bytes, 5_000_000);
        assert!(execution.stdout.bytes().len() <= kept);
        assert!(
            execution
                .stdout
                .head
                .starts_with(format!("{index}\n").as_bytes())
        );
    }
    // What was kept, twice, and room for the runtime; never what was written.
    let grown = resident_kib().saturating_sub(before) * 1024;
    let bound = 2 * MANY * kept + (64 << 20);
    assert!(grown < bound as u64, "{grown} bytes more than before");
    finish(sandbox).await;
}

pub(super) async fn a_killed_daemon_leaves_nothing(provider: SandboxProvider) {
    let instance = unique("killed");
    let folder = tempfile::tempdir().unwrap();
    // Seconds that no other process on this host sleeps for, so that it can be told.
    let marker = format!("7{:06}.25", std::process::id());
    let mut command = Command::new(std::env::current_exe().unwrap());
    command
        .args([
            "--exact",
            "system::sandbox::load::crowded_daemon",
            "--nocapture",
        ])
        .env("CLAWSEC_TEST_CROWD", &instance)
        .env("CLAWSEC_TEST_PROVIDER", format!("{provider:?}"))
        .env("CLAWSEC_TEST_MARKER", &marker)
        .env("CLAWSEC_TEST_DONE", folder.path().join("done"))
        .stdin(Stdio::null())
        .stdout(Stdio::null());
    if provider == SandboxProvider::Docker {
        command.env("CLAWSEC_TEST_DOCKER", docker::socket_with_image().await);
    }
    let mut daemon = command.spawn().unwrap();
    until("it is in the middle", || async {
        folder.path().join("done").exists() && !processes(&marker).is_empty()
    })
    .await;
    daemon.kill().unwrap();
    daemon.wait().unwrap();
    // What the next start does.
    let next = open(provider, &instance).await;
    next.remove_orphans().await.unwrap();
    // And again every minute: docker may still be making what a dead daemon asked for.
    until("nothing is left", || async {
        next.remove_orphans().await.unwrap();
        let idle = |name: &&str| name.contains("-idle-");
        remains(provider, &instance)
            .await
            .lines()
            .all(|name| idle(&name))
    })
    .await;
    assert!(next.close(Duration::from_secs(20)).await);
    assert_eq!(remains(provider, &instance).await, "");
    let deadline = Instant::now() + Duration::from_secs(5);
    while !processes(&marker).is_empty() {
        assert!(Instant::now() < deadline, "{:?}", processes(&marker));
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
    assert!(!mounts.contains(&instance), "{mounts}");
    let scratch = std::path::Path::new("/run/clawsec/sandbox").join(&instance);
    let left: Vec<_> = std::fs::read_dir(&scratch).into_iter().flatten().collect();
    assert!(left.is_empty(), "{left:?}");
    finish(next).await;
}

/// The daemon that `a_killed_daemon_leaves_nothing` starts and kills; as a test of its own it is
/// nothing.
#[tokio::test(flavor = "multi_thread")]
async fn crowded_daemon() {
    let Ok(instance) = std::env::var("CLAWSEC_TEST_CROWD") else {
        return;
    };
    let provider = match std::env::var("CLAWSEC_TEST_PROVIDER").as_deref() {
        Ok("Docker") => SandboxProvider::Docker,
        Ok("Firejail") => SandboxProvider::Firejail,
        Ok("Native") => SandboxProvider::Native,
        _ => SandboxProvider::None,
    };
    let marker = std::env::var("CLAWSEC_TEST_MARKER").unwrap();
    let sandbox = open(provider, &instance).await;
    let start = |index: usize, line: String| {
        let (sandbox, mut job) = (sandbox.clone(), job(JobCommand::Shell(line)));
        job.id = format!("crowd{index}");
        tokio::spawn(async move { sandbox.run(permit(), job, CancellationToken::new()).await })
    };
    // A few that end, and then the slots fill with what never ends by itself.
    for index in 0..3 {
        start(index, "true".to_owned()).await.unwrap().unwrap();
    }
    let line = format!("sleep {marker} & sleep {marker}");
    let runs: Vec<_> = (3..MANY).map(|index| start(index, line.clone())).collect();
    std::fs::write(std::env::var_os("CLAWSEC_TEST_DONE").unwrap(), "").unwrap();
    for run in runs {
        drop(run.await);
    }
}

/// With a pool where there can be one: what stands ready is as much to be removed.
async fn open(provider: SandboxProvider, instance: &str) -> Sandbox {
    if matches!(provider, SandboxProvider::Docker | SandboxProvider::Native) {
        return super::setup::open_pooled_as(provider, instance).await;
    }
    make_user();
    Sandbox::open(&config(provider), instance).await.unwrap()
}

/// Processes of the host whose command line names `marker`.
fn processes(marker: &str) -> Vec<String> {
    let is_marked = |entry: &std::fs::DirEntry| {
        let line = std::fs::read(entry.path().join("cmdline")).unwrap_or_default();
        let line = String::from_utf8_lossy(&line);
        line.starts_with("sleep") && line.contains(marker)
    };
    std::fs::read_dir("/proc")
        .unwrap()
        .flatten()
        .filter(is_marked)
        .map(|entry| entry.file_name().display().to_string())
        .collect()
}
