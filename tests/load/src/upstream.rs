//! What stands behind every server: a page of five bytes, and a WebSocket that shakes hands as
//! the gateway does and then sends each frame back.

use std::convert::Infallible;

use anyhow::Context as _;
use bytes::Bytes;
use fastwebsockets::{Frame, OpCode, Payload, WebSocketError, upgrade};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::net::TcpListener;

pub(crate) async fn serve(port: u16) -> anyhow::Result<()> {
    let listener = TcpListener::bind(("127.0.0.1", port))
        .await
        .context("bind the upstream's port")?;
    loop {
        let Ok((stream, _)) = listener.accept().await else {
            continue;
        };
        // Not a byte waits for more of its kind.
        let _tuned = stream.set_nodelay(true);
        tokio::spawn(
            http1::Builder::new()
                .serve_connection(TokioIo::new(stream), service_fn(answer))
                .with_upgrades(),
        );
    }
}

async fn answer(mut request: Request<Incoming>) -> Result<Response<Full<Bytes>>, Infallible> {
    if upgrade::is_upgrade_request(&request)
        && let Ok((response, socket)) = upgrade::upgrade(&mut request)
    {
        tokio::spawn(async move {
            if let Ok(socket) = socket.await {
                // The other side ends it.
                let _ended = echo(socket).await;
            }
        });
        return Ok(response.map(|_| Full::default()));
    }
    Ok(Response::new(Full::new(Bytes::from_static(b"hello"))))
}

async fn echo(
    mut socket: fastwebsockets::WebSocket<TokioIo<hyper::upgrade::Upgraded>>,
) -> Result<(), WebSocketError> {
    socket.set_auto_pong(true);
    let mut socket = fastwebsockets::FragmentCollector::new(socket);
    let challenge = json!({
        "type": "event", "event": "connect.challenge", "payload": {"nonce": "bench", "ts": 1},
    });
    socket.write_frame(text(&challenge)).await?;
    let connect = socket.read_frame().await?;
    let connect: Value = serde_json::from_slice(&connect.payload).unwrap_or_default();
    let hello = json!({"type": "res", "id": connect.get("id"), "ok": true, "payload": {
        "type": "hello-ok", "protocol": 3, "auth": {"role": "operator"},
    }});
    socket.write_frame(text(&hello)).await?;
    loop {
        let frame = socket.read_frame().await?;
        match frame.opcode {
            OpCode::Text => {
                let payload = Payload::Owned(frame.payload.into());
                socket.write_frame(Frame::text(payload)).await?;
            }
            OpCode::Close => return Ok(()),
            _ => {}
        }
    }
}

fn text(value: &Value) -> Frame<'static> {
    Frame::text(Payload::Owned(value.to_string().into_bytes()))
}
