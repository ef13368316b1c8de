//! The first configuration's text, from what is known.
//!
//! Invariant: nothing leaves here that clawsec's own reader would not take.

use std::io;
use std::path::{Path, PathBuf};

use ipnet::IpNet;
use zeroize::Zeroizing;

use super::files::{Layout, TOKEN};
use super::host::HostFacts;
use crate::config::{self, Config, ConfigError, Sources};

/// What the text is made of.
pub(super) struct Parts<'a> {
    pub(super) layout: &'a Layout,
    pub(super) host: &'a HostFacts,
    /// Where clients connect.
    pub(super) port: u16,
    /// `http://host:port`.
    pub(super) upstream: String,
    /// What is said of the gateway, such as «openclaw, process 812».
    pub(super) found: Option<String>,
    /// The gateway's token, which goes to a file of its own.
    pub(super) token: Option<&'a str>,
    /// `sha256:<hex>` of the first key.
    pub(super) key_hash: &'a str,
    /// A day.
    pub(super) date: String,
}

/// Writes the text, and reads it as the daemon would.
pub(super) fn compose(parts: &Parts<'_>) -> Result<(String, Config), ConfigError> {
    let text = text(parts);
    let config = config::compile(&text, &parts.layout.config, &Fresh(parts.token))?;
    Ok((text, config))
}

fn text(parts: &Parts<'_>) -> String {
    let Parts { layout, host, .. } = parts;
    let all: &[&str] = if host.has_ipv6 {
        &["0.0.0.0", "[::]"]
    } else {
        &["0.0.0.0"]
    };
    let listen: Vec<String> = all
        .iter()
        .map(|ip| format!("{ip}:{}", parts.port))
        .collect();
    let found = parts.found.as_ref();
    let config = match &layout.socket {
        None => String::new(),
        Some(_) => format!(" --config {}", layout.config.display()),
    };
    let socket = layout.socket.as_ref().map(|socket| {
        format!(
            "\n\n    // Where `clawsec status` and the others ask the daemon.\n    \
             admin: {{ socket: {} }},",
            file(socket)
        )
    });
    let mut text = TEMPLATE.to_owned();
    if parts.token.is_some() {
        text = text
            .replace("below; that file is not there yet.", "below.")
            .replace("// upstreamToken", "upstreamToken");
    }
    for (name, value) in [
        ("@DATE@", parts.date.clone()),
        ("@CONFIG@", config),
        ("@LISTEN@", json(&listen)),
        (
            "@FOUND@",
            found.map_or(String::new(), |found| format!(": {found}")),
        ),
        ("@UPSTREAM@", json(&parts.upstream)),
        ("@HOSTS@", json(&host.names)),
        ("@CERT@", file(&layout.cert)),
        ("@KEY@", file(&layout.key)),
        ("@SOCKET@", socket.unwrap_or_default()),
        ("@HASH@", parts.key_hash.to_owned()),
        ("@ALLOWED@", allowed(&host.prefixes)),
        ("@AUDIT@", file(&layout.audit)),
        ("@SECRETS@", file(&layout.secrets)),
    ] {
        text = text.replace(name, &value);
    }
    text
}

fn allowed(prefixes: &[(IpNet, String)]) -> String {
    let lines: Vec<String> = prefixes
        .iter()
        .map(|(net, what)| format!("        {:24} // {what}", format!("\"{net}\",")))
        .collect();
    lines.join("\n")
}

/// A path as it stands in the file; one that is not text is refused by the reader.
fn file(path: &Path) -> String {
    json(&path.display().to_string())
}

/// With a space after each comma; what looks like `${VAR}` stands for itself.
fn json(value: &(impl serde::Serialize + ?Sized)) -> String {
    let text = serde_json::to_string(value).unwrap_or_default();
    text.replace("\",\"", "\", \"").replace("${", "$${")
}

/// What the daemon will find, before it is there.
struct Fresh<'a>(Option<&'a str>);

impl Sources for Fresh<'_> {
    fn variable(&self, _name: &str) -> Option<Zeroizing<String>> {
        None
    }

    fn secret_file(&self, _dir: &Path, name: &str) -> io::Result<Zeroizing<String>> {
        let token = self.0.filter(|_| name == TOKEN);
        let token = token.map(|token| Zeroizing::new(token.to_owned()));
        token.ok_or(io::ErrorKind::NotFound.into())
    }

    fn home(&self) -> Option<PathBuf> {
        None
    }
}

const TEMPLATE: &str = include_str!("clawsec.json5");

#[cfg(test)]
mod tests {
    use super::*;

    const HASH: &str = "sha256:ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";

    fn compiled(root: Option<&Path>, token: Option<&str>) -> (String, Config) {
        let host = HostFacts {
            names: vec!["claw".into(), "127.0.0.1".into(), "::1".into()],
            prefixes: vec![("10.0.0.0/8".parse().unwrap(), "the network of eth0".into())],
            has_ipv6: true,
            given: None,
        };
        compose(&Parts {
            layout: &Layout::new(root),
            host: &host,
            port: 8443,
            upstream: "http://127.0.0.1:18789".into(),
            found: Some("openclaw, process 812".into()),
            token,
            key_hash: HASH,
            date: "2027-01-31".into(),
        })
        .unwrap()
    }

    #[test]
    fn the_first_file_warns_of_nothing() {
        let (text, config) = compiled(None, Some("a-token-of-the-gateway-behind"));
        assert_eq!(config.warnings, []);
        assert!(!text.contains("a-token-of"), "no secret stands in it");
        assert!(!text.contains("--config"), "{text}");
        assert_eq!(config.gateway.listen.len(), 2);
        assert!(config.gateway.upstream_token.is_some());
        let text = text.replace(HASH, "sha256:…");
        assert!(text.lines().all(|line| line.len() <= 100), "{text}");
        assert!(!text.contains('@'), "{text}");
    }

    #[test]
    fn without_a_token_the_line_waits_as_a_comment() {
        let (text, config) = compiled(None, None);
        assert!(
            text.contains("    // upstreamToken: \"${secret:gateway-token}\","),
            "{text}"
        );
        assert!(config.gateway.upstream_token.is_none());
    }

    #[test]
    fn below_a_root_every_path_is() {
        let (text, config) = compiled(Some(Path::new("/srv/${A}")), None);
        let paths = [&config.gateway.admin_socket, &config.audit.path];
        assert!(
            paths.iter().all(|path| path.starts_with("/srv/${A}")),
            "{text}"
        );
        assert!(
            text.contains("--config /srv/${A}/etc/clawsec/clawsec.json"),
            "{text}"
        );
    }
}
