//! Tool lists in each gateway's own words, and whether its file lets through what clawsec denies.

use std::collections::BTreeSet;

use serde_json::{Map, Value, json};

use super::Product;
use super::settings::Settings;
use crate::config::Config;
use crate::policy::{Denial, ToolName, ToolRules, ToolSelector};

pub(super) fn settings(product: Product, config: &Config, settings: &mut Settings) {
    let why = "the same lists as clawsec's: what clawsec denies is not even offered";
    let mut why = Some(why);
    for (key, value) in lists(product, &config.policy.tools) {
        settings.put(
            &format!("tools.{key}"),
            value,
            why.take().unwrap_or_default(),
        );
    }
}

/// `profile`, `allow` and `deny`, as far as they are set.
pub(super) fn lists(product: Product, rules: &ToolRules) -> Map<String, Value> {
    let spelled = |selectors: &mut dyn Iterator<Item = &ToolSelector>| {
        let mut words = Vec::new();
        for word in selectors.flat_map(|selector| selector.spelled_for(product.reading())) {
            if !words.contains(&word) {
                words.push(word);
            }
        }
        words
    };
    let mut lists = Map::new();
    if let Some(profile) = rules.profile() {
        lists.insert("profile".into(), json!(profile));
    }
    let allow = spelled(&mut rules.allowed());
    if !allow.is_empty() {
        lists.insert("allow".into(), json!(allow));
    }
    let deny = spelled(&mut rules.denied());
    if !deny.is_empty() {
        lists.insert("deny".into(), json!(deny));
    }
    lists
}

/// Tools that clawsec's rules deny and the gateway's let through, by the list of clawsec's that
/// decides: `profile`, `allow` or `deny`.
pub(super) fn let_through(
    product: Product,
    ours: &ToolRules,
    theirs: &[&ToolRules],
) -> Vec<(&'static str, Vec<String>)> {
    let reading = product.reading();
    let named = ours.denied().map(ToolSelector::as_str);
    let exact = named.filter(|name| !name.starts_with("group:") && !name.contains('*'));
    let mut universe: BTreeSet<&str> = exact.collect();
    for name in reading.tools() {
        universe.insert(name);
    }
    let mut found: Vec<(&'static str, Vec<String>)> = Vec::new();
    for name in universe {
        let tool = ToolName::new(name);
        let Err(denial) = ours.judge_by(reading, &tool) else {
            continue;
        };
        if theirs
            .iter()
            .any(|rules| rules.judge_by(reading, &tool).is_err())
        {
            continue;
        }
        let list = list_of(&denial);
        match found.iter_mut().find(|(known, _)| *known == list) {
            Some((_, tools)) => tools.push(name.to_owned()),
            None => found.push((list, vec![name.to_owned()])),
        }
    }
    found
}

fn list_of(denial: &Denial) -> &'static str {
    let key = denial.rule.rsplit('.').next().unwrap_or_default();
    match key.split('[').next() {
        Some("deny") => "deny",
        Some("allow") => "allow",
        _ => "profile",
    }
}

/// The lists of the gateway's file at `tools`, of the whole or of an agent.
pub(super) fn read(tools: Option<&Value>) -> ToolRules {
    let texts = |key: &str| -> Vec<String> {
        let list = tools
            .and_then(|tools| tools.get(key))
            .and_then(Value::as_array);
        let texts = list.into_iter().flatten().filter_map(Value::as_str);
        texts.map(str::to_owned).collect()
    };
    let profile = tools
        .and_then(|tools| tools.get("profile"))
        .and_then(Value::as_str);
    let rules = ToolRules::new("tools", profile, &texts("allow"), &texts("deny"));
    // A profile that the gateway does not know either allows what the lists do.
    rules
        .or_else(|| ToolRules::new("tools", None, &texts("allow"), &texts("deny")))
        .unwrap_or_default()
}
