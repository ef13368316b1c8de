//! What is wrong with a configuration: every problem, each with its place and the way out.
//!
//! Invariant: no text of a secret gets here; what was found is shown as it stands in the file,
//! before substitution, and fields that hold secrets say only what kind of value they have.

use std::fmt;
use std::path::{Path, PathBuf};

/// All the problems of one configuration; printed in the order of the file, one a line.
#[derive(Debug, thiserror::Error)]
#[error("{}", Lines(.problems))]
pub struct ConfigError {
    problems: Vec<Problem>,
    #[source]
    source: Option<std::io::Error>,
}

/// One problem.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    pub file: PathBuf,
    /// From 1; 0 where the problem is the file's and not a line's.
    pub line: usize,
    /// In characters, from 1; 0 with `line` 0.
    pub column: usize,
    /// Such as `security.auth.tokens[1]`; empty for the file as a whole.
    pub path: String,
    pub message: String,
    pub found: Option<String>,
    pub expected: Option<String>,
    pub suggestion: Option<String>,
}

impl ConfigError {
    pub(super) fn new(problems: Vec<Problem>) -> Self {
        Self {
            problems,
            source: None,
        }
    }

    /// An operation on the file itself failed.
    pub(super) fn io(problem: Problem, source: std::io::Error) -> Self {
        Self {
            problems: vec![problem],
            source: Some(source),
        }
    }

    pub fn problems(&self) -> &[Problem] {
        &self.problems
    }
}

impl Problem {
    /// A problem of the whole file.
    pub(super) fn of_file(file: &Path, message: impl Into<String>) -> Self {
        Self {
            file: file.to_owned(),
            line: 0,
            column: 0,
            path: String::new(),
            message: message.into(),
            found: None,
            expected: None,
            suggestion: None,
        }
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.file.display())?;
        if self.line > 0 {
            write!(f, ":{}:{}", self.line, self.column)?;
        }
        f.write_str(": ")?;
        if !self.path.is_empty() {
            write!(f, "{}: ", self.path)?;
        }
        f.write_str(&self.message)?;
        let separator = |first: bool| if first { "" } else { "; " };
        let mut first = self.message.is_empty();
        if let Some(found) = &self.found {
            write!(f, "{}found {found}", separator(first))?;
            first = false;
        }
        if let Some(expected) = &self.expected {
            let comma = if self.found.is_some() {
                ", "
            } else {
                separator(first)
            };
            write!(f, "{comma}expected {expected}")?;
            first = false;
        }
        if let Some(suggestion) = &self.suggestion {
            write!(f, "{}did you mean {suggestion}?", separator(first))?;
        }
        Ok(())
    }
}

struct Lines<'a>(&'a [Problem]);

impl fmt::Display for Lines<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, problem) in self.0.iter().enumerate() {
            if index > 0 {
                f.write_str("\n")?;
            }
            write!(f, "{problem}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_problem_reads_as_one_sentence() {
        let base = Problem {
            line: 3,
            column: 9,
            path: "security.auth".into(),
            ..Problem::of_file(Path::new("/c.json"), "")
        };
        let some = |text: &str| Some(text.to_owned());
        let rows = [
            (
                Problem {
                    message: "unknown key".into(),
                    suggestion: some("`key`"),
                    ..base.clone()
                },
                "/c.json:3:9: security.auth: unknown key; did you mean `key`?",
            ),
            (
                Problem {
                    found: some("a string"),
                    expected: some("a list"),
                    ..base.clone()
                },
                "/c.json:3:9: security.auth: found a string, expected a list",
            ),
            (
                Problem {
                    message: "missing".into(),
                    expected: some("a list"),
                    ..base
                },
                "/c.json:3:9: security.auth: missing; expected a list",
            ),
            (
                Problem::of_file(Path::new("/c.json"), "empty"),
                "/c.json: empty",
            ),
        ];
        for (problem, expected) in rows {
            assert_eq!(problem.to_string(), expected);
        }
    }
}
