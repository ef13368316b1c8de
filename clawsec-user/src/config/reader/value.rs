//! Readers of single values: numbers, words, texts, secrets, files.
//!
//! Invariant: a value out of its range is reported and left out, never moved into the range.

use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::time::Duration;

use super::super::near;
use super::super::redact::Change;
use super::super::tree::{Text, Value};
use super::{Field, Place};

impl<'r, 't> Field<'r, 't> {
    pub(in crate::config) fn boolean(self) -> Option<bool> {
        match self.node?.value {
            Value::Boolean(value) => Some(value),
            _ => self.mistyped("true or false"),
        }
    }

    pub(in crate::config) fn integer(self, range: RangeInclusive<u64>) -> Option<u64> {
        self.whole_of("a whole number", &range)
    }

    /// Like `integer`, for fields of 32 bits.
    pub(in crate::config) fn small(self, range: RangeInclusive<u32>) -> Option<u32> {
        let wide = u64::from(*range.start())..=u64::from(*range.end());
        self.integer(wide)
            .and_then(|number| u32::try_from(number).ok())
    }

    pub(in crate::config) fn millis(self, range: RangeInclusive<u64>) -> Option<Duration> {
        self.millis_number(range).map(Duration::from_millis)
    }

    /// Milliseconds for fields that keep them as a number.
    pub(in crate::config) fn millis_number(self, range: RangeInclusive<u64>) -> Option<u64> {
        self.whole_of("milliseconds", &range)
    }

    fn whole_of(self, what: &str, range: &RangeInclusive<u64>) -> Option<u64> {
        let expected = format!("{what} from {} to {}", range.start(), range.end());
        let Value::Number(digits) = &self.node?.value else {
            return self.mistyped(&expected);
        };
        match whole(digits).filter(|number| range.contains(number)) {
            Some(number) => Some(number),
            None => self.out_of_range(digits, &expected),
        }
    }

    fn out_of_range<T>(mut self, digits: &str, expected: &str) -> Option<T> {
        let problem = self.place.problem("");
        problem.found = Some(format!("the number {digits}"));
        problem.expected = Some(expected.to_owned());
        None
    }

    /// A number in thousandths, so that no floating point gets any further.
    pub(in crate::config) fn thousandths(self, range: RangeInclusive<u32>) -> Option<u32> {
        let (start, end) = (f64::from(*range.start()), f64::from(*range.end()));
        let expected = format!("a number from {} to {}", start / 1000.0, end / 1000.0);
        let Value::Number(digits) = &self.node?.value else {
            return self.mistyped(&expected);
        };
        let number = digits
            .parse::<f64>()
            .ok()
            .and_then(|number| format!("{:.0}", number * 1000.0).parse::<u32>().ok())
            .filter(|number| range.contains(number));
        match number {
            Some(number) => Some(number),
            None => self.out_of_range(digits, &expected),
        }
    }

    /// Bytes: a number, or a text such as `"64m"` in powers of 1024.
    pub(in crate::config) fn size(self, range: RangeInclusive<u64>) -> Option<u64> {
        let expected = format!(
            "bytes, or a text such as \"64m\", from {} to {}",
            shown_size(*range.start()),
            shown_size(*range.end())
        );
        let in_range = |bytes: Option<u64>| bytes.filter(|bytes| range.contains(bytes));
        match &self.node?.value {
            Value::Number(digits) => match in_range(whole(digits)) {
                Some(bytes) => Some(bytes),
                None => self.out_of_range(digits, &expected),
            },
            _ => self.parsed(&expected, |text| in_range(parse_size(text)).ok_or(None)),
        }
    }

    /// One of a closed set of words.
    pub(in crate::config) fn choice<T: Copy>(mut self, choices: &[(&str, T)]) -> Option<T> {
        let words: Vec<String> = choices
            .iter()
            .map(|(word, _)| format!("\"{word}\""))
            .collect();
        let expected = match words.as_slice() {
            [only] => only.clone(),
            words => format!("one of {}", words.join(", ")),
        };
        let Some(text) = self.text_node() else {
            return self.mistyped(&expected);
        };
        if let Some((_, value)) = choices
            .iter()
            .find(|(word, _)| *word == text.value.as_str())
        {
            return Some(*value);
        }
        let suggestion = near::nearest(&text.value, choices.iter().map(|(word, _)| *word));
        let found = shown(text);
        let problem = self.place.problem("");
        problem.found = Some(found);
        problem.expected = Some(expected);
        problem.suggestion = suggestion.map(|word| format!("\"{word}\""));
        None
    }

    /// A text that is not empty.
    pub(in crate::config) fn text(self) -> Option<&'t str> {
        self.parsed("a text that is not empty", |text| {
            if text.trim().is_empty() {
                Err(None)
            } else {
                Ok(text)
            }
        })
    }

    /// A text that works whatever it is, with a warning for some.
    pub(in crate::config) fn text_or_warning(
        mut self,
        judge: impl FnOnce(&str) -> Option<String>,
    ) -> Option<String> {
        let text = self.reborrow().text()?;
        if let Some(message) = judge(text) {
            self.place.warn(message);
        }
        Some(text.to_owned())
    }

    /// A text that `parse` understands; its error is a suggestion, if it has one.
    pub(in crate::config) fn parsed<T>(
        mut self,
        expected: &str,
        parse: impl FnOnce(&'t str) -> Result<T, Option<String>>,
    ) -> Option<T> {
        let Some(text) = self.text_node() else {
            return self.mistyped(expected);
        };
        match parse(&text.value) {
            Ok(value) => Some(value),
            Err(suggestion) => {
                let problem = self.place.problem("");
                problem.found = Some(shown(text));
                problem.expected = Some(expected.to_owned());
                problem.suggestion = suggestion;
                None
            }
        }
    }

    /// A text as the file has it, where substitution changed it.
    pub(in crate::config) fn written(&self) -> Option<&'t str> {
        self.text_node()?.written.as_deref()
    }

    /// A text that no message shows, and the place to say more about it.
    pub(in crate::config) fn secret(self, expected: &str) -> Option<(&'t str, Place<'r>)> {
        let Some(text) = self.text_node().filter(|text| !text.value.is_empty()) else {
            return self.mistyped(expected);
        };
        if text.written.is_none() && !text.value.starts_with("sha256:") {
            let path = self.place.path.clone();
            self.place.report.literal_secrets.push(path);
        }
        Some((&text.value, self.place))
    }

    /// An absolute path; `~` is the home folder of the daemon's user.
    pub(in crate::config) fn file(mut self) -> Option<PathBuf> {
        let home = self.place.report.home.clone();
        let expected = match home {
            Some(_) => "an absolute path",
            None => "an absolute path without `~`, since this user has no home folder",
        };
        let tilde = self
            .text_node()
            .is_some_and(|text| text.value.starts_with('~'));
        let file = self.reborrow().parsed(expected, |text| {
            let path = match text.strip_prefix('~') {
                Some("") => home,
                Some(rest) if rest.starts_with('/') => {
                    home.map(|home| home.join(rest.trim_start_matches('/')))
                }
                Some(_) => None,
                None => Some(PathBuf::from(text)),
            };
            path.filter(|path| path.is_absolute() && !text.contains('\0'))
                .ok_or(None)
        })?;
        if tilde && let Some(text) = file.to_str() {
            self.place.redact(Change::Set(text.to_owned()));
        }
        Some(file)
    }
}

/// A text as the file has it: what a variable holds may be somebody's secret.
fn shown(text: &Text) -> String {
    match &text.written {
        Some(written) => format!("{written:?}"),
        None => format!("{:?}", text.value.as_str()),
    }
}

/// `60`, `60.0` and `6e1` are whole.
fn whole(digits: &str) -> Option<u64> {
    digits.parse().ok().or_else(|| {
        let number = digits.parse::<f64>().ok()?;
        let is_whole = number.is_finite() && number.fract() == 0.0;
        is_whole
            .then(|| format!("{number:.0}").parse().ok())
            .flatten()
    })
}

fn parse_size(text: &str) -> Option<u64> {
    let text = text.trim().to_lowercase();
    let end = text
        .find(|c: char| !c.is_ascii_digit())
        .unwrap_or(text.len());
    let (digits, unit) = text.split_at(end);
    let shift = match unit.trim() {
        "" | "b" => 0,
        "k" | "kb" | "kib" => 10,
        "m" | "mb" | "mib" => 20,
        "g" | "gb" | "gib" => 30,
        _ => return None,
    };
    digits.parse::<u64>().ok()?.checked_mul(1 << shift)
}

/// The largest unit that shows a size whole.
fn shown_size(bytes: u64) -> String {
    let unit = [(30, "g"), (20, "m"), (10, "k")];
    let fits = unit
        .into_iter()
        .find(|(shift, _)| bytes > 0 && bytes.trailing_zeros() >= *shift);
    fits.map_or_else(
        || bytes.to_string(),
        |(shift, unit)| format!("{}{unit}", bytes >> shift),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_have_units_of_1024() {
        let rows = [
            ("64m", Some(64 << 20)),
            ("64 MiB", Some(64 << 20)),
            ("1G", Some(1 << 30)),
            ("12", Some(12)),
            ("12k", Some(12 << 10)),
            ("", None),
            ("m", None),
            ("1.5g", None),
            ("-1m", None),
            ("99999999999g", None),
        ];
        for (text, expected) in rows {
            assert_eq!(parse_size(text), expected, "{text}");
        }
    }

    #[test]
    fn shown_sizes_are_read_back() {
        for bytes in [1, 1023, 1024, 64 << 20, 1 << 40, 3 << 19] {
            assert_eq!(parse_size(&shown_size(bytes)), Some(bytes));
        }
        assert_eq!(shown_size(64 << 20), "64m");
    }

    #[test]
    fn whole_numbers_have_many_spellings() {
        let rows = [
            ("60", Some(60)),
            ("60.0", Some(60)),
            ("6e1", Some(60)),
            (".5", None),
            ("-1", None),
            ("NaN", None),
            ("Infinity", None),
            ("1e400", None),
        ];
        for (text, expected) in rows {
            assert_eq!(whole(text), expected, "{text}");
        }
    }
}
