//! One connection of clawsec's own, kept: opened, served, opened again.
//!
//! Each change of its state is told once: to the supervisor for `status`, as a record, and on the
//! terminal. Cancellation points are the waits of `keep`: a policy that wants another connection
//! ends what stands; a drain lets a node finish what it runs.

use std::sync::Arc;

use serde_json::{Map, Value, json};
use tokio::sync::watch;

use super::backoff::Backoff;
use super::{node, observe};
use crate::config::{Secret, Upstream, UpstreamAuth};
use crate::event::{Event, EventKind, Outcome};
use crate::gateway::shared::Gateway;
use crate::gateway::snapshot::Snapshot;
use crate::gateway::websocket::own::{self, Identity, NotOpen, OwnConnection, Role};
use crate::ipc::{OwnRole, OwnState, ToSupervisor};

/// Everything that a connection depends on; it stands for as long as this stays. Not to be
/// printed: the seed is a secret.
#[derive(Clone, PartialEq)]
pub(super) struct Target {
    upstream: Upstream,
    auth: UpstreamAuth,
    token: Option<Secret>,
    pub(super) seed: [u8; 32],
    pub(super) identity: Identity,
}

/// Keeps the connection of `role` until the gateway drains.
pub(super) async fn keep(gateway: Arc<Gateway>, role: OwnRole) {
    let mut generation = gateway.generation.subscribe();
    let mut backoff = Backoff::new(gateway.deadlines.retry, gateway.deadlines.retry_most);
    let mut told = Told::new(&gateway, role);
    loop {
        generation.borrow_and_update();
        let snapshot = gateway.snapshot.load_full();
        let target = match Target::of(role, &snapshot) {
            Ok(target) => target,
            Err(why) => {
                told.say(OwnState::Off {
                    why: why.to_owned(),
                })
                .await;
                tokio::select! {
                    _ = generation.changed() => continue,
                    () = gateway.drain.cancelled() => return,
                }
            }
        };
        let opened = tokio::select! {
            opened = own::open(&gateway, &snapshot, &target.seed, &target.identity) => opened,
            () = gateway.drain.cancelled() => return,
        };
        drop(snapshot);
        let state = match opened {
            Ok(connection) => {
                let since = tokio::time::Instant::now();
                let protocol = connection.protocol;
                told.say(OwnState::Connected { protocol }).await;
                tokio::select! {
                    why = serve(&gateway, &target, connection, &mut told) => {
                        // One that is ended at once is tried again as one that is not opened.
                        if since.elapsed() >= gateway.deadlines.retry_most {
                            backoff.reset();
                        }
                        OwnState::Away { why }
                    }
                    () = outlived(&gateway, &mut generation, role, &target) => continue,
                }
            }
            Err(NotOpen::Unpaired { remedy }) => OwnState::Unpaired { remedy },
            Err(NotOpen::Refused { why }) => OwnState::Refused { why },
            Err(NotOpen::Away { why }) => OwnState::Away { why },
        };
        if gateway.drain.is_cancelled() {
            return;
        }
        // Whoever approves it looks whether it helped.
        let most = match state {
            OwnState::Unpaired { .. } => gateway.deadlines.retry_most / 4,
            _ => gateway.deadlines.retry_most,
        };
        told.say(state).await;
        tokio::select! {
            () = tokio::time::sleep(backoff.take().min(most)) => {}
            _ = generation.changed() => {}
            () = gateway.drain.cancelled() => return,
        }
    }
}

/// Uses an open connection until it ends, or the gateway drains; why it did.
async fn serve(
    gateway: &Arc<Gateway>,
    target: &Target,
    connection: OwnConnection,
    told: &mut Told<'_>,
) -> String {
    match told.role {
        OwnRole::Observer => observe::serve(gateway, connection).await,
        OwnRole::Node => node::serve(gateway, target, connection, told).await,
    }
}

/// Returns once the policy in force wants another connection than this, or none.
async fn outlived(
    gateway: &Gateway,
    generation: &mut watch::Receiver<u64>,
    role: OwnRole,
    target: &Target,
) {
    while generation.changed().await.is_ok() {
        let wanted = Target::of(role, &gateway.snapshot.load());
        if wanted.as_ref() != Ok(target) {
            return;
        }
    }
    // The sender lives as long as the gateway.
    std::future::pending::<()>().await;
}

impl Target {
    /// What the policy wants of this role, or why it wants none.
    fn of(role: OwnRole, snapshot: &Snapshot) -> Result<Self, &'static str> {
        let identity = match role {
            OwnRole::Observer => observer(snapshot)?,
            OwnRole::Node => node(snapshot)?,
        };
        let gateway = &snapshot.config.gateway;
        Ok(Self {
            upstream: gateway.upstream.clone(),
            auth: gateway.upstream_auth,
            token: snapshot.upstream_token.clone(),
            seed: *snapshot
                .device_seeds
                .get(role.seed_id())
                .ok_or("there is no device key for it")?,
            identity,
        })
    }
}

fn observer(snapshot: &Snapshot) -> Result<Identity, &'static str> {
    let audit = &snapshot.config.audit;
    let is_recorded = |kind| audit.events.contains(&kind);
    if !snapshot.config.gateway.observe {
        return Err("gateway.observe is false");
    }
    if !audit.enabled || !(is_recorded(EventKind::Message) || is_recorded(EventKind::Tool)) {
        return Err("security.audit records neither messages nor tools");
    }
    Ok(Identity {
        role: Role::Operator,
        scopes: &["operator.read"],
        params: members(json!({
            "client": {"id": "gateway-client", "displayName": "clawsec", "mode": "backend",
                       "version": VERSION, "platform": "linux"},
            "caps": ["tool-events"],
        })),
    })
}

fn node(snapshot: &Snapshot) -> Result<Identity, &'static str> {
    let name = snapshot.config.node_host.as_ref();
    let name = name.ok_or("security.sandbox.nodeHost is not set")?;
    Ok(Identity {
        role: Role::Node,
        scopes: &[],
        params: members(json!({
            "client": {"id": "node-host", "displayName": name, "mode": "node",
                       "version": VERSION, "platform": "linux"},
            "caps": ["system"],
            "commands": node::COMMANDS,
        })),
    })
}

pub(super) fn members(value: Value) -> Map<String, Value> {
    match value {
        Value::Object(members) => members,
        _ => Map::new(),
    }
}

/// What was last said of a connection.
pub(super) struct Told<'a> {
    gateway: &'a Gateway,
    role: OwnRole,
    last: Option<OwnState>,
}

impl<'a> Told<'a> {
    fn new(gateway: &'a Gateway, role: OwnRole) -> Self {
        Self {
            gateway,
            role,
            last: None,
        }
    }

    /// Says what is new; what was said already, not again.
    pub(super) async fn say(&mut self, state: OwnState) {
        if self.last.as_ref() == Some(&state) {
            return;
        }
        let role = self.role.as_str();
        let words = state.in_words();
        let (outcome, reason) = match &state {
            OwnState::Off { .. } => (None, "off"),
            OwnState::Connected { .. } => (Some(Outcome::Allow), "connected"),
            OwnState::Unpaired { .. } => (Some(Outcome::Error), "pairing_required"),
            OwnState::Refused { .. } => (Some(Outcome::Error), "refused"),
            OwnState::Away { .. } => (Some(Outcome::Error), "away"),
        };
        match outcome {
            Some(Outcome::Allow) => tracing::info!("{role}: {words}"),
            Some(_) => tracing::warn!("{role}: {words}"),
            // What never was on is no news.
            None if self.last.is_none() => tracing::debug!("{role}: {words}"),
            None => tracing::info!("{role}: {words}"),
        }
        if let Some(outcome) = outcome {
            let mut event = Event::new(EventKind::System, role, outcome, reason);
            event.detail = Some(words);
            self.gateway.link.report(event);
        }
        let message = ToSupervisor::Own {
            role: self.role,
            state: state.clone(),
        };
        // Without its supervisor the gateway process ends anyway.
        let _gone = self.gateway.link.send(message).await;
        self.last = Some(state);
    }
}

pub(super) const VERSION: &str = env!("CARGO_PKG_VERSION");
