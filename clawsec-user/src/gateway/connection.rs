//! One connection, from its first byte to its last record.
//!
//! Read `answer` first: each of its lines makes the argument of the next, so that none can be
//! left out. stream → TLS peer → request → principal → facts → permit → outcome → event.

use std::convert::Infallible;
use std::pin::pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use hyper::body::{Body as _, Incoming};
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};

use super::body::Body;
use super::facts::{self, Asked};
use super::head::{Head, Watched};
use super::http;
use super::listener::{Accepted, Peer};
use super::record::{Exchange, Note};
use super::refusal::Refusal;
use super::route::{self, Route};
use super::shared::{Gateway, Slot, random_id, unix_now};
use super::{auth, isolate, limits, tools_invoke, upstream, websocket};
use crate::event::{Event, EventKind, Outcome};
use crate::policy::{self, Denial, Permit, Principal, Reason};

/// What the requests of one connection share.
#[derive(Debug)]
pub(super) struct Connection {
    pub(super) gateway: Arc<Gateway>,
    pub(super) peer: Peer,
    pub(super) head: Arc<Head>,
    /// Everybody who has authenticated here, to be watched while the connection lives.
    principals: Mutex<Vec<Principal>>,
    _slot: Slot,
}

/// Judges one request and does what it asks for.
async fn answer(
    exchange: &mut Exchange,
    raw: Request<Incoming>,
) -> Result<Response<Body>, Refusal> {
    let form = exchange.connection.head.judge();
    let checked = http::check(raw, form, &exchange.snapshot.config.gateway.hosts)?;
    let routed = route::classify(checked);
    let counted = limits::count(exchange, routed)?;
    if counted.route == Route::WebSocket {
        return websocket::accept(exchange, counted);
    }
    let principal = authenticate(exchange, &counted)?;
    let asked = facts::gather(exchange, counted).await?;
    let (permit, order) = decide(exchange, &principal, asked)?;
    let response = act(exchange, permit, order).await?;
    Ok(response)
}

fn authenticate(exchange: &mut Exchange, counted: &limits::Counted) -> Result<Principal, Refusal> {
    let presented = auth::presented(counted.request.headers())?;
    let found = auth::authenticate(&exchange.snapshot, presented);
    // Guessing keys on an uncounted route is still counted.
    if found.is_err() && !counted.route.is_counted() {
        limits::spend(exchange)?;
    }
    let principal = found?;
    exchange.note.principal(&principal);
    exchange.connection.authenticated(&principal, exchange);
    Ok(principal)
}

fn decide(
    exchange: &mut Exchange,
    principal: &Principal,
    asked: Asked,
) -> Result<(Permit, facts::Order), Refusal> {
    let Asked { facts, order } = asked;
    let permit = exchange
        .decide(principal, facts)
        .map_err(|denial| order.denied(denial))?;
    Ok((permit, order))
}

async fn act(
    exchange: &mut Exchange,
    permit: Permit,
    order: facts::Order,
) -> Result<Response<Body>, Refusal> {
    let rule = permit.rule().to_owned();
    let response = if permit.is_sandboxed() {
        tools_invoke::run(exchange, permit, order).await?
    } else {
        let isolation = permit.isolation().cloned();
        let is_speech = permit.facts().request == policy::Request::Message;
        let response = upstream::forward(exchange, permit, order.cargo).await?;
        match isolation {
            // What its own agent says to it is its own.
            Some(bound) if !is_speech => isolate::answer(bound, response).await?,
            _ => response,
        }
    };
    exchange.allowed(&rule);
    Ok(response)
}

/// Serves one accepted connection until it ends, is revoked, or the gateway drains.
pub(super) async fn serve(gateway: Arc<Gateway>, accepted: Accepted) {
    let Accepted { stream, peer, slot } = accepted;
    let tls = gateway.snapshot.load().tls.clone();
    let head = Arc::new(Head::default());
    let connection = Arc::new(Connection {
        gateway: Arc::clone(&gateway),
        peer,
        head: Arc::clone(&head),
        principals: Mutex::default(),
        _slot: slot,
    });
    let Some(tls) = tls else {
        return serve_http(connection, Watched::new(stream, head)).await;
    };
    match tokio::time::timeout(gateway.deadlines.tls, tls.accept(stream)).await {
        Ok(Ok(stream)) => serve_http(connection, Watched::new(stream, head)).await,
        // A scanner's half handshake is no decision of ours, and no record.
        Ok(Err(error)) => tracing::debug!(source = %peer.ip, %error, "TLS handshake"),
        Err(_elapsed) => tracing::debug!(source = %peer.ip, "TLS handshake took too long"),
    }
}

async fn serve_http<S>(connection: Arc<Connection>, stream: S)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let gateway = Arc::clone(&connection.gateway);
    let service = service_fn(|request| respond(Arc::clone(&connection), request));
    let mut served = pin!(
        http::server(&gateway.deadlines)
            .serve_connection(TokioIo::new(stream), service)
            .with_upgrades()
    );
    let mut revoked = pin!(connection.revoked());
    let mut draining = false;
    loop {
        tokio::select! {
            ended = served.as_mut() => {
                if let Err(error) = ended {
                    tracing::debug!(source = %connection.peer.ip, %error, "connection ended");
                }
                return;
            }
            () = gateway.drain.cancelled(), if !draining => {
                draining = true;
                served.as_mut().graceful_shutdown();
            }
            denial = revoked.as_mut() => {
                connection.report_revoked(denial);
                return;
            }
        }
    }
}

/// Turns whatever became of a request into an answer and a record.
async fn respond(
    connection: Arc<Connection>,
    request: Request<Incoming>,
) -> Result<Response<Body>, Infallible> {
    let id = random_id().unwrap_or_default();
    let mut note = Note::new(EventKind::Message, "request");
    note.detail = Some(format!("{} {}", request.method(), request.uri().path()));
    let bodiless = request.body().is_end_stream();
    let mut exchange = Exchange::begin(&connection, id, note);
    let response = match answer(&mut exchange, request).await {
        Ok(response) => response,
        Err(refusal) => {
            exchange.refused(&refusal);
            refusal.into_response(&exchange.id)
        }
    };
    if bodiless {
        connection.head.expect_next();
    }
    Ok(response)
}

impl Connection {
    /// Remembers who is here; the first time is a login, and a record.
    fn authenticated(&self, principal: &Principal, exchange: &Exchange) {
        {
            let mut principals = self.principals();
            if principals.contains(principal) {
                return;
            }
            principals.push(principal.clone());
        }
        let mut login = exchange.note.clone();
        login.kind = EventKind::Auth;
        login.action = "login";
        let login = Exchange {
            connection: Arc::clone(&exchange.connection),
            snapshot: Arc::clone(&exchange.snapshot),
            id: exchange.id.clone(),
            note: login,
        };
        login.allowed(principal.path());
    }

    /// Returns when a policy in force no longer admits this address or one of these principals.
    async fn revoked(&self) -> Denial {
        self.revoked_for(None).await
    }

    /// The same for a connection that belongs to one principal.
    pub(super) async fn revoked_for(&self, principal: Option<&Principal>) -> Denial {
        let mut generation = self.gateway.generation.subscribe();
        loop {
            if let Err(denial) = self.still_admitted(principal) {
                return denial;
            }
            // Keys also end by the clock, hence the tick; a closed channel leaves the tick alone.
            let tick = tokio::time::sleep(REVOCATION_TICK);
            tokio::select! {
                () = tick => {}
                changed = generation.changed() => if changed.is_err() {
                    tokio::time::sleep(REVOCATION_TICK).await;
                },
            }
        }
    }

    fn still_admitted(&self, principal: Option<&Principal>) -> Result<(), Denial> {
        let snapshot = self.gateway.snapshot.load();
        let policy = snapshot.policy();
        self.gateway.admit(self.peer.ip)?;
        let now = unix_now();
        let principals = self.principals();
        let revoked = principals
            .iter()
            .chain(principal)
            .find(|principal| !policy.credentials.still_valid(principal, now));
        match revoked {
            Some(principal) => Err(Denial::new(Reason::CredentialExpired, principal.path())),
            None => Ok(()),
        }
    }

    fn report_revoked(&self, denial: Denial) {
        let mut event = Event::new(
            EventKind::Auth,
            "revoke",
            Outcome::Deny,
            denial.reason.as_str(),
        );
        event.rule = Some(denial.rule);
        event.generation = self.gateway.snapshot.load().generation();
        event.source = Some(self.peer.ip);
        event.port = Some(self.peer.port);
        event.principal = self
            .principals()
            .first()
            .map(|principal| principal.id().to_owned());
        self.gateway.link.report(event);
    }

    fn principals(&self) -> std::sync::MutexGuard<'_, Vec<Principal>> {
        self.principals
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

/// How often a live connection looks whether its keys or its admission have run out, or its
/// source was banned; with a change of policy it looks at once. Promised: within a second.
const REVOCATION_TICK: Duration = Duration::from_millis(500);
