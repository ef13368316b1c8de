//! Tool names and the lists that allow or deny them, read as the gateway reads them
//! (`src/agents/tool-policy.ts` of clawdbot): trimmed, lower case, aliases, groups, wildcards,
//! profiles; deny wins, and an empty allow list allows all.

use super::{Denial, Reason};

/// A tool's canonical name.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ToolName(String);

impl ToolName {
    /// `" Bash "` is `exec`.
    pub fn new(name: &str) -> Self {
        let name = name.trim().to_lowercase();
        Self(match name.as_str() {
            "bash" => "exec".into(),
            "apply-patch" => "apply_patch".into(),
            _ => name,
        })
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// One entry of an allow or deny list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ToolSelector {
    Name(ToolName),
    /// `group:fs`; unknown groups match nothing, as in the gateway.
    Group(String),
    /// A name with `*` for any run of characters.
    Wildcard(String),
}

impl ToolSelector {
    pub fn parse(text: &str) -> Self {
        let name = ToolName::new(text);
        if name.0.starts_with("group:") {
            Self::Group(name.0)
        } else if name.0.contains('*') {
            Self::Wildcard(name.0)
        } else {
            Self::Name(name)
        }
    }

    /// Whether a group of this name exists; other selectors always do.
    pub fn is_known(&self) -> bool {
        match self {
            Self::Group(group) => is_native(group) || group_members(group).is_some(),
            _ => true,
        }
    }

    fn matches(&self, tool: &ToolName) -> bool {
        match self {
            Self::Name(name) => name == tool,
            Self::Wildcard(pattern) => wildcard_matches(pattern, &tool.0),
            Self::Group(group) if is_native(group) => {
                GROUPS
                    .iter()
                    .any(|(_, members)| members.contains(&tool.as_str()))
                    || UNGROUPED_NATIVE.contains(&tool.as_str())
            }
            Self::Group(group) => {
                group_members(group).is_some_and(|members| members.contains(&tool.as_str()))
            }
        }
    }
}

/// A profile, an allow list and a deny list, with the configuration path of each entry.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ToolRules {
    /// The profile's selectors; `None` is `full`.
    profile: Option<(Vec<ToolSelector>, String)>,
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
            entries.iter().enumerate().map(entry).collect()
        };
        let profile = match profile {
            None | Some("full") => None,
            Some(name) => {
                let selectors = profile_selectors(name)?;
                let selectors = selectors
                    .iter()
                    .map(|text| ToolSelector::parse(text))
                    .collect();
                Some((selectors, format!("{path}.profile")))
            }
        };
        Some(Self {
            profile,
            allow: list(allow, "allow"),
            deny: list(deny, "deny"),
        })
    }

    /// Whether the lists let `tool` through.
    pub fn judge(&self, tool: &ToolName) -> Result<(), Denial> {
        if let Some((_, path)) = self
            .deny
            .iter()
            .find(|(selector, _)| selector.matches(tool))
        {
            return Err(Denial::new(Reason::ToolDenied, path));
        }
        if let Some((selectors, path)) = &self.profile
            && !selectors.iter().any(|selector| selector.matches(tool))
        {
            return Err(Denial::new(Reason::ToolDenied, path));
        }
        if let Some((_, path)) = self.allow.first()
            && !self
                .allow
                .iter()
                .any(|(selector, _)| selector.matches(tool))
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
        self.allow
            .iter()
            .any(|(selector, _)| selector.matches(tool))
    }

    pub fn selectors(&self) -> impl Iterator<Item = (&ToolSelector, &str)> {
        self.allow
            .iter()
            .chain(&self.deny)
            .map(|(selector, path)| (selector, path.as_str()))
    }
}

fn profile_selectors(name: &str) -> Option<&'static [&'static str]> {
    Some(match name {
        "minimal" => &["session_status"],
        "coding" => &[
            "group:fs",
            "group:runtime",
            "group:sessions",
            "group:memory",
            "image",
        ],
        "messaging" => &[
            "group:messaging",
            "sessions_list",
            "sessions_history",
            "sessions_send",
            "session_status",
        ],
        _ => return None,
    })
}

const GROUPS: &[(&str, &[&str])] = &[
    ("group:memory", &["memory_search", "memory_get"]),
    ("group:web", &["web_search", "web_fetch"]),
    ("group:fs", &["read", "write", "edit", "apply_patch"]),
    ("group:runtime", &["exec", "process"]),
    (
        "group:sessions",
        &[
            "sessions_list",
            "sessions_history",
            "sessions_send",
            "sessions_spawn",
            "session_status",
        ],
    ),
    ("group:ui", &["browser", "canvas"]),
    ("group:automation", &["cron", "gateway"]),
    ("group:messaging", &["message"]),
    ("group:nodes", &["nodes"]),
];

const UNGROUPED_NATIVE: &[&str] = &["agents_list", "image", "tts"];

/// The product's own group holds every native tool, under each of its names.
fn is_native(group: &str) -> bool {
    matches!(group, "group:clawdbot" | "group:moltbot" | "group:openclaw")
}

fn group_members(group: &str) -> Option<&'static [&'static str]> {
    GROUPS
        .iter()
        .find(|(name, _)| *name == group)
        .map(|(_, members)| *members)
}

/// Matches `*` as any run of characters, in linear time over both strings.
fn wildcard_matches(pattern: &str, text: &str) -> bool {
    let mut parts = pattern.split('*');
    let Some(mut rest) = text.strip_prefix(parts.next().unwrap_or_default()) else {
        return false;
    };
    let mut parts = parts.peekable();
    while let Some(part) = parts.next() {
        if parts.peek().is_none() {
            return rest.ends_with(part);
        }
        match rest.split_once(part) {
            Some((_, after)) => rest = after,
            None => return false,
        }
    }
    rest.is_empty()
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
