//! For whom a proxy speaks: PROXY protocol v2 before the first byte, or `X-Forwarded-For`.
//!
//! Invariant: called only for a peer in the listener's `proxyFrom`; from anybody else neither is
//! read, and the header is removed on the way upstream.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use hyper::HeaderMap;
use hyper::header::HeaderValue;
use tokio::io::AsyncReadExt as _;
use tokio::net::TcpStream;

use super::listener::Peer;
use crate::config::Listen;

const SIGNATURE: [u8; 12] = *b"\r\n\r\n\0\r\nQUIT\n";
/// Addresses and the usual extensions; longer ones are refused.
const MAX_BODY_BYTES: usize = 1024;

/// What the first bytes of a proxy's connection say.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Spoken {
    /// No PROXY header: requests may carry `X-Forwarded-For`.
    Nothing,
    /// The proxy speaks for itself, such as a health check.
    Itself,
    For(Peer),
}

/// Reads a PROXY v2 header if there is one, and not a byte more.
pub(super) async fn read_header(stream: &mut TcpStream) -> io::Result<Spoken> {
    let mut peeked = [0; SIGNATURE.len()];
    loop {
        stream.readable().await?;
        let length = stream.peek(&mut peeked).await?;
        let (seen, expected) = (peeked.get(..length), SIGNATURE.get(..length));
        if length == 0 || seen != expected {
            return Ok(Spoken::Nothing);
        }
        if length == SIGNATURE.len() {
            break;
        }
        // The rest of the signature is under way; the caller's deadline bounds the wait.
        tokio::time::sleep(std::time::Duration::from_millis(5)).await;
    }
    let mut head = [0; 16];
    stream.read_exact(&mut head).await?;
    let length = usize::from(u16::from_be_bytes([head[14], head[15]]));
    if length > MAX_BODY_BYTES {
        return Err(invalid("a PROXY header over 1024 bytes"));
    }
    let mut body = vec![0; length];
    stream.read_exact(&mut body).await?;
    parse(head[12], head[13], &body).map_err(invalid)
}

pub(super) fn parse(version_command: u8, family: u8, body: &[u8]) -> Result<Spoken, &'static str> {
    match version_command {
        0x20 => return Ok(Spoken::Itself),
        0x21 => {}
        _ => return Err("a PROXY header of another version"),
    }
    // Big-endian, source before destination.
    let port = |at: usize| {
        let bytes = body.get(at..at + 2)?;
        Some(u16::from_be_bytes(bytes.try_into().ok()?))
    };
    let peer = match family {
        // TCP over IPv4, TCP over IPv6.
        0x11 => body
            .first_chunk::<4>()
            .map(|ip| IpAddr::V4(Ipv4Addr::from(*ip)))
            .zip(port(8))
            .filter(|_| body.len() >= 12),
        0x21 => body
            .first_chunk::<16>()
            .map(|ip| IpAddr::V6(Ipv6Addr::from(*ip)))
            .zip(port(32))
            .filter(|_| body.len() >= 36),
        0x00 => return Ok(Spoken::Itself),
        _ => return Err("a PROXY header of another family"),
    };
    let (ip, port) = peer.ok_or("a PROXY header that is too short")?;
    Ok(Spoken::For(Peer {
        ip: ip.to_canonical(),
        port,
    }))
}

/// The client in `X-Forwarded-For`: the last address that is not one of the proxies. `None`
/// without the header.
pub(super) fn forwarded_for(
    headers: &HeaderMap,
    listen: &Listen,
) -> Result<Option<IpAddr>, &'static str> {
    let mut client = None;
    // Each proxy appends whom it heard, so that what a stranger wrote stands to the left of the
    // first address that is no proxy, and is never looked at.
    let values: Vec<&HeaderValue> = headers.get_all("x-forwarded-for").iter().collect();
    for entry in values
        .iter()
        .rev()
        .flat_map(|value| value.as_bytes().rsplit(|&byte| byte == b','))
    {
        let text = std::str::from_utf8(entry).map_err(|_not_text| MALFORMED)?;
        let address = address(text.trim()).ok_or(MALFORMED)?.to_canonical();
        client = Some(address);
        if !listen.is_proxy(address) {
            break;
        }
    }
    Ok(client)
}

const MALFORMED: &str = "X-Forwarded-For holds something that is not an address";

/// An address, with a port after it or in brackets, as some proxies write it.
pub(super) fn address(text: &str) -> Option<IpAddr> {
    if let Ok(address) = text.parse() {
        return Some(address);
    }
    if let Ok(address) = text.parse::<std::net::SocketAddr>() {
        return Some(address.ip());
    }
    text.strip_prefix('[')?.strip_suffix(']')?.parse().ok()
}

fn invalid(why: &'static str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, why)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_proxy_header_names_the_client() {
        let v4 = [203, 0, 113, 7, 10, 0, 0, 1, 0xc0, 0x01, 0x20, 0xfb];
        let mut v6 = [0; 36];
        v6[..16].copy_from_slice(&"2001:db8::7".parse::<Ipv6Addr>().unwrap().octets());
        v6[33] = 9;
        let client = |ip: &str, port| {
            Ok(Spoken::For(Peer {
                ip: ip.parse().unwrap(),
                port,
            }))
        };
        let rows: [(&str, u8, u8, &[u8], _); 7] = [
            ("IPv4", 0x21, 0x11, &v4, client("203.0.113.7", 0xc001)),
            ("IPv6", 0x21, 0x21, &v6, client("2001:db8::7", 9)),
            ("health check", 0x20, 0x00, &[], Ok(Spoken::Itself)),
            ("unknown family", 0x21, 0x00, &v4, Ok(Spoken::Itself)),
            ("short", 0x21, 0x11, &v4[..11], Err(())),
            ("version 1", 0x11, 0x11, &v4, Err(())),
            ("a socket's path", 0x21, 0x31, &v4, Err(())),
        ];
        for (name, version, family, body, expected) in rows {
            let parsed = parse(version, family, body).map_err(|_why| ());
            assert_eq!(parsed, expected, "{name}");
        }
    }

    #[test]
    fn the_last_address_that_is_no_proxy_is_the_client() {
        let listen = Listen {
            proxy_from: vec!["10.0.0.0/8".parse().unwrap()],
            ..Listen::plain("127.0.0.1:1".parse().unwrap())
        };
        let rows: [(&[&str], _); 9] = [
            (&[], Ok(None)),
            (&["203.0.113.7"], Ok(Some("203.0.113.7"))),
            (&["6.6.6.6, 203.0.113.7"], Ok(Some("203.0.113.7"))),
            (&["6.6.6.6, 203.0.113.7, 10.1.1.1"], Ok(Some("203.0.113.7"))),
            (&["6.6.6.6", "203.0.113.7:4711"], Ok(Some("203.0.113.7"))),
            (&["[2001:db8::1]:443"], Ok(Some("2001:db8::1"))),
            (&["10.0.0.9"], Ok(Some("10.0.0.9"))),
            (&["unknown, 203.0.113.7"], Ok(Some("203.0.113.7"))),
            (&["203.0.113.7, unknown"], Err(())),
        ];
        for (values, expected) in rows {
            let mut headers = HeaderMap::new();
            for value in values {
                headers.append("x-forwarded-for", value.parse().unwrap());
            }
            let found = forwarded_for(&headers, &listen).map_err(|_why| ());
            let expected: Result<Option<IpAddr>, ()> =
                expected.map(|ip: Option<&str>| ip.map(|ip| ip.parse().unwrap()));
            assert_eq!(found, expected, "{values:?}");
        }
    }
}
