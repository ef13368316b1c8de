//! TLS towards clients, and its certificate.

use super::super::facts::{CertificateFacts, Facts};
use super::super::registry::{Check, found};
use crate::counterpart::Severity;

pub(in crate::cli::check) const CHECKS: &[Check] = &[
    Check {
        id: "tls.off",
        severity: Severity::Critical,
        title: "clients come without encryption",
        remedy: "set gateway.tls with a certificate, or with acme",
        judge: |facts| {
            let off = facts.config.gateway.tls.is_none() && facts.is_public();
            found(off, || {
                "gateway.tls is off, and listen is not loopback alone".to_owned()
            })
        },
        says: &["TLS is off: keys and messages cross the network unencrypted"],
    },
    Check {
        id: "tls.loopback_only",
        severity: Severity::Info,
        title: "without TLS clawsec serves this host alone",
        remedy: "set gateway.tls with a certificate, or with acme, to serve others",
        judge: |facts| {
            let alone = facts.config.gateway.tls.is_none() && !facts.is_public();
            found(alone, || "gateway.tls is left out".to_owned())
        },
        says: &["no `gateway.tls`, so clawsec listens on loopback only"],
    },
    Check {
        id: "tls.unusable",
        severity: Severity::Critical,
        title: "the certificate cannot be used",
        remedy: "gateway.tls.cert is the chain in PEM, gateway.tls.key its key",
        judge: |facts| match &facts.certificate {
            Some(Err(why)) => vec![why.clone()],
            _ => Vec::new(),
        },
        says: &[],
    },
    Check {
        id: "tls.key_of_another",
        severity: Severity::Critical,
        title: "the key does not belong to the certificate",
        remedy: "set gateway.tls.cert and gateway.tls.key to one pair",
        judge: |facts| {
            let other = certificate(facts).is_some_and(|found| !found.fits_key);
            found(other, || "gateway.tls.key".to_owned())
        },
        says: &[],
    },
    Check {
        id: "tls.expired",
        severity: Severity::Critical,
        title: "the certificate has ended",
        remedy: "renew it, or let clawsec do it: gateway.tls.acme",
        judge: |facts| {
            let left = certificate(facts).map(|found| found.validity.not_after - facts.host.now);
            let past = left.filter(|left| *left <= 0);
            past.map(|left| format!("{} days ago", -left / DAY))
                .into_iter()
                .collect()
        },
        says: &[],
    },
    Check {
        id: "tls.expires_soon",
        severity: Severity::Warn,
        title: "the certificate ends within two weeks",
        remedy: "renew it, or let clawsec do it: gateway.tls.acme; the log says why that failed",
        judge: |facts| {
            let left = certificate(facts).map(|found| found.validity.not_after - facts.host.now);
            let soon = left.filter(|left| (1..14 * DAY).contains(left));
            soon.map(|left| format!("in {} days", left / DAY))
                .into_iter()
                .collect()
        },
        says: &[],
    },
    Check {
        id: "tls.not_yet_valid",
        severity: Severity::Critical,
        title: "the certificate is of the future",
        remedy: "look at this host's clock; else ask the authority for another",
        judge: |facts| {
            let early = certificate(facts).map(|found| found.validity.not_before - facts.host.now);
            let early = early.filter(|left| *left > 0);
            early
                .map(|left| format!("it begins in {left} s"))
                .into_iter()
                .collect()
        },
        says: &[],
    },
    Check {
        id: "tls.names",
        severity: Severity::Warn,
        title: "a name that is served is not in the certificate",
        remedy: "ask for a certificate with that name, or take it out of gateway.hosts",
        judge: |facts| {
            certificate(facts)
                .map(|found| found.missing.clone())
                .unwrap_or_default()
        },
        says: &[],
    },
    Check {
        id: "tls.self_signed",
        severity: Severity::Info,
        title: "clients have to pin the certificate, which no authority signed",
        remedy: "set gateway.remote.tlsFingerprint in clients, or get one: gateway.tls.acme",
        judge: |facts| {
            let own = certificate(facts).is_some_and(|found| found.is_self_signed);
            found(own, || "it is signed by its own key".to_owned())
        },
        says: &[],
    },
];

fn certificate(facts: &Facts) -> Option<&CertificateFacts> {
    facts.certificate.as_ref()?.as_ref().ok()
}

const DAY: i64 = 86_400;
