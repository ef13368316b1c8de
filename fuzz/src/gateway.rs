//! What reads and judges what clients of the gateway send.

use clawsec_user::gateway::probe;

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

/// A proxy's word for whom it speaks: an address of the family it says, and one that reads the same
/// when it is written.
pub fn proxy(bytes: &[u8]) {
    if let Ok(Some((ip, port))) = probe::proxied(bytes) {
        // An IPv4 address in an IPv6 one is the IPv4 address.
        assert!(bytes[1] == 0x11 && ip.is_ipv4() || bytes[1] == 0x21, "{ip}");
        let at = if bytes[1] == 0x11 { 10 } else { 34 };
        assert_eq!(port.to_be_bytes(), bytes[at..at + 2]);
        assert_eq!(ip, ip.to_canonical());
    }
    let Ok(text) = std::str::from_utf8(bytes) else {
        return;
    };
    if let Some(ip) = probe::forwarded(text) {
        assert_eq!(probe::forwarded(&ip.to_string()), Some(ip), "{text:?}");
    }
}

/// What the protected gateway tells clawsec's node and its observer: a program that is named, or a
/// reason; no more records than frames, each run's name with an end.
pub fn node(bytes: &[u8]) {
    if let Some(Ok(argv)) = probe::node_call(bytes) {
        assert!(!argv[0].is_empty(), "a program has a name");
    }
    let frames = bytes.split(|byte| *byte == b'\n').count();
    let names = probe::observed(bytes);
    assert!(
        names.len() <= frames,
        "{} records of {frames} frames",
        names.len()
    );
    for name in names {
        assert!(name.chars().count() <= 140, "{name}");
    }
}
