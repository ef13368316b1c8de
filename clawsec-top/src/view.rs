//! Draws it: one screen, right at 80 by 24, with more lines of sources where there is room.

use clawsec_user::ops::{Headline, Moment, Status, counted, figure, grouped, plain, words};
use ratatui::Frame;
use ratatui::buffer::{Buffer, Cell};
use ratatui::layout::{Constraint, Layout, Rect};
use ratatui::style::{Color, Modifier, Style, Stylize as _};
use ratatui::text::{Line, Span};
use ratatui::widgets::{Paragraph, Row, Sparkline, Table, TableState};

use crate::app::App;

/// Draws everything.
pub(crate) fn draw(frame: &mut Frame<'_>, app: &App) {
    let [head, lines, why, sources, below, foot] = Layout::vertical([
        Constraint::Length(1),
        Constraint::Length(4),
        Constraint::Length(1),
        Constraint::Min(4),
        Constraint::Length(4),
        Constraint::Length(1),
    ])
    .areas(frame.area());
    match &app.status {
        Some(status) => {
            frame.render_widget(headline(status, head.width), head);
            sparklines(frame, lines, app);
            frame.render_widget(reasons(status), why);
            draw_sources(frame, sources, app, status);
            frame.render_widget(Paragraph::new(state(status)), below);
        }
        None => frame.render_widget(Paragraph::new("asking the daemon …"), head),
    }
    frame.render_widget(footer(app), foot);
}

/// The screen without its colours, each line to its last character.
pub(crate) fn text(buffer: &Buffer) -> String {
    let area = buffer.area;
    let line = |y: u16| {
        let cells = (area.left()..area.right()).filter_map(|x| buffer.cell((x, y)));
        let line: String = cells.map(Cell::symbol).collect();
        format!("{}\n", line.trim_end())
    };
    (area.top()..area.bottom()).map(line).collect()
}

fn headline(status: &Status, width: u16) -> Paragraph<'static> {
    let colour = match status.headline() {
        Headline::Enforcing => Color::Green,
        Headline::Observing | Headline::Unfiltered => Color::Yellow,
        Headline::NotReady => Color::Red,
    };
    let on = match status.interfaces.as_slice() {
        [] => String::new(),
        [one] => format!(" on {} ({})", plain(&one.name), one.mode),
        [first, others @ ..] => format!(
            " on {} ({}) and {} more",
            plain(&first.name),
            first.mode,
            others.len()
        ),
    };
    let word = status.headline().as_str();
    let right = format!(
        "policy {}, up {}",
        status.generation,
        words(status.uptime_seconds)
    );
    let used = "clawsec ".len() + word.len() + on.chars().count() + right.len();
    let gap = usize::from(width).saturating_sub(used).max(1);
    Paragraph::new(Line::from(vec![
        "clawsec ".bold(),
        Span::styled(word, Style::new().fg(colour).bold()),
        Span::raw(on),
        Span::raw(" ".repeat(gap)),
        Span::raw(right),
    ]))
}

/// What a line counts.
type Of = fn(&Moment) -> u64;

fn sparklines(frame: &mut Frame<'_>, area: Rect, app: &App) {
    let columns: [Rect; 4] = Layout::horizontal([Constraint::Fill(1); 4])
        .spacing(2)
        .areas(area);
    let shown: [(&str, Of, Color); 4] = [
        ("dropped", |moment| moment.dropped, Color::Red),
        ("refused", |moment| moment.denied, Color::Magenta),
        ("passed", |moment| moment.passed, Color::Blue),
        ("let through", |moment| moment.allowed, Color::Cyan),
    ];
    for (column, (title, of, colour)) in columns.into_iter().zip(shown) {
        let rates = app.line(of);
        let now = recent(&rates);
        let [top, graph] =
            Layout::vertical([Constraint::Length(1), Constraint::Fill(1)]).areas(column);
        let title = Line::from(vec![
            Span::raw(title),
            Span::styled(
                format!(" {}/s", figure(now)),
                Style::new().fg(colour).bold(),
            ),
        ]);
        frame.render_widget(title, top);
        let width = usize::from(graph.width);
        let tail = rates.get(rates.len().saturating_sub(width)..);
        let bars = scaled(tail.unwrap_or_default());
        frame.render_widget(
            Sparkline::default()
                .data(&bars)
                .max(SCALE)
                .style(Style::new().fg(colour)),
            graph,
        );
    }
}

/// The mean of the last five: a single second jumps too much to be read.
fn recent(rates: &[f64]) -> f64 {
    let last = rates
        .get(rates.len().saturating_sub(5)..)
        .unwrap_or_default();
    let count = u32::try_from(last.len()).unwrap_or(1).max(1);
    last.iter().sum::<f64>() / f64::from(count)
}

/// Of the highest; what is not nothing is one step at least.
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "a part of SCALE, between 0 and it"
)]
fn scaled(rates: &[f64]) -> Vec<u64> {
    let most = rates.iter().copied().fold(0.0, f64::max);
    let part = |rate: &f64| match *rate {
        rate if rate <= 0.0 => 0,
        rate => ((rate / most * f64::from(SCALE_STEPS)).round() as u64).max(STEP),
    };
    rates.iter().map(part).collect()
}

/// Three rows of eight steps each, of any size: a step is a tenth of a thousand.
const SCALE: u64 = 2_400;
const SCALE_STEPS: u32 = 2_400;
const STEP: u64 = 100;

/// Why packets are dropped, the most first, as many as fit a line.
fn reasons(status: &Status) -> Paragraph<'static> {
    let mut reasons: Vec<_> = status
        .reasons
        .iter()
        .filter(|reason| reason.drop && reason.packets > 0)
        .collect();
    reasons.sort_by_key(|reason| std::cmp::Reverse(reason.packets));
    let mut spans = vec!["drops ".dim()];
    if reasons.is_empty() {
        spans.push(Span::raw("none"));
    }
    for reason in reasons {
        spans.push(Span::raw(format!("{} ", reason.name)));
        spans.push(Span::raw(format!("{}  ", grouped(reason.packets))).bold());
    }
    Paragraph::new(Line::from(spans))
}

fn draw_sources(frame: &mut Frame<'_>, area: Rect, app: &App, status: &Status) {
    let sources = app.sources();
    let selected = app
        .selected
        .and_then(|chosen| sources.iter().position(|source| source.source == chosen));
    let room = usize::from(area.width.saturating_sub(BESIDE)).max(24);
    let rows = sources.iter().map(|source| {
        Row::new(vec![
            shortened(source.source.to_string(), room),
            format!("{:>7}", figure(app.rate(source.source))),
            format!("{:>11}", short(source.packets)),
            format!("{:>9}", short(source.requests)),
            plain(&source.reason),
            format!("{:>6}", words(status.since(source.last))),
        ])
    });
    let arrow = if app.is_reversed { "▲" } else { "▼" };
    let title = format!("refused, by {} {arrow}", app.order.as_str());
    let header = Row::new(vec![
        title,
        format!("{:>7}", "/s"),
        format!("{:>11}", "packets"),
        format!("{:>9}", "requests"),
        "last for".to_owned(),
        format!("{:>6}", "ago"),
    ])
    .style(Style::new().add_modifier(Modifier::REVERSED));
    let table = Table::new(
        rows,
        [
            Constraint::Min(24),
            Constraint::Length(7),
            Constraint::Length(11),
            Constraint::Length(9),
            Constraint::Length(18),
            Constraint::Length(6),
        ],
    )
    .column_spacing(1)
    .header(header)
    .row_highlight_style(Style::new().fg(Color::Black).bg(Color::Yellow));
    let mut state = TableState::default().with_selected(selected);
    frame.render_stateful_widget(table, area, &mut state);
    if sources.is_empty() && area.height > 1 {
        let row = Rect {
            y: area.y + 1,
            height: 1,
            ..area
        };
        frame.render_widget(Paragraph::new("nobody yet").dim(), row);
    }
}

/// An address that is not shown whole says so; the question of a ban shows it whole.
fn shortened(text: String, most: usize) -> String {
    if text.chars().count() <= most {
        return text;
    }
    text.chars().take(most - 1).chain(['…']).collect()
}

/// The columns beside the address, with the spaces between.
const BESIDE: u16 = 7 + 11 + 9 + 18 + 6 + 5;

/// A count in nine places.
fn short(count: u64) -> String {
    if count < 100_000_000 {
        return grouped(count);
    }
    format!("{} M", grouped(count / 1_000_000))
}

fn state(status: &Status) -> Vec<Line<'static>> {
    let said = |word: &'static str, text: String, is_bad: bool| {
        let text = if is_bad {
            Span::raw(text).red().bold()
        } else {
            Span::raw(text)
        };
        Line::from(vec![format!("{word:<9}").dim(), text])
    };
    let open = status.gateway.figures.as_ref().map_or(0, |f| f.connections);
    let mut clients = counted(open, "connection");
    for (index, client) in status.gateway.clients.iter().enumerate() {
        clients.push_str(if index == 0 { ": " } else { ", " });
        clients.push_str(&format!("{} {}", plain(&client.principal), client.source));
    }
    let executions = &status.executions;
    let mut sandbox = plain(&status.sandbox);
    if executions.slots > 0 {
        sandbox.push_str(&format!(
            ", {} of {} running, {} waiting",
            executions.running.len(),
            executions.slots,
            executions.waiting
        ));
    }
    for (index, execution) in executions.running.iter().enumerate() {
        sandbox.push_str(if index == 0 { ": " } else { ", " });
        sandbox.push_str(&format!(
            "{} for {} {}",
            plain(&execution.agent),
            plain(&execution.principal),
            words(execution.seconds)
        ));
    }
    let audit = format!(
        "{}, {}, {} waiting, {} lost",
        match (status.audit.enabled, status.audit_writable) {
            (false, _) => "OFF",
            (true, true) => "writing",
            (true, false) => "NOT WRITABLE",
        },
        counted(status.audit_records, "record"),
        grouped(status.audit.queued),
        grouped(status.audit_lost)
    );
    let ready = status.against_readiness();
    let timed = format!(
        "{}, {}",
        counted(status.bans, "ban"),
        counted(status.admissions, "admission")
    );
    vec![
        said("clients", clients, status.gateway_pid.is_none()),
        said(
            "sandbox",
            sandbox,
            executions.wanted && executions.slots == 0,
        ),
        said(
            "audit",
            audit,
            !status.audit_writable || status.audit_lost > 0,
        ),
        match ready.first() {
            Some(what) => said("trouble", (*what).to_owned(), true),
            None => said("timed", timed, false),
        },
    ]
}

fn footer(app: &App) -> Paragraph<'static> {
    if let Some(question) = app.question {
        let text = format!("ban {} for an [h]our, a [d]ay, or [n]ot?", question.source);
        return Paragraph::new(text).style(Style::new().fg(Color::Black).bg(Color::Yellow));
    }
    if let Some(message) = &app.message {
        return Paragraph::new(plain(message)).yellow();
    }
    let paused = if app.is_paused {
        "p go on (PAUSED)"
    } else {
        "p pause"
    };
    Paragraph::new(format!(
        "↑↓ choose  b ban  s sort  r reverse  {paused}  q quit"
    ))
    .dim()
}

#[cfg(test)]
#[path = "view_tests.rs"]
mod tests;
