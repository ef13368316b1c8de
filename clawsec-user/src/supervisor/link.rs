//! Talks to the gateway process, and starts it again when it dies.

use std::collections::HashMap;
use std::net::TcpListener;
use std::os::unix::net::UnixStream as StdUnixStream;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::UnixStream;
use tokio::process::Child;
use tokio::sync::{mpsc, watch};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use super::child::{self, Account, ChildError};
use super::documents;
use super::state::State;
use super::timed::Follower;
use super::{local, tools};
use crate::event::{Event, EventKind, Outcome};
use crate::ipc::{
    self, IpcError, IpcReader, IpcWriter, PolicyUpdate, TimedUpdate, ToGateway, ToSupervisor,
};

/// Answers and policies on their way to the gateway; tool calls are bounded by the sandbox.
const QUEUE: usize = 256;
/// A gateway that dies at once is started again after this, doubled each time.
const BACKOFF: Duration = Duration::from_millis(200);
const MAX_BACKOFF: Duration = Duration::from_secs(10);

/// What the gateway process last said of a policy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Applied {
    NotYet,
    Ready(u64),
    Refused { generation: u64, why: String },
}

/// The supervisor's hold on the gateway process.
pub(super) struct Link {
    state: Arc<State>,
    account: Account,
    listeners: Vec<TcpListener>,
    applied: watch::Sender<Applied>,
    stop: CancellationToken,
}

impl Link {
    pub(super) fn new(
        state: Arc<State>,
        account: Account,
        listeners: Vec<TcpListener>,
        stop: CancellationToken,
    ) -> Self {
        Self {
            state,
            account,
            listeners,
            applied: watch::Sender::new(Applied::NotYet),
            stop,
        }
    }

    /// Follows what the gateway says of the policies it is sent.
    pub(super) fn applied(&self) -> watch::Receiver<Applied> {
        self.applied.subscribe()
    }

    /// Keeps a gateway process running until `stop`; then drains it.
    pub(super) async fn run(self) -> Result<(), ChildError> {
        let mut backoff = BACKOFF;
        loop {
            let (mut child, stream) = child::spawn(self.account, &self.listeners)?;
            let started = tokio::time::Instant::now();
            let ended = self.converse(&mut child, stream).await;
            self.state.set_gateway(None);
            if self.stop.is_cancelled() {
                return Ok(());
            }
            let status = match timeout(Duration::from_secs(1), child.wait()).await {
                Ok(Ok(status)) => status.to_string(),
                _ => "still running; killed".to_owned(),
            };
            let _killed = child.start_kill();
            let detail = match ended {
                Ok(()) | Err(IpcError::Closed) => status,
                Err(error) => format!("{status}; {error}"),
            };
            tracing::error!(%detail, "the gateway process ended; it is started again");
            let mut event = Event::new(
                EventKind::System,
                "gateway_exit",
                Outcome::Error,
                "gateway_process_ended",
            );
            event.detail = Some(detail);
            self.state.records.report(event);
            if started.elapsed() > MAX_BACKOFF {
                backoff = BACKOFF;
            }
            tokio::select! {
                () = tokio::time::sleep(backoff) => {}
                () = self.stop.cancelled() => return Ok(()),
            }
            backoff = (backoff * 2).min(MAX_BACKOFF);
        }
    }

    /// One gateway process, from its first policy to its end.
    async fn converse(&self, child: &mut Child, stream: StdUnixStream) -> Result<(), IpcError> {
        stream.set_nonblocking(true).map_err(IpcError::Read)?;
        let stream = UnixStream::from_std(stream).map_err(IpcError::Read)?;
        let (reader, writer) = ipc::split::<ToSupervisor, ToGateway>(stream);
        let (sender, queue) = mpsc::channel(QUEUE);
        self.state
            .set_gateway(child.id().map(|pid| (pid, sender.clone())));
        let writing = tokio::spawn(write(writer, queue, Arc::clone(&self.state)));
        match self.state.policy_update() {
            Ok(update) => {
                // A full queue is impossible before the first message.
                let _queued = sender.try_send(ToGateway::Policy(Box::new(update)));
            }
            Err(error) => tracing::error!(%error, "read the TLS material for the gateway"),
        }
        if let Some(challenges) = self.state.challenges.message() {
            let _queued = sender.try_send(challenges);
        }
        let stopping = async {
            self.stop.cancelled().await;
            let deadline_ms = u64::try_from(DRAIN.as_millis()).unwrap_or(u64::MAX);
            // A gateway that is gone needs no draining.
            let _gone = sender.send(ToGateway::Drain { deadline_ms }).await;
            tokio::time::sleep(DRAIN + Duration::from_secs(1)).await;
        };
        let result = tokio::select! {
            result = self.read(reader, &sender) => result,
            () = stopping => Ok(()),
        };
        writing.abort();
        if self.stop.is_cancelled() && timeout(Duration::from_secs(1), child.wait()).await.is_err()
        {
            let _killed = child.start_kill();
            let _reaped = child.wait().await;
        }
        result
    }

    async fn read(
        &self,
        mut reader: IpcReader<ToSupervisor>,
        sender: &mpsc::Sender<ToGateway>,
    ) -> Result<(), IpcError> {
        let mut running = Running::default();
        loop {
            match reader.receive().await? {
                ToSupervisor::Ready { generation } => {
                    self.state.seen.gateway_ready(generation);
                    self.applied.send_replace(Applied::Ready(generation));
                }
                ToSupervisor::Refused { generation, why } => {
                    self.applied
                        .send_replace(Applied::Refused { generation, why });
                }
                ToSupervisor::Event(event) => self.state.records.submit(*event).await,
                ToSupervisor::EventsLost { count } => {
                    self.state
                        .records
                        .lost(count, "events of the gateway process");
                }
                ToSupervisor::Ban {
                    source,
                    seconds,
                    reason,
                } => {
                    local::ban_for(&self.state, source, seconds, &reason);
                }
                ToSupervisor::Tool { id, call } => {
                    let cancel = running.begin(id);
                    let (state, sender) = (Arc::clone(&self.state), sender.clone());
                    running.tasks.spawn(async move {
                        let answer = tools::answer(state, *call, cancel).await;
                        // The gateway may have died meanwhile; nobody waits then.
                        let _gone = sender.send(ToGateway::Answer { id, answer }).await;
                        id
                    });
                }
                ToSupervisor::Cancel { id } => running.cancel(id),
                ToSupervisor::Own { role, state } => self.state.set_own(role, state),
                ToSupervisor::Figures { figures, present } => {
                    self.state.seen.gateway_says(*figures, present);
                }
                ToSupervisor::Document { id, document } => {
                    let written = documents::write(&self.state, document);
                    // Whoever asked has a deadline; a full queue must not hold up the events.
                    let _late = sender.try_send(ToGateway::Document { id, written });
                }
                ToSupervisor::Challenged { serial } => self.state.challenges.answered(serial),
                ToSupervisor::Drained => return Ok(()),
            }
            running.reap();
        }
    }
}

/// How long connections may take to end at stop.
const DRAIN: Duration = Duration::from_secs(8);

/// Tool calls that wait for their answer. Dropped with the gateway process that asked, which
/// cancels them.
#[derive(Default)]
struct Running {
    tasks: tokio::task::JoinSet<u64>,
    tokens: HashMap<u64, CancellationToken>,
}

impl Running {
    fn begin(&mut self, id: u64) -> CancellationToken {
        let token = CancellationToken::new();
        self.tokens.insert(id, token.clone());
        token
    }

    fn cancel(&mut self, id: u64) {
        if let Some(token) = self.tokens.remove(&id) {
            token.cancel();
        }
    }

    fn reap(&mut self) {
        while let Some(done) = self.tasks.try_join_next() {
            if let Ok(id) = done {
                self.tokens.remove(&id);
            }
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        for token in self.tokens.values() {
            token.cancel();
        }
        // The tasks remove their containers and records before they end.
        self.tasks.detach_all();
    }
}

/// Sends the gateway process what it needs: who is banned and admitted before its first policy,
/// then what is queued, and what changes.
async fn write(
    mut writer: IpcWriter<ToGateway>,
    mut queue: mpsc::Receiver<ToGateway>,
    state: Arc<State>,
) {
    let written = async {
        let mut timed = state.timed.follow();
        send_timed(&mut writer, &mut timed, &state).await?;
        loop {
            tokio::select! {
                message = queue.recv() => match message {
                    Some(message) => writer.send(&message).await?,
                    None => return Ok::<(), IpcError>(()),
                },
                () = timed.changed() => send_timed(&mut writer, &mut timed, &state).await?,
            }
        }
    };
    if let Err(error) = written.await {
        tracing::debug!(%error, "the gateway process no longer listens");
    }
}

/// One message of what has changed, or all of it in as many as it takes.
async fn send_timed(
    writer: &mut IpcWriter<ToGateway>,
    timed: &mut Follower,
    state: &State,
) -> Result<(), IpcError> {
    while let Some(update) = timed.next(&state.timed) {
        let is_done = !matches!(update, TimedUpdate::Whole { last: false, .. });
        writer.send(&ToGateway::Timed(update)).await?;
        if is_done {
            break;
        }
    }
    Ok(())
}

/// Sends a policy to the running gateway, if there is one.
pub(super) async fn publish(state: &State, update: PolicyUpdate) -> bool {
    match state.gateway_sender() {
        Some(sender) => sender
            .send(ToGateway::Policy(Box::new(update)))
            .await
            .is_ok(),
        None => false,
    }
}
