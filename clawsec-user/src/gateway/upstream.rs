//! The gateway behind: requests go to it with clawsec's credential.
//!
//! Invariant: nothing goes upstream without a `Permit`, which is consumed here. Only a `GET`
//! without a body may go over a connection that was used before, and only over one of the same
//! principal (`pool`); whatever has a body or an effect gets a connection of its own.

use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

use http_body_util::{BodyExt, Full, LengthLimitError, Limited};
use hyper::body::Body as _;
use hyper::client::conn::http1;
use hyper::header::{
    ACCEPT_ENCODING, AUTHORIZATION, CONTENT_LENGTH, EXPECT, HOST, HeaderMap, HeaderName,
    HeaderValue,
};
use hyper::{Method, Request, Response, StatusCode, Version};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;

use super::auth::API_KEY;
use super::body::{Body, Paced, REQUEST_ID, TooSlow};
use super::facts::{Cargo, Load};
use super::http::strip_hop_by_hop;
use super::pool::{Answer, Lease, Sender};
use super::record::Exchange;
use super::refusal::Refusal;
use super::shared::{Deadlines, Gateway};
use super::snapshot::Snapshot;
use super::ui;
use crate::causes::chain;
use crate::config::{Upstream, UpstreamAuth};
use crate::policy::{self, Permit};

/// The largest body that is streamed without being judged.
const STREAMED_BODY_BYTES: usize = 25 * 1024 * 1024;

/// Whose credential goes upstream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Credential {
    /// clawsec's.
    Ours,
    /// A webhook sender's own, whatever that is.
    Senders,
    /// None: for what a browser may read without a key in its headers.
    Nobodys,
}

/// Sends a permitted request upstream and streams the answer back.
pub(super) async fn forward(
    exchange: &Exchange,
    permit: Permit,
    cargo: Cargo,
    credential: Credential,
) -> Result<Response<Body>, Refusal> {
    let gateway = exchange.gateway();
    let place = Arc::clone(&gateway.forwards)
        .try_acquire_owned()
        .map_err(|_full| Refusal::overloaded().detailed("too many requests are upstream"))?;
    let deadlines = &gateway.deadlines;
    let config = &exchange.snapshot.config.gateway;
    let Cargo { parts, load } = cargo;
    // A model or a tool may run before the head comes; a page comes from memory.
    let head_deadline = match permit.facts().request {
        policy::Request::Route => deadlines.upstream_head,
        _ => deadlines.upstream_work,
    };
    // A `GET` without a body: the framing of what was sent is not in question, and it has no effect
    // that a connection's end could leave in doubt.
    let is_plain = parts.method == Method::GET
        && credential == Credential::Ours
        && matches!(&load, Load::Streamed(body) if body.is_end_stream());
    let mut request = Request::new(match load {
        Load::Held(held) => Full::new(held.bytes)
            .map_err(|never| match never {})
            .boxed_unsync(),
        Load::Streamed(body) => {
            let head = Arc::clone(&exchange.connection.head);
            let paced = Paced::new(body, deadlines, move || head.expect_next());
            Limited::new(paced, STREAMED_BODY_BYTES).boxed_unsync()
        }
    });
    *request.headers_mut() = request_headers(
        parts.headers,
        parts.uri.path(),
        &exchange.snapshot,
        credential,
    );
    if permit.isolation().is_some() {
        // What comes back has to be read.
        request.headers_mut().remove(ACCEPT_ENCODING);
    }
    // A webhook's sender is nobody that clawsec knows.
    if credential == Credential::Ours {
        vouch(
            request.headers_mut(),
            config.upstream_auth,
            permit.principal(),
            exchange.peer().ip,
        );
    }
    *request.method_mut() = parts.method;
    *request.uri_mut() = parts.uri;
    *request.version_mut() = Version::HTTP_11;

    let principal = permit.principal();
    let generation = exchange.snapshot.generation();
    let mut waiting = is_plain
        .then(|| gateway.pool.take(principal, generation))
        .flatten();
    let (sender, mut response) = loop {
        let (mut sender, is_new) = match waiting.take() {
            Some(sender) => (sender, false),
            None => (dial(gateway, &config.upstream).await?, true),
        };
        let sent = sender.try_send_request(request);
        match tokio::time::timeout(head_deadline, sent).await {
            Ok(Ok(response)) => break (sender, response),
            Ok(Err(mut error)) => match error.take_message() {
                // The upstream ended the connection first: not a byte of this request has left.
                Some(unsent) if !is_new => request = unsent,
                _ => return Err(failed(error.error())),
            },
            Err(_elapsed) => return Err(Refusal::timed_out("no response head")),
        }
    };
    if response.status() == StatusCode::SWITCHING_PROTOCOLS {
        return Err(Refusal::unreachable(
            "the upstream switched protocols unasked",
        ));
    }
    strip_hop_by_hop(response.headers_mut());
    if let Ok(id) = HeaderValue::from_str(&exchange.id) {
        response.headers_mut().insert(REQUEST_ID, id);
    }
    let lease = is_plain.then(|| Lease {
        gateway: Arc::clone(&exchange.connection.gateway),
        sender,
        principal: principal.into(),
        generation,
    });
    let progress = &exchange.connection.progress;
    Ok(response.map(|body| progress.watch(Answer::new(body, lease).boxed_unsync(), Some(place))))
}

/// Makes a connection for requests.
async fn dial(gateway: &Gateway, upstream: &Upstream) -> Result<Sender, Refusal> {
    let stream = connect(upstream, &gateway.deadlines).await?;
    let (sender, connection) = http1::handshake(TokioIo::new(stream))
        .await
        .map_err(|error| Refusal::unreachable(error.to_string()))?;
    gateway.tasks.spawn(async move {
        if let Err(error) = connection.await {
            tracing::debug!(%error, "connection to the upstream ended");
        }
    });
    Ok(sender)
}

/// Tells a client whose body failed from an upstream that did.
fn failed(error: &hyper::Error) -> Refusal {
    let mut source = std::error::Error::source(error);
    while let Some(cause) = source {
        if cause.is::<LengthLimitError>() {
            return Refusal::too_large();
        }
        if cause.is::<TooSlow>() {
            return Refusal::slow();
        }
        source = cause.source();
    }
    if error.is_user() {
        return Refusal::malformed("the request body ended early").detailed(chain(error));
    }
    Refusal::unreachable(error.to_string())
}

/// Opens a TCP connection to the upstream.
pub(super) async fn connect(
    upstream: &Upstream,
    deadlines: &Deadlines,
) -> Result<TcpStream, Refusal> {
    // `localhost` needs no resolver, which the confined process could not use anyway.
    let connecting = async {
        match upstream.host.parse::<IpAddr>() {
            Ok(address) => TcpStream::connect((address, upstream.port)).await,
            Err(_) if upstream.host.eq_ignore_ascii_case("localhost") => {
                TcpStream::connect((Ipv4Addr::LOCALHOST, upstream.port)).await
            }
            Err(_) => TcpStream::connect((upstream.host.as_str(), upstream.port)).await,
        }
    };
    let stream = match tokio::time::timeout(deadlines.upstream_connect, connecting).await {
        Ok(Ok(stream)) => stream,
        Ok(Err(error)) => return Err(Refusal::unreachable(error.to_string())),
        Err(_elapsed) => return Err(Refusal::timed_out("no connection")),
    };
    if let Err(error) = stream.set_nodelay(true) {
        tracing::debug!(%error, "tune the connection to the upstream");
    }
    Ok(stream)
}

/// `host:port` of the upstream for the `Host` header.
pub(super) fn host_header(upstream: &Upstream) -> Result<HeaderValue, Refusal> {
    HeaderValue::from_str(&upstream.authority())
        .map_err(|_invalid| Refusal::unreachable("the upstream's name is not a header value"))
}

/// The client's headers without what is not for the upstream, and with clawsec's credential.
fn request_headers(
    mut headers: HeaderMap,
    path: &str,
    snapshot: &Snapshot,
    credential: Credential,
) -> HeaderMap {
    // What is between two hops only was removed by `http::check`, before anything was judged.
    let unwanted: Vec<HeaderName> = headers
        .keys()
        .filter(|name| is_not_for_upstream(name.as_str()))
        .filter(|name| credential != Credential::Senders || *name != AUTHORIZATION)
        .cloned()
        .collect();
    for name in unwanted {
        headers.remove(name);
    }
    ui::strip(&mut headers);
    if let Ok(host) = host_header(&snapshot.config.gateway.upstream) {
        headers.insert(HOST, host);
    }
    // The gateway prefers a bearer to its hook token, so one that came along must stand alone.
    let has_hook_token = path.starts_with("/hooks")
        && ["clawdbot", "moltbot", "openclaw"]
            .iter()
            .any(|product| headers.contains_key(format!("x-{product}-token")));
    if let Some(token) = &snapshot.upstream_token
        && credential == Credential::Ours
        && !has_hook_token
        && let Ok(mut bearer) = HeaderValue::from_str(&format!("Bearer {}", token.reveal()))
    {
        bearer.set_sensitive(true);
        headers.insert(AUTHORIZATION, bearer);
    }
    headers
}

/// Says by name who is asking, and from where, to a gateway that believes clawsec.
pub(super) fn vouch(headers: &mut HeaderMap, auth: UpstreamAuth, principal: &str, source: IpAddr) {
    if auth != UpstreamAuth::TrustedProxy {
        return;
    }
    // An id is letters, digits, `.`, `_`, `-`; an address fits a header as it is.
    for (name, value) in [(USER, principal.to_owned()), (FOR, source.to_string())] {
        if let Ok(value) = HeaderValue::from_str(&value) {
            headers.insert(HeaderName::from_static(name), value);
        }
    }
}

const USER: &str = "x-forwarded-user";
const FOR: &str = "x-forwarded-for";

/// Headers that only a proxy may set, and clawsec's own credentials.
///
/// Gateways decide by forwarded headers whether a request is local; clawsec sets none, so that
/// they see their own host's loopback, and lets none through.
fn is_not_for_upstream(name: &str) -> bool {
    name.starts_with("x-forwarded")
        || name.starts_with("tailscale-")
        || name.starts_with("cf-")
        || name.starts_with("x-openclaw-scopes")
        || [
            "forwarded",
            "x-real-ip",
            "x-client-ip",
            "x-cluster-client-ip",
            "x-original-forwarded-for",
            "x-originating-ip",
            "x-remote-ip",
            "x-remote-addr",
            "x-original-host",
            "x-original-url",
            "x-rewrite-url",
            "x-http-method-override",
            "x-http-method",
            "x-method-override",
            "true-client-ip",
            "fastly-client-ip",
            "fly-client-ip",
            "via",
            API_KEY,
        ]
        .contains(&name)
        || name == AUTHORIZATION
        || name == HOST
        // hyper sets the length from the body it is given.
        || name == CONTENT_LENGTH
        || name == EXPECT
}
