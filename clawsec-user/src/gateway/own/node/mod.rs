//! clawsec as a node of the protected gateway: what its agents `exec` runs in clawsec's sandbox.
//!
//! Each call is judged here and, before anything runs, again by the supervisor. Invariant: whatever
//! goes wrong is an answer that says nothing ran, or that says what did; nothing runs on this host.

mod answer;
mod approval;
pub(super) mod call;
mod run;

use std::collections::HashMap;
use std::sync::Arc;

use serde_json::Value;
use tokio::sync::mpsc;
use tokio::task::{AbortHandle, JoinSet};

use self::call::{Command, Invoke};
use self::run::Node;
use super::keep::{Target, Told};
use crate::gateway::json;
use crate::gateway::shared::Gateway;
use crate::gateway::websocket::own::{Arrival, OwnConnection};
use crate::ipc::OwnState;
use crate::policy::Protocol;

/// What the node declares that it serves.
pub(super) const COMMANDS: [&str; 5] = [
    "system.run",
    "system.run.prepare",
    "system.which",
    "system.execApprovals.get",
    "system.execApprovals.set",
];

/// Calls that are served at once; the sandbox's own queue is behind them.
const MAX_CALLS: usize = 64;

/// Serves calls until the connection ends; why it did.
///
/// # Cancel safety
///
/// Dropping the future cancels every call that runs.
pub(super) async fn serve(
    gateway: &Arc<Gateway>,
    target: &Target,
    mut connection: OwnConnection,
    told: &mut Told<'_>,
) -> String {
    let protocol = connection.protocol;
    let node = Arc::new(Node::new(gateway, &connection));
    let mut calls = Calls::default();
    let mut draining = false;
    let (say, mut states) = mpsc::channel(1);
    // The newer gateway connects a node at once, and asks a person before it uses it.
    let mut approval = JoinSet::new();
    if connection.terms.protocol == Protocol::V4 {
        approval.spawn(approval::watch(Arc::clone(gateway), target.clone(), say));
    }
    while !(draining && calls.running.is_empty()) {
        tokio::select! {
            arrival = connection.next() => match arrival {
                Arrival::Text(text) => calls.take(&node, &text).await,
                Arrival::End(why) => return why,
            },
            Some(ended) = calls.running.join_next() => calls.forget(ended.ok().as_deref()),
            Some(remedy) = states.recv() => told.say(match remedy {
                Some(remedy) => OwnState::Unpaired { remedy },
                None => OwnState::Connected { protocol },
            }).await,
            // What runs may end; what is asked for now would be cut off.
            () = gateway.drain.cancelled(), if !draining => {
                draining = true;
                calls.closed = true;
            }
        }
    }
    "clawsec stops".to_owned()
}

/// The calls that run, by the gateway's ids.
#[derive(Default)]
struct Calls {
    running: JoinSet<String>,
    handles: HashMap<String, AbortHandle>,
    /// Nothing new is begun.
    closed: bool,
}

impl Calls {
    /// Takes a frame of the gateway's; what is no call is nothing to a node.
    async fn take(&mut self, node: &Arc<Node>, text: &[u8]) {
        let Ok(frame) = json::parse(text) else { return };
        let payload = frame.get("payload").unwrap_or(&Value::Null);
        match frame.get("event").and_then(Value::as_str) {
            Some("node.invoke.request") => {
                let Some(invoke) = Invoke::read(payload) else {
                    return;
                };
                let refused = match self.running.len() {
                    _ if self.closed => Some("clawsec stops"),
                    MAX_CALLS.. => Some("too many commands run at once"),
                    _ => None,
                };
                match refused {
                    Some(why) => node.answer(&invoke, answer::denied(why)).await,
                    None => self.begin(node, invoke),
                }
            }
            Some("node.invoke.cancel") => {
                let id = payload.get("invokeId").and_then(Value::as_str);
                // Its future is dropped, which cancels it in the supervisor.
                if let Some(handle) = id.and_then(|id| self.handles.get(id)) {
                    handle.abort();
                }
                self.forget(id);
            }
            _ => {}
        }
    }

    fn begin(&mut self, node: &Arc<Node>, invoke: Invoke) {
        let node = Arc::clone(node);
        let id = invoke.id.clone();
        let handle = self.running.spawn(async move {
            let answer = match invoke.command {
                Command::Run => node.run(&invoke).await,
                Command::Prepare => node.prepare(&invoke),
                Command::Which => node.which(&invoke).await,
                Command::ApprovalsGet => answer::approvals(),
                Command::ApprovalsSet => {
                    answer::denied("what may run is set in clawsec's own configuration")
                }
                Command::Other => answer::error("UNAVAILABLE", "command not supported"),
            };
            node.answer(&invoke, answer).await;
            invoke.id
        });
        self.handles.insert(id, handle);
    }

    fn forget(&mut self, id: Option<&str>) {
        match id {
            Some(id) => {
                self.handles.remove(id);
            }
            None => self.handles.retain(|_, handle| !handle.is_finished()),
        }
    }
}
