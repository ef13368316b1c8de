//! What the gateway asks its node for, read.

use std::collections::BTreeMap;

use serde_json::{Map, Value};

use crate::gateway::json;
use crate::policy::{Request, RequestFacts};

/// One `node.invoke.request`.
#[derive(Debug)]
pub(in crate::gateway::own) struct Invoke {
    pub(super) id: String,
    pub(super) node_id: String,
    pub(super) command: Command,
    /// How long the gateway waits.
    pub(super) timeout_ms: Option<u64>,
    params: Option<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Command {
    Run,
    Prepare,
    Which,
    ApprovalsGet,
    ApprovalsSet,
    Other,
}

impl Invoke {
    /// `None` where it could not even be answered.
    pub(in crate::gateway::own) fn read(payload: &Value) -> Option<Self> {
        let text = |key: &str| payload.get(key).and_then(Value::as_str).map(str::to_owned);
        let command = match text("command")?.as_str() {
            "system.run" => Command::Run,
            "system.run.prepare" => Command::Prepare,
            "system.which" => Command::Which,
            "system.execApprovals.get" => Command::ApprovalsGet,
            "system.execApprovals.set" => Command::ApprovalsSet,
            _ => Command::Other,
        };
        Some(Self {
            id: text("id").filter(|id| !id.is_empty())?,
            node_id: text("nodeId")?,
            command,
            timeout_ms: payload.get("timeoutMs").and_then(Value::as_u64),
            params: text("paramsJSON"),
        })
    }

    /// Its parameters; a text with two readings has none.
    pub(in crate::gateway::own) fn params(&self) -> Result<Value, &'static str> {
        let text = self.params.as_deref().ok_or("paramsJSON required")?;
        json::parse(text.as_bytes()).map_err(|_unreadable| "paramsJSON is not JSON")
    }

    pub(super) fn params_bytes(&self) -> u64 {
        self.params.as_ref().map_or(0, |params| params.len() as u64)
    }
}

/// The parameters of `system.run` and of its `prepare`.
#[derive(Debug, PartialEq, Eq)]
pub(in crate::gateway::own) struct Run {
    pub(in crate::gateway::own) argv: Vec<String>,
    /// The command as the agent wrote it.
    pub(super) text: String,
    pub(super) cwd: Option<String>,
    pub(super) env: BTreeMap<String, String>,
    pub(super) timeout_ms: Option<u64>,
    pub(super) agent: Option<String>,
    pub(super) session: Option<String>,
    /// The other end of the channel that asked.
    pub(super) peer: Option<String>,
    /// The gateway's name of it.
    pub(super) id: Option<String>,
    /// A person said yes.
    pub(super) approved: bool,
}

impl Run {
    pub(in crate::gateway::own) fn read(params: &Value) -> Result<Self, &'static str> {
        let text = |key: &str| {
            let text = params.get(key).and_then(Value::as_str).map(str::trim);
            text.filter(|text| !text.is_empty()).map(str::to_owned)
        };
        let argv: Option<Vec<String>> = params
            .get("command")
            .and_then(Value::as_array)
            .and_then(|argv| argv.iter().map(|a| a.as_str().map(str::to_owned)).collect());
        let argv = argv
            .filter(|argv| argv.first().is_some_and(|program| !program.is_empty()))
            .ok_or("command required")?;
        let env = match params.get("env") {
            None | Some(Value::Null) => BTreeMap::new(),
            Some(Value::Object(env)) => env
                .iter()
                .map(|(name, value)| Some((name.clone(), value.as_str()?.to_owned())))
                .collect::<Option<_>>()
                .ok_or("env must be texts")?,
            Some(_) => return Err("env must be an object"),
        };
        let decision = text("approvalDecision");
        let says_yes = matches!(decision.as_deref(), Some("allow-once" | "allow-always"));
        Ok(Self {
            text: text("rawCommand").unwrap_or_else(|| quoted(&argv)),
            argv,
            cwd: text("cwd"),
            env,
            timeout_ms: params
                .get("timeoutMs")
                .and_then(Value::as_u64)
                .filter(|timeout| *timeout > 0),
            agent: text("agentId"),
            session: text("sessionKey"),
            peer: text("turnSourceTo"),
            id: text("runId"),
            approved: says_yes || params.get("approved") == Some(&Value::Bool(true)),
        })
    }

    /// Whom it names.
    pub(super) fn facts(&self) -> Result<RequestFacts, &'static str> {
        let mut facts = RequestFacts::new(Request::Route);
        if let Some(agent) = &self.agent {
            facts.name_agent(agent)?;
        }
        if let Some(session) = &self.session {
            facts.name_session(session)?;
        }
        if let Some(peer) = &self.peer {
            facts.name_peer(peer);
        }
        Ok(facts)
    }

    /// The line for the sandbox's own shell that runs exactly `argv`, never `text`: the gateway
    /// judges what it shows a person by the one, and runs the other.
    pub(super) fn line(&self) -> String {
        match self.argv.as_slice() {
            [shell, flag, line]
                if matches!(shell.as_str(), "/bin/sh" | "sh")
                    && matches!(flag.as_str(), "-c" | "-lc") =>
            {
                line.clone()
            }
            argv => quoted(argv),
        }
    }

    /// A folder inside the sandbox; the gateway names one of its own host's where it names any.
    pub(super) fn workdir(&self) -> Option<String> {
        let inside = |path: &&String| {
            INSIDE
                .iter()
                .any(|root| std::path::Path::new(path).starts_with(root))
        };
        self.cwd.as_ref().filter(inside).cloned()
    }
}

/// The folders of the sandbox that a tool may write.
const INSIDE: [&str; 2] = ["/workspace", "/tmp"];

/// The line that looks for programs; `found` reads what it prints.
pub(super) fn which(bins: &[String]) -> String {
    format!(
        "for b in {}; do p=$(command -v -- \"$b\") && printf '%s\\t%s\\n' \"$b\" \"$p\"; done; true",
        quoted(bins)
    )
}

/// Programs and where they are.
pub(super) fn found(stdout: &str) -> Map<String, Value> {
    let pairs = stdout.lines().filter_map(|line| line.split_once('\t'));
    pairs
        .map(|(bin, path)| (bin.to_owned(), path.into()))
        .collect()
}

/// A line of which a shell makes these words again.
fn quoted(argv: &[String]) -> String {
    let quote = |word: &String| format!("'{}'", word.replace('\'', r"'\''"));
    let words: Vec<String> = argv.iter().map(quote).collect();
    words.join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(params: &str) -> Result<Run, &'static str> {
        Run::read(&json::parse(params.as_bytes()).unwrap())
    }

    #[test]
    fn what_runs_is_the_argument_vector() {
        let rows = [
            (
                r#"{"command":["/bin/sh","-lc","id; ls"],"rawCommand":"id; ls"}"#,
                "id; ls",
            ),
            (r#"{"command":["sh","-c","id"],"rawCommand":"true"}"#, "id"),
            (r#"{"command":["ls","-l","it's"]}"#, r"'ls' '-l' 'it'\''s'"),
            (
                r#"{"command":["/bin/sh","-lc","id","x"]}"#,
                "'/bin/sh' '-lc' 'id' 'x'",
            ),
            (r#"{"command":["$(id)"]}"#, "'$(id)'"),
        ];
        for (params, expected) in rows {
            assert_eq!(run(params).unwrap().line(), expected, "{params}");
        }
    }

    #[test]
    fn programs_are_looked_for_and_no_name_is_a_command() {
        let bins = ["sh", "no-such-program", "$(echo sh)", "'; echo 'x\ty", "-v"];
        let line = which(&bins.map(str::to_owned));
        let output = std::process::Command::new("sh")
            .args(["-c", &line])
            .output()
            .unwrap();
        assert!(output.status.success(), "{output:?}");
        let found = found(&String::from_utf8_lossy(&output.stdout));
        let names: Vec<&str> = found.keys().map(String::as_str).collect();
        assert_eq!(names, ["sh"], "{output:?}");
        assert!(
            found["sh"]
                .as_str()
                .is_some_and(|path| path.ends_with("/sh"))
        );
    }

    #[test]
    fn calls_that_are_none_are_refused() {
        let rows = [
            ("{}", "command required"),
            (r#"{"command":[]}"#, "command required"),
            (r#"{"command":[""]}"#, "command required"),
            (r#"{"command":["a",7]}"#, "command required"),
            (r#"{"command":"id"}"#, "command required"),
            (r#"{"command":["a"],"env":{"A":7}}"#, "env must be texts"),
            (r#"{"command":["a"],"env":[]}"#, "env must be an object"),
        ];
        for (params, expected) in rows {
            assert_eq!(run(params), Err(expected), "{params}");
        }
    }

    #[test]
    fn only_folders_of_the_sandbox_are_folders_of_it() {
        let rows = [
            (Some("/home/u/clawd"), None),
            (Some("/workspace"), Some("/workspace")),
            (Some("/workspace/a"), Some("/workspace/a")),
            (Some("/workspaces"), None),
            (Some("/tmp/x"), Some("/tmp/x")),
            (None, None),
        ];
        for (cwd, expected) in rows {
            let call = Run {
                cwd: cwd.map(str::to_owned),
                ..run(r#"{"command":["a"]}"#).unwrap()
            };
            assert_eq!(call.workdir().as_deref(), expected, "{cwd:?}");
        }
    }

    #[test]
    fn agents_sessions_and_peers_are_named() {
        let call = run(
            r#"{"command":["a"],"agentId":"Work","sessionKey":"agent:work:main","turnSourceTo":"+15551234567"}"#,
        );
        let facts = call.unwrap().facts().unwrap();
        assert_eq!(facts.agent.as_deref(), Some("work"));
        assert_eq!(facts.users.len(), 1);
        let two = run(r#"{"command":["a"],"agentId":"main","sessionKey":"agent:work:main"}"#);
        assert!(two.unwrap().facts().is_err());
    }
}
