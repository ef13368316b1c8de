//! What a request's names mean: agents, sessions and the other ends of channels.
//!
//! Invariant: a name that the gateways' versions read differently is refused, so that the name
//! judged is the name used. Source: `src/routing/session-key.ts` and `src/sessions/` of both.

use super::{GroupId, RequestFacts, UserId, js_trim};

impl RequestFacts {
    /// Names an agent; a second, different one is a contradiction.
    pub fn name_agent(&mut self, agent: &str) -> Result<(), &'static str> {
        let agent = agent_id(agent)?;
        match &self.agent {
            Some(named) if *named != agent => Err("two different agents are named"),
            _ => {
                self.agent = Some(agent);
                Ok(())
            }
        }
    }

    /// Names a session and whoever it belongs to; a second, different one is a contradiction.
    pub fn name_session(&mut self, key: &str) -> Result<(), &'static str> {
        let session = SessionKey::read(key)?;
        match &session.agent {
            Some(agent) => self.name_agent(agent)?,
            None => self.names_default = true,
        }
        self.users.extend(session.user);
        self.groups.extend(session.group);
        let key = js_trim(key);
        if self.session.as_deref().is_some_and(|first| first != key) {
            return Err("two different sessions are named");
        }
        self.session = Some(key.to_owned());
        Ok(())
    }

    /// Names a session beside the request's own.
    pub fn name_other_session(&mut self, key: &str) -> Result<(), &'static str> {
        let session = SessionKey::read(key)?;
        match session.agent {
            Some(agent) => self.also_agents.push(agent),
            None => self.names_default = true,
        }
        self.users.extend(session.user);
        self.groups.extend(session.group);
        Ok(())
    }

    /// Names the other end of a channel: a group by its id, anything else a user.
    pub fn name_peer(&mut self, peer: &str) {
        let peer = js_trim(peer);
        let bare = peer.rsplit(':').next().unwrap_or(peer);
        let lower = peer.to_lowercase();
        let is_group = lower.ends_with("@g.us")
            || lower
                .split(':')
                .any(|part| matches!(part, "group" | "channel"));
        if is_group {
            self.groups.push(GroupId::new(bare));
        } else {
            self.users.push(UserId::new(peer));
        }
    }
}

/// An agent's id as the gateways keep it. They rewrite what is not one, each in its own way.
pub fn agent_id(text: &str) -> Result<String, &'static str> {
    let agent = js_trim(text).to_ascii_lowercase();
    let mut bytes = agent.bytes();
    let first = bytes.next().is_some_and(|b| b.is_ascii_alphanumeric());
    let rest = bytes.all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-'));
    if first && rest && agent.len() <= 64 {
        Ok(agent)
    } else {
        Err("an agent's name is not one")
    }
}

/// A session key, read.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct SessionKey {
    /// `None`: the default agent's.
    pub agent: Option<String>,
    pub user: Option<UserId>,
    pub group: Option<GroupId>,
}

impl SessionKey {
    /// Reads `agent:<agent>:<rest>`, where the rest may name a peer (`<channel>:dm:<peer>`,
    /// `<channel>:group:<id>`, and their kin); every other text is a key of the default agent's.
    pub fn read(key: &str) -> Result<Self, &'static str> {
        let key = js_trim(key);
        let parts: Vec<&str> = key.split(':').collect();
        let begins = parts.iter().find(|part| !part.is_empty());
        let Some(("agent", rest)) = key.split_once(':') else {
            // The older one skips empty parts, the newer one the case of the first.
            if begins.is_some_and(|part| part.eq_ignore_ascii_case("agent")) {
                return Err("a session key is not one");
            }
            return Ok(Self::default().with_peer(&parts));
        };
        let named = rest.split_once(':').filter(|(_, rest)| !rest.is_empty());
        let Some((agent, _)) = named else {
            return Err("a session key is not one");
        };
        if parts.iter().any(|part| part.is_empty()) {
            return Err("a session key is not one");
        }
        let session = Self {
            agent: Some(agent_id(agent)?),
            ..Self::default()
        };
        Ok(session.with_peer(parts.get(2..).unwrap_or_default()))
    }

    fn with_peer(mut self, rest: &[&str]) -> Self {
        let lower: Vec<String> = rest.iter().map(|part| part.to_lowercase()).collect();
        for (index, part) in lower.iter().enumerate() {
            let peer = || {
                let tail = lower.get(index + 1..).unwrap_or_default();
                let ends = |part: &String| matches!(part.as_str(), "thread" | "topic");
                let end = tail.iter().position(ends).unwrap_or(tail.len());
                tail.get(..end).unwrap_or_default().join(":")
            };
            match part.as_str() {
                "dm" | "direct" | "openai-user" | "openresponses-user" => {
                    self.user = Some(UserId::new(&peer()));
                    return self;
                }
                "group" | "channel" if index > 0 => {
                    self.group = Some(GroupId::new(&peer()));
                    return self;
                }
                _ => {}
            }
        }
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::Request;

    #[test]
    fn session_keys_name_agents_users_and_groups() {
        let rows = [
            ("agent:main:main", Some("main"), None, None),
            ("main", None, None, None),
            ("global", None, None, None),
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
                "agent:main:whatsapp:direct:+15551234567",
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
            ("whatsapp:group:12@g.us", None, None, Some("12@g.us")),
            (
                "agent:main:slack:channel:c1:thread:t",
                Some("main"),
                None,
                Some("c1"),
            ),
            (
                "agent:Main:telegram:acct:dm:77",
                Some("main"),
                Some("77"),
                None,
            ),
        ];
        for (key, agent, user, group) in rows {
            let mut facts = RequestFacts::new(Request::Message);
            assert_eq!(facts.name_session(key), Ok(()), "{key}");
            assert_eq!(facts.agent.as_deref(), agent, "{key}");
            assert_eq!(facts.names_default, agent.is_none(), "{key}");
            assert_eq!(facts.users.first().map(UserId::as_str), user, "{key}");
            assert_eq!(facts.groups.first().map(GroupId::as_str), group, "{key}");
        }
    }

    #[test]
    fn session_keys_with_two_readings_are_refused() {
        let rows = [
            "AGENT:main:main",
            ":agent:work:main",
            "agent::work:main",
            "agent:work::main",
            "agent:work:main:",
            "agent:work",
            "agent:",
            "agent:wo rk:main",
            "agent:../x:main",
        ];
        for key in rows {
            assert!(SessionKey::read(key).is_err(), "{key}");
        }
    }

    #[test]
    fn contradicting_claims_are_refused() {
        let mut facts = RequestFacts::new(Request::Message);
        assert_eq!(facts.name_agent(" Work "), Ok(()));
        assert_eq!(facts.name_session("agent:work:main"), Ok(()));
        assert!(facts.name_session("agent:main:main").is_err());
        assert!(facts.name_agent("main").is_err());
        assert!(facts.name_agent("work/../main").is_err());
        assert_eq!(facts.agent.as_deref(), Some("work"));
        assert_eq!(facts.name_other_session("agent:main:main"), Ok(()));
        assert_eq!(facts.also_agents, ["main"]);
    }

    #[test]
    fn peers_are_users_or_groups() {
        let rows = [
            ("+15551234567", Some("+15551234567"), None),
            ("whatsapp:+15551234567", Some("+15551234567"), None),
            ("120363@g.us", None, Some("120363@g.us")),
            ("whatsapp:120363@G.us", None, Some("120363@g.us")),
            ("slack:channel:C1", None, Some("c1")),
        ];
        for (peer, user, group) in rows {
            let mut facts = RequestFacts::new(Request::Message);
            facts.name_peer(peer);
            assert_eq!(facts.users.first().map(UserId::as_str), user, "{peer}");
            assert_eq!(facts.groups.first().map(GroupId::as_str), group, "{peer}");
        }
    }
}
