//! Wall-clock time of a record: RFC 3339, UTC, always six digits of a second.
//!
//! Only timestamps use wall time; intervals are measured on a monotonic clock by the callers.

use std::fmt;

use jiff::Timestamp;
use jiff::fmt::temporal::DateTimePrinter;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

/// Microseconds since 1970-01-01T00:00:00Z.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Stamp(i64);

impl Stamp {
    pub fn now() -> Self {
        Self(Timestamp::now().as_microsecond())
    }

    pub fn from_micros(micros: i64) -> Self {
        Self(micros)
    }

    pub fn micros(self) -> i64 {
        self.0
    }

    /// Reads an RFC 3339 time with any offset; `None` when it is not one.
    pub fn parse(text: &str) -> Option<Self> {
        Self::parse_own(text.as_bytes()).or_else(|| {
            let time = text.parse::<Timestamp>().ok()?;
            Some(Self(time.as_microsecond()))
        })
    }

    /// Reads exactly what `Display` writes, which is all that readers of large logs meet.
    fn parse_own(text: &[u8]) -> Option<Self> {
        let text: &[u8; 27] = text.try_into().ok()?;
        let shape = |at: usize| match at {
            4 | 7 => b'-',
            10 => b'T',
            13 | 16 => b':',
            19 => b'.',
            26 => b'Z',
            _ => b'0',
        };
        let fits = |(at, byte): (usize, &u8)| match shape(at) {
            b'0' => byte.is_ascii_digit(),
            mark => *byte == mark,
        };
        if !text.iter().enumerate().all(fits) {
            return None;
        }
        let number = |from: usize, to: usize| {
            let digit = |sum, byte: &u8| sum * 10 + i64::from(byte - b'0');
            text[from..to].iter().fold(0_i64, digit)
        };
        let (year, month, day) = (number(0, 4), number(5, 7), number(8, 10));
        let (hour, minute, second) = (number(11, 13), number(14, 16), number(17, 19));
        let lengths = [31, 28, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31];
        let leap = year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
        let index = usize::try_from(month - 1).ok()?;
        let length = lengths.get(index)? + i64::from(leap && month == 2);
        // Leap seconds and other rarities go the long way.
        if !(1..=length).contains(&day) || hour > 23 || minute > 59 || second > 59 {
            return None;
        }
        // Days since 1970-01-01, counting years from March so that the leap day is the last.
        let years = if month > 2 { year } else { year - 1 };
        let day_of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
        let days = 365 * years + years.div_euclid(4) - years.div_euclid(100)
            + years.div_euclid(400)
            + day_of_year
            - 719_468;
        let seconds = days * 86_400 + hour * 3_600 + minute * 60 + second;
        Some(Self(seconds * 1_000_000 + number(20, 26)))
    }
}

impl fmt::Display for Stamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let time = Timestamp::from_microsecond(self.0).unwrap_or(Timestamp::UNIX_EPOCH);
        f.write_str(&PRINTER.timestamp_to_string(&time))
    }
}

impl Serialize for Stamp {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Stamp {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_str(Text)
    }
}

/// Reads the time where it stands, without a copy.
struct Text;

impl de::Visitor<'_> for Text {
    type Value = Stamp;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an RFC 3339 time")
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<Stamp, E> {
        Stamp::parse(text).ok_or_else(|| E::custom("not an RFC 3339 time"))
    }
}

static PRINTER: DateTimePrinter = DateTimePrinter::new().precision(Some(6));

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stamp_prints_six_digits_and_reads_back() {
        for (micros, text) in [
            (0, "1970-01-01T00:00:00.000000Z"),
            (1_767_225_600_000_001, "2026-01-01T00:00:00.000001Z"),
            (1_767_225_600_500_000, "2026-01-01T00:00:00.500000Z"),
        ] {
            assert_eq!(Stamp::from_micros(micros).to_string(), text);
            assert_eq!(Stamp::parse(text), Some(Stamp::from_micros(micros)));
        }
        assert_eq!(Stamp::parse("yesterday"), None);
    }

    #[test]
    fn the_short_way_of_reading_agrees_with_the_long_one() {
        // Every day of four centuries and then some, at a time that walks through the day.
        for day in -30_000..150_000_i64 {
            let micros = day * 86_400_000_000 + (day * 7_919_123_457).rem_euclid(86_400_000_000);
            let stamp = Stamp::from_micros(micros);
            let text = stamp.to_string();
            assert_eq!(Stamp::parse_own(text.as_bytes()), Some(stamp), "{text}");
        }
        for odd in [
            "2026-02-29T00:00:00.000000Z",
            "2026-13-01T00:00:00.000000Z",
            "2026-00-01T00:00:00.000000Z",
            "2026-01-00T00:00:00.000000Z",
            "2026-01-01T24:00:00.000000Z",
            "2026-01-01T23:59:60.000000Z",
            "2026-01-01T00:00:00.000000+",
            "2026-01-01 00:00:00.000000Z",
            "2026-01-01T00:00:00Z",
        ] {
            assert_eq!(Stamp::parse_own(odd.as_bytes()), None, "{odd}");
        }
        let offset = Stamp::parse("2026-01-01T01:00:00+01:00");
        assert_eq!(offset, Stamp::parse("2026-01-01T00:00:00.000000Z"));
    }
}
