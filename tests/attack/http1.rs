//! What is wrong with requests of HTTP/1.1.

use std::fmt::Write as _;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use rustls::ClientConfig;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::time::timeout;

use super::{Stream, Tally, Target};

/// For an answer.
const PATIENCE: Duration = Duration::from_secs(5);

/// A byte of the head every quarter of a second, until one of the two has enough.
pub(super) async fn slow(
    target: &Target,
    source: IpAddr,
    config: &Arc<ClientConfig>,
    tally: &mut Tally,
    stop: &AtomicBool,
) {
    let Some(mut stream) = target.handshake(source, config).await else {
        return tally.add("refused");
    };
    let head = format!(
        "GET / HTTP/1.1\r\nHost: {}\r\nX-Slow: ",
        target.address.ip()
    );
    let mut bytes = head.bytes().chain(std::iter::repeat(b'a'));
    while !stop.load(Ordering::Relaxed) {
        let byte = bytes.next().unwrap_or(b'a');
        if stream.write_all(&[byte]).await.is_err() {
            return tally.add("closed");
        }
        let _sent = stream.flush().await;
        let mut answer = [0; 64];
        match timeout(Duration::from_millis(250), stream.read(&mut answer)).await {
            Err(_quiet) => {}
            Ok(Ok(length @ 1..)) => return tally.add(&status(&answer[..length])),
            Ok(_) => return tally.add("closed"),
        }
    }
    tally.add("kept");
}

/// A head of 1,000 lines, over and over, on each connection as long as it lives.
pub(super) async fn bombs(
    target: &Target,
    source: IpAddr,
    config: &Arc<ClientConfig>,
    tally: &mut Tally,
    stop: &AtomicBool,
) {
    let mut request = format!("GET / HTTP/1.1\r\nHost: {}\r\n", target.address.ip());
    for line in 0..1000 {
        let _written = write!(request, "X-Line-{line}: {}\r\n", "a".repeat(200));
    }
    request.push_str("\r\n");
    repeat(target, source, config, tally, stop, |_| request.clone()).await;
}

/// Two ends in one request: lengths that differ, lengths beside chunks, chunks in disguise.
pub(super) async fn smuggling(
    target: &Target,
    source: IpAddr,
    config: &Arc<ClientConfig>,
    tally: &mut Tally,
) {
    let smuggled = "GET /smuggled HTTP/1.1\r\nHost: a\r\n\r\n";
    let framings = [
        "Content-Length: 4\r\nTransfer-Encoding: chunked",
        "Content-Length: 4\r\nContent-Length: 40",
        "Content-Length: 4, 40",
        "Transfer-Encoding: xchunked",
        "Transfer-Encoding: chunked, identity",
        "Transfer-Encoding:\x0bchunked",
        "Transfer-Encoding : chunked",
        "Content-Length: +4",
        "Content-Length: 0x4",
    ];
    for framing in framings {
        let request = format!(
            "POST /tools/invoke HTTP/1.1\r\nHost: {}\r\nX-API-Key: {}\r\n{framing}\r\n\r\n0\r\n\r\n{smuggled}",
            target.address.ip(),
            target.key
        );
        let Some(mut stream) = target.handshake(source, config).await else {
            tally.add("refused");
            continue;
        };
        let answer = ask(&mut stream, &request).await;
        tally.add(&answer);
    }
}

/// A wrong key each time, on each connection as long as it lives.
pub(super) async fn guesses(
    target: &Target,
    source: IpAddr,
    config: &Arc<ClientConfig>,
    tally: &mut Tally,
    stop: &AtomicBool,
) {
    let guess = |number: u64| {
        format!(
            "GET / HTTP/1.1\r\nHost: {}\r\nX-API-Key: a-guess-of-thirty-two-characters-{number}\r\n\r\n",
            target.address.ip()
        )
    };
    repeat(target, source, config, tally, stop, guess).await;
}

/// Requests one after the other until the connection ends or one is refused for good.
async fn repeat(
    target: &Target,
    source: IpAddr,
    config: &Arc<ClientConfig>,
    tally: &mut Tally,
    stop: &AtomicBool,
    request: impl Fn(u64) -> String,
) {
    let Some(mut stream) = target.handshake(source, config).await else {
        return tally.add("refused");
    };
    while !stop.load(Ordering::Relaxed) {
        let answer = ask(&mut stream, &request(tally.tries)).await;
        tally.add(&answer);
        if answer == "closed" {
            return;
        }
    }
}

/// The status of the answer; `closed` where none came.
async fn ask(stream: &mut Stream, request: &str) -> String {
    // A server may answer, and close, before it has all of it.
    let _sent = stream.write_all(request.as_bytes()).await;
    let _sent = stream.flush().await;
    let mut head = Vec::new();
    while !head.windows(4).any(|bytes| bytes == b"\r\n\r\n") {
        let mut part = [0; 2048];
        match timeout(PATIENCE, stream.read(&mut part)).await {
            Ok(Ok(length @ 1..)) => head.extend(&part[..length]),
            _ => return "closed".to_owned(),
        }
    }
    let text = String::from_utf8_lossy(&head).to_lowercase();
    let (fields, body) = text.split_once("\r\n\r\n").unwrap_or((&text, ""));
    let length = fields.lines().find_map(|line| {
        line.strip_prefix("content-length:")?
            .trim()
            .parse::<usize>()
            .ok()
    });
    let mut rest = length.unwrap_or(0).saturating_sub(body.len());
    while rest > 0 {
        let mut part = [0; 2048];
        match timeout(PATIENCE, stream.read(&mut part)).await {
            Ok(Ok(length @ 1..)) => rest = rest.saturating_sub(length),
            _ => break,
        }
    }
    status(&head)
}

fn status(head: &[u8]) -> String {
    let text = String::from_utf8_lossy(head.get(9..12).unwrap_or_default()).into_owned();
    if text.len() == 3 {
        text
    } else {
        "closed".to_owned()
    }
}
