//! Why a request was allowed or denied: a closed set, named the same in answers and records.

/// The word that stands in a record's `reason`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Reason {
    Ok,
    /// The source address is in no allowed prefix, or in a denied one.
    AddressNotAllowed,
    /// The source address is banned for a time.
    AddressBanned,
    CredentialMissing,
    CredentialUnknown,
    CredentialExpired,
    CredentialNotYetValid,
    /// The device signature in a `connect` frame does not verify.
    DeviceInvalid,
    /// The first frame was not a valid `connect`.
    HandshakeInvalid,
    ScopeMissing,
    RateLimited,
    ToolDenied,
    UserNotAllowed,
    GroupNotAllowed,
    AgentNotAllowed,
    MethodNotAllowed,
    HostNotAllowed,
    OriginNotAllowed,
    /// The request's form is one that proxies and servers read differently.
    RequestMalformed,
    BodyTooLarge,
    UpstreamUnreachable,
    UpstreamTimeout,
    SandboxUnavailable,
    AuditUnavailable,
}

impl Reason {
    pub const ALL: &[Self] = &[
        Self::Ok,
        Self::AddressNotAllowed,
        Self::AddressBanned,
        Self::CredentialMissing,
        Self::CredentialUnknown,
        Self::CredentialExpired,
        Self::CredentialNotYetValid,
        Self::DeviceInvalid,
        Self::HandshakeInvalid,
        Self::ScopeMissing,
        Self::RateLimited,
        Self::ToolDenied,
        Self::UserNotAllowed,
        Self::GroupNotAllowed,
        Self::AgentNotAllowed,
        Self::MethodNotAllowed,
        Self::HostNotAllowed,
        Self::OriginNotAllowed,
        Self::RequestMalformed,
        Self::BodyTooLarge,
        Self::UpstreamUnreachable,
        Self::UpstreamTimeout,
        Self::SandboxUnavailable,
        Self::AuditUnavailable,
    ];

    pub fn as_str(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::AddressNotAllowed => "address_not_allowed",
            Self::AddressBanned => "address_banned",
            Self::CredentialMissing => "credential_missing",
            Self::CredentialUnknown => "credential_unknown",
            Self::CredentialExpired => "credential_expired",
            Self::CredentialNotYetValid => "credential_not_yet_valid",
            Self::DeviceInvalid => "device_invalid",
            Self::HandshakeInvalid => "handshake_invalid",
            Self::ScopeMissing => "scope_missing",
            Self::RateLimited => "rate_limited",
            Self::ToolDenied => "tool_denied",
            Self::UserNotAllowed => "user_not_allowed",
            Self::GroupNotAllowed => "group_not_allowed",
            Self::AgentNotAllowed => "agent_not_allowed",
            Self::MethodNotAllowed => "method_not_allowed",
            Self::HostNotAllowed => "host_not_allowed",
            Self::OriginNotAllowed => "origin_not_allowed",
            Self::RequestMalformed => "request_malformed",
            Self::BodyTooLarge => "body_too_large",
            Self::UpstreamUnreachable => "upstream_unreachable",
            Self::UpstreamTimeout => "upstream_timeout",
            Self::SandboxUnavailable => "sandbox_unavailable",
            Self::AuditUnavailable => "audit_unavailable",
        }
    }
}
