//! The entry functions: bytes in, a panic where a promise is broken.
//!
//! libFuzzer calls them through `fuzz_targets`; `tests/pure/fuzz.rs` includes this very file and
//! runs them for a bounded time from a seeded generator, so that every gate fuzzes a little.

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
use clawsec_user::gateway::probe;
use zeroize::Zeroizing;

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

/// The checker of request heads: however the bytes are cut, one judgement; and what it calls
/// plain has one reading.
pub fn head(bytes: &[u8]) {
    let whole = probe::head([bytes]);
    let step = bytes.first().map_or(1, |byte| usize::from(byte % 7) + 1);
    assert_eq!(probe::head(bytes.chunks(step)), whole, "in steps of {step}");
    if whole != "plain" {
        return;
    }
    let end = bytes
        .windows(4)
        .position(|four| four == b"\r\n\r\n")
        .unwrap_or_else(|| panic!("a plain head ends with an empty line"));
    let start = bytes
        .iter()
        .position(|byte| !matches!(byte, b'\r' | b'\n'))
        .unwrap_or_default();
    let fields = bytes[start.min(end)..end]
        .split(|byte| *byte == b'\n')
        .skip(1);
    let framing = fields
        .filter_map(|line| line.split(|byte| *byte == b':').next())
        .map(|name| name.trim_ascii().to_ascii_lowercase())
        .filter(|name| matches!(&name[..], b"content-length" | b"transfer-encoding"));
    assert!(framing.count() <= 1, "one field says how long the body is");
}

/// WebSocket frames: the reader ends, and gives nothing longer than its limit or than it was sent.
pub fn frames(bytes: &[u8]) {
    for limit in [0, 125, 4096] {
        let lengths = probe::messages(bytes, limit);
        assert!(lengths.len() <= bytes.len() / 2, "{lengths:?}");
        assert!(
            lengths.iter().all(|length| *length <= limit.max(125)),
            "{lengths:?}, limit {limit}"
        );
    }
}

/// Integers beyond 2^53 as Node has them, which the strict reader follows.
fn as_doubles(value: serde_json::Value) -> serde_json::Value {
    use serde_json::Value;
    match value {
        Value::Number(number) => match number.as_f64() {
            Some(double) if double.abs() > 9_007_199_254_740_991.0 => double.into(),
            _ => Value::Number(number),
        },
        Value::Array(items) => items.into_iter().map(as_doubles).collect(),
        Value::Object(members) => members
            .into_iter()
            .map(|(key, value)| (key, as_doubles(value)))
            .collect(),
        value => value,
    }
}

/// A client's texts: the strict JSON reader gives what the plain one gives or refuses, and no
/// request makes the readers of its names panic.
pub fn request(bytes: &[u8]) {
    if let Some(strict) = probe::json(bytes) {
        let plain: serde_json::Value = serde_json::from_slice(bytes)
            .unwrap_or_else(|error| panic!("more than JSON is accepted: {error}"));
        assert_eq!(strict, as_doubles(plain));
    }
    probe::request(bytes);
}

const POLICY: &str = r#"{
  gateway: { tls: { enabled: false } },
  security: {
    auth: { type: "token", tokens: [
      { id: "admin", token: "key-of-the-administrator", scopes: ["operator.admin"] },
      { id: "reader", token: "key-of-the-one-who-reads", scopes: ["operator.read"] },
      { id: "bound", token: "key-of-the-one-who-works", agents: ["work"] },
    ] },
    audit: { enabled: false, path: "/audit.log" },
    rateLimit: { enabled: false, requests: 1 },
    sandbox: { enabled: true, provider: "none", tools: ["exec"] },
    users: { allowList: ["+15551234567"] },
  },
  tools: { deny: ["browser"] },
  agents: { list: [{ id: "main", default: true }, { id: "work" }] },
}"#;

thread_local! {
    static JUDGE: probe::Judge = probe::Judge::new(POLICY).unwrap_or_else(|why| panic!("{why}"));
}

/// What judges WebSocket frames: it always ends, the same way each time; an answer is the gateway's
/// own shape with the request's id; and what goes on has one reading, in which nobody does what
/// the policy keeps from them.
pub fn policy(bytes: &[u8]) {
    let Some((first, frame)) = bytes.split_first() else {
        return;
    };
    let keys = [
        "key-of-the-administrator",
        "key-of-the-one-who-reads",
        "key-of-the-one-who-works",
    ];
    let who = usize::from(first % 3);
    let (is_node, is_new) = (first & 0x40 != 0, first & 0x80 != 0);
    let judged = JUDGE.with(|judge| {
        let once = judge.frame(keys[who], is_node, is_new, frame);
        let again = judge.frame(keys[who], is_node, is_new, frame);
        assert_eq!(once, again);
        once.unwrap_or_else(|| panic!("no such key"))
    });
    let plain: Option<serde_json::Value> = serde_json::from_slice(frame).ok();
    match judged {
        // A close frame has room for 123 bytes.
        probe::Judged::Closed(why) => assert!(!why.is_empty() && why.len() <= 123),
        probe::Judged::Answered(answer) => {
            let answer: serde_json::Value =
                serde_json::from_str(&answer).unwrap_or_else(|error| panic!("{error} in {answer}"));
            let asked = plain.unwrap_or_else(|| panic!("an answer to no JSON"));
            assert_eq!(
                (&answer["type"], &answer["ok"]),
                (&"res".into(), &false.into())
            );
            assert_eq!(answer["id"], asked["id"]);
            assert!(answer["error"]["code"].is_string() && answer["error"]["message"].is_string());
        }
        probe::Judged::Forwarded => {
            let asked = plain.unwrap_or_else(|| panic!("no JSON goes on"));
            assert_eq!(asked["type"], "req");
            assert!(asked["id"].is_string());
            let method = asked["method"].as_str().unwrap_or_default();
            assert!(!method.is_empty() && method != "connect", "{method:?}");
            may(who, method, &asked["params"]);
        }
    }
}

/// The policy above, read once more.
fn may(who: usize, method: &str, params: &serde_json::Value) {
    let names = ["name", "tool", "toolName"];
    if matches!(method, "tools.invoke" | "mcp.app.callTool") {
        let named = names.iter().filter_map(|key| params[*key].as_str());
        for tool in named {
            let tool = tool.trim().to_lowercase();
            let denied = ["browser", "exec", "bash"];
            assert!(!denied.contains(&tool.as_str()), "{tool:?} goes on");
        }
    }
    if let Some(user) = params["to"].as_str().filter(|_| method == "agent") {
        assert!(!user.starts_with("+1999"), "{user:?} goes on");
    }
    let changes = [
        "config.",
        "sessions.delete",
        "chat.send",
        "agent",
        "tools.invoke",
    ];
    assert!(
        who != 1 || !changes.contains(&method),
        "a reader does {method}"
    );
    if who == 2 {
        assert!(!method.starts_with("config."), "{method}");
        names_no_other(params);
    }
}

/// No field that names agents or sessions names the agent `main`.
fn names_no_other(value: &serde_json::Value) {
    match value {
        serde_json::Value::Array(items) => items.iter().for_each(names_no_other),
        serde_json::Value::Object(members) => {
            for (key, value) in members {
                let text = value.as_str().unwrap_or_default().trim().to_lowercase();
                match key.as_str() {
                    "agentId" => assert_ne!(text, "main"),
                    "sessionKey" | "key" => assert!(!text.starts_with("agent:main:"), "{text}"),
                    _ => {}
                }
                names_no_other(value);
            }
        }
        _ => {}
    }
}

/// The checker of paths: what it lets through is the same to whoever unescapes it, once or twice,
/// before or after taking it apart.
pub fn path(bytes: &[u8]) {
    let Some(path) = probe::path(bytes) else {
        return;
    };
    assert!(path.starts_with('/'), "{path:?}");
    let whole = unescape(path.as_bytes());
    assert_eq!(unescape(&whole), whole, "{path:?} changes again");
    let parts: Vec<&[u8]> = path.as_bytes()[1..].split(|byte| *byte == b'/').collect();
    let apart: Vec<Vec<u8>> = parts.iter().map(|part| unescape(part)).collect();
    let of_whole: Vec<Vec<u8>> = whole[1..]
        .split(|byte| matches!(byte, b'/' | b'\\'))
        .map(<[u8]>::to_vec)
        .collect();
    assert_eq!(apart, of_whole, "{path:?}");
    for (number, part) in apart.iter().enumerate() {
        assert!(!matches!(&part[..], b"." | b".."), "{path:?}");
        assert!(!part.is_empty() || number + 1 == apart.len(), "{path:?}");
        assert!(!part.iter().any(u8::is_ascii_control), "{path:?}");
        assert!(!part.contains(&b';'), "{path:?}");
    }
    // What stands for itself is not escaped, so that comparing texts is comparing paths.
    let letters = whole.iter().filter(|byte| byte.is_ascii_alphanumeric());
    let hex = 2 * path.bytes().filter(|byte| *byte == b'%').count();
    let before = path.bytes().filter(u8::is_ascii_alphanumeric).count();
    assert_eq!(letters.count(), before - hex, "{path:?}");
}

/// Undoes each `%` with two digits.
fn unescape(bytes: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    let mut rest = bytes;
    while let Some((first, after)) = rest.split_first() {
        let hex = after.get(..2).and_then(|hex| std::str::from_utf8(hex).ok());
        match hex.and_then(|hex| u8::from_str_radix(hex, 16).ok()) {
            Some(byte) if *first == b'%' => {
                out.push(byte);
                rest = &after[2..];
            }
            _ => {
                out.push(*first);
                rest = after;
            }
        }
    }
    out
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
