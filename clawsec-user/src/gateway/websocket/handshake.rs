//! The client's half of the handshake: challenge, `connect`, who it is, what it may be.
//!
//! Failures are told in the gateway's own words and closed with its own codes, so that its
//! clients degrade as they do without clawsec.

use serde_json::{Map, Value, json};

use super::device;
use super::frames::CloseFrame;
use crate::gateway::auth::{self, Presented};
use crate::gateway::json;
use crate::gateway::refusal::Refusal;
use crate::gateway::snapshot::Snapshot;
use crate::policy::{Denial, Principal, Reason, Scope};

/// The first frame of a client, read.
#[derive(Debug, Clone)]
pub(super) struct Connect {
    /// The request's id, which the answer has to carry.
    pub(super) id: String,
    pub(super) params: Map<String, Value>,
    pub(super) role: Role,
    /// As requested; the device signature covers them.
    pub(super) scopes: Vec<String>,
    /// `auth.token`, or empty.
    pub(super) token: String,
    /// `auth.password`, or empty.
    pub(super) password: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::gateway) enum Role {
    Operator,
    Node,
}

impl Role {
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::Operator => "operator",
            Self::Node => "node",
        }
    }
}

/// Why a handshake ends: what the client is told, and how it is closed.
#[derive(Debug)]
pub(super) struct Failure {
    /// The `res` frame, where there was a request to answer.
    pub(super) answer: Option<String>,
    pub(super) close: CloseFrame,
    pub(super) denial: Denial,
    pub(super) detail: String,
}

/// The event clawsec opens every WebSocket with.
pub(super) fn challenge(nonce: &str, now_ms: u64) -> String {
    json!({
        "type": "event",
        "event": "connect.challenge",
        "payload": {"nonce": nonce, "ts": now_ms},
    })
    .to_string()
}

impl Connect {
    /// Reads the first frame.
    pub(super) fn parse(frame: &[u8]) -> Result<Self, Failure> {
        let bare = |message: &str| Failure::new(None, "INVALID_REQUEST", message, None);
        let frame = json::parse(frame).map_err(|_unreadable| bare("invalid request frame"))?;
        let text = |key: &str| frame.get(key).and_then(Value::as_str);
        let (Some("req"), Some(id), Some(method)) = (text("type"), text("id"), text("method"))
        else {
            return Err(bare("invalid request frame"));
        };
        let fail = |message: &str| Failure::new(Some(id), "INVALID_REQUEST", message, None);
        if method != "connect" {
            return Err(fail("invalid handshake: first request must be connect"));
        }
        let params = frame
            .get("params")
            .and_then(Value::as_object)
            .ok_or_else(|| fail("invalid connect params: must be object"))?;
        let client = params.get("client");
        let named = |key| {
            client
                .and_then(|client| client.get(key)?.as_str())
                .is_some()
        };
        if !named("id") || !named("mode") {
            return Err(fail(
                "invalid connect params: at /client: must have id and mode",
            ));
        }
        let role = match params.get("role").map(Value::as_str) {
            None | Some(Some("operator")) => Role::Operator,
            Some(Some("node")) => Role::Node,
            Some(_) => return Err(fail("invalid role")),
        };
        let scopes = match params.get("scopes") {
            None => Vec::new(),
            Some(scopes) => scopes
                .as_array()
                .and_then(|scopes| {
                    scopes
                        .iter()
                        .map(|s| s.as_str().map(str::to_owned))
                        .collect()
                })
                .ok_or_else(|| fail("invalid connect params: at /scopes: must be strings"))?,
        };
        let auth = |key: &str| {
            let auth = params.get("auth").and_then(|auth| auth.get(key));
            auth.and_then(Value::as_str).unwrap_or_default().to_owned()
        };
        Ok(Self {
            id: id.to_owned(),
            role,
            scopes,
            token: auth("token"),
            password: auth("password"),
            params: params.clone(),
        })
    }

    /// A member of `client`, or nothing.
    pub(super) fn client_text(&self, key: &str) -> &str {
        self.params
            .get("client")
            .and_then(|client| client.get(key))
            .and_then(Value::as_str)
            .unwrap_or_default()
    }

    /// Finds out who this is: by the key of the upgrade request where it carried one, else by
    /// the token or password in the frame. A device, if one is shown, has to be genuine.
    pub(super) fn authenticate(
        &self,
        snapshot: &Snapshot,
        early: Option<Principal>,
        nonce: &str,
    ) -> Result<Principal, Failure> {
        if let Some(device) = self.params.get("device").filter(|device| !device.is_null()) {
            device::verify(self, device, nonce).map_err(|message| {
                let code = Some(("DEVICE_AUTH_INVALID", Reason::DeviceInvalid));
                Failure::new(Some(&self.id), "INVALID_REQUEST", message, code)
            })?;
        }
        let principal = if let Some(principal) = early {
            principal
        } else {
            let key = [&self.token, &self.password]
                .into_iter()
                .find(|key| !key.is_empty());
            auth::authenticate(snapshot, key.map(|key| Presented::new(key)))
                .map_err(|denial| self.unauthorized(denial))?
        };
        if self.role == Role::Node && !principal.has_scope(Scope::Admin) {
            return Err(Failure {
                denial: Denial::new(Reason::ScopeMissing, principal.path()),
                ..Failure::new(
                    Some(&self.id),
                    "INVALID_REQUEST",
                    "unauthorized role: node",
                    None,
                )
            });
        }
        Ok(principal)
    }

    /// What this connection may do upstream: requested ∩ the principal's.
    ///
    /// `operator.admin` stands for every scope, on either side of the intersection; a scope that
    /// clawsec does not know goes to administrators only.
    pub(super) fn effective_scopes(&self, principal: &Principal) -> Vec<String> {
        if self.role == Role::Node {
            return Vec::new();
        }
        // What a scope brings with it is the gateway's to know, but that writing reads.
        let own = || {
            let held = |scope: &Scope| {
                principal.scopes().contains(scope)
                    || (*scope == Scope::Read && principal.has_scope(Scope::Write))
            };
            Scope::ALL
                .into_iter()
                .filter(held)
                .map(|scope| scope.as_str().to_owned())
                .collect::<Vec<_>>()
        };
        if principal.has_scope(Scope::Admin) {
            return if self.scopes.is_empty() {
                own()
            } else {
                self.scopes.clone()
            };
        }
        let asks_all = self.scopes.iter().any(|s| s == Scope::Admin.as_str());
        if self.scopes.is_empty() || asks_all {
            return own();
        }
        self.scopes
            .iter()
            .filter(|name| Scope::parse(name).is_some_and(|scope| principal.has_scope(scope)))
            .cloned()
            .collect()
    }

    fn unauthorized(&self, denial: Denial) -> Failure {
        let by_password = self.token.is_empty() && !self.password.is_empty();
        let hint = match (
            self.client_text("id"),
            self.client_text("mode"),
            by_password,
        ) {
            ("cli", ..) | (_, "cli", _) => {
                if by_password {
                    "set gateway.remote.password to match gateway.auth.password"
                } else {
                    "set gateway.remote.token to match gateway.auth.token"
                }
            }
            (id, mode, _) if id.ends_with("control-ui") || mode == "webchat" => {
                if by_password {
                    "enter the password in Control UI settings"
                } else {
                    "open a tokenized dashboard URL or paste token in Control UI settings"
                }
            }
            (_, _, true) => "provide gateway auth password",
            _ => "provide gateway auth token",
        };
        let kind = if by_password { "password" } else { "token" };
        // An expired key is told like an unknown one: whether it ever was one is nobody's business.
        let (what, code) = match denial.reason {
            Reason::CredentialMissing => ("missing", "MISSING"),
            _ => ("mismatch", "MISMATCH"),
        };
        let message = format!("unauthorized: gateway {kind} {what} ({hint})");
        let code = format!("AUTH_{}_{code}", kind.to_uppercase());
        let details = json!({
            "code": code,
            "authReason": format!("{kind}_{what}"),
            "canRetryWithDeviceToken": false,
            "recommendedNextStep": "update_auth_credentials",
        });
        Failure {
            answer: Some(error_frame(
                &self.id,
                &json!({"code": "INVALID_REQUEST", "message": message, "details": details}),
            )),
            close: CloseFrame::new(1008, &message),
            denial,
            detail: message,
        }
    }
}

impl Failure {
    /// A failure of this handshake, closed with 1008 and the message as the reason.
    pub(super) fn new(
        id: Option<&str>,
        code: &str,
        message: &str,
        details: Option<(&str, Reason)>,
    ) -> Self {
        let mut error = json!({"code": code, "message": message});
        if let Some((code, _)) = details {
            error["details"] = json!({"code": code});
        }
        Self {
            answer: id.map(|id| error_frame(id, &error)),
            close: CloseFrame::new(1008, message),
            denial: Denial::new(
                details.map_or(Reason::HandshakeInvalid, |(_, reason)| reason),
                "security.auth",
            ),
            detail: message.to_owned(),
        }
    }

    /// Over the limit of its key or its source; official clients try again on 1013.
    pub(super) fn limited(id: &str, refusal: &Refusal) -> Self {
        Self {
            answer: Some(limited(id, refusal)),
            close: CloseFrame::new(1013, "rate limit exceeded"),
            denial: Denial::new(Reason::RateLimited, "security.rateLimit"),
            detail: "rate limit exceeded".to_owned(),
        }
    }

    /// The gateway behind is not there; official clients try again on 1013.
    pub(super) fn unavailable(id: &str, reason: Reason, detail: String) -> Self {
        let error = json!({
            "code": "UNAVAILABLE",
            "message": "the gateway behind clawsec cannot be reached",
            "retryable": true,
            "retryAfterMs": 2000,
        });
        Self {
            answer: Some(error_frame(id, &error)),
            close: CloseFrame::new(1013, "gateway unavailable"),
            denial: Denial::new(reason, "gateway.upstream"),
            detail,
        }
    }
}

/// The `res` frame for a request over the limit.
pub(super) fn limited(id: &str, refusal: &Refusal) -> String {
    let error = json!({
        "code": "UNAVAILABLE",
        "message": "rate limit exceeded",
        "details": {"code": "RATE_LIMITED"},
        "retryable": true,
        "retryAfterMs": refusal.retry_after_ms,
    });
    error_frame(id, &error)
}

/// A `res` frame that says no.
pub(super) fn error_frame(id: &str, error: &Value) -> String {
    json!({"type": "res", "id": id, "ok": false, "error": error}).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn failure(frame: &str) -> Option<(bool, String)> {
        Connect::parse(frame.as_bytes())
            .err()
            .map(|failure| (failure.answer.is_some(), failure.detail))
    }

    #[test]
    fn first_frames_that_are_no_connect_are_told_so() {
        let rows = [
            ("nonsense", "}", Some((false, "invalid request frame"))),
            (
                "a response",
                r#"{"type":"res","id":"1"}"#,
                Some((false, "invalid request frame")),
            ),
            (
                "another method",
                r#"{"type":"req","id":"1","method":"health"}"#,
                Some((true, "invalid handshake: first request must be connect")),
            ),
            (
                "a key twice",
                r#"{"type":"req","id":"1","method":"health","method":"connect"}"#,
                Some((false, "invalid request frame")),
            ),
            (
                "a role",
                r#"{"type":"req","id":"1","method":"connect","params":{"client":{"id":"c","mode":"m"},"role":"root"}}"#,
                Some((true, "invalid role")),
            ),
            (
                "a connect",
                r#"{"type":"req","id":"1","method":"connect","params":{"client":{"id":"c","mode":"m"}}}"#,
                None,
            ),
        ];
        for (name, frame, expected) in rows {
            let expected = expected.map(|(answered, text)| (answered, text.to_owned()));
            assert_eq!(failure(frame), expected, "{name}");
        }
    }
}
