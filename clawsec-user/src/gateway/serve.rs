//! The gateway's life: first policy, listeners, reloads, drain.

use std::net::TcpListener;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::oneshot;

use super::admin;
use super::challenges;
use super::figures;
use super::link::{self, LinkError};
use super::listener;
use super::own;
use super::pool;
use super::repeats;
use super::shared::{Deadlines, Gateway};
use super::snapshot::{self, Compile, Snapshot, SnapshotError};
use super::timed::Timed;
use crate::causes::chain;
use crate::ipc::{self, IpcError, IpcReader, ToGateway, ToSupervisor};

/// How long the supervisor may take to send the first policy.
const FIRST_POLICY_DEADLINE: Duration = Duration::from_secs(30);
/// How long the last messages may take to go out.
const LAST_WORDS_DEADLINE: Duration = Duration::from_secs(5);

#[derive(Debug, thiserror::Error)]
pub enum GatewayError {
    #[error("use the inherited socketpair")]
    Socketpair(#[source] std::io::Error),
    #[error("use an inherited listener")]
    Listener(#[source] std::io::Error),
    #[error("the supervisor sent no policy in time")]
    FirstPolicyDeadline,
    #[error("the supervisor's first message was not a policy")]
    FirstMessage,
    #[error("apply the first policy")]
    FirstPolicy(#[source] SnapshotError),
    #[error("talk to the supervisor")]
    Supervisor(#[source] IpcError),
    #[error("the supervisor takes no more messages")]
    SupervisorGone,
}

/// Runs the gateway on inherited listeners and the socketpair until drained. Called inside a
/// tokio multi-thread runtime, after `confine`.
pub async fn run(listeners: Vec<TcpListener>, supervisor: UnixStream) -> Result<(), GatewayError> {
    run_with(
        listeners,
        supervisor,
        snapshot::compile,
        Deadlines::default(),
    )
    .await
}

/// The same, with what tests put in place of the configuration's compiler and the deadlines.
pub(super) async fn run_with(
    listeners: Vec<TcpListener>,
    supervisor: UnixStream,
    compile: Compile,
    deadlines: Deadlines,
) -> Result<(), GatewayError> {
    supervisor
        .set_nonblocking(true)
        .map_err(GatewayError::Socketpair)?;
    let stream = tokio::net::UnixStream::from_std(supervisor).map_err(GatewayError::Socketpair)?;
    let (mut reader, mut writer) = ipc::split::<ToGateway, ToSupervisor>(stream);

    let timed = Timed::default();
    let first = async {
        loop {
            match reader.receive().await.map_err(GatewayError::Supervisor)? {
                ToGateway::Timed(update) => timed.take(update),
                ToGateway::Policy(update) => return Ok(update),
                _ => return Err(GatewayError::FirstMessage),
            }
        }
    };
    let update = tokio::time::timeout(FIRST_POLICY_DEADLINE, first)
        .await
        .map_err(|_elapsed| GatewayError::FirstPolicyDeadline)??;
    let generation = update.generation;
    let snapshot = match Snapshot::compile(*update, compile, None) {
        Ok(snapshot) => snapshot,
        Err(error) => {
            let refused = ToSupervisor::Refused {
                generation,
                why: chain(&error),
            };
            writer
                .send(&refused)
                .await
                .map_err(GatewayError::Supervisor)?;
            return Err(GatewayError::FirstPolicy(error));
        }
    };

    let (link, outbox) = link::link();
    let gateway = Gateway::new(snapshot, timed, link, deadlines);
    let mut outbox = tokio::spawn(outbox.run(writer));
    let snapshot = gateway.snapshot.load_full();
    let config = &snapshot.config.gateway;
    // The supervisor binds them in this order.
    let acme = config.tls.as_ref().and_then(|tls| tls.acme.as_ref());
    let acme = listeners.len()
        - acme
            .map_or(0, |acme| acme.listen.len())
            .min(listeners.len());
    let admin = acme - usize::from(config.metrics.is_some()).min(acme);
    for (index, listener) in listeners.into_iter().enumerate() {
        listener
            .set_nonblocking(true)
            .map_err(GatewayError::Listener)?;
        let listener =
            tokio::net::TcpListener::from_std(listener).map_err(GatewayError::Listener)?;
        let shared = Arc::clone(&gateway);
        if index >= acme {
            gateway.tasks.spawn(challenges::serve(shared, listener));
        } else if index >= admin {
            gateway.tasks.spawn(admin::serve(shared, listener));
        } else {
            let clients = listener::accept_all(shared, listener, index);
            gateway.tasks.spawn(clients);
        }
    }
    drop(snapshot);
    gateway.tasks.spawn(pool::tend(Arc::clone(&gateway)));
    gateway.tasks.spawn(repeats::tend(Arc::clone(&gateway)));
    gateway
        .link
        .send(ToSupervisor::Ready { generation })
        .await
        .map_err(gone)?;
    own::start(&gateway);
    gateway.tasks.spawn(figures::tell(Arc::clone(&gateway)));

    let (drain_sender, drain) = oneshot::channel();
    let mut inbox = tokio::spawn(listen(Arc::clone(&gateway), reader, compile, drain_sender));
    // Without its supervisor the gateway could neither report nor be stopped: it ends at once.
    let deadline = tokio::select! {
        deadline = drain => deadline.map_err(|_dropped| GatewayError::SupervisorGone)?,
        _ = &mut inbox => return Err(GatewayError::SupervisorGone),
        _ = &mut outbox => return Err(GatewayError::SupervisorGone),
    };

    gateway.drain.cancel();
    gateway.tasks.close();
    if tokio::time::timeout(deadline, gateway.tasks.wait())
        .await
        .is_err()
    {
        tracing::warn!(left = gateway.tasks.len(), "drained with connections left");
    }
    repeats::tell(&gateway);
    gateway
        .link
        .send(ToSupervisor::Drained)
        .await
        .map_err(gone)?;
    match tokio::time::timeout(LAST_WORDS_DEADLINE, outbox).await {
        Ok(Ok(sent)) => sent.map_err(GatewayError::Supervisor),
        _ => Err(GatewayError::SupervisorGone),
    }
}

/// Takes the supervisor's messages until the socketpair closes.
async fn listen(
    gateway: Arc<Gateway>,
    mut reader: IpcReader<ToGateway>,
    compile: Compile,
    drain: oneshot::Sender<Duration>,
) -> Result<(), GatewayError> {
    let mut drain = Some(drain);
    loop {
        match reader.receive().await.map_err(GatewayError::Supervisor)? {
            ToGateway::Policy(update) => {
                let generation = update.generation;
                let before = gateway.snapshot.load();
                let answer = match Snapshot::compile(*update, compile, Some(&before)) {
                    Ok(snapshot) => {
                        gateway.install(snapshot);
                        ToSupervisor::Ready { generation }
                    }
                    Err(error) => ToSupervisor::Refused {
                        generation,
                        why: chain(&error),
                    },
                };
                gateway.link.send(answer).await.map_err(gone)?;
            }
            ToGateway::Timed(update) => gateway.timed.take(update),
            ToGateway::Answer { id, answer } => gateway.link.answer(id, answer),
            ToGateway::Document { id, written } => gateway.link.document_written(id, written),
            ToGateway::Challenges { serial, challenges } => {
                gateway.snapshot.load().challenges.take(challenges);
                let answer = ToSupervisor::Challenged { serial };
                gateway.link.send(answer).await.map_err(gone)?;
            }
            ToGateway::Drain { deadline_ms } => {
                if let Some(drain) = drain.take()
                    && drain.send(Duration::from_millis(deadline_ms)).is_err()
                {
                    return Ok(());
                }
            }
        }
    }
}

fn gone(_closed: LinkError) -> GatewayError {
    GatewayError::SupervisorGone
}
