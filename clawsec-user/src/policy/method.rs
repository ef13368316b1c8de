//! The WebSocket methods of both gateways: what each is for, the scope it needs, and what it is to
//! a principal that is bound to an agent.
//!
//! The table is `methods.txt`; `tests/peer/methods.rs` compares it with what the running gateways
//! say of themselves.

use std::collections::HashMap;
use std::sync::LazyLock;

use super::Scope;

/// The protocol that the gateway behind speaks, known from its `hello-ok`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Protocol {
    V3,
    V4,
}

impl Protocol {
    /// Whatever comes after the fourth is read like it: what it adds is unknown, and judged so.
    pub fn from_number(number: u64) -> Self {
        if number <= 3 { Self::V3 } else { Self::V4 }
    }
}

/// What a method does, which is also the kind of event it becomes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MethodClass {
    Read,
    /// Text for an agent or out of a channel.
    Message,
    /// Something is run, or allowed to run.
    Tool,
    /// Changes how the gateway works from now on.
    Config,
    /// Pairing, logins, credentials, who may see what.
    Auth,
    /// Everything else that changes state.
    Admin,
    /// Sent by nodes only.
    Node,
}

/// What a method is to a principal that is bound to agents.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reach {
    /// Goes to one agent, named or the default one, which has to be the principal's.
    Own,
    /// Goes to none; what the answer holds of other agents is filtered.
    Any,
    /// Not for such a principal.
    None,
}

/// A classified method.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Method {
    pub class: MethodClass,
    /// `None` for methods of the node role.
    pub scope: Option<Scope>,
    pub reach: Reach,
    /// The gateway of this protocol has it.
    pub known: bool,
}

/// What happens to a method that the gateway's table does not have.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum UnknownMethods {
    /// As the gateway has it: for `operator.admin` only.
    #[default]
    Admin,
    /// For nobody.
    Deny,
}

/// Classifies a method by its exact name.
pub fn classify_method(protocol: Protocol, name: &str) -> Method {
    let unknown = Method {
        class: MethodClass::Admin,
        scope: Some(Scope::Admin),
        reach: Reach::None,
        known: false,
    };
    let Some(row) = TABLE.get(name) else {
        return unknown;
    };
    let scope = match protocol {
        Protocol::V3 => row.v3,
        Protocol::V4 => row.v4,
    };
    match scope {
        Needs::Absent => Method {
            class: row.class,
            ..unknown
        },
        Needs::Scope(scope) => Method {
            class: row.class,
            scope: Some(scope),
            reach: row.reach,
            known: true,
        },
        Needs::NodeRole => Method {
            class: MethodClass::Node,
            scope: None,
            reach: Reach::None,
            known: true,
        },
    }
}

#[derive(Debug, Clone, Copy)]
struct Row {
    class: MethodClass,
    v3: Needs,
    v4: Needs,
    reach: Reach,
}

#[derive(Debug, Clone, Copy)]
enum Needs {
    Absent,
    Scope(Scope),
    NodeRole,
}

static TABLE: LazyLock<HashMap<&'static str, Row>> = LazyLock::new(|| {
    // A line that cannot be read is a method that nobody knows; the tests see to it that none is.
    lines().filter_map(row).collect()
});

fn lines() -> impl Iterator<Item = &'static str> {
    let text = include_str!("methods.txt");
    text.lines().filter(|line| !line.starts_with('#'))
}

fn row(line: &'static str) -> Option<(&'static str, Row)> {
    let mut words = line.split(' ');
    let name = words.next()?;
    let class = match words.next()? {
        "read" => MethodClass::Read,
        "message" => MethodClass::Message,
        "tool" => MethodClass::Tool,
        "config" => MethodClass::Config,
        "auth" => MethodClass::Auth,
        "admin" => MethodClass::Admin,
        "node" => MethodClass::Node,
        _ => return None,
    };
    let v3 = needs(words.next()?)?;
    let v4 = needs(words.next()?)?;
    let reach = match words.next()? {
        "own" => Reach::Own,
        "any" => Reach::Any,
        "no" => Reach::None,
        _ => return None,
    };
    let row = Row {
        class,
        v3,
        v4,
        reach,
    };
    words.next().is_none().then_some((name, row))
}

fn needs(word: &str) -> Option<Needs> {
    match word {
        "-" => Some(Needs::Absent),
        "node" => Some(Needs::NodeRole),
        scope => Scope::parse(&format!("operator.{scope}")).map(Needs::Scope),
    }
}

#[cfg(test)]
mod tests {
    use super::MethodClass::{Admin, Auth, Config, Message, Node, Read, Tool};
    use super::*;

    /// Name, class, scope by v3, scope by v4; `None` is a method that gateway does not have.
    type Row<'a> = (&'a str, MethodClass, Option<&'a str>, Option<&'a str>);

    #[test]
    fn methods_have_the_scope_of_their_gateway() {
        let rows: &[Row<'_>] = &[
            ("health", Read, Some("read"), Some("read")),
            ("chat.send", Message, Some("write"), Some("write")),
            ("config.get", Read, Some("admin"), Some("read")),
            ("config.apply", Config, Some("admin"), Some("admin")),
            (
                "exec.approval.resolve",
                Tool,
                Some("approvals"),
                Some("approvals"),
            ),
            ("exec.approvals.set", Config, Some("admin"), Some("admin")),
            (
                "device.token.rotate",
                Auth,
                Some("pairing"),
                Some("pairing"),
            ),
            ("sessions.list", Read, Some("read"), Some("read")),
            ("sessions.delete", Admin, Some("admin"), Some("write")),
            ("tools.invoke", Tool, None, Some("write")),
            ("terminal.open", Tool, None, Some("admin")),
            ("node.invoke", Tool, Some("write"), Some("write")),
            ("talk.mode", Config, Some("write"), Some("talk")),
            ("question.list", Read, None, Some("questions")),
            ("node.invoke.result", Node, Some("node"), Some("node")),
            ("Health", Admin, None, None),
            ("health ", Admin, None, None),
            ("brand.new", Admin, None, None),
        ];
        for (name, class, v3, v4) in rows {
            for (protocol, expected) in [(Protocol::V3, v3), (Protocol::V4, v4)] {
                let method = classify_method(protocol, name);
                let scope = match method.scope {
                    _ if !method.known => None,
                    None => Some("node"),
                    Some(scope) => scope.as_str().strip_prefix("operator."),
                };
                assert_eq!(
                    (method.class, scope),
                    (*class, *expected),
                    "{name} {protocol:?}"
                );
                if !method.known {
                    assert_eq!(method.scope, Some(Scope::Admin), "{name}");
                    assert_eq!(method.reach, Reach::None, "{name}");
                }
            }
        }
    }

    #[test]
    fn every_line_is_a_row_and_every_name_stands_once_and_in_order() {
        let names: Vec<&str> = lines()
            .map(|line| row(line).unwrap_or_else(|| panic!("no row: {line}")).0)
            .collect();
        assert!(names.is_sorted_by(|a, b| a < b));
        assert_eq!(names.len(), TABLE.len());
        assert!(names.len() > 450, "{}", names.len());
    }

    #[test]
    fn what_runs_tools_or_changes_configuration_is_not_called_reading() {
        for line in lines() {
            let (name, row) = row(line).unwrap();
            let acts = [
                ".set", ".install", ".apply", ".run", ".delete", ".invoke", ".approve",
            ];
            let is_act = acts.iter().any(|suffix| name.ends_with(suffix));
            let reads = matches!(row.v4, Needs::Scope(Scope::Read));
            assert!(!is_act || reads || row.class != Read, "{name}");
            let needs_more = matches!(row.v4, Needs::Scope(Scope::Admin | Scope::Pairing))
                && row.class == Message;
            assert!(!needs_more || row.reach == Reach::None, "{name}");
        }
    }
}
