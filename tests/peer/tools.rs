//! Tool names and lists: clawsec's reading against the gateways' own code, and against the
//! running gateways.

use clawsec_user::policy::{Reading, ToolName, ToolRules};
use serde_json::{Value, json};

use super::product::Product;
use crate::kernel::random::Random;

const CASES: usize = 6000;

#[test]
fn clawdbots_normaliser_agrees() {
    agrees(Product::Clawdbot, Reading::V3, 21);
}

#[test]
fn openclaws_normaliser_agrees() {
    agrees(Product::Openclaw, Reading::V4, 22);
}

/// Generated names and lists, judged by both.
fn agrees(product: Product, reading: Reading, seed: u64) {
    let mut random = Random(seed);
    let cases: Vec<Value> = (0..CASES).map(|_| case(&mut random)).collect();
    let theirs = judged_by_the_gateway(product, &cases);
    assert_eq!(theirs.len(), cases.len());
    let mut allowed = 0;
    for (case, theirs) in cases.iter().zip(theirs) {
        let list = |key: &str| -> Vec<String> {
            serde_json::from_value(case[key].clone()).expect("a list of texts")
        };
        let rules = ToolRules::new(
            "tools",
            case["profile"].as_str(),
            &list("allow"),
            &list("deny"),
        )
        .expect("a profile that exists");
        let tool = ToolName::new(case["tool"].as_str().unwrap_or_default());
        let ours = rules.judge_by(reading, &tool).is_ok();
        assert_eq!(ours, theirs, "{case}");
        // Over a tool that this version brings, clawsec's word is never laxer than the version's.
        let strict = theirs || rules.judge(&tool).is_err() || !reading.knows(&tool);
        assert!(strict, "{case}");
        allowed += usize::from(ours);
    }
    // The cases are worth something only if they go both ways.
    assert!((CASES / 10..CASES * 9 / 10).contains(&allowed), "{allowed}");
}

fn judged_by_the_gateway(product: Product, cases: &[Value]) -> Vec<bool> {
    let folder = tempfile::tempdir().expect("make a folder");
    let input = folder.path().join("cases.json");
    std::fs::write(&input, Value::from(cases.to_vec()).to_string()).expect("write the cases");
    let told = product.driven("tools.mjs", &[&product.package(), &input]);
    serde_json::from_slice(&told).expect("a list of verdicts")
}

fn case(random: &mut Random) -> Value {
    let mut list = |most: usize| -> Vec<String> {
        let length = random.below(most + 1);
        (0..length).map(|_| entry(random)).collect()
    };
    let (allow, deny) = (list(4), list(3));
    let profiles = [
        Value::Null,
        json!("full"),
        json!("minimal"),
        json!("coding"),
        json!("messaging"),
    ];
    let profile = match random.below(8) {
        index @ 1..5 => profiles[index].clone(),
        _ => Value::Null,
    };
    let tool = *random.pick(NAMES);
    let tool = spelled(tool, random);
    json!({ "tool": tool, "allow": allow, "deny": deny, "profile": profile })
}

fn entry(random: &mut Random) -> String {
    let name = *random.pick(NAMES);
    match random.below(10) {
        0..4 => spelled(name, random),
        4..7 => {
            let group = *random.pick(GROUPS);
            spelled(group, random)
        }
        7 => {
            let cut = random.below(name.len() + 1);
            spelled(&format!("{}*", name.get(..cut).unwrap_or_default()), random)
        }
        8 => {
            let cut = random.below(name.len() + 1);
            spelled(&format!("*{}", name.get(cut..).unwrap_or_default()), random)
        }
        _ => (*random.pick(ODD)).to_owned(),
    }
}

/// The same name as somebody might write it.
fn spelled(name: &str, random: &mut Random) -> String {
    match random.below(8) {
        0 => name.to_uppercase(),
        1 => format!(" {name}\t"),
        2 => format!("\u{feff}{name}\u{a0}"),
        3 => format!("\u{85}{name}"),
        4 => name.replace('e', "E"),
        _ => name.to_owned(),
    }
}

const NAMES: &[&str] = &[
    "bash",
    "exec",
    "process",
    "read",
    "write",
    "edit",
    "apply_patch",
    "apply-patch",
    "cron",
    "automations",
    "gateway",
    "browser",
    "canvas",
    "nodes",
    "message",
    "tts",
    "image",
    "view_image",
    "sessions_list",
    "sessions_send",
    "sessions_spawn",
    "session_status",
    "agents_list",
    "memory_search",
    "web_fetch",
    "secrets",
    "terminal",
    "computer",
    "code_execution",
    "plugin_tool",
    "Σ",
    "ß",
    "İstanbul",
    "e\u{301}xec",
    "e.ec",
    "ex+c",
    "[exec]",
];

const GROUPS: &[&str] = &[
    "group:memory",
    "group:web",
    "group:fs",
    "group:runtime",
    "group:sessions",
    "group:ui",
    "group:automation",
    "group:messaging",
    "group:nodes",
    "group:agents",
    "group:media",
    "group:nothing",
    "group:plugins",
];

const ODD: &[&str] = &[
    "", " ", "*", "**", "*e*", "e*c", "s*_*", "group:*", "Group:FS", ".*", "e.*", "ΑΣ",
];
