//! The ways an alert is told.

use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use tokio::io::AsyncWriteExt as _;
use tokio::process::Command;
use tokio::time::{sleep, timeout};

use super::rules::Alert;
use crate::audit::sinks::post;
use crate::causes;
use crate::config::AlertTarget;

/// Tells it, trying a few times.
pub(super) async fn deliver(alert: &Alert, to: &AlertTarget) -> Result<(), String> {
    let body = serde_json::to_vec(alert).map_err(|error| error.to_string())?;
    let mut last = String::new();
    for pause in PAUSES {
        sleep(pause).await;
        match timeout(DEADLINE, once(alert, &body, to)).await {
            Ok(Ok(())) => return Ok(()),
            Ok(Err(error)) => last = causes::chain(&error),
            Err(_) => "no answer in time".clone_into(&mut last),
        }
    }
    Err(last)
}

async fn once(alert: &Alert, body: &[u8], to: &AlertTarget) -> io::Result<()> {
    match to {
        // systemd keeps the daemon's standard error in the journal.
        AlertTarget::Journal => {
            tracing::warn!(rule = alert.rule, seq = alert.seq, "alert: {}", alert.text);
            Ok(())
        }
        AlertTarget::Webhook(web) => match post(web, body.to_vec()).await? {
            (status, _) if status.is_success() => Ok(()),
            (status, _) => Err(io::Error::other(format!("the webhook answers {status}"))),
        },
        AlertTarget::Command(words) => run(words, body).await,
    }
}

async fn run(words: &[String], body: &[u8]) -> io::Result<()> {
    let Some((program, arguments)) = words.split_first() else {
        return Ok(());
    };
    trusted(Path::new(program))?;
    let mut child = Command::new(program)
        .args(arguments)
        // Secrets of the configuration stand in the daemon's environment.
        .env_clear()
        .env(
            "PATH",
            "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
        )
        .current_dir("/")
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .kill_on_drop(true)
        .spawn()?;
    if let Some(mut stdin) = child.stdin.take() {
        // One that reads nothing is none the worse.
        let _closed = stdin.write_all(body).await;
    }
    let status = child.wait().await?;
    if status.success() {
        return Ok(());
    }
    Err(io::Error::other(format!("{program} ended with {status}")))
}

/// It runs as the daemon's user, so nobody else may be able to change it.
fn trusted(program: &Path) -> io::Result<()> {
    let meta = std::fs::metadata(program)?;
    let own = rustix::process::geteuid().as_raw();
    if (meta.uid() == 0 || meta.uid() == own) && meta.mode() & 0o022 == 0 {
        return Ok(());
    }
    let why = format!("{} can be changed by others: not run", program.display());
    Err(io::Error::new(io::ErrorKind::PermissionDenied, why))
}

const PAUSES: [Duration; 3] = [
    Duration::ZERO,
    Duration::from_secs(1),
    Duration::from_secs(3),
];
const DEADLINE: Duration = Duration::from_secs(10);
