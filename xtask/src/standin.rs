//! A stand-in for the protected gateway: enough HTTP/1.1 for the demo and the system tests.
//!
//! It answers as OpenClaw does where the two overlap, and demands the upstream token, so that a
//! request that reached it was forwarded by clawsec. Plain threads; loopback only.

pub mod socket;

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// Bodies beyond this are refused; the real gateway's limit for `/tools/invoke` is the same.
const MAX_BODY_BYTES: u64 = 2 * 1024 * 1024;

/// How long `/v1/slow` takes, as a model that thinks does.
pub const SLOW: Duration = Duration::from_secs(2);

/// What the stand-in has seen, for tests.
#[derive(Debug, Default)]
pub struct Seen {
    /// Requests whose head arrived whole.
    pub requests: AtomicU64,
    /// Connections accepted.
    pub connections: AtomicU64,
}

/// Serves connections until the process or the listener ends.
pub fn serve(listener: &TcpListener, token: &str, seen: &Arc<Seen>) {
    let token: Arc<str> = token.into();
    for stream in listener.incoming().flatten() {
        seen.connections.fetch_add(1, Ordering::Relaxed);
        let (token, seen) = (Arc::clone(&token), Arc::clone(seen));
        std::thread::spawn(move || {
            // A client that goes away in the middle is no error of the stand-in's.
            let _closed = converse(stream, &token, &seen);
        });
    }
}

struct Request {
    method: String,
    path: String,
    headers: Vec<(String, String)>,
    body: String,
}

impl Request {
    fn header(&self, name: &str) -> Option<&str> {
        self.headers
            .iter()
            .find(|(key, _)| key == name)
            .map(|(_, value)| value.as_str())
    }
}

fn converse(stream: TcpStream, token: &str, seen: &Seen) -> io::Result<()> {
    let mut writer = stream.try_clone()?;
    let mut reader = BufReader::new(stream);
    while let Some(request) = read_request(&mut reader)? {
        seen.requests.fetch_add(1, Ordering::Relaxed);
        if let Some(key) = request.header("sec-websocket-key") {
            return socket::converse(&mut reader, &mut writer, key);
        }
        let (status, kind, body) = answer(&request, token);
        write!(
            writer,
            "HTTP/1.1 {status}\r\ncontent-type: {kind}\r\ncontent-length: {}\r\n\r\n{body}",
            body.len()
        )?;
        writer.flush()?;
    }
    Ok(())
}

fn answer(request: &Request, token: &str) -> (&'static str, &'static str, String) {
    const JSON: &str = "application/json; charset=utf-8";
    let authorized = request.header("authorization") == Some(&format!("Bearer {token}"));
    match (request.method.as_str(), request.path.as_str()) {
        ("GET", "/") => ("200 OK", "text/html", "<h1>stand-in gateway</h1>\n".into()),
        _ if !authorized => (
            "401 Unauthorized",
            JSON,
            r#"{"error":{"message":"Unauthorized","type":"unauthorized"}}"#.into(),
        ),
        ("GET", "/v1/slow") => {
            std::thread::sleep(SLOW);
            ("200 OK", JSON, r#"{"slow":true}"#.into())
        }
        ("POST", "/tools/invoke") => {
            let call: serde_json::Value = serde_json::from_str(&request.body).unwrap_or_default();
            let tool = call
                .get("tool")
                .and_then(|tool| tool.as_str())
                .unwrap_or("?");
            let text = format!("the stand-in gateway ran {tool}");
            let body = serde_json::json!({
                "ok": true,
                "result": { "content": [{ "type": "text", "text": text }], "details": {} },
            });
            ("200 OK", JSON, body.to_string())
        }
        ("POST", "/echo") => {
            let headers: Vec<String> = request
                .headers
                .iter()
                .map(|(name, value)| format!("{name}: {value}"))
                .collect();
            let body = serde_json::json!({ "headers": headers, "body": request.body });
            ("200 OK", JSON, body.to_string())
        }
        _ => (
            "404 Not Found",
            JSON,
            r#"{"error":{"message":"Not Found","type":"not_found"}}"#.into(),
        ),
    }
}

/// Reads one request with a `Content-Length` or chunked body; `None` at the end of the stream.
fn read_request(reader: &mut impl BufRead) -> io::Result<Option<Request>> {
    let Some(line) = read_line(reader)? else {
        return Ok(None);
    };
    let mut words = line.split(' ');
    let method = words.next().unwrap_or_default().to_owned();
    let path = words.next().unwrap_or_default().to_owned();
    let mut headers = Vec::new();
    while let Some(line) = read_line(reader)?.filter(|line| !line.is_empty()) {
        if let Some((name, value)) = line.split_once(':') {
            headers.push((name.trim().to_lowercase(), value.trim().to_owned()));
        }
    }
    let mut request = Request {
        method,
        path,
        headers,
        body: String::new(),
    };
    let mut body = Vec::new();
    if request.header("transfer-encoding") == Some("chunked") {
        while let Some(line) = read_line(reader)? {
            let length = u64::from_str_radix(line.trim(), 16).map_err(io::Error::other)?;
            read_exactly(reader, length, &mut body)?;
            read_line(reader)?;
            if length == 0 {
                break;
            }
        }
    } else if let Some(length) = request.header("content-length") {
        let length = length.parse().map_err(io::Error::other)?;
        read_exactly(reader, length, &mut body)?;
    }
    request.body = String::from_utf8_lossy(&body).into_owned();
    Ok(Some(request))
}

fn read_line(reader: &mut impl BufRead) -> io::Result<Option<String>> {
    let mut line = String::new();
    if reader.take(16 * 1024).read_line(&mut line)? == 0 {
        return Ok(None);
    }
    Ok(Some(line.trim_end().to_owned()))
}

fn read_exactly(reader: &mut impl Read, length: u64, body: &mut Vec<u8>) -> io::Result<()> {
    if body.len() as u64 + length > MAX_BODY_BYTES {
        return Err(io::Error::other("body too large"));
    }
    let read = reader.take(length).read_to_end(body)?;
    if read as u64 == length {
        Ok(())
    } else {
        Err(io::ErrorKind::UnexpectedEof.into())
    }
}
