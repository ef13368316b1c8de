//! RFC 5424 messages, framed by their length (RFC 6587, RFC 5425): the record's line is the text.

use std::sync::LazyLock;

use crate::audit::record::Record;
use crate::event::Outcome;

/// Appends one frame.
pub(super) fn frame(record: &Record, line: &str, out: &mut Vec<u8>) {
    // The event's name is the MSGID; structured data would only repeat what the JSON says.
    let message = format!(
        "<{}>1 {} {} clawsec {} {} - {line}",
        FACILITY * 8 + severity(record.outcome),
        record.ts,
        *HOST,
        std::process::id(),
        record.event.as_str(),
    );
    out.extend_from_slice(format!("{} ", message.len()).as_bytes());
    out.extend_from_slice(message.as_bytes());
}

/// 3 is an error, 4 a warning, 6 information; journald's are the same.
pub(super) fn severity(outcome: Outcome) -> u8 {
    match outcome {
        Outcome::Allow => 6,
        Outcome::Deny => 4,
        Outcome::Error => 3,
    }
}

/// «Log audit».
const FACILITY: u8 = 13;

static HOST: LazyLock<String> = LazyLock::new(|| {
    let name = nix::unistd::gethostname()
        .ok()
        .and_then(|name| name.into_string().ok());
    name.filter(|name| !name.is_empty() && name.chars().all(|c| c.is_ascii_graphic()))
        .unwrap_or_else(|| "-".to_owned())
});
