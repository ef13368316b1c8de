//! The table of methods against what the running gateways say of themselves, and every method of
//! both tried with keys that may and may not.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use clawsec_user::policy::{MethodClass, Protocol, Scope, classify_method};
use serde_json::{Value, json};

use super::gateway::{Protected, with_key};
use super::product::Product;
use crate::system::daemon::KEY;

const READER: &str = "reader-key-of-thirty-two-characters";

#[test]
fn clawdbots_are_all_known_and_judged() {
    are_all_known_and_judged(Product::Clawdbot, Protocol::V3, 79);
}

#[test]
fn openclaws_are_all_known_and_judged() {
    are_all_known_and_judged(Product::Openclaw, Protocol::V4, 460);
}

fn are_all_known_and_judged(product: Product, protocol: Protocol, at_least: usize) {
    let protected = Protected::start(product, "methods", |config| {
        config["security"]["auth"] = json!({ "type": "token", "tokens": [
            KEY, { "id": "reader", "token": READER, "scopes": ["operator.read"] },
        ]});
        config["security"]["rateLimit"]["requests"] = json!(100_000);
    });
    let mut options = with_key(KEY, &json!([]));
    options["scopes"] = json!(["operator.admin"]);
    let hello = protected.client(&options);
    let advertised = hello.hello()["payload"]["features"]["methods"].clone();
    let advertised: BTreeSet<String> = serde_json::from_value(advertised).expect("a list of names");
    assert!(advertised.len() >= at_least, "{}", advertised.len());
    let unknown: Vec<_> = advertised
        .iter()
        .filter(|name| !classify_method(protocol, name).known)
        .collect();
    assert!(unknown.is_empty(), "methods.txt does not have {unknown:?}");

    // Every method with a key that reads: what needs more is refused by clawsec in the gateway's
    // words, and the gateway never hears of it.
    let refused: Vec<(String, String)> = advertised
        .iter()
        .filter(|name| *name != "connect")
        .filter_map(|name| {
            let method = classify_method(protocol, name);
            let role = || "unauthorized role: operator".to_owned();
            let message = match method.scope {
                Some(Scope::Read) => return None,
                None if method.class == MethodClass::Node => role(),
                Some(scope) => format!("missing scope: {}", scope.as_str()),
                None => role(),
            };
            Some((name.clone(), message))
        })
        .collect();
    // What names a tool has to say which, before its scope is looked at.
    let call = |(name, _): &(String, String)| json!([name, { "name": "x", "command": "x" }]);
    let calls: Vec<Value> = refused.iter().map(call).collect();
    let mut options = with_key(READER, &json!(calls));
    options["scopes"] = json!(["operator.read"]);
    let heard = protected.client(&options);
    let answers = heard.answers();
    assert_eq!(answers.len(), refused.len(), "{:?}", heard.close());
    for ((name, message), answer) in refused.iter().zip(answers) {
        assert_eq!(answer["ok"], false, "{name}");
        assert_eq!(answer["error"]["message"], *message, "{name}: {answer}");
    }
    // Repeats of one source and reason are summed up; none is lost.
    let denied = |record: &&Value| record["principal"] == "reader" && record["outcome"] == "deny";
    let mut counted = 0;
    let deadline = Instant::now() + Duration::from_secs(20);
    while counted < refused.len() as u64 && Instant::now() < deadline {
        std::thread::sleep(Duration::from_millis(200));
        let records = protected.daemon.audit();
        let counts = records.iter().filter(denied).map(|record| &record["count"]);
        counted = counts.filter_map(Value::as_u64).sum();
    }
    assert_eq!(counted, refused.len() as u64);
}
