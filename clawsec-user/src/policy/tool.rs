//! Tool names and the lists that allow or deny them, read as the gateways read them: trimmed, lower
//! case, aliases, groups, wildcards, profiles; deny wins, and an empty allow list allows all.
//!
//! Which gateway stands behind is not known to a configuration, so that lists are read both ways:
//! what either version would deny is denied. A version has a say in what is allowed only over the
//! tools that it knows.

use super::tool_catalog::Reading;
use super::{Denial, Reason};

/// A tool's name: trimmed, lower case, without the aliases that both versions have.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ToolName(String);

impl ToolName {
    /// `" Bash "` is `exec`.
    pub fn new(name: &str) -> Self {
        let name = js_trim(name).to_lowercase();
        Self(Reading::V3.canonical(&name).to_owned())
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// Trims as JavaScript's `trim` does, which knows other spaces than Rust's.
pub fn js_trim(text: &str) -> &str {
    let is_space = |c: char| {
        matches!(
            c,
            '\t'..='\r' | ' ' | '\u{a0}' | '\u{1680}' | '\u{2000}'..='\u{200a}'
                | '\u{2028}' | '\u{2029}' | '\u{202f}' | '\u{205f}' | '\u{3000}' | '\u{feff}'
        )
    };
    text.trim_matches(is_space)
}

/// One entry of an allow or deny list, normalised.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ToolSelector(String);

impl ToolSelector {
    pub fn parse(text: &str) -> Self {
        Self(js_trim(text).to_lowercase())
    }

    /// Whether a group of this name exists; other selectors always do.
    pub fn is_known(&self) -> bool {
        !self.0.starts_with("group:")
            || Reading::BOTH
                .iter()
                .any(|&reading| self.group(reading).is_some())
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The words that mean the same to one gateway: a group that only the other one has is its
    /// members.
    pub fn spelled_for(&self, reading: Reading) -> Vec<String> {
        if !self.0.starts_with("group:") || reading.group(&self.0).is_some() {
            return vec![self.0.clone()];
        }
        if self.group(reading).is_some() {
            return vec![reading.native_group().to_owned()];
        }
        let elsewhere = Reading::BOTH.iter().find_map(|&other| self.group(other));
        let members = elsewhere.unwrap_or_default().iter();
        members.map(|name| (*name).to_owned()).collect()
    }

    fn group(&self, reading: Reading) -> Option<&'static [&'static str]> {
        // The product's own group has the product's name, and meant the same under each of them.
        let name = match (reading, self.0.as_str()) {
            (Reading::V3, "group:moltbot" | "group:openclaw") => "group:clawdbot",
            (Reading::V4, "group:moltbot" | "group:clawdbot") => "group:openclaw",
            (_, name) => name,
        };
        reading.group(name)
    }

    /// Whether this entry names `tool`, which is canonical in this reading.
    fn matches(&self, reading: Reading, tool: &str) -> bool {
        if let Some(members) = self.group(reading) {
            return members.contains(&tool);
        }
        let pattern = reading.canonical(&self.0);
        if pattern.contains('*') {
            wildcard_matches(pattern, tool)
        } else {
            pattern == tool
        }
    }
}

/// A profile, an allow list and a deny list, with the configuration path of each entry.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ToolRules {
    /// The profile's name and path; `None` is `full`.
    profile: Option<(String, String)>,
    allow: Vec<(ToolSelector, String)>,
    deny: Vec<(ToolSelector, String)>,
}

impl ToolRules {
    /// `path` is where the lists stand, such as `tools` or `agents.list[0].tools`.
    ///
    /// Returns `None` for a profile that does not exist.
    pub fn new(
        path: &str,
        profile: Option<&str>,
        allow: &[String],
        deny: &[String],
    ) -> Option<Self> {
        let list = |entries: &[String], key: &str| {
            let entry = |(index, text): (usize, &String)| {
                (ToolSelector::parse(text), format!("{path}.{key}[{index}]"))
            };
            // The gateway leaves blank entries out.
            let entries = entries.iter().enumerate().map(entry);
            entries
                .filter(|(selector, _)| !selector.0.is_empty())
                .collect()
        };
        let profile = match profile {
            None | Some("full") => None,
            Some(name) => {
                Reading::V3.profile(name)?;
                Some((name.to_owned(), format!("{path}.profile")))
            }
        };
        Some(Self {
            profile,
            allow: list(allow, "allow"),
            deny: list(deny, "deny"),
        })
    }

    /// Whether the lists let `tool` through, whichever version reads them.
    pub fn judge(&self, tool: &ToolName) -> Result<(), Denial> {
        let readings = Reading::BOTH.map(|reading| (reading, reading.canonical(tool.as_str())));
        for (reading, name) in readings {
            self.judge_denied(reading, name)?;
        }
        let knows = |(reading, name): &(Reading, &str)| reading.is_native(name);
        if !readings.iter().any(knows) {
            // A plugin's tool: no version has more to say about it than the other.
            let [first, second] = readings.map(|(reading, name)| self.judge_allowed(reading, name));
            return first.or(second);
        }
        readings
            .into_iter()
            .filter(knows)
            .try_for_each(|(reading, name)| self.judge_allowed(reading, name))
    }

    /// Whether one version would let `tool` through.
    pub fn judge_by(&self, reading: Reading, tool: &ToolName) -> Result<(), Denial> {
        let name = reading.canonical(tool.as_str());
        self.judge_denied(reading, name)?;
        self.judge_allowed(reading, name)
    }

    fn judge_denied(&self, reading: Reading, tool: &str) -> Result<(), Denial> {
        match matching(&self.deny, reading, tool) {
            Some(path) => Err(Denial::new(Reason::ToolDenied, path)),
            None => Ok(()),
        }
    }

    fn judge_allowed(&self, reading: Reading, tool: &str) -> Result<(), Denial> {
        if let Some((profile, path)) = &self.profile {
            let allowed = reading.profile(profile).unwrap_or_default();
            let names = |name: &str| {
                let selectors = allowed.iter().map(|text| ToolSelector::parse(text));
                selectors
                    .into_iter()
                    .any(|selector| selector.matches(reading, name))
            };
            if !allowed.is_empty() && !names(tool) && !brings_patch(reading, tool, &names) {
                return Err(Denial::new(Reason::ToolDenied, path));
            }
        }
        let names = |name: &str| matching(&self.allow, reading, name).is_some();
        if let Some((_, path)) = self.allow.first()
            && !names(tool)
            && !brings_patch(reading, tool, &names)
        {
            let list = path
                .rsplit_once('[')
                .map_or(path.as_str(), |(list, _)| list);
            return Err(Denial::new(Reason::ToolDenied, list));
        }
        Ok(())
    }

    /// Whether `tool` is named by the allow list: the sense of `security.sandbox.tools`, where
    /// an empty list names nothing.
    pub fn names(&self, tool: &ToolName) -> bool {
        Reading::BOTH.iter().any(|&reading| {
            matching(&self.allow, reading, reading.canonical(tool.as_str())).is_some()
        })
    }

    /// The profile's name; `None` is `full`.
    pub fn profile(&self) -> Option<&str> {
        self.profile.as_ref().map(|(name, _)| name.as_str())
    }

    pub fn allowed(&self) -> impl Iterator<Item = &ToolSelector> {
        self.allow.iter().map(|(selector, _)| selector)
    }

    pub fn denied(&self) -> impl Iterator<Item = &ToolSelector> {
        self.deny.iter().map(|(selector, _)| selector)
    }

    pub fn selectors(&self) -> impl Iterator<Item = (&ToolSelector, &str)> {
        self.allow
            .iter()
            .chain(&self.deny)
            .map(|(selector, path)| (selector, path.as_str()))
    }
}

/// The path of the first entry that names `tool`.
fn matching<'a>(
    entries: &'a [(ToolSelector, String)],
    reading: Reading,
    tool: &str,
) -> Option<&'a str> {
    entries
        .iter()
        .find(|(selector, _)| selector.matches(reading, tool))
        .map(|(_, path)| path.as_str())
}

/// Both gateways allow `apply_patch` where another tool is allowed, though they differ in which.
fn brings_patch(reading: Reading, tool: &str, names: &dyn Fn(&str) -> bool) -> bool {
    tool == "apply_patch" && names(reading.allows_apply_patch())
}

/// Matches `*` as any run of characters but line ends, as `.*` in the gateways' own expressions.
/// Linear in both texts but for the last `*`, which moves on after a mismatch.
fn wildcard_matches(pattern: &str, text: &str) -> bool {
    if pattern == "*" {
        return true;
    }
    let pattern: Vec<char> = pattern.chars().collect();
    let text: Vec<char> = text.chars().collect();
    let (mut at, mut seen) = (0, 0);
    let mut star: Option<(usize, usize)> = None;
    while let Some(&c) = text.get(seen) {
        match (pattern.get(at), star) {
            (Some('*'), _) => {
                star = Some((at, seen));
                at += 1;
            }
            (Some(&p), _) if p == c => {
                at += 1;
                seen += 1;
            }
            (_, Some((star_at, from))) => {
                let skipped = text.get(from).copied().unwrap_or_default();
                if matches!(skipped, '\n' | '\r' | '\u{2028}' | '\u{2029}') {
                    return false;
                }
                star = Some((star_at, from + 1));
                at = star_at + 1;
                seen = from + 1;
            }
            (_, None) => return false,
        }
    }
    pattern.iter().skip(at).all(|&p| p == '*')
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rules(profile: Option<&str>, allow: &[&str], deny: &[&str]) -> ToolRules {
        let owned = |list: &[&str]| list.iter().map(ToString::to_string).collect::<Vec<_>>();
        ToolRules::new("tools", profile, &owned(allow), &owned(deny)).unwrap()
    }

    #[test]
    fn lists_are_read_as_the_gateway_reads_them() {
        /// Profile, allow, deny, tool, the path that denies.
        type Row<'a> = (
            Option<&'a str>,
            &'a [&'a str],
            &'a [&'a str],
            &'a str,
            Option<&'a str>,
        );
        let none: &[&str] = &[];
        let rows: &[Row<'_>] = &[
            (None, none, none, "exec", None),
            (None, none, &["exec"], "bash", Some("tools.deny[0]")),
            (None, none, &["exec"], " Bash ", Some("tools.deny[0]")),
            (None, none, &["BASH"], "exec", Some("tools.deny[0]")),
            (
                None,
                none,
                &["apply-patch"],
                "apply_patch",
                Some("tools.deny[0]"),
            ),
            (
                None,
                none,
                &["read", "group:runtime"],
                "process",
                Some("tools.deny[1]"),
            ),
            (
                None,
                none,
                &["sessions_*"],
                "sessions_list",
                Some("tools.deny[0]"),
            ),
            (None, none, &["sessions_*"], "session_status", None),
            (None, none, &["*"], "anything", Some("tools.deny[0]")),
            (None, &["*"], &["exec"], "exec", Some("tools.deny[0]")),
            (None, &["read"], none, "write", Some("tools.allow")),
            (None, &["read"], none, "Read", None),
            (Some("minimal"), none, none, "exec", Some("tools.profile")),
            (Some("coding"), none, none, "exec", None),
            (Some("full"), none, none, "whatever", None),
            (
                None,
                none,
                &["group:openclaw"],
                "tts",
                Some("tools.deny[0]"),
            ),
            (None, none, &["group:nothing"], "exec", None),
        ];
        for (profile, allow, deny, tool, expected) in rows {
            let rules = rules(*profile, allow, deny);
            let denied_by = rules
                .judge(&ToolName::new(tool))
                .err()
                .map(|denial| denial.rule);
            assert_eq!(denied_by.as_deref(), *expected, "{allow:?} {deny:?} {tool}");
        }
    }

    #[test]
    fn wildcards_match_any_run() {
        let rows = [
            ("a*b*c", "axxbyyc", true),
            ("a*b*c", "axxbyy", false),
            ("*exec", "myexec", true),
            ("e*c", "ec", true),
            ("ab*ba", "aba", false),
            ("*", "", true),
        ];
        for (pattern, text, expected) in rows {
            assert_eq!(
                wildcard_matches(pattern, text),
                expected,
                "{pattern} {text}"
            );
        }
    }

    #[test]
    fn an_unknown_profile_is_refused() {
        assert_eq!(ToolRules::new("tools", Some("everything"), &[], &[]), None);
        for profile in ["minimal", "coding", "messaging", "full"] {
            assert!(
                ToolRules::new("tools", Some(profile), &[], &[]).is_some(),
                "{profile}"
            );
        }
    }
}
