//! journald's native protocol: one datagram a record, `FIELD=value` lines
//! (systemd.io/JOURNAL_NATIVE_PROTOCOL).

use super::syslog::severity;
use crate::audit::record::Record;

/// `line` is the record as it stands in the file; it goes along whole, so that the journal can
/// witness the chain.
pub(super) fn datagram(record: &Record, line: &str) -> Vec<u8> {
    let mut out = Vec::with_capacity(line.len() + 512);
    let mut field = |name: &str, value: &str| {
        // No value of a record has a newline: `neutralise` spells them out.
        out.extend_from_slice(name.as_bytes());
        out.push(b'=');
        out.extend_from_slice(value.as_bytes());
        out.push(b'\n');
    };
    field("MESSAGE", &summary(record));
    field("PRIORITY", &severity(record.outcome).to_string());
    field("SYSLOG_IDENTIFIER", "clawsec-audit");
    field("CLAWSEC_SEQ", &record.seq.to_string());
    field("CLAWSEC_EVENT", record.event.as_str());
    field("CLAWSEC_ACTION", &record.action);
    field("CLAWSEC_OUTCOME", record.outcome.as_str());
    field("CLAWSEC_REASON", &record.reason);
    if let Some(source) = &record.src {
        field("CLAWSEC_SOURCE", &source.ip.to_string());
    }
    let texts = [
        ("CLAWSEC_PRINCIPAL", &record.principal),
        ("CLAWSEC_USER", &record.user),
        ("CLAWSEC_AGENT", &record.agent),
        ("CLAWSEC_REQUEST", &record.request),
    ];
    for (name, text) in texts {
        if let Some(text) = text {
            field(name, text);
        }
    }
    field("CLAWSEC_HASH", &record.hash.to_string());
    field("CLAWSEC_RECORD", line);
    out
}

/// `auth connect deny: credential_unknown, from 203.0.113.7, 41 times`.
pub(in crate::audit) fn summary(record: &Record) -> String {
    let mut text = format!(
        "{} {} {}: {}",
        record.event.as_str(),
        record.action,
        record.outcome.as_str(),
        record.reason
    );
    if let Some(tool) = &record.tool {
        text.push_str(&format!(", tool {}", tool.name));
    }
    if let Some(source) = &record.src {
        text.push_str(&format!(", from {}", source.ip));
    }
    if let Some(principal) = &record.principal {
        text.push_str(&format!(", by {principal}"));
    }
    if record.count > 1 {
        text.push_str(&format!(", {} times", record.count));
    }
    if let Some(detail) = &record.detail {
        text.push_str(&format!(" ({detail})"));
    }
    text
}
