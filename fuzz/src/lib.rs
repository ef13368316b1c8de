//! The entry functions: bytes in, a panic where a promise is broken.
//!
//! libFuzzer calls them through `fuzz_targets`; `tests/pure/fuzz.rs` includes this very file and
//! runs them for a bounded time from a seeded generator, so that every gate fuzzes a little.

mod gateway;

use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use clawsec_common::reason::Reason;
use clawsec_ebpf::packet::Frame;
use clawsec_ebpf::parse::{Facts, Protocol, parse};
use clawsec_user::audit::{
    Chain, Filter, HeadCheck, LogReader, Record, last_lines, query, summarise, verify,
};
use clawsec_user::capture::{Capture, MAX_FRAME_BYTES};
use clawsec_user::config::{ConfigError, NoSources, Sources, compile};
use zeroize::Zeroizing;

pub use self::gateway::{frames, head, node, path, policy, proxy, request};

/// The packet parser: whatever the bytes, an end with a reason or facts that are whole; and what
/// lies behind the end of a frame decides nothing but a cut header.
pub fn packet(bytes: &[u8]) {
    let (result, facts) = judge(bytes);
    match result {
        Ok(()) => {
            assert!(facts.family == 4 || facts.family == 6, "{facts:?}");
            assert!(facts.protocol != Protocol::Unknown, "{facts:?}");
        }
        Err(reason) => assert!(
            !matches!(
                reason,
                Reason::Allowed | Reason::NotAllowed | Reason::Denied | Reason::Banned
            ),
            "the parser knows no policy, and says {}",
            reason.as_str()
        ),
    }
    // Padding is not content, but for a datagram that says it is longer than its frame: the kernel
    // drops such a one, and whether it would have asked for a connection is of no account.
    let padded = [bytes, &[0x5a; 64]].concat();
    let (of_padded, mut padded_facts) = judge(&padded);
    padded_facts.opens_connection &= facts.opens_connection;
    let cut = matches!(result, Err(Reason::Malformed | Reason::TinyFragment));
    assert!(
        cut || (of_padded, padded_facts) == (result, facts),
        "{result:?} {facts:?} became {of_padded:?} {padded_facts:?} by padding"
    );
}

fn judge(bytes: &[u8]) -> (Result<(), Reason>, Facts) {
    let mut facts = Facts::UNKNOWN;
    let result = parse(Frame::new(bytes), &mut facts);
    (result, facts)
}

/// The capture reader: it ends, and no frame is longer than it may be or the file is.
pub fn capture(bytes: &[u8]) {
    let Ok(mut capture) = Capture::open(bytes) else {
        return;
    };
    let mut frames = 0_usize;
    while let Ok(Some(frame)) = capture.next_frame() {
        frames += 1;
        assert!(frame.bytes.len() <= bytes.len());
        assert!(frame.bytes.len() <= MAX_FRAME_BYTES as usize);
        // The shortest record has a head of 16 bytes.
        assert!(frames <= bytes.len() / 16, "{frames} frames");
    }
}

/// The configuration: any text ends in a configuration or in errors that can be shown, the same
/// ones each time; and a configuration without its secrets is one again.
pub fn config(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else {
        return;
    };
    let path = Path::new("/etc/clawsec/clawsec.json");
    let Ok(config) = compile(text, path, &Named).map_err(|error| shown(&error)) else {
        return;
    };
    let again = compile(&config.redacted_document, path, &NoSources)
        .map_err(|error| shown(&error))
        .unwrap_or_else(|error| panic!("{error}\nof {}", config.redacted_document));
    assert_eq!(again.audit.path, config.audit.path);
    assert_eq!(again.packets, config.packets);
    assert_eq!(again.sandbox, config.sandbox);
    assert_eq!(again.gateway.upstream, config.gateway.upstream);
    assert_eq!(again.gateway.tls, config.gateway.tls);
}

fn shown(error: &ConfigError) -> String {
    let text = error.to_string();
    assert!(!text.is_empty(), "an error says something");
    text
}

/// `${VAR}` in a text: what a plain reading of the rules gives, and no more than that.
pub fn substitution(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else {
        return;
    };
    let quoted = serde_json::Value::from(format!("/v/{text}")).to_string();
    let document = format!(
        r#"{{"security":{{"auth":{{"type":"token","tokens":["a-key-of-more-than-16-bytes"]}},"audit":{{"path":{quoted}}}}}}}"#
    );
    let path = Path::new("/etc/clawsec/clawsec.json");
    let Ok(config) = compile(&document, path, &Named).map_err(|error| shown(&error)) else {
        return;
    };
    if let Some(expected) = substituted(text) {
        let found = config.audit.path.to_string_lossy();
        assert_eq!(found, format!("/v/{expected}"), "of {text:?}");
    }
    let again = compile(&config.redacted_document, path, &NoSources)
        .unwrap_or_else(|error| panic!("{error}\nof {}", config.redacted_document));
    assert_eq!(again.audit.path, config.audit.path, "of {text:?}");
}

/// The rules of `docs/configuration.md`, read once more, for texts without `${secret:…}`.
fn substituted(text: &str) -> Option<String> {
    if text.contains("${secret:") {
        return None;
    }
    let mut result = String::new();
    let mut rest = text;
    while let Some(start) = rest.find('$') {
        result.push_str(&rest[..start]);
        rest = &rest[start..];
        let (escaped, from) = match rest.strip_prefix("$$") {
            Some(_) => (true, &rest[1..]),
            None => (false, rest),
        };
        let name = from.strip_prefix("${").and_then(|after| {
            let (name, _) = after.split_once('}')?;
            let is_first = |c: u8| c.is_ascii_uppercase() || c == b'_';
            let is_name = name.bytes().next().is_some_and(is_first)
                && name.bytes().all(|c| is_first(c) || c.is_ascii_digit());
            is_name.then_some(name)
        });
        match name {
            Some(name) if escaped => {
                result.push_str(&from[..name.len() + 3]);
                rest = &from[name.len() + 3..];
            }
            Some(name) => {
                result.push_str(&value(name));
                rest = &from[name.len() + 3..];
            }
            None => {
                result.push('$');
                rest = &rest[1..];
            }
        }
    }
    result.push_str(rest);
    Some(result)
}

/// Every variable is set, to something that names it.
struct Named;

fn value(name: &str) -> String {
    format!("value-of-{}", name.to_lowercase())
}

impl Sources for Named {
    fn variable(&self, name: &str) -> Option<Zeroizing<String>> {
        Some(Zeroizing::new(value(name)))
    }

    fn secret_file(&self, _dir: &Path, _name: &str) -> std::io::Result<Zeroizing<String>> {
        Err(std::io::ErrorKind::NotFound.into())
    }

    fn home(&self) -> Option<PathBuf> {
        Some(PathBuf::from("/home/claw"))
    }
}

/// The readers of audit logs: whatever the file holds they end, and give only what it holds.
pub fn audit(bytes: &[u8]) {
    let log = Scratch::with(bytes);
    let mut reader = LogReader::open(&log.0).unwrap_or_else(|error| panic!("{error}"));
    let mut lines = 0_u64;
    let mut whole = 0;
    let mut end = 0;
    while let Some(line) = reader.next_line().unwrap_or_else(|error| panic!("{error}")) {
        lines += 1;
        whole += u64::from(line.complete);
        assert_eq!((line.number, line.offset), (lines, end));
        let here = &bytes[usize::try_from(end).unwrap_or(usize::MAX)..];
        assert!(here.starts_with(line.text), "line {lines}");
        let length = here.iter().position(|byte| *byte == b'\n');
        end += length.map_or(here.len(), |length| length + 1) as u64;
        if let Ok(record) = Record::parse(line.text) {
            record.occurrences();
        }
    }
    assert_eq!(end, bytes.len() as u64, "every byte was read");
    let filter = Filter::default();
    let (stats, damages) =
        summarise(&log.0, &filter, 10, &mut |_| {}).unwrap_or_else(|error| panic!("{error}"));
    assert!(stats.records <= whole && damages.is_empty(), "{stats:?}");
    let mut given = 0;
    let found = query(&log.0, &filter, &mut |_| {}, |line| {
        assert!(Filter::default().takes_line(line));
        given += 1;
        ControlFlow::Continue(())
    })
    .unwrap_or_else(|error| panic!("{error}"));
    assert_eq!((found.records, given), (stats.records, stats.records));
    let report = verify(&log.0, &Chain::new(None), &HeadCheck::Skipped, &mut |_| {})
        .unwrap_or_else(|error| panic!("{error}"));
    assert!(report.records <= whole, "{report:?}");
    assert_eq!(report.ok, report.problem.is_none(), "{report:?}");
    let (last, _) = last_lines(&log.0, 3, &|_| true).unwrap_or_else(|error| panic!("{error}"));
    assert!(last.len() as u64 <= whole.min(3), "{last:?}");
}

/// A file of this thread's own, in memory where there is such a folder.
struct Scratch(PathBuf);

impl Scratch {
    fn with(bytes: &[u8]) -> Self {
        let folder = Path::new("/dev/shm");
        let folder = if folder.is_dir() {
            folder.to_owned()
        } else {
            std::env::temp_dir()
        };
        let name = format!("clawsec-fuzz-{}", std::process::id());
        let folder = folder.join(name);
        std::fs::create_dir_all(&folder).unwrap_or_else(|error| panic!("{error}"));
        let file = folder.join("audit.log");
        std::fs::write(&file, bytes).unwrap_or_else(|error| panic!("{error}"));
        Self(file)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        if let Some(folder) = self.0.parent() {
            // What stays is small, and named for what left it.
            let _stays = std::fs::remove_dir_all(folder);
        }
    }
}
