//! Which stretch of time is summed up, what it is compared with, and in how wide steps it is shown.

use std::path::Path;

use serde::Serialize;

use super::filter::Filter;
use super::glance::Glance;
use super::parts::{ReadError, parts};
use super::read::LogReader;
use super::stamp::Stamp;
use super::tail::last_lines;

/// From the first up to, but not with, the second.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Stretch {
    pub since: Stamp,
    pub until: Stamp,
}

/// What a summary needs to know of time before it begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Period {
    /// The earlier and the later span, of the same length.
    pub(super) trend: Option<(Stretch, Stretch)>,
    pub(super) bucket_micros: i64,
}

impl Period {
    /// Nothing is known: no trend, and minutes.
    #[cfg(test)]
    pub(super) fn whole() -> Self {
        Self {
            trend: None,
            bucket_micros: MINUTE_MICROS,
        }
    }

    /// With a beginning asked for, the trend is against as long a span before it; without, of the
    /// log's later half against its earlier one.
    pub(super) fn of(log: &Path, filter: &Filter) -> Result<Self, ReadError> {
        let (first, last) = ends(log)?;
        // The last record belongs to the span.
        let until = filter.until.or(last.map(|last| after(last, 1)));
        let since = filter.since.or(first);
        let (Some(since), Some(until)) = (since, until) else {
            return Ok(Self {
                trend: None,
                bucket_micros: MINUTE_MICROS,
            });
        };
        let length = until.micros().saturating_sub(since.micros()).max(0);
        let (start, middle) = if filter.since.is_some() {
            (after(since, -length), since)
        } else {
            (since, after(since, length / 2))
        };
        let before = Stretch {
            since: start,
            until: middle,
        };
        let now = Stretch {
            since: middle,
            until,
        };
        let bucket_micros = WIDTHS
            .into_iter()
            .find(|width| length / width < BUCKETS_WANTED)
            .unwrap_or(WEEK_MICROS);
        Ok(Self {
            trend: (length > 1).then_some((before, now)),
            bucket_micros,
        })
    }

    pub(super) fn is_now(&self, at: Stamp) -> bool {
        self.trend.is_some_and(|(_, now)| now.contains(at))
    }

    pub(super) fn is_before(&self, at: Stamp) -> bool {
        self.trend.is_some_and(|(before, _)| before.contains(at))
    }
}

impl Stretch {
    fn contains(self, at: Stamp) -> bool {
        self.since <= at && at < self.until
    }
}

/// When the oldest and the newest record were written, as far as they can be read.
fn ends(log: &Path) -> Result<(Option<Stamp>, Option<Stamp>), ReadError> {
    let mut first = None;
    for part in parts(log)? {
        let Some(open) = part.open()? else {
            continue;
        };
        // What cannot be read is named by the summary itself.
        let mut reader = LogReader::of_part(open);
        let line = reader.next_line().ok().flatten();
        first = line.and_then(|line| Some(Glance::parse(line.text).ok()?.began()));
        if first.is_some() {
            break;
        }
    }
    let (lines, _) = last_lines(log, 1, &|line| Glance::parse(line).is_ok())?;
    let last = lines.first().and_then(|line| Glance::parse(line).ok());
    Ok((first, last.map(|record| record.ts)))
}

fn after(stamp: Stamp, micros: i64) -> Stamp {
    Stamp::from_micros(stamp.micros().saturating_add(micros))
}

pub(super) const MINUTE_MICROS: i64 = 60_000_000;
const HOUR_MICROS: i64 = 60 * MINUTE_MICROS;
const DAY_MICROS: i64 = 24 * HOUR_MICROS;
const WEEK_MICROS: i64 = 7 * DAY_MICROS;
const WIDTHS: [i64; 3] = [MINUTE_MICROS, HOUR_MICROS, DAY_MICROS];
/// More than two hours are shown by the hour, more than five days by the day.
const BUCKETS_WANTED: i64 = 120;
