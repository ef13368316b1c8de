//! `clawsec replay`: what the packet filter would have done with a capture.
//!
//! One line a frame on standard output, totals on standard error. Time is the capture's: limits
//! and bans are judged by when a frame was recorded, not by when it is replayed.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, BufWriter, IsTerminal as _, Write};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::Context as _;

use super::explain::{JudgeArguments, effect_word};
use super::{CommandResult, Exit, Failure};
use crate::capture::{Capture, CaptureError, Captured, LINK_ETHERNET};
use crate::enforcer::{EnforcerError, Judge};

#[derive(Debug, clap::Args)]
pub(crate) struct ReplayArguments {
    /// A pcap or pcapng file of Ethernet frames.
    #[arg(value_name = "FILE")]
    file: PathBuf,
    #[command(flatten)]
    judge: JudgeArguments,
    /// One JSON object a frame.
    #[arg(long)]
    json: bool,
}

/// Exits 0 when every frame of a whole capture was judged, 2 for a file that is not one.
pub(crate) fn replay(arguments: &ReplayArguments) -> CommandResult {
    let file = File::open(&arguments.file)
        .with_context(|| format!("cannot open {}", arguments.file.display()))
        .map_err(Failure::usage)?;
    let in_file = |error: CaptureError| {
        let exit = match error {
            CaptureError::Read { .. } => Exit::Other,
            _ => Exit::Usage,
        };
        let context = arguments.file.display().to_string();
        Failure::new(exit, anyhow::Error::new(error).context(context))
    };
    let mut capture = Capture::open(file).map_err(in_file)?;
    if let Some(link) = capture.link().filter(|&link| link != LINK_ETHERNET) {
        let message = format!(
            "{}: frames of {}; the packet filter judges Ethernet frames alone",
            arguments.file.display(),
            link_name(link)
        );
        return Err(Failure::usage(anyhow::anyhow!(message)));
    }
    let judge = arguments.judge.open()?;
    let mut replay = Replay::new(judge, arguments);
    let ended = replay.all(&mut capture);
    replay.print_totals();
    match ended {
        Ok(()) => Ok(ExitCode::SUCCESS),
        Err(Ended::Capture(error)) => Err(in_file(error)),
        Err(Ended::Judge(error)) => Err(Failure::absent(error)),
        // A reader that has gone away (`| head`) has seen what it wanted.
        Err(Ended::Output(error)) if error.kind() == io::ErrorKind::BrokenPipe => {
            Ok(ExitCode::SUCCESS)
        }
        Err(Ended::Output(error)) => Err(Failure::other(error)),
    }
}

/// Why a replay stopped before the capture's end.
#[derive(Debug)]
enum Ended {
    Capture(CaptureError),
    Judge(EnforcerError),
    Output(io::Error),
}

struct Replay {
    judge: Judge,
    clock: Clock,
    out: BufWriter<io::StdoutLock<'static>>,
    json: bool,
    totals: Totals,
    progress: Option<Instant>,
}

#[derive(Debug, Default)]
struct Totals {
    frames: u64,
    /// Frames of which the capture kept a part only.
    cut: u64,
    by_verdict: BTreeMap<(&'static str, &'static str), u64>,
    links: BTreeMap<u16, u64>,
    took: Duration,
}

/// Bytes of output gathered before they are written.
const OUTPUT_BYTES: usize = 256 * 1024;
/// Frames between two looks at the time.
const PROGRESS_FRAMES: u64 = 4_096;

impl Replay {
    fn new(judge: Judge, arguments: &ReplayArguments) -> Self {
        // Progress between lines of output would be unreadable.
        let watched = io::stderr().is_terminal() && !io::stdout().is_terminal();
        Self {
            judge,
            clock: Clock::new(arguments.judge.is_live()),
            out: BufWriter::with_capacity(OUTPUT_BYTES, io::stdout().lock()),
            json: arguments.json,
            totals: Totals::default(),
            progress: watched.then(Instant::now),
        }
    }

    fn all(&mut self, capture: &mut Capture<File>) -> Result<(), Ended> {
        let begun = Instant::now();
        let ended = loop {
            match capture.next_frame() {
                Ok(Some(frame)) => {
                    if let Err(ended) = self.one(&frame) {
                        break Err(ended);
                    }
                }
                Ok(None) => break Ok(()),
                Err(error) => break Err(Ended::Capture(error)),
            }
        };
        let flushed = self.out.flush().map_err(Ended::Output);
        self.totals.took = begun.elapsed();
        ended.and(flushed)
    }

    fn one(&mut self, frame: &Captured<'_>) -> Result<(), Ended> {
        self.totals.frames += 1;
        if (frame.bytes.len() as u64) < u64::from(frame.wire_bytes) {
            self.totals.cut += 1;
        }
        let clock_ns = self.clock.of(frame.at_ns);
        let (verdict, reason) = if frame.link == LINK_ETHERNET {
            self.judge.set_clock(clock_ns).map_err(Ended::Judge)?;
            match self.judge.run(frame.bytes).map_err(Ended::Judge)? {
                Some(judged) => (effect_word(judged.effect), judged.reason),
                None => (UNRUNNABLE, "short_frame"),
            }
        } else {
            *self.totals.links.entry(frame.link).or_default() += 1;
            (UNRUNNABLE, "link_type")
        };
        *self.totals.by_verdict.entry((verdict, reason)).or_default() += 1;
        self.print(verdict, reason, frame).map_err(Ended::Output)?;
        self.show_progress();
        Ok(())
    }

    fn print(&mut self, verdict: &str, reason: &str, frame: &Captured<'_>) -> io::Result<()> {
        let number = self.totals.frames;
        if self.json {
            // Verdicts and reasons are words of ours, without a character that JSON escapes.
            return writeln!(
                self.out,
                "{{\"frame\":{number},\"verdict\":\"{verdict}\",\"reason\":\"{reason}\"}}"
            );
        }
        let micros = self.clock.since_first(frame.at_ns) / 1_000;
        let (seconds, fraction) = (micros / 1_000_000, micros % 1_000_000);
        writeln!(
            self.out,
            "{number:>8}  {seconds:>6}.{fraction:06}  {bytes:>6} B  {verdict:<10}  {reason}",
            bytes = frame.wire_bytes,
        )
    }

    fn show_progress(&mut self) {
        let Some(shown) = self.progress else {
            return;
        };
        if self.totals.frames.is_multiple_of(PROGRESS_FRAMES)
            && shown.elapsed() >= Duration::from_millis(250)
        {
            // Progress that cannot be shown is no failure.
            let _unseen = write!(io::stderr(), "\r{} frames", self.totals.frames);
            self.progress = Some(Instant::now());
        }
    }

    fn print_totals(&self) {
        let mut text = if self.progress.is_some() {
            "\r\x1b[K".to_owned()
        } else {
            String::new()
        };
        text.push_str(&self.totals.describe());
        let _unseen = io::stderr().write_all(text.as_bytes());
    }
}

const UNRUNNABLE: &str = "unrunnable";

impl Totals {
    fn describe(&self) -> String {
        let seconds = self.took.as_secs_f64();
        let mut text = format!("{} frames in {seconds:.3} s", self.frames);
        if self.frames > 0 && seconds > 0.0 {
            #[expect(
                clippy::cast_precision_loss,
                reason = "a rate for people, of fewer than 2^52 frames"
            )]
            let rate = self.frames as f64 / seconds;
            text.push_str(&format!(", {rate:.0} a second"));
        }
        text.push('\n');
        for ((verdict, reason), count) in &self.by_verdict {
            text.push_str(&format!("{count:>10}  {verdict:<10}  {reason}\n"));
        }
        if self.cut > 0 {
            text.push_str(&format!(
                "{} frames were cut by the capture and judged by what it kept\n",
                self.cut
            ));
        }
        for (&link, count) in &self.links {
            text.push_str(&format!(
                "{count} frames of {} were not judged: the packet filter sees Ethernet alone\n",
                link_name(link)
            ));
        }
        text
    }
}

/// The capture's time as the program's clock.
#[derive(Debug)]
#[expect(clippy::struct_field_names, reason = "units stand in names")]
struct Clock {
    /// When the program's clock began, for a filter in force: its bans are on that clock.
    boot_ns: Option<u64>,
    first_ns: Option<u64>,
    last_ns: u64,
}

/// The program's own clock is read coarsely, some milliseconds a tick. A finer one would be no
/// truer, and a dense capture would cost a system call more for each frame.
const TICK_NS: u64 = 1_000_000;
/// The program's clock at the first frame of a capture that is older than the last boot. Every
/// ban in force ends later than such a frame.
const BEFORE_BOOT_NS: u64 = 1_000_000_000;

impl Clock {
    fn new(live: bool) -> Self {
        Self {
            boot_ns: live
                .then(|| super::explain::wall_ns().saturating_sub(super::explain::monotonic_ns())),
            first_ns: None,
            last_ns: 0,
        }
    }

    /// A frame without a time is as old as the one before it.
    fn of(&mut self, at_ns: Option<u64>) -> u64 {
        let at_ns = at_ns.unwrap_or(self.last_ns);
        let first_ns = *self.first_ns.get_or_insert(at_ns);
        self.last_ns = at_ns;
        let clock_ns = match self.boot_ns {
            None => at_ns,
            Some(boot_ns) if first_ns >= boot_ns => at_ns.saturating_sub(boot_ns),
            Some(_) => at_ns
                .saturating_sub(first_ns)
                .saturating_add(BEFORE_BOOT_NS),
        };
        clock_ns / TICK_NS * TICK_NS
    }

    fn since_first(&self, at_ns: Option<u64>) -> u64 {
        let at_ns = at_ns.unwrap_or(self.last_ns);
        at_ns.saturating_sub(self.first_ns.unwrap_or(at_ns))
    }
}

/// Link types that people meet, by name.
fn link_name(link: u16) -> String {
    let name = match link {
        0 => "BSD loopback",
        101 => "raw IP",
        105 => "IEEE 802.11",
        113 => "Linux cooked (`-i any`)",
        127 => "radiotap",
        276 => "Linux cooked v2 (`-i any`)",
        _ => return format!("link type {link}"),
    };
    format!("link type {link}, {name}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_clock_follows_the_capture() {
        const MS: u64 = 1_000_000;
        let clock = |boot_ns| Clock {
            boot_ns,
            first_ns: None,
            last_ns: 0,
        };
        let rows = [
            (
                "by itself",
                None,
                vec![Some(50 * MS + 7), None, Some(70 * MS)],
                vec![50 * MS, 50 * MS, 70 * MS],
            ),
            (
                "since boot",
                Some(40 * MS),
                vec![Some(50 * MS), Some(70 * MS), Some(30 * MS)],
                vec![10 * MS, 30 * MS, 0],
            ),
            (
                "before boot",
                Some(60 * MS),
                vec![Some(50 * MS), Some(70 * MS)],
                vec![BEFORE_BOOT_NS, BEFORE_BOOT_NS + 20 * MS],
            ),
        ];
        for (row, boot_ns, times, expected) in rows {
            let mut clock = clock(boot_ns);
            let found: Vec<u64> = times.into_iter().map(|at| clock.of(at)).collect();
            assert_eq!(found, expected, "{row}");
        }
    }

    #[test]
    fn totals_say_what_was_not_judged() {
        let totals = Totals {
            frames: 3,
            cut: 1,
            by_verdict: [(("drop", "not_allowed"), 2), ((UNRUNNABLE, "link_type"), 1)].into(),
            links: [(113, 1)].into(),
            took: Duration::ZERO,
        };
        assert_eq!(
            totals.describe(),
            "3 frames in 0.000 s\n         2  drop        not_allowed\n         1  unrunnable  \
             link_type\n1 frames were cut by the capture and judged by what it kept\n1 frames of \
             link type 113, Linux cooked (`-i any`) were not judged: the packet filter sees \
             Ethernet alone\n"
        );
    }
}
