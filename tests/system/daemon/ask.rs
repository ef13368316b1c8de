//! Asks a running daemon things, as `curl` does.

use serde_json::Value;
use xtask::lab::{self, Host};

use super::{Daemon, KEY};

/// What `curl` saw.
#[derive(Debug)]
pub(crate) struct Response {
    /// 0 when there was none.
    pub(crate) status: u16,
    pub(crate) body: String,
    /// curl's own exit code: 28 is a time-out, 7 a refusal.
    pub(crate) exit: i32,
}

impl Daemon {
    /// GET with the key.
    pub(crate) fn get(&self, from: Host, path: &str) -> Response {
        self.curl(from, path, &["-H", &format!("X-API-Key: {KEY}")])
    }

    /// `POST /tools/invoke` with the key.
    pub(crate) fn invoke(&self, call: &Value) -> Response {
        let key = format!("Authorization: Bearer {KEY}");
        self.curl(
            Host::Inside,
            "/tools/invoke",
            &["-H", &key, "--json", &call.to_string()],
        )
    }

    pub(crate) fn curl(&self, from: Host, path: &str, arguments: &[&str]) -> Response {
        let gateway = if from == Host::Outside {
            lab::GATEWAY_OUTSIDE
        } else {
            lab::GATEWAY_INSIDE
        };
        let output = self
            .lab
            .command(from, "curl")
            .args([
                "-sS",
                "--max-time",
                "10",
                "--connect-timeout",
                "2",
                "--path-as-is",
            ])
            .args(["--write-out", "\n%{http_code}", "--cacert"])
            .arg(self.path("cert.pem"))
            .args(arguments)
            .arg(format!("https://{gateway}:8443{path}"))
            .output()
            .expect("run curl");
        let text = String::from_utf8_lossy(&output.stdout);
        let (body, status) = text.rsplit_once('\n').unwrap_or_default();
        Response {
            status: status.parse().unwrap_or(0),
            body: body.to_owned(),
            exit: output.status.code().unwrap_or(-1),
        }
    }
}
