//! What is written, and what is found different.

use std::path::{Path, PathBuf};

use serde_json::{Value, json};
use zeroize::Zeroizing;

use super::{Product, Severity, Unsupported, drift, read, render};
use crate::config::{Config, Sources, compile};

mod lacking;

struct Variables;

impl Sources for Variables {
    fn variable(&self, _name: &str) -> Option<Zeroizing<String>> {
        Some(Zeroizing::new("a-secret-of-clawsec-s-own".to_owned()))
    }

    fn secret_file(&self, _dir: &Path, _name: &str) -> std::io::Result<Zeroizing<String>> {
        Err(std::io::Error::other("no file"))
    }

    fn home(&self) -> Option<PathBuf> {
        Some(PathBuf::from("/root"))
    }
}

fn config(edit: impl FnOnce(&mut Value)) -> Config {
    let mut document = json!({
        "gateway": { "upstreamToken": "${UPSTREAM_TOKEN}", "tls": { "enabled": false } },
        "security": {
            "auth": { "type": "token", "tokens": [{ "id": "desk", "token": "${DESK}" },
                { "id": "phone", "token": format!("sha256:{}", "0".repeat(64)), "agents": ["work"] }] },
            "network": { "allowedIPs": ["10.0.0.0/8"] },
            "sandbox": { "enabled": true, "nodeHost": { "name": "clawsec" } },
            "users": { "allowList": ["+15551234567", "telegram:12"] },
            "groups": { "allowList": ["1203@g.us"] },
        },
        "tools": { "deny": ["cron", "group:nodes", "gateway"] },
        "agents": { "list": [{ "id": "work", "workspace": "/srv/work", "tools": { "deny": ["browser"] } }] },
    });
    edit(&mut document);
    compile(&document.to_string(), Path::new("clawsec.json"), &Variables)
        .unwrap_or_else(|error| panic!("{error}"))
}

fn rendered(product: Product, config: &Config) -> Value {
    let text = render(product, config, &[]).unwrap();
    assert!(!text.contains("a-secret-of"), "{text}");
    read(&text).unwrap_or_else(|error| panic!("{error}: {text}"))
}

#[test]
fn what_is_written_is_what_is_asked_for() {
    for product in Product::BOTH {
        type Row<'a> = (&'a str, fn(&mut Value));
        let rows: &[Row<'_>] = &[
            ("all of it", |_| {}),
            ("nobody bound", |document| {
                document["security"]["auth"]["tokens"][1]["agents"] = Value::Null;
                let token = document["security"]["auth"]["tokens"][1].as_object_mut();
                token.unwrap().remove("agents");
            }),
            ("everybody may write", |document| {
                document["security"]
                    .as_object_mut()
                    .unwrap()
                    .remove("users");
                document["security"]
                    .as_object_mut()
                    .unwrap()
                    .remove("groups");
            }),
            ("nobody may write", |document| {
                document["security"]["users"]["allowList"] = json!([]);
                document["security"]["groups"]["allowList"] = json!([]);
            }),
            ("no sandbox", |document| {
                document["security"]
                    .as_object_mut()
                    .unwrap()
                    .remove("sandbox");
            }),
            ("a profile and an allow list", |document| {
                document["tools"] = json!({ "profile": "coding", "allow": ["read", "group:web"] });
            }),
            ("another port, IPv6", |document| {
                document["gateway"]["upstream"] = json!("http://[::1]:19000");
            }),
        ];
        for (name, edit) in rows {
            let config = config(edit);
            let found = drift(product, &config, &rendered(product, &config)).unwrap();
            assert_eq!(found, [], "{} {name}", product.name());
        }
    }
}

#[test]
fn each_product_has_its_own_words() {
    let config = config(|_| {});
    let old = rendered(Product::Clawdbot, &config);
    let new = rendered(Product::Openclaw, &config);
    for document in [&old, &new] {
        assert_eq!(document["gateway"]["bind"], "loopback");
        assert_eq!(document["gateway"]["auth"]["token"], "${UPSTREAM_TOKEN}");
        assert_eq!(document["gateway"]["port"], 18789);
        assert_eq!(
            document["tools"]["deny"],
            json!(["cron", "group:nodes", "gateway"])
        );
        assert_eq!(
            document["channels"]["whatsapp"]["allowFrom"],
            json!(["+15551234567"])
        );
        assert_eq!(
            document["channels"]["whatsapp"]["groups"],
            json!({ "1203@g.us": {} })
        );
        assert_eq!(
            document["channels"]["telegram"]["allowFrom"],
            json!(["15551234567", "12"])
        );
        assert_eq!(
            document["agents"]["list"][0],
            json!({ "id": "main", "default": true })
        );
    }
    assert_eq!(
        old["tools"]["exec"],
        json!({ "host": "node", "node": "clawsec", "security": "full", "ask": "off" })
    );
    assert_eq!(
        new["tools"]["exec"],
        json!({ "host": "node", "node": "clawsec", "mode": "full" })
    );
    assert_eq!(
        old["agents"]["list"][1]["tools"]["deny"],
        json!(["browser", "group:fs"])
    );
    assert_eq!(
        new["agents"]["list"][1]["tools"]["fs"],
        json!({ "workspaceOnly": true })
    );
}

#[test]
fn trusted_proxy_is_openclaw_s_alone() {
    let config = config(|document| {
        document["gateway"] = json!({ "upstreamAuth": "trustedProxy" });
    });
    assert_eq!(
        render(Product::Clawdbot, &config, &[]),
        Err(Unsupported::TrustedProxy)
    );
    let document = rendered(Product::Openclaw, &config);
    assert_eq!(document["gateway"]["trustedProxies"], json!(["127.0.0.1"]));
    assert_eq!(
        document["gateway"]["auth"],
        json!({ "mode": "trusted-proxy", "trustedProxy": { "userHeader": "x-forwarded-user",
            "allowLoopback": true, "allowUsers": ["desk", "phone"] } })
    );
    assert_eq!(drift(Product::Openclaw, &config, &document).unwrap(), []);
}

#[test]
fn what_differs_is_named() {
    use Severity::{Critical, Warn};
    /// Where in the gateway's file, what stands there, and the finding's id and severity.
    type Row<'a> = (&'a str, Value, &'a str, Severity);
    let rows: &[Row<'_>] = &[
        ("/gateway/bind", json!("lan"), "gateway.bind", Critical),
        ("/gateway/port", json!(1), "gateway.port", Warn),
        (
            "/gateway/auth/mode",
            json!("none"),
            "gateway.auth.mode",
            Critical,
        ),
        (
            "/gateway/auth/mode",
            json!("password"),
            "gateway.auth.mode",
            Warn,
        ),
        (
            "/gateway/auth/token",
            json!("another"),
            "gateway.auth.token",
            Warn,
        ),
        (
            "/gateway/trustedProxies",
            json!(["10.0.0.1"]),
            "gateway.trustedProxies",
            Warn,
        ),
        (
            "/gateway/tailscale",
            json!({ "mode": "funnel" }),
            "gateway.tailscale.mode",
            Critical,
        ),
        (
            "/tools/deny",
            json!(["cron", "gateway"]),
            "tools.deny",
            Critical,
        ),
        (
            "/tools/exec/host",
            json!("gateway"),
            "tools.exec.host",
            Critical,
        ),
        (
            "/tools/exec/node",
            json!("other"),
            "tools.exec.node",
            Critical,
        ),
        (
            "/tools/elevated",
            json!({ "allowFrom": { "whatsapp": ["+1"] } }),
            "tools.elevated.enabled",
            Critical,
        ),
        (
            "/tools/agentToAgent/enabled",
            json!(true),
            "tools.agentToAgent.enabled",
            Critical,
        ),
        ("/session/dmScope", json!("main"), "session.dmScope", Warn),
        (
            "/channels/defaults/groupPolicy",
            json!("open"),
            "channels.defaults.groupPolicy",
            Critical,
        ),
        (
            "/channels/whatsapp/dmPolicy",
            json!("open"),
            "channels.*.dmPolicy",
            Critical,
        ),
        (
            "/channels/whatsapp/allowFrom",
            json!(["+1 555", "*"]),
            "channels.*.allowFrom",
            Critical,
        ),
        (
            "/channels/whatsapp/groupAllowFrom",
            json!(["*"]),
            "channels.*.groupAllowFrom",
            Critical,
        ),
        (
            "/channels/whatsapp/groupPolicy",
            json!("open"),
            "channels.*.groupPolicy",
            Critical,
        ),
        (
            "/channels/whatsapp/groups",
            json!({ "9@g.us": {} }),
            "channels.*.groups",
            Critical,
        ),
        (
            "/channels/whatsapp/accounts",
            json!({ "b": { "dmPolicy": "open" } }),
            "channels.*.dmPolicy",
            Critical,
        ),
        ("/channels/matrix", json!({}), "channels.unknown", Warn),
        (
            "/agents/list/1/workspace",
            json!("/srv/other"),
            "agents.*.workspace",
            Warn,
        ),
        (
            "/agents/list/1/tools",
            json!({ "deny": ["group:fs"], "fs": { "workspaceOnly": true } }),
            "agents.*.tools.deny",
            Critical,
        ),
        (
            "/agents/list/1/tools/exec",
            json!({ "host": "gateway" }),
            "agents.*.tools.exec.host",
            Critical,
        ),
        (
            "/agents/list/0/default",
            json!(false),
            "agents.default",
            Critical,
        ),
        ("/agents/list/1/id", json!("play"), "agents.list", Warn),
        ("/$include", json!("./more.json5"), "include", Warn),
    ];
    let config = config(|_| {});
    for product in Product::BOTH {
        let sound = rendered(product, &config);
        for (pointer, value, id, severity) in rows {
            let mut document = sound.clone();
            put(&mut document, pointer, value.clone());
            if *pointer == "/agents/list/0/default" {
                put(&mut document, "/agents/list/1/default", json!(true));
            }
            let found = drift(product, &config, &document).unwrap();
            let found: Vec<_> = found
                .iter()
                .map(|drift| (drift.id.as_str(), drift.severity))
                .collect();
            let id = format!("gateway.drift.{id}");
            assert_eq!(
                found,
                [(id.as_str(), *severity)],
                "{} {pointer} {value}",
                product.name()
            );
        }
    }
}

#[test]
fn isolated_agents_keep_their_files_apart() {
    let config = config(|_| {});
    for product in Product::BOTH {
        let mut document = rendered(product, &config);
        put(
            &mut document,
            "/agents/list/1/tools",
            json!({ "deny": ["browser"] }),
        );
        let found = drift(product, &config, &document).unwrap();
        assert_eq!(found.len(), 1, "{found:?}");
        assert_eq!(found[0].id, "gateway.drift.agents.*.tools.fs");
        assert_eq!(found[0].severity, Severity::Critical);
        // openclaw's own spelling of the same.
        let entry = document["agents"]["list"][1].clone();
        document["agents"] = json!({ "entries": { "work": entry, "main": {} } });
        assert_eq!(drift(product, &config, &document).unwrap().len(), 1);
    }
}

#[test]
fn stricter_is_no_drift() {
    let config = config(|_| {});
    for product in Product::BOTH {
        let mut document = rendered(product, &config);
        put(&mut document, "/tools/deny", json!(["*"]));
        put(&mut document, "/channels/whatsapp/allowFrom", json!([]));
        put(
            &mut document,
            "/channels/whatsapp/dmPolicy",
            json!("disabled"),
        );
        put(
            &mut document,
            "/gateway/auth/token",
            json!("${ANOTHER_NAME}"),
        );
        assert_eq!(drift(product, &config, &document).unwrap(), []);
    }
}

fn put(document: &mut Value, pointer: &str, value: Value) {
    let (parent, key) = pointer.rsplit_once('/').unwrap();
    let mut at = document;
    for part in parent.split('/').skip(1) {
        at = match at {
            Value::Array(items) => &mut items[part.parse::<usize>().unwrap()],
            other => other
                .as_object_mut()
                .unwrap()
                .entry(part)
                .or_insert_with(|| json!({})),
        };
    }
    at[key] = value;
}
