//! The state as documents: for the gateway process, which serves them on the admin listener, and
//! for root's own `curl` at the admin socket.

use super::admin::status;
use super::state::State;
use crate::ipc::{Document, Written};
use crate::ops::{self, Page, Status};

/// Writes a document of the state as it is now.
pub(super) fn write(state: &State, document: Document) -> Written {
    let status = status(state);
    match document {
        Document::Metrics => Written {
            status: 200,
            content_type: ops::METRICS_CONTENT_TYPE.to_owned(),
            security_policy: None,
            text: ops::metrics(&status),
        },
        Document::Page => {
            let Page {
                html,
                security_policy,
            } = ops::page(&status);
            Written {
                status: 200,
                content_type: "text/html; charset=utf-8".to_owned(),
                security_policy: Some(security_policy),
                text: html,
            }
        }
        Document::Ready => ready(&status),
    }
}

/// Whether requests are served as the configuration says, and what stands against it.
fn ready(status: &Status) -> Written {
    let against = status.against_readiness();
    let is_ready = against.is_empty();
    let mut text = if is_ready { "ready" } else { "not ready" }.to_owned();
    for what in against {
        text.push('\n');
        text.push_str(what);
    }
    text.push('\n');
    Written {
        status: if is_ready { 200 } else { 503 },
        content_type: "text/plain; charset=utf-8".to_owned(),
        security_policy: None,
        text,
    }
}

/// The whole answer to a first line of HTTP; `None` when it is a question in JSON. Only root can
/// open the admin socket, so that the rest of the request says nothing of interest.
pub(super) fn over_http(state: &State, line: &str) -> Option<Vec<u8>> {
    let rest = line.strip_prefix("GET ")?;
    let path = rest.split(' ').next().unwrap_or_default();
    let written = match path {
        "/" => write(state, Document::Page),
        "/metrics" => write(state, Document::Metrics),
        "/readyz" => write(state, Document::Ready),
        "/healthz" => plain(200, "ok\n"),
        _ => plain(
            404,
            "there is /metrics, /healthz, /readyz and the page at /\n",
        ),
    };
    let policy = written
        .security_policy
        .unwrap_or_else(|| NOTHING.to_owned());
    let head = format!(
        "HTTP/1.1 {} {}\r\ncontent-type: {}\r\ncontent-length: {}\r\ncache-control: no-store\r\n\
         content-security-policy: {policy}\r\nx-content-type-options: nosniff\r\n\
         connection: close\r\n\r\n",
        written.status,
        match written.status {
            200 => "OK",
            404 => "Not Found",
            _ => "Service Unavailable",
        },
        written.content_type,
        written.text.len(),
    );
    Some([head.into_bytes(), written.text.into_bytes()].concat())
}

fn plain(status: u16, text: &str) -> Written {
    Written {
        status,
        content_type: "text/plain; charset=utf-8".to_owned(),
        security_policy: None,
        text: text.to_owned(),
    }
}

const NOTHING: &str = "default-src 'none'";
