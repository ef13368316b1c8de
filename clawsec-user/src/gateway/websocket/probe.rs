//! The frame reader and the readers of its texts, for the fuzz targets.

use fastwebsockets::Role;
use futures_util::FutureExt as _;
use serde_json::Value;

use super::frames::{Message, Reader};
use super::handshake::Connect;
use super::judge;
use crate::gateway::facts::{name_all, name_deeply};
use crate::gateway::json;
use crate::policy::{Protocol, Request, RequestFacts, classify_method};

/// Reads what a client sends until the first error or the end; the length of each message.
pub fn messages(bytes: &[u8], limit: usize) -> Vec<usize> {
    let mut reader = Reader::new(bytes, Role::Server, limit);
    let mut lengths = Vec::new();
    // A slice is always ready.
    while let Some(Ok(message)) = reader.message().now_or_never() {
        lengths.push(match message {
            Message::Text(bytes) | Message::Ping(bytes) | Message::Pong(bytes) => bytes.len(),
            Message::Binary => 0,
            Message::Close(close) => {
                lengths.push(usize::from(close.code().unwrap_or_default()).min(limit));
                return lengths;
            }
        });
    }
    lengths
}

/// Reads a text as a `connect` and as any other request; whom and what it names.
pub fn request(text: &[u8]) -> Option<String> {
    let connect = Connect::parse(text).ok();
    let frame = json::parse(text).ok()?;
    let method = frame.get("method").and_then(Value::as_str)?;
    let params = frame.get("params").unwrap_or(&Value::Null);
    let mut facts = RequestFacts::new(Request::Method {
        name: method.to_owned(),
        method: classify_method(Protocol::V4, method),
    });
    let named = name_all(&mut facts, params).and_then(|()| name_deeply(&mut facts, params));
    let tool = judge::tool(method, params);
    Some(format!(
        "{:?} {named:?} {tool:?} {facts:?}",
        connect.map(|connect| connect.role)
    ))
}
