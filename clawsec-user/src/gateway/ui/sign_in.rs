//! Signing in and out: a form in, a cookie out.
//!
//! A wrong key is a failed login as anywhere else: limited, recorded, counted towards a ban.

use hyper::header::{HeaderName, HeaderValue, LOCATION, SET_COOKIE};
use hyper::{Method, Response, StatusCode, Uri};

use super::cookie::{self, Opens, SignIn};
use super::page::{self, Refresh, Shows};
use super::{RULE, SIGN_IN, SIGN_OUT, words};
use crate::event::EventKind;
use crate::gateway::auth::{self, Presented};
use crate::gateway::body::{self, Body};
use crate::gateway::limits::{self, Counted};
use crate::gateway::record::Exchange;
use crate::gateway::refusal::Refusal;
use crate::gateway::shared::unix_now;
use crate::gateway::{facts, http, origin};
use crate::policy::{Request, RequestFacts};

/// A key and a path; keys are far shorter.
const FORM_BYTES: usize = 16 * 1024;

/// Answers what is asked of clawsec's own pages.
pub(in crate::gateway) async fn answer(
    exchange: &mut Exchange,
    counted: Counted,
) -> Result<Response<Body>, Refusal> {
    let request = &counted.request;
    let reads = matches!(*request.method(), Method::GET | Method::HEAD);
    match request.uri().path() {
        SIGN_IN if reads => Ok(shown(exchange, &counted)),
        SIGN_IN if *request.method() == Method::POST => sign_in(exchange, counted).await,
        SIGN_IN => Err(Refusal::method("GET, HEAD, POST")),
        SIGN_OUT if *request.method() == Method::POST => sign_out(exchange, &counted),
        SIGN_OUT => Err(Refusal::method("POST")),
        _ => Err(Refusal::not_found()),
    }
}

fn shown(exchange: &Exchange, counted: &Counted) -> Response<Body> {
    let reader = super::reader(exchange, &counted.request);
    let shows = match &reader {
        Ok((principal, _)) => Shows::SignedIn { id: principal.id() },
        Err(_denial) => Shows::Form {
            again: None,
            next: "/",
        },
    };
    own_page(exchange, page::render(shows, Refresh::Never))
}

fn own_page(exchange: &Exchange, text: String) -> Response<Body> {
    let mut response = body::response(StatusCode::OK, text, &exchange.id);
    page::dress(response.headers_mut());
    response
}

/// Checks the key in a form of ours, and answers with its cookie.
async fn sign_in(exchange: &mut Exchange, counted: Counted) -> Result<Response<Body>, Refusal> {
    exchange.note.kind = EventKind::Auth;
    exchange.note.action = "sign_in";
    let again = |refusal: Refusal, next: &str| {
        let words = words(refusal.reason, refusal.retry_after_ms);
        let again = Some(words.as_str());
        refusal.on_page(page::render(Shows::Form { again, next }, Refresh::Never))
    };
    limits::spend(exchange).map_err(|refusal| again(refusal, "/"))?;
    let host = http::host(&counted.request)?;
    let (parts, body) = counted.request.into_parts();
    origin::check_form(&parts.headers, &host).map_err(|refusal| again(refusal, "/"))?;
    let held = facts::hold_body(exchange, body, FORM_BYTES).await?;
    let form = Form::parse(&held.bytes).ok_or_else(|| Refusal::malformed("not the form"))?;
    let next = form.next();

    let presented = (!form.key.is_empty()).then(|| Presented::new(&form.key));
    let principal = auth::authenticate(&exchange.snapshot, presented)
        .map_err(|denial| again(denial.into(), next))?;
    exchange.note.principal(&principal);
    // A key that may not read pages is told so here, and not by each of them.
    let permit = exchange
        .decide(&principal, RequestFacts::new(Request::Route))
        .map_err(|denial| again(denial.into(), next))?;

    let digest = presented.map(Presented::digest);
    let sign_in = digest
        .and_then(|digest| SignIn::new(principal.id(), digest, unix_now()))
        .ok_or_else(Refusal::overloaded)?;
    let over_tls = exchange.snapshot.tls.is_some() || is_https(&parts.headers);
    let mut response = body::response(StatusCode::SEE_OTHER, String::new(), &exchange.id);
    page::dress(response.headers_mut());
    let sealed = exchange.gateway().seals.seal(Opens::Pages, &sign_in);
    let sealed = sealed.ok_or_else(Refusal::overloaded)?;
    if let Some(cookie) = cookie::set(&sealed, over_tls) {
        response.headers_mut().insert(SET_COOKIE, cookie);
    }
    let location = HeaderValue::from_str(next);
    let location = location.unwrap_or(HeaderValue::from_static("/"));
    response.headers_mut().insert(LOCATION, location);
    exchange.allowed(permit.rule());
    Ok(response)
}

/// Ends a sign-in everywhere, and what the Control UI keeps in this browser.
fn sign_out(exchange: &mut Exchange, counted: &Counted) -> Result<Response<Body>, Refusal> {
    exchange.note.kind = EventKind::Auth;
    exchange.note.action = "sign_out";
    let request = &counted.request;
    let host = http::host(request)?;
    limits::spend(exchange)?;
    origin::check_form(request.headers(), &host)?;
    let found = super::by_cookie(exchange, request.headers());
    if let Ok((principal, sign_in)) = found {
        exchange.gateway().seals.end(&sign_in, unix_now());
        exchange.note.principal(&principal);
        exchange.allowed(RULE);
    }
    let over_tls = exchange.snapshot.tls.is_some() || is_https(request.headers());
    let text = page::render(Shows::SignedOut, Refresh::Never);
    let mut response = own_page(exchange, text);
    if let Some(cookie) = cookie::set("", over_tls) {
        response.headers_mut().insert(SET_COOKIE, cookie);
    }
    // Not "cookies": that would take those of every other port and name of this host.
    response.headers_mut().insert(
        HeaderName::from_static("clear-site-data"),
        HeaderValue::from_static("\"cache\", \"storage\""),
    );
    Ok(response)
}

/// A proxy in front may end TLS for a plain listener; the page's own origin says so.
fn is_https(headers: &hyper::HeaderMap) -> bool {
    let origin = headers.get(hyper::header::ORIGIN);
    origin.is_some_and(|origin| origin.as_bytes().starts_with(b"https://"))
}

struct Form {
    key: String,
    next: String,
}

impl Form {
    fn parse(bytes: &[u8]) -> Option<Self> {
        let text = std::str::from_utf8(bytes).ok()?;
        let mut form = Self {
            key: String::new(),
            next: String::new(),
        };
        for pair in text.split('&') {
            let (name, value) = pair.split_once('=')?;
            let value = String::from_utf8(http::unescape(value)).ok()?;
            match name {
                // Pasted keys bring blanks along; no key has any.
                "key" => value.trim().clone_into(&mut form.key),
                "next" => form.next = value,
                _ => return None,
            }
        }
        Some(form)
    }

    fn next(&self) -> &str {
        own_path(&self.next).unwrap_or("/")
    }
}

/// `text` if it is a path on this host that no browser takes for another host's.
pub(super) fn own_path(text: &str) -> Option<&str> {
    let plain = text
        .bytes()
        .all(|byte| matches!(byte, 0x21..=0x7e) && byte != b'\\');
    let uri: Uri = text.parse().ok()?;
    let own = text.starts_with('/')
        && !text.starts_with("//")
        && uri.authority().is_none()
        && !uri.path().starts_with("/__clawsec");
    (plain && own).then_some(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_paths_of_this_host_are_gone_to() {
        let rows = [
            ("/", true),
            ("/chat?session=agent%3Amain%3Amain&x=//evil.example", true),
            ("", false),
            ("//evil.example", false),
            ("/\\evil.example", false),
            ("/\t/evil.example", false),
            ("https://evil.example/", false),
            ("evil.example", false),
            ("javascript:alert(1)", false),
            ("/x\r\nSet-Cookie: a=b", false),
            ("/ü", false),
            ("/__clawsec/sign-out", false),
        ];
        for (path, expected) in rows {
            assert_eq!(own_path(path).is_some(), expected, "{path:?}");
        }
    }

    #[test]
    fn a_form_is_read_as_browsers_write_it() {
        let form = Form::parse(b"next=%2Fchat%3Fa%3D1&key=+sk-1%2B2%0D%0A").unwrap();
        assert_eq!((form.key.as_str(), form.next()), ("sk-1+2", "/chat?a=1"));
        assert!(Form::parse(b"key=a&else=b").is_none());
        assert!(Form::parse(b"nonsense").is_none());
        assert_eq!(Form::parse(b"key=a").unwrap().next(), "/");
    }
}
