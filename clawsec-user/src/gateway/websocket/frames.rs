//! WebSocket frames: read with limits, reassembled where policy reads them, written by one task.
//!
//! fastwebsockets parses and masks; what it leaves open is closed here: frames masked by the
//! wrong side, control frames over 125 bytes, fragments without an overall limit. Its reads and
//! writes are not cancel safe, so each half is only ever used by one loop that runs to its end.

use std::convert::Infallible;
use std::time::Duration;

use fastwebsockets::{
    Frame, OpCode, Payload, Role, WebSocket, WebSocketError, WebSocketRead, WebSocketWrite,
};
use hyper::upgrade::Upgraded;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite, ReadHalf};
use tokio::sync::mpsc;
use tokio_util::task::TaskTracker;

use crate::policy::Permit;

/// The stream under a WebSocket on either side.
pub(in crate::gateway) type Stream = TokioIo<Upgraded>;

/// Frames waiting for a peer; few, since each may be as large as the limit.
const OUTBOX_FRAMES: usize = 8;
/// The payload limit of control frames (RFC 6455, 5.5).
const MAX_CONTROL_BYTES: usize = 125;

/// One frame of a peer, unmasked.
#[derive(Debug)]
pub(super) struct RawFrame {
    pub(super) fin: bool,
    pub(super) opcode: OpCode,
    pub(super) payload: Vec<u8>,
}

/// One whole message of a peer.
#[derive(Debug)]
pub(super) enum Message {
    Text(Vec<u8>),
    Binary,
    Ping(Vec<u8>),
    Pong(Vec<u8>),
    Close(CloseFrame),
}

/// A close frame's payload: a code and a reason, or nothing.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct CloseFrame(Vec<u8>);

#[derive(Debug, thiserror::Error)]
pub(super) enum FrameError {
    #[error("a frame breaks the protocol: {0}")]
    Protocol(&'static str),
    #[error("a message is over the limit")]
    TooLarge,
    #[error("a text message is not UTF-8")]
    NotUtf8,
    #[error("read a frame")]
    Read(#[source] WebSocketError),
}

impl FrameError {
    /// The close code a peer is told.
    pub(super) fn close(&self) -> CloseFrame {
        match self {
            Self::TooLarge => CloseFrame::new(1009, "message too big"),
            Self::NotUtf8 => CloseFrame::new(1007, "invalid UTF-8"),
            Self::Protocol(_) | Self::Read(_) => CloseFrame::new(1002, "protocol error"),
        }
    }
}

impl CloseFrame {
    /// `reason` is cut at what a close frame can carry, on a character boundary.
    pub(super) fn new(code: u16, reason: &str) -> Self {
        let mut end = reason.len().min(MAX_CONTROL_BYTES - 2);
        while !reason.is_char_boundary(end) {
            end -= 1;
        }
        let mut payload = code.to_be_bytes().to_vec();
        payload.extend_from_slice(reason.get(..end).unwrap_or_default().as_bytes());
        Self(payload)
    }

    /// A peer's payload, if it is one that may be sent on.
    pub(super) fn parse(payload: Vec<u8>) -> Result<Self, FrameError> {
        let Some((code, reason)) = payload.split_first_chunk::<2>() else {
            return if payload.is_empty() {
                Ok(Self(payload))
            } else {
                Err(FrameError::Protocol("a close frame of one byte"))
            };
        };
        let code = u16::from_be_bytes(*code);
        let allowed = matches!(code, 1000..=1003 | 1007..=1014 | 3000..=4999);
        if !allowed || std::str::from_utf8(reason).is_err() {
            return Err(FrameError::Protocol("a close frame that may not be sent"));
        }
        Ok(Self(payload))
    }

    pub(super) fn code(&self) -> Option<u16> {
        self.0
            .split_first_chunk::<2>()
            .map(|(code, _)| u16::from_be_bytes(*code))
    }
}

/// The reading half.
pub(super) struct Reader<S> {
    frames: WebSocketRead<S>,
    role: Role,
    limit: usize,
    partial: Option<Vec<u8>>,
}

/// The sending end of a peer's outbox.
#[derive(Debug, Clone)]
pub(super) struct Outbox(mpsc::Sender<RawFrame>);

/// The peer takes no more frames.
#[derive(Debug, thiserror::Error)]
#[error("the peer takes no more frames")]
pub(in crate::gateway) struct Gone;

/// Splits a WebSocket into a reader and an outbox whose frames a task writes.
pub(super) fn split(
    socket: WebSocket<Stream>,
    role: Role,
    limit: usize,
    write_deadline: Duration,
    tasks: &TaskTracker,
) -> (Reader<ReadHalf<Stream>>, Outbox) {
    let (read, mut write) = socket.split(tokio::io::split);
    // fastwebsockets 0.10 spins on a vectored write that takes nothing.
    write.set_writev(false);
    let reader = Reader::new(read, role, limit);
    let (sender, receiver) = mpsc::channel(OUTBOX_FRAMES);
    tasks.spawn(write_all(write, receiver, write_deadline));
    (reader, Outbox(sender))
}

impl<S: AsyncRead + Unpin> Reader<S> {
    pub(super) fn new(mut frames: WebSocketRead<S>, role: Role, limit: usize) -> Self {
        frames.set_auto_close(false);
        frames.set_auto_pong(false);
        let mut reader = Self {
            frames,
            role,
            limit,
            partial: None,
        };
        reader.set_limit(limit);
        reader
    }

    pub(super) fn set_limit(&mut self, limit: usize) {
        self.limit = limit;
        self.frames.set_max_message_size(limit.saturating_add(1));
    }

    /// Reads one frame as it comes. Not cancel safe.
    pub(super) async fn frame(&mut self) -> Result<RawFrame, FrameError> {
        let role = self.role;
        let mut frame = self
            .frames
            .read_frame::<_, Infallible>(&mut |_| async { Ok(()) })
            .await
            .map_err(|error| match error {
                WebSocketError::FrameTooLarge | WebSocketError::PingFrameTooLarge => {
                    FrameError::TooLarge
                }
                WebSocketError::InvalidUTF8 => FrameError::NotUtf8,
                error => FrameError::Read(error),
            })?;
        // The mask is private, but a formatted header tells whether there was one.
        let mut header = [0; 16];
        frame.fmt_head(&mut header);
        let masked = header[1] & 0x80 != 0;
        if masked != matches!(role, Role::Server) {
            return Err(FrameError::Protocol("masked by the wrong side"));
        }
        let control = matches!(frame.opcode, OpCode::Close | OpCode::Ping | OpCode::Pong);
        if control && frame.payload.len() > MAX_CONTROL_BYTES {
            return Err(FrameError::Protocol("a control frame over 125 bytes"));
        }
        Ok(RawFrame {
            fin: frame.fin,
            opcode: frame.opcode,
            payload: frame.payload.into(),
        })
    }

    /// Reads one message, its fragments joined. Not cancel safe.
    pub(super) async fn message(&mut self) -> Result<Message, FrameError> {
        loop {
            let frame = self.frame().await?;
            match frame.opcode {
                OpCode::Ping => return Ok(Message::Ping(frame.payload)),
                OpCode::Pong => return Ok(Message::Pong(frame.payload)),
                OpCode::Close => return CloseFrame::parse(frame.payload).map(Message::Close),
                OpCode::Binary => return Ok(Message::Binary),
                OpCode::Text if self.partial.is_some() => {
                    return Err(FrameError::Protocol("a message inside another"));
                }
                OpCode::Text if frame.fin => return Ok(Message::Text(frame.payload)),
                OpCode::Text => self.partial = Some(frame.payload),
                OpCode::Continuation => {
                    let partial = self
                        .partial
                        .as_mut()
                        .ok_or(FrameError::Protocol("a continuation of nothing"))?;
                    if partial.len() + frame.payload.len() > self.limit {
                        return Err(FrameError::TooLarge);
                    }
                    partial.extend_from_slice(&frame.payload);
                    if frame.fin {
                        let text = self.partial.take().unwrap_or_default();
                        if std::str::from_utf8(&text).is_err() {
                            return Err(FrameError::NotUtf8);
                        }
                        return Ok(Message::Text(text));
                    }
                }
            }
        }
    }

    /// Reads until the peer closes too, so that the close frame sent before is not lost to a
    /// reset; bounded by the caller's deadline.
    pub(super) async fn drain(&mut self) {
        while let Ok(frame) = self.frame().await {
            if frame.opcode == OpCode::Close {
                return;
            }
        }
    }
}

impl Outbox {
    pub(super) async fn raw(&self, frame: RawFrame) -> Result<(), Gone> {
        self.0.send(frame).await.map_err(|_frame| Gone)
    }

    async fn whole(&self, opcode: OpCode, payload: Vec<u8>) -> Result<(), Gone> {
        let fin = true;
        self.raw(RawFrame {
            fin,
            opcode,
            payload,
        })
        .await
    }

    /// Sends text of clawsec's own.
    pub(super) async fn text(&self, text: String) -> Result<(), Gone> {
        self.whole(OpCode::Text, text.into_bytes()).await
    }

    /// Sends on a client's frame that policy let through: the very bytes it judged.
    pub(super) async fn forward(&self, permit: Permit, bytes: Vec<u8>) -> Result<(), Gone> {
        tracing::trace!(principal = permit.principal(), "forward a frame");
        self.whole(OpCode::Text, bytes).await
    }

    pub(super) async fn ping(&self, payload: Vec<u8>) -> Result<(), Gone> {
        self.whole(OpCode::Ping, payload).await
    }

    pub(super) async fn pong(&self, payload: Vec<u8>) -> Result<(), Gone> {
        self.whole(OpCode::Pong, payload).await
    }

    pub(super) async fn close(&self, close: CloseFrame) -> Result<(), Gone> {
        self.whole(OpCode::Close, close.0).await
    }
}

/// Writes until the outbox is dropped, a close frame is out, or the peer stops taking frames.
async fn write_all<S: AsyncWrite + Unpin>(
    mut socket: WebSocketWrite<S>,
    mut frames: mpsc::Receiver<RawFrame>,
    deadline: Duration,
) {
    while let Some(frame) = frames.recv().await {
        let last = frame.opcode == OpCode::Close;
        let frame = Frame::new(frame.fin, frame.opcode, None, Payload::Owned(frame.payload));
        let written = tokio::time::timeout(deadline, async {
            socket.write_frame(frame).await?;
            socket.flush().await
        });
        match written.await {
            Ok(Ok(())) if !last => {}
            Ok(Ok(())) => return,
            Ok(Err(error)) => {
                tracing::debug!(%error, "write a frame");
                return;
            }
            Err(_elapsed) => {
                tracing::debug!("the peer does not take frames");
                return;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::AsyncWriteExt as _;

    use super::*;

    #[test]
    fn close_reasons_fit_and_codes_are_checked() {
        let long = "ü".repeat(100);
        assert!(CloseFrame::new(1008, &long).0.len() <= MAX_CONTROL_BYTES);
        let rows: &[(&[u8], bool)] = &[
            (&[], true),
            (&[3], false),
            (&[0x03, 0xe8], true),
            (&[0x03, 0xf0, b'x'], true),
            (&[0x03, 0xed], false),
            (&[0x0f, 0xa0], true),
            (&[0x00, 0x01], false),
            (&[0x03, 0xe8, 0xff], false),
        ];
        for (payload, accepted) in rows {
            assert_eq!(
                CloseFrame::parse(payload.to_vec()).is_ok(),
                *accepted,
                "{payload:?}"
            );
        }
    }

    async fn read(bytes: &[u8], limit: usize) -> Result<Message, FrameError> {
        let (mut client, server) = tokio::io::duplex(1024);
        client.write_all(bytes).await.unwrap();
        drop(client);
        let (read, _write) = tokio::io::split(server);
        let (frames, _) =
            fastwebsockets::after_handshake_split(read, tokio::io::sink(), Role::Server);
        Reader::new(frames, Role::Server, limit).message().await
    }

    #[tokio::test]
    async fn frames_that_break_the_protocol_are_refused() {
        // FIN + opcode, mask bit + length, four mask bytes of zero, payload.
        let rows: &[(&str, &[u8], &str)] = &[
            (
                "text",
                &[0x81, 0x82, 0, 0, 0, 0, b'h', b'i'],
                "Ok(Text([104, 105]))",
            ),
            (
                "fragments",
                &[0x01, 0x81, 0, 0, 0, 0, b'h', 0x80, 0x81, 0, 0, 0, 0, b'i'],
                "Ok(Text([104, 105]))",
            ),
            (
                "a ping between fragments",
                &[0x01, 0x81, 0, 0, 0, 0, b'h', 0x89, 0x80, 0, 0, 0, 0],
                "Ok(Ping([]))",
            ),
            (
                "not masked",
                &[0x81, 0x02, b'h', b'i'],
                "Err(Protocol(\"masked by the wrong side\"))",
            ),
            (
                "compressed",
                &[0xc1, 0x82, 0, 0, 0, 0, b'h', b'i'],
                "Err(Read(ReservedBitsNotZero))",
            ),
            (
                "continues nothing",
                &[0x80, 0x81, 0, 0, 0, 0, b'i'],
                "Err(Protocol(\"a continuation of nothing\"))",
            ),
            (
                "inside another",
                &[0x01, 0x81, 0, 0, 0, 0, b'h', 0x81, 0x81, 0, 0, 0, 0, b'i'],
                "Err(Protocol(\"a message inside another\"))",
            ),
            (
                "too large",
                &[0x81, 0x85, 0, 0, 0, 0, 1, 2, 3, 4, 5],
                "Err(TooLarge)",
            ),
            (
                "too large in sum",
                &[
                    0x01, 0x83, 0, 0, 0, 0, 1, 2, 3, 0x80, 0x83, 0, 0, 0, 0, 1, 2, 3,
                ],
                "Err(TooLarge)",
            ),
            (
                "not UTF-8 in sum",
                &[0x01, 0x81, 0, 0, 0, 0, 0xc3, 0x80, 0x81, 0, 0, 0, 0, b'h'],
                "Err(NotUtf8)",
            ),
            ("binary", &[0x82, 0x80, 0, 0, 0, 0], "Ok(Binary)"),
        ];
        for (name, bytes, expected) in rows {
            assert_eq!(format!("{:?}", read(bytes, 4).await), *expected, "{name}");
        }
    }
}
