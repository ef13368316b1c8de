//! The writer against real files: rotation, torn tails, full disks, kills.

mod outages;
mod rotation;

use std::fs;
use std::path::Path;

use super::*;
use crate::audit::{Chain, HeadCheck, LogReader, ProblemKind, Record, head_path, verify};
use crate::config::{Secret, SpaceLimits};
use crate::event::{Event, Outcome};
use tokio::time::sleep;

fn config(path: &Path) -> AuditConfig {
    AuditConfig {
        rotate_keep: 3,
        rotate_compress: false,
        space: SpaceLimits {
            warn_bytes: 0,
            refuse_bytes: 0,
        },
        ..AuditConfig::at(path.to_owned())
    }
}

fn start(config: &AuditConfig, capacity: usize) -> AuditHandle {
    let (handle, task) = open_with_capacity(config, capacity).unwrap();
    tokio::spawn(task.run());
    handle
}

fn allowed(number: u64) -> Event {
    let mut event = Event::new(EventKind::Message, "send", Outcome::Allow, "ok");
    event.request = Some(number.to_string());
    event
}

fn kernel_drop(count: u64) -> Event {
    let mut event = Event::new(EventKind::Network, "drop", Outcome::Deny, "not_allowed");
    event.count = count;
    event
}

fn records(path: &Path) -> Vec<Record> {
    let mut reader = LogReader::open(path).unwrap();
    let mut records = Vec::new();
    while let Some(line) = reader.next_line().unwrap() {
        records.push(Record::parse(line.text).unwrap());
    }
    records
}

fn problem(path: &Path) -> Option<ProblemKind> {
    let report = verify(path, &Chain::new(None), &HeadCheck::Required, &mut |_| {}).unwrap();
    report.problem.map(|problem| problem.kind)
}

async fn until(what: &str, condition: impl Fn() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(10);
    while !condition() {
        assert!(Instant::now() < deadline, "{what}");
        sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test]
async fn what_is_flushed_is_in_the_file_and_verifies() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("new/folder/audit.log");
    let handle = start(&config(&path), 8192);
    for number in 0..500 {
        assert_eq!(handle.record(allowed(number)), Recorded::Queued);
    }
    handle.flush().await.unwrap();
    assert_eq!(records(&path).len(), 500);
    assert_eq!(handle.health().seq, 500);
    assert_eq!(problem(&path), None);
    let mode = |path: &Path| {
        use std::os::unix::fs::PermissionsExt;
        fs::metadata(path).unwrap().permissions().mode() & 0o777
    };
    assert_eq!(mode(&path), 0o600);
    assert_eq!(mode(&head_path(&path)), 0o600);
    assert_eq!(mode(path.parent().unwrap()), 0o700);
    handle.stop().await;
}

#[tokio::test]
async fn a_second_writer_is_refused_until_the_first_stops() {
    let dir = tempfile::tempdir().unwrap();
    let config = config(&dir.path().join("audit.log"));
    let first = start(&config, 16);
    assert!(matches!(open(&config), Err(AuditError::Locked { .. })));
    first.stop().await;
    assert!(open(&config).is_ok());
}

#[tokio::test]
async fn repeats_are_summed_and_stop_writes_the_sum() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("audit.log");
    let handle = start(&config(&path), 8192);
    for _ in 0..100 {
        let denied = Event::new(
            EventKind::Auth,
            "connect",
            Outcome::Deny,
            "credential_unknown",
        );
        assert_eq!(handle.record(denied), Recorded::Queued);
    }
    handle.stop().await;
    let counts: Vec<_> = records(&path).iter().map(|record| record.count).collect();
    assert_eq!(counts, [1, 99]);
    assert_eq!(problem(&path), None);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stop_at_any_moment_leaves_the_sums_written_and_the_head_at_the_end() {
    for round in 0..200_u64 {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("audit.log");
        let handle = start(&config(&path), 8192);
        for _ in 0..3 {
            let denied = Event::new(EventKind::Auth, "connect", Outcome::Deny, "device_invalid");
            assert_eq!(handle.record(denied), Recorded::Queued);
        }
        let pause = Duration::from_micros(round * 7 % 400);
        let begun = Instant::now();
        while begun.elapsed() < pause {
            tokio::task::yield_now().await;
        }
        handle.stop().await;
        let all = records(&path);
        assert_eq!(
            all.iter().map(|record| record.count).sum::<u64>(),
            3,
            "{round}"
        );
        assert_eq!(problem(&path), None, "{round}");
        let head = crate::audit::Head::read(&path).unwrap().unwrap();
        assert_eq!(head.seq, all.last().unwrap().seq, "{round}");
    }
}

#[tokio::test]
async fn kinds_that_are_not_asked_for_are_left_out() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("audit.log");
    let mut config = config(&path);
    config.events = vec![EventKind::Tool];
    let handle = start(&config, 16);
    for kind in EventKind::ALL {
        let event = Event::new(kind, "x", Outcome::Allow, "ok");
        assert_eq!(handle.record(event), Recorded::Queued);
    }
    handle.stop().await;
    let kinds: Vec<_> = records(&path).iter().map(|record| record.event).collect();
    assert_eq!(
        kinds,
        [EventKind::Tool, EventKind::Network, EventKind::System]
    );
}

#[tokio::test]
async fn the_chain_and_the_sums_go_on_across_rotation_and_restart() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("audit.log");
    let mut config = config(&path);
    config.rotate_bytes = 20_000;
    config.rotate_keep = 1000;
    config.chain_key = Some(Secret::new("a chain key".to_owned()));
    let chain = Chain::new(config.chain_key.as_ref());
    for life in 1..=3 {
        let handle = start(&config, 8192);
        for number in 0..300 {
            assert_eq!(handle.record(allowed(number)), Recorded::Queued);
            assert_eq!(handle.record(kernel_drop(2)), Recorded::Queued);
        }
        handle.stop().await;
        let (handle, _task) = open(&config).unwrap();
        assert_eq!(handle.recovered().recorded["not_allowed"], life * 600);
    }
    let all = records(&path);
    assert_eq!(
        all.iter()
            .filter(|record| record.event == EventKind::Message)
            .count(),
        900
    );
    assert!(
        all.iter()
            .filter(|record| record.action == "rotate")
            .count()
            > 10
    );
    let report = verify(&path, &chain, &HeadCheck::Required, &mut |_| {}).unwrap();
    assert_eq!(report.problem, None);
    assert_eq!(report.records, all.len() as u64);
    assert_eq!(problem(&path), Some(ProblemKind::Head), "without the key");
}

#[tokio::test]
async fn killed_without_notice_the_sums_are_those_of_the_file() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("audit.log");
    let mut config = config(&path);
    config.fsync = Fsync::Never;
    config.rotate_bytes = 10_000;
    config.rotate_keep = 100;
    for _life in 0..10 {
        let (handle, task) = open(&config).unwrap();
        let task = tokio::spawn(task.run());
        let begun = handle.health().seq;
        for _ in 0..50 {
            assert_eq!(handle.record(kernel_drop(7)), Recorded::Queued);
        }
        until("something is written", || handle.health().seq > begun).await;
        // No flush, no head: what is in the file is all there is.
        task.abort();
        assert!(task.await.is_err());
        // A write that was under way ends first, and with it the lock.
        until("the lock is free", || {
            !matches!(open(&config), Err(AuditError::Locked { .. }))
        })
        .await;
        let (handle, _task) = open(&config).unwrap();
        let written = records(&path).iter().filter(|r| r.action == "drop").count();
        let recovered = handle.recovered().recorded["not_allowed"];
        assert_eq!(recovered, written as u64 * 7);
    }
}

#[tokio::test]
async fn rotation_keeps_as_many_parts_as_asked() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("audit.log");
    let mut config = config(&path);
    config.rotate_bytes = 5_000;
    let handle = start(&config, 8192);
    for number in 0..1000 {
        assert_eq!(handle.record(allowed(number)), Recorded::Queued);
    }
    handle.stop().await;
    assert_eq!(crate::audit::parts(&path).unwrap().len(), 4);
    assert_eq!(
        problem(&path),
        None,
        "the oldest part begins with a rotate record"
    );
    for part in crate::audit::parts(&path).unwrap() {
        assert!(fs::metadata(part.path).unwrap().len() <= 5_000);
    }
}

#[tokio::test]
async fn a_torn_tail_is_cut_and_said() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("audit.log");
    let handle = start(&config(&path), 16);
    assert_eq!(handle.record(allowed(1)), Recorded::Queued);
    handle.stop().await;
    let whole = fs::read(&path).unwrap();
    fs::write(&path, [&whole[..], b"{\"v\":1,\"seq\":2,\"ts"].concat()).unwrap();
    let handle = start(&config(&path), 16);
    assert_eq!(handle.record(allowed(2)), Recorded::Queued);
    handle.stop().await;
    let all = records(&path);
    let actions: Vec<_> = all.iter().map(|record| record.action.as_ref()).collect();
    assert_eq!(actions, ["send", "repair", "send"]);
    assert_eq!(problem(&path), None);
}

#[tokio::test]
async fn a_log_that_disagrees_with_its_head_is_never_silently_continued() {
    type Harm = fn(&Path, &[u8]);
    let rows: [(&str, Harm, &str); 5] = [
        (
            "tail cut",
            |path, log| {
                let lines: Vec<_> = log.split_inclusive(|byte| *byte == b'\n').collect();
                fs::write(path, lines[..3].concat()).unwrap();
            },
            "tail_missing",
        ),
        (
            "log removed",
            |path, _| fs::remove_file(path).unwrap(),
            "log_missing",
        ),
        (
            "head removed",
            |path, _| fs::remove_file(head_path(path)).unwrap(),
            "head_missing",
        ),
        (
            "head damaged",
            |path, _| fs::write(head_path(path), "{}").unwrap(),
            "head_unreadable",
        ),
        (
            "last record edited",
            |path, log| {
                let text = String::from_utf8(log.to_vec()).unwrap();
                fs::write(path, text.replace("\"request\":\"4\"", "\"request\":\"9\"")).unwrap();
            },
            "tail_changed",
        ),
    ];
    for (name, harm, reason) in rows {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("audit.log");
        let handle = start(&config(&path), 16);
        for number in 0..5 {
            assert_eq!(handle.record(allowed(number)), Recorded::Queued);
        }
        handle.stop().await;
        harm(&path, &fs::read(&path).unwrap());
        start(&config(&path), 16).stop().await;
        let all = records(&path);
        let last = all.last().unwrap();
        assert_eq!(
            (last.action.as_ref(), last.reason.as_ref()),
            ("chain", reason),
            "{name}"
        );
        assert_eq!(last.seq, 6, "{name}: numbers go on");
    }
}

#[tokio::test]
async fn a_file_moved_or_cut_from_outside_is_noticed() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("audit.log");
    let handle = start(&config(&path), 16);
    assert_eq!(handle.record(allowed(1)), Recorded::Queued);
    handle.flush().await.unwrap();
    // As logrotate does it.
    fs::rename(&path, dir.path().join("audit.log.1")).unwrap();
    handle.reopen();
    until("the file is there again", || path.exists()).await;
    assert_eq!(handle.record(allowed(2)), Recorded::Queued);
    handle.flush().await.unwrap();
    let actions = |all: Vec<Record>| all.into_iter().map(|r| r.action).collect::<Vec<_>>();
    assert_eq!(actions(records(&path)), ["send", "reopen", "send"]);
    assert_eq!(problem(&path), None);
    fs::write(&path, "").unwrap();
    assert_eq!(handle.record(allowed(3)), Recorded::Queued);
    handle.stop().await;
    assert_eq!(actions(records(&path)), ["send", "chain", "send"]);
    assert_eq!(problem(&path), Some(ProblemKind::Gap));
}

/// Makes the path unusable for whoever is to append: a folder stands there.
struct Blocked<'a>(&'a Path);

impl<'a> Blocked<'a> {
    fn new(path: &'a Path) -> Self {
        fs::rename(path, path.with_extension("aside")).unwrap();
        fs::create_dir(path).unwrap();
        Self(path)
    }

    fn end(self) {
        fs::remove_dir(self.0).unwrap();
        fs::rename(self.0.with_extension("aside"), self.0).unwrap();
    }
}

#[tokio::test]
async fn while_nothing_can_be_written_losses_are_counted_and_recorded_after() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("audit.log");
    let handle = start(&config(&path), 50);
    assert_eq!(handle.record(allowed(0)), Recorded::Queued);
    handle.flush().await.unwrap();
    let blocked = Blocked::new(&path);
    assert_eq!(handle.record(allowed(1)), Recorded::Queued);
    until("health turns", || !handle.health().writable).await;
    assert!(handle.health().must_refuse);
    assert!(matches!(handle.flush().await, Err(AuditError::Unwritable)));
    let (mut lost, mut sum, mut reported) = (0, 0, 2);
    for number in 2..5000 {
        reported += 1;
        lost += u64::from(handle.record(allowed(number)) == Recorded::Lost);
        // A kernel drop may lose its source, never its count.
        let _kept_in_the_sum = handle.record(kernel_drop(3));
        sum += 3;
        if number % 100 == 0 {
            sleep(Duration::from_millis(1)).await;
        }
    }
    assert!(lost > 100, "{lost}");
    assert_eq!(handle.health().lost, lost);
    blocked.end();
    until("health turns back", || handle.health().writable).await;
    assert_eq!(handle.record(allowed(5000)), Recorded::Queued);
    reported += 1;
    handle.flush().await.unwrap();
    handle.stop().await;
    let all = records(&path);
    let count = |action: &str| -> u64 {
        all.iter()
            .filter(|record| record.action == action)
            .map(|record| record.count)
            .sum()
    };
    assert_eq!(count("lost"), lost);
    assert_eq!(count("send") + lost, reported);
    assert_eq!(count("drop"), sum);
    assert_eq!(count("recovered"), 1);
    assert_eq!(problem(&path), None);
}

#[tokio::test]
async fn under_block_the_caller_waits_and_nothing_is_lost() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("audit.log");
    let mut config = config(&path);
    config.on_failure = AuditOnFailure::Block;
    let handle = start(&config, 10);
    assert_eq!(handle.record(allowed(0)), Recorded::Queued);
    handle.flush().await.unwrap();
    let blocked = Blocked::new(&path);
    let submitter = handle.clone();
    let task = tokio::spawn(async move {
        for number in 1..=3000 {
            assert_eq!(submitter.submit(allowed(number)).await, Recorded::Queued);
        }
    });
    until("the queue is full", || handle.health().queued == 10).await;
    assert!(!task.is_finished() && !handle.health().must_refuse);
    blocked.end();
    task.await.unwrap();
    assert_eq!(handle.health().lost, 0);
    handle.stop().await;
    let sent = records(&path)
        .iter()
        .filter(|record| record.action == "send")
        .count();
    assert_eq!(sent, 3001);
}

#[tokio::test]
async fn stopping_while_nothing_can_be_written_ends_and_counts() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("audit.log");
    let handle = start(&config(&path), 50);
    assert_eq!(handle.record(allowed(0)), Recorded::Queued);
    handle.flush().await.unwrap();
    let _blocked = Blocked::new(&path);
    for number in 1..=7 {
        assert_eq!(handle.record(allowed(number)), Recorded::Queued);
    }
    let watcher = handle.clone();
    handle.stop().await;
    assert_eq!(watcher.health().lost, 7);
}

/// A ratio, so that it holds on any machine: 20 times the records must not take 60 times as
/// long, which writing each alone or growing without bound would.
#[tokio::test]
async fn records_are_written_in_batches() {
    async fn time(count: u64) -> Duration {
        let dir = tempfile::tempdir().unwrap();
        let handle = start(&config(&dir.path().join("audit.log")), 8192);
        let started = Instant::now();
        for number in 0..count {
            while handle.health().queued > 8000 {
                sleep(Duration::from_millis(1)).await;
            }
            assert_eq!(handle.record(allowed(number)), Recorded::Queued);
        }
        handle.flush().await.unwrap();
        started.elapsed()
    }
    time(100).await;
    let few = time(1000).await;
    let many = time(20_000).await;
    assert!(many < few * 60, "{few:?} for 1000, {many:?} for 20000");
}
