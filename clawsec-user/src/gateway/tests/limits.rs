//! Limits where several people share an address, and bans: by whom, for what, of what.

use serde_json::json;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use super::http::{Answer, ask, bearer, from, over};
use super::{ADMIN_KEY, READ_KEY, Rig, Rules};
use crate::ipc::ToSupervisor;

/// Asks from one of loopback's addresses.
async fn ask_from(rig: &Rig, host: u8, key: &str) -> Answer {
    let request = format!(
        "GET /v1/models HTTP/1.1\r\nHost: a\r\nConnection: close\r\n{}\r\n\r\n",
        bearer(key)
    );
    over(from(rig, host).await, &request).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_neighbours_wrong_keys_leave_room_for_who_has_shown_a_right_one() {
    let rig = Rig::start(Rules {
        requests: 5,
        ..Rules::default()
    })
    .await;
    assert_eq!(ask_from(&rig, 1, ADMIN_KEY).await.status, 200);
    // The same address: four guesses are left, then it has to wait.
    for guess in 0..20 {
        let status = ask_from(&rig, 1, &format!("wrong-{guess}")).await.status;
        assert_eq!(status, if guess < 4 { 401 } else { 429 }, "guess {guess}");
    }
    for request in 0..4 {
        let answer = ask_from(&rig, 1, ADMIN_KEY).await;
        assert_eq!(answer.status, 200, "request {request}: {}", answer.body);
    }
    let over = ask_from(&rig, 1, ADMIN_KEY).await;
    assert_eq!(over.status, 429, "its own limit holds");
    assert!(over.head.contains("retry-after: "), "{}", over.head);
    // Who was never seen there is one of the strangers, right key or not.
    assert_eq!(ask_from(&rig, 1, READ_KEY).await.status, 429);
    assert_eq!(ask_from(&rig, 2, READ_KEY).await.status, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_has_one_limit_wherever_it_is_used() {
    let rig = Rig::start(Rules {
        requests: 5,
        ..Rules::default()
    })
    .await;
    for host in 1..=5 {
        assert_eq!(ask_from(&rig, host, ADMIN_KEY).await.status, 200, "{host}");
    }
    let over = ask_from(&rig, 6, ADMIN_KEY).await;
    assert_eq!(over.status, 429, "{}", over.body);
    assert_eq!(over.json()["error"]["type"], "rate_limited");
    assert_eq!(ask_from(&rig, 6, READ_KEY).await.status, 200, "another key");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_address_has_one_limit_for_all_its_keys() {
    let rig = Rig::start(Rules {
        requests: 4,
        ..Rules::default()
    })
    .await;
    let statuses = [ADMIN_KEY, READ_KEY, ADMIN_KEY, READ_KEY, ADMIN_KEY];
    for (number, key) in (1..).zip(statuses) {
        let expected = if number == 5 { 429 } else { 200 };
        assert_eq!(ask_from(&rig, 1, key).await.status, expected, "{number}");
    }
}

/// Asks for somebody behind a proxy.
async fn ask_for(rig: &Rig, client: &str, line: &str, headers: &[&str], body: &str) -> u16 {
    let client = format!("X-Forwarded-For: {client}");
    let headers: Vec<&str> = headers.iter().copied().chain([&*client]).collect();
    if !headers.contains(&"Connection: Upgrade") {
        return ask(rig, line, &headers, body).await.status;
    }
    let head = headers.join("\r\n");
    let request = format!("{line} HTTP/1.1\r\nHost: {}\r\n{head}\r\n\r\n", rig.address);
    let mut stream = tokio::net::TcpStream::connect(rig.address).await.unwrap();
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut status = [0; 12];
    stream.read_exact(&mut status).await.unwrap();
    std::str::from_utf8(&status[9..]).unwrap().parse().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn wrong_keys_become_a_ban_wherever_they_are_tried() {
    let mut rig = Rig::start(Rules {
        allowed: "2000::/3",
        listen: json!({"proxyFrom": ["127.0.0.0/8"]}),
        ban_after: Some(3),
        ..Rules::default()
    })
    .await;
    let origin = format!("Origin: http://{}", rig.address);
    let wrong = bearer("wrong");
    let upgrade = [
        wrong.as_str(),
        "Upgrade: websocket",
        "Connection: Upgrade",
        "Sec-WebSocket-Version: 13",
        "Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==",
    ];
    let rows: [(&str, &str, &[&str], &str); 4] = [
        ("the API", "GET /v1/models", &[&wrong], ""),
        ("a page", "GET /", &[&wrong], ""),
        (
            "the sign-in page",
            "POST /__clawsec/sign-in",
            &[&origin],
            "next=%2F&key=wrong",
        ),
        ("a WebSocket", "GET /", &upgrade, ""),
    ];
    for (number, (name, line, headers, body)) in (1..).zip(rows) {
        // Each time another host of the same /64, which is one subscriber.
        for guess in 0..4 {
            let client = format!("2001:db8:0:{number}::{guess}");
            let status = ask_for(&rig, &client, line, headers, body).await;
            assert_eq!(status, 401, "{name}");
        }
        let ToSupervisor::Ban {
            source,
            seconds,
            reason,
        } = rig.told().await
        else {
            panic!("{name}: no ban");
        };
        let network: ipnet::IpNet = format!("2001:db8:0:{number}::/64").parse().unwrap();
        assert!(network.contains(&source), "{name}: {source}");
        assert_eq!(
            (seconds, reason.as_str()),
            (60, "credential_unknown"),
            "{name}"
        );
    }
    // A right key, a denied tool and a page without a key are no guesses.
    let key = bearer(READ_KEY);
    for _ in 0..6 {
        let client = "2001:db8:0:9::1";
        assert_eq!(
            ask_for(&rig, client, "GET /v1/models", &[&key], "").await,
            200
        );
        assert_eq!(
            ask_for(&rig, client, "POST /brand/new", &[&key], "{}").await,
            403
        );
        let browser = ["Accept: text/html"];
        assert_eq!(ask_for(&rig, client, "GET /", &browser, "").await, 401);
    }
    // One more ban would have come before this answer.
    let stranger = "2001:db8:0:10::1";
    for _ in 0..4 {
        ask_for(&rig, stranger, "GET /v1/models", &[&wrong], "").await;
    }
    let ToSupervisor::Ban { source, .. } = rig.told().await else {
        panic!("no ban");
    };
    assert_eq!(source, stranger.parse::<std::net::IpAddr>().unwrap());
}
