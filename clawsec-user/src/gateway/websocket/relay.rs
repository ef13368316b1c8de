//! Both directions of an open WebSocket, until one of six ends.
//!
//! The loops run to the end of the session as one task: their reads are not cancel safe, so
//! whichever arm of the `select!` wins, nothing of the others is used again.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use fastwebsockets::OpCode;
use tokio::io::ReadHalf;

use super::Session;
use super::frames::{CloseFrame, FrameError, Message, Outbox, Reader, Stream};
use super::judge::{Ruling, judge};
use crate::event::EventKind;
use crate::gateway::connection::Connection;
use crate::gateway::isolate::Isolation;
use crate::gateway::record::{Exchange, Note};
use crate::gateway::shared::random_id;
use crate::policy::Denial;

/// One side of the relay.
pub(super) struct Side {
    pub(super) reader: Reader<ReadHalf<Stream>>,
    pub(super) outbox: Outbox,
}

/// Why a session ended, and what either side is told.
#[derive(Debug)]
pub(super) enum End {
    /// The client closed, or vanished.
    Client(Option<CloseFrame>),
    /// The upstream closed, or vanished.
    Upstream(Option<CloseFrame>),
    /// The client broke the protocol.
    Violation(CloseFrame),
    /// Policy no longer allows this connection.
    Revoked(Denial),
    /// The client is silent and does not answer pings.
    Dead,
    Draining,
}

/// The payload of clawsec's own pings; the pong to it goes no further.
const OWN_PING: &[u8] = b"clawsec";
/// How long a peer may take to close after it was told to.
pub(super) const CLOSE_DEADLINE: Duration = Duration::from_secs(2);

/// Relays until an end, closes both sides, and returns it.
pub(super) async fn relay(
    connection: &Arc<Connection>,
    session: &Session,
    mut client: Side,
    mut upstream: Side,
) -> End {
    let gateway = &connection.gateway;
    let heard = Heard::new();
    let Side { reader, outbox } = &mut client;
    let end = tokio::select! {
        end = client_to_upstream(connection, session, &heard, reader, outbox, &upstream.outbox) => end,
        end = upstream_to_client(session, &mut upstream.reader, outbox) => end,
        denial = connection.revoked_for(Some(&session.principal)) => End::Revoked(denial),
        () = heard.silence(gateway.deadlines.idle, outbox) => End::Dead,
        () = gateway.drain.cancelled() => End::Draining,
    };
    part(&end, &mut client, Some(&upstream.outbox)).await;
    end
}

/// Closes both sides.
pub(super) async fn part(end: &End, client: &mut Side, upstream: Option<&Outbox>) {
    let (to_client, to_upstream) = farewell(end);
    let closing = async {
        if client.outbox.close(to_client).await.is_err() {
            tracing::debug!("the client is gone");
        }
        if let Some(upstream) = upstream
            && upstream.close(to_upstream).await.is_err()
        {
            tracing::debug!("the upstream is gone");
        }
        if !matches!(end, End::Client(_)) {
            client.reader.drain().await;
        }
    };
    if tokio::time::timeout(CLOSE_DEADLINE, closing).await.is_err() {
        tracing::debug!("a peer did not close in time");
    }
}

/// What the client and the upstream are told at an end.
fn farewell(end: &End) -> (CloseFrame, CloseFrame) {
    let gone = || CloseFrame::new(1001, "client gone");
    match end {
        End::Client(None) => (CloseFrame::default(), gone()),
        End::Client(Some(close)) | End::Upstream(Some(close)) => (close.clone(), close.clone()),
        End::Upstream(None) => (
            CloseFrame::new(1012, "gateway connection lost"),
            CloseFrame::default(),
        ),
        End::Violation(close) => (close.clone(), gone()),
        End::Revoked(_) => (
            CloseFrame::new(1008, "policy no longer allows this connection"),
            gone(),
        ),
        End::Dead => (CloseFrame::new(1001, "no answer to pings"), gone()),
        End::Draining => (CloseFrame::new(1012, "service restart"), gone()),
    }
}

async fn client_to_upstream(
    connection: &Arc<Connection>,
    session: &Session,
    heard: &Heard,
    reader: &mut Reader<ReadHalf<Stream>>,
    client: &Outbox,
    upstream: &Outbox,
) -> End {
    loop {
        let message = match reader.message().await {
            Ok(message) => message,
            Err(FrameError::Read(error)) => {
                tracing::debug!(%error, "the client's stream ended");
                return End::Client(None);
            }
            Err(error) => return End::Violation(error.close()),
        };
        heard.now();
        let sent = match message {
            Message::Text(bytes) => {
                let note = Note::new(EventKind::Message, "method");
                let mut exchange =
                    Exchange::begin(connection, random_id().unwrap_or_default(), note);
                exchange.note.principal(&session.principal);
                match judge(&mut exchange, session, &bytes) {
                    Ruling::Forward(permit) => upstream.forward(*permit, bytes).await,
                    Ruling::Answer(answer) => client.text(answer).await,
                    Ruling::Close(why) => return End::Violation(CloseFrame::new(1008, why)),
                }
            }
            Message::Binary => {
                return End::Violation(CloseFrame::new(1003, "text frames only"));
            }
            Message::Ping(payload) => upstream.ping(payload).await,
            Message::Pong(payload) if payload == OWN_PING => Ok(()),
            Message::Pong(payload) => upstream.pong(payload).await,
            Message::Close(close) => return End::Client(Some(close)),
        };
        if sent.is_err() {
            return End::Upstream(None);
        }
        reader.take_turns().await;
    }
}

/// Frames go on as they come, fragments and control frames included; to a principal that is bound
/// to agents only what is theirs.
async fn upstream_to_client(
    session: &Session,
    reader: &mut Reader<ReadHalf<Stream>>,
    client: &Outbox,
) -> End {
    if let Some(bound) = session.principal.agents() {
        let default = session.terms.default_agent.as_deref();
        return filtered(Isolation::new(bound, default), reader, client).await;
    }
    loop {
        let frame = match reader.frame().await {
            Ok(frame) => frame,
            Err(error) => {
                tracing::debug!(%error, "the upstream's stream ended");
                return End::Upstream(None);
            }
        };
        if frame.opcode == OpCode::Close {
            return End::Upstream(CloseFrame::parse(frame.payload).ok());
        }
        if client.raw(frame).await.is_err() {
            return End::Client(None);
        }
        reader.take_turns().await;
    }
}

async fn filtered(
    mut isolation: Isolation<'_>,
    reader: &mut Reader<ReadHalf<Stream>>,
    client: &Outbox,
) -> End {
    loop {
        let sent = match reader.message().await {
            Ok(Message::Text(bytes)) => match isolation.frame(&bytes) {
                Some(frame) => client.text(frame).await,
                None => continue,
            },
            Ok(Message::Ping(payload)) => client.ping(payload).await,
            Ok(Message::Pong(payload)) => client.pong(payload).await,
            // No gateway sends any; what is in it cannot be judged.
            Ok(Message::Binary) => continue,
            Ok(Message::Close(close)) => return End::Upstream(Some(close)),
            Err(error) => {
                tracing::debug!(%error, "the upstream's stream ended");
                return End::Upstream(None);
            }
        };
        if sent.is_err() {
            return End::Client(None);
        }
    }
}

/// When a peer was last heard.
pub(super) struct Heard {
    started: Instant,
    last_ms: AtomicU64,
}

impl Heard {
    pub(super) fn new() -> Self {
        Self {
            started: Instant::now(),
            last_ms: AtomicU64::new(0),
        }
    }

    fn elapsed_ms(&self) -> u64 {
        u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    pub(super) fn now(&self) {
        self.last_ms.store(self.elapsed_ms(), Ordering::Relaxed);
    }

    /// Pings a silent peer and returns when it stays silent.
    pub(super) async fn silence(&self, idle: Duration, peer: &Outbox) {
        let idle_ms = u64::try_from(idle.as_millis()).unwrap_or(u64::MAX);
        let mut pinged = false;
        loop {
            tokio::time::sleep(idle / 4).await;
            let silent_ms = self
                .elapsed_ms()
                .saturating_sub(self.last_ms.load(Ordering::Relaxed));
            if silent_ms < idle_ms {
                pinged = false;
            } else if silent_ms >= idle_ms.saturating_mul(2) {
                return;
            } else if !pinged {
                pinged = true;
                // A full outbox is the writer's deadline to notice.
                if peer.ping(OWN_PING.to_vec()).await.is_err() {
                    return;
                }
            }
        }
    }
}
