//! The state as one page, for a person with a browser.
//!
//! Invariant: no script, nothing from elsewhere, and every text that came from outside is
//! escaped; the policy that goes with it allows one style sheet, by its hash.

use std::fmt::Write as _;

use aws_lc_rs::digest;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use super::status::{Denial, Headline, Moment, SourceTotal, Status};
use super::words::{counted, figure, grouped, plain, words};
use crate::event::Outcome;

/// A page and the `Content-Security-Policy` it is served with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Page {
    pub html: String,
    pub security_policy: String,
}

/// Writes the page; it asks for itself again after some seconds.
pub fn page(status: &Status) -> Page {
    let mut html = format!(
        "<!doctype html><html lang=\"en\"><head><meta charset=\"utf-8\">\
         <meta name=\"viewport\" content=\"width=device-width,initial-scale=1\">\
         <meta name=\"robots\" content=\"noindex\"><meta http-equiv=\"refresh\" content=\"5\">\
         <title>{title}</title><style>{CSS}</style></head><body>",
        title = escaped(&format!("clawsec: {}", status.headline().as_str())),
    );
    head(&mut html, status);
    html.push_str("<div class=\"cards\">");
    packets(&mut html, status);
    requests(&mut html, status);
    clients(&mut html, status);
    sandbox(&mut html, status);
    audit(&mut html, status);
    html.push_str("</div>");
    denials(&mut html, status);
    sources(&mut html, status);
    html.push_str("</body></html>\n");
    let digest = digest::digest(&digest::SHA256, CSS.as_bytes());
    Page {
        html,
        security_policy: format!(
            "default-src 'none'; style-src 'sha256-{}'; base-uri 'none'; form-action 'none'; \
             frame-ancestors 'none'",
            STANDARD.encode(digest.as_ref())
        ),
    }
}

fn head(html: &mut String, status: &Status) {
    let class = match status.headline() {
        Headline::Enforcing => "good",
        Headline::Observing | Headline::Unfiltered => "warn",
        Headline::NotReady => "bad",
    };
    let word = status.headline().as_str();
    let attached: Vec<String> = status
        .interfaces
        .iter()
        .map(|interface| {
            format!(
                "{} ({})",
                escaped(&interface.name),
                escaped(&interface.mode)
            )
        })
        .collect();
    let attached = if attached.is_empty() {
        "addresses are checked at accept".to_owned()
    } else {
        attached.join(", ")
    };
    put(
        html,
        format_args!(
            "<header><h1>clawsec is <span class=\"{class}\">{word}</span></h1>\
         <p class=\"soft\">{attached} · policy {} for {} · up {} · version {}</p>",
            status.generation,
            words(status.since(status.generation_since)),
            words(status.uptime_seconds),
            escaped(&status.version),
        ),
    );
    for what in status.against_readiness() {
        put(html, format_args!("<p class=\"bad\">{what}</p>"));
    }
    if let Some(days) = status.certificate_days() {
        let (class, text) = match days {
            ..0 => ("bad", "the certificate has ended".to_owned()),
            0..14 => ("warn", format!("the certificate ends in {days} days")),
            3650.. => (
                "soft",
                "certificate good for more than ten years".to_owned(),
            ),
            _ => ("soft", format!("certificate good for {days} days")),
        };
        put(html, format_args!("<p class=\"{class}\">{text}</p>"));
    }
    html.push_str("</header>");
}

fn packets(html: &mut String, status: &Status) {
    let rate = status.rate(RATE_SECONDS, |moment| moment.dropped);
    put(
        html,
        format_args!(
            "<section><h2>Packets dropped</h2><div class=\"big\">{} <small>/s</small></div>",
            figure(rate)
        ),
    );
    line(html, status, "packets dropped", |moment| moment.dropped);
    put(
        html,
        format_args!(
            "<p class=\"soft\">{} in all, {}</p><ul>",
            grouped(status.dropped()),
            counted(status.bans, "ban")
        ),
    );
    let mut reasons: Vec<_> = status
        .reasons
        .iter()
        .filter(|reason| reason.drop && reason.packets > 0)
        .collect();
    reasons.sort_by_key(|reason| std::cmp::Reverse(reason.packets));
    for reason in reasons.iter().take(4) {
        put(
            html,
            format_args!(
                "<li><code>{}</code> {}</li>",
                escaped(&reason.name),
                grouped(reason.packets)
            ),
        );
    }
    html.push_str("</ul></section>");
}

fn requests(html: &mut String, status: &Status) {
    let rate = status.rate(RATE_SECONDS, |moment| moment.denied);
    put(
        html,
        format_args!(
            "<section><h2>Requests refused</h2><div class=\"big\">{} <small>/s</small></div>",
            figure(rate)
        ),
    );
    line(html, status, "requests refused", |moment| moment.denied);
    put(
        html,
        format_args!(
            "<p class=\"soft\">{} in all</p><p class=\"soft\">{} let through</p></section>",
            grouped(status.decided(Outcome::Deny)),
            grouped(status.decided(Outcome::Allow))
        ),
    );
}

fn clients(html: &mut String, status: &Status) {
    let open = status.gateway.figures.as_ref().map_or(0, |f| f.connections);
    put(
        html,
        format_args!(
            "<section><h2>Connected</h2><div class=\"big\">{} <small>open</small></div><ul>",
            grouped(open)
        ),
    );
    let clients = &status.gateway.clients;
    for client in clients.iter().take(5) {
        put(
            html,
            format_args!(
                "<li>{} <span class=\"soft\">{}{}</span></li>",
                escaped(&client.principal),
                breakable(&client.source.to_string()),
                match client.connections + client.websockets {
                    1 => String::new(),
                    several => format!(" · {}", grouped(several)),
                }
            ),
        );
    }
    if clients.is_empty() {
        html.push_str("<li class=\"soft\">nobody has signed in</li>");
    }
    html.push_str("</ul></section>");
}

fn sandbox(html: &mut String, status: &Status) {
    let executions = &status.executions;
    let class = if executions.wanted && executions.slots == 0 {
        "bad"
    } else {
        "soft"
    };
    put(
        html,
        format_args!(
            "<section><h2>Sandbox</h2><div class=\"big\">{} <small>running</small></div>\
         <p class=\"{class}\">{}{}</p><ul>",
            executions.running.len(),
            escaped(&status.sandbox),
            if executions.waiting > 0 {
                format!(", {} waiting", executions.waiting)
            } else {
                String::new()
            }
        ),
    );
    for execution in executions.running.iter().take(5) {
        put(
            html,
            format_args!(
                "<li>{} <span class=\"soft\">for {} · {}</span></li>",
                escaped(&execution.agent),
                escaped(&execution.principal),
                words(execution.seconds)
            ),
        );
    }
    html.push_str("</ul></section>");
}

fn audit(html: &mut String, status: &Status) {
    let (class, word) = match (status.audit.enabled, status.audit_writable) {
        (false, _) => ("warn", "off"),
        (true, true) => ("good", "writing"),
        (true, false) => ("bad", "cannot be written"),
    };
    let lost = if status.audit_lost > 0 { "bad" } else { "soft" };
    put(
        html,
        format_args!(
            "<section><h2>Audit log</h2><div class=\"big {class}\">{word}</div>\
         <p class=\"soft\">{}</p><p class=\"soft\">{} waiting</p>\
         <p class=\"{lost}\">{} lost</p></section>",
            counted(status.audit_records, "record"),
            grouped(status.audit.queued),
            grouped(status.audit_lost)
        ),
    );
}

fn denials(html: &mut String, status: &Status) {
    html.push_str("<section><h2>Last refusals</h2>");
    if status.denials.is_empty() {
        html.push_str("<p class=\"soft\">none since the start</p></section>");
        return;
    }
    html.push_str(
        "<table><tr><th>when</th><th>who</th><th>why</th><th class=\"wide\">rule</th>\
         <th class=\"n\">times</th></tr>",
    );
    for denial in status.denials.iter().take(20) {
        put(
            html,
            format_args!(
                "<tr><td class=\"t\">{} ago</td><td>{}</td><td><code>{}</code></td>\
             <td class=\"wide\"><code>{}</code></td><td class=\"n\">{}</td></tr>",
                words(status.since(denial.at)),
                who(denial),
                breakable(&denial.reason),
                breakable(denial.rule.as_deref().unwrap_or_default()),
                grouped(denial.count)
            ),
        );
    }
    html.push_str("</table></section>");
}

fn who(denial: &Denial) -> String {
    let source = denial.source.map(|source| source.to_string());
    let parts = [
        source,
        denial.principal.clone(),
        denial.tool.as_ref().map(|tool| format!("tool {tool}")),
    ];
    let parts: Vec<String> = parts.iter().flatten().map(|text| breakable(text)).collect();
    parts.join(" · ")
}

fn sources(html: &mut String, status: &Status) {
    if status.sources.is_empty() {
        return;
    }
    html.push_str(
        "<section><h2>Most refused</h2><table><tr><th>address</th><th>last for</th>\
         <th class=\"n\">packets</th><th class=\"n\">requests</th><th class=\"n wide\">last</th></tr>",
    );
    for source in status.sources.iter().take(15) {
        let SourceTotal {
            source,
            packets,
            requests,
            reason,
            last,
        } = source;
        put(
            html,
            format_args!(
                "<tr><td>{}</td><td><code>{}</code></td><td class=\"n\">{}</td>\
             <td class=\"n\">{}</td><td class=\"n wide soft\">{} ago</td></tr>",
                breakable(&source.to_string()),
                breakable(reason),
                grouped(*packets),
                grouped(*requests),
                words(status.since(*last))
            ),
        );
    }
    html.push_str("</table></section>");
}

/// Rates over the history, the first at the left edge, on a scale of their own.
fn line(html: &mut String, status: &Status, what: &str, of: fn(&Moment) -> u64) {
    let pairs = status.history.iter().zip(status.history.iter().skip(1));
    let rates: Vec<f64> = pairs
        .map(|(before, after)| after.rate_since(before, of))
        .collect();
    let most = rates.iter().copied().fold(0.0, f64::max);
    let width = rates.len().saturating_sub(1).max(1);
    put(
        html,
        format_args!(
            "<svg viewBox=\"0 0 {width} {HEIGHT}\" preserveAspectRatio=\"none\" role=\"img\" \
             aria-label=\"{what} over the last minutes, at most {} a second\">\
             <line class=\"base\" x1=\"0\" y1=\"{BASE}\" x2=\"{width}\" y2=\"{BASE}\"/>",
            figure(most)
        ),
    );
    if most > 0.0 {
        html.push_str("<polyline points=\"");
        for (x, rate) in rates.into_iter().enumerate() {
            let y = BASE - rate / most * (BASE - 2.0);
            put(html, format_args!("{x},{y:.1} "));
        }
        html.push_str("\"/>");
    }
    put(
        html,
        format_args!("</svg><p class=\"reach\">{}</p>", reach(status)),
    );
}

/// How far back the lines go.
fn reach(status: &Status) -> String {
    let first = status.history.first().map_or(0, |moment| moment.at_ms);
    let last = status.history.last().map_or(0, |moment| moment.at_ms);
    format!("last {}", words(last.saturating_sub(first) / 1000))
}

fn escaped(text: &str) -> String {
    let mut safe = String::with_capacity(text.len());
    for character in plain(text).chars() {
        match character {
            '&' => safe.push_str("&amp;"),
            '<' => safe.push_str("&lt;"),
            '>' => safe.push_str("&gt;"),
            '"' => safe.push_str("&quot;"),
            '\'' => safe.push_str("&#39;"),
            other => safe.push(other),
        }
    }
    safe
}

/// Escaped, with places where a narrow screen may break an address or a word of the code.
pub(crate) fn breakable(text: &str) -> String {
    let mut safe = escaped(text);
    for mark in ['_', ':', '.'] {
        safe = safe.replace(mark, &format!("{mark}<wbr>"));
    }
    safe
}

fn put(html: &mut String, text: std::fmt::Arguments<'_>) {
    // Writing to a String cannot fail.
    html.write_fmt(text).unwrap_or_default();
}

const CSS: &str = include_str!("page.css");
/// Rates are means over this long.
const RATE_SECONDS: u64 = 10;
/// Of the lines, and where nothing is.
const HEIGHT: f64 = 32.0;
const BASE: f64 = 31.0;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::EventKind;
    use crate::ops::{Interface, ReasonTotal, Verdict};

    #[test]
    fn texts_from_outside_stay_texts() {
        let evil = "<script>alert(1)</script>\"'&\u{202e}\n";
        let status = Status {
            interfaces: vec![Interface {
                name: evil.into(),
                mode: evil.into(),
                steps_down: vec![evil.into()],
            }],
            reasons: vec![ReasonTotal {
                name: evil.into(),
                drop: true,
                verdict: Verdict::Drop,
                packets: 1,
                bytes: 1,
            }],
            version: evil.into(),
            sandbox: evil.into(),
            sources: vec![SourceTotal {
                source: "192.0.2.1".parse().unwrap(),
                packets: 1,
                requests: 1,
                reason: evil.into(),
                last: 0,
            }],
            denials: vec![Denial {
                at: 0,
                event: EventKind::Tool,
                reason: evil.into(),
                rule: Some(evil.into()),
                source: None,
                principal: Some(evil.into()),
                tool: Some(evil.into()),
                count: 1,
            }],
            ..Status::default()
        };
        let html = page(&status).html;
        assert!(!html.contains("<script"), "{html}");
        assert!(!html.contains('\u{202e}'));
        assert_eq!(html.matches("&lt;script&gt;").count(), 10, "{html}");
    }

    #[test]
    fn the_policy_allows_its_one_style_sheet_and_nothing_else() {
        let Page {
            html,
            security_policy,
        } = page(&Status::default());
        assert!(security_policy.starts_with("default-src 'none'; style-src 'sha256-"));
        for word in ["http://", "https://", "url(", "@import", " style=", " on"] {
            assert!(!html.contains(word), "{word}");
        }
        assert_eq!(html.matches("<style>").count(), 1);
    }
}
