//! What is known and what is chosen: samples, the order of the sources, the question that is open.
//!
//! Invariant: no IO and no clock; times are the daemon's own, as its answers have them.

use std::cmp::Reverse;
use std::collections::HashMap;
use std::net::IpAddr;

use clawsec_user::event::Outcome;
use clawsec_user::ops::{Moment, SourceTotal, Status, Verdict};

/// Everything that is drawn.
#[derive(Debug, Default)]
pub(crate) struct App {
    pub(crate) status: Option<Status>,
    pub(crate) moments: Vec<Moment>,
    /// Refusals a second, by source.
    rates: HashMap<IpAddr, f64>,
    pub(crate) order: Order,
    pub(crate) is_reversed: bool,
    pub(crate) is_paused: bool,
    pub(crate) selected: Option<IpAddr>,
    pub(crate) question: Option<Question>,
    /// Of the last ban, or why the daemon does not answer.
    pub(crate) message: Option<String>,
}

/// What the sources are sorted by.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) enum Order {
    #[default]
    Rate,
    Total,
    Last,
    Address,
}

impl Order {
    fn next(self) -> Self {
        match self {
            Self::Rate => Self::Total,
            Self::Total => Self::Last,
            Self::Last => Self::Address,
            Self::Address => Self::Rate,
        }
    }

    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Rate => "rate",
            Self::Total => "total",
            Self::Last => "last seen",
            Self::Address => "address",
        }
    }
}

/// Nothing is banned before it is answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Question {
    pub(crate) source: IpAddr,
}

/// What a key means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Key {
    Up,
    Down,
    Char(char),
    Escape,
    Interrupt,
}

/// What is to be done outside.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Effect {
    Quit,
    Ban { source: IpAddr, seconds: u64 },
}

impl App {
    /// Takes an answer of the daemon.
    pub(crate) fn take(&mut self, status: Status) {
        if self.is_paused {
            return;
        }
        let before = self.status.as_ref();
        if before.is_some_and(|before| status.uptime_ms < before.uptime_ms) {
            // Another daemon; its totals begin anew.
            self.moments.clear();
            self.status = None;
        }
        self.sample_sources(&status);
        if self.moments.is_empty() {
            self.moments.clone_from(&status.history);
        }
        self.moments.push(Moment {
            at_ms: status.uptime_ms,
            passed: status.packets(Verdict::Pass),
            dropped: status.packets(Verdict::Drop),
            allowed: status.decided(Outcome::Allow),
            denied: status.decided(Outcome::Deny),
        });
        let over = self.moments.len().saturating_sub(MOST_MOMENTS);
        self.moments.drain(..over);
        self.status = Some(status);
    }

    fn sample_sources(&mut self, status: &Status) {
        let Some(before) = &self.status else {
            self.rates.clear();
            return;
        };
        let elapsed_ms = status.uptime_ms.saturating_sub(before.uptime_ms);
        let totals = before.sources.iter().map(|s| (s.source, total(s)));
        let totals: HashMap<IpAddr, u64> = totals.collect();
        let rate = |source: &SourceTotal| {
            let was = totals.get(&source.source).copied().unwrap_or_default();
            let count = total(source).saturating_sub(was);
            (source.source, per_second(count, elapsed_ms))
        };
        self.rates = status.sources.iter().map(rate).collect();
    }

    pub(crate) fn rate(&self, source: IpAddr) -> f64 {
        self.rates.get(&source).copied().unwrap_or_default()
    }

    /// The sources in the chosen order.
    pub(crate) fn sources(&self) -> Vec<&SourceTotal> {
        let mut sources: Vec<&SourceTotal> = self
            .status
            .iter()
            .flat_map(|status| &status.sources)
            .collect();
        // Equal ones stay in one order, or lines would jump.
        sources.sort_by_key(|s| (Reverse(total(s)), s.source));
        match self.order {
            Order::Rate => {
                sources.sort_by(|a, b| self.rate(b.source).total_cmp(&self.rate(a.source)));
            }
            Order::Total => {}
            Order::Last => sources.sort_by_key(|source| Reverse(source.last)),
            Order::Address => sources.sort_by_key(|source| source.source),
        }
        if self.is_reversed {
            sources.reverse();
        }
        sources
    }

    /// Rates from one moment to the next, the latest last.
    pub(crate) fn line(&self, of: fn(&Moment) -> u64) -> Vec<f64> {
        let pairs = self.moments.iter().zip(self.moments.iter().skip(1));
        pairs
            .map(|(before, after)| after.rate_since(before, of))
            .collect()
    }

    pub(crate) fn press(&mut self, key: Key) -> Option<Effect> {
        if let Some(question) = self.question {
            return self.answer(question, key);
        }
        self.message = None;
        match key {
            Key::Interrupt | Key::Escape | Key::Char('q') => return Some(Effect::Quit),
            Key::Up | Key::Char('k') => self.step(-1),
            Key::Down | Key::Char('j') => self.step(1),
            Key::Char('s') => self.order = self.order.next(),
            Key::Char('r') => self.is_reversed = !self.is_reversed,
            Key::Char('p') => self.is_paused = !self.is_paused,
            Key::Char('b') => match self.selected {
                Some(source) => self.question = Some(Question { source }),
                None => self.message = Some("choose a source first: ↑ ↓".to_owned()),
            },
            Key::Char(_) => {}
        }
        None
    }

    fn answer(&mut self, question: Question, key: Key) -> Option<Effect> {
        let seconds = match key {
            Key::Char('h') => 3_600,
            Key::Char('d') => 86_400,
            // No key that comes of itself, such as Enter or a line that is pasted, says yes.
            Key::Escape | Key::Interrupt | Key::Char('n' | 'q') => {
                self.question = None;
                self.message = Some("not banned".to_owned());
                return None;
            }
            _ => return None,
        };
        self.question = None;
        self.message = Some(format!("asking the daemon to ban {}", question.source));
        Some(Effect::Ban {
            source: question.source,
            seconds,
        })
    }

    fn step(&mut self, by: isize) {
        let sources = self.sources();
        let at = self
            .selected
            .and_then(|chosen| sources.iter().position(|source| source.source == chosen));
        let next = match at {
            Some(at) => at.saturating_add_signed(by),
            None => 0,
        };
        let next = sources.get(next).or(sources.last());
        self.selected = next.map(|source| source.source);
    }
}

pub(crate) fn total(source: &SourceTotal) -> u64 {
    source.packets.saturating_add(source.requests)
}

#[expect(
    clippy::cast_precision_loss,
    reason = "a rate for a person: 53 bits of a difference are enough"
)]
fn per_second(count: u64, elapsed_ms: u64) -> f64 {
    if elapsed_ms == 0 {
        0.0
    } else {
        count as f64 * 1000.0 / elapsed_ms as f64
    }
}

/// More than the widest terminal has columns.
const MOST_MOMENTS: usize = 600;

#[cfg(test)]
mod tests {
    use super::*;

    fn status(uptime_seconds: u64, sources: &[(&str, u64)]) -> Status {
        let source = |&(address, packets): &(&str, u64)| SourceTotal {
            source: address.parse().unwrap(),
            packets,
            requests: 0,
            reason: "not_allowed".into(),
            last: i64::try_from(packets % 7).unwrap(),
        };
        Status {
            uptime_seconds,
            uptime_ms: uptime_seconds * 1000,
            sources: sources.iter().map(source).collect(),
            ..Status::default()
        }
    }

    fn shown(app: &App) -> Vec<String> {
        let sources = app.sources();
        sources.iter().map(|s| s.source.to_string()).collect()
    }

    #[test]
    fn sources_are_sorted_as_chosen() {
        let mut app = App::default();
        app.take(status(
            1,
            &[("192.0.2.1", 100), ("192.0.2.2", 10), ("192.0.2.3", 50)],
        ));
        app.take(status(
            2,
            &[("192.0.2.1", 101), ("192.0.2.2", 40), ("192.0.2.3", 50)],
        ));
        let rows = [
            (Order::Rate, ["192.0.2.2", "192.0.2.1", "192.0.2.3"]),
            (Order::Total, ["192.0.2.1", "192.0.2.3", "192.0.2.2"]),
            (Order::Last, ["192.0.2.2", "192.0.2.1", "192.0.2.3"]),
            (Order::Address, ["192.0.2.1", "192.0.2.2", "192.0.2.3"]),
        ];
        for (order, expected) in rows {
            assert_eq!(app.order, order);
            assert_eq!(shown(&app), expected, "{}", order.as_str());
            app.press(Key::Char('s'));
        }
        assert!((app.rate("192.0.2.2".parse().unwrap()) - 30.0).abs() < 1e-9);
        app.press(Key::Char('r'));
        assert_eq!(shown(&app), ["192.0.2.3", "192.0.2.1", "192.0.2.2"]);
    }

    #[test]
    fn nothing_is_banned_without_a_yes() {
        let source: IpAddr = "192.0.2.1".parse().unwrap();
        let rows: [(&[Key], Option<Effect>); 6] = [
            (&[Key::Char('b')], None),
            (&[Key::Down, Key::Char('b')], None),
            (&[Key::Down, Key::Char('b'), Key::Char('n')], None),
            (
                &[Key::Down, Key::Char('b'), Key::Char('b'), Key::Char('y')],
                None,
            ),
            (
                &[Key::Down, Key::Char('b'), Key::Char('h')],
                Some(Effect::Ban {
                    source,
                    seconds: 3600,
                }),
            ),
            (
                &[Key::Down, Key::Char('b'), Key::Escape, Key::Char('h')],
                None,
            ),
        ];
        for (keys, expected) in rows {
            let mut app = App::default();
            app.take(status(1, &[("192.0.2.1", 1)]));
            let effect = keys.iter().fold(None, |_, key| app.press(*key));
            assert_eq!(effect, expected, "{keys:?}");
        }
    }

    #[test]
    fn the_choice_stays_with_its_source_when_the_order_changes() {
        let mut app = App::default();
        app.take(status(1, &[("192.0.2.1", 9), ("192.0.2.2", 1)]));
        app.press(Key::Down);
        app.press(Key::Down);
        assert_eq!(app.selected.unwrap().to_string(), "192.0.2.2");
        app.take(status(2, &[("192.0.2.1", 9), ("192.0.2.2", 90)]));
        assert_eq!(shown(&app)[0], "192.0.2.2");
        assert_eq!(app.selected.unwrap().to_string(), "192.0.2.2");
        app.press(Key::Up);
        assert_eq!(
            app.selected.unwrap().to_string(),
            "192.0.2.2",
            "the first line is the end"
        );
    }

    #[test]
    fn another_daemon_begins_anew() {
        let mut app = App::default();
        let mut old = status(5000, &[]);
        old.history = vec![Moment {
            at_ms: 4_999_000,
            dropped: 1000,
            ..Moment::default()
        }];
        app.take(old);
        app.take(status(1, &[]));
        app.take(status(2, &[]));
        let times: Vec<u64> = app.moments.iter().map(|moment| moment.at_ms).collect();
        assert_eq!(times, [1000, 2000]);
    }

    #[test]
    fn a_pause_keeps_what_is_there() {
        let mut app = App::default();
        app.take(status(1, &[("192.0.2.1", 1)]));
        app.press(Key::Char('p'));
        app.take(status(2, &[]));
        assert_eq!(shown(&app).len(), 1);
    }
}
