//! Each gateway's own Control UI in headless Chromium, through clawsec: a person signs in, connects,
//! says something and sees the answer; and is told in words what is refused.

use std::process::Stdio;

use serde_json::{Value, json};
use xtask::lab::{GATEWAY_INSIDE, Host};

use super::gateway::{Protected, driver};
use super::product::Product;
use crate::system::daemon::{KEY, UPSTREAM_TOKEN};

const READER: &str = "reader-key-of-thirty-two-characters";

/// What the browser made of its steps, in order.
struct Seen(Vec<Value>);

impl Seen {
    /// The last value of this step.
    fn last(&self, step: &str) -> &Value {
        let of = |seen: &&Value| seen["step"] == step;
        let found = self.0.iter().rev().find(of);
        found.map_or(&Value::Null, |seen| &seen["value"])
    }
}

/// Runs the steps in a browser of its own on the allowed host.
fn browse(protected: &Protected, steps: &[Value]) -> Seen {
    let folder = tempfile::tempdir().expect("make a folder for the browser");
    let options = json!({
        "certificate": protected.daemon.path("cert.pem"), "profile": folder.path().join("profile"),
        "deadlineMs": 60_000, "steps": steps,
    });
    std::fs::create_dir(folder.path().join("profile")).expect("make the browser's profile");
    // Node itself: any version has what the driver needs.
    let node = Product::Openclaw.node_bin().join("node");
    let output = protected
        .daemon
        .lab
        .command(Host::Inside, &node.to_string_lossy())
        .arg(driver("browser.cjs"))
        .arg(options.to_string())
        .env("HOME", folder.path())
        .stdin(Stdio::null())
        .output()
        .expect("run the browser");
    let text = String::from_utf8_lossy(&output.stdout);
    let seen = text
        .lines()
        .map(|line| serde_json::from_str(line).expect("a line of JSON"));
    let seen: Vec<Value> = seen.collect();
    let errors = String::from_utf8_lossy(&output.stderr);
    let done = output.status.success() && seen.len() == steps.len();
    assert!(done, "{seen:#?}\n{errors}\n{}", protected.logs());
    Seen(seen)
}

fn page(path: &str) -> String {
    format!("https://{GATEWAY_INSIDE}:8443{path}")
}

/// The steps of a person who signs in on clawsec's page and comes to the Control UI.
fn sign_in(product: Product, key: &str) -> Vec<Value> {
    // The older one asks for its token under Overview, the newer one at once.
    let path = match product {
        Product::Clawdbot => "/overview",
        Product::Openclaw => "/",
    };
    let app = format!("document.querySelector('{}-app') !== null", product.name());
    vec![
        json!(["look", { "width": 1280, "height": 800 }]),
        json!(["go", page(path)]),
        json!(["type", ["#key", key]]),
        json!(["click", ["button", "Sign in"]]),
        json!(["until", app]),
    ]
}

/// Types `key` as the Control UI's token and connects; `shows` is what the page then says.
fn connect(product: Product, key: &str, shows: &str) -> Vec<Value> {
    let field = match product {
        Product::Clawdbot => r#"input[placeholder="CLAWDBOT_GATEWAY_TOKEN"]"#,
        Product::Openclaw => "input[type=password]",
    };
    vec![
        json!(["type", [field, key]]),
        json!(["click", ["button", "Connect"]]),
        json!(["until", shows]),
    ]
}

/// Says something in the chat.
fn say(product: Product, text: &str) -> Vec<Value> {
    let mut steps = Vec::new();
    if product == Product::Clawdbot {
        steps.push(json!(["click", ["a", "Chat"]]));
    }
    let field = match product {
        Product::Clawdbot => "textarea:not([disabled])",
        Product::Openclaw => r#"textarea[placeholder^="Message"]"#,
    };
    steps.extend([json!(["type", [field, text]]), json!(["enter", null])]);
    steps
}

/// A word of the page once it is connected.
fn connected(product: Product) -> &'static str {
    match product {
        Product::Clawdbot => "/Connected/.test(text())",
        Product::Openclaw => r#"find('textarea[placeholder^="Message"]').length > 0"#,
    }
}

#[test]
fn clawdbots_control_ui_works_with_the_key_only() {
    works_with_the_key_only(Product::Clawdbot);
}

#[test]
fn openclaws_control_ui_works_with_the_key_only() {
    works_with_the_key_only(Product::Openclaw);
}

fn works_with_the_key_only(product: Product) {
    let protected = Protected::start(product, "ui", |config| {
        config["security"]["auth"] = json!({ "type": "token", "tokens": [
            KEY, { "id": "reader", "token": READER, "scopes": ["operator.read"] },
        ]});
    });
    let daemon = &protected.daemon;

    // A wrong key stays outside, then the right one; and the UI has to bring a key of its own.
    let mut steps = vec![
        json!(["go", page("/")]),
        json!(["type", ["#key", UPSTREAM_TOKEN]]),
        json!(["enter", null]),
        json!(["until", "text().includes('This key is not valid.')"]),
    ];
    steps.extend(sign_in(product, KEY));
    let mismatch = "/token mismatch|token rejected|unauthorized/i.test(text())";
    steps.extend(connect(product, UPSTREAM_TOKEN, mismatch));
    steps.extend(connect(product, KEY, connected(product)));
    steps.extend(say(product, "hello from the page"));
    steps.push(json!(["until", "text().includes('echo:')"]));
    steps.push(json!(["cookies", null]));
    steps.push(json!(["go", page("/__clawsec/sign-in")]));
    steps.push(json!(["click", ["button", "Sign out"]]));
    steps.push(json!(["until", "text().includes('Signed out')"]));
    steps.push(json!(["go", page("/")]));
    steps.push(json!(["eval", "text()"]));
    let seen = browse(&protected, &steps);
    let cookies = seen.last("cookies").as_array().cloned().unwrap_or_default();
    let cookie = cookies
        .iter()
        .find(|cookie| cookie["name"] == "__Host-clawsec-ui");
    let cookie = cookie.unwrap_or_else(|| panic!("{cookies:?}"));
    assert_eq!(
        (&cookie["httpOnly"], &cookie["secure"], &cookie["sameSite"]),
        (&json!(true), &json!(true), &json!("Strict")),
    );
    let words = seen.last("eval").as_str().unwrap_or_default();
    assert!(words.contains("Sign in"), "{words}");
    for (name, action, outcome, reason) in [
        ("the wrong key", "sign_in", "deny", "credential_unknown"),
        ("the key", "sign_in", "allow", "ok"),
        ("the wrong token", "connect", "deny", "credential_unknown"),
        ("the token", "connect", "allow", "ok"),
        ("the way out", "sign_out", "allow", "ok"),
    ] {
        daemon.await_record(name, |record| {
            record["action"] == action && record["outcome"] == outcome && record["reason"] == reason
        });
    }

    // A reader may look, and is told why nothing is said: by clawsec, or by the newer page itself,
    // which knows the scopes that clawsec left it.
    let (words, reason) = match product {
        Product::Clawdbot => ("missing scope: operator.write", "scope_missing"),
        Product::Openclaw => ("requires operator.write access", "ok"),
    };
    let mut steps = sign_in(product, READER);
    steps.extend(connect(product, READER, connected(product)));
    steps.extend(say(product, "let me in"));
    steps.push(json!(["until", format!("text().includes('{words}')")]));
    browse(&protected, &steps);
    daemon.await_record("the reader", |record| {
        record["principal"] == "reader" && record["reason"] == reason
    });
}

/// An agent's page: its parts and its live reload work, and it has no origin.
#[test]
fn a_canvas_lives_in_a_place_of_its_own() {
    let protected = Protected::start(Product::Clawdbot, "canvas", |_| {});
    let canvas = protected.file("clawd/canvas");
    std::fs::create_dir_all(&canvas).expect("make the canvas");
    let write = |name: &str, text: &str| {
        std::fs::write(canvas.join(name), text).expect("write a file of the canvas");
    };
    write("part.js", "say('part')");
    write(
        "page.html",
        "<!doctype html><p id=out></p><script>const out = document.getElementById('out');
         const say = (word) => out.append(word + ' ');</script><script src=part.js></script><script>
         say('origin=' + origin); try { say(localStorage.length) } catch { say('no-storage') }
         fetch('/v1/models').then(() => say('api'), () => say('no-api'));</script>",
    );
    let mut steps = sign_in(Product::Clawdbot, KEY);
    steps.extend([
        json!(["go", page("/__clawdbot__/canvas/page.html")]),
        json!(["until", "/api/.test(text())"]),
        json!(["eval", "text()"]),
    ]);
    let seen = browse(&protected, &steps);
    let words = seen.last("eval").as_str().unwrap_or_default();
    for word in ["part", "origin=null", "no-storage", "no-api"] {
        assert!(words.contains(word), "{words}");
    }
    let records = protected.daemon.await_record("the live reload", |record| {
        record["action"] == "upgrade" && record["detail"] == "GET /__clawdbot/ws"
    });
    assert_eq!(records["outcome"], "allow", "{records}");
}
