//! A client's stream, watched: the bytes of heads are shown to `Head`, writes that do not get on
//! to `Progress`, and the empty answer that hyper makes of a head it cannot read is replaced by
//! one in the gateway's own shape. On HTTP/2 its frames are counted, and a flood of them ends it.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::failure::Failure;
use super::frames_h2::{Goodbyes, Wire};
use super::head::{Head, Protocol};
use super::progress::Progress;
use super::refusal;
use super::shared::random_id;

#[derive(Debug)]
pub(super) struct Watched<S> {
    stream: S,
    head: Arc<Head>,
    progress: Arc<Progress>,
    replacement: Option<Replacement>,
    /// Of HTTP/2.
    wire: Option<Wire>,
    goodbyes: Arc<Goodbyes>,
    /// What is left to say to a flood, of which no more is read.
    last_words: Option<Vec<u8>>,
}

/// What is written in place of hyper's own answer.
#[derive(Debug)]
struct Replacement {
    text: Vec<u8>,
    sent: usize,
    stands_for: usize,
}

impl<S> Watched<S> {
    pub(super) fn new(
        stream: S,
        head: Arc<Head>,
        progress: Arc<Progress>,
        goodbyes: Arc<Goodbyes>,
    ) -> Self {
        let wire = (head.protocol() == Protocol::Http2).then(Wire::new);
        Self {
            stream,
            head,
            progress,
            replacement: None,
            wire,
            goodbyes,
            last_words: None,
        }
    }

    /// Notes what was written, and whether it waits.
    fn wrote(&mut self, polled: &Poll<io::Result<usize>>, slices: &[io::IoSlice<'_>]) {
        self.progress.wrote(polled.is_pending());
        let (Poll::Ready(Ok(count)), Some(wire)) = (polled, &mut self.wire) else {
            return;
        };
        let mut left = *count;
        for slice in slices {
            let (said, _) = slice.split_at(slice.len().min(left));
            wire.say(said, &self.goodbyes);
            left -= said.len();
        }
    }

    /// Recognises hyper's answer to a head that never became a request.
    fn replace(&mut self, bytes: &[u8]) {
        if self.replacement.is_some() || !self.head.is_unjudged() {
            return;
        }
        let Some(status) = automatic_status(bytes) else {
            return;
        };
        let id = random_id().unwrap_or_default();
        self.replacement = Some(Replacement {
            text: refusal::unreadable(status, &id),
            sent: 0,
            stands_for: bytes.len(),
        });
        self.head.replaced(id);
    }
}

/// The status of an answer that has no body and no header of ours.
fn automatic_status(bytes: &[u8]) -> Option<u16> {
    let text = std::str::from_utf8(bytes).ok()?;
    let status = text.strip_prefix("HTTP/1.1 ")?.get(..3)?.parse().ok()?;
    let bare = text.len() < 200
        && text.ends_with("\r\n\r\n")
        && text.contains("\r\ncontent-length: 0\r\n")
        && !text.contains("x-request-id");
    (bare && matches!(status, 400 | 414 | 431)).then_some(status)
}

impl<S: AsyncWrite + Unpin> Watched<S> {
    /// Says the last words, then that there is nothing more to read.
    fn poll_end(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while let Some(rest) = self.last_words.as_ref().filter(|rest| !rest.is_empty()) {
            let polled = Pin::new(&mut self.stream).poll_write(cx, rest);
            self.progress.wrote(polled.is_pending());
            let sent = ready!(polled)?;
            if sent == 0 {
                break;
            }
            self.last_words = rest.get(sent..).map(<[u8]>::to_vec);
        }
        ready!(Pin::new(&mut self.stream).poll_flush(cx))?;
        Poll::Ready(Err(flood()))
    }
}

fn flood() -> io::Error {
    io::Error::other("too many frames that carry nothing")
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncRead for Watched<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = &mut *self;
        if this.last_words.is_some() {
            return this.poll_end(cx);
        }
        let before = buffer.filled().len();
        let polled = Pin::new(&mut this.stream).poll_read(cx, buffer);
        if let Some(read) = buffer.filled().get(before..)
            && !read.is_empty()
        {
            this.head.see(read);
            if let Some(wire) = &mut this.wire
                && !wire.hear(read)
            {
                this.last_words = Some(wire.goodbye());
                this.goodbyes.add(Failure::Http2Flood);
                buffer.set_filled(before);
                return this.poll_end(cx);
            }
        }
        polled
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Watched<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let this = &mut *self;
        if this.last_words.is_some() {
            return Poll::Ready(Err(flood()));
        }
        this.replace(bytes);
        while let Some(replacement) = &mut this.replacement {
            let rest = replacement.text.get(replacement.sent..).unwrap_or_default();
            if rest.is_empty() {
                let stands_for = replacement.stands_for;
                this.replacement = None;
                return Poll::Ready(Ok(stands_for));
            }
            let polled = Pin::new(&mut this.stream).poll_write(cx, rest);
            this.progress.wrote(polled.is_pending());
            match ready!(polled)? {
                0 => return Poll::Ready(Ok(0)),
                sent => replacement.sent += sent,
            }
        }
        let polled = Pin::new(&mut this.stream).poll_write(cx, bytes);
        this.wrote(&polled, &[io::IoSlice::new(bytes)]);
        polled
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let polled = Pin::new(&mut self.stream).poll_flush(cx);
        self.progress.wrote(polled.is_pending());
        polled
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        if self.last_words.is_some() {
            return Poll::Ready(Err(flood()));
        }
        // What replaces is written whole by `poll_write`, which is asked until it is.
        if self.replacement.is_some() || self.head.is_unjudged() {
            let first = slices.iter().find(|slice| !slice.is_empty());
            return self.poll_write(cx, first.map_or(&[], |slice| slice));
        }
        let polled = Pin::new(&mut self.stream).poll_write_vectored(cx, slices);
        self.wrote(&polled, slices);
        polled
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_hypers_own_answer_is_replaced() {
        let rows = [
            (
                "hyper's",
                "HTTP/1.1 400 Bad Request\r\nconnection: close\r\ncontent-length: 0\r\ndate: x\r\n\r\n",
                Some(400),
            ),
            (
                "ours",
                "HTTP/1.1 400 Bad Request\r\nx-request-id: 1\r\ncontent-length: 0\r\n\r\n",
                None,
            ),
            (
                "with a body",
                "HTTP/1.1 400 Bad Request\r\ncontent-length: 0\r\n\r\n{}",
                None,
            ),
            (
                "a success",
                "HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n",
                None,
            ),
            ("a body's bytes", "HTTP/1.1 400 is what it said", None),
        ];
        for (name, text, status) in rows {
            assert_eq!(automatic_status(text.as_bytes()), status, "{name}");
        }
    }
}
