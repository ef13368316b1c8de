//! What a start says: each address, the certificate's fingerprint, each filtered interface.

use super::state::State;
use super::{certificate, secrets};
use crate::event::{Event, EventKind, Outcome};

/// Says what is in force, on the terminal and in the log.
pub(super) fn announce(state: &State) {
    let config = state.config();
    let scheme = if config.gateway.tls.is_some() {
        "https"
    } else {
        "http"
    };
    for listen in &config.gateway.listen {
        tracing::info!("listening on {scheme}://{}", listen.address);
    }
    let material = config.gateway.tls.as_ref().map(secrets::tls_material);
    if let Some(fingerprint) = material.and_then(|m| certificate::fingerprint(&m.ok()?.cert_pem)) {
        tracing::info!("certificate sha256 {fingerprint}");
    }
    if let Some(metrics) = config.gateway.metrics {
        tracing::info!("figures on http://{}/metrics", metrics.address);
    }
    tracing::info!("protecting {}", config.gateway.upstream.authority());
    let mut detail = String::from("without the packet filter");
    if let Some(enforcer) = state.enforcer() {
        let attachments = enforcer.attachments();
        let attached = attachments
            .iter()
            .map(|a| format!("{} ({})", a.interface, a.mode.as_str()));
        let attached: Vec<String> = attached.collect();
        for interface in &attached {
            tracing::info!("filtering packets on {interface}");
        }
        detail = format!("packet filter on {}", attached.join(", "));
        for step in attachments.iter().flat_map(|a| &a.steps_down) {
            detail.push_str("; ");
            detail.push_str(step);
        }
        if let Ok(memory) = enforcer.memory() {
            let memory = memory.in_words();
            tracing::info!("{memory}");
            detail.push_str("; ");
            detail.push_str(&memory);
        }
    }
    tracing::info!("recording to {}", config.audit.path.display());
    let mut event = Event::new(EventKind::System, "start", Outcome::Allow, "ok");
    event.generation = config.policy.generation;
    event.detail = Some(detail);
    state.records.report(event);
}
