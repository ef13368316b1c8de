//! The state as OpenMetrics text, for a collector.
//!
//! Invariant: names, units and labels are promised (`docs/metrics.md`); a label's value is a word
//! of the code or the operator's, such as an interface, never a client's.

use super::openmetrics::{Text, Type, decimal};
use super::status::{AuditSink, Status};

pub const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// Writes every figure.
pub fn metrics(status: &Status) -> String {
    let mut text = Text::default();
    build(&mut text, status);
    packets(&mut text, status);
    gateway(&mut text, status);
    sandbox(&mut text, status);
    audit(&mut text, status);
    text.0.push_str("# EOF\n");
    text.0
}

fn build(text: &mut Text, status: &Status) {
    text.family("clawsec_build", Type::Info, "", "The daemon's version.");
    text.sample("clawsec_build_info", &[("version", &status.version)], 1);
    text.gauge(
        "clawsec_start_time_seconds",
        "seconds",
        "When the daemon began, since the Unix epoch.",
        status.started,
    );
    text.gauge(
        "clawsec_policy_generation",
        "",
        "The policy in force; it grows with each reload, over restarts too.",
        status.generation,
    );
    text.gauge(
        "clawsec_policy_time_seconds",
        "seconds",
        "When that policy came into force, since the Unix epoch.",
        status.generation_since,
    );
    text.gauge(
        "clawsec_policy_observes",
        "",
        "1 where network.mode is observe: packets are counted and none is dropped.",
        u8::from(status.observes),
    );
    if let Some(end) = status.certificate_not_after {
        text.gauge(
            "clawsec_certificate_not_after_seconds",
            "seconds",
            "When the certificate ends, since the Unix epoch.",
            end,
        );
    }
}

fn packets(text: &mut Text, status: &Status) {
    text.gauge(
        "clawsec_filter_interfaces",
        "",
        "Interfaces whose packets are filtered; 0 without the packet filter.",
        status.interfaces.len(),
    );
    text.family(
        "clawsec_interface",
        Type::Info,
        "",
        "How the filter is attached to an interface.",
    );
    for interface in &status.interfaces {
        let labels = [("interface", &*interface.name), ("mode", &interface.mode)];
        text.sample("clawsec_interface_info", &labels, 1);
    }
    text.family(
        "clawsec_packets",
        Type::Counter,
        "",
        "Packets judged by the filter since its maps were made.",
    );
    let labels = |reason: &super::ReasonTotal| {
        [
            ("verdict", reason.verdict.as_str().to_owned()),
            ("reason", reason.name.clone()),
        ]
    };
    for reason in &status.reasons {
        text.counted("clawsec_packets", &labels(reason), reason.packets);
    }
    text.family(
        "clawsec_packet_bytes",
        Type::Counter,
        "bytes",
        "Their bytes, with the Ethernet header.",
    );
    for reason in &status.reasons {
        text.counted("clawsec_packet_bytes", &labels(reason), reason.bytes);
    }
    if let Some(filter) = &status.filter {
        text.family(
            "clawsec_filter_events",
            Type::Counter,
            "",
            "What the filter had to do besides: buckets and ceilings made, drops that it named no source of, events that found no room.",
        );
        for stat in &filter.stats {
            text.counted(
                "clawsec_filter_events",
                &[("event", stat.name.clone())],
                stat.count,
            );
        }
        text.family(
            "clawsec_map_entries",
            Type::Gauge,
            "",
            "Entries of the maps of bans and admissions.",
        );
        for map in &filter.maps {
            text.sample("clawsec_map_entries", &[("map", &map.name)], map.entries);
        }
        text.family(
            "clawsec_map_capacity",
            Type::Gauge,
            "",
            "What those maps can hold.",
        );
        for map in &filter.maps {
            text.sample("clawsec_map_capacity", &[("map", &map.name)], map.capacity);
        }
    }
    if let Some(memory) = status.kernel_memory {
        text.gauge(
            "clawsec_map_memory_bytes",
            "bytes",
            "Kernel memory of the filter's maps.",
            memory.used_bytes,
        );
    }
    text.gauge("clawsec_bans", "", "Bans in force.", status.bans);
    text.gauge(
        "clawsec_admissions",
        "",
        "Timed admissions in force.",
        status.admissions,
    );
}

fn gateway(text: &mut Text, status: &Status) {
    text.family(
        "clawsec_events",
        Type::Counter,
        "",
        "What was decided since the start, as the audit log has it; the kernel's drops are clawsec_packets.",
    );
    for total in &status.events {
        let labels = [
            ("event", total.event.as_str().to_owned()),
            ("outcome", total.outcome.as_str().to_owned()),
            ("reason", total.reason.clone()),
        ];
        text.counted("clawsec_events", &labels, total.count);
    }
    let gateway = &status.gateway;
    text.gauge(
        "clawsec_gateway_up",
        "",
        "Whether the gateway process runs.",
        u8::from(status.gateway_pid.is_some()),
    );
    text.family(
        "clawsec_own_connected",
        Type::Gauge,
        "",
        "Whether clawsec's own connections to the protected gateway stand.",
    );
    for (role, connected) in [
        ("observer", gateway.observer_connected),
        ("node", gateway.node_connected),
    ] {
        text.sample(
            "clawsec_own_connected",
            &[("role", role)],
            u8::from(connected),
        );
    }
    text.gauge(
        "clawsec_clients",
        "",
        "Principals connected, each counted once for each of its addresses; 64 at most.",
        gateway.clients.len(),
    );
    let Some(figures) = &gateway.figures else {
        return;
    };
    text.gauge(
        "clawsec_connections",
        "",
        "Connections open at the gateway.",
        figures.connections,
    );
    text.family(
        "clawsec_connections_accepted",
        Type::Counter,
        "",
        "Connections whose address was admitted.",
    );
    text.counted::<&str>("clawsec_connections_accepted", &[], figures.accepted);
    text.family(
        "clawsec_tls_handshakes",
        Type::Counter,
        "",
        "TLS handshakes by how they ended.",
    );
    for (result, count) in [
        ("ok", figures.tls_ok),
        ("failed", figures.tls_failed),
        ("too_slow", figures.tls_too_slow),
    ] {
        text.counted("clawsec_tls_handshakes", &[("result", result)], count);
    }
    text.family(
        "clawsec_admin_refused",
        Type::Counter,
        "",
        "Requests to gateway.admin.metrics that were refused.",
    );
    text.counted::<&str>("clawsec_admin_refused", &[], figures.unauthorized);
    text.family(
        "clawsec_request_duration_seconds",
        Type::Histogram,
        "seconds",
        "Time from a request's head to its answer's.",
    );
    text.histogram("allow", &figures.allowed);
    text.histogram("deny", &figures.refused);
}

fn sandbox(text: &mut Text, status: &Status) {
    let executions = &status.executions;
    text.gauge(
        "clawsec_sandbox_up",
        "",
        "Whether sandboxed tools can run; 0 where they are off, too.",
        u8::from(executions.slots > 0),
    );
    text.gauge(
        "clawsec_sandbox_running",
        "",
        "Executions asked for and not over.",
        executions.running.len(),
    );
    text.gauge(
        "clawsec_sandbox_waiting",
        "",
        "Executions that wait for a slot.",
        executions.waiting,
    );
    text.gauge(
        "clawsec_sandbox_slots",
        "",
        "Executions that can run at once.",
        executions.slots,
    );
    text.family(
        "clawsec_sandbox_runs",
        Type::Counter,
        "",
        "Executions that ended, by how.",
    );
    for ended in &executions.ended {
        text.counted(
            "clawsec_sandbox_runs",
            &[("result", ended.name.clone())],
            ended.count,
        );
    }
    text.family(
        "clawsec_sandbox_run_seconds",
        Type::Counter,
        "seconds",
        "Time that they took, added up.",
    );
    let seconds = decimal(executions.ended_ms, 3);
    text.sample::<&str>("clawsec_sandbox_run_seconds_total", &[], seconds);
}

fn audit(text: &mut Text, status: &Status) {
    text.gauge(
        "clawsec_audit_writable",
        "",
        "Whether the last record could be written.",
        u8::from(status.audit_writable),
    );
    text.family(
        "clawsec_audit_records",
        Type::Counter,
        "",
        "The number of the last record written; it goes on over restarts.",
    );
    text.counted::<&str>("clawsec_audit_records", &[], status.audit_records);
    text.family(
        "clawsec_audit_lost",
        Type::Counter,
        "",
        "Events since the start that could not be recorded.",
    );
    text.counted::<&str>("clawsec_audit_lost", &[], status.audit_lost);
    text.gauge(
        "clawsec_audit_queued",
        "",
        "Events that wait to be written.",
        status.audit.queued,
    );
    text.gauge(
        "clawsec_audit_refuses_work",
        "",
        "1 while tool runs are refused since nothing can be recorded.",
        u8::from(status.audit.refuses_work),
    );
    sinks(text, &status.audit.sinks);
}

fn sinks(text: &mut Text, sinks: &[AuditSink]) {
    if sinks.is_empty() {
        return;
    }
    text.family(
        "clawsec_audit_sink_connected",
        Type::Gauge,
        "",
        "Whether the sink takes records.",
    );
    for sink in sinks {
        let connected = u8::from(sink.connected);
        text.sample(
            "clawsec_audit_sink_connected",
            &[("sink", &sink.name)],
            connected,
        );
    }
    text.family(
        "clawsec_audit_sink_sent",
        Type::Counter,
        "",
        "Records that the sink has taken since the start.",
    );
    for sink in sinks {
        text.counted(
            "clawsec_audit_sink_sent",
            &[("sink", &sink.name)],
            sink.sent,
        );
    }
    text.family(
        "clawsec_audit_sink_lost",
        Type::Counter,
        "",
        "Records since the start that the sink never got.",
    );
    for sink in sinks {
        text.counted(
            "clawsec_audit_sink_lost",
            &[("sink", &sink.name)],
            sink.lost,
        );
    }
}
