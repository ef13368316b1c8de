//! Lines of a terminal's width.

use crate::ops::plain;

pub(super) const COLUMNS: usize = 80;
/// Where a line's text begins.
const INDENT: usize = 10;

#[derive(Default)]
pub(super) struct Screen {
    pub(super) lines: Vec<String>,
}

impl Screen {
    /// A text under a word, on as many lines as it takes.
    pub(super) fn said(&mut self, word: &str, text: &str) {
        let text = plain(text);
        let mut line = format!("{word:<INDENT$}");
        let mut is_empty = true;
        for part in text.split(' ') {
            if !is_empty && line.chars().count() + 1 + part.chars().count() > COLUMNS {
                self.lines
                    .push(std::mem::replace(&mut line, " ".repeat(INDENT)));
                is_empty = true;
            }
            if !is_empty {
                line.push(' ');
            }
            line.push_str(part);
            is_empty = false;
        }
        self.lines.push(line.trim_end().to_owned());
    }
}

/// One line of a list, cut at the screen's edge.
pub(super) fn item(text: &str) -> String {
    let line = format!("{:INDENT$}{text}", "");
    if line.chars().count() <= COLUMNS {
        return line.trim_end().to_owned();
    }
    line.chars().take(COLUMNS - 1).chain(['…']).collect()
}
