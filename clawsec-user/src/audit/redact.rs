//! Free text without what looks like a secret, by the patterns that the gateway redacts its own
//! logs by (clawdbot `src/logging/redact.ts`).
//!
//! Secrets of clawsec's own never come here: `Secret` cannot be serialised, and no event has a
//! field for one. This is for what others put into an error, a route or a name. Stricter than the
//! gateway in one thing: nothing of the secret stays, where it keeps ten characters.

use std::borrow::Cow;
use std::sync::LazyLock;

use regex::{Captures, Regex, RegexSet};

/// Gives the text with `***` in place of every secret.
pub(super) fn redact(text: &str) -> Cow<'_, str> {
    // What no record has room for is not looked at; `fit` says how much was cut.
    let looked_at = text.floor_char_boundary(LOOKED_AT_BYTES);
    let (seen, unseen) = text.split_at(looked_at);
    let matching = PATTERNS.set.matches(seen);
    if !matching.matched_any() {
        return Cow::Borrowed(text);
    }
    let mut safe = seen.to_owned();
    for index in &matching {
        let pattern = &PATTERNS.each[index];
        let masked = pattern.replace_all(&safe, |found: &Captures<'_>| {
            let whole = &found[0];
            match found.name("secret") {
                Some(secret) => whole.replacen(secret.as_str(), MASK, 1),
                None => MASK.to_owned(),
            }
        });
        if let Cow::Owned(masked) = masked {
            safe = masked;
        }
    }
    safe.push_str(unseen);
    Cow::Owned(safe)
}

struct Patterns {
    /// All at once, since most texts hold none.
    set: RegexSet,
    each: Vec<Regex>,
}

static PATTERNS: LazyLock<Patterns> = LazyLock::new(|| {
    // The tests compile each of them: none can be left out here.
    let sources: Vec<String> = SOURCES
        .iter()
        .map(|source| format!("(?i){source}"))
        .collect();
    Patterns {
        set: RegexSet::new(&sources).unwrap_or_else(|_| RegexSet::empty()),
        each: sources
            .iter()
            .filter_map(|source| Regex::new(source).ok())
            .collect(),
    }
});

/// Assignments, JSON fields, flags, headers, PEM blocks, then tokens by their beginnings.
const SOURCES: [&str; 16] = [
    r#"(?-u:\b)[A-Z0-9_]*(?:KEY|TOKEN|SECRET|PASSWORD|PASSWD)(?-u:\b)\s*[=:]\s*["']?(?P<secret>[^\s"'\\]+)["']?"#,
    r#""(?:apiKey|token|secret|password|passwd|accessToken|refreshToken)"\s*:\s*"(?P<secret>[^"]+)""#,
    r#"--(?:api[-_]?key|token|secret|password|passwd)\s+["']?(?P<secret>[^\s"']+)["']?"#,
    r"Authorization\s*[:=]\s*Bearer\s+(?P<secret>[A-Za-z0-9._\-+=]+)",
    r"(?-u:\b)Bearer\s+(?P<secret>[A-Za-z0-9._\-+=]{18,})",
    // One that was cut has no end.
    r"(?s)-----BEGIN [A-Z ]*PRIVATE KEY-----.*?(?:-----END [A-Z ]*PRIVATE KEY-----|\z)",
    r"(?-u:\b)sk-[A-Za-z0-9_-]{8,}",
    r"(?-u:\b)ghp_[A-Za-z0-9]{20,}",
    r"(?-u:\b)github_pat_[A-Za-z0-9_]{20,}",
    r"(?-u:\b)xox[baprs]-[A-Za-z0-9-]{10,}",
    r"(?-u:\b)xapp-[A-Za-z0-9-]{10,}",
    r"(?-u:\b)gsk_[A-Za-z0-9_-]{10,}",
    r"(?-u:\b)AIza[0-9A-Za-z\-_]{20,}",
    r"(?-u:\b)pplx-[A-Za-z0-9_-]{10,}",
    r"(?-u:\b)npm_[A-Za-z0-9]{10,}",
    r"(?-u:\b)[0-9]{6,}:[A-Za-z0-9_-]{20,}",
];

const MASK: &str = "***";
/// Eight times the longest field of a record, as `fit` looks at.
const LOOKED_AT_BYTES: usize = 8 * 1024;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_pattern_compiles_and_finds_its_secret() {
        assert_eq!(PATTERNS.each.len(), SOURCES.len());
        assert_eq!(PATTERNS.set.len(), SOURCES.len());
        // One row a pattern, in their order.
        let rows = [
            ("OPENAI_API_KEY='abc' rest", "OPENAI_API_KEY='***' rest"),
            (
                r#"{"refreshToken": "s3cr3t"}"#,
                r#"{"refreshToken": "***"}"#,
            ),
            ("run --api-key hunter2 now", "run --api-key *** now"),
            ("Authorization: Bearer abc", "Authorization: Bearer ***"),
            ("bearer abcdefghijklmnopqr!", "bearer ***!"),
            (
                "a -----BEGIN RSA PRIVATE KEY-----\nMII\n-----END RSA PRIVATE KEY----- b",
                "a *** b",
            ),
            ("sk-abcdefgh", "***"),
            ("ghp_abcdefghijklmnopqrst", "***"),
            ("github_pat_abcdefghijklmnopqrst", "***"),
            ("xoxb-1234567890", "***"),
            ("xapp-1234567890", "***"),
            ("gsk_1234567890", "***"),
            ("AIzaabcdefghijklmnopqrst", "***"),
            ("pplx-1234567890", "***"),
            ("npm_1234567890", "***"),
            ("bot 123456:abcdefghijklmnopqrst", "bot ***"),
        ];
        assert_eq!(rows.len(), SOURCES.len());
        for (index, (text, safe)) in rows.into_iter().enumerate() {
            assert_eq!(redact(text), safe);
            assert!(PATTERNS.each[index].is_match(text), "{index} {text:?}");
        }
    }

    #[test]
    fn several_secrets_a_cut_one_and_none() {
        let rows = [
            ("TOKEN=abc PASSWORD=def", "TOKEN=*** PASSWORD=***"),
            ("x -----BEGIN PRIVATE KEY-----\nMIIEv", "x ***"),
            ("key sk-abcdefgh, key sk-ijklmnop", "key ***, key ***"),
            ("GET /v1/models", "GET /v1/models"),
            (
                "agent:work:whatsapp:+15551234567",
                "agent:work:whatsapp:+15551234567",
            ),
            (
                "after 1.2 s: no space left on device",
                "after 1.2 s: no space left on device",
            ),
        ];
        for (text, safe) in rows {
            assert_eq!(redact(text), safe);
        }
        let long = format!("{} TOKEN=abc", "x ".repeat(400));
        assert!(redact(&long).ends_with("TOKEN=***"));
    }
}
