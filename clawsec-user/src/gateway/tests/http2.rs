//! HTTP/2 from clients: the same policy, streams both ways, and floods that end alone.

use std::sync::Arc;

use bytes::Bytes;
use h2::client::SendRequest;
use hyper::{Method, Request};
use serde_json::Value;
use tokio::net::TcpStream;
use tokio_rustls::client::TlsStream;

use super::tls::{client, connect_over, material};
use super::{ADMIN_KEY, READ_KEY, Rig, Rules};
use crate::event::Outcome;
use crate::gateway::shared::Deadlines;
use crate::ipc::TlsMaterial;

pub(super) async fn start(deadlines: Deadlines) -> (Rig, TlsMaterial) {
    let tls = material();
    let rules = Rules {
        tls: Some(tls.clone()),
        ..Rules::default()
    };
    (Rig::start_with(rules, deadlines).await, tls)
}

pub(super) async fn stream(rig: &Rig, tls: &TlsMaterial) -> TlsStream<TcpStream> {
    stream_from(TcpStream::connect(rig.address).await.unwrap(), tls).await
}

pub(super) async fn stream_from(stream: TcpStream, tls: &TlsMaterial) -> TlsStream<TcpStream> {
    let mut config = client(tls, None);
    config.alpn_protocols = vec![b"h2".to_vec()];
    let stream = connect_over(stream, &Arc::new(config)).await.unwrap();
    assert_eq!(stream.get_ref().1.alpn_protocol(), Some(&b"h2"[..]));
    stream
}

pub(super) async fn h2(rig: &Rig, tls: &TlsMaterial) -> SendRequest<Bytes> {
    let (sender, connection) = h2::client::handshake(stream(rig, tls).await).await.unwrap();
    tokio::spawn(connection);
    sender
}

/// The status, or 0 where the stream was reset, and the body.
pub(super) async fn ask(
    sender: &SendRequest<Bytes>,
    request: Request<()>,
    body: &'static str,
) -> (u16, String) {
    let mut sender = sender.clone().ready().await.unwrap();
    let Ok((response, mut send)) = sender.send_request(request, body.is_empty()) else {
        return (0, "refused by the client".into());
    };
    if !body.is_empty() {
        send.send_data(body.into(), true).unwrap();
    }
    let Ok(response) = response.await else {
        return (0, String::new());
    };
    let status = response.status().as_u16();
    let mut stream = response.into_body();
    let mut text = Vec::new();
    while let Some(Ok(chunk)) = stream.data().await {
        stream.flow_control().release_capacity(chunk.len()).unwrap();
        text.extend_from_slice(&chunk);
    }
    (status, String::from_utf8(text).unwrap())
}

pub(super) fn get(uri: &str, headers: &[(&str, &str)]) -> Request<()> {
    let mut request = Request::builder().uri(uri);
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    request.body(()).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_same_policy_holds_and_the_upstream_sees_http_1() {
    let (rig, tls) = start(Deadlines::default()).await;
    let sender = h2(&rig, &tls).await;
    let key = ("x-api-key", ADMIN_KEY);
    let cookies = [
        key,
        ("cookie", "a=1"),
        ("cookie", "b=2"),
        ("x-forwarded-for", "6.6.6.6"),
    ];
    let (status, body) = ask(
        &sender,
        get("https://localhost/v1/models?x=1", &cookies),
        "",
    )
    .await;
    assert_eq!(status, 200, "{body}");
    let told: Value = serde_json::from_str(&body).unwrap();
    assert_eq!(told["path"], "/v1/models?x=1");
    assert_eq!(told["headers"]["cookie"], "a=1; b=2");
    assert_eq!(
        told["headers"]["host"],
        format!("127.0.0.1:{}", rig.upstream.port)
    );
    assert!(told["headers"].get("x-forwarded-for").is_none());

    let post = |path: &str, key| {
        let uri = format!("https://localhost{path}");
        Request::post(uri)
            .header("x-api-key", key)
            .body(())
            .unwrap()
    };
    let rows = [
        (
            "denied",
            post("/tools/invoke", ADMIN_KEY),
            r#"{"tool":"browser"}"#,
            404,
        ),
        (
            "read only",
            post("/tools/invoke", READ_KEY),
            r#"{"tool":"agents_list"}"#,
            403,
        ),
        (
            "judged",
            post("/tools/invoke", ADMIN_KEY),
            r#"{"tool":"agents_list"}"#,
            200,
        ),
        (
            "streamed",
            post("/v1/embeddings", ADMIN_KEY),
            r#"{"input":"x"}"#,
            200,
        ),
        ("no key", get("https://localhost/", &[]), "", 401),
    ];
    for (name, request, body, status) in rows {
        let answer = ask(&sender, request, body).await;
        assert_eq!(answer.0, status, "{name}: {}", answer.1);
    }
    rig.event("invoke", Outcome::Deny, "tool_denied").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_early_refusal_does_not_reset_a_body_on_its_way() {
    let (rig, tls) = start(Deadlines::default()).await;
    let sender = h2(&rig, &tls).await;
    let mut request = get("https://a/tools/invoke", &[]);
    *request.method_mut() = Method::POST;
    let mut sender = sender.ready().await.unwrap();
    let (response, mut send) = sender.send_request(request, false).unwrap();
    // The whole answer is here before the first byte of the body is sent.
    let response = response.await.unwrap();
    assert_eq!(response.status(), 401);
    let mut body = response.into_body();
    while let Some(chunk) = body.data().await {
        let chunk = chunk.unwrap();
        body.flow_control().release_capacity(chunk.len()).unwrap();
    }
    send.send_data("{}".into(), false).unwrap();
    // A reset would come before the answer to a ping of a later stream's request.
    assert_eq!(ask(&sender, get("https://a/", &[]), "").await.0, 401);
    send.send_data("{}".into(), true).expect("no reset came");
}

#[tokio::test(flavor = "multi_thread")]
async fn inconsistent_requests_never_reach_the_upstream() {
    let (rig, tls) = start(Deadlines::default()).await;
    let key = ("x-api-key", ADMIN_KEY);
    let many: Vec<(String, &str)> = (0..70).map(|i| (format!("x-{i}"), "1")).collect();
    let mut many: Vec<(&str, &str)> = many.iter().map(|(n, v)| (n.as_str(), *v)).collect();
    many.push(key);
    let connect = Request::builder()
        .method(Method::CONNECT)
        .uri("localhost:443")
        .header("x-api-key", ADMIN_KEY)
        .body(())
        .unwrap();
    // 0: the library resets the stream itself.
    let rows = [
        (
            "another host",
            get("https://localhost/", &[key, ("host", "evil")]),
            &[400][..],
        ),
        (
            "two hosts",
            get(
                "https://localhost/",
                &[key, ("host", "localhost"), ("host", "localhost")],
            ),
            &[400],
        ),
        ("no https", get("http://localhost/", &[key]), &[400]),
        (
            "user in the authority",
            get("https://u@localhost/", &[key]),
            &[0, 400],
        ),
        (
            "dot segments",
            get("https://localhost/x/../y", &[key]),
            &[400],
        ),
        (
            "escaped slash",
            get("https://localhost/v1%2fmodels", &[key]),
            &[400],
        ),
        (
            "gateway url",
            get("https://localhost/?gatewayUrl=x", &[key]),
            &[400],
        ),
        (
            "te",
            get("https://localhost/", &[key, ("te", "gzip")]),
            &[0, 400],
        ),
        ("connect", connect, &[400]),
        ("many headers", get("https://localhost/", &many), &[431]),
    ];
    let sender = h2(&rig, &tls).await;
    for (name, request, statuses) in rows {
        let answer = ask(&sender, request, "").await;
        assert!(statuses.contains(&answer.0), "{name}: {answer:?}");
    }
    assert_eq!(rig.upstream.connections(), 0);
    rig.event("request", Outcome::Deny, "request_malformed")
        .await;
}
