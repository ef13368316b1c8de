//! `agents.list`: each agent's workspace, tools, and the tokens that may name it alone.

use super::super::near;
use super::super::reader::{Field, Section};
use crate::policy::{Agent, PrincipalSpec};

/// Reads the agents and binds the tokens they list to them.
pub(super) fn read(section: &mut Section<'_, '_>, principals: &mut [PrincipalSpec]) -> Agents {
    let mut agents: Vec<Agent> = Vec::new();
    let mut default: Option<String> = None;
    let read = section.at("list").list(|field| {
        let known = |id: &str| agents.iter().any(|agent| agent.id.eq_ignore_ascii_case(id));
        let agent = field.object(|entry| {
            let is_default = entry.at("default").boolean() == Some(true);
            let agent = agent(entry, &known, principals)?;
            if is_default {
                match &default {
                    None => default = Some(agent.id.clone()),
                    Some(first) => entry
                        .at("default")
                        .problem(format!("{first:?} is the default agent already")),
                }
            }
            Some(agent)
        })??;
        agents.push(agent);
        Some(())
    });
    let default = default.unwrap_or_else(|| "main".to_owned());
    if read.is_some() {
        warn_of_strangers(section, &agents, &default, principals);
    }
    Agents {
        list: agents,
        default,
    }
}

/// What `agents` says.
pub(super) struct Agents {
    pub(super) list: Vec<Agent>,
    /// The one that requests go to where none is named.
    pub(super) default: String,
}

impl Default for Agents {
    fn default() -> Self {
        Self {
            list: Vec::new(),
            default: "main".to_owned(),
        }
    }
}

fn agent(
    entry: &mut Section<'_, '_>,
    known: &dyn Fn(&str) -> bool,
    principals: &mut [PrincipalSpec],
) -> Option<Agent> {
    let id = entry.at("id").required("the agent's id").parsed(
        "letters, digits, `_`, `-`, at most 64",
        |text| {
            let plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-');
            let sound = (1..=64).contains(&text.len()) && text.bytes().all(plain);
            if sound {
                Ok(text.to_lowercase())
            } else {
                Err(None)
            }
        },
    );
    if let Some(id) = id.as_deref().filter(|id| known(id)) {
        entry
            .at("id")
            .problem(format!("there is an agent {id:?} already"));
    }
    let workspace = entry.at("workspace").file();
    let tools = entry.at("tools").section(super::tools);
    // The gateway's keys are gone already; clawsec has one sandbox for all agents so far.
    entry.at("sandbox").object(|sandbox| {
        for key in SANDBOX {
            sandbox.at(key).unavailable();
        }
    });
    // Names can only be judged where every token could be read.
    let complete = !entry.report.has_problem_under("security.auth");
    entry
        .at("tokens")
        .list(|token| bind(token, id.as_deref()?, principals, complete));
    Some(Agent {
        id: id?,
        workspace: workspace.and_then(|path| path.to_str().map(str::to_owned)),
        tools,
    })
}

/// Lets the token name this agent, and none but those that list it.
fn bind(
    token: Field<'_, '_>,
    agent: &str,
    principals: &mut [PrincipalSpec],
    complete: bool,
) -> Option<()> {
    let name = token.parsed("the id of a token", |name| {
        let ids = || principals.iter().map(|spec| spec.id.as_str());
        if !complete || ids().any(|id| id == name) {
            return Ok(name);
        }
        Err(near::nearest(name, ids()).map(|id| format!("{id:?}")))
    })?;
    let spec = principals.iter_mut().find(|spec| spec.id == name)?;
    let agents = spec.agents.get_or_insert_default();
    if !agents.iter().any(|known| known.eq_ignore_ascii_case(agent)) {
        agents.push(agent.to_owned());
    }
    Some(())
}

/// A token bound to an agent that nobody wrote down may be a slip of the pen.
fn warn_of_strangers(
    section: &mut Section<'_, '_>,
    agents: &[Agent],
    default: &str,
    principals: &[PrincipalSpec],
) {
    for spec in principals {
        for name in spec.agents.iter().flatten() {
            let known = agents
                .iter()
                .any(|agent| agent.id.eq_ignore_ascii_case(name));
            if !known && !name.eq_ignore_ascii_case(default) {
                let message = format!("there is no agent {name:?} in `agents.list`");
                section
                    .report
                    .warn(&format!("{}.agents", spec.path), message);
            }
        }
    }
}

const SANDBOX: &[&str] = &[
    "enabled",
    "provider",
    "tools",
    "image",
    "network",
    "memory",
    "cpus",
    "pids",
    "timeout",
    "output",
    "pool",
    "concurrency",
    "user",
];
