//! The invariants of `docs/architecture.md` that a compiler does not check.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail};

use xtask::say;

/// Checks every rule over every file git tracks; prints each breach.
pub(crate) fn run() -> anyhow::Result<()> {
    let root = xtask::root();
    let mut breaches = Vec::new();
    for file in tracked(&root)? {
        let Ok(text) = fs::read_to_string(root.join(&file)) else {
            continue;
        };
        check(&file, &text, &mut breaches);
    }
    for breach in &breaches {
        say(&format!("tidy: {breach}"));
    }
    if breaches.is_empty() {
        Ok(())
    } else {
        bail!("tidy: {} breaches", breaches.len())
    }
}

fn tracked(root: &Path) -> anyhow::Result<Vec<PathBuf>> {
    let output = std::process::Command::new("git")
        .args(["ls-files", "--cached", "--others", "--exclude-standard"])
        .current_dir(root)
        .output()
        .context("run git ls-files")?;
    Ok(String::from_utf8_lossy(&output.stdout)
        .lines()
        .map(PathBuf::from)
        .collect())
}

fn check(file: &Path, text: &str, breaches: &mut Vec<String>) {
    let name = file.to_string_lossy();
    if name.ends_with("Cargo.toml")
        && name != "Cargo.toml"
        && !text.contains("[lints]\nworkspace = true")
    {
        breaches.push(format!("{name}: does not inherit the workspace's lints"));
    }
    if file.extension().is_none_or(|extension| extension != "rs") {
        return;
    }
    if !text.starts_with("//!") && !text.starts_with("#!") {
        breaches.push(format!("{name}: does not start with its purpose (//!)"));
    }
    let lines = code_lines(text);
    let ratchet = LONGER.iter().find(|(file, _)| *file == name);
    let most = ratchet.map_or(MAX_LINES, |(_, lines)| *lines);
    if lines > most {
        breaches.push(format!(
            "{name}: {lines} lines, over {most}: split it along an idea"
        ));
    }
    for rule in RULES {
        if rule.allowed.iter().any(|prefix| name.starts_with(prefix)) {
            continue;
        }
        if !rule.within.is_empty() && !rule.within.iter().any(|prefix| name.starts_with(prefix)) {
            continue;
        }
        for (index, line) in text.lines().enumerate() {
            let code = line.split("//").next().unwrap_or_default();
            if rule.words.iter().any(|word| mentions(code, word)) {
                breaches.push(format!("{name}:{}: {}", index + 1, rule.says));
            }
        }
    }
}

/// Whether `code` contains `word` not as part of a longer identifier.
fn mentions(code: &str, word: &str) -> bool {
    let is_part = |c: char| c.is_alphanumeric() || c == '_';
    code.match_indices(word).any(|(at, _)| {
        let before = code.get(..at).and_then(|text| text.chars().next_back());
        let after = code
            .get(at + word.len()..)
            .and_then(|text| text.chars().next());
        !before.is_some_and(is_part) && !after.is_some_and(is_part)
    })
}

/// Lines before the file's unit tests, which may be as many as the rules need.
fn code_lines(text: &str) -> usize {
    text.lines()
        .take_while(|line| !line.starts_with("#[cfg(test)]"))
        .count()
}

/// A file that outgrows this is split along an idea.
const MAX_LINES: usize = 400;

/// Files that were longer when the limit was set, or are tables of rows. Only ever lowered.
const LONGER: &[(&str, usize)] = &[
    ("clawsec-user/src/audit/writer/tests.rs", 482),
    ("clawsec-user/src/enforcer/bans.rs", 442),
    ("clawsec-user/src/gateway/tests/http.rs", 520),
    ("clawsec-user/src/gateway/tests/websocket.rs", 483),
    ("tests/kernel/enforcer.rs", 526),
    ("tests/kernel/verdict.rs", 915),
    ("tests/system/oracle/classes.rs", 471),
    ("tests/system/sandbox.rs", 406),
];

struct Rule {
    /// Only files under these; empty is every file.
    within: &'static [&'static str],
    /// Except files under these.
    allowed: &'static [&'static str],
    words: &'static [&'static str],
    says: &'static str,
}

const RULES: &[Rule] = &[
    Rule {
        within: &["clawsec-user/src/policy/"],
        allowed: &[],
        words: &[
            "tokio",
            "serde",
            "std::fs",
            "std::io",
            "SystemTime",
            "Instant",
            "tracing",
            "crate::config",
            "crate::gateway",
        ],
        says: "policy is pure: no IO, no clock, nothing of ours",
    },
    Rule {
        within: &["clawsec-user/src/"],
        allowed: &["clawsec-user/src/enforcer/"],
        words: &["aya", "aya_log", "clawsec_common"],
        says: "only enforcer names aya and clawsec_common",
    },
    Rule {
        within: &["clawsec-user/src/"],
        allowed: &[
            "clawsec-user/src/event.rs",
            "clawsec-user/src/ipc/figures.rs",
            "clawsec-user/src/ipc/message.rs",
            "clawsec-user/src/ops/status.rs",
            "clawsec-user/src/audit/",
            "clawsec-user/src/gateway/",
            "clawsec-user/src/cli/",
            "clawsec-user/src/supervisor/admin.rs",
            "clawsec-user/src/sandbox/native/contain.rs",
        ],
        words: &[
            "derive(Serialize",
            "derive(Deserialize",
            "Serialize,",
            "Deserialize)",
        ],
        says: "serde derives live where formats are promised",
    },
    Rule {
        within: &["clawsec-user/src/"],
        allowed: &[
            "clawsec-user/src/gateway/auth.rs",
            "clawsec-user/src/policy/",
        ],
        words: &["credentials.authenticate"],
        says: "a Principal is made in gateway/auth.rs only",
    },
    Rule {
        within: &["clawsec-user/src/gateway/"],
        allowed: &[],
        words: &[
            "crate::supervisor",
            "crate::enforcer",
            "crate::sandbox",
            "crate::audit",
        ],
        says: "the gateway shares only ipc, event, config and policy with the supervisor",
    },
    Rule {
        within: &[
            "clawsec-user/src/enforcer/",
            "clawsec-user/src/sandbox/",
            "clawsec-user/src/audit/",
        ],
        allowed: &[],
        words: &["crate::supervisor", "crate::gateway", "crate::cli"],
        says: "siblings do not import each other",
    },
    Rule {
        within: &["clawsec-user/", "clawsec-common/", "tests/", "xtask/"],
        allowed: &[
            "clawsec-common/src/abi.rs",
            "clawsec-user/src/enforcer/",
            "clawsec-user/src/sandbox/child.rs",
            "clawsec-user/src/sandbox/native/contain.rs",
            "clawsec-user/src/sandbox/netdevice.rs",
            "clawsec-user/src/sandbox/probe_calls.rs",
            "clawsec-user/src/supervisor/inherited.rs",
            "tests/kernel/",
            "tests/system/sandbox/probe.rs",
            "xtask/src/tidy.rs",
        ],
        words: &["unsafe"],
        says: "unsafe only in the named files",
    },
    Rule {
        within: &[],
        allowed: &["xtask/src/tidy.rs"],
        words: &["todo!", "unimplemented!", "FIXME", "XXX", "#[ignore"],
        says: "unfinished work is not committed",
    },
    Rule {
        within: &[],
        allowed: &["xtask/src/tidy.rs"],
        words: &["#[allow", "#![allow"],
        says: "expect(lint, reason) instead of allow",
    },
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn breaches_are_found_and_named() {
        let rows = [
            (
                "clawsec-user/src/policy/x.rs",
                "//! P.\nuse tokio::net;\n",
                "policy is pure",
            ),
            (
                "clawsec-user/src/gateway/x.rs",
                "//! P.\nuse aya::Ebpf;\n",
                "only enforcer",
            ),
            (
                "clawsec-user/src/gateway/x.rs",
                "use std::net;\n",
                "purpose",
            ),
            ("clawsec-user/Cargo.toml", "[package]\n", "lints"),
        ];
        for (name, text, expected) in rows {
            let mut breaches = Vec::new();
            check(Path::new(name), text, &mut breaches);
            assert!(
                breaches.iter().any(|b| b.contains(expected)),
                "{name}: {breaches:?}"
            );
        }
    }

    #[test]
    fn parts_of_words_and_comments_are_no_mention() {
        assert!(!mentions("let ayah = 1;", "aya"));
        assert!(mentions("use aya::x;", "aya"));
        let mut breaches = Vec::new();
        check(
            Path::new("clawsec-user/src/cli/x.rs"),
            "//! P.\n// aya does this\n",
            &mut breaches,
        );
        assert_eq!(breaches, Vec::<String>::new());
    }
}
