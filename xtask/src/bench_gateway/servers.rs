//! Who is measured, and what each is told.

use std::path::Path;

use anyhow::Result;
use serde_json::{Value, json};

use super::KEY;
use super::files::Folder;
use super::server::{Server, descriptors, free_port, version};

/// nginx as it comes: a new connection to the upstream for each request.
pub(super) const NGINX: &str = "nginx";
/// nginx told to keep connections to the upstream, as clawsec does for pages.
pub(super) const NGINX_KEEPALIVE: &str = "nginx, upstream keepalive";
pub(super) const CLAWSEC: &str = "clawsec";

/// A server that may be measured.
pub(super) struct Contestant {
    pub(super) name: &'static str,
    /// Debian's, where it is not ours.
    pub(super) package: &'static str,
    pub(super) port: u16,
    command: Vec<String>,
    version_argument: &'static str,
}

impl Contestant {
    pub(super) fn program(&self) -> &Path {
        Path::new(self.command.first().map_or("", String::as_str))
    }

    pub(super) fn version(&self) -> Option<String> {
        version(self.command.first()?, self.version_argument)
    }

    /// Starts it on CPU 0 and waits until it answers.
    pub(super) fn start(&self, folder: &Folder) -> Result<Server> {
        let mut server = Server::start("0", &self.command, folder)?;
        server.await_ready(self.port)?;
        Ok(server)
    }
}

/// Writes everybody's configuration.
pub(super) fn contestants(
    clawsec: &Path,
    folder: &Folder,
    upstream: u16,
) -> Result<Vec<Contestant>> {
    let ports = [(); 5].map(|()| free_port());
    let [plain, kept, haproxy_port, caddy_port, clawsec_port] = ports;
    let (plain, kept, haproxy_port) = (plain?, kept?, haproxy_port?);
    let (caddy_port, clawsec_port) = (caddy_port?, clawsec_port?);
    folder.write("nginx.conf", &nginx(folder, "nginx", plain, upstream, ""))?;
    let keepalive = "keepalive 64; keepalive_requests 1000000000;";
    folder.write(
        "nginx-kept.conf",
        &nginx(folder, "nginx-kept", kept, upstream, keepalive),
    )?;
    folder.write("haproxy.cfg", &haproxy(folder, haproxy_port, upstream))?;
    folder.write("Caddyfile", &caddy(folder, caddy_port, upstream))?;
    folder.write(
        "clawsec.json",
        &config(folder, clawsec_port, upstream).to_string(),
    )?;
    let file = |name: &str| folder.path(name);
    let words = |words: &[&str]| words.iter().map(|&word| word.to_owned()).collect();
    Ok(vec![
        Contestant {
            name: NGINX,
            package: "nginx-light",
            port: plain,
            command: words(&["nginx", "-c", &file("nginx.conf")]),
            version_argument: "-v",
        },
        Contestant {
            name: NGINX_KEEPALIVE,
            package: "nginx-light",
            port: kept,
            command: words(&["nginx", "-c", &file("nginx-kept.conf")]),
            version_argument: "-v",
        },
        Contestant {
            name: "HAProxy",
            package: "haproxy",
            port: haproxy_port,
            command: words(&["haproxy", "-db", "-f", &file("haproxy.cfg")]),
            version_argument: "-v",
        },
        Contestant {
            name: "Caddy",
            package: "caddy",
            port: caddy_port,
            command: words(&[
                "caddy",
                "run",
                "--adapter",
                "caddyfile",
                "--config",
                &file("Caddyfile"),
            ]),
            version_argument: "version",
        },
        Contestant {
            name: CLAWSEC,
            package: "",
            port: clawsec_port,
            command: words(&[
                &clawsec.display().to_string(),
                "run",
                "--no-xdp",
                "--config",
                &file("clawsec.json"),
                "--state-dir",
                &file("state"),
            ]),
            version_argument: "--version",
        },
    ])
}

fn nginx(folder: &Folder, name: &str, port: u16, upstream: u16, keepalive: &str) -> String {
    let folder = folder.0.display();
    let idle = if keepalive.is_empty() { "close" } else { "''" };
    let descriptors = descriptors();
    // It closes connections of its own accord where fewer than a sixteenth are free.
    let connections = 2 * descriptors;
    format!(
        "daemon off; worker_processes 1; worker_rlimit_nofile {descriptors};\n\
         pid {folder}/{name}.pid; error_log stderr;\n\
         events {{ worker_connections {connections}; }}\n\
         http {{ access_log {folder}/{name}.access.log; keepalive_requests 1000000000;\n\
         map $http_upgrade $hop {{ default upgrade; '' {idle}; }}\n\
         upstream behind {{ server 127.0.0.1:{upstream}; {keepalive} }}\n\
         server {{ listen 127.0.0.1:{port} ssl; ssl_certificate {folder}/cert.pem;\n\
         ssl_certificate_key {folder}/key.pem; ssl_protocols TLSv1.2 TLSv1.3;\n\
         location / {{ proxy_pass http://behind; proxy_http_version 1.1;\n\
         proxy_set_header Upgrade $http_upgrade; proxy_set_header Connection $hop; }} }} }}\n"
    )
}

fn haproxy(folder: &Folder, port: u16, upstream: u16) -> String {
    let folder = folder.0.display();
    format!(
        "global\n nbthread 1\n maxconn 9900\n log stdout format raw local0\n\
         defaults\n mode http\n log global\n option httplog\n timeout client 60s\n\
         \x20timeout server 60s\n timeout connect 5s\n timeout tunnel 1h\n\
         frontend door\n bind 127.0.0.1:{port} ssl crt {folder}/both.pem ssl-min-ver TLSv1.2\n\
         \x20default_backend behind\n\
         backend behind\n server one 127.0.0.1:{upstream}\n"
    )
}

fn caddy(folder: &Folder, port: u16, upstream: u16) -> String {
    let folder = folder.0.display();
    format!(
        "{{\n admin off\n auto_https off\n skip_install_trust\n}}\n\
         https://localhost:{port} {{\n bind 127.0.0.1\n tls {folder}/cert.pem {folder}/key.pem\n\
         \x20log {{\n  output file {folder}/caddy.access.log\n }}\n\
         \x20reverse_proxy 127.0.0.1:{upstream}\n}}\n"
    )
}

fn config(folder: &Folder, port: u16, upstream: u16) -> Value {
    let rate = 1_000_000;
    json!({
        "gateway": {
            "listen": [format!("127.0.0.1:{port}")],
            "upstream": format!("http://127.0.0.1:{upstream}"),
            "upstreamToken": "bench-upstream-token",
            "observe": false,
            "maxConnections": 10_000,
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
