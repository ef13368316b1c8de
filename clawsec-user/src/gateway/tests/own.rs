//! clawsec's own connections to the upstream: opened, refused, lost, opened again.

use std::time::Duration;

use serde_json::{Value, json};

use super::fake_upstream::{FakeUpstream, Script};
use super::{Rig, Rules};
use crate::event::{EventKind, Outcome};
use crate::gateway::shared::Deadlines;
use crate::ipc::{OwnRole, OwnState, ToGateway, ToSupervisor};

pub(super) fn quick() -> Deadlines {
    Deadlines {
        retry: Duration::from_millis(10),
        retry_most: Duration::from_millis(40),
        ..Deadlines::default()
    }
}

fn observing() -> Rules {
    Rules {
        observe: true,
        ..Rules::default()
    }
}

async fn observer(script: Script) -> Rig {
    let upstream = FakeUpstream::start().await;
    *upstream.script.lock().unwrap() = script;
    Rig::start_before(upstream, observing(), quick()).await
}

impl Rig {
    /// The next state of one of clawsec's own connections.
    pub(super) async fn state(&mut self, role: OwnRole) -> OwnState {
        loop {
            let next = tokio::time::timeout(Duration::from_secs(5), self.own.recv());
            let (of, state) = next.await.expect("in time").expect("a state");
            if of == role {
                return state;
            }
        }
    }

    /// Requests of this method that the upstream was sent by clawsec itself.
    pub(super) fn asked(&self, method: &str) -> Vec<Value> {
        let frames = self.upstream.frames.lock().unwrap();
        let asked = frames.iter().filter(|frame| frame["method"] == method);
        asked.cloned().collect()
    }
}

pub(super) fn event(name: &str, payload: &Value) -> Value {
    json!({"type": "event", "event": name, "payload": payload, "seq": 1})
}

#[tokio::test]
async fn what_channels_bring_in_becomes_records() {
    let session = "agent:work:whatsapp:dm:+15551234567";
    let of = |more: Value| {
        let mut payload = json!({"runId": "r1", "sessionKey": session, "seq": 1, "ts": 1});
        for (key, value) in more.as_object().unwrap() {
            payload[key] = value.clone();
        }
        payload
    };
    let mut events = vec![event(
        "agent",
        &of(json!({"stream": "lifecycle", "data": {"phase": "start"}})),
    )];
    for _ in 0..500 {
        events.push(event(
            "chat",
            &of(json!({"state": "delta", "message": {"content": "a secret"}})),
        ));
    }
    let start = json!({"phase": "start", "name": "bash", "toolCallId": "c1", "args": {"command": "a secret"}});
    let result = json!({"phase": "result", "name": "bash", "toolCallId": "c1", "isError": true,
                        "result": {"content": "a secret"}});
    events.push(event(
        "session.tool",
        &of(json!({"stream": "tool", "data": start})),
    ));
    events.push(event(
        "session.tool",
        &of(json!({"stream": "tool", "data": result})),
    ));
    events.push(event("chat", &of(json!({"state": "final"}))));
    let rig = observer(Script {
        protocol: Some(4),
        events,
        ..Script::default()
    })
    .await;

    let run = rig.event("observed", Outcome::Allow, "ok").await;
    assert_eq!(run.kind, EventKind::Message);
    assert_eq!(run.agent.as_deref(), Some("work"));
    assert_eq!(run.user.as_deref(), Some("+15551234567"));
    assert_eq!(run.session.as_deref(), Some(session));
    assert_eq!(run.request.as_deref(), Some("run:r1"));
    assert!(run.duration_ms.is_some());
    let call = rig.event("observed", Outcome::Error, "failed").await;
    assert_eq!(call.kind, EventKind::Tool);
    let tool = call.tool.clone().unwrap();
    assert_eq!((tool.name.as_str(), tool.args_bytes), ("exec", 22));
    let all = rig.events.lock().unwrap().clone();
    assert!(!format!("{all:?}").contains("a secret"), "{all:?}");
    let observed = all.iter().filter(|event| event.action == "observed");
    assert_eq!(observed.count(), 2, "one record each: {all:?}");

    let connect = &rig.asked("connect")[0]["params"];
    assert_eq!(connect["role"], "operator");
    assert_eq!(connect["scopes"], json!(["operator.read"]));
    assert_eq!(connect["caps"], json!(["tool-events"]));
    assert_eq!(rig.asked("sessions.subscribe").len(), 1);
}

#[tokio::test]
async fn a_refusal_is_said_once_and_tried_again() {
    let refusal = json!({"code": "NOT_PAIRED", "message": "pairing required",
                         "details": {"requestId": "r-7", "code": "PAIRING_REQUIRED"}});
    let mut rig = observer(Script {
        refusal: Some(refusal),
        ..Script::default()
    })
    .await;
    let remedy = "run `openclaw devices approve r-7` on its host".to_owned();
    assert_eq!(
        rig.state(OwnRole::Observer).await,
        OwnState::Unpaired { remedy }
    );
    while rig.asked("connect").len() < 4 {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    rig.upstream.script.lock().unwrap().refusal = None;
    let next = rig.state(OwnRole::Observer).await;
    assert_eq!(next, OwnState::Connected { protocol: 3 });
    assert_eq!(rig.seen("observer", "pairing_required").len(), 1);
    assert_eq!(rig.seen("observer", "connected").len(), 1);
    let devices: std::collections::BTreeSet<String> = rig
        .asked("connect")
        .iter()
        .map(|connect| connect["params"]["device"]["id"].to_string())
        .collect();
    assert_eq!(devices.len(), 1, "one device, to be approved once");
}

#[tokio::test]
async fn a_subscription_that_is_refused_is_no_connection() {
    let mut rig = observer(Script {
        protocol: Some(4),
        unsubscribed: Some(json!({"code": "FORBIDDEN", "message": "missing scope"})),
        ..Script::default()
    })
    .await;
    let connected = OwnState::Connected { protocol: 4 };
    assert_eq!(rig.state(OwnRole::Observer).await, connected);
    let why = "the gateway refuses sessions.subscribe: missing scope".to_owned();
    assert_eq!(rig.state(OwnRole::Observer).await, OwnState::Away { why });
}

#[tokio::test]
async fn a_connection_that_ends_leaves_nothing_open() {
    let mut rig = observer(Script {
        events: vec![event("chat", &json!({"runId": "r", "state": "delta"}))],
        closes: true,
        ..Script::default()
    })
    .await;
    let connected = OwnState::Connected { protocol: 3 };
    assert_eq!(rig.state(OwnRole::Observer).await, connected);
    let OwnState::Away { why } = rig.state(OwnRole::Observer).await else {
        panic!("not away");
    };
    assert_eq!(why, "the gateway closed with 1012");
    assert_eq!(rig.state(OwnRole::Observer).await, connected);
    rig.event("observed", Outcome::Error, "unfinished").await;
}

#[tokio::test]
async fn a_reload_keeps_the_connection_or_ends_it() {
    let mut rig = observer(Script::default()).await;
    let connected = OwnState::Connected { protocol: 3 };
    assert_eq!(rig.state(OwnRole::Observer).await, connected);
    rig.install(Rules {
        generation: 2,
        requests: 7,
        ..observing()
    })
    .await;
    rig.install(Rules {
        generation: 3,
        ..Rules::default()
    })
    .await;
    let off = OwnState::Off {
        why: "gateway.observe is false".into(),
    };
    assert_eq!(rig.state(OwnRole::Observer).await, off);
    assert_eq!(rig.asked("connect").len(), 1, "the first reload kept it");
    rig.send(ToGateway::Drain { deadline_ms: 2000 }).await;
    assert!(matches!(rig.told().await, ToSupervisor::Drained));
}

#[tokio::test]
async fn a_drain_ends_an_open_connection() {
    let mut rig = observer(Script::default()).await;
    let connected = OwnState::Connected { protocol: 3 };
    assert_eq!(rig.state(OwnRole::Observer).await, connected);
    rig.send(ToGateway::Drain {
        deadline_ms: 60_000,
    })
    .await;
    assert!(matches!(rig.told().await, ToSupervisor::Drained));
}
