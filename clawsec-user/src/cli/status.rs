//! `clawsec status`: one screen that says what is in force, who is refused and why, who is here,
//! and whether the log is healthy.

mod screen;

use std::process::ExitCode;

use self::screen::{Screen, item};
use super::admin::{SocketArguments, exchange, print_json, unexpected};
use super::{CommandResult, output};
use crate::event::Outcome;
use crate::ops::{Headline, ReasonTotal, Status, Verdict, counted, figure, grouped, plain, words};
use crate::supervisor::admin::{Answer, Question};

#[derive(Debug, clap::Args)]
pub(crate) struct StatusArguments {
    #[command(flatten)]
    socket: SocketArguments,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

pub(crate) fn status(arguments: &StatusArguments) -> CommandResult {
    match exchange(&arguments.socket, &Question::Status)? {
        Answer::Status(status) if arguments.json => print_json(&status)?,
        Answer::Status(status) => {
            let mut text = screen(&status).join("\n");
            text.push('\n');
            if output::colour() {
                text = coloured(&text, status.headline());
            }
            output::print(&text);
        }
        other => return Err(unexpected(&other)),
    }
    Ok(ExitCode::SUCCESS)
}

/// A terminal's height less the prompt after.
const LINES: usize = 23;

/// The lines. What must be said is said whole; the lists share what room is left.
fn screen(status: &Status) -> Vec<String> {
    let mut screen = Screen::default();
    for interface in status.interfaces.iter().take(4) {
        for step in &interface.steps_down {
            screen.said("", &format!("{}: {step}", interface.name));
        }
    }
    let before_lists = std::mem::take(&mut screen.lines);
    let tail = tail(status);
    let lists = [
        reasons(status),
        sources(status),
        denied(status),
        clients(status),
        executions(status),
    ];
    let head = head(status);
    let titles = [
        packets(status),
        requests(status),
        here(status),
        sandbox(status),
    ];
    let fixed =
        head.len() + before_lists.len() + tail.len() + titles.iter().map(Vec::len).sum::<usize>();
    let shares = share(LINES.saturating_sub(fixed), &lists.each_ref().map(Vec::len));
    let [reasons, sources, denied, clients, executions] = cut(lists, shares);
    let [packets, requests, here, sandbox] = titles;
    [
        head,
        packets,
        before_lists,
        reasons,
        sources,
        requests,
        denied,
        here,
        clients,
        sandbox,
        executions,
        tail,
    ]
    .concat()
}

fn head(status: &Status) -> Vec<String> {
    let mut screen = Screen::default();
    let attached: Vec<String> = status
        .interfaces
        .iter()
        .take(4)
        .map(|interface| format!("{} ({})", interface.name, interface.mode))
        .collect();
    let on = if attached.is_empty() {
        String::new()
    } else {
        format!(" on {}", attached.join(", "))
    };
    let word = status.headline().as_str();
    screen.said(
        "clawsec",
        &format!("{word}{on}, up {}", words(status.uptime_seconds)),
    );
    for what in status.against_readiness() {
        screen.said("", &format!("! {what}"));
    }
    let certificate = match status.certificate_days() {
        None => String::new(),
        Some(..0) => ", THE CERTIFICATE HAS ENDED".to_owned(),
        Some(days @ 0..14) => format!(", THE CERTIFICATE ENDS IN {days} DAYS"),
        Some(3650..) => ", certificate good for more than ten years".to_owned(),
        Some(days) => format!(", certificate good for {days} days"),
    };
    screen.said(
        "policy",
        &format!(
            "generation {} for {}{certificate}, version {}",
            status.generation,
            words(status.since(status.generation_since)),
            status.version
        ),
    );
    screen.lines
}

fn packets(status: &Status) -> Vec<String> {
    let mut screen = Screen::default();
    let rate = |of| figure(status.rate(RATE_SECONDS, of));
    let would = status.packets(Verdict::WouldDrop);
    let would = if would > 0 {
        format!(", {} would be", grouped(would))
    } else {
        String::new()
    };
    let text = if status.interfaces.is_empty() {
        "not filtered; addresses are checked at accept".to_owned()
    } else {
        format!(
            "dropped {} ({}/s){would}, passed {} ({}/s)",
            grouped(status.dropped()),
            rate(|moment| moment.dropped),
            grouped(status.packets(Verdict::Pass)),
            rate(|moment| moment.passed)
        )
    };
    screen.said("packets", &text);
    screen.said(
        "timed",
        &format!(
            "{}, {}{}",
            counted(status.bans, "ban"),
            counted(status.admissions, "admission"),
            status.kernel_memory.map_or_else(String::new, |memory| {
                let mib = |bytes: u64| bytes.div_ceil(1 << 20);
                format!(
                    "; kernel maps take {} MiB, {} at most",
                    mib(memory.used_bytes),
                    mib(memory.bound_bytes)
                )
            })
        ),
    );
    screen.lines
}

/// Why packets were dropped, or would be, the most first.
fn reasons(status: &Status) -> Vec<String> {
    let mut reasons: Vec<&ReasonTotal> = status
        .reasons
        .iter()
        .filter(|reason| reason.verdict != Verdict::Pass && reason.packets > 0)
        .collect();
    reasons.sort_by_key(|reason| std::cmp::Reverse(reason.packets));
    let line = |reason: &&ReasonTotal| {
        let verdict = match reason.verdict {
            Verdict::WouldDrop => "would drop",
            _ => "dropped",
        };
        item(&format!(
            "{verdict:<11}{:<22}{:>13}",
            reason.name,
            grouped(reason.packets)
        ))
    };
    reasons.iter().map(line).collect()
}

/// Who is refused, in packets and requests.
fn sources(status: &Status) -> Vec<String> {
    let line = |source: &crate::ops::SourceTotal| {
        let count = source.packets.saturating_add(source.requests);
        item(&format!(
            "{:<22}{:>13}  {}, {} ago",
            source.source.to_string(),
            grouped(count),
            plain(&source.reason),
            words(status.since(source.last))
        ))
    };
    status.sources.iter().map(line).collect()
}

fn requests(status: &Status) -> Vec<String> {
    let rate = |of| figure(status.rate(RATE_SECONDS, of));
    let mut screen = Screen::default();
    screen.said(
        "requests",
        &format!(
            "refused {} ({}/s), let through {} ({}/s)",
            grouped(status.decided(Outcome::Deny)),
            rate(|moment| moment.denied),
            grouped(status.decided(Outcome::Allow)),
            rate(|moment| moment.allowed)
        ),
    );
    screen.lines
}

/// Why requests were refused, the most first.
fn denied(status: &Status) -> Vec<String> {
    let mut totals: Vec<_> = status
        .events
        .iter()
        .filter(|total| total.outcome != Outcome::Allow)
        .filter(|total| {
            use crate::event::EventKind::{Config, System};
            !matches!(total.event, System | Config)
        })
        .collect();
    totals.sort_by_key(|total| std::cmp::Reverse(total.count));
    let line = |total: &&crate::ops::EventTotal| {
        item(&format!(
            "{:<11}{:<22}{:>13}",
            total.event.as_str(),
            total.reason,
            grouped(total.count)
        ))
    };
    totals.iter().map(line).collect()
}

fn here(status: &Status) -> Vec<String> {
    let mut screen = Screen::default();
    let gateway = match (status.gateway_pid, &status.gateway.figures) {
        (None, _) => "THE GATEWAY PROCESS DOES NOT RUN".to_owned(),
        (Some(pid), None) => format!("gateway process {pid}"),
        (Some(pid), Some(figures)) => format!(
            "{}, gateway process {pid}",
            counted(figures.connections, "connection")
        ),
    };
    screen.said("clients", &gateway);
    screen.lines
}

fn clients(status: &Status) -> Vec<String> {
    let line = |client: &crate::ops::Client| {
        item(&format!(
            "{:<20} {:<28} {}",
            plain(&client.principal),
            client.source.to_string(),
            match (client.connections, client.websockets) {
                (0, sockets) => counted(sockets, "WebSocket"),
                (connections, 0) => counted(connections, "connection"),
                (connections, sockets) => format!(
                    "{}, {}",
                    counted(connections, "connection"),
                    counted(sockets, "WebSocket")
                ),
            }
        ))
    };
    status.gateway.clients.iter().map(line).collect()
}

fn sandbox(status: &Status) -> Vec<String> {
    let mut screen = Screen::default();
    let executions = &status.executions;
    let load = if executions.slots == 0 {
        String::new()
    } else {
        format!(
            ", {} of {} running, {} waiting",
            executions.running.len(),
            executions.slots,
            executions.waiting
        )
    };
    screen.said("sandbox", &format!("{}{load}", status.sandbox));
    screen.lines
}

fn executions(status: &Status) -> Vec<String> {
    let line = |execution: &crate::ops::Execution| {
        item(&format!(
            "agent {} for {}, {}",
            plain(&execution.agent),
            plain(&execution.principal),
            words(execution.seconds)
        ))
    };
    status.executions.running.iter().map(line).collect()
}

fn tail(status: &Status) -> Vec<String> {
    let mut screen = Screen::default();
    screen.said("observer", &status.observer);
    screen.said("node", &status.node);
    let audit = match (status.audit.enabled, status.audit_writable) {
        (false, _) => "OFF: nothing is recorded".to_owned(),
        (true, writable) => format!(
            "{}, {}, {} waiting, {} lost, {}",
            if writable { "writing" } else { "NOT WRITABLE" },
            counted(status.audit_records, "record"),
            grouped(status.audit.queued),
            grouped(status.audit_lost),
            status.audit.path
        ),
    };
    screen.said("audit", &audit);
    for sink in status.audit.sinks.iter().take(4) {
        let state = if sink.connected {
            ""
        } else {
            "NOT CONNECTED, "
        };
        let (sent, lost) = (grouped(sink.sent), grouped(sink.lost));
        let line = format!("to {}: {state}{sent} sent, {lost} lost", sink.name);
        screen.lines.push(item(&line));
    }
    screen.lines
}

/// Gives each list in turn one more line until the room is spent; each has one in any case.
fn share<const N: usize>(room: usize, wanted: &[usize; N]) -> [usize; N] {
    let mut shares = wanted.map(|lines| lines.min(1));
    let mut left = room.saturating_sub(shares.iter().sum());
    loop {
        let before = left;
        for (share, wanted) in shares.iter_mut().zip(wanted) {
            if left > 0 && *share < *wanted {
                *share += 1;
                left -= 1;
            }
        }
        if left == before {
            return shares;
        }
    }
}

fn cut<const N: usize>(mut lists: [Vec<String>; N], shares: [usize; N]) -> [Vec<String>; N] {
    for (list, share) in lists.iter_mut().zip(shares) {
        list.truncate(share);
    }
    lists
}

/// The headline's word in its colour; the rest stays plain.
fn coloured(text: &str, headline: Headline) -> String {
    let word = headline.as_str();
    let colour = match headline {
        Headline::Enforcing => "32",
        Headline::Observing | Headline::Unfiltered => "33",
        Headline::NotReady => "31",
    };
    text.replacen(word, &format!("\x1b[1;{colour}m{word}\x1b[0m"), 1)
}

/// Rates are means over this long.
const RATE_SECONDS: u64 = 10;

#[cfg(test)]
mod tests;
