//! An error and its causes as one line, for logs, records and answers.

use std::error::Error;

/// `read the file: permission denied`: each error names its operation, none repeats its source.
pub(crate) fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str(": ");
        text.push_str(&error.to_string());
        cause = error.source();
    }
    text
}
