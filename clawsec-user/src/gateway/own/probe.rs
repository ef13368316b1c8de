//! What the protected gateway tells clawsec's own connections, as functions of bytes: for the fuzz
//! targets.

use std::time::Instant;

use super::node::call::{Invoke, Run};
use super::observe::Observed;
use crate::gateway::json;

/// What the node would run for the payload of a `node.invoke.request`, or why it runs nothing;
/// `None` where it could not even answer.
pub fn node_call(payload: &[u8]) -> Option<Result<Vec<String>, &'static str>> {
    let payload = json::parse(payload).ok()?;
    let invoke = Invoke::read(&payload)?;
    let run = invoke.params().and_then(|params| Run::read(&params));
    Some(run.map(|run| run.argv))
}

/// The names of the runs that the observer records of these frames, one a line, its end included.
pub fn observed(frames: &[u8]) -> Vec<String> {
    let now = Instant::now();
    let mut observed = Observed::new(None);
    let mut events: Vec<_> = frames
        .split(|byte| *byte == b'\n')
        .flat_map(|frame| observed.take(frame, now))
        .collect();
    events.extend(observed.finish(now));
    let names = events.into_iter().map(|event| event.request);
    names.map(Option::unwrap_or_default).collect()
}
