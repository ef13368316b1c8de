//! The Control UI's pages for browsers, which cannot send a key for a page and its assets.
//!
//! Invariant: what a browser gets by cookie, or as a visitor, it gets without clawsec's upstream
//! credential, and by `GET` alone: whatever the gateway keeps behind its own token stays there.

mod canvas;
mod cookie;
mod page;
mod sign_in;

use hyper::header::{ACCEPT, CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue};
use hyper::{Method, Request, Response, Uri};

pub(super) use self::canvas::{
    inner, is_live_reload, is_placed, place, place_of, prepare, unsealed,
};
use self::cookie::Opens;
pub(super) use self::cookie::{Seals, SignIn, strip};
pub(super) use self::page::dress;
use self::page::{Refresh, Shows};
pub(super) use self::sign_in::answer;
use super::auth::{self, Presented};
use super::body::Body;
use super::facts::{Cargo, Load};
use super::limits::Counted;
use super::received::Received;
use super::record::Exchange;
use super::refusal::Refusal;
use super::route::Route;
use super::shared::unix_now;
use super::upstream::{self, Credential};
use crate::config::UiAccess;
use crate::policy::{Denial, Principal, Reason};

const SIGN_IN: &str = "/__clawsec/sign-in";
const SIGN_OUT: &str = "/__clawsec/sign-out";

/// The key whose holder signed in, by a seal of clawsec's.
fn signed_in(
    exchange: &Exchange,
    opens: Opens,
    seal: Option<&str>,
) -> Result<(Principal, SignIn), Denial> {
    let seal = seal.ok_or_else(|| Denial::new(Reason::CredentialMissing, "security.auth"))?;
    let credentials = &exchange.snapshot.policy().credentials;
    let seals = &exchange.gateway().seals;
    let sign_in = seals
        .open(
            opens,
            seal,
            |id| credentials.digests_of(id).collect(),
            unix_now(),
        )
        .ok_or_else(|| Denial::new(Reason::CredentialExpired, RULE))?;
    let presented = Presented::sealed(sign_in.key);
    let principal = auth::authenticate(&exchange.snapshot, Some(presented))?;
    Ok((principal, sign_in))
}

/// The same, by the cookie.
fn by_cookie(exchange: &Exchange, headers: &HeaderMap) -> Result<(Principal, SignIn), Denial> {
    let seal = cookie::presented(headers, exchange.snapshot.tls.is_some());
    signed_in(exchange, Opens::Pages, seal.as_deref())
}

/// Who asks for a page without a key in a header.
pub(super) fn reader(
    exchange: &Exchange,
    request: &Request<Received>,
) -> Result<(Principal, SignIn), Denial> {
    match canvas::sealed(request.uri().path()) {
        Some((seal, _)) => signed_in(exchange, Opens::Canvas, Some(seal)),
        None => by_cookie(exchange, request.headers()),
    }
}

/// Whether `gateway.ui` gives this page to whoever may connect: the Control UI's own files, and
/// nothing that says something of agents or sessions.
pub(super) fn is_open(exchange: &Exchange, counted: &Counted) -> bool {
    let request = &counted.request;
    let presented = exchange.connection.presented(request.headers());
    exchange.snapshot.config.gateway.ui == UiAccess::Open
        && matches!(presented, Ok(None))
        && is_same_for_all(request.uri().path())
}

fn is_same_for_all(path: &str) -> bool {
    let mut segments = path.split('/');
    !path.starts_with("/__") && !segments.any(|segment| PRIVATE.contains(&segment))
}

/// Segments under which a gateway answers with more than its own files.
const PRIVATE: [&str; 8] = [
    "avatar", "sessions", "api", "plugins", "media", "rpc", "share", "oauth",
];

/// Gives a visitor a page, without any credential.
pub(super) async fn visit(
    exchange: &mut Exchange,
    counted: Counted,
) -> Result<Response<Body>, Refusal> {
    let (parts, body) = counted.request.into_parts();
    let permit = exchange.snapshot.policy().decide_for_visitor(RULE);
    let cargo = Cargo {
        parts,
        load: Load::Streamed(body),
    };
    let response = upstream::forward(exchange, permit, cargo, Credential::Nobodys).await?;
    exchange.allowed(RULE);
    Ok(response)
}

const RULE: &str = "gateway.ui";

/// A refusal in the form of whoever asked: a person who opened a page gets the sign-in page.
pub(super) fn refusal(counted: &Counted, refusal: Refusal) -> Refusal {
    let request = &counted.request;
    // An open tab goes on asking for a while after its sign-in has ended, and a page without an
    // origin asks for its icon without a cookie: browsers that bring no key guess none. The
    // request limit counts them all the same.
    let asked = refusal.reason == Reason::CredentialMissing;
    let ended = refusal.rule.as_deref() == Some(RULE);
    let is_page = counted.route == Route::Page;
    let refusal = if ended || asked && is_page && is_browser(request) {
        refusal.lenient()
    } else {
        refusal
    };
    if !is_page || !is_navigation(request) {
        return refusal;
    }
    let next = next_of(request.uri());
    let (words, refresh) = match refusal.reason {
        Reason::CredentialMissing if is_from_elsewhere(request.headers()) => {
            (None, Refresh::AtOnce)
        }
        Reason::CredentialMissing => (None, Refresh::Never),
        reason => (Some(words(reason, refusal.retry_after_ms)), Refresh::Never),
    };
    let again = words.as_deref();
    let shows = Shows::Form { again, next: &next };
    refusal.on_page(page::render(shows, refresh))
}

/// What went wrong, for a person.
fn words(reason: Reason, retry_after_ms: Option<u64>) -> String {
    match reason {
        Reason::CredentialExpired => "The sign-in has ended. Please sign in again.".to_owned(),
        Reason::CredentialMissing => "Please enter a key.".to_owned(),
        Reason::RateLimited => format!(
            "Too many attempts. Please try again in {} seconds.",
            retry_after_ms.unwrap_or(1000).div_ceil(1000).max(1)
        ),
        Reason::OriginNotAllowed => {
            "This form came from another site. Please enter the key here.".to_owned()
        }
        Reason::ScopeMissing | Reason::AgentNotAllowed => {
            "This key may not open these pages.".to_owned()
        }
        _ => "This key is not valid.".to_owned(),
    }
}

/// Whether the request says that a browser made it.
fn is_browser(request: &Request<Received>) -> bool {
    is_navigation(request) || request.headers().contains_key("sec-fetch-mode")
}

/// Whether a browser shows the answer to a person.
fn is_navigation(request: &Request<Received>) -> bool {
    let headers = request.headers();
    let says = |name: &str, value: &str| headers.get(name).is_none_or(|found| found == value);
    let wants_html = headers
        .get_all(ACCEPT)
        .iter()
        .any(|value| value.to_str().is_ok_and(|text| text.contains("text/html")));
    matches!(*request.method(), Method::GET | Method::HEAD)
        && wants_html
        && says("sec-fetch-mode", "navigate")
}

fn is_from_elsewhere(headers: &HeaderMap) -> bool {
    let site = headers.get("sec-fetch-site");
    site.is_some_and(|site| site == "cross-site" || site == "same-site")
}

/// Where a person wanted to go.
fn next_of(uri: &Uri) -> String {
    let query = uri.query();
    let query = query.map_or_else(String::new, |query| format!("?{query}"));
    let next = format!("{}{query}", inner(uri.path()));
    sign_in::own_path(&next).unwrap_or("/").to_owned()
}

/// Keeps a page in its place: what an agent wrote runs without an origin, so that it reaches
/// neither the Control UI's storage nor its cookies; other pages stand in no frame of strangers.
pub(super) fn confine(path: &str, origins: &[String], headers: &mut HeaderMap) {
    let avatar = path.split('/').any(|segment| segment == "avatar");
    if avatar {
        headers.insert(NO_SNIFF, HeaderValue::from_static("nosniff"));
    }
    if canvas::is_canvas(inner(path)) || avatar {
        return canvas::confine(path, headers);
    }
    let content_type = headers.get(CONTENT_TYPE);
    let html = content_type.is_some_and(|kind| kind.as_bytes().starts_with(b"text/html"));
    if !html || headers.contains_key("x-frame-options") {
        return;
    }
    let listed = origins.iter().map(String::as_str);
    let ancestors: Vec<&str> = std::iter::once("'self'").chain(listed).collect();
    let policy = format!("frame-ancestors {}", ancestors.join(" "));
    if let Ok(policy) = HeaderValue::from_str(&policy) {
        // Beside the gateway's own: browsers apply every one.
        headers.append(CONTENT_POLICY, policy);
    }
}

const CONTENT_POLICY: HeaderName = hyper::header::CONTENT_SECURITY_POLICY;
const NO_SNIFF: HeaderName = hyper::header::X_CONTENT_TYPE_OPTIONS;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn visitors_get_what_is_the_same_for_all() {
        let rows = [
            ("/", true),
            ("/assets/index.js", true),
            ("/base/assets/index.js", true),
            ("/chat", true),
            ("/avatar/main", false),
            ("/base/avatar/main", false),
            ("/sessions/main/history", false),
            ("/base/api/chat/media/outgoing/x", false),
            ("/__openclaw__/assistant-media", false),
            ("/__clawdbot__/canvas/", false),
        ];
        for (path, expected) in rows {
            assert_eq!(is_same_for_all(path), expected, "{path}");
        }
    }

    #[test]
    fn what_an_agent_wrote_has_no_origin() {
        let rows = [
            ("/__clawdbot__/canvas/", Some("sandbox allow-scripts")),
            (
                "/__openclaw__/canvas/documents/x/index.html",
                Some("sandbox allow-scripts"),
            ),
            ("/__moltbot__/a2ui/", Some("sandbox allow-scripts")),
            ("/__openclaw__/cap/token/x", Some("sandbox allow-scripts")),
            ("/avatar/main", Some("sandbox allow-scripts")),
            ("/", Some("frame-ancestors 'self' https://home.example")),
        ];
        for (path, expected) in rows {
            let mut headers = HeaderMap::new();
            headers.insert(
                CONTENT_TYPE,
                HeaderValue::from_static("text/html; charset=utf-8"),
            );
            confine(path, &["https://home.example".to_owned()], &mut headers);
            let found = headers
                .get(CONTENT_POLICY)
                .map(|value| value.to_str().unwrap());
            assert_eq!(found, expected, "{path}");
        }
        let mut headers = HeaderMap::new();
        confine("/v1/models", &[], &mut headers);
        assert!(headers.is_empty());
    }
}
