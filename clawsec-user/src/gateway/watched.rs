//! A client's stream, watched: the bytes of heads are shown to `Head`, writes that do not get on
//! to `Progress`, and the empty answer that hyper makes of a head it cannot read is replaced by
//! one in the gateway's own shape.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::head::Head;
use super::progress::Progress;
use super::refusal;
use super::shared::random_id;

#[derive(Debug)]
pub(super) struct Watched<S> {
    stream: S,
    head: Arc<Head>,
    progress: Arc<Progress>,
    replacement: Option<Replacement>,
}

/// What is written in place of hyper's own answer.
#[derive(Debug)]
struct Replacement {
    text: Vec<u8>,
    sent: usize,
    stands_for: usize,
}

impl<S> Watched<S> {
    pub(super) fn new(stream: S, head: Arc<Head>, progress: Arc<Progress>) -> Self {
        Self {
            stream,
            head,
            progress,
            replacement: None,
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

impl<S: AsyncRead + Unpin> AsyncRead for Watched<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let polled = Pin::new(&mut self.stream).poll_read(cx, buffer);
        if let Some(read) = buffer.filled().get(before..)
            && !read.is_empty()
        {
            self.head.see(read);
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
        this.progress.wrote(polled.is_pending());
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
        // What replaces is written whole by `poll_write`, which is asked until it is.
        if self.replacement.is_some() || self.head.is_unjudged() {
            let first = slices.iter().find(|slice| !slice.is_empty());
            return self.poll_write(cx, first.map_or(&[], |slice| slice));
        }
        let polled = Pin::new(&mut self.stream).poll_write_vectored(cx, slices);
        self.progress.wrote(polled.is_pending());
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
