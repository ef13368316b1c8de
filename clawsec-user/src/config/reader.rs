//! Typed readers over the tree: a section is asked for its keys, and what nobody asked for is
//! unknown.
//!
//! Invariant: each reader reports what is wrong and gives `None`; none stops the pass, so that
//! one run shows every problem. A field of secrets never shows what was found.

use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::time::Duration;

use super::near;
use super::problem::Problem;
use super::redact::{Change, Edit};
use super::report::Report;
use super::tree::{Member, Node, Text, Value, join};

/// One object of the document, or one that is left out and has no keys.
pub(super) struct Section<'r, 't> {
    pub(super) report: &'r mut Report,
    members: &'t [Member],
    offset: usize,
    path: String,
}

/// One place where a value may stand.
pub(super) struct Field<'r, 't> {
    place: Place<'r>,
    node: Option<&'t Node>,
}

/// Where something is said about a value.
pub(super) struct Place<'r> {
    report: &'r mut Report,
    /// Where the value stands; where it is left out, its section.
    offset: usize,
    path: String,
}

impl Place<'_> {
    pub(super) fn problem(&mut self, message: impl Into<String>) -> &mut Problem {
        self.report.problem(self.offset, &self.path, message)
    }

    pub(super) fn warn(&mut self, message: impl Into<String>) {
        self.report.warn(&self.path, message);
    }

    /// Changes the value in the redacted document.
    pub(super) fn redact(&mut self, change: Change) {
        self.report.edit(Edit {
            path: self.path.clone(),
            change,
        });
    }

    pub(super) fn offset(&self) -> usize {
        self.offset
    }
}

impl<'r, 't> Section<'r, 't> {
    pub(super) fn root(node: &'t Node, report: &'r mut Report) -> Self {
        let members = match &node.value {
            Value::Object(members) => members.as_slice(),
            _ => &[],
        };
        Self {
            report,
            members,
            offset: node.offset,
            path: String::new(),
        }
    }

    /// The place of one key; asking makes the key known.
    pub(super) fn at(&mut self, key: &str) -> Field<'_, 't> {
        let path = join(&self.path, key);
        self.report.ask(&path);
        let node = self.members.iter().find(|m| m.key == key).map(|m| &m.node);
        let offset = node.map_or(self.offset, |node| node.offset);
        Field {
            place: Place {
                report: self.report,
                offset,
                path,
            },
            node,
        }
    }

    /// A field under either of two names; both at once is a problem.
    pub(super) fn at_either(&mut self, key: &str, synonym: &str) -> Field<'_, 't> {
        let second = self.at(synonym);
        if !second.is_present() {
            return self.at(key);
        }
        if self.members.iter().any(|member| member.key == key) {
            let second = self.at(synonym);
            second.problem(format!("the same key as `{key}`, which stands here too"));
        }
        self.report.ask(&join(&self.path, key));
        self.at(synonym)
    }

    pub(super) fn has(&self, key: &str) -> bool {
        self.members.iter().any(|member| member.key == key)
    }

    pub(super) fn path(&self) -> &str {
        &self.path
    }

    /// Reports every key that nobody asked for.
    pub(super) fn finish(self) {
        for member in self.members {
            let path = join(&self.path, &member.key);
            self.report
                .see(member.offset, &self.path, &path, &member.key);
        }
    }
}

impl<'r, 't> Field<'r, 't> {
    pub(super) fn is_present(&self) -> bool {
        self.node.is_some()
    }

    pub(super) fn is_text(&self) -> bool {
        self.text_node().is_some()
    }

    pub(super) fn path(&self) -> &str {
        &self.place.path
    }

    /// Reports this place unless something stands there.
    pub(super) fn required(mut self, expected: &str) -> Self {
        if self.node.is_none() {
            let problem = self.place.problem("missing");
            problem.expected = Some(expected.to_owned());
        }
        self
    }

    /// Refuses a key of the design that this version does not implement; what is silently
    /// ignored would be believed to protect.
    pub(super) fn unavailable(self) {
        if self.is_present() {
            self.problem("not available in this version of clawsec; leave it out");
        }
    }

    pub(super) fn problem(mut self, message: impl Into<String>) {
        self.place.problem(message);
    }

    pub(super) fn warn(mut self, message: impl Into<String>) {
        self.place.warn(message);
    }

    pub(super) fn redact(mut self, change: Change) {
        self.place.redact(change);
    }

    pub(super) fn offset(&self) -> usize {
        self.place.offset
    }

    pub(super) fn boolean(self) -> Option<bool> {
        match self.node?.value {
            Value::Boolean(value) => Some(value),
            _ => self.mistyped("true or false"),
        }
    }

    pub(super) fn integer(self, range: RangeInclusive<u64>) -> Option<u64> {
        let expected = format!("a whole number from {} to {}", range.start(), range.end());
        let Value::Number(digits) = &self.node?.value else {
            return self.mistyped(&expected);
        };
        match whole(digits).filter(|number| range.contains(number)) {
            Some(number) => Some(number),
            None => self.mistyped(&expected),
        }
    }

    /// Like `integer`, for fields of 32 bits.
    pub(super) fn small(self, range: RangeInclusive<u32>) -> Option<u32> {
        let wide = u64::from(*range.start())..=u64::from(*range.end());
        self.integer(wide)
            .and_then(|number| u32::try_from(number).ok())
    }

    pub(super) fn millis(self, range: RangeInclusive<u64>) -> Option<Duration> {
        let Value::Number(digits) = &self.node?.value else {
            let (start, end) = (range.start(), range.end());
            return self.mistyped(&format!("milliseconds from {start} to {end}"));
        };
        match whole(digits).filter(|number| range.contains(number)) {
            Some(number) => Some(Duration::from_millis(number)),
            None => self.integer(range).map(Duration::from_millis),
        }
    }

    /// A number in thousandths, so that no floating point gets any further.
    pub(super) fn thousandths(self, range: RangeInclusive<u32>) -> Option<u32> {
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
            None => self.mistyped(&expected),
        }
    }

    /// Bytes: a number, or a text such as `"64m"` in powers of 1024.
    pub(super) fn size(self, range: RangeInclusive<u64>) -> Option<u64> {
        let expected = format!(
            "bytes as a number, or a text such as \"64m\", from {} to {}",
            range.start(),
            range.end()
        );
        let bytes = match &self.node?.value {
            Value::Number(digits) => whole(digits),
            Value::Text(text) => parse_size(&text.value),
            _ => return self.mistyped(&expected),
        };
        match bytes.filter(|bytes| range.contains(bytes)) {
            Some(bytes) => Some(bytes),
            None => self.mistyped(&expected),
        }
    }

    /// One of a closed set of words.
    pub(super) fn choice<T: Copy>(mut self, choices: &[(&str, T)]) -> Option<T> {
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
    pub(super) fn text(self) -> Option<&'t str> {
        self.parsed("a text that is not empty", |text| {
            if text.trim().is_empty() {
                Err(None)
            } else {
                Ok(text)
            }
        })
    }

    /// A text that works whatever it is, with a warning for some.
    pub(super) fn text_or_warning(
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
    pub(super) fn parsed<T>(
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

    /// A text that no message shows, and the place to say more about it.
    pub(super) fn secret(self, expected: &str) -> Option<(&'t str, Place<'r>)> {
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
    pub(super) fn file(mut self) -> Option<PathBuf> {
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

    /// Reads each element; what an element's reader refuses is left out.
    pub(super) fn list<T>(
        self,
        mut read: impl FnMut(Field<'_, 't>) -> Option<T>,
    ) -> Option<Vec<T>> {
        let Value::List(nodes) = &self.node?.value else {
            return self.mistyped("a list");
        };
        let mut values = Vec::with_capacity(nodes.len());
        for (index, node) in nodes.iter().enumerate() {
            let place = Place {
                report: &mut *self.place.report,
                offset: node.offset,
                path: format!("{}[{index}]", self.place.path),
            };
            values.extend(read(Field {
                place,
                node: Some(node),
            }));
        }
        Some(values)
    }

    /// A list of texts.
    pub(super) fn texts(self) -> Option<Vec<String>> {
        self.list(|element| element.text().map(str::to_owned))
    }

    /// Reads an object, if one stands here.
    pub(super) fn object<T>(self, read: impl FnOnce(&mut Section<'_, 't>) -> T) -> Option<T> {
        let node = self.node?;
        let Value::Object(members) = &node.value else {
            return self.mistyped("an object");
        };
        let mut section = Section {
            report: self.place.report,
            members,
            offset: node.offset,
            path: self.place.path,
        };
        let value = read(&mut section);
        section.finish();
        Some(value)
    }

    /// Reads an object; one that is left out is read as `{}`, for its defaults.
    pub(super) fn section<T>(mut self, read: impl FnOnce(&mut Section<'_, 't>) -> T) -> T {
        let members: &'t [Member] = match self.node.map(|node| &node.value) {
            Some(Value::Object(members)) => members,
            Some(_) => {
                self.reborrow().mistyped::<()>("an object");
                &[]
            }
            None => &[],
        };
        let mut section = Section {
            report: self.place.report,
            members,
            offset: self.place.offset,
            path: self.place.path,
        };
        let value = read(&mut section);
        section.finish();
        value
    }

    fn reborrow(&mut self) -> Field<'_, 't> {
        let place = Place {
            report: &mut *self.place.report,
            offset: self.place.offset,
            path: self.place.path.clone(),
        };
        Field {
            place,
            node: self.node,
        }
    }

    fn text_node(&self) -> Option<&'t Text> {
        match &self.node?.value {
            Value::Text(text) => Some(text),
            _ => None,
        }
    }

    /// Reports a value of another kind; nothing where none stands, or where its reference could
    /// not be resolved.
    fn mistyped<T>(mut self, expected: &str) -> Option<T> {
        let found = match &self.node?.value {
            Value::Unresolved => return None,
            Value::Null => "null".to_owned(),
            Value::Boolean(value) => value.to_string(),
            Value::Number(digits) => format!("the number {digits}"),
            Value::Text(text) if text.value.is_empty() => "an empty text".to_owned(),
            Value::Text(_) => "a text".to_owned(),
            Value::List(_) => "a list".to_owned(),
            Value::Object(_) => "an object".to_owned(),
        };
        let problem = self.place.problem("");
        problem.found = Some(found);
        problem.expected = Some(expected.to_owned());
        None
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
