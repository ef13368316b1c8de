//! clawsec as the upstream's node: what it is asked for, and what it answers.

use std::time::Duration;

use serde_json::{Value, json};

use super::fake_upstream::{FakeUpstream, Script};
use super::own::{event, quick};
use super::{Rig, Rules};
use crate::event::{EventKind, Outcome};
use crate::ipc::{
    Caller, OwnRole, OwnState, ToGateway, ToSupervisor, ToolAnswer, ToolCall, ToolCommand,
    ToolReply,
};

const FRIEND: &str = "agent:main:whatsapp:dm:+15551234567";
const STRANGER: &str = "agent:main:whatsapp:dm:+15559999999";

fn invoke(id: &str, command: &str, params: &Value) -> Value {
    let payload = json!({"id": id, "nodeId": "n", "command": command,
                         "paramsJSON": params.to_string(), "idempotencyKey": id});
    event("node.invoke.request", &payload)
}

fn command(line: &str, session: &str) -> Value {
    json!({"command": ["/bin/sh", "-lc", line], "rawCommand": line, "cwd": "/home/u/clawd",
           "agentId": "main", "sessionKey": session, "approved": false})
}

async fn node(rules: Rules, script: Script) -> Rig {
    let upstream = FakeUpstream::start().await;
    *upstream.script.lock().unwrap() = script;
    let rules = Rules {
        node: Some("clawsec"),
        ..rules
    };
    Rig::start_before(upstream, rules, quick()).await
}

async fn asked(events: Vec<Value>) -> Rig {
    let script = Script {
        events,
        ..Script::default()
    };
    node(Rules::default(), script).await
}

impl Rig {
    /// The answer to the call of this id.
    async fn result(&self, id: &str) -> Value {
        for _ in 0..500 {
            let results = self.asked("node.invoke.result");
            let found = results.into_iter().find(|r| r["params"]["id"] == id);
            if let Some(found) = found {
                return found["params"].clone();
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        panic!("no answer to {id}");
    }

    /// The next call that the supervisor is asked to run.
    async fn call(&mut self) -> ToolCall {
        match self.told().await {
            ToSupervisor::Tool { call, .. } => *call,
            other => panic!("{other:?}"),
        }
    }
}

fn payload(result: &Value) -> Value {
    assert_eq!(result["ok"], true, "{result}");
    serde_json::from_str(result["payloadJSON"].as_str().unwrap()).unwrap()
}

fn refused(result: &Value) -> String {
    assert_eq!(result["ok"], false, "{result}");
    assert_eq!(result["error"]["code"], "SYSTEM_RUN_DENIED", "{result}");
    result["error"]["message"].as_str().unwrap().to_owned()
}

#[tokio::test]
async fn an_agents_command_goes_to_the_sandbox() {
    let mut params = command("id -u", FRIEND);
    params["env"] = json!({"A": "1"});
    params["timeoutMs"] = json!(700);
    let mut rig = asked(vec![invoke("1", "system.run", &params)]).await;
    let call = rig.call().await;
    assert_eq!(call.caller, Caller::Agent { peer: None });
    assert_eq!(call.session.as_deref(), Some(FRIEND));
    assert_eq!(call.tool, "exec");
    let ToolCommand::Exec(exec) = call.command else {
        panic!("{:?}", call.command);
    };
    assert_eq!(exec.command, "id -u");
    assert_eq!(exec.workdir, None, "a folder of the gateway's host");
    assert_eq!(exec.timeout_ms, Some(700));
    assert_eq!(exec.env.get("A").map(String::as_str), Some("1"));
    assert_eq!(payload(&rig.result("1").await)["exitCode"], 0);

    let connect = &rig.asked("connect")[0]["params"];
    assert_eq!(connect["role"], "node");
    assert_eq!(connect["client"]["displayName"], "clawsec");
    let commands = connect["commands"].to_string();
    assert!(commands.contains("system.run.prepare"), "{commands}");
}

#[tokio::test]
async fn what_policy_denies_runs_nowhere() {
    let mut two = command("id", FRIEND);
    two["agentId"] = json!("work");
    let mut peer = command("id", "agent:main:main");
    peer["turnSourceTo"] = json!("+15559999999");
    let mut unapproved = command("id", FRIEND);
    unapproved["runId"] = json!("approval-1");
    let mut rig = asked(vec![
        invoke("prepare", "system.run.prepare", &command("id", STRANGER)),
        invoke("run", "system.run", &command("id", STRANGER)),
        invoke("peer", "system.run", &peer),
        invoke("two", "system.run", &two),
        invoke("unapproved", "system.run", &unapproved),
        invoke("which", "system.which", &json!({"bins": []})),
        invoke("set", "system.execApprovals.set", &json!({})),
        invoke("other", "camera.snap", &json!({})),
        // The only one that gets through to the supervisor, which says no.
        invoke("last", "system.run", &command("denied", FRIEND)),
    ])
    .await;
    for (id, reason) in [
        ("prepare", "user_not_allowed"),
        ("run", "user_not_allowed"),
        ("peer", "user_not_allowed"),
        ("two", "request_malformed"),
        ("unapproved", "tool_denied"),
        ("set", "configuration"),
        ("last", "tool_denied"),
    ] {
        let message = refused(&rig.result(id).await);
        assert!(message.contains(reason), "{id}: {message}");
    }
    for id in ["which", "other"] {
        assert_eq!(rig.result(id).await["ok"], false, "{id}");
    }
    let ToolCommand::Exec(exec) = rig.call().await.command else {
        panic!("no command");
    };
    assert_eq!(
        exec.command, "denied",
        "nothing else reached the supervisor"
    );
    // A record may come a moment after its answer.
    for _ in 0..500 {
        if rig.seen("invoke", "user_not_allowed").len() == 3 {
            break;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let denial = rig.event("invoke", Outcome::Deny, "user_not_allowed").await;
    assert_eq!(denial.kind, EventKind::Tool);
    assert_eq!(denial.user.as_deref(), Some("+15559999999"));
    assert_eq!(denial.rule.as_deref(), Some("security.users.allowList"));
    assert_eq!(denial.principal.as_deref(), Some("gateway"));
    rig.counted("invoke", "user_not_allowed", 3).await;
    let told = rig.asked("node.event");
    assert_eq!(told.len(), 1, "{told:?}");
    assert_eq!(told[0]["params"]["event"], "exec.denied");
}

#[tokio::test]
async fn the_end_of_an_approved_run_is_told() {
    let mut approved = command("id", FRIEND);
    approved["runId"] = json!("approval-1");
    approved["approvalDecision"] = json!("allow-once");
    let rig = asked(vec![invoke("1", "system.run", &approved)]).await;
    assert_eq!(payload(&rig.result("1").await)["exitCode"], 0);
    let told = rig.asked("node.event");
    assert_eq!(told.len(), 1, "{told:?}");
    assert_eq!(told[0]["params"]["event"], "exec.finished");
    let told = told[0]["params"]["payloadJSON"].as_str().unwrap();
    let told: Value = serde_json::from_str(told).unwrap();
    assert_eq!(told["runId"], "approval-1");
    assert_eq!(told["sessionKey"], FRIEND);
    assert_eq!(told["exitCode"], 0);
}

#[tokio::test]
async fn preparing_repeats_what_is_to_run() {
    let rig = asked(vec![
        invoke("1", "system.run.prepare", &command("id", FRIEND)),
        invoke("2", "system.execApprovals.get", &json!({})),
    ])
    .await;
    let plan = payload(&rig.result("1").await)["plan"].clone();
    assert_eq!(plan["argv"], json!(["/bin/sh", "-lc", "id"]));
    assert_eq!(plan["commandText"], "id");
    assert_eq!(plan["sessionKey"], FRIEND);
    let approvals = payload(&rig.result("2").await);
    assert_eq!(approvals["file"]["defaults"]["ask"], "off");
}

#[tokio::test]
async fn an_agent_has_the_limit_of_a_source() {
    let run = |id: &str| invoke(id, "system.run", &command("id", FRIEND));
    let script = Script {
        events: vec![run("1"), run("2"), run("3")],
        ..Script::default()
    };
    let rules = Rules {
        requests: 2,
        ..Rules::default()
    };
    let rig = node(rules, script).await;
    rig.event("invoke", Outcome::Deny, "rate_limited").await;
    let mut answers = Vec::new();
    for id in ["1", "2", "3"] {
        answers.push(rig.result(id).await["ok"] == true);
    }
    answers.sort_unstable();
    assert_eq!(answers, [false, true, true]);
}

#[tokio::test]
async fn a_call_that_nobody_waits_for_is_cancelled() {
    let hang = invoke("1", "system.run", &command("hang", FRIEND));
    let mut rig = asked(vec![hang]).await;
    let ToSupervisor::Tool { id, .. } = rig.told().await else {
        panic!("no call");
    };
    // The node's connection ends with the policy that wanted it.
    let rules = Rules {
        generation: 2,
        ..Rules::default()
    };
    rig.send(rules.policy(rig.upstream.port)).await;
    let mut cancelled = false;
    for _ in 0..2 {
        cancelled |= matches!(rig.told().await, ToSupervisor::Cancel { id: c } if c == id);
    }
    assert!(cancelled);
}

#[tokio::test]
async fn the_gateway_takes_a_call_back() {
    let hang = invoke("1", "system.run", &command("hang", FRIEND));
    let cancel = event(
        "node.invoke.cancel",
        &json!({"invokeId": "1", "nodeId": "n"}),
    );
    let quick = invoke("2", "system.run", &command("id", FRIEND));
    let script = Script {
        events: vec![hang, quick],
        then: vec![cancel],
        ..Script::default()
    };
    let mut rig = node(Rules::default(), script).await;
    let ToSupervisor::Tool { id: hanging, .. } = rig.told().await else {
        panic!("no call");
    };
    rig.call().await;
    let told = rig.told().await;
    assert!(
        matches!(told, ToSupervisor::Cancel { id } if id == hanging),
        "{told:?}"
    );
    assert_eq!(rig.asked("node.invoke.result").len(), 1, "of the other");
}

#[tokio::test]
async fn a_drain_lets_a_command_end() {
    let hang = invoke("1", "system.run", &command("hang", FRIEND));
    let mut rig = asked(vec![hang]).await;
    let ToSupervisor::Tool { id, .. } = rig.told().await else {
        panic!("no call");
    };
    rig.send(ToGateway::Drain {
        deadline_ms: 60_000,
    })
    .await;
    let answer = ToolAnswer::Done(ToolReply {
        text: String::new(),
        details: json!({"exitCode": 7}),
    });
    rig.send(ToGateway::Answer { id, answer }).await;
    assert!(matches!(rig.told().await, ToSupervisor::Drained));
    assert_eq!(payload(&rig.result("1").await)["exitCode"], 7);
}

#[tokio::test]
async fn an_approval_is_asked_for_by_its_command() {
    let script = Script {
        protocol: Some(4),
        ..Script::default()
    };
    let mut rig = node(Rules::default(), script.clone()).await;
    let connected = OwnState::Connected { protocol: 4 };
    assert_eq!(rig.state(OwnRole::Node).await, connected);
    let device = rig.asked("connect")[0]["params"]["device"]["id"].clone();

    // The same seeds, so the same device.
    let pending = |device: &Value| vec![json!({"requestId": "r-9", "nodeId": device})];
    let waiting = Script {
        pending: pending(&device),
        ..script
    };
    let mut rig = node(Rules::default(), waiting).await;
    assert_eq!(rig.state(OwnRole::Node).await, connected);
    let remedy = "run `openclaw nodes approve r-9` on its host".to_owned();
    assert_eq!(
        rig.state(OwnRole::Node).await,
        OwnState::Unpaired { remedy }
    );
    rig.upstream.script.lock().unwrap().pending = pending(&json!("another"));
    assert_eq!(rig.state(OwnRole::Node).await, connected);
}
