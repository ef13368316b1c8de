//! The tools, groups, profiles and aliases of both gateways, as their own sources have them.
//!
//! `tests/peer/tools.rs` compares every answer drawn from these with the gateways' own code.

use super::ToolName;

/// How one gateway reads tool names and lists.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reading {
    /// `src/agents/tool-policy.ts` of clawdbot 2026.1.24-3.
    V3,
    /// `src/agents/tool-catalog.ts` and `tool-policy-shared.ts` of openclaw 2026.9.6.
    V4,
}

impl Reading {
    pub const BOTH: [Self; 2] = [Self::V3, Self::V4];

    /// The name an alias stands for.
    pub(super) fn canonical(self, name: &str) -> &str {
        match (self, name) {
            (_, "bash") => "exec",
            (_, "apply-patch") => "apply_patch",
            (Self::V4, "cron") => "automations",
            _ => name,
        }
    }

    /// Whether this gateway brings `tool` itself.
    pub fn knows(self, tool: &ToolName) -> bool {
        self.is_native(self.canonical(tool.as_str()))
    }

    /// Every tool that this gateway brings itself.
    pub fn tools(self) -> impl Iterator<Item = &'static str> {
        let (groups, more) = match self {
            Self::V3 => (GROUPS_V3, UNGROUPED_V3),
            Self::V4 => (GROUPS_V4, &[][..]),
        };
        groups
            .iter()
            .flat_map(|(_, members)| *members)
            .chain(more)
            .copied()
    }

    /// The group of all its own tools.
    pub(super) fn native_group(self) -> &'static str {
        match self {
            Self::V3 => "group:clawdbot",
            Self::V4 => "group:openclaw",
        }
    }

    pub(super) fn group(self, name: &str) -> Option<&'static [&'static str]> {
        let groups = match self {
            Self::V3 => GROUPS_V3,
            Self::V4 => GROUPS_V4,
        };
        find(groups, name)
    }

    /// What a profile allows; `None` for one that does not exist.
    pub(super) fn profile(self, name: &str) -> Option<&'static [&'static str]> {
        let profiles = match self {
            Self::V3 => PROFILES_V3,
            Self::V4 => PROFILES_V4,
        };
        find(profiles, name)
    }

    /// A tool that this gateway brings itself.
    pub(super) fn is_native(self, tool: &str) -> bool {
        let (groups, more) = match self {
            Self::V3 => (GROUPS_V3, UNGROUPED_V3),
            Self::V4 => (GROUPS_V4, &[][..]),
        };
        groups.iter().any(|(_, members)| members.contains(&tool)) || more.contains(&tool)
    }

    /// The tool that brings `apply_patch` with it where it is allowed.
    pub(super) fn allows_apply_patch(self) -> &'static str {
        match self {
            Self::V3 => "exec",
            Self::V4 => "write",
        }
    }
}

type Lists = &'static [(&'static str, &'static [&'static str])];

fn find(lists: Lists, name: &str) -> Option<&'static [&'static str]> {
    lists
        .iter()
        .find(|(known, _)| *known == name)
        .map(|(_, members)| *members)
}

const UNGROUPED_V3: &[&str] = &["tts"];

/// `group:clawdbot` under the names of the rebrands, too: an operator means the native tools.
const NATIVE_V3: &[&str] = &[
    "browser",
    "canvas",
    "nodes",
    "cron",
    "message",
    "gateway",
    "agents_list",
    "sessions_list",
    "sessions_history",
    "sessions_send",
    "sessions_spawn",
    "session_status",
    "memory_search",
    "memory_get",
    "web_search",
    "web_fetch",
    "image",
];

const GROUPS_V3: Lists = &[
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
    ("group:clawdbot", NATIVE_V3),
];

const PROFILES_V3: Lists = &[
    ("minimal", &["session_status"]),
    (
        "coding",
        &[
            "group:fs",
            "group:runtime",
            "group:sessions",
            "group:memory",
            "image",
        ],
    ),
    (
        "messaging",
        &[
            "group:messaging",
            "sessions_list",
            "sessions_history",
            "sessions_send",
            "session_status",
        ],
    ),
    ("full", &[]),
];

const GROUPS_V4: Lists = &[
    (
        "group:openclaw",
        &[
            "code_execution",
            "secrets",
            "web_search",
            "web_fetch",
            "x_search",
            "memory_search",
            "memory_get",
            "sessions",
            "sessions_list",
            "sessions_history",
            "sessions_search",
            "conversations_list",
            "conversations_send",
            "conversations_turn",
            "sessions_send",
            "sessions_spawn",
            "github_identity_status",
            "github_publish",
            "agents_wait",
            "sessions_yield",
            "subagents",
            "session_status",
            "suggest_task",
            "dismiss_task",
            "browser",
            "screen",
            "theme",
            "dashboard",
            "terminal",
            "portal",
            "show_widget",
            "message",
            "heartbeat_respond",
            "automations",
            "gateway",
            "plugins",
            "openclaw",
            "nodes",
            "computer",
            "mobile_ui",
            "agents_list",
            "get_goal",
            "create_goal",
            "update_goal",
            "progress_card",
            "ask_user",
            "skill_workshop",
            "view_image",
            "image_generate",
            "music_generate",
            "video_generate",
            "tts",
            "pdf",
        ],
    ),
    ("group:fs", &["ls", "read", "write", "edit", "apply_patch"]),
    (
        "group:runtime",
        &["exec", "process", "code_execution", "secrets"],
    ),
    ("group:web", &["web_search", "web_fetch", "x_search"]),
    ("group:memory", &["memory_search", "memory_get"]),
    (
        "group:sessions",
        &[
            "sessions",
            "sessions_list",
            "sessions_history",
            "sessions_search",
            "conversations_list",
            "conversations_send",
            "conversations_turn",
            "sessions_send",
            "sessions_spawn",
            "github_identity_status",
            "github_publish",
            "agents_wait",
            "sessions_yield",
            "subagents",
            "session_status",
            "suggest_task",
            "dismiss_task",
        ],
    ),
    (
        "group:ui",
        &[
            "browser",
            "screen",
            "theme",
            "dashboard",
            "terminal",
            "portal",
            "canvas",
            "show_widget",
        ],
    ),
    ("group:messaging", &["message"]),
    (
        "group:automation",
        &[
            "heartbeat_respond",
            "automations",
            "gateway",
            "plugins",
            "openclaw",
        ],
    ),
    ("group:nodes", &["nodes", "computer", "mobile_ui"]),
    (
        "group:agents",
        &[
            "agents_list",
            "get_goal",
            "create_goal",
            "update_goal",
            "progress_card",
            "ask_user",
            "skill_workshop",
        ],
    ),
    (
        "group:media",
        &[
            "view_image",
            "image_generate",
            "music_generate",
            "video_generate",
            "tts",
            "pdf",
        ],
    ),
];

const PROFILES_V4: Lists = &[
    ("minimal", &["session_status", "gateway"]),
    (
        "coding",
        &[
            "ls",
            "read",
            "write",
            "edit",
            "apply_patch",
            "exec",
            "process",
            "code_execution",
            "secrets",
            "web_search",
            "web_fetch",
            "x_search",
            "memory_search",
            "memory_get",
            "sessions",
            "sessions_list",
            "sessions_history",
            "sessions_search",
            "conversations_list",
            "conversations_send",
            "conversations_turn",
            "sessions_send",
            "sessions_spawn",
            "github_identity_status",
            "github_publish",
            "agents_wait",
            "sessions_yield",
            "subagents",
            "session_status",
            "suggest_task",
            "dismiss_task",
            "screen",
            "theme",
            "dashboard",
            "terminal",
            "portal",
            "automations",
            "gateway",
            "plugins",
            "get_goal",
            "create_goal",
            "update_goal",
            "progress_card",
            "ask_user",
            "skill_workshop",
            "view_image",
            "image_generate",
            "music_generate",
            "video_generate",
            "bundle-mcp",
        ],
    ),
    (
        "messaging",
        &[
            "secrets",
            "sessions",
            "sessions_list",
            "sessions_history",
            "sessions_search",
            "conversations_list",
            "conversations_send",
            "conversations_turn",
            "sessions_send",
            "sessions_spawn",
            "sessions_yield",
            "subagents",
            "session_status",
            "theme",
            "message",
            "gateway",
            "ask_user",
            "bundle-mcp",
        ],
    ),
    ("full", &["*"]),
];
