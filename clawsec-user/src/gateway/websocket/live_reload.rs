//! The canvas' live reload: a socket on which the gateway says one word, and hears none.
//!
//! It is opened for whoever is signed in, without clawsec's upstream credential, which it does not
//! ask for. Nothing of the client's goes on.

use std::sync::Arc;

use fastwebsockets::Role as Side;
use fastwebsockets::upgrade::{UpgradeFut, upgrade};
use hyper::Response;
use tokio::io::ReadHalf;

use super::frames::{self, CloseFrame, Message, Outbox, Reader, Stream};
use super::relay::{self, End, Heard};
use super::{CONNECT_BYTES, dial, ended};
use crate::gateway::auth;
use crate::gateway::body::Body;
use crate::gateway::connection::REVOCATION_TICK;
use crate::gateway::limits::Counted;
use crate::gateway::origin;
use crate::gateway::record::Exchange;
use crate::gateway::refusal::Refusal;
use crate::gateway::shared::{Gateway, unix_now};
use crate::gateway::ui::{self, SignIn};
use crate::policy::{Denial, Principal, Reason, Request as Asks, RequestFacts};

/// What the gateway says.
const WORD: &[u8] = b"reload";
/// It says no more than that.
const UPSTREAM_BYTES: usize = 1024;

/// Who listens, and by which sign-in if not by a key.
struct Listener {
    principal: Principal,
    sign_in: Option<SignIn>,
}

/// Answers the upgrade with 101 and goes on in a task of its own.
pub(super) fn accept(
    exchange: &mut Exchange,
    counted: Counted,
    host: &str,
) -> Result<Response<Body>, Refusal> {
    // Canvas pages have no origin, but a seal, which no other page knows.
    let request = &counted.request;
    let sealed = ui::is_placed(request.uri().path());
    if !(sealed && origin::is_opaque(request.headers())) {
        let allowed = &exchange.snapshot.config.gateway.origins;
        origin::check_origin(request.headers(), host, allowed)?;
    }
    let presented = exchange.connection.presented(request.headers())?;
    let listener = match presented {
        None => {
            let found = ui::reader(exchange, request);
            // A page whose sign-in has ended is no guess at a key.
            let (principal, sign_in) = found.map_err(|denial| Refusal::from(denial).lenient())?;
            Listener {
                principal,
                sign_in: Some(sign_in),
            }
        }
        presented => Listener {
            principal: counted
                .settle(exchange, auth::authenticate(&exchange.snapshot, presented))?,
            sign_in: None,
        },
    };
    exchange.note.principal(&listener.principal);
    let mut facts = RequestFacts::new(Asks::Route);
    // The canvas is the default agent's.
    facts.names_default = true;
    let permit = exchange.decide(&listener.principal, facts)?;
    let path = ui::inner(request.uri().path()).to_owned();
    let mut request = counted.request;
    let (response, socket) = upgrade(&mut request).map_err(|error| {
        Refusal::malformed("not a WebSocket upgrade").detailed(error.to_string())
    })?;
    exchange.allowed(permit.rule());
    let going = Exchange {
        connection: Arc::clone(&exchange.connection),
        snapshot: Arc::clone(&exchange.snapshot),
        id: exchange.id.clone(),
        note: exchange.note.clone(),
    };
    let tasks = &exchange.gateway().tasks;
    tasks.spawn(session(going, listener, socket, path));
    Ok(super::switching(response, &exchange.id))
}

async fn session(mut exchange: Exchange, listener: Listener, socket: UpgradeFut, path: String) {
    let connection = Arc::clone(&exchange.connection);
    let gateway = &connection.gateway;
    let deadlines = gateway.deadlines;
    let upgraded = tokio::time::timeout(deadlines.handshake, socket).await;
    let Ok(Ok(socket)) = upgraded else {
        tracing::debug!(source = %connection.peer.ip, "the upgrade did not complete");
        return;
    };
    let split = |socket, side, limit| {
        let (reader, outbox) = frames::split(socket, side, limit, deadlines.write);
        relay::Side { reader, outbox }
    };
    let mut client = split(socket.into_inner(), Side::Server, CONNECT_BYTES);
    let principal = &listener.principal;
    exchange.note.action = "close";
    let dialling = dial::open(
        gateway,
        &exchange.snapshot,
        &path,
        principal.id(),
        dial::Client {
            source: connection.peer.ip,
            is_page: false,
        },
    );
    let dialled = tokio::time::timeout(deadlines.handshake, dialling).await;
    let dialled = dialled.unwrap_or_else(|_elapsed| Err("too slow".to_owned()));
    let mut upstream = match dialled {
        Ok(socket) => split(socket, Side::Client, UPSTREAM_BYTES),
        Err(why) => {
            let denial = Denial::new(Reason::UpstreamUnreachable, "gateway.upstream");
            exchange.handshake_failed(&denial, why);
            let close = CloseFrame::new(1013, "the gateway behind clawsec cannot be reached");
            let end = End::Upstream(Some(close));
            return relay::part(&end, &mut client, None).await;
        }
    };
    let heard = Heard::new();
    let relay::Side { reader, outbox } = &mut client;
    let end = tokio::select! {
        end = listen(&heard, reader, outbox) => end,
        end = tell(&mut upstream, outbox) => end,
        denial = connection.revoked_for(Some(principal)) => End::Revoked(denial),
        denial = signed_out(gateway, listener.sign_in.as_ref()) => End::Revoked(denial),
        () = heard.silence(deadlines.idle, outbox) => End::Dead,
        () = gateway.drain.cancelled() => End::Draining,
    };
    relay::part(&end, &mut client, Some(&upstream.outbox)).await;
    ended(&mut exchange, principal.path(), end);
}

/// What a client says is not for the gateway.
async fn listen(heard: &Heard, reader: &mut Reader<ReadHalf<Stream>>, client: &Outbox) -> End {
    loop {
        let answered = match reader.message().await {
            Ok(Message::Ping(payload)) => client.pong(payload).await,
            Ok(Message::Text(_) | Message::Pong(_)) => Ok(()),
            Ok(Message::Binary) => {
                return End::Violation(CloseFrame::new(1003, "text frames only"));
            }
            Ok(Message::Close(close)) => return End::Client(Some(close)),
            Err(frames::FrameError::Read(_)) => return End::Client(None),
            Err(error) => return End::Violation(error.close()),
        };
        heard.now();
        if answered.is_err() {
            return End::Client(None);
        }
    }
}

async fn tell(upstream: &mut relay::Side, client: &Outbox) -> End {
    loop {
        let told = match upstream.reader.message().await {
            Ok(Message::Text(text)) if text == WORD => client.text("reload".to_owned()).await,
            Ok(Message::Ping(payload)) => {
                if upstream.outbox.pong(payload).await.is_err() {
                    return End::Upstream(None);
                }
                Ok(())
            }
            Ok(Message::Text(_) | Message::Binary | Message::Pong(_)) => Ok(()),
            Ok(Message::Close(close)) => return End::Upstream(Some(close)),
            Err(_) => return End::Upstream(None),
        };
        if told.is_err() {
            return End::Client(None);
        }
    }
}

/// Returns when the sign-in has ended; a key's end is another's to notice.
async fn signed_out(gateway: &Gateway, sign_in: Option<&SignIn>) -> Denial {
    let Some(sign_in) = sign_in else {
        return std::future::pending().await;
    };
    while gateway.seals.lives(sign_in, unix_now()) {
        tokio::time::sleep(REVOCATION_TICK).await;
    }
    Denial::new(Reason::CredentialExpired, "gateway.ui")
}
