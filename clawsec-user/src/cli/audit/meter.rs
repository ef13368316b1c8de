//! How far a long scan is: on standard error, and only when that is a terminal.

use std::io::{self, IsTerminal as _, Write as _};
use std::time::{Duration, Instant};

use crate::audit::Progress;

/// Shows nothing for scans that end at once, and takes its line away at the end.
#[derive(Debug)]
pub(super) struct Meter {
    terminal: bool,
    next: Instant,
    shown: bool,
}

impl Meter {
    pub(super) fn new() -> Self {
        Self {
            terminal: io::stderr().is_terminal(),
            next: Instant::now() + FIRST_AFTER,
            shown: false,
        }
    }

    pub(super) fn at(&mut self, progress: Progress) {
        if !self.terminal || Instant::now() < self.next {
            return;
        }
        self.next = Instant::now() + EVERY;
        self.shown = true;
        write_line(&text(progress));
    }
}

impl Drop for Meter {
    fn drop(&mut self) {
        if self.shown {
            write_line("");
        }
    }
}

fn text(progress: Progress) -> String {
    let percent = (progress.done * 100)
        .checked_div(progress.total)
        .unwrap_or(100);
    let mib = |bytes: u64| bytes >> 20;
    let (done, total) = (mib(progress.done), mib(progress.total));
    format!("{percent:>3} %  {done} of {total} MiB")
}

/// Over whatever stands in the line.
fn write_line(text: &str) {
    // A terminal that has gone away has nobody to tell.
    let _closed = write!(io::stderr().lock(), "\r\u{1b}[K{text}");
}

const FIRST_AFTER: Duration = Duration::from_millis(500);
const EVERY: Duration = Duration::from_millis(200);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn progress_is_a_share_and_two_sizes() {
        let at = |done, total| text(Progress { done, total });
        assert_eq!(at(512 << 20, 1 << 30), " 50 %  512 of 1024 MiB");
        assert_eq!(at(0, 0), "100 %  0 of 0 MiB");
    }
}
