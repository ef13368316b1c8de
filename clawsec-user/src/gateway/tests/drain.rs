//! A drain: who has just come is still served once, who waits is told.

use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use super::http::over;
use super::{ADMIN_KEY, Rig, Rules};
use crate::event::Outcome;
use crate::ipc::ToGateway;

/// Drains, and waits until nobody is accepted any more.
async fn drain(rig: &Rig) {
    rig.send(ToGateway::Drain { deadline_ms: 5000 }).await;
    for _ in 0..500 {
        if TcpStream::connect(rig.address).await.is_err() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("the gateway still accepts");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_that_has_just_come_is_served_once() {
    let rig = Rig::start(Rules::default()).await;
    let fresh = TcpStream::connect(rig.address).await.unwrap();
    let mut silent = TcpStream::connect(rig.address).await.unwrap();
    drain(&rig).await;
    let request = format!("GET / HTTP/1.1\r\nHost: a\r\nX-API-Key: {ADMIN_KEY}\r\n\r\n");
    let answer = over(fresh, &request).await;
    assert_eq!(answer.status, 200, "{}", answer.head);
    assert!(answer.head.contains("connection: close"), "{}", answer.head);
    let mut nothing = Vec::new();
    let ended = tokio::time::timeout(Duration::from_secs(4), silent.read_to_end(&mut nothing));
    assert!(ended.await.is_ok(), "who asks nothing is not waited for");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_websocket_in_its_handshake_is_told_of_the_restart() {
    let rig = Rig::start(Rules::default()).await;
    let mut stream = TcpStream::connect(rig.address).await.unwrap();
    let upgrade = "GET / HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
        Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";
    stream.write_all(upgrade.as_bytes()).await.unwrap();
    let mut said = Vec::new();
    while !String::from_utf8_lossy(&said).contains("connect.challenge") {
        assert_ne!(stream.read_buf(&mut said).await.unwrap(), 0);
    }
    drain(&rig).await;
    stream.read_to_end(&mut said).await.unwrap();
    let close = [&[0x88, 17][..], &1012_u16.to_be_bytes(), b"service restart"].concat();
    assert!(said.ends_with(&close), "{}", String::from_utf8_lossy(&said));
    let event = rig.event("close", Outcome::Allow, "ok").await;
    assert_eq!(event.detail.as_deref(), Some("service restart"));
    assert!(rig.seen("connect", "handshake_invalid").is_empty());
}
