//! Rules over records that are made here; deliveries to receivers that are, too.

use std::fs;
use std::path::Path;
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::time::{Instant, sleep};

use super::*;
use crate::audit::{Chain, Digest, LogReader, Recorded, Stamp, open};
use crate::config::{AlertRule, AlertTarget, AuditConfig, Endpoint, WebTarget};
use crate::event::{Event, ToolFact};

fn config(when: AlertRule, to: AlertTarget) -> AlertConfig {
    AlertConfig {
        when,
        to,
        every: Duration::from_mins(1),
    }
}

const LOGINS: AlertRule = AlertRule::FailedLogins {
    count: 5,
    window: Duration::from_secs(30),
};

fn record(second: i64, event: Event) -> Record {
    let entry = Entry::new(event, Stamp::from_micros(second * 1_000_000));
    let mut record = Record::new(&entry, 1, Digest::ZERO);
    record.encode(&Chain::new(None), &mut Vec::new());
    record
}

fn login(source: &str, outcome: Outcome, count: u64) -> Event {
    let mut event = Event::new(EventKind::Auth, "connect", outcome, "credential_unknown");
    event.source = Some(source.parse().unwrap());
    event.principal = (outcome == Outcome::Allow).then(|| "phone".to_owned());
    event.count = count;
    event
}

fn system(action: &'static str) -> Event {
    Event::new(EventKind::System, action, Outcome::Error, "why")
}

#[test]
fn each_rule_is_due_when_it_says_and_holds_back_between() {
    let denied = |tool: &str| {
        let mut event = Event::new(EventKind::Tool, "invoke", Outcome::Deny, "tool_denied");
        let name = tool.to_owned();
        event.tool = Some(ToolFact {
            name,
            args_bytes: 1,
        });
        event
    };
    let bad = |source, count| login(source, Outcome::Deny, count);
    let good = |source| login(source, Outcome::Allow, 1);
    // Each record's second, and how many are held back in the alert that follows, if one does.
    let rows = [
        (
            LOGINS,
            vec![
                (0, bad("192.0.2.1", 4), None),
                (1, bad("192.0.2.2", 4), None),
                (2, bad("192.0.2.1", 1), Some(0)),
                // Another source, but the rule has told within the minute.
                (3, bad("192.0.2.2", 1), None),
                (4, good("192.0.2.3"), None),
                (63, bad("192.0.2.1", 9), Some(1)),
                // A window is over: four are four again.
                (130, bad("192.0.2.1", 4), None),
                (161, bad("192.0.2.1", 4), None),
            ],
        ),
        (
            AlertRule::NewSource,
            vec![
                (0, good("192.0.2.1"), Some(0)),
                (61, good("192.0.2.1"), None),
                (62, bad("192.0.2.2", 1), None),
                (63, good("192.0.2.2"), Some(0)),
                (64, good("192.0.2.3"), None),
                (130, good("2001:db8::1"), Some(1)),
                (200, good("2001:db8::2"), None),
            ],
        ),
        (
            AlertRule::ToolDenied,
            vec![
                (0, denied("exec"), Some(0)),
                (59, denied("exec"), None),
                (60, denied("exec"), Some(1)),
            ],
        ),
        (
            AlertRule::ChainBroken,
            vec![(0, system("rotate"), None), (1, system("chain"), Some(0))],
        ),
        (
            AlertRule::EventsLost,
            vec![
                (0, system("lost"), Some(0)),
                (70, system("recovered"), Some(0)),
                (150, system("start"), None),
            ],
        ),
    ];
    for (when, records) in rows {
        let mut watch = Watch::new(&[config(when, AlertTarget::Journal)]);
        for (second, event, expected) in records {
            let told = watch.observe(&record(second, event));
            let told = told.first().map(|alert| alert.held_back);
            assert_eq!(told, expected, "{when:?} at {second}");
        }
    }
}

#[test]
fn the_sources_that_are_counted_are_bounded() {
    let mut watch = Watch::new(&[config(LOGINS, AlertTarget::Journal)]);
    for host in 0..20_000_u32 {
        let source = std::net::Ipv4Addr::from_bits(host).to_string();
        assert!(
            watch
                .observe(&record(0, login(&source, Outcome::Deny, 1)))
                .is_empty()
        );
    }
    // Once their window is over there is room again.
    let flood = record(100, login("203.0.113.7", Outcome::Deny, 5));
    assert_eq!(watch.observe(&flood).len(), 1);
}

fn records(log: &Path) -> Vec<Record> {
    let mut reader = LogReader::open(log).unwrap();
    let mut records = Vec::new();
    while let Some(line) = reader.next_line().unwrap() {
        records.push(Record::parse(line.text).unwrap());
    }
    records
}

async fn until(what: &str, condition: impl Fn() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(20);
    while !condition() {
        assert!(Instant::now() < deadline, "{what}");
        sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test]
async fn webhook_and_program_are_told_and_it_is_recorded() {
    let dir = tempfile::tempdir().unwrap();
    let log = dir.path().join("audit.log");
    let listener = tokio::net::TcpListener::bind("localhost:0").await.unwrap();
    let web = WebTarget {
        endpoint: Endpoint {
            host: "localhost".to_owned(),
            port: listener.local_addr().unwrap().port(),
            tls: false,
            ca: None,
        },
        path: "/hook?key=secret".to_owned(),
        authorization: None,
    };
    let told = dir.path().join("told");
    let shell = |text: String| vec!["/bin/sh".to_owned(), "-c".to_owned(), text];
    let command = shell(format!("cat > {}", told.display()));
    let untrusted = dir.path().join("anybodys");
    fs::copy("/bin/true", &untrusted).unwrap();
    let open_to_all = std::os::unix::fs::PermissionsExt::from_mode(0o777);
    fs::set_permissions(&untrusted, open_to_all).unwrap();
    let untrusted = vec![untrusted.display().to_string()];
    let mut audit = AuditConfig::at(log.clone());
    audit.space.warn_bytes = 0;
    audit.space.refuse_bytes = 0;
    audit.alerts = vec![
        config(AlertRule::NewSource, AlertTarget::Webhook(web)),
        config(AlertRule::NewSource, AlertTarget::Command(command)),
        config(AlertRule::NewSource, AlertTarget::Command(untrusted)),
    ];
    // Seen in another life: no news in this one.
    for (source, alerts) in [("192.0.2.1", 3), ("192.0.2.1", 0)] {
        let (handle, task) = open(&audit).unwrap();
        let task = tokio::spawn(task.run());
        assert_eq!(
            handle.record(login(source, Outcome::Allow, 1)),
            Recorded::Queued
        );
        if alerts > 0 {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut request = vec![0; 4096];
            let mut length = 0;
            while !request[..length].ends_with(b"}") {
                length += stream.read(&mut request[length..]).await.unwrap();
            }
            let text = String::from_utf8_lossy(&request[..length]).into_owned();
            assert!(text.starts_with("POST /hook?key=secret HTTP/1.1"), "{text}");
            let body = text.split_once("\r\n\r\n").unwrap().1;
            let body: serde_json::Value = serde_json::from_str(body).unwrap();
            assert_eq!(body["rule"], "newSource");
            assert_eq!(body["source"], source);
            let answer = b"HTTP/1.1 204 No Content\r\n\r\n";
            stream.write_all(answer).await.unwrap();
            until("the three are recorded", || {
                let all = records(&log);
                all.iter().filter(|record| record.action == "alert").count() == 3
            })
            .await;
            let text = fs::read_to_string(&told).unwrap();
            assert!(
                text.contains("phone signed in from 192.0.2.1 for the first time"),
                "{text}"
            );
        }
        handle.stop().await;
        task.await.unwrap();
    }
    let all = records(&log);
    let alerts: Vec<_> = all
        .iter()
        .filter(|record| record.action == "alert")
        .collect();
    let reasons: Vec<_> = alerts.iter().map(|record| record.reason.as_ref()).collect();
    assert_eq!(reasons, ["ok", "ok", "failed"]);
    let details: Vec<_> = alerts
        .iter()
        .filter_map(|record| record.detail.clone())
        .collect();
    assert!(
        details[2].contains("can be changed by others"),
        "{details:?}"
    );
    assert!(
        !details[0].contains("secret"),
        "a webhook's path may be its secret"
    );

    let mut rehearsed = Vec::new();
    let found = rehearse(
        &log,
        &audit.alerts,
        &Filter::default(),
        &mut |_| {},
        |alert| {
            rehearsed.push(alert.clone());
        },
    );
    assert_eq!(found.unwrap().unreadable, 0);
    assert_eq!(rehearsed.len(), 3, "{rehearsed:?}");
}
