//! One exchange with a client, and the event it becomes.
//!
//! Invariant: what is noted here are names, sizes and decisions; never a key, a body or a tool's
//! arguments.

use std::borrow::Cow;
use std::sync::Arc;

use super::connection::Connection;
use super::listener::Peer;
use super::refusal::{Refusal, is_hostile};
use super::shared::Gateway;
use super::snapshot::Snapshot;
use crate::config::Listen;
use crate::event::{Event, EventKind, Outcome, ToolFact};
use crate::policy::{Denial, Permit, Principal, Reason, Request, RequestFacts};

/// A request on its way, or one frame of a WebSocket.
#[derive(Debug)]
pub(super) struct Exchange {
    pub(super) connection: Arc<Connection>,
    /// The policy this exchange is judged by, from its first line to its last.
    pub(super) snapshot: Arc<Snapshot>,
    pub(super) id: String,
    pub(super) note: Note,
}

/// What is known so far, for the record.
#[derive(Debug, Clone)]
pub(super) struct Note {
    pub(super) kind: EventKind,
    pub(super) action: &'static str,
    pub(super) principal: Option<String>,
    pub(super) detail: Option<String>,
    pub(super) tool: Option<ToolFact>,
    /// The supervisor has written the record of this exchange.
    pub(super) recorded: bool,
    user: Option<String>,
    group: Option<String>,
    agent: Option<String>,
    session: Option<String>,
}

impl Note {
    pub(super) fn new(kind: EventKind, action: &'static str) -> Self {
        Self {
            kind,
            action,
            principal: None,
            detail: None,
            tool: None,
            recorded: false,
            user: None,
            group: None,
            agent: None,
            session: None,
        }
    }

    pub(super) fn facts(&mut self, facts: &RequestFacts) {
        self.user = facts.users.first().map(|user| user.as_str().to_owned());
        self.group = facts.groups.first().map(|group| group.as_str().to_owned());
        self.agent.clone_from(&facts.agent);
        self.session.clone_from(&facts.session);
        if let Request::Tool(name) = &facts.request
            && self.tool.is_none()
        {
            self.tool = Some(ToolFact {
                name: name.as_str().to_owned(),
                args_bytes: 0,
            });
        }
    }

    pub(super) fn principal(&mut self, principal: &Principal) {
        self.principal = Some(principal.id().to_owned());
    }
}

impl Exchange {
    pub(super) fn begin(connection: &Arc<Connection>, id: String, note: Note) -> Self {
        Self {
            connection: Arc::clone(connection),
            snapshot: connection.gateway.snapshot.load_full(),
            id,
            note,
        }
    }

    pub(super) fn gateway(&self) -> &Gateway {
        &self.connection.gateway
    }

    /// The rules of the listener that this came in by.
    pub(super) fn listen(&self) -> Option<&Listen> {
        self.connection.listen(&self.snapshot)
    }

    pub(super) fn peer(&self) -> Peer {
        self.connection.peer
    }

    /// Asks policy, and notes what was asked.
    pub(super) fn decide(
        &mut self,
        principal: &Principal,
        facts: RequestFacts,
    ) -> Result<Permit, Denial> {
        self.note.facts(&facts);
        self.snapshot.policy().decide(principal, facts)
    }

    /// Reports that the exchange was let through.
    pub(super) fn allowed(&self, rule: &str) {
        self.report(Outcome::Allow, Reason::Ok, Some(rule.to_owned()), None);
    }

    /// Reports a refusal, and counts it against its source.
    pub(super) fn refused(&self, refusal: &Refusal) {
        let outcome = match refusal.reason {
            Reason::UpstreamUnreachable | Reason::UpstreamTimeout | Reason::SandboxUnavailable => {
                Outcome::Error
            }
            _ => Outcome::Deny,
        };
        self.report(
            outcome,
            refusal.reason,
            refusal.rule.clone(),
            refusal.detail.clone(),
        );
        if refusal.is_hostile() {
            count_denial(self.gateway(), &self.snapshot, self.peer(), refusal.reason);
        }
    }

    pub(super) fn denied(&self, denial: &Denial) {
        self.report(
            Outcome::Deny,
            denial.reason,
            Some(denial.rule.clone()),
            None,
        );
        count_denial(self.gateway(), &self.snapshot, self.peer(), denial.reason);
    }

    /// Reports a WebSocket handshake that failed, on either side.
    pub(super) fn handshake_failed(&self, denial: &Denial, detail: String) {
        let outcome = match denial.reason {
            Reason::UpstreamUnreachable | Reason::UpstreamTimeout => Outcome::Error,
            _ => Outcome::Deny,
        };
        let rule = Some(denial.rule.clone());
        self.report(outcome, denial.reason, rule, Some(detail));
        count_denial(self.gateway(), &self.snapshot, self.peer(), denial.reason);
    }

    fn report(
        &self,
        outcome: Outcome,
        reason: Reason,
        rule: Option<String>,
        detail: Option<String>,
    ) {
        let note = &self.note;
        if note.recorded {
            return;
        }
        // A failed login is an authentication event wherever it happened.
        let kind = match reason {
            Reason::CredentialMissing
            | Reason::CredentialUnknown
            | Reason::CredentialExpired
            | Reason::CredentialNotYetValid
            | Reason::DeviceInvalid
            | Reason::HandshakeInvalid => EventKind::Auth,
            _ => note.kind,
        };
        let detail = match (&note.detail, detail) {
            (Some(what), Some(why)) => Some(printable(&format!("{what}: {why}"))),
            (Some(text), None) => Some(printable(text)),
            (None, text) => text.as_deref().map(printable),
        };
        let event = Event {
            rule,
            generation: self.snapshot.generation(),
            source: Some(self.peer().ip),
            port: Some(self.peer().port),
            request: Some(self.id.clone()),
            principal: note.principal.clone(),
            user: note.user.clone(),
            group: note.group.clone(),
            agent: note.agent.clone(),
            session: note.session.clone(),
            tool: note.tool.clone(),
            detail,
            ..Event::new(kind, note.action, outcome, Cow::Borrowed(reason.as_str()))
        };
        self.gateway().link.report(event);
    }
}

/// Counts a hostile denial; the last straw asks for a ban.
pub(super) fn count_denial(gateway: &Gateway, snapshot: &Snapshot, peer: Peer, reason: Reason) {
    let Some(ban) = snapshot.config.ban else {
        return;
    };
    // Behind a proxy stand many; it is not banned for what one of them did.
    let is_proxy = || {
        let mut listen = snapshot.config.gateway.listen.iter();
        listen.any(|listen| listen.is_proxy(peer.ip))
    };
    if !is_hostile(reason) || is_proxy() {
        return;
    }
    let window_ms = snapshot.policy().limit.window_ms;
    if gateway.limits.is_last_straw(peer.ip, ban, window_ms) {
        gateway.link.ban(
            peer.ip,
            ban.duration.as_secs().max(1),
            reason.as_str().to_owned(),
        );
    }
}

/// Longest text that a client can put into a record.
const MAX_DETAIL_CHARS: usize = 200;

pub(super) fn printable(text: &str) -> String {
    // As nearly all are.
    let is_clean = |byte: u8| matches!(byte, b' '..=b'~');
    if text.len() <= MAX_DETAIL_CHARS && text.bytes().all(is_clean) {
        return text.to_owned();
    }
    let clean = |c: char| if c.is_control() { ' ' } else { c };
    text.chars().take(MAX_DETAIL_CHARS).map(clean).collect()
}
