//! The document without its secrets, as the gateway process is sent it.
//!
//! Invariant: every secret of the document is replaced or left out, and what remains compiles to
//! the same policy: texts that look like `${…}` are escaped, `~` is resolved already.

use std::collections::HashMap;

use serde_json::{Map, Value as Json};

use super::substitute;
use super::tree::{Member, Node, Value, join};

/// A change at one path of the document.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Edit {
    pub(super) path: String,
    pub(super) change: Change,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Change {
    /// Puts a text there, whether or not the document has the key.
    Set(String),
    Remove,
}

/// Writes the document as JSON, with the edits applied.
pub(super) fn document(root: &Node, edits: &[Edit]) -> String {
    let changes: HashMap<&str, &Change> = edits
        .iter()
        .map(|edit| (edit.path.as_str(), &edit.change))
        .collect();
    let mut json = json(root, "", &changes).unwrap_or(Json::Null);
    for edit in edits {
        if let Change::Set(text) = &edit.change {
            set_if_absent(&mut json, &edit.path, text);
        }
    }
    json.to_string()
}

fn json(node: &Node, path: &str, changes: &HashMap<&str, &Change>) -> Option<Json> {
    match changes.get(path) {
        Some(Change::Remove) => return None,
        Some(Change::Set(text)) => return Some(Json::String(substitute::escape(text))),
        None => {}
    }
    Some(match &node.value {
        Value::Null | Value::Unresolved => Json::Null,
        Value::Boolean(value) => Json::Bool(*value),
        Value::Number(digits) => number(digits),
        Value::Text(text) => Json::String(substitute::escape(&text.value)),
        Value::List(nodes) => {
            let element = |(index, node)| json(node, &format!("{path}[{index}]"), changes);
            Json::Array(nodes.iter().enumerate().filter_map(element).collect())
        }
        Value::Object(members) => Json::Object(object(members, path, changes)),
    })
}

fn object(members: &[Member], path: &str, changes: &HashMap<&str, &Change>) -> Map<String, Json> {
    members
        .iter()
        .filter_map(|member| {
            let value = json(&member.node, &join(path, &member.key), changes)?;
            Some((member.key.clone(), value))
        })
        .collect()
}

fn number(digits: &str) -> Json {
    if let Ok(whole) = digits.parse::<i64>() {
        return Json::from(whole);
    }
    digits.parse::<f64>().map_or(Json::Null, Json::from)
}

/// Sets a key the document has not got, making the sections above it. Paths of list elements are
/// never absent, so they are left alone.
fn set_if_absent(root: &mut Json, path: &str, text: &str) {
    if path.contains('[') {
        return;
    }
    let mut at = root;
    for key in path.split('.') {
        let Json::Object(members) = at else { return };
        at = members
            .entry(key)
            .or_insert_with(|| Json::Object(Map::new()));
    }
    // A section just made for the last key; anything else stands in the document already.
    if at.as_object().is_some_and(Map::is_empty) {
        *at = Json::String(substitute::escape(text));
    }
}
