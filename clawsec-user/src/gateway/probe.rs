//! What strangers' bytes reach before anybody is known, as functions of bytes: for the fuzz
//! targets (`fuzz/src/lib.rs`). Nothing of the daemon calls these.

use std::net::IpAddr;

use super::head::{Head, HeadForm, Protocol};
use super::http;
pub use super::own::probe::{node_call, observed};
use super::proxy::{self, Spoken};
pub use super::websocket::probe::{Judge, Judged, messages, request};

/// What the checker of request heads says of bytes that come in these pieces.
pub fn head<'a>(pieces: impl IntoIterator<Item = &'a [u8]>) -> &'static str {
    let head = Head::new(Protocol::Http1);
    for piece in pieces {
        head.see(piece);
    }
    match head.judge() {
        HeadForm::Plain => "plain",
        HeadForm::Unseen | HeadForm::Framed => "not seen whole",
        HeadForm::Ambiguous(why) => why,
    }
}

/// What the strict reader makes of a JSON text.
pub fn json(text: &[u8]) -> Option<serde_json::Value> {
    super::json::parse(text).ok()
}

/// The path of a request's target as the checker lets it through, if it does.
pub fn path(target: &[u8]) -> Option<String> {
    let uri = hyper::Uri::try_from(target).ok()?;
    http::check_path(uri.path()).ok()?;
    Some(uri.path().to_owned())
}

/// Whom a PROXY v2 header speaks for, without its signature and length: version and command, family,
/// then the addresses.
pub fn proxied(header: &[u8]) -> Result<Option<(IpAddr, u16)>, &'static str> {
    let Some(([version_command, family], body)) = header.split_first_chunk::<2>() else {
        return Ok(None);
    };
    Ok(match proxy::parse(*version_command, *family, body)? {
        Spoken::For(peer) => Some((peer.ip, peer.port)),
        Spoken::Nothing | Spoken::Itself => None,
    })
}

/// An entry of `X-Forwarded-For`.
pub fn forwarded(entry: &str) -> Option<IpAddr> {
    proxy::address(entry)
}
