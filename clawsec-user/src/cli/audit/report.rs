//! `audit report`: what the log amounts to as one page, to keep, print or send.
//!
//! The page has everything it needs within itself and no script. It is written whole or not at all.

mod chart;
mod page;
mod tables;

use std::fs;
use std::io::{self, IsTerminal as _, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use clap::Args;

use self::page::{ChainState, Page};
use super::arguments::{FilterArguments, LogArgument};
use super::meter::Meter;
use super::{absent, conclude};
use crate::audit::{Chain, HeadCheck, Stamp, denials, head_path, summarise, verify};
use crate::cli::{CommandResult, Failure, check, output};
use crate::config::{Config, Secret};

#[derive(Debug, Args)]
pub(crate) struct ReportArguments {
    #[command(flatten)]
    log: LogArgument,
    /// As one page of HTML
    #[arg(long, required = true)]
    html: bool,
    /// Where to write it [default: standard output]
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
    /// How many names of each kind
    #[arg(long, value_name = "N", default_value_t = 10)]
    top: usize,
    #[command(flatten)]
    filter: FilterArguments,
}

pub(super) fn report(arguments: &ReportArguments) -> CommandResult {
    if arguments.out.is_none() && io::stdout().is_terminal() {
        let text = "a page is not for a terminal: say --out FILE, or redirect it";
        return Err(Failure::usage(anyhow::anyhow!(text)));
    }
    let (log, key, config) = arguments.log.find_with_config()?;
    let filter = arguments.filter.filter();
    let mut meter = Meter::new();
    let (stats, mut damages) =
        summarise(&log, &filter, arguments.top, &mut |at| meter.at(at)).map_err(absent)?;
    let (denials, _the_same) =
        denials(&log, &filter, DENIALS, &mut |at| meter.at(at)).map_err(absent)?;
    let chain = chain_state(&log, key.as_ref(), &mut meter)?;
    drop(meter);
    let checklist = config.as_ref().map(checklist).transpose()?;
    let html = Page {
        log: &log,
        made: Stamp::now(),
        asked: arguments.filter.words(),
        period: (filter.since.or(stats.first), filter.until.or(stats.last)),
        is_since: filter.since.is_some(),
        stats: &stats,
        denials: &denials,
        chain,
        checklist,
        damages: damages.iter().map(ToString::to_string).collect(),
    }
    .html();
    match &arguments.out {
        Some(file) => write_whole(file, &html)?,
        None => output::print(&html),
    }
    // Unreadable lines are among the figures.
    Ok(conclude(std::mem::take(&mut damages), 0))
}

fn chain_state(log: &Path, key: Option<&Secret>, meter: &mut Meter) -> Result<ChainState, Failure> {
    // A copy without its head is checked as far as that goes.
    let head = if head_path(log).exists() {
        HeadCheck::Required
    } else {
        HeadCheck::Skipped
    };
    let report = verify(log, &Chain::new(key), &head, &mut |at| meter.at(at)).map_err(absent)?;
    Ok(ChainState {
        report,
        has_head: head == HeadCheck::Required,
    })
}

/// What `clawsec check` finds in the configuration that names the log, and around it.
fn checklist(config: &Config) -> Result<(PathBuf, check::Audit), Failure> {
    Ok((config.path.clone(), check::audit(config)?))
}

/// Beside the file first, so that an older report stays until the new one is whole.
fn write_whole(file: &Path, html: &str) -> Result<(), Failure> {
    let mut new = file.as_os_str().to_owned();
    new.push(".new");
    let new = PathBuf::from(new);
    let written = fs::OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        // As the log, whose names it holds.
        .mode(0o600)
        .open(&new)
        .and_then(|mut open| open.write_all(html.as_bytes()))
        .and_then(|()| fs::rename(&new, file));
    written.map_err(|error| {
        // Nothing to remove when it could not be made.
        let _absent = fs::remove_file(&new);
        let context = format!("cannot write the report to {}", file.display());
        Failure::other(anyhow::Error::new(error).context(context))
    })
}

/// Rows of the table of refusals.
const DENIALS: usize = 25;

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use clap::Parser as _;

    use super::*;
    use crate::audit::{Digest, Entry, Record};
    use crate::event::{Event, EventKind, Outcome, ToolFact};

    #[derive(clap::Parser)]
    struct Line {
        #[command(flatten)]
        report: ReportArguments,
    }

    /// A log of refusals by somebody who chose every text.
    fn hostile_log(folder: &Path) -> PathBuf {
        let evil = "<script>alert(1)</script>\"'&\u{202e}<img src=http://x/>";
        let mut text = Vec::new();
        let mut prev = Digest::ZERO;
        for seq in 1..=90_u64 {
            let mut event = Event::new(EventKind::Tool, "invoke", Outcome::Deny, "tool_denied");
            if seq.is_multiple_of(3) {
                event = Event::new(EventKind::System, "lost", Outcome::Error, "queue_full");
            }
            event.source = Some("192.0.2.7".parse().unwrap());
            for field in [
                &mut event.user,
                &mut event.principal,
                &mut event.agent,
                &mut event.rule,
                &mut event.session,
                &mut event.detail,
            ] {
                *field = Some(evil.to_owned());
            }
            event.reason = evil.into();
            event.tool = Some(ToolFact {
                name: evil.to_owned(),
                args_bytes: 1,
            });
            let micros = i64::try_from(seq).unwrap() * 60_000_000;
            let mut record = Record::new(&Entry::new(event, Stamp::from_micros(micros)), seq, prev);
            record.encode(&Chain::new(None), &mut text);
            prev = record.hash;
        }
        let log = folder.join("<script>audit.log");
        fs::write(&log, text).unwrap();
        log
    }

    fn html_of(arguments: &[&str]) -> String {
        let folder = tempfile::tempdir().unwrap();
        let log = hostile_log(folder.path());
        let out = folder.path().join("report.html");
        let line = ["report", "--html", "--path"].map(std::ffi::OsString::from);
        let line = line
            .into_iter()
            .chain([log.into(), "--out".into(), out.clone().into()])
            .chain(arguments.iter().map(Into::into));
        let line = Line::try_parse_from(line).unwrap();
        assert!(report(&line.report).is_ok());
        fs::read_to_string(out).unwrap()
    }

    #[test]
    fn texts_of_the_log_stay_texts() {
        let asked = "<script>alert(2)</script>";
        let html = html_of(&["--user", asked]);
        assert!(!html.contains("<script"), "{html}");
        let html = html_of(&[]);
        for tag in ["<script", "<img", "\u{202e}"] {
            assert!(!html.contains(tag), "{tag}: {html}");
        }
        // Only as text: the address stands where it was written, and nothing fetches it.
        for attribute in [
            "src=\"", "href=", "url(", "@import", "onload", "<link", "<iframe",
        ] {
            assert!(!html.contains(attribute), "{attribute}");
        }
        let rows = html.matches("&lt;script&gt;").count();
        assert!(rows >= 8, "each text is on the page: {rows}");
    }

    #[test]
    fn a_report_has_each_of_its_parts_and_closes_what_it_opens() {
        let html = html_of(&[]);
        for part in [
            "Hash chain",
            "Packets dropped",
            "Over time",
            "The later half against the earlier",
            "Requests that were refused or failed",
            "What the log does not have",
            "What the daemon said of itself",
            "prefers-color-scheme:dark",
        ] {
            assert!(html.contains(part), "{part}");
        }
        for tag in ["section", "table", "div", "figure", "svg", "tr", "td", "p"] {
            let opened = html.matches(&format!("<{tag}>")).count()
                + html.matches(&format!("<{tag} ")).count();
            let closed = html.matches(&format!("</{tag}>")).count();
            assert_eq!(opened, closed, "{tag}");
        }
        let since = html_of(&["--since", "1970-01-01T00:30:00Z"]);
        assert!(since.contains("Against the 60 minutes before"), "{since}");
    }

    #[test]
    fn it_is_its_owners_alone_and_replaces_an_older_one_whole() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("report.html");
        fs::write(&file, "older").unwrap();
        write_whole(&file, "newer").unwrap();
        assert_eq!(fs::read_to_string(&file).unwrap(), "newer");
        let mode = fs::metadata(&file).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
        let error = write_whole(&folder.path().join("no/such"), "x").unwrap_err();
        assert!(format!("{:#}", error.error).contains("no/such"));
    }
}
