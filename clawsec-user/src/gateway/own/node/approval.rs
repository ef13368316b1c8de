//! Whether a person still has to approve the node, and by which command.
//!
//! openclaw lets a node connect and uses none of its commands until then; it tells the node
//! nothing. So it is asked, as an operator that may see what waits for approval, by a connection
//! that lasts no longer than that takes.

use std::sync::Arc;

use serde_json::{Value, json};
use tokio::sync::mpsc;

use super::super::keep::{Target, VERSION, members};
use crate::gateway::shared::Gateway;
use crate::gateway::websocket::own::{
    self, Arrival, Identity, NotOpen, OwnConnection, Role, is_plain,
};

/// In the time that a connection is tried again after, at most.
const QUESTIONS: u32 = 12;
const GENERIC: &str =
    "run `openclaw nodes pending`, then `openclaw nodes approve <requestId>`, on its host";

/// Tells the command to run, each time it is another one, and `None` once the node is approved.
pub(super) async fn watch(
    gateway: Arc<Gateway>,
    target: Target,
    tell: mpsc::Sender<Option<String>>,
) {
    let Some(node_id) = own::device_id(&target.seed, &target.identity) else {
        return;
    };
    let snapshot = gateway.snapshot.load_full();
    let opened = own::open(&gateway, &snapshot, &target.seed, &identity()).await;
    drop(snapshot);
    let mut connection = match opened {
        Ok(connection) => connection,
        Err(NotOpen::Unpaired { .. } | NotOpen::Refused { .. } | NotOpen::Away { .. }) => {
            // It cannot be asked; a node that is approved already needs no word.
            tracing::info!("node: whether it is approved cannot be asked; if it is not, {GENERIC}");
            return;
        }
    };
    let mut waited = None;
    loop {
        match pending(&mut connection, &node_id).await {
            Some(Pending::For(request)) => {
                if waited.as_ref() != Some(&request) {
                    let remedy = if is_plain(&request) {
                        format!("run `openclaw nodes approve {request}` on its host")
                    } else {
                        GENERIC.to_owned()
                    };
                    waited = Some(request);
                    if tell.send(Some(remedy)).await.is_err() {
                        return;
                    }
                }
                tokio::time::sleep(gateway.deadlines.retry_most / QUESTIONS).await;
            }
            Some(Pending::No) => {
                // Nobody listens any more where the node's connection has ended.
                let _ended = tell.send(None).await;
                return;
            }
            None => return,
        }
    }
}

fn identity() -> Identity {
    Identity {
        role: Role::Operator,
        scopes: &["operator.read", "operator.pairing"],
        params: members(json!({
            "client": {"id": "gateway-client", "displayName": "clawsec", "mode": "backend",
                       "version": VERSION, "platform": "linux"},
        })),
    }
}

enum Pending {
    No,
    For(String),
}

/// Asks once; `None` when there is no answer.
async fn pending(connection: &mut OwnConnection, node_id: &str) -> Option<Pending> {
    const ID: &str = "pending";
    connection
        .request(ID, "node.pair.list", &json!({}))
        .await
        .ok()?;
    loop {
        let Arrival::Text(text) = connection.next().await else {
            return None;
        };
        let Ok(frame) = serde_json::from_slice::<Value>(&text) else {
            continue;
        };
        if frame.get("id").and_then(Value::as_str) != Some(ID) {
            continue;
        }
        let pending = frame.pointer("/payload/pending")?.as_array()?;
        let is_own = |entry: &&Value| entry.get("nodeId").and_then(Value::as_str) == Some(node_id);
        let Some(own) = pending.iter().find(is_own) else {
            return Some(Pending::No);
        };
        let request = own.get("requestId").and_then(Value::as_str);
        return Some(Pending::For(request.unwrap_or_default().to_owned()));
    }
}
