//! What `check` says to a person: what is enforced, the seven points, then the findings.

use std::fmt::Write as _;

use super::facts::Facts;
use super::gateway_file::Compared;
use super::{Audit, Finding};
use crate::config::Config;
use crate::counterpart::Severity;

pub(super) fn text(
    facts: &Facts,
    audit: &Audit,
    compared: &[Compared],
    fixed: &[String],
) -> String {
    let mut text = describe(&facts.config);
    for point in &audit.checklist {
        let mark = if point.ok { "ok" } else { "NO" };
        let key = if point.ok {
            String::new()
        } else {
            format!("  -> {}", point.key)
        };
        put(
            &mut text,
            format_args!("  {mark}  {:<24} {}{key}", point.title, point.evidence),
        );
    }
    for compared in compared {
        let (path, product) = (compared.path.display(), compared.product.name());
        let words = match compared.drifts.len() {
            0 => "matches".to_owned(),
            many => format!("{many} differ, below"),
        };
        put(
            &mut text,
            format_args!("gateway  {path} ({product}): {words}"),
        );
    }
    for fix in fixed {
        put(&mut text, format_args!("fixed    {fix}"));
    }
    let mut last: Option<&Finding> = None;
    let is_info = |finding: &&Finding| finding.severity == Severity::Info;
    for finding in audit.findings.iter().filter(|finding| !is_info(finding)) {
        let repeats = last
            .is_some_and(|last| last.check_id == finding.check_id && last.title == finding.title);
        if repeats {
            put(&mut text, format_args!("         {}", finding.detail));
        } else {
            finish(&mut text, last);
            put(
                &mut text,
                format_args!(
                    "{:8} {} ({})",
                    finding.severity.as_str(),
                    finding.title,
                    finding.check_id
                ),
            );
            put(&mut text, format_args!("         {}", finding.detail));
        }
        last = Some(finding);
    }
    finish(&mut text, last);
    // Good to know is a line each; what to do about it is in docs/checks.md and --json.
    let mut known: Vec<(&str, &str)> = Vec::new();
    for finding in audit.findings.iter().filter(is_info) {
        let line = (finding.title.as_str(), finding.check_id.as_str());
        if !known.contains(&line) {
            known.push(line);
            put(&mut text, format_args!("info     {} ({})", line.0, line.1));
        }
    }
    let count = |severity| {
        let of_it = audit
            .findings
            .iter()
            .filter(|finding| finding.severity == severity);
        of_it.count()
    };
    put(
        &mut text,
        format_args!(
            "{} critical, {} to be warned of, {} to know",
            count(Severity::Critical),
            count(Severity::Warn),
            count(Severity::Info)
        ),
    );
    text
}

/// One remedy for all places of a kind.
fn finish(text: &mut String, last: Option<&Finding>) {
    if let Some(finding) = last.filter(|finding| !finding.remediation.is_empty()) {
        put(text, format_args!("         -> {}", finding.remediation));
    }
}

fn describe(config: &Config) -> String {
    let scheme = if config.gateway.tls.is_some() {
        "https"
    } else {
        "http, no TLS"
    };
    let listen = config.gateway.listen.iter();
    let listen: Vec<String> = listen.map(|listen| listen.address.to_string()).collect();
    let sandbox = if config.sandbox.enabled {
        config.sandbox.provider.as_str()
    } else {
        "off"
    };
    let mut text = String::new();
    put(
        &mut text,
        format_args!("{} is valid", config.path.display()),
    );
    put(
        &mut text,
        format_args!("listen   {} ({scheme})", listen.join(", ")),
    );
    put(
        &mut text,
        format_args!("upstream {}", config.gateway.upstream.authority()),
    );
    put(
        &mut text,
        format_args!("prefixes {}", config.policy.addresses.rules().len()),
    );
    put(&mut text, format_args!("sandbox  {sandbox}"));
    text
}

fn put(text: &mut String, line: std::fmt::Arguments<'_>) {
    // Writing to a `String` cannot fail.
    let _infallible = writeln!(text, "{line}");
}
