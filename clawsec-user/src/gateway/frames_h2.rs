//! HTTP/2 read off the wire, both ways: what the library tells a client by itself, which hyper
//! does not say, and frames that carry nothing, which the library answers without end.
//!
//! Invariant: it reads and counts; no byte is held back or changed.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use super::failure::Failure;

/// Counts by kind, which the connection's own tick takes.
#[derive(Debug, Default)]
pub(super) struct Goodbyes([AtomicU64; KINDS.len()]);

const KINDS: [Failure; 5] = [
    Failure::Http2Protocol,
    Failure::Http2Flood,
    Failure::Http2Streams,
    Failure::Http2HeadTooLarge,
    Failure::Http2StreamClosed,
];

impl Goodbyes {
    /// What was said since the last time, and how often.
    pub(super) fn take(&self) -> impl Iterator<Item = (Failure, u64)> {
        let counts = self.0.iter().map(|count| count.swap(0, Ordering::Relaxed));
        KINDS
            .into_iter()
            .zip(counts)
            .filter(|(_, count)| *count > 0)
    }

    pub(super) fn add(&self, failure: Failure) {
        let kinds = KINDS.iter().zip(&self.0);
        for (_, count) in kinds.filter(|(kind, _)| **kind == failure) {
            count.fetch_add(1, Ordering::Relaxed);
        }
    }
}

/// One connection's frames.
#[derive(Debug)]
pub(super) struct Wire {
    said: Frames,
    heard: Frames,
    /// Frames without content since `since`.
    idle: u64,
    /// Bytes written since then: a client that is sent much may acknowledge much.
    written: u64,
    since: Instant,
    /// The last stream that the client opened.
    last_stream: [u8; 4],
}

/// Frames without content in a second. Keep-alives and acknowledgements are a few.
const MOST_IDLE_FRAMES: u64 = 1000;
/// One more for as many bytes that the client is sent: most acknowledge 16 KiB or more at once.
const BYTES_AN_IDLE_FRAME: u64 = 1024;
const PERIOD: Duration = Duration::from_secs(1);

impl Wire {
    pub(super) fn new() -> Self {
        Self {
            said: Frames::default(),
            heard: Frames::after_preface(),
            idle: 0,
            written: 0,
            since: Instant::now(),
            last_stream: [0; 4],
        }
    }

    /// Reads bytes that were written to the client.
    pub(super) fn say(&mut self, bytes: &[u8], goodbyes: &Goodbyes) {
        self.written += bytes.len() as u64;
        self.said.see(bytes, |frame| {
            if let Some(failure) = frame.tells() {
                goodbyes.add(failure);
            }
        });
    }

    /// Reads bytes of the client; false when too many of its frames carry nothing.
    pub(super) fn hear(&mut self, bytes: &[u8]) -> bool {
        let (idle, last_stream) = (&mut self.idle, &mut self.last_stream);
        self.heard.see(bytes, |frame| {
            *idle += u64::from(frame.is_idle());
            if frame.kind() == HEADERS {
                *last_stream = frame.stream();
            }
        });
        if self.idle <= MOST_IDLE_FRAMES + self.written / BYTES_AN_IDLE_FRAME {
            return true;
        }
        let is_flood = self.since.elapsed() < PERIOD;
        if !is_flood {
            (self.idle, self.written, self.since) = (0, 0, Instant::now());
        }
        !is_flood
    }

    /// What ends the connection (GOAWAY, `ENHANCE_YOUR_CALM`); nothing in the midst of a frame.
    pub(super) fn goodbye(&self) -> Vec<u8> {
        if self.said.has > 0 {
            return Vec::new();
        }
        [
            &[0, 0, 8, GOAWAY, 0, 0, 0, 0, 0][..],
            &self.last_stream,
            &[0, 0, 0, CALM],
        ]
        .concat()
    }
}

/// The frames of one direction (RFC 9113, section 4.1).
#[derive(Debug, Default)]
struct Frames {
    head: [u8; HEAD_BYTES],
    /// Of the head; all of them are there while a payload is under way.
    has: usize,
    /// Bytes of the payload that are still to come.
    left: usize,
    /// The first bytes of the payload.
    payload: [u8; KEPT_BYTES],
    kept: usize,
}

const HEAD_BYTES: usize = 9;
/// A code, or a block of headers that is a status alone.
const KEPT_BYTES: usize = 8;
const PREFACE_BYTES: usize = 24;
const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const GOAWAY: u8 = 7;
const CONTINUATION: u8 = 9;
const END_STREAM: u8 = 1;
const END_STREAM_AND_HEADERS: u8 = 5;
/// `ENHANCE_YOUR_CALM`.
const CALM: u8 = 11;

impl Frames {
    /// Those of a client, which begin after its preface.
    fn after_preface() -> Self {
        Self {
            head: [0, 0, 0, CONTINUATION, 0, 0, 0, 0, 0],
            has: HEAD_BYTES,
            left: PREFACE_BYTES,
            ..Self::default()
        }
    }

    /// Reads bytes, and gives each frame that is whole with them.
    fn see(&mut self, mut bytes: &[u8], mut whole: impl FnMut(&Self)) {
        while !bytes.is_empty() {
            if self.has < HEAD_BYTES {
                let (taken, rest) = bytes.split_at(bytes.len().min(HEAD_BYTES - self.has));
                for (place, byte) in self.head.iter_mut().skip(self.has).zip(taken) {
                    *place = *byte;
                }
                self.has += taken.len();
                bytes = rest;
                if self.has < HEAD_BYTES {
                    return;
                }
                self.left = self.length();
                self.kept = 0;
            }
            let (taken, rest) = bytes.split_at(bytes.len().min(self.left));
            for (place, byte) in self.payload.iter_mut().skip(self.kept).zip(taken) {
                *place = *byte;
            }
            self.kept = KEPT_BYTES.min(self.kept + taken.len());
            self.left -= taken.len();
            bytes = rest;
            if self.left == 0 {
                self.has = 0;
                whole(self);
            }
        }
    }

    fn length(&self) -> usize {
        let [high, middle, low, ..] = self.head;
        usize::from(high) << 16 | usize::from(middle) << 8 | usize::from(low)
    }

    fn kind(&self) -> u8 {
        self.head[3]
    }

    fn flags(&self) -> u8 {
        self.head[4]
    }

    fn stream(&self) -> [u8; 4] {
        let [.., a, b, c, d] = self.head;
        [a & 0x7f, b, c, d]
    }

    /// Whether it neither asks for something nor belongs to what does.
    fn is_idle(&self) -> bool {
        match self.kind() {
            HEADERS | CONTINUATION => false,
            DATA => self.length() == 0 && self.flags() & END_STREAM == 0,
            _ => true,
        }
    }

    /// What one of the library's own says has failed.
    fn tells(&self) -> Option<Failure> {
        let payload = self.payload.get(..self.kept)?;
        match self.kind() {
            RST_STREAM => of_code(u32::from_be_bytes(payload.try_into().ok()?)),
            // hyper puts a date into every answer: one that is a status alone is the library's
            // own, and it has one, 431.
            HEADERS
                if self.flags() == END_STREAM_AND_HEADERS
                    && self.length() == self.kept
                    && is_one_field(payload) =>
            {
                Some(Failure::Http2HeadTooLarge)
            }
            _ => None,
        }
    }
}

/// Whether a block is one field: an index, or `:status` (8 of the static table) with a short text
/// of its own (RFC 7541, section 6).
fn is_one_field(block: &[u8]) -> bool {
    match block {
        [index] => index & 0x80 != 0,
        [0x08 | 0x18 | 0x48, length, text @ ..] => usize::from(length & 0x7f) == text.len(),
        _ => false,
    }
}

/// By the codes of RFC 9113, section 7. An end that is nobody's fault (0), a failure of what stands
/// behind (2) and a cancellation (8) are told of elsewhere.
pub(super) fn of_code(code: u32) -> Option<Failure> {
    match code {
        0 | 2 | 8 => None,
        5 => Some(Failure::Http2StreamClosed),
        7 => Some(Failure::Http2Streams),
        11 => Some(Failure::Http2Flood),
        _ => Some(Failure::Http2Protocol),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(kind: u8, flags: u8, payload: &[u8]) -> Vec<u8> {
        let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
        [&length[1..], &[kind, flags, 0, 0, 0, 1], payload].concat()
    }

    #[test]
    fn what_the_library_says_is_counted_however_it_is_cut() {
        let reset = |code: u8| frame(RST_STREAM, 0, &[0, 0, 0, code]);
        let rows = [
            ("nothing", Vec::new(), None),
            ("settings", frame(4, 0, &[0; 18]), None),
            ("a body like a reset", frame(0, 0, &reset(1)), None),
            ("protocol error", reset(1), Some(Failure::Http2Protocol)),
            ("compression", reset(9), Some(Failure::Http2Protocol)),
            ("calm", reset(11), Some(Failure::Http2Flood)),
            ("refused", reset(7), Some(Failure::Http2Streams)),
            ("closed", reset(5), Some(Failure::Http2StreamClosed)),
            ("cancelled", reset(8), None),
            ("no error", reset(0), None),
            (
                "431",
                frame(HEADERS, 5, b"\x48\x03431"),
                Some(Failure::Http2HeadTooLarge),
            ),
            (
                "431 by its index",
                frame(HEADERS, 5, &[0xbe]),
                Some(Failure::Http2HeadTooLarge),
            ),
            ("with a date", frame(HEADERS, 5, b"\x48\x03431\xbf"), None),
            ("a status and a body", frame(HEADERS, 4, &[0x88]), None),
            (
                "a goodbye",
                frame(GOAWAY, 0, &[0, 0, 0, 1, 0, 0, 0, 1]),
                None,
            ),
        ];
        for (name, bytes, expected) in rows {
            let around = frame(0, 0, &[7; 300]);
            let stream = [&around[..], &bytes, &around].concat();
            for step in [1, 2, 3, 7, 9, 64, stream.len()] {
                let (mut wire, goodbyes) = (Wire::new(), Goodbyes::default());
                for piece in stream.chunks(step) {
                    wire.say(piece, &goodbyes);
                }
                let told: Vec<_> = goodbyes.take().collect();
                let expected: Vec<_> = expected.map(|failure| (failure, 1)).into_iter().collect();
                assert_eq!(told, expected, "{name} in steps of {step}");
                assert_eq!(goodbyes.take().count(), 0, "{name}: told once");
                assert_eq!(wire.goodbye().len(), 17, "{name}: between two frames");
                wire.say(&[0, 0], &goodbyes);
                assert!(wire.goodbye().is_empty(), "{name}: in the midst of one");
            }
        }
    }

    #[test]
    fn frames_that_carry_nothing_are_a_flood_beyond_what_was_sent() {
        let written = |kilobytes: usize| {
            let mut wire = Wire::new();
            let body = vec![0; 1024];
            for _ in 0..kilobytes {
                wire.say(&frame(DATA, 0, &body), &Goodbyes::default());
            }
            assert!(wire.hear(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"));
            wire
        };
        let within = |mut wire: Wire, frame: &[u8]| {
            let stream = frame.repeat(10_000);
            let pieces: Vec<&[u8]> = stream.chunks(100).collect();
            pieces.iter().take_while(|piece| wire.hear(piece)).count() * 100 / frame.len()
        };
        let rows = [
            ("settings", frame(4, 0, b""), 1000),
            ("pings", frame(6, 0, b"12345678"), 1000),
            ("priorities", frame(2, 0, b"12345"), 1000),
            ("windows", frame(8, 0, b"1234"), 1000),
            ("resets", frame(RST_STREAM, 0, b"1234"), 1000),
            ("unknown", frame(77, 0, b""), 1000),
            ("empty bodies", frame(DATA, 0, b""), 1000),
            ("bodies", frame(DATA, 0, b"1"), 10_000),
            ("heads", frame(HEADERS, 4, b"1"), 10_000),
        ];
        for (name, frame, expected) in rows {
            let frames = within(written(0), &frame);
            assert!(frames.abs_diff(expected) < 20, "{name}: {frames}");
        }
        let frames = within(written(3000), &frame(8, 0, b"1234"));
        assert!(frames.abs_diff(4000) < 100, "after an answer: {frames}");
        let mut later = written(0);
        for _ in 0..3 {
            assert!(later.hear(&frame(6, 0, b"12345678").repeat(900)));
            later.since = later.since.checked_sub(PERIOD).unwrap();
        }
        later.hear(&[0, 0, 0, HEADERS, 4, 0x80, 0, 1, 3]);
        assert_eq!(later.goodbye()[9..], [0, 0, 1, 3, 0, 0, 0, CALM]);
    }
}
