//! What the programs are made of, as CycloneDX 1.5: each crate that is linked into them, with its
//! version, licence and the checksum of `Cargo.lock`.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::process::Command;

use anyhow::{Context as _, Result};
use serde_json::{Value, json};
use xtask::root;

use super::{VERSION, printed};

/// What is shipped; the kernel half is inside the first.
const SHIPPED: [&str; 3] = ["clawsec-user", "clawsec-top", "clawsec-ebpf"];

pub(super) fn cyclonedx() -> Result<String> {
    let metadata = printed(
        Command::new(env!("CARGO"))
            .args(["metadata", "--format-version=1", "--locked"])
            .args(["--filter-platform", "x86_64-unknown-linux-gnu"])
            .current_dir(root()),
    )?;
    let metadata = serde_json::from_slice(&metadata).context("read cargo's metadata")?;
    let lock = fs::read_to_string(root().join("Cargo.lock")).context("read Cargo.lock")?;
    let components = components(&metadata, &checksums(&lock));
    let sbom = json!({
        "bomFormat": "CycloneDX",
        "specVersion": "1.5",
        "version": 1,
        "metadata": { "component": {
            "type": "application", "name": "clawsec", "version": VERSION,
            "licenses": [{ "expression": "MIT OR Apache-2.0" }],
        }},
        "components": components,
    });
    Ok(serde_json::to_string_pretty(&sbom).context("write the SBOM")? + "\n")
}

/// By name and version.
type Checksums = BTreeMap<(String, String), String>;

fn checksums(lock: &str) -> Checksums {
    let value = |block: &str, key: &str| {
        let start = format!("{key} = \"");
        let line = block.lines().find_map(|line| line.strip_prefix(&start));
        line.and_then(|rest| rest.strip_suffix('"'))
            .map(str::to_owned)
    };
    let blocks = lock.split("[[package]]").skip(1);
    let found = blocks.filter_map(|block| {
        let key = (value(block, "name")?, value(block, "version")?);
        Some((key, value(block, "checksum")?))
    });
    found.collect()
}

/// Everything that the shipped programs are linked of: normal dependencies, from one to the next.
fn components(metadata: &Value, checksums: &Checksums) -> Vec<Value> {
    let list = |value: &Value| value.as_array().cloned().unwrap_or_default();
    let packages = list(&metadata["packages"]);
    let nodes: BTreeMap<String, Value> = list(&metadata["resolve"]["nodes"])
        .into_iter()
        .filter_map(|node| Some((node["id"].as_str()?.to_owned(), node)))
        .collect();
    let mut waiting: Vec<String> = packages
        .iter()
        .filter(|package| SHIPPED.iter().any(|name| package["name"] == *name))
        .filter_map(|package| package["id"].as_str().map(str::to_owned))
        .collect();
    let mut linked: BTreeSet<String> = BTreeSet::new();
    while let Some(id) = waiting.pop() {
        if !linked.insert(id.clone()) {
            continue;
        }
        let below = nodes.get(&id).map(|node| list(&node["deps"]));
        for dependency in below.unwrap_or_default() {
            let kinds = list(&dependency["dep_kinds"]);
            // `null` is a normal one; "dev" and "build" are not linked.
            if kinds.iter().any(|kind| kind["kind"].is_null()) {
                waiting.extend(dependency["pkg"].as_str().map(str::to_owned));
            }
        }
    }
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let mut components: Vec<Value> = packages
        .iter()
        .filter(|package| linked.contains(&text(&package["id"])))
        .map(|package| {
            let (name, version) = (text(&package["name"]), text(&package["version"]));
            let mut component = json!({
                "type": "library", "name": name, "version": version,
                "purl": format!("pkg:cargo/{name}@{version}"),
                "licenses": [{ "expression": text(&package["license"]).replace('/', " OR ") }],
            });
            if let Some(sum) = checksums.get(&(name, version)) {
                component["hashes"] = json!([{ "alg": "SHA-256", "content": sum }]);
            }
            component
        })
        .collect();
    components.sort_by_key(|component| text(&component["purl"]));
    components
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_linked_is_listed() {
        let package = |name: &str| json!({ "name": name, "version": "1.0.0", "id": name, "license": "MIT/Apache-2.0" });
        let dependency =
            |name: &str, kind: Value| json!({ "pkg": name, "dep_kinds": [{ "kind": kind }] });
        let metadata = json!({
            "packages": [package("clawsec-user"), package("a"), package("b"), package("c"), package("d")],
            "resolve": { "nodes": [
                { "id": "clawsec-user", "deps": [dependency("a", Value::Null), dependency("b", json!("dev"))] },
                { "id": "a", "deps": [dependency("c", Value::Null), dependency("d", json!("build"))] },
                { "id": "b", "deps": [] }, { "id": "c", "deps": [] }, { "id": "d", "deps": [] },
            ]},
        });
        let lock = "[[package]]\nname = \"a\"\nversion = \"1.0.0\"\nchecksum = \"abc\"\n";
        let found = components(&metadata, &checksums(lock));
        let names: Vec<&str> = found
            .iter()
            .filter_map(|one| one["name"].as_str())
            .collect();
        assert_eq!(names, ["a", "c", "clawsec-user"]);
        assert_eq!(found[0]["hashes"][0]["content"], "abc");
        assert_eq!(found[0]["licenses"][0]["expression"], "MIT OR Apache-2.0");
    }
}
