//! The state of a running daemon, as `clawsec status --json` prints it: a promised format. Fields
//! are added, never renamed.

use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use crate::event::{EventKind, Outcome};
use crate::ipc::GatewayFigures;

#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Status {
    pub version: String,
    pub uptime_seconds: u64,
    /// The same, for rates.
    pub uptime_ms: u64,
    /// Seconds since the Unix epoch.
    pub started: i64,
    pub generation: u64,
    /// When this generation came into force, in seconds since the Unix epoch.
    pub generation_since: i64,
    /// `network.mode: "observe"`: everything is counted, nothing dropped.
    pub observes: bool,
    pub interfaces: Vec<Interface>,
    pub reasons: Vec<ReasonTotal>,
    pub bans: u64,
    pub admissions: u64,
    /// `null` without the packet filter.
    pub kernel_memory: Option<KernelMemory>,
    /// `null` without the packet filter.
    pub filter: Option<Filter>,
    pub gateway_pid: Option<u32>,
    pub gateway: GatewayState,
    /// The connection that reads the protected gateway's own events.
    pub observer: String,
    /// The connection by which the protected gateway's agents use the sandbox.
    pub node: String,
    pub sandbox: String,
    pub executions: SandboxState,
    pub audit_writable: bool,
    pub audit_records: u64,
    pub audit_lost: u64,
    pub audit: AuditState,
    /// When the certificate ends, in seconds since the Unix epoch.
    pub certificate_not_after: Option<i64>,
    /// What was decided since the start, by kind, outcome and reason.
    pub events: Vec<EventTotal>,
    /// Who was refused, the most first.
    pub sources: Vec<SourceTotal>,
    /// The last refusals, the latest first.
    pub denials: Vec<Denial>,
    /// Totals of the last minutes, the latest last.
    pub history: Vec<Moment>,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Interface {
    pub name: String,
    pub mode: String,
    /// Why it is no better mode.
    pub steps_down: Vec<String>,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct ReasonTotal {
    pub name: String,
    pub drop: bool,
    pub verdict: Verdict,
    pub packets: u64,
    pub bytes: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    Pass,
    Drop,
    /// Passed, since the policy only observes.
    WouldDrop,
}

impl Verdict {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Pass => "pass",
            Self::Drop => "drop",
            Self::WouldDrop => "would_drop",
        }
    }
}

/// Bytes of the packet filter's maps.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub struct KernelMemory {
    pub used_bytes: u64,
    /// With every ban and admission that there can be.
    pub bound_bytes: u64,
}

#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Filter {
    pub maps: Vec<MapFill>,
    /// Figures about the program itself, by name.
    pub stats: Vec<Named>,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct MapFill {
    pub name: String,
    pub entries: u64,
    pub capacity: u64,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Named {
    pub name: String,
    pub count: u64,
}

/// What the gateway process says of itself.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct GatewayState {
    /// The policy it has in force.
    pub generation: Option<u64>,
    pub observer_connected: bool,
    pub node_connected: bool,
    /// Since that process began; `null` before it has spoken.
    pub figures: Option<GatewayFigures>,
    /// Who is connected, the most connections first.
    pub clients: Vec<Client>,
}

/// One principal at one address.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Client {
    pub principal: String,
    pub source: IpAddr,
    pub connections: u64,
    pub websockets: u64,
}

#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct SandboxState {
    /// `security.sandbox.enabled`.
    pub wanted: bool,
    pub running: Vec<Execution>,
    pub waiting: u64,
    pub slots: u64,
    /// Executions that have ended, by how.
    pub ended: Vec<Named>,
    pub ended_ms: u64,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Execution {
    pub agent: String,
    pub principal: String,
    pub seconds: u64,
}

#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct AuditState {
    pub enabled: bool,
    pub path: String,
    pub queued: u64,
    /// Tool runs and configuration changes are refused until it can be written again.
    pub refuses_work: bool,
    /// Where records go besides the file.
    #[serde(default)]
    pub sinks: Vec<AuditSink>,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct AuditSink {
    pub name: String,
    pub connected: bool,
    pub sent: u64,
    /// Records that it never got, since the start.
    pub lost: u64,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct EventTotal {
    pub event: EventKind,
    pub outcome: Outcome,
    pub reason: String,
    pub count: u64,
}

/// What one source was refused, in packets and in requests.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SourceTotal {
    pub source: IpAddr,
    pub packets: u64,
    pub requests: u64,
    /// Of the last refusal.
    pub reason: String,
    pub last: i64,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Denial {
    pub at: i64,
    pub event: EventKind,
    pub reason: String,
    pub rule: Option<String>,
    pub source: Option<IpAddr>,
    pub principal: Option<String>,
    pub tool: Option<String>,
    pub count: u64,
}

/// Totals at one time; two of them make rates.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Moment {
    /// Since the daemon's start.
    pub at_ms: u64,
    pub passed: u64,
    pub dropped: u64,
    pub allowed: u64,
    pub denied: u64,
}

/// What is in force, in a word.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Headline {
    Enforcing,
    Observing,
    /// Addresses are checked at accept only.
    Unfiltered,
    NotReady,
}

impl Headline {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Enforcing => "enforcing",
            Self::Observing => "observing only",
            Self::Unfiltered => "running without the packet filter",
            Self::NotReady => "not ready",
        }
    }
}

impl Status {
    /// The worst that is to be said.
    pub fn headline(&self) -> Headline {
        if !self.against_readiness().is_empty() {
            Headline::NotReady
        } else if self.interfaces.is_empty() {
            Headline::Unfiltered
        } else if self.observes {
            Headline::Observing
        } else {
            Headline::Enforcing
        }
    }

    /// The time this was gathered, in seconds since the Unix epoch by the daemon's own clock.
    pub fn now(&self) -> i64 {
        let uptime = i64::try_from(self.uptime_seconds).unwrap_or(i64::MAX);
        self.started.saturating_add(uptime)
    }

    /// Seconds from `then` to now.
    pub fn since(&self, then: i64) -> u64 {
        u64::try_from(self.now().saturating_sub(then)).unwrap_or(0)
    }

    /// Whole days until the certificate ends; negative when it has.
    pub fn certificate_days(&self) -> Option<i64> {
        let end = self.certificate_not_after?;
        Some(end.saturating_sub(self.now()).div_euclid(86_400))
    }

    /// Why requests are not served as the configuration says; empty when they are.
    pub fn against_readiness(&self) -> Vec<&'static str> {
        let rows = [
            (
                self.gateway_pid.is_none(),
                "the gateway process does not run",
            ),
            (
                self.gateway_pid.is_some() && self.gateway.generation != Some(self.generation),
                "the gateway process has another policy than the supervisor",
            ),
            (
                self.audit.refuses_work,
                "the audit log cannot be written, and tool runs are refused",
            ),
            (
                self.executions.wanted && self.executions.slots == 0,
                "the sandbox is not available, and its tools are denied",
            ),
        ];
        let against = rows.into_iter().filter(|(holds, _)| *holds);
        against.map(|(_, what)| what).collect()
    }

    /// Packets dropped since the maps were made.
    pub fn dropped(&self) -> u64 {
        self.packets(Verdict::Drop)
    }

    pub fn packets(&self, verdict: Verdict) -> u64 {
        let of = self.reasons.iter().filter(|r| r.verdict == verdict);
        of.fold(0, |sum, reason| sum.saturating_add(reason.packets))
    }

    /// Events of an outcome since the start, the daemon's own life left out.
    pub fn decided(&self, outcome: Outcome) -> u64 {
        let of = self.events.iter().filter(|total| {
            total.outcome == outcome
                && !matches!(total.event, EventKind::System | EventKind::Config)
        });
        of.fold(0, |sum, total| sum.saturating_add(total.count))
    }

    /// A rate over the last `seconds` of the history, in events a second.
    pub fn rate(&self, seconds: u64, of: fn(&Moment) -> u64) -> f64 {
        let Some(last) = self.history.last() else {
            return 0.0;
        };
        let from = last.at_ms.saturating_sub(seconds * 1000);
        let first = self.history.iter().find(|moment| moment.at_ms >= from);
        first.map_or(0.0, |first| last.rate_since(first, of))
    }
}

impl Moment {
    /// Per second; counters that were set back (other maps) count as nothing.
    #[expect(
        clippy::cast_precision_loss,
        reason = "a rate for a person: 53 bits of a difference are enough"
    )]
    pub fn rate_since(&self, before: &Self, of: fn(&Self) -> u64) -> f64 {
        let ms = self.at_ms.saturating_sub(before.at_ms);
        let count = of(self).saturating_sub(of(before));
        if ms == 0 {
            0.0
        } else {
            count as f64 * 1000.0 / ms as f64
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_are_differences_by_time() {
        let at = |at_ms, dropped| Moment {
            at_ms,
            dropped,
            ..Moment::default()
        };
        let status = Status {
            history: vec![at(0, 0), at(2000, 100), at(4000, 110)],
            ..Status::default()
        };
        let rows = [(2, 5.0), (4, 27.5), (100, 27.5), (0, 0.0)];
        for (seconds, expected) in rows {
            let rate = status.rate(seconds, |moment| moment.dropped);
            assert!((rate - expected).abs() < 1e-9, "{seconds}: {rate}");
        }
        assert!(at(1, 0).rate_since(&at(0, 5), |m| m.dropped).abs() < 1e-9);
    }

    type Change = fn(&mut Status);

    #[test]
    fn the_headline_says_the_worst() {
        let good = Status {
            generation: 1,
            gateway_pid: Some(1),
            gateway: GatewayState {
                generation: Some(1),
                ..GatewayState::default()
            },
            interfaces: vec![Interface {
                name: "eth0".into(),
                mode: "native".into(),
                steps_down: Vec::new(),
            }],
            ..Status::default()
        };
        let rows: [(Headline, Change); 7] = [
            (Headline::Enforcing, |_| {}),
            (Headline::Observing, |s| s.observes = true),
            (Headline::Unfiltered, |s| s.interfaces.clear()),
            (Headline::NotReady, |s| s.gateway_pid = None),
            (Headline::NotReady, |s| s.generation = 2),
            (Headline::NotReady, |s| s.audit.refuses_work = true),
            (Headline::NotReady, |s| s.executions.wanted = true),
        ];
        for (expected, change) in rows {
            let mut status = good.clone();
            change(&mut status);
            assert_eq!(status.headline(), expected);
        }
    }
}
