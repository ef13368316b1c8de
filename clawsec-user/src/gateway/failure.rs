//! What ends before there is a request to refuse: PROXY headers, TLS handshakes, and HTTP/2
//! connections and streams that the library ends by itself.
//!
//! Invariant: anybody who may connect can cause these at any rate, so all of them are summed.

use super::listener::Peer;
use super::record;
use super::repeats;
use super::shared::Gateway;
use crate::event::{Event, EventKind, Outcome};
use crate::policy::Reason;

/// Why a connection, or a stream of one, ended. The words are those of `docs/audit.md`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Failure {
    /// The header is not one of PROXY v2.
    Proxy,
    ProxySlow,
    /// No handshake that both sides understand.
    Tls,
    /// The client ended it half-way, or said nothing at all.
    TlsEnded,
    TlsSlow,
    /// It names a host that is not served.
    TlsHost,
    /// The client's certificate is refused.
    ClientCertificate,
    /// Frames or heads that break the protocol.
    Http2Protocol,
    /// Resets, or frames that carry nothing, without end.
    Http2Flood,
    /// More streams than a connection may have.
    Http2Streams,
    Http2HeadTooLarge,
    /// Something for a stream that is closed, as it may be when both ends act at once.
    Http2StreamClosed,
    /// No answer to a ping.
    Http2Silent,
}

impl Failure {
    fn words(self) -> (&'static str, Outcome, &'static str) {
        match self {
            Self::Proxy => ("proxy", Outcome::Deny, "proxy_malformed"),
            Self::ProxySlow => ("proxy", Outcome::Deny, TOO_SLOW),
            Self::Tls => ("tls", Outcome::Error, "tls_failed"),
            Self::TlsEnded => ("tls", Outcome::Error, "tls_ended"),
            Self::TlsSlow => ("tls", Outcome::Deny, TOO_SLOW),
            Self::TlsHost => ("tls", Outcome::Deny, Reason::HostNotAllowed.as_str()),
            Self::ClientCertificate => ("tls", Outcome::Deny, "client_certificate_refused"),
            Self::Http2Protocol => ("http2", Outcome::Deny, "http2_protocol"),
            Self::Http2Flood => ("http2", Outcome::Deny, "http2_flood"),
            Self::Http2Streams => ("http2", Outcome::Deny, "http2_streams"),
            Self::Http2HeadTooLarge => ("http2", Outcome::Deny, "http2_head_too_large"),
            Self::Http2StreamClosed => ("http2", Outcome::Error, "http2_stream_closed"),
            Self::Http2Silent => ("http2", Outcome::Deny, TOO_SLOW),
        }
    }

    /// What it counts as towards a ban. Who does not trust a certificate, or has a slow line, is no
    /// attacker.
    fn hostile(self) -> Option<Reason> {
        match self {
            Self::TlsHost => Some(Reason::HostNotAllowed),
            Self::Http2Protocol | Self::Http2Flood => Some(Reason::RequestMalformed),
            _ => None,
        }
    }
}

/// Reports so many failures of one peer.
pub(super) fn report(gateway: &Gateway, peer: Peer, failure: Failure, count: u64, detail: &str) {
    let (action, outcome, reason) = failure.words();
    let snapshot = gateway.snapshot.load();
    let mut event = Event::new(EventKind::Network, action, outcome, reason);
    event.generation = snapshot.generation();
    event.source = Some(peer.ip);
    event.port = Some(peer.port);
    event.count = count;
    event.detail = Some(record::printable(detail)).filter(|detail| !detail.is_empty());
    repeats::report(gateway, event);
    if let Some(reason) = failure.hostile() {
        for _ in 0..count {
            record::count_denial(gateway, &snapshot, peer, reason);
        }
    }
}

/// What a failed handshake failed for.
pub(super) fn of_tls(error: &std::io::Error) -> Failure {
    let cause = error.get_ref().and_then(|cause| cause.downcast_ref());
    match cause {
        Some(rustls::Error::InvalidCertificate(_)) => Failure::ClientCertificate,
        // rustls has no variant for it.
        Some(rustls::Error::General(why)) if why.contains("certificate chain resolved") => {
            Failure::TlsHost
        }
        Some(_) => Failure::Tls,
        None => Failure::TlsEnded,
    }
}

/// The reason in records of connections that were ended for their slowness. It is no sign of
/// hostility: a train in a tunnel does the same.
pub(super) const TOO_SLOW: &str = "too_slow";
