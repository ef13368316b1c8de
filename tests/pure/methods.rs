//! Every method of both gateways, judged for an administrator, a reader, and a key that is bound to
//! the agent `work`: by the table in `methods.txt`, read once more here.

use clawsec_user::gateway::probe::{Judge, Judged};
use serde_json::{Value, json};

const TABLE: &str = include_str!("../../clawsec-user/src/policy/methods.txt");
const ADMIN: &str = "key-of-the-administrator";
const READER: &str = "key-of-the-one-who-reads";
const BOUND: &str = "key-of-the-one-who-works";

fn judge() -> Judge {
    let policy = json!({
        "gateway": { "tls": { "enabled": false } },
        "security": {
            "auth": { "type": "token", "tokens": [
                { "id": "admin", "token": ADMIN, "scopes": ["operator.admin"] },
                { "id": "reader", "token": READER, "scopes": ["operator.read"] },
                { "id": "bound", "token": BOUND, "agents": ["work"] },
            ]},
            "audit": { "enabled": false, "path": "/audit.log" },
            "rateLimit": { "enabled": false, "requests": 1 },
        },
        "agents": { "list": [{ "id": "main", "default": true }, { "id": "work" }] },
    });
    Judge::new(&policy.to_string()).expect("compile the policy")
}

/// What becomes of a request: nothing to say, or the words of the answer.
fn told(judge: &Judge, key: &str, is_new: bool, method: &str, params: &Value) -> Option<String> {
    let frame = json!({ "type": "req", "id": "1", "method": method, "params": params });
    match judge.frame(key, false, is_new, frame.to_string().as_bytes()) {
        Some(Judged::Forwarded) => None,
        Some(Judged::Answered(answer)) => {
            let answer: Value = serde_json::from_str(&answer).expect("parse the answer");
            Some(
                answer["error"]["message"]
                    .as_str()
                    .expect("words")
                    .to_owned(),
            )
        }
        other => panic!("{method}: {other:?}"),
    }
}

#[test]
fn every_method_of_both_gateways_is_for_whom_it_is() {
    let judge = judge();
    let mut judged = [0, 0];
    for line in TABLE.lines().filter(|line| !line.starts_with('#')) {
        let [name, class, v3, v4, reach] = line.split(' ').collect::<Vec<_>>()[..] else {
            panic!("{line}");
        };
        if name == "connect" {
            continue;
        }
        for (number, needs) in [v3, v4].into_iter().enumerate() {
            let is_new = number == 1;
            judged[number] += usize::from(needs != "-");
            // The tool or the command that those that run one name.
            let of =
                |agent: &str| json!({ "name": "tts", "command": "camera.snap", "agentId": agent });
            let asks = |key, agent| told(&judge, key, is_new, name, &of(agent));
            let missing = |scope: &str| Some(format!("missing scope: operator.{scope}"));
            let row = format!("{line}, protocol {}", number + 3);
            let expected = match needs {
                _ if class == "node" => {
                    [(); 3].map(|()| Some("unauthorized role: operator".to_owned()))
                }
                // What a gateway does not have is for administrators, who hear so from it.
                "-" => [None, missing("admin"), missing("admin")],
                "read" => [None, None, None],
                "write" | "talk" => [None, missing(needs), None],
                scope => [None, missing(scope), missing(scope)],
            };
            let [admin, reader, bound] = expected;
            assert_eq!(asks(ADMIN, "work"), admin, "{row}: an administrator");
            assert_eq!(asks(READER, "work"), reader, "{row}: a reader");
            let answer = asks(BOUND, "work");
            match (bound, reach) {
                (None, "own" | "any") => assert_eq!(answer, None, "{row}: of its own agent"),
                (None, _) => {
                    assert_eq!(answer.as_deref(), Some("agent not allowed"), "{row}: bound");
                }
                (words, _) => assert_eq!(answer, words, "{row}: bound"),
            }
            assert!(asks(BOUND, "main").is_some(), "{row}: of another's agent");
        }
    }
    assert!(judged[0] >= 79 && judged[1] >= 460, "{judged:?}");
}
