//! The screen holds what it must, at 80 by 24, whatever there is to show.

use super::screen::COLUMNS;
use super::*;
use crate::event::EventKind;
use crate::ops::{
    AuditState, Client, EventTotal, Execution, GatewayState, Interface, Moment, SandboxState,
    SourceTotal,
};

fn busy(many: u64) -> Status {
    let source = |n: u64| SourceTotal {
        source: format!("2001:db8:1234:5678:9abc:def0:1234:{n}")
            .parse()
            .unwrap(),
        packets: 1_000_000_000 + n,
        requests: 1,
        reason: "credential_not_yet_valid".into(),
        last: 1000,
    };
    Status {
        version: "0.1.0".into(),
        uptime_seconds: 100_000,
        started: 1,
        generation: 12,
        generation_since: 90_000,
        gateway_pid: Some(7),
        interfaces: vec![Interface {
            name: "eth0".into(),
            mode: "generic".into(),
            steps_down: vec!["native: MTU too large; `ip link set dev eth0 mtu 3498` helps ".repeat(2)],
        }],
        reasons: (0..many)
            .map(|n| ReasonTotal {
                name: format!("reason_{n}"),
                drop: true,
                verdict: Verdict::Drop,
                packets: n + 1,
                bytes: 0,
            })
            .collect(),
        sources: (0..many).map(source).collect(),
        events: (0..many)
            .map(|n| EventTotal {
                event: EventKind::Auth,
                outcome: Outcome::Deny,
                reason: format!("denied_{n}"),
                count: n + 1,
            })
            .collect(),
        gateway: GatewayState {
            generation: Some(12),
            clients: (0..many)
                .map(|n| Client {
                    principal: "a-name-of-sixty-four-characters-".repeat(2),
                    source: "2001:db8:1234:5678:9abc:def0:1234:5678".parse().unwrap(),
                    connections: n,
                    websockets: 1,
                })
                .collect(),
            ..GatewayState::default()
        },
        executions: SandboxState {
            wanted: true,
            slots: 4,
            running: (0..many)
                .map(|n| Execution {
                    agent: "main\u{1b}[31m".into(),
                    principal: "phone".into(),
                    seconds: n,
                })
                .collect(),
            ..SandboxState::default()
        },
        sandbox: "docker".into(),
        observer: "connected, protocol 4".into(),
        node: "WAITS FOR APPROVAL: run `openclaw devices approve 0123456789` on the gateway's host, then it connects by itself".into(),
        audit_writable: true,
        audit_records: 123_456,
        audit: AuditState {
            enabled: true,
            path: "/var/log/clawsec/audit.log".into(),
            ..AuditState::default()
        },
        certificate_not_after: Some(100_001 + 86_400 * 5),
        history: vec![
            Moment::default(),
            Moment {
                at_ms: 10_000,
                dropped: 250,
                ..Moment::default()
            },
        ],
        ..Status::default()
    }
}

#[test]
fn the_screen_fits_whatever_there_is() {
    for many in [0, 1, 3, 1000] {
        let lines = screen(&busy(many));
        assert!(
            lines.len() <= LINES,
            "{}:\n{}",
            lines.len(),
            lines.join("\n")
        );
        for line in &lines {
            assert!(line.chars().count() <= COLUMNS, "{line}");
            assert!(!line.contains('\u{1b}'), "{line}");
        }
    }
}

#[test]
fn the_screen_answers_every_question() {
    let text = screen(&busy(3)).join("\n");
    for part in [
        "enforcing on eth0 (generic)",
        "MTU too large",
        "generation 12 for",
        "THE CERTIFICATE ENDS IN 5 DAYS",
        "dropped 6 (25/s)",
        "reason_2",
        "2001:db8:1234:5678:9abc",
        "refused 6",
        "denied_2",
        "a-name-of-sixty",
        "docker, 3 of 4 running, 0 waiting",
        "agent main",
        "connected, protocol 4",
        "connects by itself",
        "writing, 123,456 records, 0 waiting, 0 lost",
    ] {
        assert!(text.contains(part), "{part} in:\n{text}");
    }
}

#[test]
fn trouble_is_said_first() {
    let mut status = busy(1);
    status.gateway_pid = None;
    status.audit_writable = false;
    let lines = screen(&status);
    assert!(lines[0].contains("not ready"), "{}", lines[0]);
    assert!(
        lines[1].contains("! the gateway process does not run"),
        "{}",
        lines[1]
    );
    assert!(
        lines
            .join(
                "
"
            )
            .contains("NOT WRITABLE")
    );
}

#[test]
fn room_is_shared_in_turns() {
    assert_eq!(share(10, &[9, 0, 2]), [8, 0, 2]);
    assert_eq!(
        share(0, &[9, 1, 0]),
        [1, 1, 0],
        "each list has a line in any case"
    );
    assert_eq!(share(100, &[1, 2, 3]), [1, 2, 3]);
}
