//! The admin socket: root's questions to the running daemon, one line of JSON each way.
//!
//! Invariant: only who may open the socket (mode 0600, root's) is asked nothing more; nothing
//! of it is reachable over the network.

mod status;

use std::io::{self, BufRead as _, BufReader, Write as _};
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::UnixStream as StdUnixStream;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use ipnet::IpNet;
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{UnixListener, UnixStream};
use tokio_util::sync::CancellationToken;

pub(super) use self::status::{moment, status};
use super::state::State;
use super::{documents, local};
use crate::ops::Status;
use crate::policy::TimedKind;

/// A question; the command line asks it.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Question {
    Status,
    Confirm,
    /// Bans or admits for a time; an entry that is there is replaced.
    TimedAdd {
        kind: Kind,
        prefix: IpNet,
        seconds: u64,
        note: Option<String>,
        /// Even where it cuts off an operator's own session.
        yes: bool,
    },
    TimedRemove {
        kind: Kind,
        prefix: IpNet,
    },
    /// The entries after this prefix; a million of them do not fit one answer.
    TimedList {
        kind: Kind,
        after: Option<IpNet>,
    },
    SandboxExec {
        agent: String,
        argv: Vec<String>,
        timeout_ms: Option<u64>,
        stdin: String,
    },
}

/// What is timed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    Ban,
    Allow,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Answer {
    Done,
    Confirmed { generation: u64 },
    Refused { message: String },
    Status(Box<Status>),
    Added(Entry),
    Entries { entries: Vec<Entry>, more: bool },
    Executed(Executed),
}

/// A ban or an admission.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Entry {
    /// For a ban of an IPv6 address, its /64.
    pub prefix: IpNet,
    /// RFC 3339.
    pub until: String,
    pub seconds_left: u64,
    /// `operator`, `gateway`, or `kernel` where it was found in the kernel's maps.
    pub by: String,
    pub note: Option<String>,
}

/// Output is base64, since a tool may print any bytes.
#[derive(Debug, Serialize, Deserialize)]
pub struct Executed {
    pub exit_code: Option<i32>,
    pub signal: Option<i32>,
    pub timed_out: bool,
    pub oom: bool,
    pub stdout: String,
    pub stderr: String,
}

impl From<Kind> for TimedKind {
    fn from(kind: Kind) -> Self {
        match kind {
            Kind::Ban => Self::Ban,
            Kind::Allow => Self::Admission,
        }
    }
}

/// A question with a tool's standard input, at most.
const MAX_LINE_BYTES: u64 = 16 * 1024 * 1024;
/// Longer than any sandbox timeout one would set; a stuck daemon must not hang the command line.
const ANSWER_TIMEOUT: Duration = Duration::from_hours(1);

#[derive(Debug, thiserror::Error)]
pub enum AskError {
    #[error("no daemon answers at {path}; is `clawsec run` running?")]
    Connect {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("talk to the daemon at {path}")]
    Exchange {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
}

/// Asks the daemon at `path` and waits for its answer.
pub fn ask(path: &Path, question: &Question) -> Result<Answer, AskError> {
    let mut stream = StdUnixStream::connect(path).map_err(|source| AskError::Connect {
        path: path.to_owned(),
        source,
    })?;
    let mut exchange = || {
        stream.set_read_timeout(Some(ANSWER_TIMEOUT))?;
        let mut line = serde_json::to_string(question).map_err(io::Error::other)?;
        line.push('\n');
        stream.write_all(line.as_bytes())?;
        let mut answer = String::new();
        BufReader::new(&stream).read_line(&mut answer)?;
        serde_json::from_str(&answer).map_err(io::Error::other)
    };
    exchange().map_err(|source| AskError::Exchange {
        path: path.to_owned(),
        source,
    })
}

/// Binds the socket, root's alone. A socket left by a killed daemon is replaced; that it is not
/// a living one's is certain, since the audit log's lock was taken before.
pub(super) fn bind(path: &Path) -> io::Result<UnixListener> {
    if let Some(parent) = path.parent() {
        std::fs::create_dir_all(parent)?;
    }
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let before = rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o177));
    let bound = UnixListener::bind(path);
    rustix::process::umask(before);
    let listener = bound?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600))?;
    Ok(listener)
}

/// Answers questions until the daemon stops.
pub(super) async fn serve(listener: UnixListener, state: Arc<State>) {
    loop {
        match listener.accept().await {
            Ok((stream, _)) => {
                let state = Arc::clone(&state);
                tokio::spawn(async move {
                    if let Err(error) = converse(stream, state).await {
                        tracing::debug!(%error, "an admin connection ended early");
                    }
                });
            }
            Err(error) => {
                tracing::warn!(%error, "accept on the admin socket");
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    }
}

async fn converse(stream: UnixStream, state: Arc<State>) -> io::Result<()> {
    let (read, mut write) = stream.into_split();
    let mut line = String::new();
    let mut reader = tokio::io::BufReader::new(read.take(MAX_LINE_BYTES));
    reader.read_line(&mut line).await?;
    if let Some(answer) = documents::over_http(&state, &line) {
        return write.write_all(&answer).await;
    }
    let cancel = CancellationToken::new();
    let answered = async {
        match serde_json::from_str(&line) {
            Ok(question) => answer(&state, question, cancel.clone()).await,
            Err(error) => Answer::Refused {
                message: format!("not a question: {error}"),
            },
        }
    };
    // A client that goes away stops what it asked for.
    let mut rest = [0; 1];
    let answer = tokio::select! {
        answer = answered => answer,
        _ = reader.read(&mut rest) => { cancel.cancel(); return Ok(()); }
    };
    let mut text = serde_json::to_string(&answer).map_err(io::Error::other)?;
    text.push('\n');
    write.write_all(text.as_bytes()).await
}

async fn answer(state: &Arc<State>, question: Question, cancel: CancellationToken) -> Answer {
    let refused = |message: String| Answer::Refused { message };
    match question {
        Question::Status => Answer::Status(Box::new(status(state))),
        Question::Confirm => match state.confirmation.confirm() {
            Ok(generation) => Answer::Confirmed { generation },
            Err(message) => refused(message),
        },
        Question::TimedAdd {
            kind,
            prefix,
            seconds,
            note,
            yes,
        } => {
            let wish = local::Wish {
                kind: kind.into(),
                prefix,
                seconds,
                note,
                yes,
            };
            match local::add(state, wish).await {
                Ok(entry) => Answer::Added(entry),
                Err(message) => refused(message),
            }
        }
        Question::TimedRemove { kind, prefix } => {
            match local::remove(state, kind.into(), prefix).await {
                Ok(()) => Answer::Done,
                Err(message) => refused(message),
            }
        }
        Question::TimedList { kind, after } => {
            let (entries, more) = local::list(state, kind.into(), after);
            Answer::Entries { entries, more }
        }
        Question::SandboxExec {
            agent,
            argv,
            timeout_ms,
            stdin,
        } => {
            let Ok(stdin) = STANDARD.decode(stdin) else {
                return refused("the standard input is not base64".into());
            };
            match local::execute(state, agent, argv, timeout_ms, stdin, cancel).await {
                Ok(execution) => Answer::Executed(Executed {
                    exit_code: execution.exit_code,
                    signal: execution.signal,
                    timed_out: execution.timed_out,
                    oom: execution.oom,
                    stdout: STANDARD.encode(execution.stdout.bytes()),
                    stderr: STANDARD.encode(execution.stderr.bytes()),
                }),
                Err(message) => refused(message),
            }
        }
    }
}
