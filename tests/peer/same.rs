//! The same requests straight to the gateway and through clawsec: where policy allows, the answers are
//! the same. What differs on purpose stands in a table, with its reason.

mod compare;
mod requests;

use std::collections::BTreeSet;
use std::fs;
use std::process::Command;

use serde_json::{Value, json};
use xtask::lab::{GATEWAY_INSIDE, Host};

use self::compare::{Answer, differences, plain};
use self::requests::{Request, calls, requests};
use super::gateway::{Heard, Protected};
use super::product::Product;
use crate::system::daemon::{KEY, UPSTREAM_TOKEN};

/// What clawsec changes: of which product's answers, at which request (`*`: at any), what (a header,
/// `status`, `body` or `res`), and why.
type Meant = (Option<Product>, &'static str, &'static str, &'static str);

const OLD: Option<Product> = Some(Product::Clawdbot);
const NEW: Option<Product> = Some(Product::Openclaw);
const OWN: &str = "an answer of clawsec's own; it says no more than the JSON";
const JUDGED: &str =
    "judged before the gateway sees it: the same status and type, in clawsec's words";

const MEANT: &[Meant] = &[
    (None, "*", "x-request-id", "ties an answer to its records"),
    (
        OLD,
        "*",
        "content-security-policy",
        "no other site may frame the gateway's pages",
    ),
    (
        OLD,
        "an avatar",
        "referrer-policy",
        "what an agent may have made is opened in a sandbox",
    ),
    (
        OLD,
        "an avatar",
        "x-content-type-options",
        "what an agent may have made is opened in a sandbox",
    ),
    (
        NEW,
        "an avatar",
        "content-security-policy",
        "what an agent may have made is opened in a sandbox",
    ),
    (NEW, "*", "permissions-policy", OWN),
    (NEW, "*", "referrer-policy", OWN),
    (NEW, "*", "x-content-type-options", OWN),
    (None, "a chat that is no JSON", "body", JUDGED),
    (None, "a tool that is no JSON", "body", JUDGED),
    (None, "a tool without a body", "body", JUDGED),
    (NEW, "a tool without a name", "body", JUDGED),
    (None, "node.invoke {}", "res", JUDGED),
    (
        OLD,
        "models without a key",
        "*",
        "an API's path without a key is refused; the gateway shows its page",
    ),
];

#[test]
fn clawdbot_answers_the_same_through_clawsec() {
    answers_the_same(Product::Clawdbot);
}

#[test]
fn openclaw_answers_the_same_through_clawsec() {
    answers_the_same(Product::Openclaw);
}

fn answers_the_same(product: Product) {
    let protected = Protected::start(product, "same", |config| {
        config["security"]["auth"] = json!({ "type": "token", "tokens": [KEY] });
        config["tools"] = json!({});
    });
    let mut found = BTreeSet::new();
    let requests = requests(product);
    for request in &requests {
        let direct = ask(&protected, request, Way::Direct);
        let through = ask(&protected, request, Way::Through);
        for (what, text) in differences(&direct, &through) {
            found.insert((request.name.to_owned(), what, text));
        }
        if request.both_protocols {
            let second = ask(&protected, request, Way::ThroughHttp2);
            for (what, text) in differences(&through, &second) {
                found.insert((format!("{} over HTTP/2", request.name), what, text));
            }
        }
    }
    let calls = calls(product);
    let asked: Vec<Value> = calls
        .iter()
        .map(|(method, params)| json!([method, params]))
        .collect();
    // What the calls themselves make is there from then on.
    hear(&protected, &asked, Way::Direct);
    let direct = hear(&protected, &asked, Way::Direct);
    let through = hear(&protected, &asked, Way::Through);
    assert_eq!(direct.answers().len(), calls.len(), "{:?}", direct.close());
    for (place, (method, params)) in calls.iter().enumerate() {
        let told = |heard: &Heard| {
            plain(
                &heard
                    .answers()
                    .get(place)
                    .map_or(Value::Null, |v| (*v).clone()),
            )
        };
        let (one, other) = (told(&direct), told(&through));
        if one != other {
            found.insert((
                format!("{method} {params}"),
                "res".into(),
                format!("{one}\n  {other}"),
            ));
        }
    }
    let hello = |heard: &Heard, pointer: &str| heard.hello().pointer(pointer).cloned();
    for pointer in [
        "/ok",
        "/payload/protocol",
        "/payload/features",
        "/payload/policy",
    ] {
        let (one, other) = (hello(&direct, pointer), hello(&through, pointer));
        if one != other {
            found.insert((
                "hello".into(),
                pointer.into(),
                format!("{one:?}\n  {other:?}"),
            ));
        }
    }
    let of_product = |meant: &&Meant| meant.0.is_none_or(|of| of == product);
    let fits = |meant: &Meant, name: &str, what: &str| {
        (meant.1 == "*" || meant.1 == name) && (meant.2 == "*" || meant.2 == what)
    };
    let mut never: Vec<&Meant> = MEANT.iter().filter(of_product).collect();
    never.retain(|meant| !found.iter().any(|(name, what, _)| fits(meant, name, what)));
    assert!(never.is_empty(), "these do not differ any more: {never:?}");
    let (meant, strange): (Vec<_>, Vec<_>) = found.into_iter().partition(|(name, what, _)| {
        let mut rows = MEANT.iter().filter(of_product);
        rows.any(|row| fits(row, name, what))
    });
    println!(
        "{}: {} requests and {} calls, {} differences that are meant",
        product.name(),
        requests.len(),
        calls.len(),
        meant.len()
    );
    let lines: Vec<String> = strange
        .iter()
        .map(|(name, what, text)| format!("{name}: {what}: {text}"))
        .collect();
    assert!(strange.is_empty(), "{}", lines.join("\n"));
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Way {
    Direct,
    Through,
    ThroughHttp2,
}

fn ask(protected: &Protected, request: &Request, way: Way) -> Answer {
    let host = if way == Way::Direct {
        Host::Gateway
    } else {
        Host::Inside
    };
    let base = match way {
        Way::Direct => "http://127.0.0.1:18789".to_owned(),
        _ => format!("https://{GATEWAY_INSIDE}:8443"),
    };
    let token = if way == Way::Direct {
        UPSTREAM_TOKEN
    } else {
        KEY
    };
    let heads = protected.file("heads");
    let mut command: Command = protected.daemon.lab.command(host, "curl");
    command
        .args(["-sS", "--max-time", "60", "--path-as-is", "--cacert"])
        .arg(protected.daemon.path("cert.pem"))
        .arg(if way == Way::ThroughHttp2 {
            "--http2"
        } else {
            "--http1.1"
        })
        .arg("--dump-header")
        .arg(&heads)
        .args(["-X", request.method])
        .args(&request.arguments);
    if request.method == "HEAD" {
        command.arg("--head");
    }
    if request.with_key {
        command
            .arg("-H")
            .arg(format!("Authorization: Bearer {token}"));
    }
    if let Some(body) = &request.body {
        let file = protected.file("body");
        fs::write(&file, body).expect("write a body");
        command
            .arg("--data-binary")
            .arg(format!("@{}", file.display()));
    }
    let mut output = command
        .arg(format!("{base}{}", request.path))
        .output()
        .expect("run curl");
    if request.method == "HEAD" {
        // curl prints the head again.
        output.stdout.clear();
    }
    let heads = fs::read_to_string(heads).unwrap_or_default();
    Answer::read(&heads, &output.stdout)
}

/// A client that asks one thing after the other.
fn hear(protected: &Protected, calls: &[Value], way: Way) -> Heard {
    let scopes = json!([
        "operator.admin",
        "operator.read",
        "operator.write",
        "operator.approvals"
    ]);
    let options = json!({ "auth": { "token": if way == Way::Direct { UPSTREAM_TOKEN } else { KEY } },
        "deviceFile": protected.file("device.pem"), "scopes": scopes, "calls": calls, "deadlineMs": 120_000 });
    if way == Way::Direct {
        protected.client_on_its_host(&options)
    } else {
        protected.client(&options)
    }
}
