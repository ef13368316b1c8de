//! An event stream (`text/event-stream`) as a bound principal may see it: event by event, so that
//! it stays one.
//!
//! Invariant: no more is held than one event of `EVENT_BYTES`, and nothing goes on that was not
//! judged whole.

use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Bytes, BytesMut};
use hyper::body::{Body as HyperBody, Frame};
use serde_json::Value;

use super::View;
use crate::gateway::body::{Body, BodyError};
use crate::policy::Bound;

/// The largest event; the gateways' own are a message or two.
const EVENT_BYTES: usize = 1024 * 1024;

pub(super) struct Events {
    body: Body,
    bound: Bound,
    held: BytesMut,
    /// Where the next line begins, and the search for its end goes on.
    line: usize,
    searched: usize,
}

impl Events {
    pub(super) fn new(body: Body, bound: Bound) -> Self {
        Self {
            body,
            bound,
            held: BytesMut::new(),
            line: 0,
            searched: 0,
        }
    }

    /// The next event that is here whole, with the empty line that ends it.
    fn whole(&mut self) -> Option<BytesMut> {
        loop {
            let rest = self.held.get(self.searched..)?;
            let Some(length) = rest.iter().position(|byte| *byte == b'\n') else {
                self.searched = self.held.len();
                return None;
            };
            let end = self.searched + length;
            let line = self.held.get(self.line..end).unwrap_or_default();
            let is_empty = line.trim_ascii().is_empty();
            (self.line, self.searched) = (end + 1, end + 1);
            if is_empty {
                (self.line, self.searched) = (0, 0);
                return Some(self.held.split_to(end + 1));
            }
        }
    }

    /// What of an event goes on.
    fn judge(&self, event: &[u8]) -> Option<String> {
        let view = View {
            bound: &self.bound.agents,
            default: Some(&self.bound.default_agent),
        };
        let event = std::str::from_utf8(event).ok()?;
        let mut kept = String::with_capacity(event.len());
        let mut data = String::new();
        for line in event.lines().filter(|line| !line.is_empty()) {
            // A carriage return alone ends a line too, for who reads this.
            if line.contains('\r') {
                return None;
            }
            match line.strip_prefix("data") {
                Some(rest) if rest.is_empty() || rest.starts_with(':') => {
                    let rest = rest.strip_prefix(':').unwrap_or_default();
                    data.push_str(rest.strip_prefix(' ').unwrap_or(rest));
                    data.push('\n');
                }
                _ => {
                    let mut value = line.split_once(':').map_or(line, |(_, value)| value);
                    value = value.trim();
                    if !view.keep_text(&mut value.to_owned()) {
                        return None;
                    }
                    kept.push_str(line);
                    kept.push('\n');
                }
            }
        }
        if let Some(data) = data.strip_suffix('\n') {
            let shown = match serde_json::from_str::<Value>(data) {
                Ok(mut value) => view.keep(&mut value).then(|| value.to_string())?,
                Err(_no_json) => {
                    let mut text = data.to_owned();
                    view.keep_text(&mut text).then_some(text)?
                }
            };
            for line in shown.split('\n') {
                kept.push_str("data: ");
                kept.push_str(line);
                kept.push('\n');
            }
        }
        kept.push('\n');
        Some(kept)
    }
}

impl HyperBody for Events {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        loop {
            while let Some(event) = self.whole() {
                if let Some(kept) = self.judge(&event) {
                    return Poll::Ready(Some(Ok(Frame::data(kept.into()))));
                }
            }
            if self.held.len() > EVENT_BYTES {
                let why = "an event that is too large to be filtered";
                return Poll::Ready(Some(Err(why.into())));
            }
            // An event without its end is none, by the specification.
            let Some(frame) = ready!(Pin::new(&mut self.body).poll_frame(cx)?) else {
                return Poll::Ready(None);
            };
            if let Ok(data) = frame.into_data() {
                self.held.extend_from_slice(&data);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use http_body_util::{BodyExt as _, StreamBody};

    use super::*;

    async fn shown(text: &str, step: usize) -> Result<String, String> {
        let pieces: Vec<Result<Frame<Bytes>, BodyError>> = text
            .as_bytes()
            .chunks(step)
            .map(|piece| Ok(Frame::data(Bytes::copy_from_slice(piece))))
            .collect();
        let body = StreamBody::new(futures_util::stream::iter(pieces)).boxed_unsync();
        let bound = Bound {
            agents: vec!["work".to_owned()],
            default_agent: "main".to_owned(),
        };
        let whole = Events::new(body, bound).collect().await;
        let whole = whole.map_err(|error| error.to_string())?.to_bytes();
        Ok(String::from_utf8(whole.to_vec()).unwrap())
    }

    #[tokio::test]
    async fn events_of_others_are_left_out_however_they_are_cut() {
        let rows = [
            (
                "own",
                "event: message\ndata: {\"sessionKey\":\"agent:work:main\"}\n\n",
                None,
            ),
            ("a comment", ": ping\n\n", None),
            ("the end", "data: [DONE]\n\n", None),
            (
                "another's",
                "data: {\"sessionKey\":\"agent:main:main\"}\n\n",
                Some(""),
            ),
            ("another's id", "id: agent:main:x\ndata: {}\n\n", Some("")),
            ("another's in a text", "data: agent:main:main\n\n", Some("")),
            (
                "a list",
                "data: {\"sessions\":[{\"key\":\"agent:main:a\"},\ndata: {\"key\":\"agent:work:b\"}]}\r\n\r\n",
                Some("data: {\"sessions\":[{\"key\":\"agent:work:b\"}]}\n\n"),
            ),
            ("cut off", "data: {\"a\":1}\n", Some("")),
            (
                "a hidden line",
                "data: {}\rdata: agent:main:main\n\n",
                Some(""),
            ),
        ];
        for (name, text, expected) in rows {
            let around = "data: {\"n\":1}\n\n";
            let whole = format!("{around}{text}");
            for step in [1, 2, 7, whole.len()] {
                let expected = format!("{around}{}", expected.unwrap_or(text));
                assert_eq!(shown(&whole, step).await, Ok(expected), "{name} by {step}");
            }
        }
    }

    #[tokio::test]
    async fn an_event_without_end_is_not_held() {
        let endless = "data: x".repeat(EVENT_BYTES);
        assert!(shown(&endless, 64 * 1024).await.is_err());
        let many_lines = "data: x\n".repeat(EVENT_BYTES);
        assert!(shown(&many_lines, 64 * 1024).await.is_err());
    }
}
