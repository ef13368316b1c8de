//! The screen at 80 by 24, with nothing, something and too much to show.

use clawsec_user::ops::{
    AuditState, Client, Execution, GatewayState, Interface, ReasonTotal, SandboxState, SourceTotal,
    Verdict,
};
use ratatui::Terminal;
use ratatui::backend::TestBackend;

use super::*;
use crate::app::Key;

fn screen(app: &App, width: u16, height: u16) -> Vec<String> {
    let mut terminal = Terminal::new(TestBackend::new(width, height)).unwrap();
    terminal.draw(|frame| draw(frame, app)).unwrap();
    let text = text(terminal.backend().buffer());
    text.lines().map(str::to_owned).collect()
}

fn status(many: u8, packets: u64) -> Status {
    Status {
        generation: 7,
        uptime_seconds: 90_061,
        // A packet more is a tenth of a second later.
        uptime_ms: 90_061_000 + packets * 100,
        started: 1_000_000,
        gateway_pid: Some(1),
        interfaces: vec![Interface {
            name: "eth0".into(),
            mode: "native".into(),
            steps_down: Vec::new(),
        }],
        reasons: vec![ReasonTotal {
            name: "not_allowed".into(),
            drop: true,
            verdict: Verdict::Drop,
            packets,
            bytes: 0,
        }],
        gateway: GatewayState {
            generation: Some(7),
            clients: (0..many)
                .map(|n| Client {
                    principal: "phone\u{1b}[31m".into(),
                    source: [192, 0, 2, n].into(),
                    connections: 1,
                    websockets: 0,
                })
                .collect(),
            ..GatewayState::default()
        },
        sandbox: "docker".into(),
        executions: SandboxState {
            wanted: true,
            slots: 4,
            running: (0..many)
                .map(|n| Execution {
                    agent: "main".into(),
                    principal: "phone".into(),
                    seconds: n.into(),
                })
                .collect(),
            ..SandboxState::default()
        },
        audit_writable: true,
        audit: AuditState {
            enabled: true,
            ..AuditState::default()
        },
        sources: (0..many)
            .map(|n| SourceTotal {
                source: [
                    0x2001,
                    0xdb8,
                    0x1234,
                    0x5678,
                    0x9abc,
                    0xdef0,
                    0x1234,
                    u16::from(n),
                ]
                .into(),
                packets: 1_000_000_000,
                requests: 99_999,
                reason: "rate_limited".into(),
                last: 1_090_000,
            })
            .collect(),
        ..Status::default()
    }
}

fn app(many: u8) -> App {
    let mut app = App::default();
    app.take(status(many, 1000));
    app.take(status(many, 1030));
    app
}

#[test]
fn the_screen_is_right_at_80_by_24() {
    for many in [0, 3, 200] {
        let lines = screen(&app(many), 80, 24);
        let text = lines.join("\n");
        assert_eq!(lines.len(), 24);
        assert!(
            lines[0].starts_with("clawsec enforcing on eth0 (native)"),
            "{text}"
        );
        assert!(lines[0].ends_with("policy 7, up 1d01h"), "{text}");
        assert!(lines[1].starts_with("dropped 10/s"), "{text}");
        assert!(lines[5].contains("not_allowed 1,030"), "{text}");
        assert!(lines[6].contains("refused, by rate ▼"), "{text}");
        assert!(lines[6].ends_with("ago"), "{text}");
        assert!(lines[19].starts_with("clients"), "{text}");
        assert!(lines[20].starts_with("sandbox  docker"), "{text}");
        assert!(lines[21].starts_with("audit    writing"), "{text}");
        assert!(lines[22].starts_with("timed"), "{text}");
        assert!(lines[23].contains("q quit"), "{text}");
        assert!(!text.contains('\u{1b}'), "{text}");
        let rows = lines
            .iter()
            .filter(|line| line.contains("rate_limited"))
            .count();
        assert_eq!(rows, usize::from(many.min(12)), "{text}");
    }
}

#[test]
fn a_row_of_the_longest_address_and_counts_is_whole() {
    let lines = screen(&app(1), 80, 24);
    let row = lines
        .iter()
        .find(|line| line.contains("rate_limited"))
        .unwrap();
    for part in ["1,000 M", "99,999", "2001:db8:1234:5678:9abc…"] {
        assert!(row.contains(part), "{part} in {row}");
    }
}

#[test]
fn any_size_is_drawn_without_a_panic() {
    for (width, height) in [(1, 1), (10, 5), (80, 10), (200, 60), (39, 24)] {
        let mut app = app(200);
        screen(&app, width, height);
        app.press(Key::Down);
        app.press(Key::Char('b'));
        screen(&app, width, height);
        screen(&App::default(), width, height);
    }
}

#[test]
fn the_question_says_whom_it_would_ban() {
    let mut app = app(2);
    app.press(Key::Down);
    app.press(Key::Char('b'));
    let lines = screen(&app, 80, 24);
    assert!(
        lines[23].starts_with("ban 2001:db8:1234:5678:9abc:def0:1234:0"),
        "{}",
        lines[23]
    );
    assert!(lines[23].ends_with("[n]ot?"), "{}", lines[23]);
}

#[test]
fn a_choice_below_the_edge_is_scrolled_to() {
    let mut app = app(50);
    for _ in 0..40 {
        app.press(Key::Down);
    }
    let chosen = app.selected.unwrap().to_string();
    let text = screen(&app, 80, 24).join("\n");
    assert!(text.contains(&chosen[..20]), "{chosen} in:\n{text}");
}

#[test]
fn trouble_is_on_the_screen() {
    let mut app = App::default();
    let mut status = status(1, 0);
    status.gateway_pid = None;
    app.take(status);
    let text = screen(&app, 80, 24).join("\n");
    assert!(text.contains("clawsec not ready"), "{text}");
    assert!(
        text.contains("trouble  the gateway process does not run"),
        "{text}"
    );
}
