//! The admin listener: figures for a collector, one page for a person, two words for a prober.
//!
//! Invariant: it only reads. What it answers is written by the supervisor, whose documents hold
//! no secret; the page, and everything on an address that other machines reach, needs the token.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use hyper::body::Incoming;
use hyper::header::{
    ALLOW, AUTHORIZATION, CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE, HOST, HeaderMap,
    HeaderValue, REFERRER_POLICY, WWW_AUTHENTICATE, X_CONTENT_TYPE_OPTIONS,
};
use hyper::{Method, Request, Response, StatusCode};
use tokio::net::TcpListener;
use tokio::sync::Mutex;

use super::body::{self, Body};
use super::http;
use super::shared::Gateway;
use super::small::{self, Small};
use crate::config::MetricsConfig;
use crate::event::{Event, EventKind, Outcome};
use crate::ipc::{Document, Written};
use crate::policy::{KeyDigest, Reason};

/// Serves `listener` until the gateway drains.
pub(super) async fn serve(gateway: Arc<Gateway>, listener: TcpListener) {
    // One document at a time: whoever asks in a loop waits, and the supervisor does not work more.
    let turn = Arc::new(Mutex::new(()));
    let asked = Arc::clone(&gateway);
    let answer = move |peer: SocketAddr, request: Request<Incoming>| {
        let asker = Asker {
            gateway: Arc::clone(&asked),
            source: peer.ip().to_canonical(),
            port: peer.port(),
            turn: Arc::clone(&turn),
        };
        async move { asker.answer(&request).await }
    };
    small::serve(gateway, listener, SMALL, answer).await;
}

#[derive(Clone)]
struct Asker {
    gateway: Arc<Gateway>,
    source: IpAddr,
    port: u16,
    turn: Arc<Mutex<()>>,
}

/// Why nothing is shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Refused {
    Address,
    Host,
    TokenMissing,
    TokenUnknown,
    /// There is no token that could open the page.
    PageOff,
}

impl Asker {
    async fn answer(&self, request: &Request<Incoming>) -> Response<Body> {
        if request.method() != Method::GET && request.method() != Method::HEAD {
            let mut response = plain(StatusCode::METHOD_NOT_ALLOWED, "GET only\n");
            response
                .headers_mut()
                .insert(ALLOW, HeaderValue::from_static("GET, HEAD"));
            return response;
        }
        let document = match request.uri().path() {
            "/healthz" => return plain(StatusCode::OK, "ok\n"),
            "/readyz" => Document::Ready,
            "/metrics" => Document::Metrics,
            "/" => Document::Page,
            _ => return plain(StatusCode::NOT_FOUND, NOT_FOUND),
        };
        let snapshot = self.gateway.snapshot.load();
        let Some(metrics) = snapshot.config.gateway.metrics else {
            return plain(StatusCode::NOT_FOUND, NOT_FOUND);
        };
        drop(snapshot);
        if let Err(refused) = self.may_read(request.headers(), &metrics, document) {
            return self.refuse(refused);
        }
        let _turn = self.turn.lock().await;
        match self.gateway.link.document(&self.gateway, document).await {
            Ok(written) => shown(&written),
            Err(error) => plain(
                StatusCode::SERVICE_UNAVAILABLE,
                &format!("not ready: {error}\n"),
            ),
        }
    }

    fn may_read(
        &self,
        headers: &HeaderMap,
        metrics: &MetricsConfig,
        document: Document,
    ) -> Result<(), Refused> {
        let is_local = metrics.address.ip().is_loopback();
        if !is_local && self.gateway.admit(self.source).is_err() {
            return Err(Refused::Address);
        }
        if document == Document::Page && metrics.token.is_none() {
            return Err(Refused::PageOff);
        }
        match (presented(headers), metrics.token) {
            (Some(token), Some(expected)) => {
                if is_the(&token, &expected) {
                    Ok(())
                } else {
                    Err(Refused::TokenUnknown)
                }
            }
            _ if document == Document::Page || !is_local => Err(Refused::TokenMissing),
            // What a browser on this host could be made to ask for under another site's name.
            _ if !is_plain_host(headers) => Err(Refused::Host),
            _ => Ok(()),
        }
    }

    fn refuse(&self, refused: Refused) -> Response<Body> {
        let (status, text, reason) = match refused {
            Refused::PageOff => return plain(StatusCode::NOT_FOUND, PAGE_OFF),
            Refused::Address => (
                StatusCode::FORBIDDEN,
                "this address may not read it\n",
                Reason::AddressNotAllowed,
            ),
            Refused::Host => (
                StatusCode::FORBIDDEN,
                "ask for it by its address\n",
                Reason::HostNotAllowed,
            ),
            Refused::TokenMissing => (
                StatusCode::UNAUTHORIZED,
                "gateway.admin.token opens this\n",
                Reason::CredentialMissing,
            ),
            Refused::TokenUnknown => (
                StatusCode::UNAUTHORIZED,
                "not the token\n",
                Reason::CredentialUnknown,
            ),
        };
        self.gateway.figures.unauthorized.add();
        let mut event = Event::new(EventKind::Auth, "admin", Outcome::Deny, reason.as_str());
        event.rule = Some("gateway.admin".to_owned());
        event.generation = self.gateway.snapshot.load().generation();
        event.source = Some(self.source);
        event.port = Some(self.port);
        self.gateway.link.report(event);
        let mut response = plain(status, text);
        if status == StatusCode::UNAUTHORIZED {
            response.headers_mut().insert(
                WWW_AUTHENTICATE,
                HeaderValue::from_static("Basic realm=\"clawsec\", charset=\"UTF-8\""),
            );
        }
        response
    }
}

/// The token of `Authorization`: a bearer's, or the password that a browser asks for.
fn presented(headers: &HeaderMap) -> Option<String> {
    let value = headers.get(AUTHORIZATION)?.to_str().ok()?;
    let (scheme, rest) = value.split_once(' ')?;
    if scheme.eq_ignore_ascii_case("bearer") {
        return Some(rest.trim().to_owned());
    }
    if !scheme.eq_ignore_ascii_case("basic") {
        return None;
    }
    let pair = String::from_utf8(STANDARD.decode(rest.trim()).ok()?).ok()?;
    pair.split_once(':').map(|(_, token)| token.to_owned())
}

fn is_the(token: &str, expected: &KeyDigest) -> bool {
    use aws_lc_rs::{constant_time, digest};
    let digest = digest::digest(&digest::SHA256, token.as_bytes());
    constant_time::verify_slices_are_equal(digest.as_ref(), &expected.0).is_ok()
}

/// Whether the request names this host by an address or as `localhost`, not by a name that
/// somebody's DNS server gave it.
fn is_plain_host(headers: &HeaderMap) -> bool {
    let host = headers.get(HOST).and_then(|host| host.to_str().ok());
    let name = http::host_name(host.unwrap_or_default());
    name.eq_ignore_ascii_case("localhost")
        || name.trim_matches(['[', ']']).parse::<IpAddr>().is_ok()
}

fn shown(written: &Written) -> Response<Body> {
    let status = StatusCode::from_u16(written.status).unwrap_or(StatusCode::OK);
    let mut response = plain(status, &written.text);
    let headers = response.headers_mut();
    if let Ok(kind) = HeaderValue::from_str(&written.content_type) {
        headers.insert(CONTENT_TYPE, kind);
    }
    let policy = written.security_policy.as_deref().unwrap_or(NOTHING);
    if let Ok(policy) = HeaderValue::from_str(policy) {
        headers.insert(CONTENT_SECURITY_POLICY, policy);
    }
    response
}

pub(super) fn plain(status: StatusCode, text: &str) -> Response<Body> {
    let mut response = Response::new(body::full(text.to_owned()));
    *response.status_mut() = status;
    for (name, value) in [
        (CONTENT_TYPE, "text/plain; charset=utf-8"),
        (CACHE_CONTROL, "no-store"),
        (X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (REFERRER_POLICY, "no-referrer"),
        (CONTENT_SECURITY_POLICY, NOTHING),
    ] {
        response
            .headers_mut()
            .insert(name, HeaderValue::from_static(value));
    }
    response
}

const SMALL: Small = Small {
    name: "gateway.admin.metrics",
    // A collector, a prober and a few browsers.
    most: 16,
    life: Duration::from_mins(5),
};
const NOT_FOUND: &str = "there is /metrics, /healthz, /readyz and the page at /\n";
const PAGE_OFF: &str = "the page needs gateway.admin.token; without one, root can read it at the \
                        admin socket: curl --unix-socket /run/clawsec/admin.sock http://clawsec/\n";
/// A document that is no page loads nothing.
const NOTHING: &str = "default-src 'none'; frame-ancestors 'none'";

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(pairs: &[(hyper::header::HeaderName, &str)]) -> HeaderMap {
        let value = |text: &str| HeaderValue::from_str(text).unwrap();
        let pairs = pairs.iter().map(|(name, text)| (name.clone(), value(text)));
        pairs.collect()
    }

    #[test]
    fn tokens_are_read_from_bearer_and_basic() {
        let rows = [
            ("Bearer abc", Some("abc")),
            ("bearer  abc", Some("abc")),
            // «any:the:token»
            ("Basic YW55OnRoZTp0b2tlbg==", Some("the:token")),
            ("Basic !!!", None),
            ("Digest abc", None),
            ("abc", None),
        ];
        for (value, expected) in rows {
            let found = presented(&headers(&[(AUTHORIZATION, value)]));
            assert_eq!(found.as_deref(), expected, "{value}");
        }
        assert_eq!(presented(&HeaderMap::new()), None);
    }

    #[test]
    fn a_name_of_somebody_elses_is_no_plain_host() {
        let rows = [
            ("127.0.0.1:9464", true),
            ("[::1]:9464", true),
            ("localhost", true),
            ("LOCALHOST:9464", true),
            ("rebound.example:9464", false),
            ("127.0.0.1.rebound.example", false),
            ("", false),
        ];
        for (host, expected) in rows {
            assert_eq!(is_plain_host(&headers(&[(HOST, host)])), expected, "{host}");
        }
    }
}
