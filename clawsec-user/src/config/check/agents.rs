//! `agents.list`: each agent's workspace, tools, and the tokens that may name it alone.

use std::collections::BTreeMap;
use std::path::PathBuf;

use super::super::model::{SandboxConfig, WorkspaceAccess};
use super::super::near;
use super::super::reader::{Field, Section};
use super::sandbox;
use crate::policy::{Agent, PrincipalSpec};

/// Reads the agents and binds the tokens they list to them.
pub(super) fn read(
    section: &mut Section<'_, '_>,
    principals: &mut [PrincipalSpec],
    sandbox: &mut SandboxConfig,
) -> Agents {
    let mut agents: Vec<Agent> = Vec::new();
    let mut default: Option<String> = None;
    let read = section.at("list").list(|field| {
        let known = |id: &str| agents.iter().any(|agent| agent.id.eq_ignore_ascii_case(id));
        let agent = field.object(|entry| {
            let is_default = entry.at("default").boolean() == Some(true);
            let agent = agent(entry, &known, principals, sandbox)?;
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
    sandbox: &mut SandboxConfig,
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
    let own_sandbox = own_sandbox(entry, sandbox, workspace.as_ref());
    if let (Some(id), Some(own)) = (&id, own_sandbox) {
        sandbox.agents.insert(id.clone(), own);
    }
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

/// The agent's sandbox, where it is another than everybody's. The gateway's keys are gone already.
fn own_sandbox(
    entry: &mut Section<'_, '_>,
    common: &SandboxConfig,
    workspace: Option<&PathBuf>,
) -> Option<SandboxConfig> {
    let common = SandboxConfig {
        agents: BTreeMap::new(),
        ..common.clone()
    };
    let field = entry.at("sandbox");
    let place = field.path().to_owned();
    let offset = field.offset();
    let said = field.object(|section| {
        for key in COMMON {
            section.at(key).for_all_agents();
        }
        sandbox::settings(section, &common, Some(&common.networks))
    });
    let mut own = said.unwrap_or_else(|| common.clone());
    if own.workspace_access != WorkspaceAccess::None {
        own.workspace = workspace.cloned();
        if own.workspace.is_none() && own.workspace_access != common.workspace_access {
            let message = "needs the agent's folder: `workspace` beside `sandbox`";
            entry
                .report
                .problem(offset, &format!("{place}.workspace"), message);
        }
    }
    (own != common).then_some(own)
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
    // Two where a key is being replaced.
    for spec in principals.iter_mut().filter(|spec| spec.id == name) {
        let agents = spec.agents.get_or_insert_default();
        if !agents.iter().any(|known| known.eq_ignore_ascii_case(agent)) {
            agents.push(agent.to_owned());
        }
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

/// What is said in `security.sandbox`, for all agents at once.
const COMMON: &[&str] = &[
    "enabled",
    "tools",
    "networks",
    "concurrency",
    "user",
    "dockerSocket",
    "nodeHost",
];
