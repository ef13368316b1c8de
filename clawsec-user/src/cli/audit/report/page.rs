//! The report as HTML.
//!
//! Invariant: no script, nothing from elsewhere, and every text that comes from the log, the
//! configuration or the command line is neutralised and escaped. The page's own policy allows its
//! one style sheet, by its hash.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use aws_lc_rs::digest;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use super::chart::{Series, histogram};
use super::tables;
use crate::audit::{Denials, Report, Stamp, Stats, Sum, neutralise};
use crate::cli::audit::table::{change, length_text, minute};
use crate::cli::check::Audit;
use crate::ops::{breakable, counted, grouped};

/// All that is on the page.
pub(super) struct Page<'a> {
    pub(super) log: &'a Path,
    pub(super) made: Stamp,
    /// What was asked for besides the time, in words.
    pub(super) asked: Vec<String>,
    pub(super) period: (Option<Stamp>, Option<Stamp>),
    /// A beginning was asked for, so the trend is against the time before it.
    pub(super) is_since: bool,
    pub(super) stats: &'a Stats,
    pub(super) denials: &'a Denials,
    pub(super) chain: ChainState,
    /// The configuration and what `clawsec check` finds in it.
    pub(super) checklist: Option<(PathBuf, Audit)>,
    /// Parts that could not be read.
    pub(super) damages: Vec<String>,
}

/// What `clawsec audit verify` says.
pub(super) struct ChainState {
    pub(super) report: Report,
    pub(super) has_head: bool,
}

impl Page<'_> {
    pub(super) fn html(&self) -> String {
        let hash = digest::digest(&digest::SHA256, CSS.as_bytes());
        let hash = STANDARD.encode(hash.as_ref());
        let mut html = format!(
            "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\">\
             <meta name=\"viewport\" content=\"width=device-width,initial-scale=1\">\
             <meta name=\"robots\" content=\"noindex\">\
             <meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; \
             style-src 'sha256-{hash}'; base-uri 'none'; form-action 'none'\">\
             <title>clawsec: audit report</title><style>{CSS}</style></head><body>"
        );
        self.head(&mut html);
        self.headline(&mut html);
        section(&mut html, "Over time", |html| {
            histogram(html, self.stats, &SERIES);
        });
        self.trend(&mut html);
        self.tops(&mut html);
        tables::denials(&mut html, self.denials);
        html.push_str("<div class=\"two\">");
        tables::losses(&mut html, &self.denials.losses, &self.chain);
        tables::checklist(&mut html, self.checklist.as_ref());
        html.push_str("</div>");
        put(
            &mut html,
            format_args!(
                "<footer class=\"soft\">clawsec {} · {} · made {} UTC</footer></body></html>\n",
                env!("CARGO_PKG_VERSION"),
                shown(&self.log.display().to_string()),
                minute(self.made)
            ),
        );
        html
    }

    fn head(&self, html: &mut String) {
        let period = match self.period {
            (Some(since), Some(until)) => format!("{} to {} UTC", minute(since), minute(until)),
            _ => "nothing recorded".to_owned(),
        };
        put(
            html,
            format_args!(
                "<header><h1>Audit report</h1><p class=\"soft\">{period} · {}</p>",
                counted(self.stats.records, "record")
            ),
        );
        if !self.asked.is_empty() {
            let asked: Vec<_> = self.asked.iter().map(|text| shown(text)).collect();
            put(html, format_args!("<p>Only {}.</p>", asked.join("; ")));
        }
        for damage in &self.damages {
            let damage = shown(damage);
            put(
                html,
                format_args!("<p class=\"bad\">A part of the log is missing here: {damage}</p>"),
            );
        }
        html.push_str("</header>");
    }

    fn headline(&self, html: &mut String) {
        let sums = self.stats.sums;
        let (before, now) = self.stats.trend.map_or_else(Default::default, |trend| {
            (trend.before_sums, trend.now_sums)
        });
        html.push_str("<div class=\"cards\">");
        for Series { title, class, of } in &SERIES {
            let compared = if self.is_since {
                format!("{} before", grouped(of(before)))
            } else {
                let change = change(of(before), of(now));
                let none = change.is_empty();
                if none {
                    change
                } else {
                    format!("later half: {change}")
                }
            };
            card(html, title, class, &grouped(of(sums)), &compared);
        }
        let sources = &self.stats.sources;
        let least = if sources.inexact > 0 { "over " } else { "" };
        let distinct = format!("{least}{}", grouped(sources.distinct));
        card(html, "Sources", "", &distinct, "addresses seen");
        let ChainState { report, has_head } = &self.chain;
        let (class, word, text) = match &report.problem {
            None if *has_head => ("good", "whole", "every record is as it was written"),
            None => (
                "warn",
                "whole",
                "a cut tail cannot be seen: there is no head file",
            ),
            Some(_) => ("bad", "broken", "see below"),
        };
        card(html, "Hash chain", class, word, text);
        html.push_str("</div>");
    }

    fn trend(&self, html: &mut String) {
        let Some(trend) = self.stats.trend else {
            return;
        };
        let title = if self.is_since {
            format!("Against the {} before", length_text(trend))
        } else {
            format!(
                "The later half against the earlier, {} each",
                length_text(trend)
            )
        };
        section(html, &title, |html| {
            html.push_str(
                "<table><tr><th></th><th class=\"n\">before</th><th class=\"n\">now</th>\
                 <th class=\"n\">change</th></tr>",
            );
            for Series { title, of, .. } in &SERIES {
                let (before, now) = (of(trend.before_sums), of(trend.now_sums));
                put(
                    html,
                    format_args!(
                        "<tr><td>{title}</td><td class=\"n\">{}</td><td class=\"n\">{}</td>\
                         <td class=\"n\">{}</td></tr>",
                        grouped(before),
                        grouped(now),
                        change(before, now)
                    ),
                );
            }
            html.push_str("</table>");
        });
    }

    fn tops(&self, html: &mut String) {
        html.push_str("<div class=\"two\">");
        let stats = self.stats;
        for (title, top) in [
            ("Sources", &stats.sources),
            ("Reasons", &stats.reasons),
            ("Users", &stats.users),
            ("Keys", &stats.principals),
            ("Tools", &stats.tools),
            ("Agents", &stats.agents),
        ] {
            if !top.names.is_empty() {
                section(html, title, |html| tables::ranking(html, top));
            }
        }
        html.push_str("</div>");
    }
}

fn card(html: &mut String, title: &str, class: &str, figure: &str, text: &str) {
    put(
        html,
        format_args!(
            "<section><h2>{title}</h2><div class=\"big {class}\">{figure}</div>\
             <p class=\"soft\">{text}</p></section>"
        ),
    );
}

pub(super) fn section(html: &mut String, title: &str, fill: impl FnOnce(&mut String)) {
    put(html, format_args!("<section><h2>{title}</h2>"));
    fill(html);
    html.push_str("</section>");
}

/// A text from outside.
pub(super) fn shown(text: &str) -> String {
    breakable(&neutralise(text))
}

pub(super) fn put(html: &mut String, text: std::fmt::Arguments<'_>) {
    // Writing to a String cannot fail.
    html.write_fmt(text).unwrap_or_default();
}

/// What is told apart: packets are a thousand times as many as requests.
const SERIES: [Series; 4] = [
    Series {
        title: "Let through",
        class: "allow",
        of: |sums: Sum| sums.allow,
    },
    Series {
        title: "Requests refused",
        class: "deny",
        of: |sums: Sum| sums.deny.saturating_sub(sums.dropped),
    },
    Series {
        title: "Packets dropped",
        class: "drop",
        of: |sums: Sum| sums.dropped,
    },
    Series {
        title: "Failed",
        class: "error",
        of: |sums: Sum| sums.error,
    },
];

const CSS: &str = include_str!("report.css");
