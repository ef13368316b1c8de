//! The bytes of a request's head as they came, kept for the checks that hyper's parser hides.
//!
//! hyper 1.12 reads bare line feeds as line ends and drops `Content-Length` where
//! `Transfer-Encoding` stands too, so neither can be seen in the parsed request. Another server
//! may read such a head differently; no honest client sends one.

use std::sync::{Mutex, PoisonError};

/// A little over what hyper itself is allowed to read as a head.
const MAX_HEAD_BYTES: usize = 40 * 1024;

/// The head of the request that is being served, if it was seen whole.
#[derive(Debug)]
pub(super) struct Head {
    state: Mutex<State>,
    protocol: Protocol,
}

/// What is spoken on a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Protocol {
    Http1,
    /// Frames carry lengths, and heads are lists: there is no text to misread.
    Http2,
}

#[derive(Debug)]
struct State {
    bytes: Vec<u8>,
    capturing: bool,
    complete: bool,
    /// Bytes of a head came that nobody has judged.
    unjudged: bool,
    /// The request id of the answer that hyper's own was replaced with.
    replaced: Option<String>,
}

impl Default for State {
    fn default() -> Self {
        Self {
            bytes: Vec::new(),
            capturing: true,
            complete: false,
            unjudged: false,
            replaced: None,
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
    /// HTTP/2.
    Framed,
}

impl Head {
    pub(super) fn new(protocol: Protocol) -> Self {
        Self {
            state: Mutex::default(),
            protocol,
        }
    }

    pub(super) fn protocol(&self) -> Protocol {
        self.protocol
    }

    /// Judges the head that was just parsed and stops capturing.
    pub(super) fn judge(&self) -> HeadForm {
        if self.protocol == Protocol::Http2 {
            return HeadForm::Framed;
        }
        let mut state = self.lock();
        state.capturing = false;
        state.unjudged = false;
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

    /// Whether bytes came that make no request yet, or never will.
    pub(super) fn is_unjudged(&self) -> bool {
        self.protocol == Protocol::Http1 && self.lock().unjudged
    }

    /// Notes under which id the head was answered that hyper could not read.
    pub(super) fn replaced(&self, id: String) {
        self.lock().replaced = Some(id);
    }

    pub(super) fn take_replaced(&self) -> Option<String> {
        self.lock().replaced.take()
    }

    pub(super) fn see(&self, bytes: &[u8]) {
        if self.protocol == Protocol::Http2 {
            return;
        }
        let mut state = self.lock();
        if !state.capturing {
            return;
        }
        state.unjudged = true;
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
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
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
                let head = Head::new(Protocol::Http1);
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
        let head = Head::new(Protocol::Http1);
        head.see(b"GET / HTTP/1.1\r\nHost: a\r\n");
        assert_eq!(head.judge(), HeadForm::Unseen);
        head.expect_next();
        head.see(b"GET / HTTP/1.1\r\n\r\n");
        assert_eq!(head.judge(), HeadForm::Plain);
    }
}
