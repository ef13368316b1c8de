//! Two answers side by side, without what is another each time.

use std::collections::BTreeMap;

use serde_json::Value;

/// Of one hop, or of the moment (RFC 9110, 7.6.1); the length follows the body, which is compared.
const NOT_COMPARED: &[&str] = &[
    "connection",
    "content-length",
    "date",
    "keep-alive",
    "transfer-encoding",
];

#[derive(Debug)]
pub(super) struct Answer {
    status: String,
    headers: BTreeMap<String, String>,
    body: String,
}

impl Answer {
    /// From curl's dump of the heads, of which the last counts, and the body.
    pub(super) fn read(heads: &str, body: &[u8]) -> Self {
        let head = heads
            .trim_end()
            .rsplit("\r\n\r\n")
            .next()
            .unwrap_or_default();
        let mut lines = head.lines();
        let status = lines.next().and_then(|line| line.split(' ').nth(1));
        let mut headers = BTreeMap::new();
        for line in lines {
            let Some((name, value)) = line.split_once(':') else {
                continue;
            };
            let name = name.trim().to_lowercase();
            if NOT_COMPARED.contains(&name.as_str()) {
                continue;
            }
            let held: &mut String = headers.entry(name).or_default();
            held.push_str(&steady(value.trim()));
            held.push('\n');
        }
        Self {
            status: status.unwrap_or("none").to_owned(),
            headers,
            body: steady(&String::from_utf8_lossy(body)),
        }
    }
}

/// What differs, and how.
pub(super) fn differences(one: &Answer, other: &Answer) -> Vec<(String, String)> {
    let mut found = Vec::new();
    let mut note = |what: &str, one: &str, other: &str| {
        if one != other {
            let short = |text: &str| text.chars().take(300).collect::<String>();
            found.push((
                what.to_owned(),
                format!("{:?}, {:?}", short(one), short(other)),
            ));
        }
    };
    note("status", &one.status, &other.status);
    note("body", &one.body, &other.body);
    let names = one.headers.keys().chain(other.headers.keys());
    let nothing = String::new();
    for name in names.collect::<std::collections::BTreeSet<_>>() {
        let of = |answer: &Answer| answer.headers.get(name).unwrap_or(&nothing).clone();
        note(name, &of(one), &of(other));
    }
    found
}

/// A frame's answer without ids and times.
pub(super) fn plain(value: &Value) -> Value {
    match value {
        Value::Object(fields) => fields
            .iter()
            .map(|(name, value)| {
                let value = match name.as_str() {
                    // Times, ages and counters of the gateway's own.
                    "ts" | "durationMs" | "uptimeMs" | "ageMs" | "seq" | "stateVersion"
                    | "updatedAt" | "createdAt" | "lastSeenMs" | "connectedAtMs" | "startedAt"
                    | "probeMs" | "memory" | "eventLoop" => Value::Null,
                    _ => plain(value),
                };
                (name.clone(), value)
            })
            .collect(),
        Value::Array(items) => items.iter().map(plain).collect(),
        Value::String(text) => steady(text).into(),
        Value::Number(number) if number.as_u64().is_some_and(|n| n > 1_000_000_000) => "N".into(),
        other => other.clone(),
    }
}

/// Ids, times and nonces: a run of such characters that is long and has six digits.
fn steady(text: &str) -> String {
    let belongs = |letter: char| letter.is_ascii_hexdigit() || "-:.TZ_".contains(letter);
    let mut steady = String::new();
    let mut run = String::new();
    for letter in text.chars().chain(['\0']) {
        if belongs(letter) {
            run.push(letter);
            continue;
        }
        let digits = run.chars().filter(char::is_ascii_digit).count();
        steady.push_str(if run.len() >= 10 && digits >= 6 {
            "ID"
        } else {
            &run
        });
        run.clear();
        if letter != '\0' {
            steady.push(letter);
        }
    }
    steady
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_another_each_time_is_left_out() {
        for (text, expected) in [
            (
                "chatcmpl_0f3a9c1e-77aa-4b1c-9d00-12ab34cd56ef",
                "chatcmplID",
            ),
            ("2026-11-27T08:36:09.123Z", "ID"),
            (
                "version 2026.9.6, port 18789",
                "version 2026.9.6, port 18789",
            ),
            ("\"created\":1795763002", "\"created\"ID"),
        ] {
            assert_eq!(steady(text), expected);
        }
        let heads = "HTTP/1.1 103 Early\r\n\r\nHTTP/1.1 200 OK\r\nX-A: b\r\nDate: now\r\n\r\n";
        let answer = Answer::read(heads, b"x");
        assert_eq!(answer.status, "200");
        assert_eq!(answer.headers.len(), 1, "{answer:?}");
    }
}
