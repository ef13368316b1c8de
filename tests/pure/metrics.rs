//! The figures' text, held against the specification, the manual, the board and the alert rules.

use std::collections::BTreeSet;

use clawsec_user::event::{EventKind, Outcome};
use clawsec_user::ipc::{GatewayFigures, LATENCY_BOUNDS_US, Latency};
use clawsec_user::ops::{
    AuditSink, AuditState, EventTotal, Filter, GatewayState, Interface, KernelMemory, MapFill,
    Named, ReasonTotal, SandboxState, Status, Verdict, metrics,
};

use crate::openmetrics::read_strictly;

fn full() -> Status {
    let times = Latency {
        buckets: vec![3; LATENCY_BOUNDS_US.len() + 1],
        sum_us: 1_500_000,
    };
    Status {
        version: "1.2.3".into(),
        certificate_not_after: Some(1),
        gateway_pid: Some(1),
        interfaces: vec![Interface {
            name: "odd\"\\\nname".into(),
            mode: "native".into(),
            steps_down: Vec::new(),
        }],
        reasons: vec![ReasonTotal {
            name: "allowed".into(),
            drop: false,
            verdict: Verdict::Pass,
            packets: u64::MAX,
            bytes: 5,
        }],
        filter: Some(Filter {
            maps: vec![MapFill {
                name: "bans".into(),
                entries: 1,
                capacity: 2,
            }],
            stats: vec![Named {
                name: "bucket_made".into(),
                count: 1,
            }],
        }),
        kernel_memory: Some(KernelMemory {
            used_bytes: 1,
            bound_bytes: 2,
        }),
        gateway: GatewayState {
            figures: Some(GatewayFigures {
                allowed: times.clone(),
                refused: times,
                ..GatewayFigures::default()
            }),
            ..Default::default()
        },
        audit: AuditState {
            sinks: vec![AuditSink {
                name: "syslog logs.example:6514".into(),
                connected: true,
                sent: 2,
                lost: 1,
            }],
            ..Default::default()
        },
        executions: SandboxState {
            ended: vec![Named {
                name: "ok".into(),
                count: 2,
            }],
            ended_ms: 1234,
            ..Default::default()
        },
        events: vec![EventTotal {
            event: EventKind::Auth,
            outcome: Outcome::Deny,
            reason: "credential_unknown".into(),
            count: 4,
        }],
        ..Status::default()
    }
}

#[test]
fn the_text_is_openmetrics() {
    for status in [full(), Status::default()] {
        let text = metrics(&status);
        read_strictly(&text).unwrap_or_else(|why| panic!("{why}\n{text}"));
    }
}

#[test]
fn the_strict_reader_is_strict() {
    let rows = [
        ("no end", "# TYPE a gauge\na 1\n"),
        ("no type", "a 1\n# EOF\n"),
        ("counter without _total", "# TYPE a counter\na 1\n# EOF\n"),
        ("another family's sample", "# TYPE a gauge\nb 1\n# EOF\n"),
        ("not a number", "# TYPE a gauge\na x\n# EOF\n"),
        ("twice", "# TYPE a gauge\na 1\na 1\n# EOF\n"),
        (
            "a unit that is no suffix",
            "# TYPE a gauge\n# UNIT a bytes\na 1\n# EOF\n",
        ),
        (
            "a family twice",
            "# TYPE a gauge\na 1\n# TYPE a gauge\n# EOF\n",
        ),
        ("after the end", "# TYPE a gauge\n# EOF\na 1\n"),
        (
            "a label without quotes",
            "# TYPE a gauge\na{b=c} 1\n# EOF\n",
        ),
        (
            "an unescaped quote",
            "# TYPE a gauge\na{b=\"c\"d\"} 1\n# EOF\n",
        ),
        (
            "a histogram that falls",
            "# TYPE a histogram\na_bucket{le=\"1.0\"} 2\na_bucket{le=\"+Inf\"} 1\na_count 1\na_sum 1.0\n# EOF\n",
        ),
        (
            "a histogram without +Inf",
            "# TYPE a histogram\na_bucket{le=\"1.0\"} 2\na_count 2\na_sum 1.0\n# EOF\n",
        ),
    ];
    for (name, text) in rows {
        assert!(read_strictly(text).is_err(), "{name}");
    }
}

#[test]
fn a_histogram_is_cumulative_and_exact() {
    let read = read_strictly(&metrics(&full())).unwrap();
    let at = |name: &str| read.samples.get(name).copied();
    let bucket = "clawsec_request_duration_seconds_bucket{outcome=\"allow\",le=";
    assert_eq!(at(&format!("{bucket}\"0.00025\"}}")), Some(3.0));
    assert_eq!(at(&format!("{bucket}\"60.0\"}}")), Some(36.0));
    assert_eq!(at(&format!("{bucket}\"+Inf\"}}")), Some(39.0));
    assert_eq!(
        at("clawsec_request_duration_seconds_sum{outcome=\"deny\"}"),
        Some(1.5)
    );
    assert_eq!(at("clawsec_sandbox_run_seconds_total"), Some(1.234));
}

/// `docs/metrics.md`, the board and the alert rules name what is there, and nothing else.
#[test]
fn documents_and_rules_name_families_that_exist() {
    const DOCS: &str = include_str!("../../docs/metrics.md");
    const BOARD: &str = include_str!("../../packaging/grafana/clawsec.json");
    const RULES: &str = include_str!("../../packaging/prometheus/clawsec.rules.yml");
    let read = read_strictly(&metrics(&full())).unwrap();
    let documented: BTreeSet<String> = DOCS
        .lines()
        .filter_map(|line| Some(line.strip_prefix("| `clawsec_")?.split_once('`')?.0))
        .map(|name| format!("clawsec_{name}"))
        .collect();
    let families: BTreeSet<String> = read.families.keys().cloned().collect();
    assert_eq!(documented, families);
    serde_json::from_str::<serde_json::Value>(BOARD).unwrap();
    let names: BTreeSet<&str> = read
        .samples
        .keys()
        .map(|key| key.split('{').next().unwrap_or(key))
        .collect();
    for (file, text) in [("the board", BOARD), ("the rules", RULES)] {
        let mut found = 0;
        for (at, _) in text.match_indices("clawsec_") {
            let rest = &text[at..];
            let end = rest.find(|c: char| !c.is_ascii_alphanumeric() && c != '_');
            let name = &rest[..end.unwrap_or(rest.len())];
            assert!(names.contains(name), "{file}: {name}");
            found += 1;
        }
        assert!(found > 10, "{file}");
    }
}
