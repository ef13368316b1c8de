//! What the node answers, in the gateway's forms.

use serde_json::{Value, json};

/// The outcome of a call: what becomes `payloadJSON`, or `error`.
#[derive(Debug)]
pub(super) struct Answer(Result<Value, Value>);

pub(super) fn done(payload: Value) -> Answer {
    Answer(Ok(payload))
}

pub(super) fn error(code: &str, message: &str) -> Answer {
    Answer(Err(json!({"code": code, "message": message})))
}

/// Nothing ran; the newer gateway tells its agent so by this code alone, the older by the message.
pub(super) fn denied(why: &str) -> Answer {
    error(DENIED, &format!("{DENIED}: {why}"))
}

const DENIED: &str = "SYSTEM_RUN_DENIED";

/// The node asks nobody by itself: what may run is judged by clawsec's lists.
pub(super) fn approvals() -> Answer {
    done(json!({
        "path": "clawsec.json",
        "exists": true,
        "hash": "clawsec",
        "file": {"version": 1, "defaults": {"security": "full", "ask": "off"}, "agents": {}},
    }))
}

impl Answer {
    pub(super) fn payload(&self) -> Option<&Value> {
        self.0.as_ref().ok()
    }

    /// The message of an error.
    pub(super) fn message(&self) -> Option<&str> {
        self.0.as_ref().err()?.get("message")?.as_str()
    }

    /// The parameters of `node.invoke.result`, cut to what the gateway takes in a frame.
    pub(super) fn result(&self, id: &str, node_id: &str, max_bytes: usize) -> Value {
        let payload = match &self.0 {
            Ok(payload) => payload,
            Err(error) => {
                return json!({"id": id, "nodeId": node_id, "ok": false, "error": error});
            }
        };
        let mut keep = MAX_STREAM_BYTES;
        loop {
            let text = cut(payload, keep).to_string();
            let result = json!({"id": id, "nodeId": node_id, "ok": true, "payloadJSON": text});
            // A control character takes seven bytes once it is escaped twice.
            if keep == 0 || result.to_string().len() + FRAME_BYTES <= max_bytes {
                return result;
            }
            keep /= 2;
        }
    }
}

/// Of each stream, at most: as much as the gateway's own node keeps.
const MAX_STREAM_BYTES: usize = 200_000;
/// The rest of the frame.
const FRAME_BYTES: usize = 256;

/// The payload with at most `keep` bytes of each stream, half of them its head, half its tail.
fn cut(payload: &Value, keep: usize) -> Value {
    let mut payload = payload.clone();
    for stream in ["stdout", "stderr"] {
        if let Some(Value::String(text)) = payload.get_mut(stream)
            && text.len() > keep
        {
            let head = text.floor_char_boundary(keep / 2);
            let tail = text.ceil_char_boundary(text.len() - keep / 2);
            *text = format!(
                "{}\n[… {} bytes left out …]\n{}",
                text.get(..head).unwrap_or_default(),
                tail - head,
                text.get(tail..).unwrap_or_default()
            );
        }
    }
    payload
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_result_fits_the_gateways_frame_with_head_and_tail() {
        let rows = [
            ("plain", "x".repeat(1_000_000)),
            ("escaped", "\u{1}".repeat(300_000)),
            ("wide", "ü".repeat(300_000)),
        ];
        for (name, middle) in rows {
            let stdout = format!("begin{middle}end");
            let answer = done(json!({"stdout": stdout, "stderr": middle, "exitCode": 0}));
            let result = answer.result("i", "n", 512 * 1024);
            let frame = json!({"type": "req", "id": "1", "method": "m", "params": result});
            assert!(frame.to_string().len() <= 512 * 1024, "{name}");
            let payload: Value =
                serde_json::from_str(result["payloadJSON"].as_str().unwrap()).unwrap();
            let stdout = payload["stdout"].as_str().unwrap();
            assert!(
                stdout.starts_with("begin") && stdout.ends_with("end"),
                "{name}"
            );
            assert!(stdout.contains("bytes left out"), "{name}");
        }
        let short = done(json!({"stdout": "a", "exitCode": 0}));
        let result = short.result("i", "n", 512 * 1024);
        assert_eq!(result["payloadJSON"], r#"{"stdout":"a","exitCode":0}"#);
    }
}
