//! Gathers the state of the running daemon.

use crate::audit::SinkHealth;
use crate::enforcer::{Effect, Enforcer, ReasonCount};
use crate::event::Outcome;
use crate::ipc::OwnRole;
use crate::ops::{
    AuditSink, AuditState, Client, Filter, GatewayState, Interface, KernelMemory, MapFill, Moment,
    Named, ReasonTotal, SandboxState, Status, Verdict,
};
use crate::policy::TimedKind;
use crate::supervisor::state::State;
use crate::supervisor::{certificate, secrets};

pub(in crate::supervisor) fn status(state: &State) -> Status {
    let config = state.config();
    let health = state.records.health();
    let sandbox = match state.tools() {
        Ok(tools) => tools.sandbox.in_words(),
        Err(why) if config.sandbox.enabled => {
            format!("NOT AVAILABLE, sandboxed tools are denied: {why}")
        }
        Err(_) => "off".into(),
    };
    let mut status = Status {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        uptime_seconds: uptime_ms(state) / 1000,
        uptime_ms: uptime_ms(state),
        started: state.seen.started,
        generation: config.policy.generation,
        generation_since: state.seen.in_force_since(),
        observes: config.packets.observe,
        bans: state.timed.count(TimedKind::Ban) as u64,
        admissions: state.timed.count(TimedKind::Admission) as u64,
        gateway_pid: state.gateway_pid(),
        gateway: gateway(state),
        observer: state.own(OwnRole::Observer),
        node: state.own(OwnRole::Node),
        sandbox,
        executions: executions(state),
        audit_writable: health.writable,
        audit_records: health.seq,
        audit_lost: health.lost,
        audit: AuditState {
            enabled: config.audit.enabled,
            path: config.audit.path.display().to_string(),
            queued: health.queued as u64,
            refuses_work: health.must_refuse,
            sinks: state.records.sinks().into_iter().map(sink).collect(),
        },
        certificate_not_after: state.seen.certificate_end(config.policy.generation, || {
            let tls = config.gateway.tls.as_ref()?;
            certificate::not_after(&secrets::tls_material(tls).ok()?.cert_pem)
        }),
        events: state.records.tally.totals(),
        sources: state.records.tally.sources(MOST_SOURCES),
        denials: state.records.tally.denials(),
        history: state.seen.history(),
        ..Status::default()
    };
    if let Some(enforcer) = state.enforcer() {
        packets(&enforcer, &mut status);
    }
    status
}

fn sink(sink: SinkHealth) -> AuditSink {
    AuditSink {
        name: sink.name,
        connected: sink.connected,
        sent: sink.sent,
        lost: sink.lost,
    }
}

/// The totals that rates are made of.
pub(in crate::supervisor) fn moment(state: &State) -> Moment {
    let mut status = Status {
        events: state.records.tally.totals(),
        ..Status::default()
    };
    if let Some(enforcer) = state.enforcer() {
        status.reasons = reasons(&enforcer);
    }
    Moment {
        at_ms: uptime_ms(state),
        passed: status.packets(Verdict::Pass),
        dropped: status.packets(Verdict::Drop),
        allowed: status.decided(Outcome::Allow),
        denied: status.decided(Outcome::Deny),
    }
}

fn uptime_ms(state: &State) -> u64 {
    u64::try_from(state.started.elapsed().as_millis()).unwrap_or(u64::MAX)
}

fn packets(enforcer: &Enforcer, status: &mut Status) {
    let attachments = enforcer.attachments().iter();
    status.interfaces = attachments
        .map(|attachment| Interface {
            name: attachment.interface.clone(),
            mode: attachment.mode.as_str().to_owned(),
            steps_down: attachment.steps_down.clone(),
        })
        .collect();
    status.reasons = reasons(enforcer);
    status.kernel_memory = enforcer.memory().ok().map(|memory| KernelMemory {
        used_bytes: memory.used_bytes,
        bound_bytes: memory.bound_bytes,
    });
    let maps = enforcer.fill().unwrap_or_default().into_iter();
    let stats = enforcer.stats().unwrap_or_default().into_iter();
    status.filter = Some(Filter {
        maps: maps
            .map(|fill| MapFill {
                name: fill.map.to_lowercase(),
                entries: fill.entries,
                capacity: fill.capacity,
            })
            .collect(),
        stats: stats
            .map(|stat| Named {
                name: stat.name.to_owned(),
                count: stat.count,
            })
            .collect(),
    });
}

/// Every reason; of what would have been dropped only what was.
fn reasons(enforcer: &Enforcer) -> Vec<ReasonTotal> {
    let counters = enforcer.counters().unwrap_or_default();
    let shown = |counter: &&ReasonCount| counter.effect != Effect::WouldDrop || counter.packets > 0;
    let total = |counter: &ReasonCount| ReasonTotal {
        name: counter.reason.to_owned(),
        drop: counter.effect.is_drop(),
        verdict: match counter.effect {
            Effect::Passed => Verdict::Pass,
            Effect::Dropped => Verdict::Drop,
            Effect::WouldDrop => Verdict::WouldDrop,
        },
        packets: counter.packets,
        bytes: counter.bytes,
    };
    counters.iter().filter(shown).map(total).collect()
}

fn gateway(state: &State) -> GatewayState {
    let seen = state.seen.gateway();
    let clients = seen.present.into_iter();
    GatewayState {
        generation: seen.generation,
        observer_connected: state.is_connected(OwnRole::Observer),
        node_connected: state.is_connected(OwnRole::Node),
        figures: seen.figures,
        clients: clients
            .map(|present| Client {
                principal: present.principal,
                source: present.source,
                connections: present.connections,
                websockets: present.websockets,
            })
            .collect(),
    }
}

fn executions(state: &State) -> SandboxState {
    let load = state.tools().ok().map(|tools| tools.sandbox.load());
    let (ended, ended_ms) = state.records.tally.executions();
    SandboxState {
        wanted: state.config().sandbox.enabled,
        running: state.seen.executions.list(),
        waiting: load.map_or(0, |load| load.waiting as u64),
        slots: load.map_or(0, |load| load.slots as u64),
        ended,
        ended_ms,
    }
}

/// More than a screen shows; the audit log has them all.
const MOST_SOURCES: usize = 100;
