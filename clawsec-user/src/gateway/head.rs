//! The bytes of a request's head as they came, kept for the checks that hyper's parser hides.
//!
//! hyper 1.12 reads bare line feeds as line ends and drops `Content-Length` where
//! `Transfer-Encoding` stands too, so neither can be seen in the parsed request. Another server
//! may read such a head differently; no honest client sends one.

use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// A little over what hyper itself is allowed to read as a head.
const MAX_HEAD_BYTES: usize = 40 * 1024;

/// The head of the request that is being served, if it was seen whole.
#[derive(Debug, Default)]
pub(super) struct Head(Mutex<State>);

#[derive(Debug)]
struct State {
    bytes: Vec<u8>,
    capturing: bool,
    complete: bool,
}

impl Default for State {
    fn default() -> Self {
        Self {
            bytes: Vec::new(),
            capturing: true,
            complete: false,
        }
    }
}

/// What the bytes of a head say about its framing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum HeadForm {
    Plain,
    Ambiguous(&'static str),
    /// The head was read together with the request before it.
    Unseen,
}

impl Head {
    /// Judges the head that was just parsed and stops capturing.
    pub(super) fn judge(&self) -> HeadForm {
        let mut state = self.lock();
        state.capturing = false;
        if !state.complete {
            return HeadForm::Unseen;
        }
        judge(&std::mem::take(&mut state.bytes))
    }

    /// The current request is read to its end: what comes next is a head.
    pub(super) fn expect_next(&self) {
        let mut state = self.lock();
        state.bytes.clear();
        state.capturing = true;
        state.complete = false;
    }

    pub(super) fn see(&self, bytes: &[u8]) {
        let mut state = self.lock();
        if !state.capturing {
            return;
        }
        let room = MAX_HEAD_BYTES.saturating_sub(state.bytes.len());
        let searched = state.bytes.len().saturating_sub(3);
        state
            .bytes
            .extend_from_slice(bytes.get(..room).unwrap_or(bytes));
        if let Some(end) = find_end(&state.bytes, searched) {
            state.bytes.truncate(end);
            state.complete = true;
            state.capturing = false;
        } else if state.bytes.len() >= MAX_HEAD_BYTES {
            state.capturing = false;
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The end of the first empty line at or after `from`, with either kind of line end.
fn find_end(bytes: &[u8], from: usize) -> Option<usize> {
    // Empty lines before the request line are skipped by servers, so by us.
    let start = bytes
        .iter()
        .position(|byte| !matches!(byte, b'\r' | b'\n'))?;
    let from = from.max(start);
    let tail = bytes.get(from..)?;
    let at = |(index, _): (usize, &u8)| {
        let rest = tail.get(index + 1..).unwrap_or_default();
        match rest {
            [b'\n', ..] => Some(from + index + 2),
            [b'\r', b'\n', ..] => Some(from + index + 3),
            _ => None,
        }
    };
    tail.iter()
        .enumerate()
        .filter(|(_, byte)| **byte == b'\n')
        .find_map(at)
}

fn judge(head: &[u8]) -> HeadForm {
    let mut previous = 0;
    for &byte in head {
        if byte == b'\n' && previous != b'\r' {
            return HeadForm::Ambiguous("a line of the head ends without a carriage return");
        }
        previous = byte;
    }
    let count = |name: &str| {
        head.split(|&byte| byte == b'\n')
            .skip(1)
            .filter_map(|line| line.split(|&byte| byte == b':').next())
            .filter(|field| field.trim_ascii().eq_ignore_ascii_case(name.as_bytes()))
            .count()
    };
    match (count("content-length"), count("transfer-encoding")) {
        (0 | 1, 0) | (0, 1) => HeadForm::Plain,
        (_, 0) => HeadForm::Ambiguous("more than one Content-Length"),
        (0, _) => HeadForm::Ambiguous("more than one Transfer-Encoding"),
        (_, _) => HeadForm::Ambiguous("both Content-Length and Transfer-Encoding"),
    }
}

/// A stream whose reads are shown to a `Head`.
#[derive(Debug)]
pub(super) struct Watched<S> {
    stream: S,
    head: Arc<Head>,
}

impl<S> Watched<S> {
    pub(super) fn new(stream: S, head: Arc<Head>) -> Self {
        Self { stream, head }
    }
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
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn heads_with_two_readings_are_ambiguous() {
        let rows = [
            ("plain", "GET / HTTP/1.1\r\nHost: a\r\n\r\n", true),
            (
                "length",
                "POST / HTTP/1.1\r\nContent-Length: 3\r\n\r\nabc",
                true,
            ),
            (
                "leading line",
                "\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n",
                true,
            ),
            ("bare line feeds", "GET / HTTP/1.1\nHost: a\n\n", false),
            (
                "one bare line feed",
                "GET / HTTP/1.1\r\nA: b\nHost: a\r\n\r\n",
                false,
            ),
            (
                "both",
                "POST / HTTP/1.1\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n",
                false,
            ),
            (
                "two lengths",
                "POST / HTTP/1.1\r\ncontent-length: 3\r\nContent-Length: 3\r\n\r\n",
                false,
            ),
            (
                "two encodings",
                "POST / HTTP/1.1\r\nTransfer-Encoding: identity\r\nTransfer-Encoding: chunked\r\n\r\n",
                false,
            ),
        ];
        for (name, text, plain) in rows {
            for step in [1, 7, text.len()] {
                let head = Head::default();
                for chunk in text.as_bytes().chunks(step) {
                    head.see(chunk);
                }
                let form = head.judge();
                assert_eq!(
                    form == HeadForm::Plain,
                    plain,
                    "{name} in steps of {step}: {form:?}"
                );
                assert_ne!(form, HeadForm::Unseen, "{name}");
            }
        }
    }

    #[test]
    fn a_head_that_was_not_seen_whole_is_not_called_plain() {
        let head = Head::default();
        head.see(b"GET / HTTP/1.1\r\nHost: a\r\n");
        assert_eq!(head.judge(), HeadForm::Unseen);
        head.expect_next();
        head.see(b"GET / HTTP/1.1\r\n\r\n");
        assert_eq!(head.judge(), HeadForm::Plain);
    }
}
