//! Interfaces that go and come back: a filtered one is looked for every second.
//!
//! The kernel detaches a link with its device. While the interface is gone no packet comes by it;
//! once it is back the check at accept is alone until the filter is on it again, at most a second
//! later. Either change is a record.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::state::State;
use crate::causes;
use crate::enforcer::Attachment;
use crate::event::{Event, EventKind, Outcome};

const POLL: Duration = Duration::from_secs(1);

/// Where one interface of the plan is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    /// With this index; another index is another device of the same name.
    There(u32),
    GoneSince(Instant),
}

/// What is to be done about it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Change {
    None,
    Went,
    Returned,
    /// Between two looks.
    WentAndReturned,
}

fn change(place: Place, index: Option<u32>) -> Change {
    match (place, index) {
        (Place::There(before), Some(now)) if before == now => Change::None,
        (Place::There(_), Some(_)) => Change::WentAndReturned,
        (Place::There(_), None) => Change::Went,
        (Place::GoneSince(_), Some(_)) => Change::Returned,
        (Place::GoneSince(_), None) => Change::None,
    }
}

/// Follows the attached interfaces for ever.
///
/// # Cancel safety
///
/// Cancel safe: it awaits nothing but the next look.
pub(super) async fn follow(state: Arc<State>) {
    let mut places: Vec<(String, Place)> = match state.enforcer() {
        None => return,
        Some(enforcer) => enforcer
            .attachments()
            .iter()
            .map(|held| (held.interface.clone(), Place::There(held.ifindex)))
            .collect(),
    };
    let mut refusal = String::new();
    loop {
        tokio::time::sleep(POLL).await;
        for (interface, place) in &mut places {
            let index = state
                .enforcer()
                .and_then(|enforcer| enforcer.index_of(interface));
            let change = change(*place, index);
            if matches!(change, Change::Went | Change::WentAndReturned) {
                went(&state, interface);
                *place = Place::GoneSince(Instant::now());
            }
            if let (Change::Returned | Change::WentAndReturned, Place::GoneSince(since)) =
                (change, *place)
            {
                match attach(&state, interface) {
                    Ok(attachment) => {
                        returned(&state, &attachment, since.elapsed());
                        *place = Place::There(attachment.ifindex);
                        refusal.clear();
                    }
                    // It is tried every second; the same answer is said once.
                    Err(why) if why != refusal => {
                        tracing::error!(interface, "not filtered: {why}");
                        report(&state, "interface_unfiltered", Outcome::Error, &why);
                        refusal = why;
                    }
                    Err(_same) => {}
                }
            }
        }
    }
}

fn attach(state: &State, interface: &str) -> Result<Attachment, String> {
    let mut enforcer = state.enforcer().ok_or("there is no packet filter")?;
    enforcer
        .attach_again(interface)
        .cloned()
        .map_err(|error| causes::chain(&error))
}

fn went(state: &State, interface: &str) {
    tracing::warn!(interface, "the interface is gone");
    if let Some(Err(error)) = state.enforcer().map(|mut held| held.forget(interface)) {
        tracing::warn!(interface, "forget its link: {}", causes::chain(&error));
    }
    let detail =
        format!("{interface} is gone, its filter with it; addresses are checked at accept");
    report(state, "interface_gone", Outcome::Error, &detail);
}

fn returned(state: &State, attachment: &Attachment, gap: Duration) {
    let detail = format!(
        "{} is back and filtered ({}) after {:.1} s",
        attachment.interface,
        attachment.mode.as_str(),
        gap.as_secs_f64()
    );
    tracing::info!("{detail}");
    for step in &attachment.steps_down {
        tracing::warn!("{step}");
    }
    report(state, "interface_back", Outcome::Allow, &detail);
}

fn report(state: &State, reason: &'static str, outcome: Outcome, detail: &str) {
    let mut event = Event::new(EventKind::System, "interface", outcome, reason);
    event.generation = state.config().policy.generation;
    event.detail = Some(detail.to_owned());
    state.records.report(event);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_new_index_is_another_device() {
        let gone = Place::GoneSince(Instant::now());
        for (row, place, index, expected) in [
            ("still there", Place::There(3), Some(3), Change::None),
            ("went", Place::There(3), None, Change::Went),
            (
                "made anew",
                Place::There(3),
                Some(4),
                Change::WentAndReturned,
            ),
            ("came back", gone, Some(3), Change::Returned),
            ("still gone", gone, None, Change::None),
        ] {
            assert_eq!(change(place, index), expected, "{row}");
        }
    }
}
