//! What the fake supervisor answers.

use serde_json::json;

use crate::ipc::{ToolAnswer, ToolCommand, ToolReply};

/// Runs nothing; a command of `hang` is never answered.
pub(super) fn supervisor_answer(command: &ToolCommand) -> Option<ToolAnswer> {
    let done = |text: String| {
        Some(ToolAnswer::Done(ToolReply {
            text,
            details: json!({"exitCode": 0}),
        }))
    };
    match command {
        ToolCommand::Exec(exec) if exec.command == "hang" => None,
        ToolCommand::Exec(exec) if exec.command == "denied" => Some(ToolAnswer::Denied {
            reason: "tool_denied".into(),
            message: "no".into(),
        }),
        ToolCommand::Exec(exec) => done(format!("ran {}", exec.command)),
        _ => done("processes".into()),
    }
}
