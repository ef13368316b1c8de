//! Nothing outlives its execution: cancelled, abandoned, or left by a daemon that was killed.

use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use clawsec_user::config::{SandboxProvider, WorkspaceAccess};
use clawsec_user::sandbox::{
    CancellationToken, EntryState, JobCommand, Registry, RegistryError, Sandbox, SandboxError,
};

use super::{config, finish, job, open, open_as, permit, permit_of};
use crate::system::docker;

pub(super) async fn cancel_kills(provider: SandboxProvider) {
    let instance = unique("cancel");
    let sandbox = open_as(provider, &instance).await.unwrap();
    let cancel = CancellationToken::new();
    let running = tokio::spawn({
        let (sandbox, cancel) = (sandbox.clone(), cancel.clone());
        let job = job(JobCommand::Shell("echo begun; sleep 60".into()));
        async move { sandbox.run(permit(), job, cancel).await }
    });
    until("it runs", || async {
        !remains(provider, &instance).await.is_empty()
    })
    .await;
    let started = Instant::now();
    cancel.cancel();
    let execution = running.await.unwrap().unwrap();
    assert!(execution.cancelled && !execution.timed_out, "{execution:?}");
    assert!(
        started.elapsed() < Duration::from_secs(5),
        "{:?}",
        started.elapsed()
    );
    assert!(sandbox.close(Duration::from_secs(10)).await);
    assert_eq!(remains(provider, &instance).await, "");
    let refused = sandbox
        .run(
            permit(),
            job(JobCommand::Shell("true".into())),
            CancellationToken::new(),
        )
        .await;
    assert!(matches!(refused, Err(SandboxError::Closed)), "{refused:?}");
    finish(sandbox).await;
}

pub(super) async fn dropping_the_caller_kills(provider: SandboxProvider) {
    let instance = unique("drop");
    let sandbox = open_as(provider, &instance).await.unwrap();
    let job = job(JobCommand::Shell("sleep 60".into()));
    let run = sandbox.run(permit(), job, CancellationToken::new());
    // Long enough that it has started: abandoned in the middle.
    assert!(
        tokio::time::timeout(Duration::from_secs(2), run)
            .await
            .is_err()
    );
    until("it is gone", || async {
        remains(provider, &instance).await.is_empty()
    })
    .await;
    finish(sandbox).await;
}

pub(super) async fn orphans_of_a_crash(provider: SandboxProvider) {
    let instance = unique("crash");
    // A neighbour with the same instance that is alive must lose nothing.
    let neighbour = open_as(provider, &instance).await.unwrap();
    let mut command = Command::new(std::env::current_exe().unwrap());
    command
        .args([
            "--exact",
            "system::sandbox::lifetime::crashing_daemon",
            "--nocapture",
        ])
        .env("CLAWSEC_TEST_CRASH", &instance)
        .env("CLAWSEC_TEST_PROVIDER", format!("{provider:?}"))
        .stdin(Stdio::null())
        .stdout(Stdio::null());
    if provider == SandboxProvider::Docker {
        let socket = docker::socket_with_image().await;
        command.env("CLAWSEC_TEST_DOCKER", socket);
    }
    let mut daemon = command.spawn().unwrap();
    until("the other runs", || async {
        remains(provider, &instance).await.lines().count() == 2
    })
    .await;
    assert_eq!(neighbour.remove_orphans().await.unwrap(), 0, "it is alive");
    daemon.kill().unwrap();
    daemon.wait().unwrap();
    assert_ne!(
        remains(provider, &instance).await,
        "",
        "SIGKILL left nothing to test"
    );
    assert_eq!(neighbour.remove_orphans().await.unwrap(), 2);
    assert_eq!(remains(provider, &instance).await, "");
    assert_eq!(neighbour.remove_orphans().await.unwrap(), 0);
    finish(neighbour).await;
}

/// The daemon that `orphans_of_a_crash` starts and kills; as a test of its own it is nothing.
#[tokio::test(flavor = "multi_thread")]
async fn crashing_daemon() {
    let Ok(instance) = std::env::var("CLAWSEC_TEST_CRASH") else {
        return;
    };
    let provider = match std::env::var("CLAWSEC_TEST_PROVIDER").as_deref() {
        Ok("Docker") => SandboxProvider::Docker,
        Ok("Firejail") => SandboxProvider::Firejail,
        Ok("Native") => SandboxProvider::Native,
        _ => SandboxProvider::None,
    };
    let sandbox = open_as(provider, &instance).await.unwrap();
    let start = |index: u32| {
        // Ids unlike those of the process that looks.
        let mut job = job(JobCommand::Shell("sleep 300".into()));
        job.id = format!("crash{index}");
        job.timeout = Duration::from_secs(50);
        sandbox.run(permit(), job, CancellationToken::new())
    };
    // Ends only by being killed, or by the timeout if the test that started it is gone.
    drop(tokio::join!(start(0), start(1)));
}

pub(super) async fn queue_is_bounded(provider: SandboxProvider) {
    let sandbox = open(provider).await;
    let started = Instant::now();
    let many = config(provider).concurrency * 3;
    let runs: Vec<_> = (0..many)
        .map(|index| {
            let job = job(JobCommand::Shell(format!("echo {index}")));
            let sandbox = sandbox.clone();
            tokio::spawn(async move { sandbox.run(permit(), job, CancellationToken::new()).await })
        })
        .collect();
    for (index, run) in runs.into_iter().enumerate() {
        assert_eq!(
            run.await.unwrap().unwrap().stdout.text(),
            format!("{index}\n")
        );
    }
    assert!(started.elapsed() < Duration::from_mins(1));

    // A slot is free again when the container is removed, a moment after the answer.
    until("all slots are free", || async {
        sandbox.health().await.unwrap().running == 0
    })
    .await;

    // All slots held, the queue full: the next is refused at once, and says so.
    let cancel = CancellationToken::new();
    let holders: Vec<_> = (0..config(provider).concurrency + 256)
        .map(|_| {
            let job = job(JobCommand::Shell("sleep 60".into()));
            let (sandbox, cancel) = (sandbox.clone(), cancel.clone());
            tokio::spawn(async move { sandbox.run(permit(), job, cancel).await })
        })
        .collect();
    until("the queue is full", || async {
        sandbox.health().await.unwrap().waiting == 256
    })
    .await;
    let refused = sandbox
        .run(
            permit(),
            job(JobCommand::Shell("true".into())),
            CancellationToken::new(),
        )
        .await;
    assert!(refused.is_err_and(|error| error.is_busy()));
    cancel.cancel();
    for holder in holders {
        match holder.await.unwrap() {
            Ok(execution) => assert!(execution.cancelled),
            Err(error) => assert!(matches!(error, SandboxError::Cancelled), "{error}"),
        }
    }
    finish(sandbox).await;
}

pub(super) async fn registry_shows_only_ones_own(provider: SandboxProvider) {
    let sandbox = open(provider).await;
    let registry = Registry::new(sandbox.clone());
    let long = job(JobCommand::Shell("echo begun; sleep 60".into()));
    let short = job(JobCommand::Shell("echo quick".into()));
    let (long_id, short_id) = (long.id.clone(), short.id.clone());
    registry.start(permit_of("phone"), long, |_| {}).unwrap();
    registry.start(permit_of("laptop"), short, |_| {}).unwrap();

    assert_eq!(registry.list("phone").len(), 1);
    assert_eq!(registry.list("stranger").len(), 0);
    assert_eq!(
        registry.poll("laptop", &long_id).unwrap_err(),
        RegistryError::Unknown
    );
    assert_eq!(
        registry.kill("laptop", &long_id),
        Err(RegistryError::Unknown)
    );

    until("output is seen while it runs", || async {
        registry.poll("phone", &long_id).unwrap().stdout.text() == "begun\n"
    })
    .await;
    assert!(matches!(
        registry.poll("phone", &long_id).unwrap().state,
        EntryState::Running
    ));
    registry.kill("phone", &long_id).unwrap();
    for (principal, id, cancelled) in [("phone", &long_id, true), ("laptop", &short_id, false)] {
        until("it ends", || async {
            matches!(
                registry.poll(principal, id).unwrap().state,
                EntryState::Finished(_)
            )
        })
        .await;
        let EntryState::Finished(end) = registry.poll(principal, id).unwrap().state else {
            unreachable!("it has ended");
        };
        assert_eq!(
            end.as_ref().as_ref().unwrap().cancelled,
            cancelled,
            "{principal}"
        );
    }
    assert!(registry.close(Duration::from_secs(10)).await);
    finish(sandbox).await;
}

/// What stands ready is one execution's, and goes with the daemon.
pub(super) async fn what_stands_ready_is_used_once(provider: SandboxProvider) {
    let instance = unique("idle");
    let sandbox = super::setup::open_pooled_as(provider, &instance).await;
    assert!(sandbox.warm_up(Duration::from_secs(30)).await);
    let before = remains(provider, &instance).await;
    assert_eq!(before.lines().count(), 2, "{before}");
    assert_eq!(sandbox.remove_orphans().await.unwrap(), 0, "they are alive");
    for _ in 0..4 {
        let line = "cat /tmp/left left 2>/dev/null; echo x > left; cp left /tmp/; sleep 60 &";
        let execution = super::shell(&sandbox, line).await;
        assert_eq!(execution.stdout.total_bytes, 0, "of another: {execution:?}");
    }
    until("the first two are gone", || async {
        let now = remains(provider, &instance).await;
        now.lines().all(|name| !before.contains(name))
    })
    .await;
    finish(sandbox).await;
}

/// A folder that was made anew under its old name is not the one that was mounted.
#[tokio::test(flavor = "multi_thread")]
async fn a_native_sandbox_of_an_old_workspace_is_not_used() {
    super::setup::make_user();
    let workspace = tempfile::tempdir().unwrap();
    let path = workspace.path().join("folder");
    let fresh = |content: &str| {
        std::fs::remove_dir_all(&path).ok();
        std::fs::create_dir(&path).unwrap();
        std::fs::write(path.join("file"), content).unwrap();
    };
    let mut config = config(SandboxProvider::Native);
    config.pool = 1;
    config.workspace = Some(path.clone());
    config.workspace_access = WorkspaceAccess::ReadOnly;
    fresh("old");
    let sandbox = Sandbox::open(&config, &unique("stale")).await.unwrap();
    for content in ["old", "new"] {
        assert!(sandbox.warm_up(Duration::from_secs(30)).await);
        if content == "new" {
            fresh(content);
        }
        let execution = super::shell(&sandbox, "cat file").await;
        assert_eq!(execution.stdout.text(), content, "{execution:?}");
    }
    finish(sandbox).await;
}

/// Prints what an execution of `true` costs; bounded loosely, so that only a disaster fails.
pub(super) async fn start_cost(provider: SandboxProvider) {
    let sandbox = open(provider).await;
    let mut costs = Vec::new();
    for _ in 0..11 {
        let started = Instant::now();
        super::shell(&sandbox, "true").await;
        costs.push(started.elapsed());
    }
    costs.sort();
    let (least, median, most) = (costs[0], costs[costs.len() / 2], costs[costs.len() - 1]);
    let line = format!("start cost {provider:?}: median {median:?} ({least:?} to {most:?})\n");
    std::io::Write::write_all(&mut std::io::stderr(), line.as_bytes()).unwrap();
    assert!(median < Duration::from_secs(5), "{median:?}");
    finish(sandbox).await;
}

/// Names of what is left of an instance, one a line: containers, or cgroups.
pub(super) async fn remains(provider: SandboxProvider, instance: &str) -> String {
    if provider == SandboxProvider::Docker {
        let socket = docker::socket_with_image().await;
        let label = format!("label=clawsec.instance={instance}");
        let arguments = ["ps", "-a", "--filter", &label, "--format", "{{.Names}}"];
        return docker::docker(&socket, &arguments);
    }
    let v1 = Path::new("/sys/fs/cgroup/pids");
    let root = if v1.exists() {
        v1
    } else {
        Path::new("/sys/fs/cgroup")
    };
    let Ok(entries) = std::fs::read_dir(root.join("clawsec").join(instance)) else {
        return String::new();
    };
    let dirs = entries.flatten().filter(|entry| entry.path().is_dir());
    let names: Vec<String> = dirs
        .map(|entry| entry.file_name().display().to_string())
        .collect();
    names.join("\n")
}

pub(super) async fn until<F: Future<Output = bool>>(what: &str, mut state: impl FnMut() -> F) {
    let deadline = Instant::now() + Duration::from_secs(20);
    while !state().await {
        assert!(Instant::now() < deadline, "waited in vain until {what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// An instance of this test alone: what remains of others is not its business.
pub(super) fn unique(name: &str) -> String {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let number = NEXT.fetch_add(1, Ordering::Relaxed);
    format!("test-{name}-{}-{number}", std::process::id())
}
