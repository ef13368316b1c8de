//! The frame reader and the readers of its texts, for the fuzz targets.

use std::collections::BTreeMap;
use std::fmt;
use std::path::Path;
use std::sync::Arc;

use fastwebsockets::Role;
use futures_util::FutureExt as _;
use serde_json::Value;

use super::Session;
use super::dial::Terms;
use super::frames::{Message, Reader};
use super::handshake::{Connect, Role as Part};
use super::judge::{self, Ruling};
use crate::config::{self, NoSources};
use crate::event::EventKind;
use crate::gateway::auth::{self, Presented};
use crate::gateway::connection::Connection;
use crate::gateway::facts::{name_all, name_deeply};
use crate::gateway::json;
use crate::gateway::link;
use crate::gateway::record::{Exchange, Note};
use crate::gateway::shared::{Deadlines, Gateway};
use crate::gateway::snapshot::Snapshot;
use crate::gateway::timed::Timed;
use crate::ipc::PolicyUpdate;
use crate::policy::{Protocol, Request, RequestFacts, classify_method};

/// Judges frames as a gateway of this configuration does.
pub struct Judge {
    connection: Arc<Connection>,
}

impl fmt::Debug for Judge {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Judge").finish_non_exhaustive()
    }
}

/// What becomes of a frame.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Judged {
    Forwarded,
    Answered(String),
    Closed(&'static str),
}

impl Judge {
    /// Of a configuration without TLS.
    pub fn new(document: &str) -> Result<Self, String> {
        let config = config::compile(document, Path::new("probe"), &NoSources);
        let config = config.map_err(|error| error.to_string())?;
        let update = PolicyUpdate {
            generation: 1,
            document: document.to_owned(),
            path: "probe".to_owned(),
            tls: None,
            upstream_token: None,
            device_seeds: BTreeMap::new(),
        };
        let snapshot = Snapshot::new(config, update, None).map_err(|error| error.to_string())?;
        // What is reported finds nobody, and is counted as lost.
        let (link, _outbox) = link::link();
        let gateway = Gateway::new(snapshot, Timed::default(), link, Deadlines::default());
        Ok(Self {
            connection: Connection::of_nobody(gateway),
        })
    }

    /// Judges a frame of whoever has this key.
    pub fn frame(&self, key: &str, is_node: bool, is_new: bool, frame: &[u8]) -> Option<Judged> {
        let note = Note::new(EventKind::Message, "method");
        let mut exchange = Exchange::begin(&self.connection, String::new(), note);
        let principal = auth::authenticate(&exchange.snapshot, Some(Presented::new(key))).ok()?;
        let session = Session {
            principal,
            role: if is_node { Part::Node } else { Part::Operator },
            terms: Terms {
                protocol: if is_new { Protocol::V4 } else { Protocol::V3 },
                default_agent: Some("main".to_owned()),
            },
        };
        Some(match judge::judge(&mut exchange, &session, frame) {
            Ruling::Forward(_permit) => Judged::Forwarded,
            Ruling::Answer(answer) => Judged::Answered(answer),
            Ruling::Close(why) => Judged::Closed(why),
        })
    }
}

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
