//! WebSocket frames: read with limits, reassembled where policy reads them, written whole.
//!
//! Invariant: a connection on which nothing happens holds no buffer, and none holds more than the
//! frame it is in the middle of; a length that a peer only claims takes no memory. Reads are not
//! cancel safe, so that half is only ever used by one loop that runs to its end.

mod head;
mod pace;
mod writer;

use std::fmt;
use std::future::poll_fn;
use std::io;
use std::mem::MaybeUninit;
use std::pin::Pin;
use std::task::ready;
use std::time::{Duration, Instant};

use fastwebsockets::{OpCode, Role};
use hyper::upgrade::Upgraded;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncReadExt as _, ReadBuf, ReadHalf, WriteHalf};
use tokio::sync::Mutex;

use self::head::Head;
use self::pace::Pace;
use self::writer::Writer;
use crate::policy::Permit;

/// The stream under a WebSocket on either side.
pub(in crate::gateway) type Stream = TokioIo<Upgraded>;

/// The payload limit of control frames (RFC 6455, 5.5).
const MAX_CONTROL_BYTES: usize = 125;
/// What is read at once: most frames whole.
const READ_BYTES: usize = 8 * 1024;
/// What is read of a client that was told to close, a small frame counted as `FRAME_COST_BYTES`.
const DRAINED_BYTES: usize = 1024 * 1024;
const FRAME_COST_BYTES: usize = 4 * 1024;
/// What a frame's payload grows by while it comes.
const GROWTH_BYTES: usize = 64 * 1024;

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
    #[error("a client floods: {0}")]
    Flood(&'static str),
    #[error("read a frame")]
    Read(#[source] io::Error),
}

impl FrameError {
    /// The close code a peer is told.
    pub(super) fn close(&self) -> CloseFrame {
        match self {
            Self::TooLarge => CloseFrame::new(1009, "message too big"),
            Self::NotUtf8 => CloseFrame::new(1007, "invalid UTF-8"),
            Self::Flood(what) => CloseFrame::new(1008, what),
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
    stream: S,
    role: Role,
    limit: usize,
    /// Bytes that came; without capacity where none belong to a frame yet.
    ahead: Vec<u8>,
    /// So many of them belong to frames that were read.
    taken: usize,
    partial: Option<Vec<u8>>,
    pace: Pace,
}

/// The writing half, which the loops of one session share.
pub(super) struct Outbox {
    writer: Mutex<Writer<WriteHalf<Stream>>>,
    /// For a frame to be taken by the peer.
    deadline: Duration,
}

/// The peer takes no more frames.
#[derive(Debug, thiserror::Error)]
#[error("the peer takes no more frames")]
pub(in crate::gateway) struct Gone;

/// Splits a stream into a reader and an outbox.
pub(super) fn split(
    stream: Stream,
    role: Role,
    limit: usize,
    deadline: Duration,
) -> (Reader<ReadHalf<Stream>>, Outbox) {
    let (read, write) = tokio::io::split(stream);
    let outbox = Outbox {
        writer: Mutex::new(Writer::new(write, role)),
        deadline,
    };
    (Reader::new(read, role, limit), outbox)
}

impl<S: AsyncRead + Unpin> Reader<S> {
    pub(super) fn new(stream: S, role: Role, limit: usize) -> Self {
        Self {
            stream,
            role,
            limit,
            ahead: Vec::new(),
            taken: 0,
            partial: None,
            pace: Pace::new(),
        }
    }

    pub(super) fn set_limit(&mut self, limit: usize) {
        self.limit = limit;
    }

    /// Lets other connections have their turn where this one has sent more than it was read: who
    /// sends a hundred messages at once is served no more often than who sends one.
    pub(super) async fn take_turns(&mut self) {
        if self.taken < self.ahead.len() {
            tokio::task::yield_now().await;
        }
    }

    /// Reads one frame as it comes. Not cancel safe.
    pub(super) async fn frame(&mut self) -> Result<RawFrame, FrameError> {
        let head = loop {
            match Head::parse(self.ahead.get(self.taken..).unwrap_or_default())? {
                Some(head) => break head,
                None => self.read_ahead().await.map_err(FrameError::Read)?,
            }
        };
        if head.mask.is_some() != matches!(self.role, Role::Server) {
            return Err(FrameError::Protocol("masked by the wrong side"));
        }
        let length = usize::try_from(head.payload_bytes)
            .ok()
            .filter(|&length| length <= self.limit)
            .ok_or(FrameError::TooLarge)?;
        let mut payload = self.payload(head.bytes, length).await?;
        if let Some(mask) = head.mask {
            head::apply(mask, &mut payload);
        }
        if head.opcode == OpCode::Text && head.fin && std::str::from_utf8(&payload).is_err() {
            return Err(FrameError::NotUtf8);
        }
        Ok(RawFrame {
            fin: head.fin,
            opcode: head.opcode,
            payload,
        })
    }

    /// Takes the payload behind a head of so many bytes.
    async fn payload(&mut self, head_bytes: usize, length: usize) -> Result<Vec<u8>, FrameError> {
        let start = self.taken + head_bytes;
        let end = start + length;
        if let Some(whole) = self.ahead.get(start..end) {
            let payload = whole.to_vec();
            self.taken = end;
            if end == self.ahead.len() {
                self.ahead = Vec::new();
                self.taken = 0;
            }
            return Ok(payload);
        }
        let mut payload = std::mem::take(&mut self.ahead);
        payload.drain(..start);
        self.taken = 0;
        while payload.len() < length {
            let left = length - payload.len();
            payload.reserve(left.min(GROWTH_BYTES));
            let mut rest = (&mut self.stream).take(left as u64);
            let read = rest.read_buf(&mut payload).await;
            if read.map_err(FrameError::Read)? == 0 {
                return Err(FrameError::Read(io::ErrorKind::UnexpectedEof.into()));
            }
        }
        Ok(payload)
    }

    /// Waits for bytes without a buffer: what has come is copied from the stack.
    async fn read_ahead(&mut self) -> io::Result<()> {
        let Self {
            stream,
            ahead,
            taken,
            ..
        } = self;
        // Once for all that came at once: small frames are not moved for each other.
        ahead.drain(..std::mem::take(taken));
        poll_fn(|cx| {
            let mut space = [MaybeUninit::uninit(); READ_BYTES];
            let mut read = ReadBuf::uninit(&mut space);
            ready!(Pin::new(&mut *stream).poll_read(cx, &mut read))?;
            if read.filled().is_empty() {
                return Err(io::Error::from(io::ErrorKind::UnexpectedEof)).into();
            }
            ahead.extend_from_slice(read.filled());
            Ok(()).into()
        })
        .await
    }

    /// Reads one message, its fragments joined. Not cancel safe.
    pub(super) async fn message(&mut self) -> Result<Message, FrameError> {
        loop {
            let frame = self.frame().await?;
            self.keep_pace(&frame)?;
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

    /// Only of a client: what is behind is trusted to stop.
    fn keep_pace(&mut self, frame: &RawFrame) -> Result<(), FrameError> {
        match (self.role, frame.opcode) {
            (Role::Client, _) => Ok(()),
            (_, OpCode::Ping | OpCode::Pong) => self.pace.control(Instant::now()),
            (_, OpCode::Continuation) => self.pace.fragment(),
            _ => {
                self.pace.message();
                Ok(())
            }
        }
    }

    /// Reads until the peer closes too, so that the close frame sent before is not lost to a
    /// reset; bounded by the caller's deadline, and by what a client that does not flood has under
    /// way.
    pub(super) async fn drain(&mut self) {
        let mut left = DRAINED_BYTES;
        while let Ok(frame) = self.frame().await {
            left = left.saturating_sub(FRAME_COST_BYTES + frame.payload.len());
            if frame.opcode == OpCode::Close || left == 0 {
                return;
            }
        }
    }
}

impl fmt::Debug for Outbox {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Outbox").finish_non_exhaustive()
    }
}

impl Outbox {
    /// Sends a frame.
    ///
    /// # Cancel safety
    ///
    /// Dropped, it has sent nothing, or the rest goes out before the next frame.
    pub(super) async fn raw(&self, frame: RawFrame) -> Result<(), Gone> {
        let mut writer = self.writer.lock().await;
        writer.send(frame, self.deadline).await
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
        Reader::new(server, Role::Server, limit).message().await
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
                "Err(Protocol(\"a reserved bit is set\"))",
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
