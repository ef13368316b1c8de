//! Canvas pages: an agent wrote them, so that they run without an origin and reach neither the
//! Control UI's storage nor its cookies.
//!
//! Such a page is sent no cookie for its parts. Whoever is signed in and visits one is therefore
//! moved to a path with a seal in it, from which the page's relative parts come, too. The seal
//! opens canvas pages alone: the page itself can read it.

use futures_util::FutureExt as _;
use http_body_util::BodyExt as _;
use hyper::body::Body as _;
use hyper::header::{
    ACCESS_CONTROL_ALLOW_ORIGIN, CACHE_CONTROL, CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_TYPE,
    HeaderMap, HeaderValue, LOCATION, REFERRER_POLICY,
};
use hyper::{Response, StatusCode, Uri};

use super::CONTENT_POLICY;
use super::cookie::Opens;
use crate::gateway::body::{self, Body};
use crate::gateway::facts::PRODUCTS;
use crate::gateway::limits::Counted;
use crate::gateway::record::Exchange;
use crate::gateway::refusal::Refusal;

const PLACE: &str = "/__clawsec/canvas/";

/// Whether the path is one of pages that an agent wrote, whatever the product is called.
pub(super) fn is_canvas(path: &str) -> bool {
    PRODUCTS.iter().any(|product| {
        path.strip_prefix("/__")
            .and_then(|rest| rest.strip_prefix(product)?.strip_prefix("__/"))
            .is_some_and(|rest| {
                let first = rest.split('/').next().unwrap_or_default();
                matches!(first, "canvas" | "a2ui" | "cap")
            })
    })
}

/// The socket by which a canvas page hears that its files have changed.
pub(in crate::gateway) fn is_live_reload(path: &str) -> bool {
    PRODUCTS.iter().any(|product| {
        path.strip_prefix("/__")
            .and_then(|rest| rest.strip_prefix(product))
            == Some("/ws")
    })
}

/// Whether the path holds a seal, of whatever worth.
pub(in crate::gateway) fn is_placed(path: &str) -> bool {
    path.starts_with(PLACE)
}

/// The seal in a path, and the canvas' own path after it.
pub(super) fn sealed(path: &str) -> Option<(&str, &str)> {
    let rest = path.strip_prefix(PLACE)?;
    let (seal, inner) = rest.split_at(rest.find('/')?);
    (is_canvas(inner) || is_live_reload(inner)).then_some((seal, inner))
}

/// The path as the gateway behind knows it, and as it may be written into a record.
pub(in crate::gateway) fn inner(path: &str) -> &str {
    match sealed(path) {
        Some((_, inner)) => inner,
        None if is_placed(path) => PLACE,
        None => path,
    }
}

/// Moves whoever is signed in to where a canvas page and its parts can be had.
pub(in crate::gateway) fn place(exchange: &Exchange, counted: &Counted) -> Option<Response<Body>> {
    let request = &counted.request;
    let path = request.uri().path();
    let presented = exchange.connection.presented(request.headers());
    if !is_canvas(inner(path)) || !matches!(presented, Ok(None)) {
        return None;
    }
    if let Some((seal, _)) = sealed(path)
        && super::signed_in(exchange, Opens::Canvas, Some(seal)).is_ok()
    {
        return None;
    }
    let (_, sign_in) = super::by_cookie(exchange, request.headers()).ok()?;
    let seal = exchange.gateway().seals.seal(Opens::Canvas, &sign_in)?;
    let query = request.uri().query();
    let query = query.map_or_else(String::new, |query| format!("?{query}"));
    let place = HeaderValue::from_str(&format!("{PLACE}{seal}{}{query}", inner(path))).ok()?;
    let mut response = body::response(StatusCode::FOUND, String::new(), &exchange.id);
    let headers = response.headers_mut();
    headers.insert(LOCATION, place);
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(REFERRER_POLICY, HeaderValue::from_static("no-referrer"));
    Some(response)
}

/// The request without clawsec's part of its path.
pub(in crate::gateway) fn unsealed(mut counted: Counted) -> Counted {
    let uri = counted.request.uri();
    if let Some((_, inner)) = sealed(uri.path()) {
        let query = uri.query();
        let query = query.map_or_else(String::new, |query| format!("?{query}"));
        if let Ok(inner) = format!("{inner}{query}").parse::<Uri>() {
            *counted.request.uri_mut() = inner;
        }
    }
    counted
}

/// clawsec's part of the path.
pub(in crate::gateway) fn place_of(counted: &Counted) -> Option<String> {
    let (seal, _) = sealed(counted.request.uri().path())?;
    Some(format!("{PLACE}{seal}"))
}

/// Leads the page's own live reload, which the gateway wrote into it with a path of its own, to
/// where it is let through.
pub(in crate::gateway) async fn prepare(
    exchange: &Exchange,
    place: &str,
    response: Response<Body>,
) -> Result<Response<Body>, Refusal> {
    let content_type = response.headers().get(CONTENT_TYPE);
    let html = content_type.is_some_and(|kind| kind.as_bytes().starts_with(b"text/html"));
    let plain = !response.headers().contains_key(CONTENT_ENCODING);
    let short = response.body().size_hint().exact();
    if !html || !plain || !short.is_some_and(|bytes| (1..=PAGE_BYTES).contains(&bytes)) {
        return Ok(response);
    }
    let (mut parts, body) = response.into_parts();
    // Boxed, since the compiler does not see that the future of a boxed body can be sent.
    let whole = body.collect().boxed().await;
    let whole = whole.map_err(|error| Refusal::unreachable(error.to_string()))?;
    let mut page = whole.to_bytes();
    if let Ok(text) = std::str::from_utf8(&page) {
        let led = PRODUCTS.iter().fold(text.to_owned(), |text, product| {
            let path = format!("/__{product}/ws\"");
            text.replace(&format!("\"{path}"), &format!("\"{place}{path}"))
        });
        page = led.into();
    }
    parts.headers.remove(CONTENT_LENGTH);
    let body = exchange.connection.progress.watch(body::full(page), None);
    Ok(Response::from_parts(parts, body))
}

/// Larger pages do not reload themselves.
const PAGE_BYTES: u64 = 2 * 1024 * 1024;

/// Takes the page's origin away.
pub(super) fn confine(path: &str, headers: &mut HeaderMap) {
    headers.insert(REFERRER_POLICY, HeaderValue::from_static("no-referrer"));
    headers.append(
        CONTENT_POLICY,
        HeaderValue::from_static("sandbox allow-scripts"),
    );
    if sealed(path).is_some() {
        // A page without an origin may then load its own modules, fonts and data; others do not
        // know the seal.
        let any = HeaderValue::from_static("*");
        headers.insert(ACCESS_CONTROL_ALLOW_ORIGIN, any);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seal_stands_before_a_canvas_path_alone() {
        let rows = [
            (
                "/__clawsec/canvas/1.a.b.me/__clawdbot__/canvas/x.html",
                Some("/__clawdbot__/canvas/x.html"),
            ),
            (
                "/__clawsec/canvas/1.a.b.me/__openclaw__/cap/t/x",
                Some("/__openclaw__/cap/t/x"),
            ),
            ("/__clawsec/canvas/1.a.b.me/v1/models", None),
            ("/__clawsec/canvas/1.a.b.me/", None),
            ("/__clawsec/canvas/1.a.b.me", None),
            (
                "/__clawsec/canvas/1.a.b.me/__clawdbot/ws",
                Some("/__clawdbot/ws"),
            ),
            ("/__clawdbot__/canvas/x.html", None),
        ];
        for (path, expected) in rows {
            assert_eq!(sealed(path).map(|(_, inner)| inner), expected, "{path}");
            assert!(
                !inner(path).contains("1.a.b.me"),
                "a seal in a record: {path}"
            );
        }
    }

    #[test]
    fn only_the_live_reload_of_a_product_is_one() {
        let rows = [
            ("/__clawdbot/ws", true),
            ("/__moltbot/ws", true),
            ("/__openclaw/ws", true),
            ("/__openclaw__/ws", false),
            ("/__openclaw/ws/x", false),
            ("/ws", false),
        ];
        for (path, expected) in rows {
            assert_eq!(is_live_reload(path), expected, "{path}");
        }
    }
}
