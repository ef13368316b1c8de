//! Bad input of every kind: an answer in the protocol's own form, a record that says why, nothing
//! upstream, and nothing of anybody else in the answer.

mod http;
mod websocket;

use std::net::IpAddr;

use super::http::{from, over};
use super::{ADMIN_KEY, READ_KEY, Rig, UPSTREAM_TOKEN, WORK_KEY};
use crate::event::{Event, Outcome};

/// Whoever asks, no answer may hold these.
const SECRETS: [&str; 5] = [
    ADMIN_KEY,
    READ_KEY,
    WORK_KEY,
    UPSTREAM_TOKEN,
    "the-other-session",
];

fn holds_nothing_of_others(name: &str, answer: &str) {
    for secret in SECRETS {
        assert!(!answer.contains(secret), "{name}: {answer}");
    }
}

/// The one refusal of this source.
async fn refusal_of(rig: &Rig, name: &str, host: u8, reason: &str) -> Event {
    let source = IpAddr::from([127, 0, 7, host]);
    let is_it = |event: &&Event| {
        event.source == Some(source) && event.outcome == Outcome::Deny && event.reason == reason
    };
    rig.event_where(is_it)
        .await
        .unwrap_or_else(|told| panic!("{name}: no {reason} of {source} in {told:#?}"))
}

/// Somebody else at work meanwhile, whose session's name nobody else may see.
async fn neighbour(rig: &Rig) -> u16 {
    let request = format!(
        "GET /v1/models?session=the-other-session HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\
         Authorization: Bearer {READ_KEY}\r\n\r\n"
    );
    over(from(rig, 250).await, &request).await.status
}
