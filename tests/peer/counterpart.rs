//! What `clawsec render` writes is taken by each gateway, and `clawsec check` finds what differs.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::{Command, Output};

use serde_json::Value;
use xtask::lab::{Host, Lab};

use super::product::Product;
use crate::system::daemon::{UPSTREAM_TOKEN, clawsec};

/// As many channels, agents and lists as there are words for.
const CONFIGURATION: &str = r#"{
  gateway: { upstreamToken: "${UPSTREAM_TOKEN}", tls: { enabled: false } },
  security: {
    auth: { type: "token", tokens: [
      { id: "desk", token: "sha256:1111111111111111111111111111111111111111111111111111111111111111" },
      { id: "phone", token: "sha256:2222222222222222222222222222222222222222222222222222222222222222", agents: ["work"] },
    ] },
    network: { allowedIPs: ["10.0.0.0/8"] },
    sandbox: { enabled: true, nodeHost: {} },
    users: { allowList: ["+15551234567", "telegram:12", "discord:99", "slack:U1", "googlechat:users/1",
                         "msteams:aa", "signal:+1555", "imessage:a@b.c"] },
    groups: { allowList: ["1203@g.us", "telegram:-100"] },
  },
  tools: { profile: "coding", deny: ["cron", "group:nodes", "gateway"] },
  agents: { list: [{ id: "work", workspace: "/srv/work", tools: { deny: ["browser"] } }] },
}"#;

#[test]
fn clawdbot_takes_what_is_rendered() {
    takes_what_is_rendered(Product::Clawdbot);
}

#[test]
fn openclaw_takes_what_is_rendered() {
    takes_what_is_rendered(Product::Openclaw);
}

fn takes_what_is_rendered(product: Product) {
    let lab = Lab::of_this_process(&format!("render-{}", product.name())).expect("namespaces");
    let home = tempfile::tempdir().expect("a home");
    let ours = home.path().join("clawsec.json");
    fs::write(&ours, CONFIGURATION).expect("write");
    fs::set_permissions(&ours, fs::Permissions::from_mode(0o600)).expect("chmod");
    let rendered = run(&ours, &["render", product.name()]);
    assert!(rendered.status.success(), "{rendered:?}");
    let text = String::from_utf8(rendered.stdout).expect("text");
    assert!(!text.contains(UPSTREAM_TOKEN), "{text}");

    let name = product.name();
    let folder = home.path().join(format!(".{name}"));
    fs::create_dir(&folder).expect("its folder");
    let theirs = folder.join(format!("{name}.json"));
    fs::write(&theirs, &text).expect("write");
    let says = || {
        let output = product
            .command(&lab, Host::Gateway, &home)
            .args(["config", "get", "gateway.port"])
            .env("UPSTREAM_TOKEN", UPSTREAM_TOKEN)
            .output()
            .expect("run it");
        let text = [output.stdout, output.stderr].concat();
        (
            output.status.success(),
            String::from_utf8_lossy(&text).into_owned(),
        )
    };
    let (is_taken, said) = says();
    assert!(is_taken && said.contains("18789"), "{said}");
    assert!(!said.contains("Invalid config"), "{said}");
    let theirs_is = theirs.to_str().expect("a path");
    let check = ["check", "--json", "--gateway-file", theirs_is];
    assert_eq!(drifts(&run(&ours, &check)), [""; 0]);

    // The same file with what that gateway does not know, and one that lets everybody in.
    fs::write(&theirs, text.replacen("\"mode\"", "\"modus\"", 1)).expect("write");
    let (is_taken, said) = says();
    assert!(!is_taken || said.contains("nvalid"), "{said}");
    fs::write(&theirs, text.replacen("\"loopback\"", "\"lan\"", 1)).expect("write");
    let found = run(&ours, &check);
    assert_eq!(drifts(&found), ["gateway.drift.gateway.bind"]);
    assert_eq!(found.status.code(), Some(1), "{found:?}");
}

fn run(configuration: &Path, arguments: &[&str]) -> Output {
    Command::new(clawsec())
        .args(arguments)
        .arg("--config")
        .arg(configuration)
        .env("UPSTREAM_TOKEN", UPSTREAM_TOKEN)
        .output()
        .expect("run clawsec")
}

/// The ids of what differs.
fn drifts(output: &Output) -> Vec<String> {
    let found: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    let found = found["findings"].as_array().expect("findings").iter();
    let ids = found.filter_map(|finding| finding["checkId"].as_str());
    let drifts = ids.filter(|id| id.starts_with("gateway.drift."));
    drifts.map(str::to_owned).collect()
}
