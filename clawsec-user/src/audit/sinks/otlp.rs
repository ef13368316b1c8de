//! OTLP logs over HTTP, as JSON (opentelemetry.io/docs/specs/otlp, version 1): `POST /v1/logs`.

use hyper::StatusCode;
use serde_json::{Value, json};

use super::carrier::Unsent;
use super::http::post;
use crate::audit::record::Record;
use crate::config::WebTarget;
use crate::event::Outcome;

pub(super) async fn send<'a>(
    target: &WebTarget,
    records: impl Iterator<Item = (Record, &'a str)>,
) -> Result<u64, Unsent> {
    let records: Vec<Value> = records
        .map(|(record, line)| log_record(&record, line))
        .collect();
    let count = records.len() as u64;
    let body = json!({ "resourceLogs": [{
        "resource": { "attributes": [attribute("service.name", "clawsec")] },
        "scopeLogs": [{
            "scope": { "name": "clawsec.audit", "version": env!("CARGO_PKG_VERSION") },
            "logRecords": records,
        }],
    }] });
    let (status, answer) = post(target, body.to_string().into_bytes()).await?;
    match status {
        status if status.is_success() => {
            let answer: Value = serde_json::from_slice(&answer).unwrap_or_default();
            // protobuf's JSON writes 64-bit numbers as text.
            let rejected = &answer["partialSuccess"]["rejectedLogRecords"];
            let text = rejected.as_str().and_then(|text| text.parse().ok());
            Ok(rejected.as_u64().or(text).unwrap_or(0).min(count))
        }
        StatusCode::TOO_MANY_REQUESTS
        | StatusCode::BAD_GATEWAY
        | StatusCode::SERVICE_UNAVAILABLE
        | StatusCode::GATEWAY_TIMEOUT => Err(Unsent(format!("the collector answers {status}"))),
        status if status.is_server_error() || status == StatusCode::UNAUTHORIZED => {
            Err(Unsent(format!("the collector answers {status}")))
        }
        // Not again, says the specification: it would be refused for ever.
        status => {
            tracing::warn!(%status, count, "the OTLP collector refuses records");
            Ok(count)
        }
    }
}

fn log_record(record: &Record, line: &str) -> Value {
    let (number, text) = match record.outcome {
        Outcome::Allow => (9, "INFO"),
        Outcome::Deny => (13, "WARN"),
        Outcome::Error => (17, "ERROR"),
    };
    let mut attributes = vec![
        attribute("clawsec.seq", &record.seq.to_string()),
        attribute("clawsec.event", record.event.as_str()),
        attribute("clawsec.action", &record.action),
        attribute("clawsec.outcome", record.outcome.as_str()),
        attribute("clawsec.reason", &record.reason),
    ];
    if let Some(source) = &record.src {
        attributes.push(attribute("client.address", &source.ip.to_string()));
    }
    let texts = [
        ("enduser.id", &record.user),
        ("clawsec.principal", &record.principal),
        ("clawsec.agent", &record.agent),
        ("clawsec.request", &record.request),
    ];
    for (name, text) in texts {
        attributes.extend(text.as_deref().map(|text| attribute(name, text)));
    }
    let nanos = (i128::from(record.ts.micros()) * 1000).to_string();
    json!({
        "timeUnixNano": nanos, "observedTimeUnixNano": nanos,
        "severityNumber": number, "severityText": text,
        "body": { "stringValue": line }, "attributes": attributes,
    })
}

fn attribute(key: &str, value: &str) -> Value {
    json!({ "key": key, "value": { "stringValue": value } })
}
