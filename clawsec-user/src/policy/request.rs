//! A request's facts, and the decision over them.
//!
//! Invariant: `Permit` has no constructor outside `policy`. What acts (forwarding upstream,
//! running a tool) takes a `Permit` by value, so a request whose check was left out does not
//! compile.

use super::{Agent, GroupId, MethodClass, Policy, Principal, Reason, Scope, ToolName, UserId};

/// What a request wants to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Request {
    /// A route without a meaning of its own, such as a page of the Control UI.
    Route,
    /// `POST /tools/invoke`, or a method that names a tool.
    Tool(ToolName),
    /// Text for the assistant: `/v1/chat/completions`, `/hooks/agent`, `chat.send`.
    Message,
    /// A WebSocket method; `scope` as `classify_method` found it.
    Method {
        name: String,
        class: MethodClass,
        scope: Option<Scope>,
    },
}

/// Everything a request names that policy has a say in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RequestFacts {
    pub request: Request,
    pub users: Vec<UserId>,
    pub groups: Vec<GroupId>,
    pub agent: Option<String>,
    pub session: Option<String>,
}

impl RequestFacts {
    pub fn new(request: Request) -> Self {
        Self {
            request,
            users: Vec::new(),
            groups: Vec::new(),
            agent: None,
            session: None,
        }
    }

    /// Adds what a session key names (`agent:<a>:<channel>:group:<id>` and its kin; see the
    /// gateway's `src/routing/session-key.ts`). A key of another form names nobody.
    pub fn name_session(&mut self, key: &str) {
        let key = key.trim();
        self.session = Some(key.to_owned());
        let lower = key.to_lowercase();
        let mut parts = lower.split(':');
        if parts.next() != Some("agent") {
            return;
        }
        if let Some(agent) = parts.next() {
            self.agent.get_or_insert_with(|| agent.to_owned());
        }
        let rest: Vec<&str> = parts.collect();
        for (index, &part) in rest.iter().enumerate() {
            let peer = || {
                let tail = rest.get(index + 1..).unwrap_or_default();
                let end = tail
                    .iter()
                    .position(|&p| p == "thread")
                    .unwrap_or(tail.len());
                tail.get(..end).unwrap_or_default().join(":")
            };
            match part {
                "dm" | "openai-user" | "openresponses-user" => {
                    self.users.push(UserId::new(&peer()));
                    return;
                }
                "group" | "channel" if index > 0 => {
                    self.groups.push(GroupId::new(&peer()));
                    return;
                }
                _ => {}
            }
        }
    }
}

/// Why not, and which line of the configuration says so.
#[derive(Debug, Clone, PartialEq, Eq)]
#[must_use]
pub struct Denial {
    pub reason: Reason,
    /// The configuration path.
    pub rule: String,
}

impl Denial {
    pub fn new(reason: Reason, rule: &str) -> Self {
        Self {
            reason,
            rule: rule.to_owned(),
        }
    }
}

/// Proof that policy let a request through. It is consumed by what acts on it.
#[derive(Debug, PartialEq, Eq)]
#[must_use]
pub struct Permit {
    facts: RequestFacts,
    principal: String,
    rule: String,
    generation: u64,
    sandboxed: bool,
}

impl Permit {
    pub fn facts(&self) -> &RequestFacts {
        &self.facts
    }

    /// The principal's id.
    pub fn principal(&self) -> &str {
        &self.principal
    }

    pub fn rule(&self) -> &str {
        &self.rule
    }

    pub fn generation(&self) -> u64 {
        self.generation
    }

    /// The tool is one that clawsec answers from its sandbox, never the gateway.
    pub fn is_sandboxed(&self) -> bool {
        self.sandboxed
    }
}

impl Policy {
    /// Judges one request of an authenticated principal.
    pub fn decide(&self, principal: &Principal, facts: RequestFacts) -> Result<Permit, Denial> {
        let mut rule = principal.path().to_owned();
        let mut sandboxed = false;
        match &facts.request {
            Request::Route => require(principal, Scope::Read)?,
            Request::Message => require(principal, Scope::Write)?,
            Request::Method { scope, .. } => match scope {
                Some(scope) => require(principal, *scope)?,
                None => return Err(Denial::new(Reason::MethodNotAllowed, principal.path())),
            },
            Request::Tool(tool) => {
                require(principal, Scope::Write)?;
                principal.tools().judge(tool)?;
                sandboxed = self.judge_tool(tool, agent_of(&facts))?;
                "tools".clone_into(&mut rule);
            }
        }
        if let Some(bound) = principal.agents()
            && names_an_agent(&facts)
            && !bound
                .iter()
                .any(|allowed| allowed.eq_ignore_ascii_case(agent_of(&facts)))
        {
            return Err(Denial::new(Reason::AgentNotAllowed, principal.path()));
        }
        for user in &facts.users {
            self.people.judge_user(user)?;
            if principal.user().is_some_and(|own| own != user) {
                return Err(Denial::new(Reason::UserNotAllowed, principal.path()));
            }
        }
        for group in &facts.groups {
            self.people.judge_group(group)?;
        }
        Ok(Permit {
            facts,
            principal: principal.id().to_owned(),
            rule,
            generation: self.generation,
            sandboxed,
        })
    }

    /// Judges a tool run that root asks for on the host itself: no principal, the same lists.
    pub fn decide_for_operator(
        &self,
        tool: &ToolName,
        agent: Option<String>,
    ) -> Result<Permit, Denial> {
        let mut facts = RequestFacts::new(Request::Tool(tool.clone()));
        facts.agent = agent;
        let sandboxed = self.judge_tool(tool, agent_of(&facts))?;
        Ok(Permit {
            facts,
            principal: "operator".to_owned(),
            rule: "tools".to_owned(),
            generation: self.generation,
            sandboxed,
        })
    }

    /// Permits a webhook that `rule` lets by: nobody's key, and nothing that policy has a say in.
    pub fn decide_for_webhook(&self, rule: &str) -> Permit {
        Permit {
            facts: RequestFacts::new(Request::Route),
            principal: "webhook".to_owned(),
            rule: rule.to_owned(),
            generation: self.generation,
            sandboxed: false,
        }
    }

    /// The lists of the configuration and of the agent; whether the tool runs sandboxed.
    fn judge_tool(&self, tool: &ToolName, agent: &str) -> Result<bool, Denial> {
        self.tools.judge(tool)?;
        if let Some(agent) = self.agent(agent) {
            agent.tools.judge(tool)?;
        }
        Ok(self.sandboxed.names(tool))
    }

    fn agent(&self, id: &str) -> Option<&Agent> {
        self.agents
            .iter()
            .find(|agent| agent.id.eq_ignore_ascii_case(id))
    }
}

/// Whether a request concerns an agent: by name, or because text and tools always go to one.
fn names_an_agent(facts: &RequestFacts) -> bool {
    facts.agent.is_some() || matches!(facts.request, Request::Tool(_) | Request::Message)
}

/// The agent a request goes to: the gateway's default where none is named.
fn agent_of(facts: &RequestFacts) -> &str {
    facts.agent.as_deref().unwrap_or("main")
}

fn require(principal: &Principal, scope: Scope) -> Result<(), Denial> {
    if principal.has_scope(scope) {
        Ok(())
    } else {
        Err(Denial::new(Reason::ScopeMissing, principal.path()))
    }
}

#[cfg(test)]
mod tests {
    use super::super::*;
    use super::*;

    fn policy() -> Policy {
        let list = |names: &[&str]| names.iter().map(ToString::to_string).collect::<Vec<_>>();
        Policy {
            generation: 7,
            addresses: AddressPolicy::default(),
            credentials: Credentials::new([
                spec("admin", 1, &[Scope::Admin], None),
                spec("reader", 2, &[Scope::Read], None),
                spec("bound", 3, &[Scope::Write], Some(vec!["work".into()])),
            ]),
            people: People {
                users: Some(vec![UserId::new("+15551234567")]),
                groups: None,
            },
            tools: ToolRules::new("tools", None, &[], &list(&["browser"])).unwrap(),
            sandboxed: ToolRules::new("security.sandbox.tools", None, &list(&["exec"]), &[])
                .unwrap(),
            agents: vec![Agent {
                id: "work".into(),
                workspace: None,
                tools: ToolRules::new("agents.list[0].tools", None, &[], &list(&["cron"])).unwrap(),
            }],
            limit: RequestLimit {
                enabled: true,
                requests: 60,
                window_ms: 60_000,
            },
        }
    }

    fn spec(id: &str, byte: u8, scopes: &[Scope], agents: Option<Vec<String>>) -> PrincipalSpec {
        PrincipalSpec {
            id: id.into(),
            digest: KeyDigest([byte; 32]),
            path: format!("auth.{id}"),
            scopes: scopes.to_vec(),
            user: None,
            agents,
            tools: ToolRules::default(),
            not_before: None,
            not_after: None,
        }
    }

    fn decide(byte: u8, facts: RequestFacts) -> Result<Permit, Reason> {
        let policy = policy();
        let principal = policy
            .credentials
            .authenticate(KeyDigest([byte; 32]), 0)
            .unwrap();
        policy
            .decide(&principal, facts)
            .map_err(|denial| denial.reason)
    }

    fn tool(name: &str, agent: Option<&str>) -> RequestFacts {
        let mut facts = RequestFacts::new(Request::Tool(ToolName::new(name)));
        facts.agent = agent.map(str::to_owned);
        facts
    }

    #[test]
    fn tools_pass_every_layer() {
        assert!(decide(1, tool("bash", None)).unwrap().is_sandboxed());
        assert!(!decide(1, tool("cron", None)).unwrap().is_sandboxed());
        assert_eq!(
            decide(1, tool("cron", Some("Work"))),
            Err(Reason::ToolDenied)
        );
        assert_eq!(decide(1, tool("Browser", None)), Err(Reason::ToolDenied));
        assert_eq!(decide(2, tool("exec", None)), Err(Reason::ScopeMissing));
    }

    #[test]
    fn a_bound_principal_cannot_name_another_agent() {
        assert!(decide(3, tool("exec", Some("work"))).is_ok());
        assert_eq!(
            decide(3, tool("exec", Some("main"))),
            Err(Reason::AgentNotAllowed)
        );
        assert_eq!(decide(3, tool("exec", None)), Err(Reason::AgentNotAllowed));
        let health = Request::Method {
            name: "health".into(),
            class: MethodClass::Read,
            scope: Some(Scope::Read),
        };
        assert!(decide(3, RequestFacts::new(health)).is_ok());
    }

    #[test]
    fn session_keys_name_agents_users_and_groups() {
        let rows = [
            ("agent:main:main", Some("main"), None, None),
            ("main", None, None, None),
            (
                "agent:work:whatsapp:dm:+15551234567",
                Some("work"),
                Some("+15551234567"),
                None,
            ),
            ("agent:main:dm:+1555", Some("main"), Some("+1555"), None),
            (
                "agent:main:openai-user:+15551234567",
                Some("main"),
                Some("+15551234567"),
                None,
            ),
            (
                "agent:main:whatsapp:group:12@g.us",
                Some("main"),
                None,
                Some("12@g.us"),
            ),
            (
                "agent:main:slack:channel:c1:thread:t",
                Some("main"),
                None,
                Some("c1"),
            ),
            (
                "AGENT:Main:telegram:acct:dm:77",
                Some("main"),
                Some("77"),
                None,
            ),
        ];
        for (key, agent, user, group) in rows {
            let mut facts = RequestFacts::new(Request::Message);
            facts.name_session(key);
            assert_eq!(facts.agent.as_deref(), agent, "{key}");
            assert_eq!(facts.users.first().map(UserId::as_str), user, "{key}");
            assert_eq!(facts.groups.first().map(GroupId::as_str), group, "{key}");
        }
    }

    #[test]
    fn users_outside_the_list_are_denied() {
        let mut facts = RequestFacts::new(Request::Message);
        facts.users = vec![UserId::new("+15551234567")];
        assert!(decide(1, facts.clone()).is_ok());
        facts.users.push(UserId::new("+19999999999"));
        assert_eq!(decide(1, facts), Err(Reason::UserNotAllowed));
    }
}
