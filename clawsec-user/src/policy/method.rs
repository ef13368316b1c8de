//! The WebSocket methods of the gateway: what each is for, and the scope it needs.
//!
//! Source: `src/gateway/server-methods.ts` of clawdbot 2026.1.24 (complete), and the
//! security-relevant additions of openclaw 2026.9. A method that is not listed needs
//! `operator.admin`, as in the gateway.

use super::Scope;

/// What a method does, which is also the kind of event it becomes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MethodClass {
    Read,
    Message,
    Tool,
    Config,
    /// Pairing, approvals, sessions and the rest that changes state.
    Manage,
    /// Sent by nodes only.
    Node,
}

/// A classified method.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Method {
    pub class: MethodClass,
    /// `None` for methods of the node role.
    pub scope: Option<Scope>,
    /// The table knows it.
    pub known: bool,
}

/// Classifies a method by its exact name; a `.*` entry covers its whole family.
pub fn classify_method(name: &str) -> Method {
    let row = TABLE
        .iter()
        .find(|(pattern, ..)| match pattern.strip_suffix('*') {
            Some(family) => name.starts_with(family),
            None => *pattern == name,
        });
    match row {
        Some(&(_, class, scope)) => Method {
            class,
            scope,
            known: true,
        },
        None => Method {
            class: Manage,
            scope: Some(Scope::Admin),
            known: false,
        },
    }
}

use MethodClass::{Config, Manage, Message, Node, Read, Tool};

const READ: Option<Scope> = Some(Scope::Read);
const WRITE: Option<Scope> = Some(Scope::Write);
const ADMIN: Option<Scope> = Some(Scope::Admin);
const APPROVALS: Option<Scope> = Some(Scope::Approvals);
const PAIRING: Option<Scope> = Some(Scope::Pairing);

/// First match decides, so exact names stand before the families they are exceptions of.
const TABLE: &[(&str, MethodClass, Option<Scope>)] = &[
    ("health", Read, READ),
    ("logs.tail", Read, READ),
    ("channels.status", Read, READ),
    ("status", Read, READ),
    ("usage.*", Read, READ),
    ("tts.status", Read, READ),
    ("tts.providers", Read, READ),
    ("models.list", Read, READ),
    ("agents.list", Read, READ),
    ("agent.identity.get", Read, READ),
    ("skills.status", Read, READ),
    ("voicewake.get", Read, READ),
    ("sessions.list", Read, READ),
    ("sessions.preview", Read, READ),
    ("cron.list", Read, READ),
    ("cron.status", Read, READ),
    ("cron.runs", Read, READ),
    ("system-presence", Read, READ),
    ("last-heartbeat", Read, READ),
    ("node.list", Read, READ),
    ("node.describe", Read, READ),
    ("chat.history", Read, READ),
    ("send", Message, WRITE),
    ("agent", Message, WRITE),
    ("agent.wait", Message, WRITE),
    ("wake", Message, WRITE),
    ("chat.send", Message, WRITE),
    ("chat.abort", Message, WRITE),
    ("chat.inject", Message, ADMIN),
    ("sessions.send", Message, WRITE),
    ("sessions.create", Message, WRITE),
    ("sessions.dispatch", Message, WRITE),
    ("conversations.*", Message, WRITE),
    ("message.action", Message, WRITE),
    ("talk.mode", Manage, WRITE),
    ("tts.*", Manage, WRITE),
    ("voicewake.set", Manage, WRITE),
    ("tools.invoke", Tool, WRITE),
    ("node.invoke", Tool, WRITE),
    ("browser.request", Tool, WRITE),
    ("terminal.*", Tool, ADMIN),
    ("mcp.app.callTool", Tool, WRITE),
    ("exec.approval.request", Tool, APPROVALS),
    ("exec.approval.resolve", Tool, APPROVALS),
    ("exec.approvals.*", Config, ADMIN),
    ("config.get", Read, ADMIN),
    ("config.schema", Read, ADMIN),
    ("config.*", Config, ADMIN),
    ("wizard.*", Config, ADMIN),
    ("update.*", Config, ADMIN),
    ("skills.bins", Node, None),
    ("skills.*", Config, ADMIN),
    ("plugins.*", Config, ADMIN),
    ("cron.*", Config, ADMIN),
    ("agents.*", Config, ADMIN),
    ("device.*", Config, PAIRING),
    ("node.pair.*", Config, PAIRING),
    ("node.rename", Config, PAIRING),
    ("channels.logout", Config, ADMIN),
    ("secrets.*", Config, ADMIN),
    ("sessions.*", Manage, ADMIN),
    ("node.invoke.result", Node, None),
    ("node.event", Node, None),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn methods_have_the_scope_of_the_gateway() {
        let rows = [
            ("health", Read, READ, true),
            ("chat.send", Message, WRITE, true),
            ("config.get", Read, ADMIN, true),
            ("config.apply", Config, ADMIN, true),
            ("exec.approval.resolve", Tool, APPROVALS, true),
            ("exec.approvals.set", Config, ADMIN, true),
            ("device.token.rotate", Config, PAIRING, true),
            ("sessions.list", Read, READ, true),
            ("sessions.delete", Manage, ADMIN, true),
            ("tools.invoke", Tool, WRITE, true),
            ("terminal.open", Tool, ADMIN, true),
            ("node.invoke", Tool, WRITE, true),
            ("node.invoke.result", Node, None, true),
            ("Health", Manage, ADMIN, false),
            ("brand.new", Manage, ADMIN, false),
        ];
        for (name, class, scope, known) in rows {
            assert_eq!(
                classify_method(name),
                Method {
                    class,
                    scope,
                    known
                },
                "{name}"
            );
        }
    }

    #[test]
    fn no_row_is_hidden_by_an_earlier_family() {
        for (index, (pattern, ..)) in TABLE.iter().enumerate() {
            let name = pattern.trim_end_matches('*');
            let hidden = TABLE.iter().take(index).find(|(earlier, ..)| {
                earlier
                    .strip_suffix('*')
                    .is_some_and(|family| name.starts_with(family))
            });
            assert_eq!(hidden, None, "{pattern}");
        }
    }
}
