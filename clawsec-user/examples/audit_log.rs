//! Writes a log of a given size, as weeks of a busy gateway would: for `cargo xtask bench audit`.
//!
//! Chained and summed, so that `clawsec audit verify --no-head` finds it whole. The same bytes
//! every time.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufWriter, Write as _};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use anyhow::Context as _;
use clawsec_user::audit::{Chain, Digest, Entry, Record, Span, Stamp};
use clawsec_user::event::{Event, EventKind, Outcome, SandboxFact, ToolFact};

fn main() -> anyhow::Result<()> {
    let mut arguments = std::env::args().skip(1);
    let path = arguments.next().context("usage: audit_log FILE BYTES")?;
    let bytes: u64 = arguments.next().context("how many bytes?")?.parse()?;
    let mut file = BufWriter::new(File::create(&path).context(path)?);
    let mut life = Life::default();
    let chain = Chain::new(None);
    let mut prev = Digest::ZERO;
    let mut line = Vec::new();
    let mut written = 0;
    let mut seq = 0;
    while written < bytes {
        seq += 1;
        let mut record = Record::new(&life.next(), seq, prev);
        line.clear();
        record.encode(&chain, &mut line);
        prev = record.hash;
        written += line.len() as u64;
        file.write_all(&line)?;
    }
    file.flush()?;
    Ok(())
}

/// What happens, one event after the other.
struct Life {
    now_micros: i64,
    random: u64,
    dropped: BTreeMap<String, u64>,
    begun: bool,
}

impl Default for Life {
    fn default() -> Self {
        Self {
            // 2026-01-01.
            now_micros: 1_767_225_600_000_000,
            random: 0x9e37_79b9_7f4a_7c15,
            dropped: BTreeMap::new(),
            begun: false,
        }
    }
}

impl Life {
    fn next(&mut self) -> Entry {
        let hour = self.now_micros / 3_600_000_000 % 24;
        // Nights are quieter.
        let pace = if (6..22).contains(&hour) { 1 } else { 3 };
        self.now_micros += 1 + i64::from(self.below(1_000_000)) * pace;
        if !self.begun {
            self.begun = true;
            let mut entry = self.entry(EventKind::System, "epoch", Outcome::Allow, "ok");
            entry.epoch = Some(1);
            return entry;
        }
        match self.below(10_000) {
            0..5_500 => self.drop(),
            5_500..7_980 => self.message(),
            7_980..8_000 => self.failed(),
            8_000..9_000 => self.tool(),
            9_000..9_900 => self.auth(),
            9_900..9_999 => self.checkpoint(),
            _ => self.lost(),
        }
    }

    fn drop(&mut self) -> Entry {
        let reason = ["not_allowed", "banned", "rate_limited"][self.pick(3)];
        let mut entry = self.entry(EventKind::Network, "drop", Outcome::Deny, reason);
        // A few sources make most of the noise.
        let source = self
            .below(40_000)
            .min(self.below(40_000))
            .min(self.below(40_000));
        entry.event.source = Some(if source.is_multiple_of(10) {
            IpAddr::V6(Ipv6Addr::new(
                0x2001,
                0xdb8,
                0,
                (source % 9_999) as u16,
                0,
                0,
                0,
                1,
            ))
        } else {
            IpAddr::V4(Ipv4Addr::from_bits(
                0x2d00_0000_u32.wrapping_add(source.wrapping_mul(2_654_435)),
            ))
        });
        entry.event.count = 1 + u64::from(self.below(300));
        entry.span = Some(Span {
            first: Stamp::from_micros(self.now_micros - 900_000),
            last: Stamp::from_micros(self.now_micros),
        });
        *self.dropped.entry(reason.to_owned()).or_default() += entry.event.count;
        entry
    }

    fn message(&mut self) -> Entry {
        let mut entry = self.entry(EventKind::Message, "send", Outcome::Allow, "ok");
        self.request(&mut entry.event);
        entry.event.session = Some(format!("agent:work:{}", self.below(40)));
        entry.event.agent = Some("work".to_owned());
        entry.event.detail = Some("method chat.send, 812 bytes".to_owned());
        entry
    }

    fn failed(&mut self) -> Entry {
        let reason = ["upstream_unreachable", "upstream_timeout"][self.pick(2)];
        let mut entry = self.entry(EventKind::Message, "request", Outcome::Error, reason);
        self.request(&mut entry.event);
        entry
    }

    fn lost(&mut self) -> Entry {
        let mut entry = self.entry(EventKind::System, "lost", Outcome::Error, "queue_full");
        entry.event.count = 1 + u64::from(self.below(40));
        entry.event.generation = 0;
        entry.totals = Some(BTreeMap::from([("auth".to_owned(), entry.event.count)]));
        entry
    }

    fn tool(&mut self) -> Entry {
        let denied = self.below(6) == 0;
        let (outcome, reason) = if denied {
            (Outcome::Deny, "tool_denied")
        } else {
            (Outcome::Allow, "ok")
        };
        let mut entry = self.entry(EventKind::Tool, "invoke", outcome, reason);
        self.request(&mut entry.event);
        entry.event.tool = Some(ToolFact {
            name: ["exec", "bash", "process", "web_fetch", "read"][self.pick(5)].to_owned(),
            args_bytes: u64::from(self.below(4_000)),
        });
        entry.event.rule = denied.then(|| "tools.deny[0]".to_owned());
        entry.event.sandbox = (!denied).then(|| SandboxFact {
            provider: "docker".to_owned(),
            exit: Some(0),
            signal: None,
            oom: false,
            timed_out: false,
            duration_ms: u64::from(self.below(3_000)),
            output_bytes: u64::from(self.below(100_000)),
            truncated: false,
        });
        entry
    }

    fn auth(&mut self) -> Entry {
        let failed = self.below(3) == 0;
        let (outcome, reason) = if failed {
            (Outcome::Deny, "credential_unknown")
        } else {
            (Outcome::Allow, "ok")
        };
        let mut entry = self.entry(EventKind::Auth, "connect", outcome, reason);
        self.request(&mut entry.event);
        if failed {
            entry.event.principal = None;
            entry.event.rule = Some("security.auth".to_owned());
        }
        entry
    }

    fn checkpoint(&mut self) -> Entry {
        let mut entry = self.entry(EventKind::Network, "checkpoint", Outcome::Allow, "ok");
        entry.event.count = 0;
        entry.event.generation = 0;
        entry.epoch = Some(1);
        entry.totals = Some(self.dropped.clone());
        entry
    }

    fn entry(
        &self,
        kind: EventKind,
        action: &'static str,
        outcome: Outcome,
        reason: &'static str,
    ) -> Entry {
        let mut event = Event::new(kind, action, outcome, reason);
        event.generation = 7;
        Entry::new(event, Stamp::from_micros(self.now_micros))
    }

    fn request(&mut self, event: &mut Event) {
        let who = self.below(60);
        event.source = Some(IpAddr::V4(Ipv4Addr::from_bits(0xc0a8_010a + who)));
        event.port = u16::try_from(32_768 + self.below(28_000)).ok();
        event.request = Some(format!("{:013x}", self.now_micros));
        event.principal = Some(format!("key-{}", who % 12));
        event.user = Some(format!("+1555{:07}", who * 7_919));
    }

    fn pick(&mut self, among: u32) -> usize {
        self.below(among) as usize
    }

    /// xorshift64*: the same numbers everywhere.
    fn below(&mut self, limit: u32) -> u32 {
        self.random ^= self.random >> 12;
        self.random ^= self.random << 25;
        self.random ^= self.random >> 27;
        let mixed = self.random.wrapping_mul(0x2545_f491_4f6c_dd1d);
        (((mixed >> 32) * u64::from(limit)) >> 32) as u32
    }
}
