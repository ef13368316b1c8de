//! Records of what reaches the gateway past clawsec: channels' messages and the agents' tools.
//!
//! The gateway tells its operators of every run and tool call; here each becomes one record, at its
//! end, whatever the number of its events. What clawsec itself passed on is told again, under the
//! action `observed`. Invariant: of a message, arguments or a result nothing is kept but a length.

use std::collections::{HashMap, HashSet, VecDeque};
use std::time::{Duration, Instant};

use serde_json::json;

use super::notice::{self, About, Notice};
use crate::event::{Event, EventKind, Outcome, ToolFact};
use crate::gateway::shared::Gateway;
use crate::gateway::websocket::own::{Arrival, OwnConnection};
use crate::policy::{Protocol, SessionKey, ToolName};

/// Reads what the gateway tells until the connection ends; why it did.
///
/// # Cancel safety
///
/// Dropping the future records what had begun as unfinished.
pub(super) async fn serve(gateway: &Gateway, mut connection: OwnConnection) -> String {
    // The newer gateway tells tool calls of others' runs to subscribers alone.
    let mut subscribing = connection.terms.protocol == Protocol::V4;
    if subscribing
        && connection
            .request(SUBSCRIBE_ID, "sessions.subscribe", &json!({}))
            .await
            .is_err()
    {
        return "the gateway closed before the subscription".to_owned();
    }
    let mut log = Log {
        gateway,
        observed: Observed::new(connection.terms.default_agent.take()),
    };
    loop {
        let arrival = tokio::select! {
            arrival = connection.next() => arrival,
            () = gateway.drain.cancelled() => return "clawsec stops".to_owned(),
        };
        match arrival {
            Arrival::Text(text) if subscribing && notice::is_answer(&text, SUBSCRIBE_ID) => {
                subscribing = false;
                if let Some(why) = notice::refusal(&text) {
                    return format!("the gateway refuses sessions.subscribe: {why}");
                }
            }
            Arrival::Text(text) => log.take(&text),
            Arrival::End(why) => return why,
        }
    }
}

/// Reports what was observed, at the end also what did not end.
struct Log<'a> {
    gateway: &'a Gateway,
    observed: Observed,
}

impl Log<'_> {
    fn take(&mut self, text: &[u8]) {
        for event in self.observed.take(text, Instant::now()) {
            self.gateway.link.report(event);
        }
    }
}

impl Drop for Log<'_> {
    fn drop(&mut self) {
        for event in self.observed.finish(Instant::now()) {
            self.gateway.link.report(event);
        }
    }
}

/// What has begun and what has just ended.
#[derive(Debug)]
pub(super) struct Observed {
    default_agent: Option<String>,
    open: HashMap<Key, Open>,
    /// The last that ended, so that what is told twice is recorded once.
    ended: HashSet<Key>,
    ended_order: VecDeque<Key>,
    /// When `expire` last looked.
    looked: Option<Instant>,
}

/// A run, or a tool call of one.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Key {
    run: String,
    call: Option<String>,
}

/// What is known of it so far.
#[derive(Debug, Clone)]
struct Open {
    since: Instant,
    session: Option<String>,
    agent: Option<String>,
    tool: Option<ToolFact>,
    /// A run whose agent has ended, and for whose last word is waited.
    ending: Option<(Instant, Ending)>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Ending {
    Ok,
    Failed,
    Aborted,
    /// Nobody told the end.
    Unfinished,
}

/// Runs and calls that are followed at once; one more ends the oldest as unfinished.
const MAX_OPEN: usize = 4096;
/// Ends that are remembered.
const MAX_ENDED: usize = 1024;
/// How long a run's last chat event may take after its agent's end; some runs have none.
const LAST_WORD: Duration = Duration::from_secs(10);
/// Nothing runs so long: openclaw ends a run after 48 hours, clawdbot after ten minutes.
const LONGEST: Duration = Duration::from_hours(49);
/// The longest name that is kept, in characters.
const MAX_NAME_CHARS: usize = 128;
const SUBSCRIBE_ID: &str = "subscribe";

impl Observed {
    pub(super) fn new(default_agent: Option<String>) -> Self {
        Self {
            default_agent,
            open: HashMap::new(),
            ended: HashSet::new(),
            ended_order: VecDeque::new(),
            looked: None,
        }
    }

    /// Takes one frame of the gateway's; what is to be recorded.
    pub(super) fn take(&mut self, text: &[u8], now: Instant) -> Vec<Event> {
        let mut events = Vec::new();
        self.expire(now, &mut events);
        match notice::read(text) {
            Some((About::Chat, notice)) => self.chat(&notice, now, &mut events),
            Some((About::Agent, notice)) => self.agent(&notice, now, &mut events),
            None => {}
        }
        events
    }

    fn chat(&mut self, notice: &Notice<'_>, now: Instant, events: &mut Vec<Event>) {
        let key = Key::run(notice);
        let ending = match notice.state.as_deref() {
            Some("final") => Ending::Ok,
            Some("aborted") => Ending::Aborted,
            Some("error") => Ending::Failed,
            _ => {
                self.begin(key, notice, None, now, events);
                return;
            }
        };
        self.end(key, notice, None, ending, now, events);
    }

    fn agent(&mut self, notice: &Notice<'_>, now: Instant, events: &mut Vec<Event>) {
        let data = notice.data.as_ref();
        let phase = data.and_then(|data| data.phase.as_deref());
        match (notice.stream.as_deref(), phase) {
            (Some("tool"), Some(phase)) => self.tool(notice, phase, now, events),
            (Some("lifecycle"), Some(phase @ ("end" | "error"))) => {
                let ending = match data.and_then(|data| data.aborted) {
                    Some(true) => Ending::Aborted,
                    _ if phase == "end" => Ending::Ok,
                    _ => Ending::Failed,
                };
                let key = Key::run(notice);
                self.begin(key.clone(), notice, None, now, events);
                if let Some(open) = self.open.get_mut(&key) {
                    open.ending = Some((now, ending));
                }
            }
            _ => {
                let key = Key::run(notice);
                self.begin(key.clone(), notice, None, now, events);
                // An agent that goes on, as after an error that is tried again, has not ended.
                if let Some(open) = self.open.get_mut(&key) {
                    open.ending = None;
                }
            }
        }
    }

    fn tool(&mut self, notice: &Notice<'_>, phase: &str, now: Instant, events: &mut Vec<Event>) {
        let Some(data) = &notice.data else { return };
        let key = Key {
            call: Some(named(data.tool_call_id.as_deref().unwrap_or_default())),
            ..Key::run(notice)
        };
        let name = data.name.as_deref().unwrap_or_default();
        let tool = ToolFact {
            name: named(ToolName::new(name).as_str()),
            args_bytes: data.args.map_or(0, |args| args.get().len() as u64),
        };
        if matches!(phase, "result" | "end" | "error") {
            let failed = data.is_error == Some(true) || phase == "error";
            let ending = if failed { Ending::Failed } else { Ending::Ok };
            self.end(key, notice, Some(tool), ending, now, events);
        } else {
            self.begin(key, notice, Some(tool), now, events);
        }
    }

    fn begin(
        &mut self,
        key: Key,
        notice: &Notice<'_>,
        tool: Option<ToolFact>,
        now: Instant,
        events: &mut Vec<Event>,
    ) {
        if self.ended.contains(&key) || self.open.contains_key(&key) {
            return;
        }
        if self.open.len() >= MAX_OPEN {
            let oldest = self.open.iter().min_by_key(|(_, open)| open.since);
            if let Some(oldest) = oldest.map(|(key, _)| key.clone()) {
                self.close(oldest, Ending::Unfinished, now, events);
            }
        }
        self.open.insert(key, Open::new(notice, tool, now));
    }

    fn end(
        &mut self,
        key: Key,
        notice: &Notice<'_>,
        tool: Option<ToolFact>,
        ending: Ending,
        now: Instant,
        events: &mut Vec<Event>,
    ) {
        if self.ended.contains(&key) {
            return;
        }
        if self.open.contains_key(&key) {
            self.close(key, ending, now, events);
            return;
        }
        // Its beginning was before this connection.
        let open = Open::new(notice, tool, now);
        events.push(self.record(&key, open, ending, None));
        self.remember(key);
    }

    fn close(&mut self, key: Key, ending: Ending, now: Instant, events: &mut Vec<Event>) {
        if let Some(open) = self.open.remove(&key) {
            let took = now.saturating_duration_since(open.since);
            events.push(self.record(&key, open, ending, Some(took)));
            self.remember(key);
        }
    }

    fn remember(&mut self, key: Key) {
        if self.ended_order.len() >= MAX_ENDED
            && let Some(oldest) = self.ended_order.pop_front()
        {
            self.ended.remove(&oldest);
        }
        self.ended.insert(key.clone());
        self.ended_order.push_back(key);
    }

    /// Ends the runs whose last word does not come, and what is too old to be true.
    fn expire(&mut self, now: Instant, events: &mut Vec<Event>) {
        // Deltas come by the hundred; every frame, a tick at least, is an occasion.
        let is_soon = |looked| now.saturating_duration_since(looked) < Duration::from_secs(1);
        if self.looked.is_some_and(is_soon) {
            return;
        }
        self.looked = Some(now);
        let is_over = |open: &Open| match open.ending {
            Some((at, ending)) if now.saturating_duration_since(at) >= LAST_WORD => Some(ending),
            _ if now.saturating_duration_since(open.since) >= LONGEST => Some(Ending::Unfinished),
            _ => None,
        };
        let over: Vec<(Key, Ending)> = self
            .open
            .iter()
            .filter_map(|(key, open)| Some((key.clone(), is_over(open)?)))
            .collect();
        for (key, ending) in over {
            self.close(key, ending, now, events);
        }
    }

    /// Everything that has begun, as it stands at the end of the connection.
    pub(super) fn finish(&mut self, now: Instant) -> Vec<Event> {
        let mut events = Vec::new();
        for (key, open) in std::mem::take(&mut self.open) {
            let ending = open.ending.map_or(Ending::Unfinished, |(_, ending)| ending);
            let took = now.saturating_duration_since(open.since);
            events.push(self.record(&key, open, ending, Some(took)));
        }
        events
    }

    fn record(&self, key: &Key, open: Open, ending: Ending, took: Option<Duration>) -> Event {
        let (outcome, reason) = match ending {
            Ending::Ok => (Outcome::Allow, "ok"),
            Ending::Failed => (Outcome::Error, "failed"),
            Ending::Aborted => (Outcome::Error, "aborted"),
            Ending::Unfinished => (Outcome::Error, "unfinished"),
        };
        let kind = match key.call {
            Some(_) => EventKind::Tool,
            None => EventKind::Message,
        };
        let session = open.session.as_deref().map(SessionKey::read);
        let session = session.and_then(Result::ok).unwrap_or_default();
        let mut event = Event::new(kind, "observed", outcome, reason);
        // A run's name may be a client's own word; the ids of clawsec's requests have no colon.
        event.request = Some(format!("run:{}", key.run));
        event.user = session.user.map(|user| user.as_str().to_owned());
        event.group = session.group.map(|group| group.as_str().to_owned());
        event.agent = session
            .agent
            .or(open.agent)
            .or_else(|| self.default_agent.clone());
        event.session = open.session;
        event.tool = open.tool;
        event.duration_ms = took.map(|took| u64::try_from(took.as_millis()).unwrap_or(u64::MAX));
        event
    }
}

impl Key {
    fn run(notice: &Notice<'_>) -> Self {
        Self {
            run: named(&notice.run_id),
            call: None,
        }
    }
}

impl Open {
    fn new(notice: &Notice<'_>, tool: Option<ToolFact>, now: Instant) -> Self {
        Self {
            since: now,
            session: notice.session_key.as_deref().map(named),
            agent: notice.agent_id.as_deref().map(named),
            tool,
            ending: None,
        }
    }
}

fn named(text: &str) -> String {
    text.chars().take(MAX_NAME_CHARS).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn agent(run: &str, stream: &str, data: &str) -> String {
        format!(
            r#"{{"type":"event","event":"agent","payload":{{"runId":"{run}","stream":"{stream}","sessionKey":"agent:main:main","data":{data}}},"seq":9}}"#
        )
    }

    fn chat(run: &str, state: &str) -> String {
        format!(
            r#"{{"event":"chat","payload":{{"runId":"{run}","state":"{state}","sessionKey":"agent:main:main"}}}}"#
        )
    }

    /// The reasons of the records that these frames make, a second apart.
    fn reasons(frames: &[String]) -> Vec<String> {
        let mut observed = Observed::new(Some("main".into()));
        let mut now = Instant::now();
        let mut events = Vec::new();
        for frame in frames {
            now += Duration::from_secs(1);
            events.extend(observed.take(frame.as_bytes(), now));
        }
        now += LAST_WORD;
        events.extend(observed.take(br#"{"event":"tick"}"#, now));
        let tell = |event: &Event| format!("{} {}", event.kind.as_str(), event.reason);
        events.iter().map(tell).collect()
    }

    #[test]
    fn each_run_and_call_is_one_record_at_its_end() {
        let start = r#"{"phase":"start"}"#;
        let tool = |phase: &str| {
            format!(r#"{{"phase":"{phase}","name":"exec","toolCallId":"c","args":{{}}}}"#)
        };
        let rows: &[(&str, Vec<String>, &[&str])] = &[
            (
                "a run told by both",
                vec![
                    agent("r", "lifecycle", start),
                    agent("r", "assistant", "{}"),
                    chat("r", "delta"),
                    agent("r", "lifecycle", r#"{"phase":"end"}"#),
                    chat("r", "final"),
                    chat("r", "final"),
                ],
                &["message ok"],
            ),
            (
                "a run without a chat",
                vec![agent("r", "lifecycle", r#"{"phase":"end"}"#)],
                &["message ok"],
            ),
            (
                "an error that is tried again",
                vec![
                    agent("r", "lifecycle", r#"{"phase":"error"}"#),
                    agent("r", "lifecycle", start),
                    chat("r", "final"),
                ],
                &["message ok"],
            ),
            (
                "an error",
                vec![agent("r", "lifecycle", r#"{"phase":"error"}"#)],
                &["message failed"],
            ),
            ("aborted", vec![chat("r", "aborted")], &["message aborted"]),
            (
                "a call and its updates",
                vec![
                    agent("r", "tool", &tool("start")),
                    agent("r", "tool", &tool("update")),
                    agent("r", "tool", &tool("result")),
                    agent("r", "tool", &tool("result")),
                ],
                &["tool ok"],
            ),
            (
                "a call in the middle",
                vec![agent("r", "tool", &tool("result"))],
                &["tool ok"],
            ),
            (
                "nothing of it",
                vec![
                    r#"{"event":"presence","payload":{"runId":"r"}}"#.into(),
                    r#"{"type":"res","id":"1","payload":{"runId":"r","state":"final"}}"#.into(),
                    r#"{"event":"chat","payload":{"runId":7,"state":"final"}}"#.into(),
                    "}".into(),
                ],
                &[],
            ),
        ];
        for (name, frames, expected) in rows {
            assert_eq!(reasons(frames), *expected, "{name}");
        }
    }

    #[test]
    fn a_flood_of_runs_is_bounded_and_loses_none() {
        let mut observed = Observed::new(None);
        let now = Instant::now();
        let mut records = 0;
        let runs = MAX_OPEN + 100;
        for run in 0..runs {
            let at = now + Duration::from_micros(run as u64);
            records += observed
                .take(chat(&format!("r{run}"), "delta").as_bytes(), at)
                .len();
            assert!(observed.open.len() <= MAX_OPEN && observed.ended.len() <= MAX_ENDED);
        }
        assert_eq!(records, 100, "the oldest ended as unfinished");
        assert_eq!(records + observed.finish(now).len(), runs);
    }

    #[test]
    fn names_have_an_end() {
        let mut observed = Observed::new(None);
        let frame = chat(&"x".repeat(100_000), "final");
        let events = observed.take(frame.as_bytes(), Instant::now());
        let length = events[0].request.as_ref().map(String::len);
        assert_eq!(length, Some(MAX_NAME_CHARS + 4));
    }
}
