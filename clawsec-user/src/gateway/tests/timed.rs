//! Bans and admissions as the supervisor sends them: at accept, and on a connection that lives.

use std::net::Ipv4Addr;
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use super::{ADMIN_KEY, Rig, Rules};
use crate::event::Outcome;
use crate::ipc::{TimedEntry, TimedUpdate, ToGateway};

const NEVER: u64 = u64::MAX;

fn entry(ban: bool, until_ms: u64) -> ToGateway {
    let prefix = Ipv4Addr::LOCALHOST.into();
    ToGateway::Timed(TimedUpdate::Changed(vec![TimedEntry {
        ban,
        prefix: ipnet::IpNet::V4(prefix),
        until_ms,
    }]))
}

/// Asks on a connection that stays open; the first byte of the answer, if there is one.
async fn ask(stream: &mut TcpStream) -> Option<u8> {
    let request =
        format!("GET /healthz HTTP/1.1\r\nHost: localhost\r\nX-API-Key: {ADMIN_KEY}\r\n\r\n");
    stream.write_all(request.as_bytes()).await.ok()?;
    let mut answer = [0; 4096];
    let read = tokio::time::timeout(Duration::from_secs(5), stream.read(&mut answer)).await;
    let length = read.expect("an answer or an end").unwrap_or(0);
    answer[..length].first().copied()
}

async fn is_served(rig: &Rig) -> bool {
    let mut stream = TcpStream::connect(rig.address).await.unwrap();
    ask(&mut stream).await.is_some()
}

/// Waits until new connections are served, or are not.
async fn await_served(rig: &Rig, expected: bool) {
    for _ in 0..500 {
        if is_served(rig).await == expected {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("served is not {expected}");
}

/// Waits for the end of a connection that asks nothing more.
async fn ends(stream: &mut TcpStream) {
    let mut rest = [0; 16];
    let read = tokio::time::timeout(Duration::from_secs(5), stream.read(&mut rest)).await;
    assert_eq!(read.expect("it ends").unwrap_or(0), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_ban_ends_live_connections_and_refuses_new_ones() {
    let rig = Rig::start(Rules::default()).await;
    let mut live = TcpStream::connect(rig.address).await.unwrap();
    assert!(ask(&mut live).await.is_some());
    rig.send(entry(true, NEVER)).await;
    ends(&mut live).await;
    rig.event("revoke", Outcome::Deny, "address_banned").await;
    await_served(&rig, false).await;
    rig.event("accept", Outcome::Deny, "address_banned").await;
    rig.send(entry(true, 0)).await;
    await_served(&rig, true).await;
    rig.send(entry(true, 1)).await;
    assert!(is_served(&rig).await, "one that has run out is none");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_admission_serves_a_stranger_until_it_ends() {
    let rig = Rig::start(Rules {
        allowed: "192.0.2.0/24",
        ..Rules::default()
    })
    .await;
    assert!(!is_served(&rig).await);
    rig.send(entry(false, NEVER)).await;
    await_served(&rig, true).await;
    let mut live = TcpStream::connect(rig.address).await.unwrap();
    assert!(ask(&mut live).await.is_some());
    let soon = crate::gateway::shared::unix_now_ms() + 300;
    rig.send(entry(false, soon)).await;
    ends(&mut live).await;
    assert!(!is_served(&rig).await, "by the clock");
}
