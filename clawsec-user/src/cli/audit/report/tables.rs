//! The tables of the report.

use std::path::PathBuf;

use super::chart::bar;
use super::page::{ChainState, put, section, shown};
use crate::audit::{Denial, Denials, Losses, OTHERS, Ranked, Times, Top};
use crate::cli::audit::table::{change, minute};
use crate::cli::check::Audit;
use crate::counterpart::Severity;
use crate::ops::{counted, grouped};

pub(super) fn ranking(html: &mut String, top: &Top) {
    let is_others = |row: &Ranked| row.name == OTHERS;
    let named = top.names.iter().filter(|row| !is_others(row));
    let most = named.map(|row| row.count).max().unwrap_or(0);
    html.push_str(
        "<table class=\"ranked\"><tr><th>name</th><th class=\"n\">times</th>\
         <th class=\"n wide\">refused</th><th class=\"n\">change</th></tr>",
    );
    for row in &top.names {
        if is_others(row) {
            html.push_str("<tr class=\"soft\"><td>all others");
        } else {
            put(html, format_args!("<tr><td>{}", shown(&row.name)));
            bar(html, row.count, row.denied, most);
        }
        let denied = if row.denied == 0 {
            String::new()
        } else {
            grouped(row.denied)
        };
        put(
            html,
            format_args!(
                "</td><td class=\"n\">{}</td><td class=\"n wide\">{denied}</td>\
                 <td class=\"n soft\">{}</td></tr>",
                grouped(row.count),
                change(row.before, row.now)
            ),
        );
    }
    html.push_str("</table>");
    let at_least = if top.inexact > 0 { "at least " } else { "" };
    put(
        html,
        format_args!(
            "<p class=\"soft\">{at_least}{} in all</p>",
            grouped(top.distinct)
        ),
    );
}

pub(super) fn denials(html: &mut String, denials: &Denials) {
    section(html, "Requests that were refused or failed", |html| {
        if denials.rows.is_empty() {
            html.push_str("<p class=\"soft\">None.</p>");
            return;
        }
        html.push_str(
            "<table class=\"stacks\"><thead><tr><th>what</th><th>why</th><th>rule</th>\
                 <th>who</th><th>source</th><th class=\"n\">times</th><th>last</th></tr></thead>",
        );
        for (denial, times) in &denials.rows {
            denial_row(html, denial, *times);
        }
        html.push_str("</table>");
        if denials.others > 0 {
            let others = grouped(denials.others);
            put(
                html,
                format_args!("<p class=\"soft\">and {others} others</p>"),
            );
        }
    });
}

fn denial_row(html: &mut String, denial: &Denial, times: Times) {
    let what = match &denial.tool {
        Some(tool) => format!("{}.{} {tool}", denial.event.as_str(), denial.action),
        None => format!("{}.{}", denial.event.as_str(), denial.action),
    };
    let who: Vec<_> = [&denial.principal, &denial.user]
        .into_iter()
        .flatten()
        .map(|name| shown(name))
        .collect();
    let source = denial.source.map(|ip| ip.to_string()).unwrap_or_default();
    html.push_str("<tr>");
    for (label, class, text) in [
        ("what", "", shown(&what)),
        ("why", "code", shown(&denial.reason)),
        (
            "rule",
            "code soft",
            shown(denial.rule.as_deref().unwrap_or_default()),
        ),
        ("who", "", who.join(" · ")),
        ("source", "", shown(&source)),
        ("times", "n", grouped(times.count)),
        ("last", "t", minute(times.last)),
    ] {
        if text.is_empty() {
            html.push_str("<td class=\"none\"></td>");
        } else {
            put(
                html,
                format_args!("<td class=\"{class}\" data-is=\"{label}\">{text}</td>"),
            );
        }
    }
    html.push_str("</tr>");
}

pub(super) fn losses(html: &mut String, losses: &Losses, chain: &ChainState) {
    section(html, "What the log does not have", |html| {
        html.push_str("<table>");
        let mut row = |class: &str, what: &str, count: u64| {
            let red = if count == 0 { "soft" } else { "bad" };
            let count = grouped(count);
            put(
                html,
                format_args!(
                    "<tr><td class=\"{class}\">{what}</td><td class=\"n {red}\">{count}</td></tr>"
                ),
            );
        };
        row("", "events that could not be written", losses.lost);
        for (event, count) in &losses.lost_by_event {
            row("soft", &format!("of them {}", shown(event)), *count);
        }
        row(
            "",
            "packets dropped, counted without a source",
            losses.not_attributed,
        );
        row("", "lines that are not records", losses.unreadable);
        html.push_str("</table>");
        let ChainState { report, has_head } = chain;
        match (&report.problem, report.first_seq, report.last_seq) {
            (Some(problem), ..) => {
                let kind = serde_json::to_value(problem.kind).unwrap_or_default();
                let kind = kind.as_str().unwrap_or("problem").to_owned();
                let (kind, detail) = (shown(&kind), shown(&problem.detail));
                let file = shown(&problem.file.display().to_string());
                put(
                    html,
                    format_args!(
                        "<p class=\"bad\">Hash chain: {kind}, {detail} ({file}, line {}).</p>",
                        problem.line
                    ),
                );
            }
            (None, Some(first), Some(last)) => {
                let (first, last) = (grouped(first), grouped(last));
                let head = if *has_head {
                    ""
                } else {
                    ", without a head file"
                };
                put(
                    html,
                    format_args!(
                        "<p>Hash chain: records {first} to {last} are whole{head}; {} agree \
                             with the sums.</p>",
                        counted(report.checkpoints, "checkpoint")
                    ),
                );
            }
            _ => {}
        }
        if losses.notices.is_empty() {
            return;
        }
        html.push_str(
            "<h3>What the daemon said of itself</h3><table><tr><th>what</th>\
                 <th>why</th><th class=\"n\">times</th><th>last</th></tr>",
        );
        for ((action, reason), times) in &losses.notices {
            let (action, reason) = (shown(action), shown(reason));
            put(
                html,
                format_args!(
                    "<tr><td>{action}</td><td><code>{reason}</code></td>\
                         <td class=\"n\">{}</td><td class=\"t\">{}</td></tr>",
                    grouped(times.count),
                    minute(times.last)
                ),
            );
        }
        html.push_str("</table>");
    });
}

pub(super) fn checklist(html: &mut String, found: Option<&(PathBuf, Audit)>) {
    section(html, "Configuration", |html| {
        let Some((path, audit)) = found else {
            html.push_str(
                "<p class=\"soft\">Not looked at: the log was named by --path. With --config \
                     this is what <code>clawsec check</code> finds.</p>",
            );
            return;
        };
        html.push_str("<table>");
        for point in &audit.checklist {
            let (class, mark) = if point.ok {
                ("good", "yes")
            } else {
                ("bad", "no")
            };
            put(
                html,
                format_args!(
                    "<tr><td class=\"{class}\">{mark}</td><td>{}</td><td>{}</td></tr>",
                    shown(point.title),
                    shown(&point.evidence)
                ),
            );
        }
        html.push_str("</table>");
        let path = shown(&path.display().to_string());
        let serious = audit.findings.iter();
        let serious: Vec<_> = serious
            .filter(|finding| finding.severity != Severity::Info)
            .collect();
        if serious.is_empty() {
            put(
                html,
                format_args!("<p><span class=\"good\">Nothing to say</span> of {path}.</p>"),
            );
            return;
        }
        let found = counted(serious.len() as u64, "finding");
        put(
            html,
            format_args!("<p>{found} in {path} and around it</p><ul>"),
        );
        for finding in serious {
            let class = match finding.severity {
                Severity::Critical => "bad",
                _ => "warn",
            };
            put(
                html,
                format_args!(
                    "<li><span class=\"{class}\">{}</span>: {} <span class=\"soft\">{}</span></li>",
                    shown(&finding.title),
                    shown(&finding.detail),
                    shown(&finding.remediation)
                ),
            );
        }
        html.push_str("</ul>");
    });
}
