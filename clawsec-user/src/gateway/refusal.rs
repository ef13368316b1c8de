//! A denial or a failure on its way to the client, in the gateway's own error shapes.
//!
//! Invariant: a refusal says the kind and never what exists; clients of the real gateway read
//! these bodies, so the shapes are those of its `http-common` and `tools-invoke-http`.

use hyper::header::{ALLOW, CONNECTION, CONTENT_TYPE, HeaderValue, RETRY_AFTER};
use hyper::{Response, StatusCode};
use serde_json::json;

use super::body::{self, Body, REQUEST_ID};
use super::ui;
use crate::policy::{Denial, Reason};

/// Why a request is answered by clawsec and not by the gateway behind it.
#[derive(Debug)]
#[must_use]
pub(super) struct Refusal {
    pub(super) status: StatusCode,
    pub(super) reason: Reason,
    /// The configuration path that decided, where one did.
    pub(super) rule: Option<String>,
    pub(super) retry_after_ms: Option<u64>,
    /// For the record only.
    pub(super) detail: Option<String>,
    shape: Shape,
    /// Not a sign of hostility, whatever the reason.
    lenient: bool,
}

#[derive(Debug)]
enum Shape {
    /// `{"error":{"message","type"}}`
    Api { kind: &'static str, message: String },
    /// `{"ok":false,"error":{"type","message"}}`
    Tool { kind: &'static str, message: String },
    /// `Method Not Allowed` as text with an `Allow` header.
    Method { allow: &'static str },
    /// A page of clawsec's own, for a person.
    Page(String),
}

impl Refusal {
    fn api(
        status: StatusCode,
        reason: Reason,
        kind: &'static str,
        message: impl Into<String>,
    ) -> Self {
        Self {
            status,
            reason,
            rule: None,
            retry_after_ms: None,
            detail: None,
            shape: Shape::Api {
                kind,
                message: message.into(),
            },
            lenient: false,
        }
    }

    fn tool(
        status: StatusCode,
        reason: Reason,
        kind: &'static str,
        message: impl Into<String>,
    ) -> Self {
        Self {
            shape: Shape::Tool {
                kind,
                message: message.into(),
            },
            ..Self::api(status, reason, kind, "")
        }
    }

    /// The request's form is ambiguous or wrong; `why` is for the client and the record.
    pub(super) fn malformed(why: &str) -> Self {
        Self::api(
            StatusCode::BAD_REQUEST,
            Reason::RequestMalformed,
            "invalid_request_error",
            why,
        )
        .detailed(why)
    }

    pub(super) fn head_too_large() -> Self {
        Self::api(
            StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE,
            Reason::RequestMalformed,
            "invalid_request_error",
            "request header fields too large",
        )
    }

    pub(super) fn too_large() -> Self {
        Self::api(
            StatusCode::PAYLOAD_TOO_LARGE,
            Reason::BodyTooLarge,
            "invalid_request_error",
            "payload too large",
        )
    }

    /// clawsec itself has no room left to judge this request.
    pub(super) fn overloaded() -> Self {
        let mut refusal = Self::api(
            StatusCode::SERVICE_UNAVAILABLE,
            Reason::BodyTooLarge,
            "overloaded",
            "Too many large requests at once. Please try again later.",
        );
        refusal.retry_after_ms = Some(1000);
        refusal.detailed("the budget of held bodies is spent")
    }

    pub(super) fn slow() -> Self {
        Self::api(
            StatusCode::REQUEST_TIMEOUT,
            Reason::RequestMalformed,
            "invalid_request_error",
            "request body timeout",
        )
    }

    pub(super) fn method(allow: &'static str) -> Self {
        Self {
            shape: Shape::Method { allow },
            ..Self::api(
                StatusCode::METHOD_NOT_ALLOWED,
                Reason::MethodNotAllowed,
                "",
                "",
            )
        }
    }

    /// The answer for a denied tool and for one that does not exist: the same.
    pub(super) fn tool_not_available(tool: &str, denial: &Denial) -> Self {
        Self::tool(
            StatusCode::NOT_FOUND,
            denial.reason,
            "not_found",
            format!("Tool not available: {tool}"),
        )
        .ruled(&denial.rule)
    }

    pub(super) fn tool_error(message: impl Into<String>) -> Self {
        Self::tool(
            StatusCode::BAD_REQUEST,
            Reason::RequestMalformed,
            "tool_error",
            message,
        )
    }

    pub(super) fn sandbox_unavailable(message: impl Into<String>) -> Self {
        Self::tool(
            StatusCode::SERVICE_UNAVAILABLE,
            Reason::SandboxUnavailable,
            "tool_error",
            message,
        )
    }

    pub(super) fn rate_limited(retry_after_ms: u64) -> Self {
        let mut refusal = Self::api(
            StatusCode::TOO_MANY_REQUESTS,
            Reason::RateLimited,
            "rate_limited",
            "Too many requests. Please try again later.",
        );
        refusal.retry_after_ms = Some(retry_after_ms);
        refusal.ruled("security.rateLimit")
    }

    pub(super) fn unreachable(detail: impl Into<String>) -> Self {
        Self::api(
            StatusCode::BAD_GATEWAY,
            Reason::UpstreamUnreachable,
            "api_error",
            "the gateway behind clawsec cannot be reached",
        )
        .detailed(detail)
    }

    pub(super) fn timed_out(detail: impl Into<String>) -> Self {
        Self::api(
            StatusCode::GATEWAY_TIMEOUT,
            Reason::UpstreamTimeout,
            "api_error",
            "the gateway behind clawsec did not answer in time",
        )
        .detailed(detail)
    }

    /// An answer that may hold what is another agent's, and cannot be looked through.
    pub(super) fn unfilterable(why: &str) -> Self {
        Self::api(
            StatusCode::FORBIDDEN,
            Reason::AgentNotAllowed,
            "forbidden",
            "This answer cannot be shown to a key that is bound to agents.",
        )
        .ruled("security.auth")
        .detailed(format!("cannot be filtered: {why}"))
    }

    pub(super) fn not_found() -> Self {
        Self::api(
            StatusCode::NOT_FOUND,
            Reason::MethodNotAllowed,
            "not_found",
            "Not Found",
        )
    }

    pub(super) fn detailed(mut self, detail: impl Into<String>) -> Self {
        self.detail = Some(detail.into());
        self
    }

    pub(super) fn ruled(mut self, rule: &str) -> Self {
        self.rule = Some(rule.to_owned());
        self
    }

    /// A source that goes on after refusals of this kind is one to ban; a denied tool or scope of
    /// an authenticated client is not.
    pub(super) fn is_hostile(&self) -> bool {
        !self.lenient && is_hostile(self.reason)
    }

    pub(super) fn lenient(mut self) -> Self {
        self.lenient = true;
        self
    }

    /// The same refusal, to be read by a person.
    pub(super) fn on_page(mut self, page: String) -> Self {
        self.shape = Shape::Page(page);
        self
    }

    pub(super) fn into_response(self, request: &str) -> Response<Body> {
        let text = match &self.shape {
            Shape::Api { kind, message } => {
                json!({"error": {"message": message, "type": kind}}).to_string()
            }
            Shape::Tool { kind, message } => {
                json!({"ok": false, "error": {"type": kind, "message": message}}).to_string()
            }
            Shape::Method { .. } => "Method Not Allowed".to_owned(),
            Shape::Page(page) => page.clone(),
        };
        let mut response = body::response(self.status, text, request);
        let headers = response.headers_mut();
        let content_type = match self.shape {
            Shape::Method { allow } => {
                headers.insert(ALLOW, HeaderValue::from_static(allow));
                "text/plain; charset=utf-8"
            }
            _ => "application/json; charset=utf-8",
        };
        headers.insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
        if matches!(self.shape, Shape::Page(_)) {
            ui::dress(headers);
        }
        // Where this request ends may be in doubt, so that nothing after it can be trusted.
        if matches!(self.reason, Reason::RequestMalformed | Reason::BodyTooLarge) {
            headers.insert(CONNECTION, HeaderValue::from_static("close"));
        }
        if let Some(ms) = self.retry_after_ms {
            headers.insert(RETRY_AFTER, HeaderValue::from(ms.div_ceil(1000).max(1)));
        }
        response
    }
}

/// The whole HTTP/1.1 answer to bytes that are no request.
pub(super) fn unreadable(status: u16, request: &str) -> Vec<u8> {
    let (line, message) = match status {
        414 => ("414 URI Too Long", "request target too long"),
        431 => (
            "431 Request Header Fields Too Large",
            "request header fields too large",
        ),
        _ => ("400 Bad Request", "the request cannot be read"),
    };
    let body = json!({"error": {"message": message, "type": "invalid_request_error"}}).to_string();
    format!(
        "HTTP/1.1 {line}\r\ncontent-type: application/json; charset=utf-8\r\n\
         {REQUEST_ID}: {request}\r\nconnection: close\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    )
    .into_bytes()
}

impl From<Denial> for Refusal {
    fn from(denial: Denial) -> Self {
        let (status, kind, message) = match denial.reason {
            Reason::CredentialMissing
            | Reason::CredentialUnknown
            | Reason::CredentialExpired
            | Reason::CredentialNotYetValid => {
                (StatusCode::UNAUTHORIZED, "unauthorized", "Unauthorized")
            }
            Reason::OriginNotAllowed => (StatusCode::FORBIDDEN, "forbidden", "origin not allowed"),
            Reason::HostNotAllowed => (StatusCode::FORBIDDEN, "forbidden", "host not allowed"),
            _ => (StatusCode::FORBIDDEN, "forbidden", "Forbidden"),
        };
        Self::api(status, denial.reason, kind, message).ruled(&denial.rule)
    }
}

/// Whether a denial for this reason counts towards an automatic ban of its source.
pub(super) fn is_hostile(reason: Reason) -> bool {
    matches!(
        reason,
        Reason::AddressNotAllowed
            | Reason::CredentialMissing
            | Reason::CredentialUnknown
            | Reason::CredentialExpired
            | Reason::DeviceInvalid
            | Reason::HandshakeInvalid
            | Reason::RateLimited
            | Reason::HostNotAllowed
            | Reason::OriginNotAllowed
            | Reason::RequestMalformed
    )
}
