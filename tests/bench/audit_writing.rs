//! `cargo xtask bench audit`, the writing half: records a second by how durable they are, and what a
//! record costs the thread that reports it.

use std::io::Write as _;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::Context as _;
use clawsec_user::audit::{self, AuditHandle, Recorded};
use clawsec_user::config::{AuditConfig, AuditOnFailure, Fsync};
use clawsec_user::event::{Event, EventKind, Outcome, ToolFact};
use serde_json::json;

const RECORDS: u64 = 1_000_000;
/// As many as the queue takes while the writer rests.
const ROUND: u64 = 4000;
const ROUNDS: u64 = 250;

fn main() -> anyhow::Result<()> {
    let folder =
        std::env::var_os("CLAWSEC_BENCH_FOLDER").map_or_else(std::env::temp_dir, PathBuf::from);
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .context("make a runtime")?;
    let rows = [
        ("never", Fsync::Never),
        ("interval", Fsync::Interval),
        ("always", Fsync::Always),
    ];
    let mut result = serde_json::Map::new();
    for (name, fsync) in rows {
        let best = (0..3)
            .map(|_| runtime.block_on(written(&folder, fsync)))
            .try_fold(0.0, |best, rate| anyhow::Ok(f64::max(best, rate?)))?;
        say(&format!(
            "fsync {name:>8}: {best:>9.0} records a second, best of 3"
        ));
        result.insert(
            format!("records_per_second_fsync_{name}"),
            json!(best.round()),
        );
    }
    let (mean, worst) = runtime.block_on(reported(&folder))?;
    say(&format!(
        "reporting one: {mean:.0} ns on average; of {ROUNDS} rounds of {ROUND} the slowest {worst:.0} ns"
    ));
    result.insert("report_ns".to_owned(), json!(mean.round()));
    result.insert("report_ns_slowest_round".to_owned(), json!(worst.round()));
    if let Some(out) = std::env::var_os("CLAWSEC_BENCH_OUT") {
        let text = serde_json::Value::from(result).to_string();
        std::fs::write(out, text + "\n").context("write the figures")?;
    }
    Ok(())
}

/// A permitted tool call, which is written by itself: the longest that requests make.
fn event(number: u64) -> Event {
    let mut event = Event::new(EventKind::Tool, "invoke", Outcome::Allow, "ok");
    event.rule = Some("tools.profile".to_owned());
    event.generation = 7;
    event.source = Some(IpAddr::from([203, 0, 113, 7]));
    event.port = Some(51_234);
    event.request = Some(format!("01JD{number:022}"));
    event.principal = Some("phone".to_owned());
    event.user = Some("+15551234567".to_owned());
    event.agent = Some("work".to_owned());
    event.session = Some("agent:work:whatsapp:+15551234567".to_owned());
    event.tool = Some(ToolFact {
        name: "exec".to_owned(),
        args_bytes: 34,
    });
    event.detail = Some("POST /tools/invoke".to_owned());
    event
}

fn open(log: &Path, fsync: Fsync) -> anyhow::Result<AuditHandle> {
    let config = AuditConfig {
        fsync,
        // Nothing is lost: who reports waits for room.
        on_failure: AuditOnFailure::Block,
        rotate_bytes: 1 << 40,
        ..AuditConfig::at(log.to_owned())
    };
    let (handle, task) = audit::open(&config).context("open the log")?;
    tokio::spawn(task.run());
    Ok(handle)
}

/// From the first report until the last record is written, and durable where it is to be.
async fn written(folder: &Path, fsync: Fsync) -> anyhow::Result<f64> {
    let folder = tempfile::tempdir_in(folder).context("make a folder")?;
    let handle = open(&folder.path().join("audit.log"), fsync)?;
    let began = Instant::now();
    for number in 0..RECORDS {
        anyhow::ensure!(
            handle.submit(event(number)).await == Recorded::Queued,
            "a record was lost"
        );
    }
    while handle.health().seq < RECORDS {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    if fsync != Fsync::Never {
        handle.flush().await.context("flush")?;
    }
    let elapsed = began.elapsed();
    handle.stop().await;
    #[expect(clippy::cast_precision_loss, reason = "a rate")]
    let rate = RECORDS as f64 / elapsed.as_secs_f64();
    Ok(rate)
}

/// Nanoseconds for one `record`, the event at hand: on average, and in the slowest round.
async fn reported(folder: &Path) -> anyhow::Result<(f64, f64)> {
    let folder = tempfile::tempdir_in(folder).context("make a folder")?;
    let handle = open(&folder.path().join("audit.log"), Fsync::Interval)?;
    let (mut sum, mut worst) = (0.0, 0.0_f64);
    for round in 0..ROUNDS {
        let events: Vec<Event> = (0..ROUND).map(|n| event(round * ROUND + n)).collect();
        let began = Instant::now();
        for event in events {
            anyhow::ensure!(
                handle.record(event) == Recorded::Queued,
                "a record was lost"
            );
        }
        #[expect(clippy::cast_precision_loss, reason = "far below 2^53")]
        let each = began.elapsed().as_nanos() as f64 / ROUND as f64;
        (sum, worst) = (sum + each, worst.max(each));
        while handle.health().queued > 0 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }
    handle.stop().await;
    #[expect(clippy::cast_precision_loss, reason = "250")]
    let mean = sum / ROUNDS as f64;
    Ok((mean, worst))
}

fn say(line: &str) {
    let _nobody_reads = writeln!(std::io::stdout(), "{line}");
}
