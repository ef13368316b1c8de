//! Bars over time, and bars beside names: SVG that scales with the page.
//!
//! Invariant: numbers only; no text of the log comes here.

use std::fmt::Write as _;

use crate::audit::{Bucket, Stats, Sum};
use crate::cli::audit::table::minute;
use crate::ops::grouped;

/// One series of the histogram.
pub(super) struct Series {
    pub(super) title: &'static str,
    /// A class of the style sheet.
    pub(super) class: &'static str,
    pub(super) of: fn(Sum) -> u64,
}

/// A chart for each series that has anything, each on a scale of its own, since packets outnumber
/// requests a thousandfold; the time is the same under all of them.
pub(super) fn histogram(html: &mut String, stats: &Stats, series: &[Series]) {
    let (Some(first), Some(last)) = (stats.histogram.first(), stats.histogram.last()) else {
        html.push_str("<p class=\"soft\">Nothing was recorded.</p>");
        return;
    };
    let width = i64::try_from(stats.bucket_seconds).unwrap_or(60).max(1) * 1_000_000;
    let place = |bucket: &Bucket| (bucket.start.micros() - first.start.micros()) / width;
    let places = place(last) + 1;
    let each = each(stats.bucket_seconds);
    for Series { title, class, of } in series {
        let Some(most) = stats.histogram.iter().max_by_key(|bucket| of(bucket.sums)) else {
            continue;
        };
        let peak = of(most.sums);
        if peak == 0 {
            continue;
        }
        let sum = stats
            .histogram
            .iter()
            .fold(0_u64, |sum, bucket| sum.saturating_add(of(bucket.sums)));
        let (sum, peak_text) = (grouped(sum), grouped(peak));
        let when = minute(most.start);
        // Writing to a String cannot fail.
        let _written = write!(
            html,
            "<figure><figcaption><b>{title}</b> <span class=\"n\">{sum}</span> \
             <span class=\"soft\">at most {peak_text} {each}, {when}</span></figcaption>\
             <svg class=\"chart {class}\" viewBox=\"0 0 {places} 100\" preserveAspectRatio=\"none\" \
             role=\"img\" aria-label=\"{title} over time, at most {peak_text} {each}\">",
        );
        for bucket in &stats.histogram {
            let count = of(bucket.sums);
            if count == 0 {
                continue;
            }
            let height = share(count, peak);
            let _written = write!(
                html,
                "<rect x=\"{}.05\" y=\"{}\" width=\".9\" height=\"{height}\">\
                 <title>{}: {}</title></rect>",
                place(bucket),
                100 - height,
                minute(bucket.start),
                grouped(count)
            );
        }
        html.push_str("</svg></figure>");
    }
    let (first, last) = (minute(first.start), minute(last.start));
    let _written = write!(
        html,
        "<p class=\"axis\"><span>{first}</span><span>{last} UTC</span></p>"
    );
}

/// A name's share of the most frequent one's, what was refused of it apart.
pub(super) fn bar(html: &mut String, count: u64, denied: u64, most: u64) {
    let (whole, denied) = (share(count, most), share(denied.min(count), most));
    let _written = write!(
        html,
        "<svg class=\"bar\" viewBox=\"0 0 100 1\" preserveAspectRatio=\"none\" aria-hidden=\"true\">\
         <rect class=\"rest\" width=\"{whole}\" height=\"1\"/>\
         <rect class=\"denied\" width=\"{denied}\" height=\"1\"/></svg>"
    );
}

/// In hundredths; whatever there was is seen.
fn share(count: u64, most: u64) -> u64 {
    let share = u128::from(count) * 100 / u128::from(most.max(1));
    u64::try_from(share)
        .unwrap_or(100)
        .clamp(u64::from(count > 0), 100)
}

fn each(seconds: u64) -> &'static str {
    match seconds {
        60 => "a minute",
        3_600 => "an hour",
        86_400 => "a day",
        _ => "a week",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_there_was_is_seen_and_nothing_is_more_than_all() {
        for (count, most, expected) in [
            (0, 10, 0),
            (1, 1_000_000, 1),
            (5, 10, 50),
            (10, 10, 100),
            (11, 10, 100),
            (u64::MAX, u64::MAX, 100),
            (0, 0, 0),
        ] {
            assert_eq!(share(count, most), expected, "{count} of {most}");
        }
    }
}
