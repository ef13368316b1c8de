//! Text to configuration, in order: parse, leave out what is the gateway's, substitute, check.
//!
//! Invariant: no IO here; whatever has to be looked up is asked of `Sources`.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use zeroize::Zeroizing;

use super::check::{self, Checked, Provider};
use super::model::Config;
use super::problem::ConfigError;
use super::reader::Section;
use super::report::Report;
use super::sources::Sources;
use super::substitute::{self, Reference};
use super::tree::{self, Node, Value};
use super::{foreign, redact};

/// Compiles a configuration's text; `path` is for messages only.
pub fn compile(text: &str, path: &Path, sources: &dyn Sources) -> Result<Config, ConfigError> {
    // Editors of another system begin a file with a byte order mark; the parser does not know it.
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let (mut report, checked) = pass(text, sources);
    report.finish(text, path)?;
    let Some((root, checked)) = checked else {
        // A parse without a tree has reported why, so `finish` has returned already.
        return Err(ConfigError::new(Vec::new()));
    };
    Ok(Config {
        path: PathBuf::from(path),
        gateway: checked.gateway,
        policy: checked.policy,
        packets: checked.packets,
        kernel: checked.kernel,
        ban: checked.ban,
        sandbox: checked.sandbox,
        node_host: checked.node_host,
        audit: checked.audit,
        literal_secrets: report.literal_secrets,
        secret_files: report.secret_files,
        warnings: report.warnings,
        redacted_document: redact::document(&root, &report.edits),
    })
}

/// Reads a text once, and gathers what it finds.
fn pass(text: &str, sources: &dyn Sources) -> (Report, Option<(Node, Checked)>) {
    let mut report = Report::new(sources.home());
    let checked = tree::parse(text, &mut report).map(|mut root| {
        foreign::prune(&mut root, &mut report);
        substitute_all(&mut root, sources, &mut report);
        let mut section = Section::root(&root, &mut report);
        let checked = check::document(&mut section);
        section.finish();
        (root, checked)
    });
    (report, checked)
}

/// Every key that reading this text asks for.
#[cfg(test)]
pub(super) fn known_keys(text: &str, sources: &dyn Sources) -> BTreeSet<String> {
    pass(text, sources).0.asked().clone()
}

/// Substitutes in `secrets` first, since it says where `${secret:NAME}` is looked up elsewhere.
fn substitute_all(root: &mut Node, sources: &dyn Sources, report: &mut Report) {
    let mut variables = |reference: Reference<'_>| match reference {
        Reference::Variable(name) => variable(name, sources),
        Reference::Secret(name) => Err(format!(
            "`${{secret:{name}}}` cannot stand here; use ${{VAR}}"
        )),
    };
    let Value::Object(members) = &mut root.value else {
        return;
    };
    for member in members.iter_mut().filter(|member| member.key == "secrets") {
        substitute::apply(&mut member.node, "secrets", report, &mut variables);
    }
    let provider = {
        let mut section = Section::root(root, report);
        check::secrets(section.at("secrets"))
    };
    let mut files = BTreeSet::new();
    let mut all = |reference: Reference<'_>| match reference {
        Reference::Variable(name) => variable(name, sources),
        Reference::Secret(name) => {
            if let Some(Provider::Files { dir }) = &provider {
                files.insert(dir.join(name));
            }
            secret(name, provider.as_ref(), sources)
        }
    };
    let Value::Object(members) = &mut root.value else {
        return;
    };
    for member in members.iter_mut().filter(|member| member.key != "secrets") {
        substitute::apply(&mut member.node, &member.key, report, &mut all);
    }
    report.secret_files = files.into_iter().collect();
}

fn variable(name: &str, sources: &dyn Sources) -> Result<Zeroizing<String>, String> {
    sources
        .variable(name)
        .filter(|text| !text.is_empty())
        .ok_or_else(|| format!("`${{{name}}}`: the variable {name} is not set, or is empty"))
}

fn secret(
    name: &str,
    provider: Option<&Provider>,
    sources: &dyn Sources,
) -> Result<Zeroizing<String>, String> {
    let reference = format!("`${{secret:{name}}}`");
    match provider {
        None => Err(format!(
            "{reference}: the provider in `secrets` is not valid"
        )),
        Some(Provider::Environment { prefix }) => {
            let name = format!("{prefix}{name}");
            sources
                .variable(&name)
                .filter(|text| !text.is_empty())
                .ok_or_else(|| format!("{reference}: the variable {name} is not set, or is empty"))
        }
        Some(Provider::Files { dir }) => {
            let file = dir.join(name);
            let text = sources
                .secret_file(dir, name)
                .map_err(|error| format!("{reference}: {}: {error}", file.display()))?;
            // Editors and `echo` end a file with a line break that is no part of the secret.
            let bare = text.strip_suffix('\n').unwrap_or(&text);
            let bare = bare.strip_suffix('\r').unwrap_or(bare);
            if bare.is_empty() {
                return Err(format!("{reference}: {} is empty", file.display()));
            }
            Ok(Zeroizing::new(bare.to_owned()))
        }
    }
}
