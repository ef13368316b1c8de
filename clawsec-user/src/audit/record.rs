//! The line format: a promise to everyone who reads the log.
//!
//! Invariant: a line is at most `MAX_LINE_BYTES` with its newline, holds no control character, and
//! its last two fields are `prev` and `hash`, so that the hashed text is the line less a fixed
//! tail. `docs/audit.md` describes each field; the golden test below shows a line of each kind.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use super::chain::{Chain, Digest};
use super::entry::{Entry, Span};
use super::redact::redact;
use super::stamp::Stamp;
use super::sums::Fact;
use super::text::fit;
use crate::event::{Event, EventKind, Outcome, SandboxFact, ToolFact};

/// The longest line, newline included.
pub const MAX_LINE_BYTES: usize = 8192;

/// One line of the log. Absent fields are left out of the line.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// Schema version; readers accept fields they do not know.
    pub v: u8,
    /// Starts at 1 and grows by 1, across rotations.
    pub seq: u64,
    pub ts: Stamp,
    pub event: EventKind,
    pub action: Text,
    pub outcome: Outcome,
    pub reason: Text,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub rule: Option<String>,
    /// The policy generation that decided; 0 and left out where none was involved.
    #[serde(skip_serializing_if = "is_zero", default)]
    pub generation: u64,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub src: Option<Source>,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub request: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub principal: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub user: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub group: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub agent: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub session: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub tool: Option<ToolFact>,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub sandbox: Option<SandboxFact>,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub duration_ms: Option<u64>,
    /// Occurrences this line adds to the sums. Always written.
    pub count: u64,
    /// Occurrences named here that an earlier line counted as not attributed.
    #[serde(skip_serializing_if = "is_zero", default)]
    pub settles: u64,
    /// About how many different sources it tells of, where it names none.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub sources: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub epoch: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub totals: Option<BTreeMap<String, u64>>,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub first: Option<Stamp>,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub last: Option<Stamp>,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub detail: Option<String>,
    pub prev: Digest,
    #[serde(skip_serializing)]
    pub hash: Digest,
}

/// A word of a closed set when written, any text when read.
pub(super) type Text = Cow<'static, str>;

/// Where it came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Source {
    pub ip: IpAddr,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub port: Option<u16>,
}

impl Record {
    /// Numbers an entry and makes its text safe. The hash is set by `encode`.
    pub fn new(entry: &Entry, seq: u64, prev: Digest) -> Self {
        let event = &entry.event;
        let text = |field: &Option<String>, max| field.as_deref().map(|s| fit(s, max).into_owned());
        // Texts that somebody else may have chosen whole.
        let free = |field: &Option<String>, max| {
            let safe = field.as_deref().map(redact);
            safe.map(|safe| fit(&safe, max).into_owned())
        };
        Self {
            v: 1,
            seq,
            ts: entry.at,
            event: event.kind,
            action: word(&event.action),
            outcome: event.outcome,
            reason: word(&event.reason),
            rule: text(&event.rule, 256),
            generation: event.generation,
            src: event.source.map(|ip| Source {
                ip: ip.to_canonical(),
                port: event.port,
            }),
            request: free(&event.request, 128),
            principal: text(&event.principal, 128),
            user: text(&event.user, 128),
            group: text(&event.group, 128),
            agent: text(&event.agent, 128),
            session: free(&event.session, 256),
            tool: event.tool.as_ref().map(|tool| ToolFact {
                name: fit(&tool.name, 128).into_owned(),
                args_bytes: tool.args_bytes,
            }),
            sandbox: event.sandbox.as_ref().map(|sandbox| SandboxFact {
                provider: fit(&sandbox.provider, 64).into_owned(),
                ..sandbox.clone()
            }),
            duration_ms: event.duration_ms,
            count: event.count,
            settles: event.settles,
            sources: entry.sources,
            epoch: entry.epoch,
            totals: entry.totals.as_ref().map(|totals| {
                let name =
                    |(reason, total): (&String, &u64)| (fit(reason, 64).into_owned(), *total);
                totals.iter().map(name).collect()
            }),
            first: entry.span.map(|span| span.first),
            last: entry.span.map(|span| span.last),
            detail: free(&event.detail, 1024),
            prev,
            hash: Digest::ZERO,
        }
    }

    /// Sets the hash and appends the line, newline included, to `out`.
    pub fn encode(&mut self, chain: &Chain, out: &mut Vec<u8>) {
        let start = out.len();
        self.serialize_into(out);
        // The limits above bound every field; only text made of quotes and backslashes, which
        // JSON doubles, or totals of far more reasons than there are, can come here.
        for shorten in [Self::drop_detail, Self::shorten_names, Self::drop_totals] {
            if out.len() - start + HASH_FIELD_BYTES < MAX_LINE_BYTES {
                break;
            }
            shorten(self);
            out.truncate(start);
            self.serialize_into(out);
        }
        self.hash = chain.link(&self.prev, &out[start..]);
        // `}` gives way to `,"hash":"…"}`.
        out.pop();
        out.extend_from_slice(b",\"hash\":\"");
        out.extend_from_slice(&self.hash.to_hex());
        out.extend_from_slice(b"\"}\n");
    }

    /// Reads a line, with or without its newline.
    ///
    /// # Errors
    /// When it is no JSON object or lacks a field that every record has.
    pub fn parse(line: &[u8]) -> Result<Self, serde_json::Error> {
        serde_json::from_slice(line)
    }

    /// Occurrences this line tells about, whether they were already in the sums or not.
    pub fn occurrences(&self) -> u64 {
        self.count.saturating_add(self.settles)
    }

    /// What sums depend on.
    pub(super) fn fact(&self) -> Fact<'_> {
        Fact {
            kind: self.event,
            action: &self.action,
            reason: &self.reason,
            count: self.count,
            totals: self.totals.as_ref(),
            epoch: self.epoch,
        }
    }

    fn serialize_into(&self, out: &mut Vec<u8>) {
        // Writing plain structs to memory cannot fail; were it to, the line would be unreadable
        // and `verify` would name it.
        if let Err(error) = serde_json::to_writer(&mut *out, self) {
            tracing::error!(%error, seq = self.seq, "record not serialised");
        }
    }

    fn drop_detail(&mut self) {
        if let Some(detail) = &mut self.detail {
            *detail = format!("…[+{} bytes]", detail.len());
        }
    }

    fn shorten_names(&mut self) {
        let fields = [
            &mut self.rule,
            &mut self.request,
            &mut self.principal,
            &mut self.user,
            &mut self.group,
            &mut self.agent,
            &mut self.session,
        ];
        for field in fields.into_iter().flatten() {
            *field = fit(field, 48).into_owned();
        }
    }

    fn drop_totals(&mut self) {
        self.totals = None;
    }
}

/// The event and what the audit plane added, without number and hashes.
impl From<Record> for Entry {
    fn from(record: Record) -> Self {
        Self {
            at: record.ts,
            span: match (record.first, record.last) {
                (Some(first), Some(last)) => Some(Span { first, last }),
                _ => None,
            },
            totals: record.totals,
            sources: record.sources,
            epoch: record.epoch,
            event: Event {
                kind: record.event,
                action: record.action,
                outcome: record.outcome,
                reason: record.reason,
                rule: record.rule,
                generation: record.generation,
                source: record.src.map(|source| source.ip),
                port: record.src.and_then(|source| source.port),
                request: record.request,
                principal: record.principal,
                user: record.user,
                group: record.group,
                agent: record.agent,
                session: record.session,
                tool: record.tool,
                sandbox: record.sandbox,
                duration_ms: record.duration_ms,
                count: record.count,
                settles: record.settles,
                detail: record.detail,
            },
        }
    }
}

/// Splits a line (without newline) into the hash it claims and the text that hash covers, which
/// is left in `canonical`.
pub(super) fn split_hash(line: &[u8], canonical: &mut Vec<u8>) -> Option<Digest> {
    let start = line.len().checked_sub(HASH_FIELD_BYTES)?;
    let (body, tail) = line.split_at(start);
    let hex = tail.strip_prefix(b",\"hash\":\"")?.strip_suffix(b"\"}")?;
    canonical.clear();
    canonical.extend_from_slice(body);
    canonical.push(b'}');
    Digest::from_hex(hex)
}

fn word(word: &Text) -> Text {
    match fit(word, 64) {
        Cow::Borrowed(same) if same.len() == word.len() => word.clone(),
        other => Cow::Owned(other.into_owned()),
    }
}

#[expect(
    clippy::trivially_copy_pass_by_ref,
    reason = "serde calls it with a reference"
)]
fn is_zero(number: &u64) -> bool {
    *number == 0
}

/// `,"hash":"` + 64 + `"}`.
const HASH_FIELD_BYTES: usize = 75;

#[cfg(test)]
mod tests {
    use super::*;

    fn full(
        kind: EventKind,
        action: &'static str,
        outcome: Outcome,
        reason: &'static str,
    ) -> Entry {
        let mut event = Event::new(kind, action, outcome, reason);
        event.generation = 7;
        event.source = Some("203.0.113.7".parse().unwrap());
        event.port = Some(51234);
        event.request = Some("01JD".to_owned());
        Entry::new(event, Stamp::from_micros(1_767_225_600_000_001))
    }

    fn one_of_each_kind() -> Vec<Entry> {
        let mut auth = full(
            EventKind::Auth,
            "connect",
            Outcome::Deny,
            "credential_unknown",
        );
        auth.event.rule = Some("security.auth".to_owned());
        auth.event.count = 41;
        auth.span = Some(Span {
            first: Stamp::from_micros(1_767_225_590_000_000),
            last: Stamp::from_micros(1_767_225_599_999_999),
        });
        let mut message = full(EventKind::Message, "send", Outcome::Allow, "ok");
        message.event.principal = Some("phone".to_owned());
        message.event.user = Some("+15551234567".to_owned());
        message.event.group = Some("1203@g.us".to_owned());
        message.event.agent = Some("work".to_owned());
        message.event.session = Some("agent:work:main".to_owned());
        let mut tool = full(EventKind::Tool, "invoke", Outcome::Allow, "ok");
        tool.event.tool = Some(ToolFact {
            name: "exec".to_owned(),
            args_bytes: 34,
        });
        tool.event.sandbox = Some(SandboxFact {
            provider: "docker".to_owned(),
            exit: Some(0),
            signal: None,
            oom: false,
            timed_out: false,
            duration_ms: 81,
            output_bytes: 12,
            truncated: false,
        });
        let mut config = full(
            EventKind::Config,
            "reload",
            Outcome::Error,
            "config_invalid",
        );
        config.event.detail = Some("a \"quoted\"\n\u{1b}[31mline".to_owned());
        let mut network = full(EventKind::Network, "drop", Outcome::Deny, "not_allowed");
        network.event.source = Some("::ffff:198.51.100.9".parse().unwrap());
        network.event.port = None;
        network.event.count = 120;
        network.event.settles = 12;
        let mut system = Entry::new(
            Event::new(EventKind::Network, "checkpoint", Outcome::Allow, "ok"),
            Stamp::from_micros(1_767_225_600_000_002),
        );
        system.event.count = 0;
        system.epoch = Some(1);
        system.totals = Some(BTreeMap::from([("not_allowed".to_owned(), 120)]));
        let lost = Entry::new(
            Event::new(EventKind::System, "lost", Outcome::Error, "queue_full"),
            Stamp::from_micros(1_767_225_600_000_003),
        );
        vec![auth, message, tool, config, network, system, lost]
    }

    /// Set `BLESS=1` to rewrite the golden file after a deliberate change of the format.
    #[test]
    fn a_line_of_each_kind_is_as_promised() {
        let mut lines = Vec::new();
        let mut prev = Digest::ZERO;
        for (seq, entry) in (1..).zip(one_of_each_kind()) {
            let mut record = Record::new(&entry, seq, prev);
            record.encode(&Chain::new(None), &mut lines);
            prev = record.hash;
        }
        let lines = String::from_utf8(lines).unwrap();
        if std::env::var_os("BLESS").is_some() {
            let path = concat!(env!("CARGO_MANIFEST_DIR"), "/src/audit/golden.jsonl");
            std::fs::write(path, &lines).unwrap();
        }
        assert_eq!(lines, include_str!("golden.jsonl"));
    }

    #[test]
    fn a_line_reads_back_as_what_was_written() {
        for entry in one_of_each_kind() {
            let mut line = Vec::new();
            let mut record = Record::new(&entry, 9, Digest::ZERO);
            record.encode(&Chain::new(None), &mut line);
            assert_eq!(Record::parse(&line).unwrap(), record);
            let back = Entry::from(record.clone());
            assert_eq!(Record::new(&back, 9, Digest::ZERO).count, record.count);
            assert_eq!(back.span, entry.span);
            assert_eq!(
                back.event.source,
                entry.event.source.map(|ip| ip.to_canonical())
            );
        }
    }

    #[test]
    fn the_hash_covers_the_line_less_its_last_field() {
        let mut line = Vec::new();
        let chain = Chain::new(None);
        let mut record = Record::new(&one_of_each_kind()[0], 1, Digest::ZERO);
        record.encode(&chain, &mut line);
        let mut canonical = Vec::new();
        let claimed = split_hash(&line[..line.len() - 1], &mut canonical).unwrap();
        assert_eq!(chain.link(&Digest::ZERO, &canonical), claimed);
    }

    #[test]
    fn no_secret_that_others_put_into_a_text_is_written() {
        let mut event = Event::new(EventKind::Message, "send", Outcome::Deny, "tool_denied");
        let secret = "sk-0123456789abcdef";
        event.detail = Some(format!("upstream said: token={secret}"));
        event.session = Some(secret.to_owned());
        event.request = Some(format!("--token {secret}"));
        let mut line = Vec::new();
        Record::new(&event.into(), 1, Digest::ZERO).encode(&Chain::new(None), &mut line);
        let line = String::from_utf8(line).unwrap();
        assert!(!line.contains("0123456789abcdef\""), "{line}");
        assert!(!line.contains(secret), "{line}");
    }

    #[test]
    fn no_line_is_longer_than_the_limit() {
        for filler in ["\"", "\\", "\u{1b}", "x", "é", "\u{10ffff}"] {
            let hostile = Some(filler.repeat(20_000));
            let mut entry = one_of_each_kind().remove(2);
            let event = &mut entry.event;
            event.rule.clone_from(&hostile);
            event.request.clone_from(&hostile);
            event.principal.clone_from(&hostile);
            event.user.clone_from(&hostile);
            event.group.clone_from(&hostile);
            event.agent.clone_from(&hostile);
            event.session.clone_from(&hostile);
            event.detail.clone_from(&hostile);
            event.tool.as_mut().unwrap().name = filler.repeat(20_000);
            event.sandbox.as_mut().unwrap().provider = filler.repeat(20_000);
            event.reason = Cow::Owned(filler.repeat(20_000));
            entry.totals = Some(
                (0..30)
                    .map(|i| (format!("reason_{i:032}"), u64::MAX))
                    .collect(),
            );
            let mut line = Vec::new();
            Record::new(&entry, u64::MAX, Digest::ZERO).encode(&Chain::new(None), &mut line);
            assert!(line.len() <= MAX_LINE_BYTES, "{filler:?}: {}", line.len());
            let text = std::str::from_utf8(&line).unwrap();
            assert!(!text.trim_end().contains(char::is_control), "{filler:?}");
            assert!(Record::parse(&line).is_ok(), "{filler:?}");
        }
    }
}
