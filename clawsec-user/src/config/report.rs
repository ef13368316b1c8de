//! Everything one pass over a document finds, gathered until the end.
//!
//! Invariant: a document with one problem gives no configuration; `finish` is the only way out.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use super::model::Warning;
use super::near;
use super::problem::{ConfigError, Problem};
use super::redact::Edit;

#[derive(Debug)]
pub(super) struct Report {
    /// What `~` stands for.
    pub(super) home: Option<PathBuf>,
    problems: Vec<Placed>,
    unknown: Vec<Unknown>,
    /// Every key the checker asked for, with `[]` for list elements.
    asked: BTreeSet<String>,
    pub(super) warnings: Vec<Warning>,
    /// Changes that make the document safe to send to the gateway process.
    pub(super) edits: Vec<Edit>,
    /// Where a secret stands in the file itself, neither hashed nor by reference.
    pub(super) literal_secrets: Vec<String>,
    /// Files that `${secret:NAME}` was looked up in.
    pub(super) secret_files: Vec<PathBuf>,
}

#[derive(Debug)]
struct Placed {
    offset: usize,
    problem: Problem,
}

#[derive(Debug)]
struct Unknown {
    offset: usize,
    section: String,
    key: String,
}

impl Report {
    pub(super) fn new(home: Option<PathBuf>) -> Self {
        Self {
            home,
            problems: Vec::new(),
            unknown: Vec::new(),
            asked: BTreeSet::new(),
            warnings: Vec::new(),
            edits: Vec::new(),
            literal_secrets: Vec::new(),
            secret_files: Vec::new(),
        }
    }

    /// Adds a problem and gives it back, for `found`, `expected` and `suggestion`.
    pub(super) fn problem(
        &mut self,
        offset: usize,
        path: &str,
        message: impl Into<String>,
    ) -> &mut Problem {
        let problem = Problem {
            path: path.to_owned(),
            ..Problem::of_file(Path::new(""), message)
        };
        let index = self.problems.len();
        self.problems.push(Placed { offset, problem });
        &mut self.problems[index].problem
    }

    pub(super) fn warn(&mut self, path: &str, message: impl Into<String>) {
        self.warnings.push(Warning {
            path: path.to_owned(),
            message: message.into(),
        });
    }

    pub(super) fn edit(&mut self, edit: Edit) {
        self.edits.push(edit);
    }

    /// Notes that the checker knows this key; keys nobody asked for are unknown.
    pub(super) fn ask(&mut self, path: &str) {
        self.asked.insert(pattern(path));
    }

    /// Judges one key of the document after its section was read.
    pub(super) fn see(&mut self, offset: usize, section: &str, path: &str, key: &str) {
        if !self.asked.contains(&pattern(path)) {
            self.unknown.push(Unknown {
                offset,
                section: section.to_owned(),
                key: key.to_owned(),
            });
        }
    }

    /// Whether a problem was found at `path` or below it.
    pub(super) fn has_problem_under(&self, path: &str) -> bool {
        self.problems
            .iter()
            .any(|placed| placed.problem.path.starts_with(path))
    }

    #[cfg(test)]
    pub(super) fn asked(&self) -> &BTreeSet<String> {
        &self.asked
    }

    /// Gives all problems, in the order of the file, or none.
    pub(super) fn finish(&mut self, text: &str, file: &Path) -> Result<(), ConfigError> {
        for unknown in std::mem::take(&mut self.unknown) {
            let suggestion = self.meant(&unknown);
            let path = super::tree::join(&unknown.section, &unknown.key);
            self.problem(unknown.offset, &path, "unknown key")
                .suggestion = suggestion;
        }
        if self.problems.is_empty() {
            return Ok(());
        }
        self.problems.sort_by_key(|placed| placed.offset);
        let place = |placed: Placed| {
            let (line, column) = position(text, placed.offset);
            Problem {
                file: file.to_owned(),
                line,
                column,
                ..placed.problem
            }
        };
        let problems = std::mem::take(&mut self.problems);
        Err(ConfigError::new(problems.into_iter().map(place).collect()))
    }

    /// A near miss among the keys of the same section, else the same word in another section.
    fn meant(&self, unknown: &Unknown) -> Option<String> {
        let section = pattern(&unknown.section);
        let parent = |asked: &str| {
            asked
                .rsplit_once('.')
                .map_or(String::new(), |p| p.0.to_owned())
        };
        let siblings = self
            .asked
            .iter()
            .filter(|asked| parent(asked) == section)
            .map(|asked| last(asked));
        if let Some(key) = near::nearest(&unknown.key, siblings) {
            return Some(format!("`{key}`"));
        }
        let mut elsewhere = self
            .asked
            .iter()
            .filter(|asked| !asked.contains("[]") && near::same(last(asked), &unknown.key));
        match (elsewhere.next(), elsewhere.next()) {
            (Some(only), None) => Some(format!("`{only}`")),
            _ => None,
        }
    }
}

/// Line and column of a byte offset, both from 1, the column in characters.
fn position(text: &str, offset: usize) -> (usize, usize) {
    let before = text.get(..offset).unwrap_or(text);
    let line_start = before.rfind(['\n', '\r']).map_or(0, |index| index + 1);
    let returns = before.matches('\r').count() - before.matches("\r\n").count();
    let line = before.matches('\n').count() + returns + 1;
    let column = before.get(line_start..).unwrap_or("").chars().count() + 1;
    (line, column)
}

/// A path with every list index left out: `tokens[3].id` is `tokens[].id`.
fn pattern(path: &str) -> String {
    let mut inside = false;
    path.chars()
        .filter(|&c| {
            inside = match c {
                '[' => true,
                ']' => false,
                _ => inside,
            };
            !inside || c == '['
        })
        .collect()
}

fn last(path: &str) -> &str {
    path.rsplit_once('.').map_or(path, |(_, key)| key)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_lines_and_characters() {
        let rows = [
            ("ab", 1, (1, 2)),
            ("a\nb", 2, (2, 1)),
            ("a\r\nb", 3, (2, 1)),
            ("a\rb", 2, (2, 1)),
            ("äöx", 4, (1, 3)),
        ];
        for (text, offset, expected) in rows {
            assert_eq!(position(text, offset), expected, "{text:?}");
        }
    }

    #[test]
    fn patterns_have_no_indices() {
        assert_eq!(pattern("a.b[12].c[0]"), "a.b[].c[]");
    }
}
