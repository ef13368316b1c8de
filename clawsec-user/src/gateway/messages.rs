//! Text for the assistant over HTTP: `/v1/chat/completions`, `/v1/responses`, `/hooks/…`.

use super::received::Received;
use hyper::header::{HeaderMap, HeaderName, HeaderValue};
use hyper::http::request::Parts;
use hyper::{Method, Request};
use serde_json::Value;

use super::facts::{Asked, Load, Order, PRODUCTS, hold_body, note_deeply, product_header};
use super::json;
use super::record::Exchange;
use super::refusal::Refusal;
use super::route::Route;
use crate::policy::{self, RequestFacts, UserId};

/// The gateway's own limits, the largest of its versions.
const MODEL_BODY_BYTES: usize = 20 * 1024 * 1024;
const HOOK_BODY_BYTES: usize = 256 * 1024;

/// Reads a message's body whole and finds whom it claims to be from and for.
pub(super) async fn gather(
    exchange: &mut Exchange,
    request: Request<Received>,
    route: Route,
) -> Result<Asked, Refusal> {
    exchange.note.action = "message";
    if *request.method() != Method::POST {
        return Err(Refusal::method("POST"));
    }
    let limit = if route == Route::Hooks {
        HOOK_BODY_BYTES
    } else {
        MODEL_BODY_BYTES
    };
    let (parts, body) = request.into_parts();
    let held = hold_body(exchange, body, limit).await?;
    let message = json::parse(&held.bytes)
        .map_err(|error| Refusal::malformed("the body is not JSON").detailed(error.to_string()))?;
    let mut facts = facts(&parts, &message, route)?;
    note_deeply(&mut facts, &message);
    let mut parts = parts;
    if route != Route::Hooks {
        spell_out(&mut parts.headers, &facts)?;
    }
    Ok(Asked {
        facts,
        order: Order::new(parts, Load::Held(held)),
    })
}

fn facts(parts: &Parts, message: &Value, route: Route) -> Result<RequestFacts, Refusal> {
    let mut facts = RequestFacts::new(policy::Request::Message);
    let agents = [
        product_header(&parts.headers, "agent-id")?,
        product_header(&parts.headers, "agent")?,
        json::text(message, "agentId"),
        json::text(message, "model").and_then(model_agent),
    ];
    for agent in agents.into_iter().flatten() {
        facts.name_agent(agent).map_err(Refusal::malformed)?;
    }
    let sessions = [
        product_header(&parts.headers, "session-key")?,
        json::text(message, "sessionKey"),
    ];
    for session in sessions.into_iter().flatten() {
        facts.name_session(session).map_err(Refusal::malformed)?;
    }
    if let Some(to) = product_header(&parts.headers, "message-to")? {
        facts.name_peer(to);
    }
    if route == Route::Hooks {
        // The older gateway runs every hook as its default agent, and mapped hooks as they say.
        facts.names_default = true;
        if let Some(to) = json::text(message, "to") {
            facts.name_peer(to);
        }
    } else if let Some(user) = json::text(message, "user") {
        facts.users.push(UserId::new(user));
    }
    Ok(facts)
}

/// Says the agent and the session in every product's spelling: each gateway reads its own only,
/// and would take the default agent where it finds nothing.
fn spell_out(headers: &mut HeaderMap, facts: &RequestFacts) -> Result<(), Refusal> {
    for product in PRODUCTS {
        for (name, value) in [("agent-id", &facts.agent), ("session-key", &facts.session)] {
            let Some(value) = value else { continue };
            let name = HeaderName::try_from(format!("x-{product}-{name}"));
            let value = HeaderValue::from_str(value);
            let (Ok(name), Ok(value)) = (name, value) else {
                return Err(Refusal::malformed("a name cannot stand in a header"));
            };
            headers.insert(name, value);
        }
    }
    Ok(())
}

/// The agent in a model's name, as the gateway's `resolveAgentIdFromModel` reads it.
fn model_agent(model: &str) -> Option<&str> {
    if model.eq_ignore_ascii_case("openclaw/default") {
        return None;
    }
    let (prefix, agent) = model.split_once([':', '/'])?;
    let prefix = prefix.to_ascii_lowercase();
    matches!(
        prefix.as_str(),
        "clawdbot" | "moltbot" | "openclaw" | "agent"
    )
    .then_some(agent)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::GroupId;

    type Expected = Result<
        (
            Option<&'static str>,
            Option<&'static str>,
            Option<&'static str>,
        ),
        (),
    >;

    #[test]
    fn claims_are_found_in_body_and_headers() {
        type Row = (
            &'static str,
            &'static [(&'static str, &'static str)],
            &'static str,
            Route,
            Expected,
        );
        let rows: &[Row] = &[
            (
                "user",
                &[],
                r#"{"user":"+1 555 123 4567"}"#,
                Route::ChatCompletions,
                Ok((None, Some("+15551234567"), None)),
            ),
            (
                "model",
                &[],
                r#"{"model":"clawdbot:Work"}"#,
                Route::ChatCompletions,
                Ok((Some("work"), None, None)),
            ),
            (
                "plain model",
                &[],
                r#"{"model":"openclaw"}"#,
                Route::Responses,
                Ok((None, None, None)),
            ),
            (
                "header",
                &[("x-moltbot-agent-id", "work")],
                "{}",
                Route::ChatCompletions,
                Ok((Some("work"), None, None)),
            ),
            (
                "agreeing",
                &[
                    ("x-moltbot-agent-id", "work"),
                    ("x-openclaw-agent-id", "work"),
                ],
                "{}",
                Route::ChatCompletions,
                Ok((Some("work"), None, None)),
            ),
            (
                "spellings disagree",
                &[
                    ("x-moltbot-agent-id", "work"),
                    ("x-openclaw-agent-id", "main"),
                ],
                "{}",
                Route::ChatCompletions,
                Err(()),
            ),
            (
                "model disagrees",
                &[("x-clawdbot-agent-id", "work")],
                r#"{"model":"agent:main"}"#,
                Route::ChatCompletions,
                Err(()),
            ),
            (
                "session",
                &[("x-clawdbot-session-key", "agent:work:whatsapp:group:1@g.us")],
                "{}",
                Route::ChatCompletions,
                Ok((Some("work"), None, Some("1@g.us"))),
            ),
            (
                "session disagrees",
                &[
                    ("x-clawdbot-session-key", "agent:work:main"),
                    ("x-clawdbot-agent", "main"),
                ],
                "{}",
                Route::ChatCompletions,
                Err(()),
            ),
            (
                "hook",
                &[],
                r#"{"to":"+15551234567","sessionKey":"agent:a:main"}"#,
                Route::Hooks,
                Ok((Some("a"), Some("+15551234567"), None)),
            ),
        ];
        for (name, headers, body, route, expected) in rows {
            let mut request = Request::post("/x");
            for (key, value) in *headers {
                request = request.header(*key, *value);
            }
            let (parts, ()) = request.body(()).unwrap().into_parts();
            let found = facts(&parts, &json::parse(body.as_bytes()).unwrap(), *route);
            let found = found.as_ref().map_err(|_refusal| ()).map(|facts| {
                (
                    facts.agent.as_deref(),
                    facts.users.first().map(UserId::as_str),
                    facts.groups.first().map(GroupId::as_str),
                )
            });
            assert_eq!(found, *expected, "{name}");
        }
    }
}
