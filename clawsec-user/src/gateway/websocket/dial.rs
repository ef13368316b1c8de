//! The upstream's half of the handshake: clawsec's own `connect`, with its own device and token.
//!
//! Invariant: nothing of the client reaches the upstream before it answered 101 and `hello-ok`; no
//! forwarded header of a client's, no `Origin` of a client's, no extension is ever offered.

use std::net::IpAddr;

use aws_lc_rs::digest;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use fastwebsockets::Role as Side;
use http_body_util::Empty;
use hyper::client::conn::http1;
use hyper::header::{
    CONNECTION, HOST, HeaderValue, ORIGIN, SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_EXTENSIONS,
    SEC_WEBSOCKET_KEY, SEC_WEBSOCKET_VERSION, UPGRADE, USER_AGENT,
};
use hyper::{Request, StatusCode};
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::io::ReadHalf;

use super::device::OwnDevice;
use super::frames::{self, CloseFrame, Message, Outbox, Reader, Stream};
use super::handshake::{Connect, Failure};
use crate::gateway::isolate;
use crate::gateway::refusal::Refusal;
use crate::gateway::shared::Gateway;
use crate::gateway::snapshot::Snapshot;
use crate::gateway::upstream;
use crate::policy::{Principal, Protocol, Reason};

/// What the upstream may send in one frame: its own limit of 25 MiB with room to grow.
pub(super) const UPSTREAM_FRAME_BYTES: usize = 64 * 1024 * 1024;

/// A connection upstream that has said hello.
pub(super) struct Dialled {
    pub(super) reader: Reader<ReadHalf<Stream>>,
    pub(super) outbox: Outbox,
    /// The `hello-ok`, ready for the client.
    pub(super) hello: String,
    pub(super) terms: Terms,
}

/// What the upstream said of itself.
#[derive(Debug, Clone)]
pub(in crate::gateway) struct Terms {
    pub(in crate::gateway) protocol: Protocol,
    /// The agent that requests go to where none is named.
    pub(in crate::gateway) default_agent: Option<String>,
}

/// Dials the upstream and connects as clawsec, for this principal.
pub(super) async fn dial(
    gateway: &Gateway,
    snapshot: &Snapshot,
    connect: &Connect,
    principal: &Principal,
    client: Client,
) -> Result<Dialled, Failure> {
    let failed = |detail: &str| {
        Failure::unavailable(&connect.id, Reason::UpstreamUnreachable, detail.to_owned())
    };
    let seed = snapshot
        .device_seeds
        .get(principal.id())
        .ok_or_else(|| failed("no device key for this principal"))?;
    let device =
        OwnDevice::of_client(seed, connect).ok_or_else(|| failed("the device key is unusable"))?;
    let dialling = async {
        let socket = open(gateway, snapshot, "/", principal.id(), client)
            .await
            .map_err(|why| failed(&why))?;
        let (mut reader, outbox) = frames::split(
            socket,
            Side::Client,
            UPSTREAM_FRAME_BYTES,
            gateway.deadlines.write,
        );
        let nonce = challenge(&mut reader).await.map_err(failed)?;
        let scopes = connect.effective_scopes(principal);
        let request = own_connect(snapshot, connect, scopes, &device, &nonce);
        outbox
            .text(request)
            .await
            .map_err(|_gone| failed("the upstream closed during the handshake"))?;
        let mut hello = hello(&mut reader, &outbox, connect).await?;
        let terms = Terms::of(&hello);
        strip(&mut hello);
        if let Some(bound) = principal.agents() {
            isolate::hello(&mut hello, bound, terms.default_agent.as_deref());
        }
        Ok(Dialled {
            reader,
            outbox,
            hello: hello.to_string(),
            terms,
        })
    };
    tokio::time::timeout(gateway.deadlines.handshake, dialling)
        .await
        .unwrap_or_else(|_elapsed| {
            Err(Failure::unavailable(
                &connect.id,
                Reason::UpstreamTimeout,
                "the upstream's handshake took too long".to_owned(),
            ))
        })
}

/// Who an upstream connection is for.
#[derive(Debug, Clone, Copy)]
pub(super) struct Client {
    pub(super) source: IpAddr,
    /// It showed an `Origin`, which clawsec has checked against its own `Host`.
    pub(super) is_page: bool,
}

/// Upgrades a connection to the upstream, on `path`; `who` and the source are named where it is vouched for.
pub(super) async fn open(
    gateway: &Gateway,
    snapshot: &Snapshot,
    path: &str,
    who: &str,
    client: Client,
) -> Result<Stream, String> {
    let config = &snapshot.config.gateway;
    let why = |refusal: Refusal| refusal.detail.unwrap_or_default();
    let host = upstream::host_header(&config.upstream).map_err(why)?;
    let stream = upstream::connect(&config.upstream, &gateway.deadlines)
        .await
        .map_err(why)?;
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream))
        .await
        .map_err(|error| error.to_string())?;
    gateway.tasks.spawn(async move {
        if let Err(error) = connection.with_upgrades().await {
            tracing::debug!(%error, "connection to the upstream ended");
        }
    });
    let key = fastwebsockets::handshake::generate_key();
    let mut request = Request::get(path)
        .header(HOST, host)
        .header(USER_AGENT, concat!("clawsec/", env!("CARGO_PKG_VERSION")))
        .header(UPGRADE, "websocket")
        .header(CONNECTION, "Upgrade")
        .header(SEC_WEBSOCKET_VERSION, "13")
        .header(SEC_WEBSOCKET_KEY, key.as_str())
        .body(Empty::<Bytes>::new())
        .map_err(|error| error.to_string())?;
    // openclaw takes its Control UI from pages of its own host only; there clawsec stands in.
    if client.is_page
        && let Ok(origin) =
            HeaderValue::from_str(&format!("http://{}", config.upstream.authority()))
    {
        request.headers_mut().insert(ORIGIN, origin);
    }
    upstream::vouch(
        request.headers_mut(),
        config.upstream_auth,
        who,
        client.source,
    );
    let mut response = sender
        .send_request(request)
        .await
        .map_err(|error| error.to_string())?;
    if response.status() != StatusCode::SWITCHING_PROTOCOLS {
        return Err(format!("the upstream answered {}", response.status()));
    }
    let header = |name| response.headers().get(name).map(HeaderValue::as_bytes);
    if header(SEC_WEBSOCKET_ACCEPT) != Some(accept(&key).as_bytes()) {
        return Err("the upstream's Sec-WebSocket-Accept is wrong".to_owned());
    }
    if header(SEC_WEBSOCKET_EXTENSIONS).is_some() {
        return Err("the upstream chose an extension that was not offered".to_owned());
    }
    let upgraded = hyper::upgrade::on(&mut response)
        .await
        .map_err(|error| error.to_string())?;
    Ok(TokioIo::new(upgraded))
}

/// RFC 6455, 4.2.2: SHA-1 here identifies the protocol, it secures nothing.
fn accept(key: &str) -> String {
    let text = format!("{key}258EAFA5-E914-47DA-95CA-C5AB0DC85B11");
    let digest = digest::digest(&digest::SHA1_FOR_LEGACY_USE_ONLY, text.as_bytes());
    STANDARD.encode(digest.as_ref())
}

/// Waits for the upstream's `connect.challenge`.
pub(super) async fn challenge(
    reader: &mut Reader<ReadHalf<Stream>>,
) -> Result<String, &'static str> {
    loop {
        match reader.message().await {
            Ok(Message::Text(text)) => {
                let frame: Value = serde_json::from_slice(&text)
                    .map_err(|_not_json| "the upstream's challenge is not JSON")?;
                if frame.get("event").and_then(Value::as_str) == Some("connect.challenge") {
                    return frame
                        .pointer("/payload/nonce")
                        .and_then(Value::as_str)
                        .map(str::to_owned)
                        .ok_or("the upstream's challenge has no nonce");
                }
            }
            Ok(Message::Ping(_) | Message::Pong(_)) => {}
            Ok(Message::Binary | Message::Close(_)) | Err(_) => {
                return Err("the upstream closed before its challenge");
            }
        }
    }
}

/// The `connect` with clawsec's device and token, and these scopes.
pub(super) fn own_connect(
    snapshot: &Snapshot,
    connect: &Connect,
    scopes: Vec<String>,
    device: &OwnDevice,
    nonce: &str,
) -> String {
    let token = snapshot
        .upstream_token
        .as_ref()
        .map(crate::config::Secret::reveal)
        .unwrap_or_default();
    let mut params = connect.params.clone();
    params.insert("role".into(), connect.role.as_str().into());
    params.insert("device".into(), device.sign(connect, &scopes, token, nonce));
    params.insert("scopes".into(), scopes.into());
    if token.is_empty() {
        params.remove("auth");
    } else {
        params.insert("auth".into(), json!({"token": token}));
    }
    json!({"type": "req", "id": connect.id, "method": "connect", "params": params}).to_string()
}

impl Terms {
    pub(super) fn of(hello: &Value) -> Self {
        let number = hello.pointer("/payload/protocol").and_then(Value::as_u64);
        let default = hello.pointer("/payload/snapshot/sessionDefaults/defaultAgentId");
        Self {
            protocol: Protocol::from_number(number.unwrap_or(u64::MAX)),
            default_agent: default.and_then(Value::as_str).map(str::to_owned),
        }
    }
}

/// Removes what is clawsec's: a token of its device would let the holder in without clawsec's
/// key, and what recovers such a token is as good as one.
fn strip(hello: &mut Value) {
    let auth = hello.pointer_mut("/payload/auth");
    if let Some(auth) = auth.and_then(Value::as_object_mut) {
        auth.retain(|key, _| AUTH_FOR_CLIENTS.contains(&key.as_str()));
    }
}

const AUTH_FOR_CLIENTS: [&str; 4] = ["method", "role", "scopes", "issuedAtMs"];

/// Waits for the answer to `connect`.
pub(super) async fn hello(
    reader: &mut Reader<ReadHalf<Stream>>,
    outbox: &Outbox,
    connect: &Connect,
) -> Result<Value, Failure> {
    let failed = |detail: &str| {
        Failure::unavailable(&connect.id, Reason::UpstreamUnreachable, detail.to_owned())
    };
    loop {
        let text = match reader.message().await {
            Ok(Message::Text(text)) => text,
            Ok(Message::Ping(payload)) => {
                outbox
                    .pong(payload)
                    .await
                    .map_err(|_gone| failed("the upstream closed during the handshake"))?;
                continue;
            }
            Ok(Message::Pong(_)) => continue,
            Ok(Message::Binary | Message::Close(_)) | Err(_) => {
                return Err(failed("the upstream closed during the handshake"));
            }
        };
        let frame: Value = serde_json::from_slice(&text)
            .map_err(|_not_json| failed("the upstream's answer is not JSON"))?;
        if frame.get("type").and_then(Value::as_str) != Some("res")
            || frame.get("id").and_then(Value::as_str) != Some(&connect.id)
        {
            continue;
        }
        if frame.get("ok").and_then(Value::as_bool) == Some(true) {
            return Ok(frame);
        }
        let message = frame
            .pointer("/error/message")
            .and_then(Value::as_str)
            .unwrap_or("refused")
            .to_owned();
        let close = match reader.message().await {
            Ok(Message::Close(close)) => close,
            _ => CloseFrame::new(1008, &message),
        };
        return Err(Failure {
            answer: Some(frame.to_string()),
            close,
            denial: crate::policy::Denial::new(Reason::UpstreamUnreachable, "gateway.upstream"),
            detail: format!("the upstream refused: {message}"),
        });
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_accept_value_is_that_of_the_rfc() {
        assert_eq!(
            super::accept("dGhlIHNhbXBsZSBub25jZQ=="),
            "s3pPLMBiTxaQ9kYGzzhZRbK+xOo="
        );
    }
}
