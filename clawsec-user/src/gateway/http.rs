//! HTTP with its gaps closed: limits for hyper, and the forms of a request that proxies and
//! servers are known to read differently, refused before anything else looks at them.
//!
//! An HTTP/2 request is brought into the form of an HTTP/1.1 one here; nothing after this knows
//! which it was.

use hyper::body::Body as _;
use hyper::header::{
    CONNECTION, COOKIE, HOST, HeaderMap, HeaderName, HeaderValue, TE, TRAILER, TRANSFER_ENCODING,
    UPGRADE,
};
use hyper::server::conn::{http1, http2};
use hyper::{Method, Request, Uri, Version};
use hyper_util::rt::TokioTimer;

use super::head::HeadForm;
use super::received::Received;
use super::refusal::Refusal;
use super::shared::{Deadlines, Tracked};
use crate::policy::{Denial, Reason};

const MAX_HEADERS: usize = 64;
const MAX_HEAD_BYTES: usize = 32 * 1024;
const MAX_HEAD_BYTES_H2: u32 = 32 * 1024;

/// A request that has one reading, for a host that is served here. Its URI is in origin form.
#[derive(Debug)]
pub(super) struct Checked {
    pub(super) request: Request<Received>,
    /// `Upgrade: websocket`.
    pub(super) upgrade: bool,
}

/// hyper's HTTP/2 server with limits in place.
///
/// What one connection can make clawsec hold: 100 requests, 1 MiB of bodies nobody took yet, and
/// for each answer 64 KiB. The library itself bounds CONTINUATION frames by the size of the head,
/// and answers one SETTINGS or PING before it reads the next.
pub(super) fn server_h2(deadlines: &Deadlines, tasks: Tracked) -> http2::Builder<Tracked> {
    let mut builder = http2::Builder::new(tasks);
    builder
        .timer(TokioTimer::new())
        .max_concurrent_streams(100)
        .max_header_list_size(MAX_HEAD_BYTES_H2)
        .initial_stream_window_size(256 * 1024)
        .initial_connection_window_size(1024 * 1024)
        .max_frame_size(16 * 1024)
        .max_send_buf_size(64 * 1024)
        // Rapid reset (CVE-2023-44487): streams that were reset before anybody served them, and
        // resets that the client provoked.
        .max_pending_accept_reset_streams(20)
        .max_local_error_reset_streams(128)
        .keep_alive_interval(deadlines.ping)
        .keep_alive_timeout(deadlines.ping);
    builder
}

/// hyper's server with limits and deadlines in place.
pub(super) fn server(deadlines: &Deadlines) -> http1::Builder {
    let mut builder = http1::Builder::new();
    builder
        .timer(TokioTimer::new())
        // Covers the wait for the first byte and the idle time between requests too.
        .header_read_timeout(deadlines.head)
        .max_headers(MAX_HEADERS)
        .max_header_size(MAX_HEAD_BYTES)
        .max_buf_size(64 * 1024);
    builder
}

/// Refuses what two servers could read in two ways, and hosts that are not served.
pub(super) fn check(
    mut request: Request<Received>,
    form: HeadForm,
    hosts: &[String],
) -> Result<Checked, Refusal> {
    if form == HeadForm::Framed {
        unframe(&mut request)?;
    } else if request.uri().authority().is_some() && *request.method() != Method::CONNECT {
        return Err(Refusal::malformed("the target is not a path"));
    }
    let headers = request.headers();
    match form {
        HeadForm::Ambiguous(why) => return Err(Refusal::malformed(why)),
        HeadForm::Unseen if headers.contains_key(TRANSFER_ENCODING) => {
            return Err(Refusal::malformed(
                "a pipelined request with Transfer-Encoding",
            ));
        }
        HeadForm::Plain | HeadForm::Unseen | HeadForm::Framed => {}
    }
    if matches!(*request.method(), Method::CONNECT | Method::TRACE) {
        return Err(Refusal::malformed("this method is not served"));
    }
    check_transfer_encoding(headers)?;
    let host = host(&request)?;
    check_target(request.uri(), &host)?;
    if !hosts.is_empty() && !hosts.iter().any(|allowed| *allowed == host_name(&host)) {
        return Err(Denial::new(Reason::HostNotAllowed, "gateway.hosts").into());
    }
    let upgrade = wants_websocket(&request)?;
    if !upgrade {
        // Here, and not on the way upstream: a header that `Connection` names would otherwise
        // be judged and then not be sent.
        strip_hop_by_hop(request.headers_mut());
    }
    *request.uri_mut() = origin_form(request.uri())?;
    Ok(Checked { request, upgrade })
}

/// Gives an HTTP/2 request the form of an HTTP/1.1 one, if it has one reading.
fn unframe(request: &mut Request<Received>) -> Result<(), Refusal> {
    if request.headers().len() > MAX_HEADERS {
        return Err(Refusal::head_too_large());
    }
    let headers = request.headers();
    let hop = [
        CONNECTION.as_str(),
        "transfer-encoding",
        "upgrade",
        "keep-alive",
    ];
    if hop.iter().any(|name| headers.contains_key(*name))
        || headers.contains_key("proxy-connection")
    {
        return Err(Refusal::malformed("a header of HTTP/1.1 connections"));
    }
    if headers
        .get_all(TE)
        .iter()
        .any(|te| te.as_bytes() != b"trailers")
    {
        return Err(Refusal::malformed("a TE other than trailers"));
    }
    if request.uri().scheme_str() != Some("https") && *request.method() != Method::CONNECT {
        return Err(Refusal::malformed("the scheme is not https"));
    }
    let authority = request
        .uri()
        .authority()
        .map(|name| name.as_str().to_owned());
    match (authority, headers.contains_key(HOST)) {
        (None, false) => return Err(Refusal::malformed("no authority")),
        // `host` refuses two of them, and `check_target` one that differs.
        (_, true) => {}
        (Some(authority), false) => {
            let host = HeaderValue::from_str(&authority)
                .map_err(|_invalid| Refusal::malformed("the authority is not a host"))?;
            request.headers_mut().insert(HOST, host);
        }
    }
    // HTTP/2 may part a cookie; HTTP/1.1 may not (RFC 9113, 8.2.3).
    let cookies: Vec<&[u8]> = request
        .headers()
        .get_all(COOKIE)
        .iter()
        .map(HeaderValue::as_bytes)
        .collect();
    if cookies.len() > 1
        && let Ok(joined) = HeaderValue::from_bytes(&cookies.join(&b"; "[..]))
    {
        request.headers_mut().insert(COOKIE, joined);
    }
    Ok(())
}

/// The authority a request is for, in lower case; empty for HTTP/1.0 without `Host`.
pub(super) fn host(request: &Request<Received>) -> Result<String, Refusal> {
    let mut values = request.headers().get_all(HOST).iter();
    let first = values.next();
    if values.next().is_some() {
        return Err(Refusal::malformed("more than one Host"));
    }
    let Some(value) = first else {
        return if request.version() == Version::HTTP_10 {
            Ok(String::new())
        } else {
            Err(Refusal::malformed("no Host"))
        };
    };
    let host = value
        .to_str()
        .map_err(|_not_ascii| Refusal::malformed("the Host is not ASCII"))?;
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b".-_:[]".contains(&byte);
    if host.is_empty() || !host.bytes().all(allowed) {
        return Err(Refusal::malformed("the Host is not a host"));
    }
    Ok(host.to_ascii_lowercase())
}

/// `host` without its port; an IPv6 address keeps its brackets, as in `gateway.hosts`.
pub(super) fn host_name(host: &str) -> &str {
    if let Some(end) = host.find(']') {
        return host.get(..=end).unwrap_or_default();
    }
    host.split(':').next().unwrap_or_default()
}

fn check_transfer_encoding(headers: &HeaderMap) -> Result<(), Refusal> {
    let mut values = headers.get_all(TRANSFER_ENCODING).iter();
    let Some(value) = values.next() else {
        return Ok(());
    };
    if values.next().is_some() || !value.as_bytes().eq_ignore_ascii_case(b"chunked") {
        return Err(Refusal::malformed("a Transfer-Encoding other than chunked"));
    }
    Ok(())
}

fn check_target(uri: &Uri, host: &str) -> Result<(), Refusal> {
    if let Some(authority) = uri.authority() {
        if uri.path_and_query().is_none() || uri.scheme().is_none() {
            return Err(Refusal::malformed("the target is an authority"));
        }
        if !authority.as_str().eq_ignore_ascii_case(host) {
            return Err(Refusal::malformed("the target and the Host differ"));
        }
    }
    check_path(uri.path()).map_err(Refusal::malformed)?;
    if uri.query().is_some_and(names_gateway_url) {
        // CVE-2026-25253: the Control UI of old gateways connects wherever this points.
        return Err(Refusal::malformed("gatewayUrl is not allowed in a query"));
    }
    Ok(())
}

/// Refuses paths that a WHATWG URL parser (the gateway's) or a file server would change.
pub(super) fn check_path(path: &str) -> Result<(), &'static str> {
    if !path.starts_with('/') {
        return Err("the path does not start with a slash");
    }
    if path.contains("//") {
        return Err("the path holds an empty segment");
    }
    if path.contains(['\\', ';']) {
        return Err("the path holds a backslash or a semicolon");
    }
    for segment in path.split('/') {
        if matches!(segment, "." | "..") {
            return Err("the path holds a dot segment");
        }
    }
    let bytes = path.as_bytes();
    for (index, _) in bytes.iter().enumerate().filter(|(_, byte)| **byte == b'%') {
        let escaped = bytes
            .get(index + 1..index + 3)
            .and_then(|hex| std::str::from_utf8(hex).ok())
            .and_then(|hex| u8::from_str_radix(hex, 16).ok());
        match escaped {
            None => return Err("the path holds a broken escape"),
            // Nobody has to escape these; who does wants two readers to disagree.
            Some(b'.' | b'/' | b'\\' | b';' | b'%' | 0..=0x1f | 0x7f) => {
                return Err("the path escapes a character that changes its meaning");
            }
            Some(byte) if byte.is_ascii_alphanumeric() => {
                return Err("the path escapes a letter or a digit");
            }
            Some(_) => {}
        }
    }
    Ok(())
}

fn names_gateway_url(query: &str) -> bool {
    query.split(['&', ';']).any(|pair| {
        let name = pair.split('=').next().unwrap_or_default();
        unescape(name)
            .trim_ascii()
            .eq_ignore_ascii_case(b"gatewayurl")
    })
}

/// Undoes the escapes of a query or a form.
pub(super) fn unescape(text: &str) -> Vec<u8> {
    let mut bytes = text.bytes();
    let mut out = Vec::with_capacity(text.len());
    while let Some(byte) = bytes.next() {
        let mut rest = bytes.clone();
        let digit = |byte: Option<u8>| byte.and_then(|byte| (byte as char).to_digit(16));
        match (byte, digit(rest.next()), digit(rest.next())) {
            #[expect(clippy::cast_possible_truncation, reason = "two hex digits are a byte")]
            (b'%', Some(high), Some(low)) => {
                out.push((high * 16 + low) as u8);
                bytes = rest;
            }
            (b'+', ..) => out.push(b' '),
            _ => out.push(byte),
        }
    }
    out
}

/// `Upgrade` is for WebSocket, by GET, on HTTP/1.1, without a body.
fn wants_websocket(request: &Request<Received>) -> Result<bool, Refusal> {
    let headers = request.headers();
    let mut upgrades = headers.get_all(UPGRADE).iter();
    let Some(upgrade) = upgrades.next() else {
        return Ok(false);
    };
    let connection_names_it = headers
        .get_all(CONNECTION)
        .iter()
        .flat_map(|value| value.as_bytes().split(|&byte| byte == b','))
        .any(|token| token.trim_ascii().eq_ignore_ascii_case(b"upgrade"));
    let sound = upgrades.next().is_none()
        && upgrade.as_bytes().eq_ignore_ascii_case(b"websocket")
        && connection_names_it
        && *request.method() == Method::GET
        && request.version() == Version::HTTP_11
        && request.body().is_end_stream();
    if sound {
        Ok(true)
    } else {
        Err(Refusal::malformed("an Upgrade other than to WebSocket"))
    }
}

fn origin_form(uri: &Uri) -> Result<Uri, Refusal> {
    let target = uri.path_and_query().map_or("/", |target| target.as_str());
    target
        .parse()
        .map_err(|_invalid| Refusal::malformed("the target is not a path"))
}

/// Removes what is between two hops only, including what `Connection` names.
pub(super) fn strip_hop_by_hop(headers: &mut HeaderMap) {
    let named: Vec<HeaderName> = headers
        .get_all(CONNECTION)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .filter_map(|name| name.trim().parse().ok())
        .collect();
    for name in named {
        headers.remove(name);
    }
    for name in [CONNECTION, TE, TRAILER, TRANSFER_ENCODING, UPGRADE] {
        headers.remove(name);
    }
    for name in [
        "keep-alive",
        "proxy-connection",
        "proxy-authenticate",
        "proxy-authorization",
    ] {
        headers.remove(name);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_that_parsers_change_are_refused() {
        let rows = [
            ("/", true),
            ("/tools/invoke", true),
            ("/assets/index-1_2.js", true),
            ("/avatar/%C3%BC", true),
            ("/a%20b", true),
            ("/..hidden", true),
            ("//tools/invoke", false),
            ("/x//y", false),
            ("/x/../tools/invoke", false),
            ("/./tools/invoke", false),
            ("/tools/invoke/..", false),
            ("/tools%2finvoke", false),
            ("/tools%2Finvoke", false),
            ("/x/%2e%2e/tools", false),
            ("/x/.%2e/tools", false),
            ("/%74ools/invoke", false),
            ("/tools;a/invoke", false),
            ("/tools%3binvoke", false),
            ("/tools\\invoke", false),
            ("/tools%5cinvoke", false),
            ("/a%252e", false),
            ("/a%00", false),
            ("/a%", false),
            ("/a%zz", false),
            ("*", false),
        ];
        for (path, accepted) in rows {
            assert_eq!(check_path(path).is_ok(), accepted, "{path}");
        }
    }

    #[test]
    fn gateway_url_is_found_in_any_spelling() {
        let rows = [
            ("token=x", false),
            ("gatewayUrl=wss://evil", true),
            ("a=b&gatewayUrl", true),
            ("gateway%55rl=x", true),
            ("GATEWAYURL=x", true),
            ("x=gatewayUrl", false),
            ("%", false),
        ];
        for (query, found) in rows {
            assert_eq!(names_gateway_url(query), found, "{query}");
        }
    }

    #[test]
    fn a_host_has_a_name() {
        let rows = [
            ("a.example", "a.example"),
            ("a.example:8443", "a.example"),
            ("[::1]:8443", "[::1]"),
            ("[::1]", "[::1]"),
            ("", ""),
        ];
        for (host, name) in rows {
            assert_eq!(host_name(host), name);
        }
    }
}
