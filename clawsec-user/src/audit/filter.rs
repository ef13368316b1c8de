//! Which records are asked for.
//!
//! Fields are alternatives of one another (`deny` or `error`), and all fields that are given must
//! fit. A record that sums several occurrences fits a span of time that it touches.

use ipnet::IpNet;

use super::glance::{Glance, Text};
use super::stamp::Stamp;
use crate::event::{EventKind, Outcome};

/// Empty lists and `None` ask for nothing: everything fits.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Filter {
    /// From then on.
    pub since: Option<Stamp>,
    /// Before then.
    pub until: Option<Stamp>,
    pub events: Vec<EventKind>,
    pub actions: Vec<String>,
    pub outcomes: Vec<Outcome>,
    pub reasons: Vec<String>,
    /// Single addresses are prefixes of full length.
    pub sources: Vec<IpNet>,
    pub principals: Vec<String>,
    pub users: Vec<String>,
    pub agents: Vec<String>,
    pub tools: Vec<String>,
    pub requests: Vec<String>,
}

impl Filter {
    pub fn takes(&self, record: &Glance<'_>) -> bool {
        self.takes_time(record) && self.takes_all_but_time(record)
    }

    /// A line as it stands in the file; what is no record is never taken.
    pub fn takes_line(&self, line: &[u8]) -> bool {
        Glance::parse(line).is_ok_and(|record| self.takes(&record))
    }

    pub(super) fn takes_time(&self, record: &Glance<'_>) -> bool {
        self.since.is_none_or(|since| record.ts >= since)
            && self.until.is_none_or(|until| record.began() < until)
    }

    pub(super) fn takes_all_but_time(&self, record: &Glance<'_>) -> bool {
        let among = |wanted: &[String], found: Option<&str>| {
            wanted.is_empty() || found.is_some_and(|found| wanted.iter().any(|one| one == found))
        };
        let text = |text: &'_ Option<Text<'_>>, wanted: &[String]| {
            among(wanted, text.as_ref().map(Text::as_str))
        };
        (self.events.is_empty() || self.events.contains(&record.event))
            && (self.outcomes.is_empty() || self.outcomes.contains(&record.outcome))
            && among(&self.actions, Some(&record.action))
            && among(&self.reasons, Some(&record.reason))
            && self.takes_source(record)
            && among(&self.tools, record.tool_name())
            && text(&record.principal, &self.principals)
            && text(&record.user, &self.users)
            && text(&record.agent, &self.agents)
            && text(&record.request, &self.requests)
    }

    fn takes_source(&self, record: &Glance<'_>) -> bool {
        self.sources.is_empty()
            || record.address().is_some_and(|address| {
                self.sources
                    .iter()
                    .any(|network| network.contains(&address))
            })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LINE: &str = r#"{"v":1,"seq":3,"ts":"2026-01-01T00:10:00.000000Z","event":"tool","action":"invoke","outcome":"deny","reason":"tool_denied","src":{"ip":"2001:db8::1","port":443},"request":"01JD","principal":"phone","user":"+1555","agent":"work","tool":{"name":"ex\u0065c","args_bytes":3},"count":4,"first":"2026-01-01T00:00:00.000000Z","last":"2026-01-01T00:10:00.000000Z","prev":"0000000000000000000000000000000000000000000000000000000000000000","hash":"0000000000000000000000000000000000000000000000000000000000000000"}"#;

    type Set = fn(&mut Filter, Vec<String>);

    #[test]
    fn each_field_decides_alone_and_all_must_fit() {
        let words = |words: &[&str]| words.iter().map(|word| (*word).to_owned()).collect();
        let at = |text: &str| Stamp::parse(text);
        let rows: [(&str, Set, &[&str], &[&str]); 6] = [
            ("action", |f, w| f.actions = w, &["x", "invoke"], &["x"]),
            ("reason", |f, w| f.reasons = w, &["tool_denied"], &["tool"]),
            ("principal", |f, w| f.principals = w, &["phone"], &["Phone"]),
            ("user", |f, w| f.users = w, &["+1555"], &["1555"]),
            ("agent", |f, w| f.agents = w, &["work"], &["home"]),
            ("tool", |f, w| f.tools = w, &["exec"], &["bash"]),
        ];
        for (name, set, fits, differs) in rows {
            let mut filter = Filter::default();
            set(&mut filter, words(fits));
            assert!(filter.takes_line(LINE.as_bytes()), "{name}");
            set(&mut filter, words(differs));
            assert!(!filter.takes_line(LINE.as_bytes()), "{name}");
        }
        let both = Filter {
            requests: words(&["01JD"]),
            outcomes: vec![Outcome::Allow],
            ..Filter::default()
        };
        assert!(!both.takes_line(LINE.as_bytes()));
        for (network, fits) in [
            ("2001:db8::/64", true),
            ("2001:db8::1/128", true),
            ("2001:db8:0:1::/64", false),
            ("0.0.0.0/0", false),
        ] {
            let filter = Filter {
                sources: vec![network.parse().unwrap()],
                events: vec![EventKind::Auth, EventKind::Tool],
                ..Filter::default()
            };
            assert_eq!(filter.takes_line(LINE.as_bytes()), fits, "{network}");
        }
        for (since, until, fits) in [
            (None, None, true),
            (Some("2026-01-01T00:10:00Z"), None, true),
            (Some("2026-01-01T00:10:01Z"), None, false),
            (None, Some("2026-01-01T00:00:01Z"), true),
            (None, Some("2026-01-01T00:00:00Z"), false),
        ] {
            let filter = Filter {
                since: since.and_then(at),
                until: until.and_then(at),
                ..Filter::default()
            };
            assert_eq!(
                filter.takes_line(LINE.as_bytes()),
                fits,
                "{since:?} {until:?}"
            );
        }
        assert!(!Filter::default().takes_line(b"{}"), "no record");
    }
}
