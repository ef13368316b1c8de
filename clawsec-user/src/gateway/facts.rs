//! What a request names that policy has a say in: people, agents, sessions, tools.
//!
//! All of it is claimed by the client. Two claims that contradict each other are refused, because
//! the gateway behind would believe only one of them, and which one differs by version.

use hyper::HeaderMap;
use hyper::body::Incoming;
use hyper::http::request::Parts;

use super::body::{Held, hold};
use super::limits::Counted;
use super::record::Exchange;
use super::refusal::Refusal;
use super::route::Route;
use super::{messages, tools_invoke};
use crate::policy::{Denial, GroupId, MethodClass, Reason, Request, RequestFacts, Scope, UserId};

/// What is asked, and what is needed to do it.
#[derive(Debug)]
pub(super) struct Asked {
    pub(super) facts: RequestFacts,
    pub(super) order: Order,
}

/// A request apart from its facts.
#[derive(Debug)]
pub(super) struct Order {
    pub(super) cargo: Cargo,
    /// Set for `/tools/invoke`.
    pub(super) call: Option<tools_invoke::Call>,
}

impl Order {
    pub(super) fn new(parts: Parts, load: Load) -> Self {
        Self {
            cargo: Cargo { parts, load },
            call: None,
        }
    }

    /// The answer to a denial: a tool is denied as if it did not exist.
    pub(super) fn denied(&self, denial: Denial) -> Refusal {
        match &self.call {
            Some(call) if denial.reason == Reason::ToolDenied => {
                Refusal::tool_not_available(&call.tool, &denial)
            }
            _ => denial.into(),
        }
    }
}

/// The request as it would go upstream.
#[derive(Debug)]
pub(super) struct Cargo {
    pub(super) parts: Parts,
    pub(super) load: Load,
}

#[derive(Debug)]
pub(super) enum Load {
    /// The very bytes that were judged.
    Held(Held),
    /// Streamed through, not judged.
    Streamed(Incoming),
}

/// Reads as much of a request as its route needs to be judged.
pub(super) async fn gather(exchange: &mut Exchange, counted: Counted) -> Result<Asked, Refusal> {
    let Counted { request, route } = counted;
    match route {
        Route::ToolsInvoke => tools_invoke::gather(exchange, request).await,
        Route::ChatCompletions | Route::Responses | Route::Hooks => {
            messages::gather(exchange, request, route).await
        }
        Route::ApiRead
        | Route::ApiWrite
        | Route::Manage
        | Route::Page
        | Route::WebSocket
        | Route::Webhook => {
            let (parts, body) = request.into_parts();
            let name = format!("{} {}", parts.method, parts.uri.path());
            let method = |class, scope| Request::Method {
                name,
                class,
                scope: Some(scope),
            };
            let asks = match route {
                Route::ApiWrite => method(MethodClass::Message, Scope::Write),
                Route::Manage => method(MethodClass::Manage, Scope::Admin),
                _ => Request::Route,
            };
            Ok(Asked {
                facts: RequestFacts::new(asks),
                order: Order::new(parts, Load::Streamed(body)),
            })
        }
    }
}

/// Reads a body that policy judges.
pub(super) async fn hold_body(
    exchange: &Exchange,
    body: Incoming,
    limit: usize,
) -> Result<Held, Refusal> {
    let gateway = exchange.gateway();
    let held = hold(body, limit, &gateway.budget, gateway.deadlines.body).await?;
    exchange.connection.head.expect_next();
    Ok(held)
}

/// Names an agent; a second, different one is a contradiction.
pub(super) fn name_agent(facts: &mut RequestFacts, agent: &str) -> Result<(), &'static str> {
    let agent = agent.trim().to_ascii_lowercase();
    let mut bytes = agent.bytes();
    let first = bytes.next().is_some_and(|b| b.is_ascii_alphanumeric());
    let rest = bytes.all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-'));
    // The gateway rewrites other characters, so that the name judged would not be the name used.
    if !first || !rest || agent.len() > 64 {
        return Err("an agent's name is not one");
    }
    match &facts.agent {
        Some(named) if *named != agent => Err("two different agents are named"),
        _ => {
            facts.agent = Some(agent);
            Ok(())
        }
    }
}

/// Names a session and whoever it belongs to.
pub(super) fn name_session(facts: &mut RequestFacts, key: &str) -> Result<(), &'static str> {
    let mut named = RequestFacts::new(Request::Route);
    named.name_session(key);
    if let Some(agent) = &named.agent {
        name_agent(facts, agent)?;
    }
    facts.users.append(&mut named.users);
    facts.groups.append(&mut named.groups);
    if facts
        .session
        .as_ref()
        .is_some_and(|first| Some(first) != named.session.as_ref())
    {
        return Err("two different sessions are named");
    }
    facts.session = named.session;
    Ok(())
}

/// Names the other end of a channel: a group by its id, anything else a user.
pub(super) fn name_peer(facts: &mut RequestFacts, peer: &str) {
    let peer = peer.trim();
    let bare = peer.rsplit(':').next().unwrap_or(peer);
    let lower = peer.to_lowercase();
    let is_group = lower.ends_with("@g.us")
        || lower
            .split(':')
            .any(|part| matches!(part, "group" | "channel"));
    if is_group {
        facts.groups.push(GroupId::new(bare));
    } else {
        facts.users.push(UserId::new(peer));
    }
}

/// The value of `x-<product>-<name>` in every product's spelling; they have to agree.
pub(super) fn product_header<'a>(
    headers: &'a HeaderMap,
    name: &str,
) -> Result<Option<&'a str>, Refusal> {
    let mut found = None;
    for product in ["clawdbot", "moltbot", "openclaw"] {
        for value in headers.get_all(format!("x-{product}-{name}")) {
            let value = value
                .to_str()
                .map_err(|_not_ascii| Refusal::malformed("a header that names is not ASCII"))?
                .trim();
            match found {
                _ if value.is_empty() => {}
                Some(other) if other != value => {
                    return Err(Refusal::malformed("two headers name different things"));
                }
                _ => found = Some(value),
            }
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn contradicting_claims_are_refused() {
        let mut facts = RequestFacts::new(Request::Message);
        assert_eq!(name_agent(&mut facts, " Work "), Ok(()));
        assert_eq!(name_session(&mut facts, "agent:work:main"), Ok(()));
        assert!(name_session(&mut facts, "agent:main:main").is_err());
        assert!(name_agent(&mut facts, "main").is_err());
        assert!(name_agent(&mut facts, "work/../main").is_err());
        assert_eq!(facts.agent.as_deref(), Some("work"));
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
            name_peer(&mut facts, peer);
            assert_eq!(facts.users.first().map(UserId::as_str), user, "{peer}");
            assert_eq!(facts.groups.first().map(GroupId::as_str), group, "{peer}");
        }
    }
}
