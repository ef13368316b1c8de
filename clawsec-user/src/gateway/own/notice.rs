//! The gateway's events about runs, read.
//!
//! Only names and lengths are taken out; texts and results are skipped where they stand.

use std::borrow::Cow;

use serde::Deserialize;
use serde_json::value::RawValue;

/// Which of them it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum About {
    Chat,
    /// `agent`, or `session.tool`, which is the same for subscribers.
    Agent,
}

/// Reads a frame; what is no event, or has no run, is not of this.
pub(super) fn read(text: &[u8]) -> Option<(About, Notice<'_>)> {
    let frame: Frame<'_> = serde_json::from_slice(text).ok()?;
    let about = match &*frame.event? {
        "chat" => About::Chat,
        "agent" | "session.tool" => About::Agent,
        _ => return None,
    };
    let notice = serde_json::from_str(frame.payload?.get()).ok()?;
    Some((about, notice))
}

/// Whether this frame is the answer to the request of this id.
pub(super) fn is_answer(text: &[u8], id: &str) -> bool {
    let answer = serde_json::from_slice::<Answer<'_>>(text);
    answer.is_ok_and(|answer| answer.id.as_deref() == Some(id))
}

/// What an answer that says no says.
pub(super) fn refusal(text: &[u8]) -> Option<String> {
    let answer: Answer<'_> = serde_json::from_slice(text).ok()?;
    let message = answer.error?.message.unwrap_or_default();
    (!answer.ok).then(|| message.chars().take(200).collect())
}

#[derive(Deserialize)]
struct Answer<'a> {
    #[serde(borrow, default)]
    id: Option<Cow<'a, str>>,
    #[serde(default)]
    ok: bool,
    #[serde(borrow, default)]
    error: Option<Error<'a>>,
}

#[derive(Deserialize)]
struct Error<'a> {
    #[serde(borrow, default)]
    message: Option<Cow<'a, str>>,
}

/// The members that `chat`, `agent` and `session.tool` have in common.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Notice<'a> {
    #[serde(borrow)]
    pub(super) run_id: Cow<'a, str>,
    #[serde(borrow, default)]
    pub(super) session_key: Option<Cow<'a, str>>,
    #[serde(borrow, default)]
    pub(super) agent_id: Option<Cow<'a, str>>,
    /// Of `chat`.
    #[serde(borrow, default)]
    pub(super) state: Option<Cow<'a, str>>,
    /// Of the others.
    #[serde(borrow, default)]
    pub(super) stream: Option<Cow<'a, str>>,
    #[serde(borrow, default)]
    pub(super) data: Option<Data<'a>>,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase")]
pub(super) struct Data<'a> {
    #[serde(borrow, default)]
    pub(super) phase: Option<Cow<'a, str>>,
    #[serde(borrow, default)]
    pub(super) name: Option<Cow<'a, str>>,
    #[serde(borrow, default)]
    pub(super) tool_call_id: Option<Cow<'a, str>>,
    #[serde(default)]
    pub(super) is_error: Option<bool>,
    #[serde(default)]
    pub(super) aborted: Option<bool>,
    #[serde(borrow, default)]
    pub(super) args: Option<&'a RawValue>,
}

#[derive(Deserialize)]
struct Frame<'a> {
    #[serde(borrow, default)]
    event: Option<Cow<'a, str>>,
    #[serde(borrow, default)]
    payload: Option<&'a RawValue>,
}
