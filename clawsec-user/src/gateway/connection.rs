//! One connection, from its first byte to its last record.
//!
//! Read `answer` first: each of its lines makes the argument of the next, so that none can be
//! left out. stream → TLS peer → request → principal → facts → permit → outcome → event.

mod live;

use std::convert::Infallible;
use std::pin::{Pin, pin};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use hyper::body::{Body as _, Incoming};
use hyper::server::conn::http1::UpgradeableConnection;
use hyper::server::conn::http2;
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};

use super::auth::Presented;
use super::body::Body;
use super::facts::{self, Asked, Cargo, Load};
use super::failure::{self, Failure, TOO_SLOW};
use super::figures::Stay;
use super::frames_h2::Goodbyes;
use super::head::{Head, Protocol};
use super::limits::Counted;
use super::listener::{self, Accepted, Identified, Peer, Speaker};
use super::progress::{Progress, Standing};
use super::received::Received;
use super::record::{Exchange, Note};
use super::refusal::Refusal;
use super::route::{self, Route};
use super::shared::{Gateway, Slot, Tracked, random_id};
use super::upstream::{self, Credential};
use super::watched::Watched;
use super::{auth, http, isolate, limits, tls, tools_invoke, ui, websocket};
use crate::event::EventKind;
use crate::policy::{self, Permit, Principal};

/// What the requests of one connection share.
#[derive(Debug)]
pub(super) struct Connection {
    pub(super) gateway: Arc<Gateway>,
    /// Whom the connection, or behind a proxy the request, comes from.
    pub(super) peer: Peer,
    pub(super) head: Arc<Head>,
    pub(super) progress: Arc<Progress>,
    goodbyes: Arc<Goodbyes>,
    /// Which of `gateway.listen` it came in by.
    listener: usize,
    speaker: Speaker,
    /// Of the client's certificate, which TLS has verified.
    certificate: Option<Presented>,
    /// Everybody who has authenticated here, to be watched while the connection lives.
    principals: Arc<Mutex<Vec<Principal>>>,
    /// As long as the connection lives, they are counted as here.
    stays: Arc<Mutex<Vec<Stay>>>,
    /// Held while anybody here is being served.
    slots: Arc<[Slot]>,
}

/// Judges one request and does what it asks for.
async fn answer(
    exchange: &mut Exchange,
    raw: Request<Received>,
) -> Result<Response<Body>, Refusal> {
    let form = exchange.connection.head.judge();
    let checked = http::check(raw, form, &exchange.snapshot.config.gateway.hosts)?;
    let routed = route::classify(checked, exchange.listen());
    let admitted = listener::admit_request(exchange, routed)?;
    let counted = limits::count(exchange, admitted)?;
    match counted.route {
        Route::WebSocket => return websocket::accept(exchange, counted),
        Route::Webhook => return webhook(exchange, counted).await,
        Route::SignIn => return ui::answer(exchange, counted).await,
        Route::Page if ui::is_open(exchange, &counted) => {
            return ui::visit(exchange, counted).await;
        }
        _ => {}
    }
    if let Some(place) = ui::place(exchange, &counted) {
        return Ok(place);
    }
    let (principal, credential) =
        authenticate(exchange, &counted).map_err(|refusal| ui::refusal(&counted, refusal))?;
    let place = ui::place_of(&counted);
    let asked = facts::gather(exchange, ui::unsealed(counted)).await?;
    let (permit, order) = decide(exchange, &principal, asked)?;
    let response = act(exchange, permit, order, credential).await?;
    match place {
        Some(place) => ui::prepare(exchange, &place, response).await,
        None => Ok(response),
    }
}

/// Passes a webhook on as it came: the gateway behind verifies its sender.
async fn webhook(exchange: &mut Exchange, counted: Counted) -> Result<Response<Body>, Refusal> {
    exchange.note.action = "webhook";
    let Counted { request, .. } = counted;
    let (parts, body) = request.into_parts();
    let held = facts::hold_body(exchange, body, WEBHOOK_BYTES).await?;
    let rule = exchange
        .listen()
        .map(|listen| format!("{}.bypass", listen.path));
    let rule = rule.unwrap_or_default();
    let permit = exchange.snapshot.policy().decide_for_webhook(&rule);
    let cargo = Cargo {
        parts,
        load: Load::Held(held),
    };
    let response = upstream::forward(exchange, permit, cargo, Credential::Senders).await?;
    exchange.allowed(&rule);
    Ok(response)
}

/// Who asks, and whose credential that person's request goes upstream with.
fn authenticate(
    exchange: &mut Exchange,
    counted: &Counted,
) -> Result<(Principal, Credential), Refusal> {
    let presented = exchange.connection.presented(counted.request.headers())?;
    let (found, credential) = match (presented, counted.route) {
        (None, Route::Page) => {
            let found = ui::reader(exchange, &counted.request);
            (found.map(|(principal, _)| principal), Credential::Nobodys)
        }
        _ => (
            auth::authenticate(&exchange.snapshot, presented),
            Credential::Ours,
        ),
    };
    let principal = counted.settle(exchange, found)?;
    exchange.note.principal(&principal);
    exchange.connection.authenticated(&principal, exchange);
    Ok((principal, credential))
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
    credential: Credential,
) -> Result<Response<Body>, Refusal> {
    let rule = permit.rule().to_owned();
    let response = if permit.is_sandboxed() {
        tools_invoke::run(exchange, permit, order)
            .await?
            .map(|body| exchange.connection.progress.watch(body, None))
    } else {
        let isolation = permit.isolation().cloned();
        let is_speech = permit.facts().request == policy::Request::Message;
        let response = upstream::forward(exchange, permit, order.cargo, credential).await?;
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
    let Some(identified) = listener::identify(&gateway, accepted).await else {
        return;
    };
    let Identified {
        stream,
        peer,
        listener,
        speaker,
        slots,
    } = identified;
    let connection = |protocol, certificate| {
        Arc::new(Connection {
            gateway: Arc::clone(&gateway),
            peer,
            head: Arc::new(Head::new(protocol)),
            progress: Arc::new(Progress::new()),
            goodbyes: Arc::default(),
            listener,
            speaker,
            certificate,
            principals: Arc::default(),
            stays: Arc::default(),
            slots: slots.into(),
        })
    };
    let Some(tls) = gateway.snapshot.load().tls.clone() else {
        return serve_http(connection(Protocol::Http1, None), stream).await;
    };
    let handshake = tls.acceptor.accept(stream);
    match tokio::time::timeout(gateway.deadlines.tls, handshake).await {
        Ok(Ok(stream)) => {
            gateway.figures.tls_ok.add();
            if tls::is_trial(stream.get_ref().1) {
                return;
            }
            let (protocol, certificate) = tls::agreed(stream.get_ref().1);
            serve_http(connection(protocol, certificate), stream).await;
        }
        Ok(Err(error)) => {
            gateway.figures.tls_failed.add();
            failure::report(
                &gateway,
                peer,
                failure::of_tls(&error),
                1,
                &error.to_string(),
            );
        }
        Err(_elapsed) => {
            gateway.figures.tls_too_slow.add();
            failure::report(&gateway, peer, Failure::TlsSlow, 1, "");
        }
    }
}

async fn serve_http<S>(connection: Arc<Connection>, stream: S)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let gateway = Arc::clone(&connection.gateway);
    let head = Arc::clone(&connection.head);
    let goodbyes = Arc::clone(&connection.goodbyes);
    let stream = Watched::new(stream, head, Arc::clone(&connection.progress), goodbyes);
    let stream = TokioIo::new(stream);
    let asked = Arc::clone(&connection);
    let service = service_fn(move |request| respond(Arc::clone(&asked), request));
    match connection.head.protocol() {
        Protocol::Http1 => {
            let server = http::server(&gateway.deadlines);
            let served = server.serve_connection(stream, service).with_upgrades();
            drive(
                &connection,
                served,
                UpgradeableConnection::graceful_shutdown,
            )
            .await;
        }
        Protocol::Http2 => {
            let server = http::server_h2(&gateway.deadlines, Tracked(gateway.tasks.clone()));
            let served = server.serve_connection(stream, service);
            drive(&connection, served, http2::Connection::graceful_shutdown).await;
        }
    }
}

/// Runs hyper's side of a connection until it ends or has to.
async fn drive<F>(connection: &Arc<Connection>, served: F, finish: impl Fn(Pin<&mut F>))
where
    F: Future<Output = hyper::Result<()>>,
{
    let gateway = &connection.gateway;
    let mut served = pin!(served);
    let mut draining = false;
    let mut drained = pin!(drained(connection));
    let mut generation = gateway.generation.subscribe();
    loop {
        tokio::select! {
            ended = served.as_mut() => {
                connection.report_goodbyes();
                if let Err(error) = ended {
                    connection.report_end(&error);
                }
                return;
            }
            () = drained.as_mut(), if !draining => {
                draining = true;
                finish(served.as_mut());
            }
            // Keys also end by the clock, hence the tick.
            _ = tokio::time::timeout(REVOCATION_TICK, generation.changed()) => {
                connection.report_goodbyes();
                if let Err(denial) = connection.still_admitted(None) {
                    return connection.report_revoked(denial);
                }
                match connection.progress.standing(gateway.deadlines.stall) {
                    Standing::Stalled => {
                        return connection.report(TOO_SLOW, "the client takes no answer".into());
                    }
                    Standing::Idle { for_ms, used }
                        if connection.is_over(for_ms, used) && !draining =>
                    {
                        draining = true;
                        finish(served.as_mut());
                        if !used {
                            return connection.report(TOO_SLOW, "nothing was asked".into());
                        }
                    }
                    _ => {}
                }
            }
        }
    }
}

/// Returns when the gateway drains and this connection is not about to ask for the first time:
/// hyper ends one that has asked nothing yet, and its client would be told nothing.
async fn drained(connection: &Connection) {
    connection.gateway.drain.cancelled().await;
    let first = connection.progress.first_use();
    if tokio::time::timeout(FIRST_REQUEST, first).await.is_err() {
        tracing::debug!(source = %connection.peer.ip, "nothing was asked before the drain");
    }
}

/// Turns whatever became of a request into an answer and a record.
async fn respond(
    connection: Arc<Connection>,
    request: Request<Incoming>,
) -> Result<Response<Body>, Infallible> {
    let _asking = connection.progress.request();
    let began = Instant::now();
    let id = random_id().unwrap_or_default();
    let mut note = Note::new(EventKind::Message, "request");
    let path = request.uri().path().to_owned();
    note.detail = Some(format!("{} {}", request.method(), ui::inner(&path)));
    let bodiless = request.body().is_end_stream();
    let linger = match connection.head.protocol() {
        Protocol::Http1 => None,
        Protocol::Http2 => Some(connection.gateway.tasks.clone()),
    };
    let request = request.map(|body| Received::new(body, linger));
    let spoken_for = connection.spoken_for(request.headers());
    let client = spoken_for.as_ref().unwrap_or(&connection);
    let mut exchange = Exchange::begin(client, id, note);
    let answered = match &spoken_for {
        Ok(_) => answer(&mut exchange, request).await,
        Err(why) => Err(Refusal::malformed(why)),
    };
    connection.gateway.figures.answered(answered.is_ok(), began);
    let response = match answered {
        Ok(mut response) => {
            let origins = &exchange.snapshot.config.gateway.origins;
            ui::confine(&path, origins, response.headers_mut());
            response
        }
        Err(refusal) => {
            exchange.refused(&refusal);
            let response = refusal.into_response(&exchange.id);
            response.map(|body| connection.progress.watch(body, None))
        }
    };
    if bodiless {
        connection.head.expect_next();
    }
    Ok(response)
}

/// How often a live connection looks whether its keys or its admission have run out, or its
/// source was banned; with a change of policy it looks at once. Promised: within a second.
pub(super) const REVOCATION_TICK: Duration = Duration::from_millis(500);

/// How long a drain waits for the first request of a connection that was just accepted.
const FIRST_REQUEST: Duration = Duration::from_secs(1);

/// A webhook is a message or two; the channels' own limits are lower.
const WEBHOOK_BYTES: usize = 1024 * 1024;
