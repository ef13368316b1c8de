//! A record as a reader sees it: the fields that are counted or asked for, borrowed from the line.
//!
//! Twice as fast as `Record`, which owns its text and checks every field.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::net::IpAddr;

use serde::Deserialize;

use super::chain::Digest;
use super::stamp::Stamp;
use crate::event::{EventKind, Outcome};

#[derive(Debug, Deserialize)]
pub struct Glance<'a> {
    pub seq: u64,
    pub ts: Stamp,
    pub event: EventKind,
    #[serde(borrow)]
    pub action: Cow<'a, str>,
    pub outcome: Outcome,
    #[serde(borrow)]
    pub reason: Cow<'a, str>,
    #[serde(borrow, default)]
    pub src: Option<SourceText<'a>>,
    #[serde(borrow, default)]
    pub request: Option<Text<'a>>,
    #[serde(borrow, default)]
    pub principal: Option<Text<'a>>,
    #[serde(borrow, default)]
    pub user: Option<Text<'a>>,
    #[serde(borrow, default)]
    pub group: Option<Text<'a>>,
    #[serde(borrow, default)]
    pub agent: Option<Text<'a>>,
    #[serde(borrow, default)]
    pub tool: Option<ToolText<'a>>,
    pub count: u64,
    #[serde(default)]
    pub settles: u64,
    #[serde(default)]
    pub epoch: Option<u64>,
    #[serde(default)]
    pub totals: Option<BTreeMap<String, u64>>,
    #[serde(default)]
    pub first: Option<Stamp>,
    /// As it stands: reading it costs a tenth of the whole, and only `verify` wants it.
    #[serde(borrow)]
    pub prev: Cow<'a, str>,
}

/// Serde borrows inside an `Option` only what says so itself.
#[derive(Debug, Deserialize)]
pub struct Text<'a>(#[serde(borrow)] Cow<'a, str>);

#[derive(Debug, Deserialize)]
pub struct SourceText<'a> {
    #[serde(borrow)]
    pub ip: Cow<'a, str>,
}

#[derive(Debug, Deserialize)]
pub struct ToolText<'a> {
    #[serde(borrow)]
    pub name: Cow<'a, str>,
}

impl<'a> Glance<'a> {
    /// Reads a line, with or without its newline.
    ///
    /// # Errors
    /// When it is no JSON object or lacks a field that every record has.
    pub fn parse(line: &'a [u8]) -> Result<Self, serde_json::Error> {
        serde_json::from_slice(line)
    }

    /// Occurrences this line tells about, whether they were already in the sums or not.
    pub fn occurrences(&self) -> u64 {
        self.count.saturating_add(self.settles)
    }

    /// When the first of the occurrences was.
    pub fn began(&self) -> Stamp {
        self.first.unwrap_or(self.ts)
    }

    /// `None` when it is not what a hash looks like.
    pub(super) fn prev(&self) -> Option<Digest> {
        Digest::from_hex(self.prev.as_bytes())
    }

    pub fn address(&self) -> Option<IpAddr> {
        self.src.as_ref()?.ip.parse().ok()
    }

    pub fn tool_name(&self) -> Option<&str> {
        self.tool.as_ref().map(|tool| tool.name.as_ref())
    }
}

impl Text<'_> {
    pub fn as_str(&self) -> &str {
        &self.0
    }
}
