//! A tool's output under a cap: its head and its tail are kept, the middle is counted.
//!
//! Invariant: what is held never exceeds the cap, however much is written, and reading goes on
//! after the cap so that a tool never blocks on a full pipe.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::io::{AsyncRead, AsyncReadExt};

/// What was kept of one stream.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Captured {
    pub head: Vec<u8>,
    /// Empty unless something was left out or the head is full.
    pub tail: Vec<u8>,
    /// Everything the tool wrote, kept or not.
    pub total_bytes: u64,
    pub truncated: bool,
}

impl Captured {
    /// Head and tail, with nothing between them even where something was left out.
    pub fn bytes(&self) -> Vec<u8> {
        [self.head.as_slice(), self.tail.as_slice()].concat()
    }

    /// Bytes between head and tail that were not kept.
    pub fn omitted_bytes(&self) -> u64 {
        let kept = self.head.len() + self.tail.len();
        self.total_bytes.saturating_sub(kept as u64)
    }

    /// The text for a person or a model, with a line that says what was left out.
    pub fn text(&self) -> String {
        if !self.truncated {
            return String::from_utf8_lossy(&self.bytes()).into_owned();
        }
        let (head, tail) = (
            String::from_utf8_lossy(&self.head),
            String::from_utf8_lossy(&self.tail),
        );
        format!(
            "{head}\n[… {} bytes left out …]\n{tail}",
            self.omitted_bytes()
        )
    }
}

/// Both streams of one execution, readable while it runs.
#[derive(Debug, Clone)]
pub struct Output {
    pub(super) stdout: Capture,
    pub(super) stderr: Capture,
}

impl Output {
    /// `cap_bytes` is for each stream.
    pub fn new(cap_bytes: usize) -> Self {
        Self {
            stdout: Capture::new(cap_bytes),
            stderr: Capture::new(cap_bytes),
        }
    }

    /// Docker says on the tool's own output why it could not execute it. Moves that to the errors;
    /// false if it is something else.
    pub(super) fn blame_daemon(&self) -> bool {
        let said = self.stdout.snapshot().head;
        if !said.starts_with(b"OCI runtime exec failed") {
            return false;
        }
        self.stdout.clear();
        self.stderr.push(&said);
        true
    }

    /// What has come so far.
    pub fn so_far(&self) -> (Captured, Captured) {
        (self.stdout.snapshot(), self.stderr.snapshot())
    }
}

/// One stream's buffer, shared by the task that fills it and those that look.
#[derive(Debug, Clone)]
pub(super) struct Capture(Arc<Mutex<Buffer>>);

impl Capture {
    pub(super) fn new(cap_bytes: usize) -> Self {
        let tail_cap = cap_bytes / 2;
        Self(Arc::new(Mutex::new(Buffer {
            head_cap: cap_bytes - tail_cap,
            tail_cap,
            head: Vec::new(),
            tail: VecDeque::new(),
            total: 0,
        })))
    }

    pub(super) fn push(&self, bytes: &[u8]) {
        self.lock().push(bytes);
    }

    fn clear(&self) {
        let mut buffer = self.lock();
        buffer.head.clear();
        buffer.tail.clear();
        buffer.total = 0;
    }

    pub(super) fn snapshot(&self) -> Captured {
        let buffer = self.lock();
        let kept = (buffer.head.len() + buffer.tail.len()) as u64;
        Captured {
            head: buffer.head.clone(),
            tail: buffer.tail.iter().copied().collect(),
            total_bytes: buffer.total,
            truncated: buffer.total > kept,
        }
    }

    /// Reads to the end of `stream`. A read error ends it: the other side is gone.
    pub(super) async fn drain(&self, mut stream: impl AsyncRead + Unpin) {
        let mut chunk = vec![0; CHUNK_BYTES];
        loop {
            match stream.read(&mut chunk).await {
                Ok(0) | Err(_) => return,
                Ok(length) => self.push(chunk.get(..length).unwrap_or_default()),
            }
        }
    }

    /// A panic in `push` cannot leave the buffer in a state that matters.
    fn lock(&self) -> MutexGuard<'_, Buffer> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[derive(Debug)]
struct Buffer {
    head_cap: usize,
    tail_cap: usize,
    head: Vec<u8>,
    tail: VecDeque<u8>,
    total: u64,
}

impl Buffer {
    fn push(&mut self, bytes: &[u8]) {
        self.total = self.total.saturating_add(bytes.len() as u64);
        let room = self.head_cap.saturating_sub(self.head.len());
        let (head, rest) = bytes.split_at(room.min(bytes.len()));
        self.head.extend_from_slice(head);
        // Only the last `tail_cap` bytes of this chunk can matter.
        let start = rest.len().saturating_sub(self.tail_cap);
        let rest = rest.get(start..).unwrap_or_default();
        let excess = (self.tail.len() + rest.len()).saturating_sub(self.tail_cap);
        self.tail.drain(..excess);
        self.tail.extend(rest);
    }
}

const CHUNK_BYTES: usize = 32 * 1024;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn head_and_tail_are_kept_and_the_middle_is_counted() {
        // name, cap, chunks, head, tail, omitted
        type Row = (
            &'static str,
            usize,
            &'static [&'static str],
            &'static str,
            &'static str,
            u64,
        );
        let rows: &[Row] = &[
            ("nothing", 4, &[], "", "", 0),
            ("fits the head", 4, &["ab"], "ab", "", 0),
            ("fits exactly", 4, &["abcd"], "ab", "cd", 0),
            ("one over", 4, &["abcde"], "ab", "de", 1),
            (
                "byte by byte",
                4,
                &["a", "b", "c", "d", "e", "f"],
                "ab",
                "ef",
                2,
            ),
            ("odd cap favours the head", 5, &["abcdefgh"], "abc", "gh", 3),
            (
                "a chunk far over the cap",
                4,
                &["ab", "cdefghij"],
                "ab",
                "ij",
                6,
            ),
            ("cap of nothing", 0, &["abc"], "", "", 3),
        ];
        for (name, cap, chunks, head, tail, omitted) in rows {
            let capture = Capture::new(*cap);
            for chunk in *chunks {
                capture.push(chunk.as_bytes());
            }
            let captured = capture.snapshot();
            assert_eq!(captured.head, head.as_bytes(), "{name}");
            assert_eq!(captured.tail, tail.as_bytes(), "{name}");
            assert_eq!(captured.omitted_bytes(), *omitted, "{name}");
            assert_eq!(captured.truncated, *omitted > 0, "{name}");
        }
    }

    #[test]
    fn text_says_what_was_left_out() {
        let capture = Capture::new(4);
        capture.push(b"abcdefgh");
        assert_eq!(capture.snapshot().text(), "ab\n[… 4 bytes left out …]\ngh");
    }
}
