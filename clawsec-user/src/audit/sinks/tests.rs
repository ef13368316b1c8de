//! Sinks against receivers of their own: what arrives, what is counted when nobody takes it.

use std::path::Path;

use rcgen::generate_simple_self_signed;
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, UnixDatagram};

use super::*;
use crate::audit::{AuditHandle, LogReader, Record, Recorded, open};
use crate::config::{AuditConfig, Endpoint, SinkTarget, WebTarget};
use crate::event::{Event, EventKind};

fn config(log: &Path, to: SinkTarget, queue: usize) -> AuditConfig {
    let mut config = AuditConfig::at(log.to_owned());
    config.space.warn_bytes = 0;
    config.space.refuse_bytes = 0;
    config.sinks = vec![SinkConfig { to, queue }];
    config
}

fn start(config: &AuditConfig) -> (AuditHandle, tokio::task::JoinHandle<()>) {
    let (handle, task) = open(config).unwrap();
    (handle, tokio::spawn(task.run()))
}

fn event(number: u64) -> Event {
    let mut event = Event::new(EventKind::Message, "send", Outcome::Allow, "ok");
    event.source = Some("203.0.113.7".parse().unwrap());
    event.request = Some(number.to_string());
    event.detail = Some("a \u{1b}[31m detail".to_owned());
    event.principal = Some(format!("key-{number}"));
    event
}

fn records(log: &Path) -> Vec<(Record, String)> {
    let mut reader = LogReader::open(log).unwrap();
    let mut records = Vec::new();
    while let Some(line) = reader.next_line().unwrap() {
        let text = String::from_utf8(line.text.to_vec()).unwrap();
        records.push((Record::parse(line.text).unwrap(), text));
    }
    records
}

fn endpoint(listener: &TcpListener, ca: Option<&Path>) -> Endpoint {
    Endpoint {
        host: "localhost".to_owned(),
        port: listener.local_addr().unwrap().port(),
        tls: ca.is_some(),
        ca: ca.map(Path::to_owned),
    }
}

async fn until(what: &str, condition: impl Fn() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(20);
    while !condition() {
        assert!(Instant::now() < deadline, "{what}");
        sleep(Duration::from_millis(5)).await;
    }
}

/// One octet-counted message.
async fn frame(stream: &mut (impl AsyncRead + Unpin)) -> String {
    let mut length = 0;
    loop {
        match stream.read_u8().await.unwrap() {
            b' ' => break,
            digit => length = length * 10 + usize::from(digit - b'0'),
        }
    }
    let mut message = vec![0; length];
    stream.read_exact(&mut message).await.unwrap();
    String::from_utf8(message).unwrap()
}

fn is_syslog(message: &str, line: &str) {
    let (header, text) = message.split_once(" - ").unwrap();
    assert_eq!(text, line);
    let fields: Vec<_> = header.split(' ').collect();
    // 13 × 8 + 6: log audit, information.
    assert_eq!(fields[0], "<110>1");
    assert!(
        fields[1].ends_with('Z') && fields[1].contains('T'),
        "{header}"
    );
    assert_eq!(
        fields[3..],
        ["clawsec", &std::process::id().to_string(), "message"]
    );
}

#[tokio::test]
async fn journald_gets_each_record_as_fields_and_whole() {
    let dir = tempfile::tempdir().unwrap();
    let (log, socket) = (dir.path().join("audit.log"), dir.path().join("journal"));
    let journal = UnixDatagram::bind(&socket).unwrap();
    let (handle, task) = start(&config(&log, SinkTarget::Journald { socket }, 16));
    assert_eq!(handle.record(event(1)), Recorded::Queued);
    let mut datagram = vec![0; 65_536];
    let length = journal.recv(&mut datagram).await.unwrap();
    let text = std::str::from_utf8(&datagram[..length]).unwrap();
    let line = &records(&log)[0].1;
    for field in [
        "PRIORITY=6",
        "SYSLOG_IDENTIFIER=clawsec-audit",
        "CLAWSEC_REASON=ok",
        "CLAWSEC_SOURCE=203.0.113.7",
        &format!("CLAWSEC_RECORD={line}"),
        "MESSAGE=message send allow: ok, from 203.0.113.7, by key-1 (a \\u{1b}[31m detail)",
    ] {
        assert!(text.lines().any(|line| line == field), "{field}\n{text}");
    }
    handle.stop().await;
    task.await.unwrap();
}

#[tokio::test]
async fn syslog_is_framed_over_tcp_and_tls() {
    let made = generate_simple_self_signed(vec!["localhost".to_owned()]).unwrap();
    let dir = tempfile::tempdir().unwrap();
    let ca = dir.path().join("ca.pem");
    std::fs::write(&ca, made.cert.pem()).unwrap();
    let key = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(made.signing_key.serialize_der()));
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let server = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![made.cert.der().clone()], key)
        .unwrap();
    let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(server));
    for ca in [None, Some(ca.as_path())] {
        let log = dir.path().join(format!("{}.log", ca.is_some()));
        let listener = TcpListener::bind("localhost:0").await.unwrap();
        let (handle, task) = start(&config(
            &log,
            SinkTarget::Syslog(endpoint(&listener, ca)),
            16,
        ));
        for number in 0..3 {
            assert_eq!(handle.record(event(number)), Recorded::Queued);
        }
        let (stream, _) = listener.accept().await.unwrap();
        let mut stream: crate::dial::Stream = if ca.is_some() {
            Box::new(acceptor.accept(stream).await.unwrap())
        } else {
            Box::new(stream)
        };
        for index in 0..3 {
            let message = frame(&mut stream).await;
            is_syslog(&message, &records(&log)[index].1);
        }
        until("all is sent", || handle.sinks()[0].sent == 3).await;
        assert!(handle.sinks()[0].connected);
        handle.stop().await;
        task.await.unwrap();
    }
}

/// Reads one request; gives its head and its body.
async fn request(stream: &mut tokio::net::TcpStream) -> (String, serde_json::Value) {
    let mut bytes = Vec::new();
    loop {
        bytes.push(stream.read_u8().await.unwrap());
        if bytes.ends_with(b"\r\n\r\n") {
            break;
        }
    }
    let head = String::from_utf8(bytes).unwrap().to_lowercase();
    let length = head
        .lines()
        .find_map(|line| line.strip_prefix("content-length: "));
    let mut body = vec![0; length.unwrap().parse().unwrap()];
    stream.read_exact(&mut body).await.unwrap();
    (head, serde_json::from_slice(&body).unwrap())
}

#[tokio::test]
async fn otlp_is_posted_tried_again_and_its_refusals_counted() {
    let dir = tempfile::tempdir().unwrap();
    let log = dir.path().join("audit.log");
    let listener = TcpListener::bind("localhost:0").await.unwrap();
    let web = WebTarget {
        endpoint: endpoint(&listener, None),
        path: "/v1/logs".to_owned(),
        authorization: Some(crate::config::Secret::new("Bearer abc".to_owned())),
    };
    let (handle, task) = start(&config(&log, SinkTarget::Otlp(web), 16));
    assert_eq!(handle.record(event(1)), Recorded::Queued);
    let answers = [
        ("503 Service Unavailable", ""),
        ("200 OK", r#"{"partialSuccess":{"rejectedLogRecords":"1"}}"#),
        ("400 Bad Request", ""),
        ("200 OK", "{}"),
    ];
    let mut lost = 0;
    for (number, (status, body)) in answers.into_iter().enumerate() {
        let (mut stream, _) = listener.accept().await.unwrap();
        let (head, sent) = request(&mut stream).await;
        assert!(head.starts_with("post /v1/logs http/1.1\r\n"), "{head}");
        assert!(head.contains("authorization: bearer abc"), "{head}");
        let record = &sent["resourceLogs"][0]["scopeLogs"][0]["logRecords"][0];
        if number < 2 {
            // The same again after a 503.
            assert_eq!(record["body"]["stringValue"], records(&log)[0].1.as_str());
            assert_eq!(
                (&record["severityNumber"], &record["severityText"]),
                (&9.into(), &"INFO".into())
            );
        }
        let answer = format!(
            "HTTP/1.1 {status}\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        );
        stream.write_all(answer.as_bytes()).await.unwrap();
        if status.starts_with("200 OK") && lost == 0 || status.starts_with("400") {
            lost += 1;
            let counted = lost;
            until("the refusal is counted", || {
                handle.sinks()[0].lost >= counted
            })
            .await;
            assert_eq!(handle.record(event(10 + lost)), Recorded::Queued);
        }
    }
    until("the last is sent", || handle.sinks()[0].sent > 0).await;
    handle.stop().await;
    task.await.unwrap();
}

#[tokio::test]
async fn a_dead_sink_loses_by_count_and_the_file_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let log = dir.path().join("audit.log");
    let listener = TcpListener::bind("localhost:0").await.unwrap();
    let target = endpoint(&listener, None);
    let address = listener.local_addr().unwrap();
    // Nobody listens there now.
    drop(listener);
    let config = config(&log, SinkTarget::Syslog(target), 16);
    let (handle, task) = start(&config);
    for number in 0..500 {
        assert_eq!(handle.record(event(number)), Recorded::Queued);
        if number % 50 == 0 {
            sleep(Duration::from_millis(1)).await;
        }
    }
    handle.flush().await.unwrap();
    until("losses are counted", || handle.sinks()[0].lost > 0).await;
    let listener = TcpListener::bind(address).await.unwrap();
    let (mut stream, _) = listener.accept().await.unwrap();
    let first = frame(&mut stream).await;
    is_syslog(&first, &records(&log)[0].1);
    let drain = tokio::spawn(async move {
        let mut rest = Vec::new();
        let _read = stream.read_to_end(&mut rest).await;
    });
    until("it works again", || handle.sinks()[0].connected).await;
    handle.flush().await.unwrap();
    until("the loss is written", || {
        records(&log)
            .iter()
            .any(|(record, _)| record.reason == "queue_full")
    })
    .await;
    let lost = handle.sinks()[0].lost;
    handle.stop().await;
    task.await.unwrap();
    drain.await.unwrap();
    let all = records(&log);
    let of = |reason: &str| -> u64 {
        let these = all
            .iter()
            .filter(|(record, _)| record.action == "sink" && record.reason == reason);
        these.map(|(record, _)| record.count).sum()
    };
    assert_eq!((of("unreachable"), of("queue_full")), (1, lost));
    let sent = all.iter().filter(|(record, _)| record.action != "sink");
    let sent: u64 = sent.map(|(record, _)| record.count).sum();
    assert_eq!(sent, 500, "the file has them all");
}

#[tokio::test]
async fn a_sink_that_takes_nothing_slows_neither_the_file_nor_the_stop() {
    let dir = tempfile::tempdir().unwrap();
    let log = dir.path().join("audit.log");
    let listener = TcpListener::bind("localhost:0").await.unwrap();
    let (handle, task) = start(&config(
        &log,
        SinkTarget::Syslog(endpoint(&listener, None)),
        64,
    ));
    let mut allowed = event(0);
    allowed.detail = Some("x".repeat(1000));
    // Accepted and never read: its socket's buffer fills, then its queue.
    for number in 0..20_000 {
        while handle.health().queued > 4000 {
            sleep(Duration::from_millis(1)).await;
        }
        allowed.request = Some(format!("{number}"));
        assert_eq!(handle.record(allowed.clone()), Recorded::Queued);
    }
    handle.flush().await.unwrap();
    let health = handle.sinks().remove(0);
    assert!(health.lost > 0, "{health:?}");
    assert!(handle.health().writable && handle.health().lost == 0);
    let stopping = Instant::now();
    handle.stop().await;
    task.await.unwrap();
    assert!(stopping.elapsed() < STOP * 3, "a stop waits a moment only");
    let all = records(&log);
    assert_eq!(
        all.iter()
            .filter(|(record, _)| record.action == "send")
            .count(),
        20_000
    );
    let told = all
        .iter()
        .filter(|(record, _)| record.reason == "queue_full");
    let told: u64 = told.map(|(record, _)| record.count).sum();
    assert!(told >= health.lost, "{told} of {health:?}");
}
