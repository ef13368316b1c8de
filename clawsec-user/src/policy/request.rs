//! A request's facts, and the decision over them.
//!
//! Invariant: `Permit` has no constructor outside `policy`. What acts (forwarding upstream,
//! running a tool) takes a `Permit` by value, so a request whose check was left out does not
//! compile.

use super::{
    Agent, GroupId, Method, MethodClass, Policy, Principal, Reach, Reason, Scope, ToolName,
    UnknownMethods, UserId,
};

/// What a request wants to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Request {
    /// A route without a meaning of its own, such as a page of the Control UI.
    Route,
    /// `POST /tools/invoke`, or a method that names a tool.
    Tool(ToolName),
    /// Text for the assistant: `/v1/chat/completions`, `/hooks/agent`, `chat.send`.
    Message,
    /// A WebSocket method, or a route that stands for one, as `classify_method` found it.
    Method { name: String, method: Method },
}

/// Everything a request names that policy has a say in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RequestFacts {
    pub request: Request,
    pub users: Vec<UserId>,
    pub groups: Vec<GroupId>,
    pub agent: Option<String>,
    /// Agents that are named in passing, such as by a parent's session; looked for where the
    /// principal is bound to agents.
    pub also_agents: Vec<String>,
    /// The gateway's default agent, where it said so itself; else the configuration's.
    pub default_agent: Option<String>,
    /// Something here goes to the default agent in one version at least, whatever else is named.
    pub names_default: bool,
    pub session: Option<String>,
}

impl RequestFacts {
    pub fn new(request: Request) -> Self {
        Self {
            request,
            users: Vec::new(),
            groups: Vec::new(),
            agent: None,
            also_agents: Vec::new(),
            default_agent: None,
            names_default: false,
            session: None,
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
    isolation: Option<Bound>,
}

/// The agents that a principal is bound to, for what it is shown.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Bound {
    pub agents: Vec<String>,
    pub default_agent: String,
}

impl Permit {
    /// Set where answers have to be filtered.
    pub fn isolation(&self) -> Option<&Bound> {
        self.isolation.as_ref()
    }

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
            Request::Method { method, .. } => self.judge_method(principal, *method)?,
            Request::Tool(tool) => {
                require(principal, Scope::Write)?;
                principal.tools().judge(tool)?;
                sandboxed = self.judge_tool(tool, self.agent_of(&facts))?;
                "tools".clone_into(&mut rule);
            }
        }
        self.judge_agents(principal, &facts, sandboxed)?;
        for user in &facts.users {
            self.people.judge_user(user)?;
            if principal.user().is_some_and(|own| own != user) {
                return Err(Denial::new(Reason::UserNotAllowed, principal.path()));
            }
        }
        for group in &facts.groups {
            self.people.judge_group(group)?;
            if principal.groups().is_some_and(|own| !own.contains(group)) {
                return Err(Denial::new(Reason::GroupNotAllowed, principal.path()));
            }
        }
        let isolation = principal.agents().map(|agents| Bound {
            agents: agents.to_vec(),
            default_agent: self.default_of(&facts).to_owned(),
        });
        Ok(Permit {
            facts,
            principal: principal.id().to_owned(),
            rule,
            generation: self.generation,
            sandboxed,
            isolation,
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
        let sandboxed = self.judge_tool(tool, self.agent_of(&facts))?;
        Ok(Permit {
            facts,
            principal: "operator".to_owned(),
            rule: "tools".to_owned(),
            generation: self.generation,
            sandboxed,
            isolation: None,
        })
    }

    /// Judges a tool run that an agent of the protected gateway asks clawsec for, as its node: no
    /// principal, and the same lists of tools, users and groups.
    pub fn decide_for_agent(
        &self,
        tool: &ToolName,
        mut facts: RequestFacts,
    ) -> Result<Permit, Denial> {
        facts.request = Request::Tool(tool.clone());
        if !self.judge_tool(tool, self.agent_of(&facts))? {
            return Err(Denial::new(Reason::ToolDenied, "security.sandbox.tools"));
        }
        for user in &facts.users {
            self.people.judge_user(user)?;
        }
        for group in &facts.groups {
            self.people.judge_group(group)?;
        }
        Ok(Permit {
            facts,
            principal: "gateway".to_owned(),
            rule: "tools".to_owned(),
            generation: self.generation,
            sandboxed: true,
            isolation: None,
        })
    }

    fn judge_method(&self, principal: &Principal, method: Method) -> Result<(), Denial> {
        match method.scope {
            Some(scope) => require(principal, scope)?,
            None if method.class == MethodClass::Node => require(principal, Scope::Admin)?,
            None => return Err(Denial::new(Reason::MethodNotAllowed, principal.path())),
        }
        if !method.known && self.unknown_methods == UnknownMethods::Deny {
            let rule = "gateway.unknownMethods";
            return Err(Denial::new(Reason::MethodNotAllowed, rule));
        }
        Ok(())
    }

    /// A principal that is bound to agents can name those only, by whatever it names, and does
    /// nothing that goes to all of them.
    fn judge_agents(
        &self,
        principal: &Principal,
        facts: &RequestFacts,
        sandboxed: bool,
    ) -> Result<(), Denial> {
        let Some(bound) = principal.agents() else {
            return Ok(());
        };
        let goes_to_one = match &facts.request {
            Request::Tool(_) | Request::Message => true,
            Request::Route => false,
            Request::Method { method, .. } => match method.reach {
                Reach::Own => true,
                Reach::Any => false,
                Reach::None => {
                    return Err(Denial::new(Reason::AgentNotAllowed, principal.path()));
                }
            },
        };
        let implied = goes_to_one.then(|| self.agent_of(facts));
        let named = facts.agent.as_deref().or(implied);
        // What clawsec runs itself goes to no agent of the gateway's.
        let default = (facts.names_default && !sandboxed).then(|| self.default_of(facts));
        let also = facts.also_agents.iter().map(String::as_str);
        let is_own = |name: &str| bound.iter().any(|own| own.eq_ignore_ascii_case(name));
        if named.into_iter().chain(default).chain(also).all(is_own) {
            Ok(())
        } else {
            Err(Denial::new(Reason::AgentNotAllowed, principal.path()))
        }
    }

    /// The agent a request goes to: the gateway's default where none is named.
    fn agent_of<'a>(&'a self, facts: &'a RequestFacts) -> &'a str {
        facts.agent.as_deref().unwrap_or(self.default_of(facts))
    }

    fn default_of<'a>(&'a self, facts: &'a RequestFacts) -> &'a str {
        facts
            .default_agent
            .as_deref()
            .unwrap_or(&self.default_agent)
    }

    /// Permits a webhook that `rule` lets by: nobody's key, and nothing that policy has a say in.
    pub fn decide_for_webhook(&self, rule: &str) -> Permit {
        self.decide_for_nobody("webhook", rule)
    }

    /// The permit for a page that `gateway.ui` opens to everybody. It carries no credential.
    pub fn decide_for_visitor(&self, rule: &str) -> Permit {
        self.decide_for_nobody("visitor", rule)
    }

    fn decide_for_nobody(&self, who: &str, rule: &str) -> Permit {
        Permit {
            facts: RequestFacts::new(Request::Route),
            principal: who.to_owned(),
            rule: rule.to_owned(),
            generation: self.generation,
            sandboxed: false,
            isolation: None,
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
            default_agent: "main".into(),
            unknown_methods: UnknownMethods::Admin,
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
            groups: None,
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
        let method = |name: &str| {
            RequestFacts::new(Request::Method {
                name: name.into(),
                method: classify_method(Protocol::V4, name),
            })
        };
        assert!(decide(3, method("health")).is_ok());
        let rows = [
            ("chat.history", Some("work"), true),
            ("chat.history", Some("main"), false),
            ("chat.history", None, false),
            ("sessions.list", None, true),
            ("sessions.list", Some("main"), false),
            ("logs.tail", None, false),
            ("brand.new", Some("work"), false),
        ];
        for (name, agent, allowed) in rows {
            let mut facts = method(name);
            facts.agent = agent.map(str::to_owned);
            assert_eq!(decide(3, facts).is_ok(), allowed, "{name} {agent:?}");
        }
        let mut facts = method("sessions.create");
        facts.agent = Some("work".into());
        facts.also_agents = vec!["work".into(), "main".into()];
        assert_eq!(decide(3, facts), Err(Reason::AgentNotAllowed));
    }

    #[test]
    fn a_key_speaks_only_in_its_groups() {
        let own = PrincipalSpec {
            groups: Some(vec![GroupId::new("1@g.us")]),
            ..spec("grouped", 4, &[Scope::Write], None)
        };
        let policy = Policy {
            credentials: Credentials::new([own]),
            ..policy()
        };
        let principal = policy
            .credentials
            .authenticate(KeyDigest([4; 32]), 0)
            .unwrap();
        for (group, expected) in [("1@G.us", None), ("2@g.us", Some(Reason::GroupNotAllowed))] {
            let mut facts = RequestFacts::new(Request::Message);
            facts.groups = vec![GroupId::new(group)];
            let denied = policy
                .decide(&principal, facts)
                .err()
                .map(|denial| denial.reason);
            assert_eq!(denied, expected, "{group}");
        }
    }

    #[test]
    fn an_agent_of_the_gateway_passes_the_same_lists() {
        let policy = policy();
        let decide = |tool: &str, session: &str| {
            let mut facts = RequestFacts::new(Request::Route);
            facts.name_session(session).unwrap();
            let decided = policy.decide_for_agent(&ToolName::new(tool), facts);
            decided.map(|permit| assert!(permit.is_sandboxed()))
        };
        let rows = [
            ("bash", "agent:main:main", None),
            ("exec", "agent:main:whatsapp:dm:+15551234567", None),
            (
                "exec",
                "agent:main:whatsapp:dm:+15557654321",
                Some((Reason::UserNotAllowed, "security.users.allowList")),
            ),
            (
                "browser",
                "main",
                Some((Reason::ToolDenied, "tools.deny[0]")),
            ),
            (
                "cron",
                "agent:work:main",
                Some((Reason::ToolDenied, "agents.list[0].tools.deny[0]")),
            ),
            (
                "cron",
                "agent:main:main",
                Some((Reason::ToolDenied, "security.sandbox.tools")),
            ),
        ];
        for (tool, session, expected) in rows {
            let denied = decide(tool, session).err();
            let denied = denied.as_ref().map(|d| (d.reason, d.rule.as_str()));
            assert_eq!(denied, expected, "{tool} {session}");
        }
    }

    #[test]
    fn unknown_methods_follow_the_configuration() {
        let unknown = || {
            RequestFacts::new(Request::Method {
                name: "brand.new".into(),
                method: classify_method(Protocol::V4, "brand.new"),
            })
        };
        assert!(decide(1, unknown()).is_ok());
        assert_eq!(decide(2, unknown()), Err(Reason::ScopeMissing));
        let strict = Policy {
            unknown_methods: UnknownMethods::Deny,
            ..policy()
        };
        let admin = strict
            .credentials
            .authenticate(KeyDigest([1; 32]), 0)
            .unwrap();
        let denial = strict.decide(&admin, unknown()).unwrap_err();
        assert_eq!(denial.rule, "gateway.unknownMethods");
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
