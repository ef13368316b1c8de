//! What the servers of the gateway's benchmark are told, and where it stands.

use std::fs;
use std::io::Write as _;
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::PathBuf;

use anyhow::{Context as _, Result};
use serde_json::{Value, json};

use super::KEY;

pub(super) fn upstream(folder: &Folder, port: u16) -> String {
    let folder = folder.0.display();
    format!(
        "daemon off; worker_processes 1; pid {folder}/upstream.pid; error_log stderr;\n\
         events {{ worker_connections 1024; }}\n\
         http {{ access_log off; server {{ listen 127.0.0.1:{port}; location / {{ return 200 'hello'; }} }} }}\n"
    )
}

pub(super) fn nginx(folder: &Folder, port: u16, upstream: u16) -> String {
    let folder = folder.0.display();
    format!(
        "daemon off; worker_processes 1; pid {folder}/nginx.pid; error_log stderr;\n\
         events {{ worker_connections 1024; }}\n\
         http {{ access_log {folder}/access.log; keepalive_requests 1000000;\n\
         server {{ listen 127.0.0.1:{port} ssl; ssl_certificate {folder}/cert.pem;\n\
         ssl_certificate_key {folder}/key.pem; ssl_protocols TLSv1.2 TLSv1.3;\n\
         location / {{ proxy_pass http://127.0.0.1:{upstream}; }} }} }}\n"
    )
}

pub(super) fn config(folder: &Folder, port: u16, upstream: u16) -> Value {
    let rate = 1_000_000;
    json!({
        "gateway": {
            "listen": [format!("127.0.0.1:{port}")],
            "upstream": format!("http://127.0.0.1:{upstream}"),
            "upstreamToken": "bench-upstream-token",
            "observe": false,
            "tls": { "cert": folder.path("cert.pem"), "key": folder.path("key.pem") },
            "admin": { "socket": folder.path("admin.sock") },
        },
        "security": {
            "auth": { "type": "apiKey", "key": KEY },
            "network": { "allowedIPs": ["127.0.0.0/8"] },
            "rateLimit": { "requests": rate, "window": 1000, "connections": rate },
            "audit": { "path": folder.path("audit.log"), "events": ["auth", "message", "tool", "config"] },
        },
    })
}

/// Prints one line of figures at wrk's end.
const SCRIPT: &str = "done = function(summary, latency, requests)\n\
    local e = summary.errors\n\
    io.write(string.format('clawsec-bench %d %d %d %d\\n', summary.requests, summary.duration,\n\
    latency:percentile(99), e.connect + e.read + e.write + e.status + e.timeout))\nend\n";

/// Root's own, since clawsec refuses a configuration that others can write.
pub(super) struct Folder(pub(super) PathBuf);

impl Folder {
    pub(super) fn new() -> Result<Self> {
        let path = PathBuf::from(format!("/run/clawsec-bench-{}", std::process::id()));
        fs::DirBuilder::new()
            .mode(0o700)
            .create(&path)
            .with_context(|| format!("create {}", path.display()))?;
        let folder = Self(path);
        folder.write("report.lua", SCRIPT)?;
        Ok(folder)
    }

    pub(super) fn path(&self, name: &str) -> String {
        self.0.join(name).display().to_string()
    }

    pub(super) fn certificate(&self) -> Result<()> {
        let names = ["localhost".to_owned(), "127.0.0.1".to_owned()];
        let made = rcgen::generate_simple_self_signed(names).context("make a certificate")?;
        self.write("cert.pem", &made.cert.pem())?;
        self.write("key.pem", &made.signing_key.serialize_pem())
    }

    pub(super) fn write(&self, name: &str, text: &str) -> Result<()> {
        fs::OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(self.0.join(name))
            .and_then(|mut file| file.write_all(text.as_bytes()))
            .with_context(|| format!("write {name}"))
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _kept = fs::remove_dir_all(&self.0);
    }
}
