//! WebSocket connections: the upgrade, the two handshakes, the relay.
//!
//! A client's `connect` is ended here and a new one is made for the upstream, since the device
//! signature in it covers the token. Read `session` first.

mod device;
mod dial;
mod frames;
mod handshake;
mod judge;
mod live_reload;
pub(super) mod own;
pub(super) mod probe;
mod relay;

use std::sync::Arc;

use bytes::Bytes;
use fastwebsockets::Role as Side;
use fastwebsockets::upgrade::{UpgradeFut, upgrade};
use http_body_util::{BodyExt as _, Empty};
use hyper::Response;
use hyper::header::{HeaderValue, ORIGIN};

use self::dial::Terms;
use self::frames::{CloseFrame, Message, Outbox};
use self::handshake::{Connect, Failure, Role};
use self::relay::End;
use super::auth;
use super::body::{Body, REQUEST_ID};
use super::connection::Connection;
use super::figures::By;
use super::http;
use super::limits::{self, Counted};
use super::origin;
use super::record::{Exchange, Note};
use super::refusal::Refusal;
use super::shared::{random_id, unix_now_ms};
use super::ui;
use crate::event::EventKind;
use crate::policy::{Denial, Principal, Reason};

/// Before anybody is known, a frame is a `connect` and no more.
const CONNECT_BYTES: usize = 64 * 1024;
/// What policy reads whole, as large as the gateway's own limit.
const CLIENT_MESSAGE_BYTES: usize = 25 * 1024 * 1024;

/// Who is at the client's end of an open WebSocket, and what is at the other.
#[derive(Debug)]
pub(super) struct Session {
    pub(super) principal: Principal,
    pub(super) role: Role,
    pub(super) terms: Terms,
}

/// Answers an upgrade request with 101 and goes on in a task of its own.
pub(super) fn accept(exchange: &mut Exchange, counted: Counted) -> Result<Response<Body>, Refusal> {
    exchange.note.action = "upgrade";
    let host = http::host(&counted.request)?;
    if ui::is_live_reload(ui::inner(counted.request.uri().path())) {
        return live_reload::accept(exchange, counted, &host);
    }
    origin::check_origin(
        counted.request.headers(),
        &host,
        &exchange.snapshot.config.gateway.origins,
    )?;
    if counted.request.uri().path().starts_with("/__") {
        // Other protocols than the gateway's own.
        return Err(Refusal::not_found());
    }
    // A key in the headers is judged at once; without one, the `connect` frame has to bring it.
    let presented = exchange.connection.presented(counted.request.headers())?;
    let early = presented
        .map(|key| auth::authenticate(&exchange.snapshot, Some(key)))
        .map(|found| counted.settle(exchange, found))
        .transpose()?;
    let mut request = counted.request;
    let is_page = request.headers().contains_key(ORIGIN);
    let (response, socket) = upgrade(&mut request).map_err(|error| {
        Refusal::malformed("not a WebSocket upgrade").detailed(error.to_string())
    })?;
    let connection = Arc::clone(&exchange.connection);
    exchange.gateway().tasks.spawn(session(
        connection,
        socket,
        early,
        is_page,
        exchange.id.clone(),
    ));
    Ok(switching(response, &exchange.id))
}

/// The answer 101, with the request's id.
fn switching(response: Response<Empty<Bytes>>, id: &str) -> Response<Body> {
    let mut response = response.map(|body| body.map_err(|never| match never {}).boxed_unsync());
    if let Ok(id) = HeaderValue::from_str(id) {
        response.headers_mut().insert(REQUEST_ID, id);
    }
    response
}

/// One WebSocket from its upgrade to its close.
async fn session(
    connection: Arc<Connection>,
    socket: UpgradeFut,
    early: Option<Principal>,
    is_page: bool,
    id: String,
) {
    let gateway = Arc::clone(&connection.gateway);
    let deadlines = gateway.deadlines;
    let upgraded = tokio::time::timeout(deadlines.handshake, socket).await;
    let Ok(Ok(socket)) = upgraded else {
        tracing::debug!(source = %connection.peer.ip, "the upgrade did not complete");
        return;
    };
    let (mut reader, outbox) = frames::split(
        socket.into_inner(),
        Side::Server,
        CONNECT_BYTES,
        deadlines.write,
    );
    let note = Note::new(EventKind::Auth, "connect");
    let mut exchange = Exchange::begin(&connection, id, note);

    let nonce = random_id().unwrap_or_default();
    let greeted = async {
        let connect = first_frame(&mut reader, &outbox, &nonce).await?;
        let mut client = format!(
            "{} {}",
            connect.client_text("id"),
            connect.client_text("mode")
        );
        client.push_str(if connect.params.contains_key("device") {
            " with device"
        } else {
            ""
        });
        exchange.note.detail = Some(client);
        let is_early = early.is_some();
        let principal = connect.authenticate(&exchange.snapshot, early, &nonce)?;
        if !is_early {
            limits::spend_for(&exchange, &principal)
                .map_err(|refusal| Failure::limited(&connect.id, &refusal))?;
        }
        exchange.note.principal(&principal);
        Ok((connect, principal))
    };
    let greeted = tokio::select! {
        greeted = tokio::time::timeout(deadlines.handshake, greeted) => {
            Some(greeted.unwrap_or_else(|_elapsed| Err(too_slow())))
        }
        () = gateway.drain.cancelled() => None,
    };
    let Some(greeted) = greeted else {
        let mut client = relay::Side { reader, outbox };
        relay::part(&End::Draining, &mut client, None).await;
        return ended(&mut exchange, "security.auth", End::Draining);
    };
    let dialled = match greeted {
        Ok((connect, principal)) => {
            let client = dial::Client {
                source: connection.peer.ip,
                is_page,
            };
            let dialled =
                dial::dial(&gateway, &exchange.snapshot, &connect, &principal, client).await;
            dialled.map(|dialled| (dialled, connect.role, principal))
        }
        Err(failure) => Err(failure),
    };
    let (upstream, role, principal) = match dialled {
        Ok(dialled) => dialled,
        Err(failure) => return fail(&exchange, failure, &mut reader, &outbox).await,
    };
    exchange.allowed(principal.path());
    if outbox.text(upstream.hello).await.is_err() {
        return;
    }
    reader.set_limit(CLIENT_MESSAGE_BYTES);
    let figures = &gateway.figures;
    let _stay = figures.arrive(principal.id(), connection.peer.ip, By::WebSocket);

    let session = Session {
        principal,
        role,
        terms: upstream.terms,
    };
    let client = relay::Side { reader, outbox };
    let upstream = relay::Side {
        reader: upstream.reader,
        outbox: upstream.outbox,
    };
    let end = relay::relay(&connection, &session, client, upstream).await;
    ended(&mut exchange, session.principal.path(), end);
}

/// The record of an end.
fn ended(exchange: &mut Exchange, rule: &str, end: End) {
    exchange.note.action = "close";
    exchange.note.detail = None;
    match end {
        End::Revoked(denial) => {
            exchange.note.action = "revoke";
            exchange.denied(&denial);
        }
        End::Violation(close) => {
            exchange.note.detail = close.code().map(|code| format!("closed with {code}"));
            exchange.denied(&Denial::new(Reason::RequestMalformed, "frame"));
        }
        End::Client(close) => {
            exchange.note.detail = Some(closed("client", close.as_ref()));
            exchange.allowed(rule);
        }
        End::Upstream(close) => {
            exchange.note.detail = Some(closed("upstream", close.as_ref()));
            exchange.allowed(rule);
        }
        End::Dead => {
            exchange.note.detail = Some("no answer to pings".to_owned());
            exchange.allowed(rule);
        }
        End::Draining => {
            exchange.note.detail = Some("service restart".to_owned());
            exchange.allowed(rule);
        }
    }
}

fn closed(by: &str, close: Option<&CloseFrame>) -> String {
    match close.and_then(CloseFrame::code) {
        Some(code) => format!("by the {by} with {code}"),
        None => format!("by the {by}"),
    }
}

/// Sends the challenge and waits for the `connect`.
async fn first_frame<S: tokio::io::AsyncRead + Unpin>(
    reader: &mut frames::Reader<S>,
    outbox: &Outbox,
    nonce: &str,
) -> Result<Connect, Failure> {
    let vanished = || Failure::new(None, "INVALID_REQUEST", "no connect frame", None);
    outbox
        .text(handshake::challenge(nonce, unix_now_ms()))
        .await
        .map_err(|_gone| vanished())?;
    loop {
        match reader.message().await {
            Ok(Message::Text(text)) => return Connect::parse(&text),
            Ok(Message::Ping(payload)) => {
                outbox.pong(payload).await.map_err(|_gone| vanished())?;
            }
            Ok(Message::Pong(_)) => {}
            Ok(Message::Binary | Message::Close(_)) => return Err(vanished()),
            Err(error) => {
                return Err(Failure {
                    close: error.close(),
                    detail: error.to_string(),
                    ..vanished()
                });
            }
        }
    }
}

fn too_slow() -> Failure {
    Failure::new(None, "INVALID_REQUEST", "handshake timeout", None)
}

/// Tells the client why not, closes, and records it.
async fn fail<S: tokio::io::AsyncRead + Unpin>(
    exchange: &Exchange,
    failure: Failure,
    reader: &mut frames::Reader<S>,
    outbox: &Outbox,
) {
    let Failure {
        answer,
        close,
        denial,
        detail,
    } = failure;
    exchange.handshake_failed(&denial, detail);
    let closing = async {
        if let Some(answer) = answer
            && outbox.text(answer).await.is_err()
        {
            return;
        }
        if outbox.close(close).await.is_ok() {
            reader.drain().await;
        }
    };
    if tokio::time::timeout(relay::CLOSE_DEADLINE, closing)
        .await
        .is_err()
    {
        tracing::debug!(source = %exchange.peer().ip, "the client did not close in time");
    }
}
