//! Events that strangers can cause at any rate, summed before they go to the supervisor: the first
//! at once, the rest as one with a count, once a second.
//!
//! Invariant: every occurrence that is taken in leaves in exactly one event, and no more is held
//! than `MOST_SUMS` sums, whoever sends.

use std::borrow::Cow;
use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::limits::SourceKey;
use super::shared::Gateway;
use crate::event::Event;

/// Sums of one source each that run at once; the others are summed without their sources.
const MOST_SUMS: usize = 1024;
const PERIOD: Duration = Duration::from_secs(1);

#[derive(Debug, Default)]
pub(super) struct Repeats(Mutex<Sums>);

type What = (Cow<'static, str>, Cow<'static, str>);

#[derive(Debug, Default)]
struct Sums {
    /// What came since the first of its kind, or since the last period.
    of_sources: HashMap<(What, Option<SourceKey>), Option<Event>>,
    of_others: HashMap<What, Event>,
}

impl Repeats {
    /// Takes an event; gives it back where it is the first of its kind and is to be told now.
    fn take(&self, event: Event) -> Option<Event> {
        let what = (event.action.clone(), event.reason.clone());
        let source = event.source.map(SourceKey::new);
        let mut sums = self.lock();
        let has_room = sums.of_sources.len() < MOST_SUMS;
        let key = (what, source);
        if let Some(sum) = sums.of_sources.get_mut(&key) {
            add(sum, event);
            return None;
        }
        if has_room {
            sums.of_sources.insert(key, None);
            return Some(event);
        }
        let (what, _) = key;
        let nameless = Event {
            source: None,
            port: None,
            request: None,
            rule: None,
            detail: Some("beyond the table of sources".to_owned()),
            ..event
        };
        match sums.of_others.get_mut(&what) {
            Some(sum) => sum.count = sum.count.saturating_add(nameless.count),
            None => {
                sums.of_others.insert(what, nameless);
            }
        }
        None
    }

    /// Ends the period: what is to be told of it.
    fn end_period(&self) -> Vec<Event> {
        let mut sums = self.lock();
        let mut told: Vec<Event> = sums.of_others.drain().map(|(_, sum)| sum).collect();
        // Where nothing more came, the next is a first again.
        sums.of_sources.retain(|_, sum| match sum.take() {
            Some(event) => {
                told.push(event);
                true
            }
            None => false,
        });
        told
    }

    fn lock(&self) -> MutexGuard<'_, Sums> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Adds an occurrence; a field in which two differ is true of one only, and left out.
fn add(sum: &mut Option<Event>, event: Event) {
    let Some(sum) = sum else {
        *sum = Some(event);
        return;
    };
    sum.count = sum.count.saturating_add(event.count);
    sum.generation = sum.generation.max(event.generation);
    // Hosts of one /64: the last one stands for its network.
    sum.source = event.source;
    if sum.port != event.port {
        sum.port = None;
    }
    if sum.request != event.request {
        sum.request = None;
    }
    if sum.rule != event.rule {
        sum.rule = None;
    }
    if sum.detail != event.detail {
        sum.detail = None;
    }
}

/// Reports an event that may come in floods.
pub(super) fn report(gateway: &Gateway, event: Event) {
    if let Some(first) = gateway.repeats.take(event) {
        gateway.link.report(first);
    }
}

/// Tells the sums of each period until the gateway drains.
pub(super) async fn tend(gateway: Arc<Gateway>) {
    loop {
        tokio::select! {
            () = gateway.drain.cancelled() => return,
            () = tokio::time::sleep(PERIOD) => tell(&gateway),
        }
    }
}

/// Tells what was summed so far.
pub(super) fn tell(gateway: &Gateway) {
    for event in gateway.repeats.end_period() {
        gateway.link.report(event);
    }
}

#[cfg(test)]
mod tests {
    use std::net::{IpAddr, Ipv4Addr};

    use super::*;
    use crate::event::{EventKind, Outcome};

    fn event(source: IpAddr, port: u16) -> Event {
        Event {
            source: Some(source),
            port: Some(port),
            ..Event::new(EventKind::Network, "tls", Outcome::Error, "tls_failed")
        }
    }

    #[test]
    fn the_first_is_told_at_once_and_the_rest_by_their_number() {
        let repeats = Repeats::default();
        let source = IpAddr::from([203, 0, 113, 7]);
        assert_eq!(repeats.take(event(source, 1)).unwrap().port, Some(1));
        for port in 2..10 {
            assert_eq!(repeats.take(event(source, port)), None);
        }
        let told = repeats.end_period();
        assert_eq!(told.len(), 1);
        assert_eq!(
            (told[0].count, told[0].source, told[0].port),
            (8, Some(source), None)
        );
        assert_eq!(repeats.take(event(source, 1)), None, "it goes on");
        assert_eq!(repeats.end_period()[0].count, 1);
        assert!(repeats.end_period().is_empty());
        assert!(repeats.take(event(source, 1)).is_some(), "a first again");
    }

    #[test]
    fn a_flood_of_sources_is_bounded_and_its_sum_exact() {
        let repeats = Repeats::default();
        let mut told = Vec::new();
        let mut most = 0;
        for second in 0..10_u32 {
            for number in 0..20_000 {
                let source = Ipv4Addr::from_bits(0x0a00_0000 + (second * 7919 + number) % 30_000);
                told.extend(repeats.take(event(source.into(), 1)));
            }
            let sums = repeats.lock();
            most = most.max(sums.of_sources.len() + sums.of_others.len());
            drop(sums);
            told.extend(repeats.end_period());
        }
        told.extend(repeats.end_period());
        assert_eq!(told.iter().map(|event| event.count).sum::<u64>(), 200_000);
        assert!(most <= MOST_SUMS + 1, "{most} held");
        assert!(
            told.len() <= 10 * (2 * MOST_SUMS + 1),
            "{} told",
            told.len()
        );
    }
}
