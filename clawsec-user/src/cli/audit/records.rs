//! `audit tail`, `audit query`, `audit show`: records one by one.

use std::io::{self, Write as _};
use std::ops::ControlFlow;
use std::process::ExitCode;
use std::time::Duration;

use clap::Args;
use rustix::event::{PollFd, PollFlags, Timespec, poll};

use super::arguments::{FilterArguments, FormArguments, LogArgument};
use super::meter::Meter;
use super::text::{HEADING, Paint, every_field, human_line, json_line};
use super::{absent, conclude};
use crate::audit::{self, Filter, last_lines};
use crate::cli::{CommandResult, Exit, Failure, output};

#[derive(Debug, Args)]
pub(crate) struct TailArguments {
    #[command(flatten)]
    log: LogArgument,
    /// Go on showing what is added
    #[arg(short, long)]
    follow: bool,
    /// How many records to begin with
    #[arg(short = 'n', long, value_name = "N", default_value_t = 20)]
    lines: usize,
    #[command(flatten)]
    form: FormArguments,
    #[command(flatten)]
    filter: FilterArguments,
}

#[derive(Debug, Args)]
pub(crate) struct QueryArguments {
    #[command(flatten)]
    log: LogArgument,
    /// End after that many
    #[arg(short = 'n', long, value_name = "N")]
    limit: Option<u64>,
    #[command(flatten)]
    form: FormArguments,
    #[command(flatten)]
    filter: FilterArguments,
}

#[derive(Debug, Args)]
pub(crate) struct ShowArguments {
    #[command(flatten)]
    log: LogArgument,
    /// The request's id, as in a record's `request` or an answer's error
    #[arg(value_name = "ID")]
    request: String,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

pub(super) fn tail(arguments: &TailArguments) -> CommandResult {
    let (path, _) = arguments.log.find()?;
    let filter = arguments.filter.filter();
    let wanted = |line: &[u8]| filter == Filter::default() || filter.takes_line(line);
    let (lines, mut follower) = last_lines(&path, arguments.lines, &wanted).map_err(absent)?;
    let mut show = Show::new(arguments.form);
    let mut open = show.lines(&lines);
    while arguments.follow && open {
        let lines = follower.poll().map_err(Failure::other)?;
        if lines.is_empty() {
            open = wait_for_more();
        } else {
            let lines: Vec<_> = lines.into_iter().filter(|line| wanted(line)).collect();
            open = show.lines(&lines);
        }
    }
    Ok(ExitCode::SUCCESS)
}

pub(super) fn query(arguments: &QueryArguments) -> CommandResult {
    let (path, _) = arguments.log.find()?;
    let mut show = Show::new(arguments.form);
    let mut meter = Meter::new();
    let mut left = arguments.limit.unwrap_or(u64::MAX);
    let found = audit::query(
        &path,
        &arguments.filter.filter(),
        &mut |at| meter.at(at),
        |line| {
            if left == 0 {
                return ControlFlow::Break(());
            }
            left -= 1;
            if show.line(line) && left > 0 {
                ControlFlow::Continue(())
            } else {
                ControlFlow::Break(())
            }
        },
    )
    .map_err(absent)?;
    drop(meter);
    show.flush();
    Ok(conclude(found.damages, found.unreadable))
}

pub(super) fn show(arguments: &ShowArguments) -> CommandResult {
    let (path, _) = arguments.log.find()?;
    let filter = Filter {
        requests: vec![arguments.request.clone()],
        ..Filter::default()
    };
    let paint = Paint::of_stdout();
    let mut meter = Meter::new();
    let mut text = String::new();
    let found = audit::query(&path, &filter, &mut |at| meter.at(at), |line| {
        text.push_str(&if arguments.json {
            json_line(line) + "\n"
        } else {
            every_field(line, paint)
        });
        ControlFlow::Continue(())
    })
    .map_err(absent)?;
    drop(meter);
    if found.records == 0 {
        let text = format!("no record has the request id {:?}", arguments.request);
        return Err(Failure::new(Exit::Finding, anyhow::anyhow!(text)));
    }
    output::print(&text);
    Ok(conclude(found.damages, 0))
}

/// Prints records; many at once, since a query may find millions.
struct Show {
    json: bool,
    paint: Paint,
    /// The heading of the table is still to be printed.
    heading: bool,
    text: String,
}

impl Show {
    fn new(form: FormArguments) -> Self {
        let paint = Paint::of_stdout();
        let json = form.is_json();
        Self {
            json,
            paint,
            heading: !json,
            text: String::new(),
        }
    }

    /// False when nobody reads any more.
    fn lines(&mut self, lines: &[Vec<u8>]) -> bool {
        lines.iter().all(|line| self.line(line)) && self.flush()
    }

    fn line(&mut self, line: &[u8]) -> bool {
        if std::mem::take(&mut self.heading) {
            self.text.push_str(&self.paint.dim(HEADING));
            self.text.push('\n');
        }
        self.text.push_str(&if self.json {
            json_line(line)
        } else {
            human_line(line, self.paint)
        });
        self.text.push('\n');
        self.text.len() < PRINT_BYTES || self.flush()
    }

    fn flush(&mut self) -> bool {
        let mut stdout = io::stdout().lock();
        let written = stdout
            .write_all(self.text.as_bytes())
            .and_then(|()| stdout.flush());
        self.text.clear();
        written.is_ok()
    }
}

/// Waits a little; false at once when the reader of standard output has gone away.
fn wait_for_more() -> bool {
    let stdout = io::stdout();
    // No event is asked for: only errors and hang-ups, which are always given, end the wait.
    let mut descriptors = [PollFd::new(&stdout, PollFlags::empty())];
    match poll(&mut descriptors, Some(&POLL)) {
        Ok(0) => true,
        Ok(_) => false,
        // Interrupted by a signal that did not end us.
        Err(_) => {
            std::thread::sleep(Duration::from_millis(10));
            true
        }
    }
}

/// How long a follower waits before it looks again: 200 ms.
const POLL: Timespec = Timespec {
    tv_sec: 0,
    tv_nsec: 200_000_000,
};
const PRINT_BYTES: usize = 64 * 1024;
