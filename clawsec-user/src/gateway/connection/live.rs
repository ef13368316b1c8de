//! A connection while it lives: who is here, whether they still may be, how it ended.

use std::net::IpAddr;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use hyper::HeaderMap;

use super::{Connection, REVOCATION_TICK};
use crate::causes::chain;
use crate::config::Listen;
use crate::event::{Event, EventKind, Outcome};
use crate::gateway::auth::{self, Presented};
use crate::gateway::failure::{self, Failure, TOO_SLOW};
use crate::gateway::figures::By;
use crate::gateway::frames_h2;
use crate::gateway::head::{Head, Protocol};
use crate::gateway::listener::{self, Peer, Speaker};
use crate::gateway::progress::Progress;
use crate::gateway::proxy;
use crate::gateway::record::{self, Exchange};
use crate::gateway::refusal::Refusal;
use crate::gateway::repeats;
use crate::gateway::shared::{Gateway, unix_now};
use crate::gateway::snapshot::Snapshot;
use crate::policy::{Denial, Principal, Reason};

impl Connection {
    /// One that nobody is at the other end of: for the fuzz target of what judges frames.
    pub(in crate::gateway) fn of_nobody(gateway: Arc<Gateway>) -> Arc<Self> {
        Arc::new(Self {
            gateway,
            peer: Peer {
                ip: IpAddr::from([192, 0, 2, 1]),
                port: 1,
            },
            head: Arc::new(Head::new(Protocol::Http1)),
            progress: Arc::new(Progress::new()),
            goodbyes: Arc::default(),
            listener: 0,
            speaker: Speaker::Client,
            certificate: None,
            principals: Arc::default(),
            stays: Arc::default(),
            slots: Arc::default(),
        })
    }

    /// Remembers who is here; the first time is a login, and a record.
    pub(super) fn authenticated(&self, principal: &Principal, exchange: &Exchange) {
        {
            let mut principals = self.principals();
            if principals.contains(principal) {
                return;
            }
            principals.push(principal.clone());
        }
        let figures = &self.gateway.figures;
        let stay = figures.arrive(principal.id(), self.peer.ip, By::Requests);
        let stays = self.stays.lock();
        stays.unwrap_or_else(PoisonError::into_inner).push(stay);
        let mut login = exchange.note.clone();
        login.kind = EventKind::Auth;
        login.action = "login";
        let login = Exchange {
            connection: Arc::clone(&exchange.connection),
            snapshot: Arc::clone(&exchange.snapshot),
            id: exchange.id.clone(),
            note: login,
        };
        login.allowed(principal.path());
    }

    /// The listener's own rules, by the policy in force.
    pub(in crate::gateway) fn listen<'a>(&self, snapshot: &'a Snapshot) -> Option<&'a Listen> {
        snapshot.config.gateway.listen.get(self.listener)
    }

    /// The key in the headers, or else the certificate's.
    pub(in crate::gateway) fn presented(
        &self,
        headers: &HeaderMap,
    ) -> Result<Option<Presented>, Refusal> {
        Ok(auth::presented(headers)?.or(self.certificate))
    }

    /// This connection as the request's own client has it, where a proxy says who that is.
    pub(super) fn spoken_for(
        self: &Arc<Self>,
        headers: &HeaderMap,
    ) -> Result<Arc<Self>, &'static str> {
        let snapshot = self.gateway.snapshot.load();
        let client = match (self.speaker, self.listen(&snapshot)) {
            (Speaker::Proxy, Some(listen)) => proxy::forwarded_for(headers, listen)?,
            _ => None,
        };
        Ok(match client {
            None => Arc::clone(self),
            Some(ip) => Arc::new(Self {
                gateway: Arc::clone(&self.gateway),
                peer: Peer { ip, port: 0 },
                head: Arc::clone(&self.head),
                progress: Arc::clone(&self.progress),
                goodbyes: Arc::clone(&self.goodbyes),
                listener: self.listener,
                speaker: Speaker::Client,
                certificate: self.certificate,
                principals: Arc::clone(&self.principals),
                stays: Arc::clone(&self.stays),
                slots: Arc::clone(&self.slots),
            }),
        })
    }

    /// Whether an HTTP/2 connection has been of no use for too long; HTTP/1.1 has hyper's own
    /// deadline for the next head.
    pub(super) fn is_over(&self, idle_ms: u64, used: bool) -> bool {
        let deadlines = &self.gateway.deadlines;
        let most = if used {
            deadlines.idle_h2
        } else {
            deadlines.head
        };
        self.head.protocol() == Protocol::Http2 && Duration::from_millis(idle_ms) >= most
    }

    /// Returns when a policy in force no longer admits this address or one of these principals.
    pub(in crate::gateway) async fn revoked_for(&self, principal: Option<&Principal>) -> Denial {
        let mut generation = self.gateway.generation.subscribe();
        loop {
            if let Err(denial) = self.still_admitted(principal) {
                return denial;
            }
            // Keys also end by the clock, hence the tick; a closed channel leaves the tick alone.
            let tick = tokio::time::sleep(REVOCATION_TICK);
            tokio::select! {
                () = tick => {}
                changed = generation.changed() => if changed.is_err() {
                    tokio::time::sleep(REVOCATION_TICK).await;
                },
            }
        }
    }

    pub(super) fn still_admitted(&self, principal: Option<&Principal>) -> Result<(), Denial> {
        let snapshot = self.gateway.snapshot.load();
        let policy = snapshot.policy();
        let listen = self.listen(&snapshot);
        let is_proxy = listen.is_some_and(|listen| listen.is_proxy(self.peer.ip));
        if self.speaker == Speaker::Proxy && is_proxy {
            listener::not_banned(&self.gateway, self.peer.ip)?;
        } else {
            listener::reach(&self.gateway, &snapshot, listen, self.peer.ip)?;
        }
        let now = unix_now();
        let principals = self.principals();
        let revoked = principals
            .iter()
            .chain(principal)
            .find(|principal| !policy.credentials.still_valid(principal, now));
        match revoked {
            Some(principal) => Err(Denial::new(Reason::CredentialExpired, principal.path())),
            None => Ok(()),
        }
    }

    /// Reports a connection that hyper ended, if that was for something the client did.
    pub(super) fn report_end(&self, error: &hyper::Error) {
        let text = chain(error);
        let library = std::error::Error::source(error)
            .and_then(|source| source.downcast_ref::<h2::Error>())
            .filter(|error| error.is_library());
        let failure = library
            .and_then(h2::Error::reason)
            .and_then(|reason| frames_h2::of_code(reason.into()));
        let is_h2 = self.head.protocol() == Protocol::Http2;
        if let Some(failure) = failure {
            failure::report(&self.gateway, self.peer, failure, 1, &text);
        } else if error.is_timeout() && is_h2 {
            failure::report(&self.gateway, self.peer, Failure::Http2Silent, 1, "");
        } else if error.is_parse() {
            self.report(Reason::RequestMalformed.as_str(), text);
            let snapshot = self.gateway.snapshot.load();
            record::count_denial(
                &self.gateway,
                &snapshot,
                self.peer,
                Reason::RequestMalformed,
            );
        } else if error.is_timeout() && self.head.is_unjudged() {
            self.report(TOO_SLOW, "half a request".to_owned());
        } else {
            tracing::debug!(source = %self.peer.ip, error = text, "connection ended");
        }
    }

    /// Reports what was said on the wire since the last time.
    pub(super) fn report_goodbyes(&self) {
        for (failure, count) in self.goodbyes.take() {
            failure::report(&self.gateway, self.peer, failure, count, "");
        }
    }

    /// Reports what was refused without a request to tie it to.
    pub(super) fn report(&self, reason: &'static str, detail: String) {
        let mut event = Event::new(EventKind::Message, "request", Outcome::Deny, reason);
        event.generation = self.gateway.snapshot.load().generation();
        event.source = Some(self.peer.ip);
        event.port = Some(self.peer.port);
        event.request = self.head.take_replaced();
        event.detail = Some(detail);
        repeats::report(&self.gateway, event);
    }

    pub(super) fn report_revoked(&self, denial: Denial) {
        let mut event = Event::new(
            EventKind::Auth,
            "revoke",
            Outcome::Deny,
            denial.reason.as_str(),
        );
        event.rule = Some(denial.rule);
        event.generation = self.gateway.snapshot.load().generation();
        event.source = Some(self.peer.ip);
        event.port = Some(self.peer.port);
        event.principal = self
            .principals()
            .first()
            .map(|principal| principal.id().to_owned());
        self.gateway.link.report(event);
    }

    pub(super) fn principals(&self) -> std::sync::MutexGuard<'_, Vec<Principal>> {
        self.principals
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}
