//! Totals as a person reads them: at a glance, on 80 columns and more.

use std::fmt::Write as _;

use ipnet::IpNet;

use super::text::{Paint, cell};
use crate::audit::{Stamp, Stats, Sum, Top, Trend};
use crate::event::{EventKind, Outcome};

/// All of it.
pub(super) fn stats_text(stats: &Stats, paint: Paint) -> String {
    let mut text = String::new();
    let records = stats.records;
    let span = span_text(stats);
    // Writing to a String cannot fail.
    let _written = writeln!(text, "{records} records, {span}\n");
    totals_text(&mut text, stats, paint);
    trend_text(&mut text, stats, paint);
    for (title, top) in [
        ("reasons", &stats.reasons),
        ("sources", &stats.sources),
        ("principals", &stats.principals),
        ("users", &stats.users),
        ("agents", &stats.agents),
        ("tools", &stats.tools),
    ] {
        top_text(&mut text, title, top, paint);
    }
    if stats.not_attributed > 0 {
        let count = stats.not_attributed;
        let _written = writeln!(text, "\n{count} kernel drops without a source");
    }
    for (count, what) in [
        (stats.lost, "events could not be written"),
        (stats.unreadable, "lines are not records"),
    ] {
        if count > 0 {
            let _written = writeln!(text, "\n{}", paint.red(&format!("{count} {what}")));
        }
    }
    histogram_text(&mut text, stats, paint);
    text
}

/// What one source did.
pub(super) fn who_text(source: IpNet, stats: &Stats, paint: Paint) -> String {
    let single = source.prefix_len() == source.max_prefix_len();
    let name = if single {
        source.addr().to_string()
    } else {
        source.to_string()
    };
    if stats.records == 0 {
        return format!("{name}: no record\n");
    }
    let mut text = format!(
        "{name}: {} records, {}\n\n",
        stats.records,
        span_text(stats)
    );
    totals_text(&mut text, stats, paint);
    for (title, top) in [
        ("reasons", &stats.reasons),
        ("principals", &stats.principals),
        ("users", &stats.users),
        ("agents", &stats.agents),
        ("tools", &stats.tools),
    ] {
        top_text(&mut text, title, top, paint);
    }
    if !single {
        top_text(&mut text, "sources", &stats.sources, paint);
    }
    text
}

fn span_text(stats: &Stats) -> String {
    match (stats.first, stats.last) {
        (Some(first), Some(last)) => format!("{} to {}", minute(first), minute(last)),
        _ => "nothing recorded".to_owned(),
    }
}

fn totals_text(text: &mut String, stats: &Stats, paint: Paint) {
    let heading = "event          allow       deny      error";
    let _written = writeln!(text, "{}", paint.dim(heading));
    for kind in EventKind::ALL {
        let Some(outcomes) = stats.totals.get(&kind) else {
            continue;
        };
        let of = |outcome| outcomes.get(&outcome).copied().unwrap_or(0);
        let sums = Sum {
            allow: of(Outcome::Allow),
            deny: of(Outcome::Deny),
            error: of(Outcome::Error),
            ..Sum::default()
        };
        let _written = writeln!(text, "{:<10}{}", kind.as_str(), sums_cells(sums, paint));
    }
}

/// Rates, and how they compare with the time before.
fn trend_text(text: &mut String, stats: &Stats, paint: Paint) {
    let Some(trend) = stats.trend else {
        return;
    };
    let _written = writeln!(
        text,
        "\n{}",
        paint.dim(&format!(
            "{:<18}{:>12} {:>12}   change",
            format!("{} each", length_text(trend)),
            "before",
            "now"
        ))
    );
    let rows = [
        (
            Outcome::Allow,
            trend.before_sums.allow,
            trend.now_sums.allow,
        ),
        (Outcome::Deny, trend.before_sums.deny, trend.now_sums.deny),
        (
            Outcome::Error,
            trend.before_sums.error,
            trend.now_sums.error,
        ),
    ];
    for (outcome, before, now) in rows {
        let _written = writeln!(
            text,
            "{:<18}{before:>12} {now:>12}   {}",
            outcome.as_str(),
            change(before, now)
        );
    }
    let seconds = trend.now.until.micros() - trend.now.since.micros();
    let rate = rate_text(trend.now_sums.all(), seconds);
    let _written = write!(text, "now {rate}");
    if let Some(peak) = stats.peak() {
        let rate = rate_text(
            peak.sums.all(),
            i64::try_from(stats.bucket_seconds).unwrap_or(60) * 1_000_000,
        );
        let _written = write!(text, ", at most {rate} ({})", minute(peak.start));
    }
    text.push('\n');
}

fn top_text(text: &mut String, title: &str, top: &Top, paint: Paint) {
    if top.names.is_empty() {
        return;
    }
    let at_least = if top.inexact > 0 { "over " } else { "" };
    let title = format!("{title} ({at_least}{})", top.distinct);
    let heading = format!("{title:<42} {:>10} {:>10}   change", "count", "denied");
    let _written = writeln!(text, "\n{}", paint.dim(&heading));
    for row in &top.names {
        let denied = format!("{:>10}", row.denied);
        let denied = if row.denied == 0 {
            paint.dim(&denied)
        } else {
            paint.red(&denied)
        };
        let _written = writeln!(
            text,
            "{} {:>10} {denied}   {}",
            cell(&row.name, 42),
            row.count,
            change(row.before, row.now)
        );
    }
    if top.inexact > 0 {
        let most = top.inexact;
        let _written = writeln!(
            text,
            "each may be up to {most} more: there were too many to keep"
        );
    }
}

fn histogram_text(text: &mut String, stats: &Stats, paint: Paint) {
    let most = stats.peak().map_or(0, |peak| peak.sums.all());
    if most == 0 {
        return;
    }
    let width = match stats.bucket_seconds {
        60 => "minute",
        3_600 => "hour",
        86_400 => "day",
        _ => "week",
    };
    let heading = format!(
        "per {width:<12} {:>10} {:>10} {:>10}",
        "allow", "deny", "error"
    );
    let _written = writeln!(text, "\n{}", paint.dim(&heading));
    let skipped = stats.histogram.len().saturating_sub(BUCKETS_SHOWN);
    for bucket in &stats.histogram[skipped..] {
        let sums = bucket.sums;
        let bar = |count: u64| {
            let share = u128::from(count) * BAR_WIDTH / u128::from(most);
            // Whatever happened is seen, however little beside the rest.
            let cells = usize::try_from(share)
                .unwrap_or(0)
                .max(usize::from(count > 0));
            "█".repeat(cells)
        };
        let _written = writeln!(
            text,
            "{}{}  {}{}{}",
            minute(bucket.start),
            sums_cells(sums, paint),
            paint.outcome(Outcome::Allow, &bar(sums.allow)),
            paint.outcome(Outcome::Deny, &bar(sums.deny)),
            paint.outcome(Outcome::Error, &bar(sums.error)),
        );
    }
}

fn sums_cells(sums: Sum, paint: Paint) -> String {
    let mut text = String::new();
    for (outcome, count) in [
        (Outcome::Allow, sums.allow),
        (Outcome::Deny, sums.deny),
        (Outcome::Error, sums.error),
    ] {
        let padded = format!("{count:>10}");
        let shown = if count == 0 {
            paint.dim(&padded)
        } else {
            paint.outcome(outcome, &padded)
        };
        let _written = write!(text, " {shown}");
    }
    text
}

/// `+12 %`, `new`, `gone`, `×14`; nothing where there was nothing.
pub(super) fn change(before: u64, now: u64) -> String {
    match (before, now) {
        (0, 0) => String::new(),
        (0, _) => "new".to_owned(),
        (_, 0) => "gone".to_owned(),
        _ if now / before >= 10 => format!("×{}", now / before),
        _ => {
            let before = i128::from(before);
            let percent = (i128::from(now) - before) * 100 / before;
            match percent {
                0 => "=".to_owned(),
                _ => format!("{percent:+} %"),
            }
        }
    }
}

/// In the largest unit that gives at least one.
pub(super) fn rate_text(count: u64, micros: i64) -> String {
    let micros = u128::from(micros.unsigned_abs()).max(1);
    let (unit, unit_micros) = [
        ("a second", 1_000_000),
        ("a minute", 60_000_000),
        ("an hour", 3_600_000_000),
    ]
    .into_iter()
    .find(|(_, unit_micros)| u128::from(count) * unit_micros >= micros)
    .unwrap_or(("a day", 86_400_000_000));
    let tenths = u128::from(count) * unit_micros * 10 / micros;
    if tenths >= 100 {
        format!("{} {unit}", tenths / 10)
    } else {
        format!("{}.{} {unit}", tenths / 10, tenths % 10)
    }
}

pub(super) fn length_text(trend: Trend) -> String {
    let seconds = (trend.now.until.micros() - trend.now.since.micros()) / 1_000_000;
    let minutes = seconds / 60;
    match minutes {
        0..2 => format!("{seconds} seconds"),
        2..120 => format!("{minutes} minutes"),
        120..2_880 => format!("{} hours", minutes / 60),
        _ => format!("{} days", minutes / 1_440),
    }
}

/// `2026-01-31 23:59`.
pub(super) fn minute(stamp: Stamp) -> String {
    let text = stamp.to_string();
    text.get(..16).unwrap_or(&text).replace('T', " ")
}

const BUCKETS_SHOWN: usize = 48;
const BAR_WIDTH: u128 = 40;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_change_is_said_as_a_person_says_it() {
        for (before, now, text) in [
            (0, 0, ""),
            (0, 5, "new"),
            (5, 0, "gone"),
            (100, 112, "+12 %"),
            (100, 88, "-12 %"),
            (1_000, 1_001, "="),
            (10, 145, "×14"),
            (u64::MAX, u64::MAX, "="),
        ] {
            assert_eq!(change(before, now), text, "{before} {now}");
        }
    }

    #[test]
    fn a_rate_has_the_unit_in_which_it_is_not_nothing() {
        let hour = 3_600_000_000;
        for (count, micros, text) in [
            (7_200, hour, "2.0 a second"),
            (90, hour, "1.5 a minute"),
            (1, hour, "1.0 an hour"),
            (1, 24 * hour, "1.0 a day"),
            (3_600_000, hour, "1000 a second"),
            (0, hour, "0.0 a day"),
            (5, 0, "5000000 a second"),
        ] {
            assert_eq!(rate_text(count, micros), text);
        }
    }
}
