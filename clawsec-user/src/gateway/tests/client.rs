//! A client of HTTP/1.1 that writes what it is told to.

use std::fmt::Write as _;
use std::time::Duration;

use serde_json::Value;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::TcpStream;

use super::Rig;

pub(super) struct Answer {
    pub(super) status: u16,
    /// In lower case.
    pub(super) head: String,
    /// As it came.
    pub(super) raw_head: String,
    pub(super) body: String,
}

impl Answer {
    pub(super) fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|_| panic!("{}", self.body))
    }
}

pub(super) async fn over<S: AsyncRead + AsyncWrite + Unpin>(
    mut stream: S,
    request: &str,
) -> Answer {
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut text = Vec::new();
    // A peer that closes without close_notify is an error for TLS, and no matter here.
    let read = tokio::time::timeout(Duration::from_secs(10), stream.read_to_end(&mut text));
    let _end = read.await.expect("an answer in time");
    let text = String::from_utf8(text).unwrap();
    let (head, body) = text.split_once("\r\n\r\n").unwrap_or((&text, ""));
    Answer {
        status: head
            .split(' ')
            .nth(1)
            .and_then(|s| s.parse().ok())
            .unwrap_or(0),
        head: head.to_lowercase(),
        raw_head: head.to_owned(),
        body: body.to_owned(),
    }
}

pub(super) async fn raw(rig: &Rig, request: &str) -> Answer {
    over(TcpStream::connect(rig.address).await.unwrap(), request).await
}

/// Connects from one of loopback's many addresses.
pub(super) async fn from(rig: &Rig, host: u8) -> TcpStream {
    let socket = tokio::net::TcpSocket::new_v4().unwrap();
    socket.bind(([127, 0, 7, host], 0).into()).unwrap();
    socket.connect(rig.address).await.unwrap()
}

/// A request that asks for the connection to close.
pub(super) async fn ask(rig: &Rig, line: &str, headers: &[&str], body: &str) -> Answer {
    let mut request = format!(
        "{line} HTTP/1.1\r\nHost: {}\r\nConnection: close\r\n",
        rig.address
    );
    for header in headers {
        request.push_str(header);
        request.push_str("\r\n");
    }
    if !body.is_empty() {
        write!(request, "Content-Length: {}\r\n", body.len()).unwrap();
    }
    request.push_str("\r\n");
    request.push_str(body);
    raw(rig, &request).await
}

pub(super) fn bearer(key: &str) -> String {
    format!("Authorization: Bearer {key}")
}
