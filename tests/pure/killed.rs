//! SIGKILL while records are written as fast as can be: what is lost is younger than the sync
//! interval, and `verify` and the next start say what there is.

use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use clawsec_user::audit::{self, Chain, HeadCheck, LogReader, Record};
use clawsec_user::config::{AuditConfig, AuditOnFailure};
use clawsec_user::event::{Event, EventKind, Outcome};

const KILLS: u32 = 8;
/// Set for the process that is killed: its log.
const LOG: &str = "CLAWSEC_KILLED_LOG";

fn config(log: &Path) -> AuditConfig {
    let mut config = AuditConfig::at(log.to_owned());
    config.on_failure = AuditOnFailure::Block;
    config.rotate_bytes = 4 << 20;
    config.rotate_keep = 10_000;
    config.space.warn_bytes = 0;
    config.space.refuse_bytes = 0;
    config
}

fn now_ms() -> u64 {
    let now = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .expect("after 1970");
    u64::try_from(now.as_millis()).expect("milliseconds")
}

/// Not a test of its own: what the other one starts and kills.
#[tokio::test]
async fn writes_until_it_is_killed() {
    let Some(log) = std::env::var_os(LOG).map(PathBuf::from) else {
        return;
    };
    let (handle, task) = audit::open(&config(&log)).expect("open the log");
    tokio::spawn(task.run());
    for number in 1_u64.. {
        let mut event = Event::new(EventKind::Message, "send", Outcome::Allow, "ok");
        event.request = Some(number.to_string());
        // As fast as it can be written, and no faster: a full queue would hold more than the interval.
        while handle.health().queued > 2000 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        let _queued = handle.submit(event).await;
        if number % 500 == 0 {
            println!("reported {number} {}", now_ms());
            tokio::task::yield_now().await;
        }
    }
}

fn numbers(log: &Path) -> Vec<u64> {
    let mut reader = LogReader::open(log).expect("open the log");
    let mut numbers = Vec::new();
    while let Some(line) = reader.next_line().expect("read the log") {
        // The last may be half a line.
        let Ok(record) = Record::parse(line.text) else {
            assert!(!line.complete, "a whole line that is no record");
            continue;
        };
        numbers.extend(
            record
                .request
                .and_then(|request| request.parse::<u64>().ok()),
        );
    }
    numbers
}

#[test]
fn a_kill_under_load_costs_less_than_the_sync_interval_and_is_said() {
    let sync_ms = config(Path::new("/")).sync_interval.as_millis();
    let mut worst_ms = 0;
    let mut total = 0;
    for kill in 0..KILLS {
        let folder = tempfile::tempdir().expect("a folder");
        let log = folder.path().join("audit.log");
        let mut child = Command::new(std::env::current_exe().expect("this program"))
            .args([
                "--exact",
                "pure::killed::writes_until_it_is_killed",
                "--nocapture",
            ])
            .env(LOG, &log)
            .stdout(Stdio::piped())
            .spawn()
            .expect("start the writer");
        let output = BufReader::new(child.stdout.take().expect("its output"));
        // Before the first sync and well past it, at a different moment each time.
        let until = if kill % 2 == 0 { 500 } else { 15_000 } + u64::from(kill) * 733;
        let mut reports = Vec::new();
        let mut killed_ms = 0;
        for line in output.lines() {
            let line = line.expect("a line");
            let mut words = line.split_whitespace();
            if words.next() != Some("reported") {
                continue;
            }
            let mut number = || words.next().and_then(|word| word.parse::<u64>().ok());
            let report = (number().expect("a number"), number().expect("a time"));
            reports.push(report);
            if report.0 >= until && killed_ms == 0 {
                killed_ms = now_ms();
                child.kill().expect("SIGKILL");
            }
        }
        child.wait().expect("reap it");

        // As it was left: sound up to its last whole line.
        let chain = Chain::new(None);
        let left = audit::verify(&log, &chain, &HeadCheck::Required, &mut |_| {}).expect("verify");
        assert_eq!(left.problem, None, "kill {kill}");
        let found = numbers(&log);
        let whole: Vec<u64> = (1..=found.len() as u64).collect();
        assert_eq!(found, whole, "kill {kill}: a beginning without a gap");
        let kept = found.last().copied().unwrap_or(0);
        total += kept;
        let lost = reports.iter().find(|(number, _)| *number > kept);
        let lost_ms = lost.map_or(0, |(_, at_ms)| killed_ms.saturating_sub(*at_ms));
        worst_ms = worst_ms.max(lost_ms);
        assert!(
            u128::from(lost_ms) <= sync_ms,
            "kill {kill}: {lost_ms} ms of records are lost"
        );

        // The next life goes on where this one ended, and says what it cut.
        let runtime = tokio::runtime::Runtime::new().expect("a runtime");
        runtime.block_on(async {
            let (handle, task) = audit::open(&config(&log)).expect("open the log again");
            let task = tokio::spawn(task.run());
            handle.flush().await.expect("flush");
            handle.stop().await;
            tokio::time::timeout(Duration::from_secs(10), task)
                .await
                .expect("ends")
                .expect("well");
        });
        let after = audit::verify(&log, &chain, &HeadCheck::Required, &mut |_| {}).expect("verify");
        assert_eq!(after.problem, None, "kill {kill}: after the next start");
        assert!(after.records >= left.records);
    }
    println!("{KILLS} kills, {total} records kept, at most {worst_ms} ms of them lost");
}
