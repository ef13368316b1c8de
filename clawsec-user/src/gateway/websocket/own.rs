//! A connection of clawsec's own to the protected gateway, with a device key of its own.
//!
//! A task reads it and hands on what comes a frame or two at a time: whoever does not take them
//! makes the gateway wait, and nothing grows here. Dropping an `OwnConnection` ends that task.

use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

use fastwebsockets::Role as Side;
use serde_json::{Map, Value, json};
use tokio::io::ReadHalf;
use tokio::sync::mpsc;
use tokio_util::sync::{CancellationToken, DropGuard};

use super::device::OwnDevice;
use super::dial::{self, UPSTREAM_FRAME_BYTES};
use super::frames::{self, CloseFrame, Message, Outbox, Reader, Stream};
use super::handshake::{Connect, Failure};
use super::relay::Heard;
use crate::causes::chain;

pub(in crate::gateway) use super::dial::Terms;
pub(in crate::gateway) use super::frames::Gone;
pub(in crate::gateway) use super::handshake::Role;

use crate::gateway::shared::Gateway;
use crate::gateway::snapshot::Snapshot;

/// As whom clawsec connects.
#[derive(Debug, Clone, PartialEq)]
pub(in crate::gateway) struct Identity {
    pub(in crate::gateway) role: Role,
    pub(in crate::gateway) scopes: &'static [&'static str],
    /// The members of `connect` that are of this role alone: `client`, `caps`, `commands`.
    pub(in crate::gateway) params: Map<String, Value>,
}

/// An open connection that has said hello.
#[derive(Debug)]
pub(in crate::gateway) struct OwnConnection {
    pub(in crate::gateway) terms: Terms,
    /// The protocol's number, as the gateway said it.
    pub(in crate::gateway) protocol: u64,
    /// The largest frame that the gateway takes.
    pub(in crate::gateway) max_frame_bytes: usize,
    arrivals: mpsc::Receiver<Arrival>,
    outbox: Arc<Outbox>,
    _reader: DropGuard,
}

/// The sending half.
#[derive(Debug, Clone)]
pub(in crate::gateway) struct Sender(Arc<Outbox>);

impl Sender {
    pub(in crate::gateway) async fn request(
        &self,
        id: &str,
        method: &str,
        params: &Value,
    ) -> Result<(), Gone> {
        let frame = json!({"type": "req", "id": id, "method": method, "params": params});
        self.0.text(frame.to_string()).await
    }
}

/// What the gateway sends.
#[derive(Debug)]
pub(in crate::gateway) enum Arrival {
    Text(Vec<u8>),
    /// The last one, and why.
    End(String),
}

/// Why there is no connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::gateway) enum NotOpen {
    /// A person has to approve this device; the gateway's command line does it.
    Unpaired {
        remedy: String,
    },
    Refused {
        why: String,
    },
    Away {
        why: String,
    },
}

/// Texts on their way to whoever reads; few, since each may be as large as a frame.
const ARRIVALS: usize = 2;
/// What the older gateway takes where it does not say.
const MAX_PAYLOAD: u64 = 512 * 1024;
/// The `id` of the `connect` request; later requests choose others.
const CONNECT_ID: &str = "connect";
/// Who clawsec is where the gateway believes its proxy about that (no key's id has a colon), and
/// where it comes from: the dummy address of RFC 7600, since such a gateway takes no loopback
/// address for a client's.
const NAME: &str = "clawsec:own";
const CLIENT: dial::Client = dial::Client {
    source: IpAddr::V4(Ipv4Addr::new(192, 0, 0, 8)),
    is_page: false,
};

/// The id of the device that `open` shows for this identity.
pub(in crate::gateway) fn device_id(seed: &[u8; 32], identity: &Identity) -> Option<String> {
    let device = OwnDevice::of_client(seed, &connect_of(identity))?;
    Some(device.id().to_owned())
}

/// Connects, within the handshake's deadline.
pub(in crate::gateway) async fn open(
    gateway: &Gateway,
    snapshot: &Snapshot,
    seed: &[u8; 32],
    identity: &Identity,
) -> Result<OwnConnection, NotOpen> {
    let away = |why: &str| NotOpen::Away {
        why: why.to_owned(),
    };
    let connect = connect_of(identity);
    let device =
        OwnDevice::of_client(seed, &connect).ok_or_else(|| away("the device key is unusable"))?;
    let opening = async {
        let socket = dial::open(gateway, snapshot, "/", NAME, CLIENT)
            .await
            .map_err(|why| NotOpen::Away { why })?;
        let (mut reader, outbox) = frames::split(
            socket,
            Side::Client,
            UPSTREAM_FRAME_BYTES,
            gateway.deadlines.write,
        );
        let outbox = Arc::new(outbox);
        let nonce = dial::challenge(&mut reader).await.map_err(away)?;
        let request =
            dial::own_connect(snapshot, &connect, connect.scopes.clone(), &device, &nonce);
        let closed = |_gone| away("the gateway closed during the handshake");
        outbox.text(request).await.map_err(closed)?;
        let hello = dial::hello(&mut reader, &outbox, &connect)
            .await
            .map_err(not_open)?;
        let token = CancellationToken::new();
        let (sender, arrivals) = mpsc::channel(ARRIVALS);
        gateway.tasks.spawn(read(
            reader,
            Arc::clone(&outbox),
            sender,
            token.clone(),
            gateway.deadlines.idle,
        ));
        let number = |pointer: &str| hello.pointer(pointer).and_then(Value::as_u64);
        let max_frame = number("/payload/policy/maxPayload").unwrap_or(MAX_PAYLOAD);
        Ok(OwnConnection {
            terms: Terms::of(&hello),
            protocol: number("/payload/protocol").unwrap_or_default(),
            max_frame_bytes: usize::try_from(max_frame).unwrap_or(usize::MAX),
            arrivals,
            outbox,
            _reader: token.drop_guard(),
        })
    };
    tokio::time::timeout(gateway.deadlines.handshake, opening)
        .await
        .unwrap_or_else(|_elapsed| Err(away("the gateway's handshake took too long")))
}

impl OwnConnection {
    /// The next thing that comes; after an end nothing does.
    ///
    /// # Cancel safety
    ///
    /// Cancel safe: nothing is lost when the future is dropped.
    pub(in crate::gateway) async fn next(&mut self) -> Arrival {
        let gone = || Arrival::End("the connection ended".to_owned());
        self.arrivals.recv().await.unwrap_or_else(gone)
    }

    /// Sends a request; its answer is a text like any other.
    pub(in crate::gateway) async fn request(
        &self,
        id: &str,
        method: &str,
        params: &Value,
    ) -> Result<(), Gone> {
        self.sender().request(id, method, params).await
    }

    /// What tasks beside the reader send by.
    pub(in crate::gateway) fn sender(&self) -> Sender {
        Sender(Arc::clone(&self.outbox))
    }
}

fn connect_of(identity: &Identity) -> Connect {
    let mut params = identity.params.clone();
    params.insert("minProtocol".into(), 3.into());
    params.insert("maxProtocol".into(), 4.into());
    params.insert("userAgent".into(), USER_AGENT.into());
    Connect {
        id: CONNECT_ID.to_owned(),
        params,
        role: identity.role,
        scopes: identity.scopes.iter().map(ToString::to_string).collect(),
        token: String::new(),
        password: String::new(),
    }
}

/// Reads until an end, answers pings, and gives up on a gateway that is silent.
async fn read(
    mut reader: Reader<ReadHalf<Stream>>,
    outbox: Arc<Outbox>,
    arrivals: mpsc::Sender<Arrival>,
    token: CancellationToken,
    idle: std::time::Duration,
) {
    let heard = Heard::new();
    let end = tokio::select! {
        end = read_all(&mut reader, &outbox, &heard, &arrivals) => end,
        () = heard.silence(idle, &outbox) => "the gateway does not answer pings".to_owned(),
        () = token.cancelled() => "closed by clawsec".to_owned(),
    };
    // Whoever reads may be gone, and the gateway, too.
    let _nobody = arrivals.try_send(Arrival::End(end));
    let _gone = outbox.close(CloseFrame::new(1000, "")).await;
}

async fn read_all(
    reader: &mut Reader<ReadHalf<Stream>>,
    outbox: &Outbox,
    heard: &Heard,
    arrivals: &mpsc::Sender<Arrival>,
) -> String {
    loop {
        let message = match reader.message().await {
            Ok(message) => message,
            Err(error) => return chain(&error),
        };
        heard.now();
        let is_over = match message {
            Message::Text(text) => arrivals.send(Arrival::Text(text)).await.is_err(),
            Message::Ping(payload) => outbox.pong(payload).await.is_err(),
            Message::Pong(_) | Message::Binary => false,
            Message::Close(close) => {
                return match close.code() {
                    Some(code) => format!("the gateway closed with {code}"),
                    None => "the gateway closed".to_owned(),
                };
            }
        };
        if is_over {
            return "the connection is gone".to_owned();
        }
    }
}

/// What the gateway's «no» means.
fn not_open(failure: Failure) -> NotOpen {
    let answer: Value = failure
        .answer
        .as_deref()
        .and_then(|answer| serde_json::from_str(answer).ok())
        .unwrap_or_default();
    let text = |pointer: &str| answer.pointer(pointer).and_then(Value::as_str);
    match text("/error/code") {
        // clawsec's own word, and that of a gateway that is starting.
        None | Some("UNAVAILABLE") => NotOpen::Away {
            why: failure.detail,
        },
        Some("NOT_PAIRED") => {
            // The newer gateway's details have a code.
            let product = match text("/error/details/code") {
                Some(_) => "openclaw",
                None => "clawdbot",
            };
            let request = text("/error/details/requestId");
            NotOpen::Unpaired {
                remedy: format!(
                    "run `{product} devices approve {}` on its host",
                    request.filter(|id| is_plain(id)).unwrap_or("<requestId>")
                ),
            }
        }
        Some(_) if text("/error/message").is_some_and(|m| m.starts_with("unauthorized")) => {
            NotOpen::Refused {
                why: format!(
                    "it does not take gateway.upstreamToken ({})",
                    failure.detail
                ),
            }
        }
        Some(_) => NotOpen::Refused {
            why: failure.detail,
        },
    }
}

/// Whether it can stand in a command that a person copies into a shell.
pub(in crate::gateway) fn is_plain(id: &str) -> bool {
    (1..=128).contains(&id.len())
        && id
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.'))
}

const USER_AGENT: &str = concat!("clawsec/", env!("CARGO_PKG_VERSION"));

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_says_what_a_person_can_do() {
        let failure = |error: Value| Failure {
            answer: Some(json!({"error": error}).to_string()),
            ..Failure::new(None, "X", "the upstream refused: no", None)
        };
        let unpaired = |remedy: &str| NotOpen::Unpaired {
            remedy: remedy.to_owned(),
        };
        let why = || "the upstream refused: no".to_owned();
        let rows = [
            (
                json!({"code": "NOT_PAIRED", "details": {"requestId": "r-1"}}),
                unpaired("run `clawdbot devices approve r-1` on its host"),
            ),
            (
                json!({"code": "NOT_PAIRED",
                       "details": {"requestId": "r-1", "code": "PAIRING_REQUIRED"}}),
                unpaired("run `openclaw devices approve r-1` on its host"),
            ),
            (
                json!({"code": "NOT_PAIRED", "details": {"requestId": "$(reboot)"}}),
                unpaired("run `clawdbot devices approve <requestId>` on its host"),
            ),
            (
                json!({"code": "INVALID_REQUEST"}),
                NotOpen::Refused { why: why() },
            ),
            (
                json!({"code": "INVALID_REQUEST", "message": "unauthorized: gateway token mismatch"}),
                NotOpen::Refused {
                    why: format!("it does not take gateway.upstreamToken ({})", why()),
                },
            ),
            (json!({"code": "UNAVAILABLE"}), NotOpen::Away { why: why() }),
        ];
        for (error, expected) in rows {
            assert_eq!(not_open(failure(error.clone())), expected, "{error}");
        }
    }
}
