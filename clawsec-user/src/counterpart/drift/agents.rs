//! Agents: their workspaces, tools and files, apart from one another.

use serde_json::{Value, json};

use super::{Comparison, Severity, at, says};
use crate::counterpart::{Product, tools};
use crate::policy::ToolRules;

impl Comparison<'_> {
    pub(super) fn agents(&mut self) {
        let policy = &self.config.policy;
        let isolated = policy.credentials.bind_agents();
        let found = entries(self.found);
        let whole = tools::read(self.at("tools"));
        for agent in &policy.agents {
            let is_it = |(id, _, _): &&(String, String, Value)| id.eq_ignore_ascii_case(&agent.id);
            let Some((id, path, entry)) = found.iter().find(is_it) else {
                let path = "agents.list";
                let detail = format!("there is no agent {:?}", agent.id);
                let remedy = "add it, as `clawsec render` writes it".to_owned();
                self.add(Severity::Warn, path, path, detail, remedy);
                continue;
            };
            let theirs = tools::read(entry.get("tools"));
            for (list, tools) in tools::let_through(self.product, &agent.tools, &[&whole, &theirs])
            {
                let path = format!("{path}.tools.{list}");
                self.tools_drift(&format!("agents.*.tools.{list}"), &path, &tools);
            }
            if let Some(wanted) = &agent.workspace {
                let workspace = entry.get("workspace").and_then(Value::as_str);
                if workspace.map(|path| path.trim_end_matches('/'))
                    != Some(wanted.trim_end_matches('/'))
                {
                    let path = format!("{path}.workspace");
                    let detail = format!("{}, should be {wanted:?}", says(entry.get("workspace")));
                    let remedy = format!("set {path} to {wanted:?}");
                    self.add(Severity::Warn, "agents.*.workspace", &path, detail, remedy);
                }
            }
            if isolated {
                self.files(id, path, entry, &whole, &theirs);
            }
        }
        for (_, path, _) in &found {
            let host = at_entry(&found, path, "tools.exec.host");
            if let Some(node) = &self.config.node_host
                && host.as_deref().is_some_and(|host| host != "node")
            {
                let path = format!("{path}.tools.exec.host");
                let detail = "this agent's commands run outside clawsec's sandbox".to_owned();
                let remedy = format!("remove {path}, or set it to \"node\" with node {node:?}");
                self.add(
                    Severity::Critical,
                    "agents.*.tools.exec.host",
                    &path,
                    detail,
                    remedy,
                );
            }
        }
        self.default_agent(&found, isolated);
    }

    /// Isolated agents must not read each other's files.
    fn files(
        &mut self,
        id: &str,
        path: &str,
        entry: &Value,
        whole: &ToolRules,
        theirs: &ToolRules,
    ) {
        let only =
            at(entry, "tools.fs.workspaceOnly").or_else(|| self.at("tools.fs.workspaceOnly"));
        let contained = self.product == Product::Openclaw && only == Some(&json!(true));
        let sandbox = at(entry, "sandbox.mode").or_else(|| self.at("agents.defaults.sandbox.mode"));
        let no_files = ["group:fs".to_owned()];
        let Some(none) = ToolRules::new("tools", None, &[], &no_files) else {
            return;
        };
        let open = tools::let_through(self.product, &none, &[whole, theirs]);
        if contained || sandbox == Some(&json!("all")) || open.is_empty() {
            return;
        }
        let detail = format!("agent {id:?} can read and write other agents' files");
        let (path, remedy) = match self.product {
            Product::Openclaw => {
                let path = format!("{path}.tools.fs.workspaceOnly");
                let remedy = format!("set {path} to true");
                (path, remedy)
            }
            Product::Clawdbot => {
                let path = format!("{path}.tools.deny");
                let remedy = format!("add \"group:fs\" to {path}");
                (path, remedy)
            }
        };
        self.add(
            Severity::Critical,
            "agents.*.tools.fs",
            &path,
            detail,
            remedy,
        );
    }

    /// Requests that name no agent go to the gateway's default one; for a bound key that matters.
    fn default_agent(&mut self, found: &[(String, String, Value)], isolated: bool) {
        // Keyed entries have no marker; their owner is told surface by surface.
        let Some(list) = self.at("agents.list").and_then(Value::as_array) else {
            return;
        };
        let marked = list
            .iter()
            .position(|entry| entry.get("default") == Some(&json!(true)));
        let Some((id, _, _)) = found.get(marked.unwrap_or(0)) else {
            return;
        };
        let wanted = self.config.policy.default_agent.clone();
        if isolated && !id.eq_ignore_ascii_case(&wanted) {
            let detail = format!("the default agent is {id:?} there, {wanted:?} in clawsec's file");
            let remedy = format!("mark {wanted:?} with `default: true` in both files");
            let path = "agents.list";
            self.add(Severity::Critical, "agents.default", path, detail, remedy);
        }
    }
}

fn at_entry(found: &[(String, String, Value)], path: &str, key: &str) -> Option<String> {
    let (_, _, entry) = found.iter().find(|(_, known, _)| known == path)?;
    at(entry, key)?.as_str().map(str::to_owned)
}

/// The agents of either spelling: id, path, entry.
fn entries(found: &Value) -> Vec<(String, String, Value)> {
    let keyed = at(found, "agents.entries").and_then(Value::as_object);
    let keyed = keyed.into_iter().flatten();
    let keyed =
        keyed.map(|(id, entry)| (id.clone(), format!("agents.entries.{id}"), entry.clone()));
    let listed = at(found, "agents.list").and_then(Value::as_array);
    let listed = listed.into_iter().flatten().enumerate();
    let listed = listed.map(|(index, entry)| {
        let id = entry.get("id").and_then(Value::as_str).unwrap_or_default();
        (
            id.to_owned(),
            format!("agents.list[{index}]"),
            entry.clone(),
        )
    });
    listed.chain(keyed).collect()
}
