//! `clawsec init`: everything that a first start needs, from what can be found out.
//!
//! Invariant: nothing that exists is changed, and a failure leaves nothing half made; the first
//! key is printed and stands nowhere but as its hash.

mod accounts;
mod certificate;
mod compose;
mod files;
mod gateway;
mod host;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context as _, bail};
use zeroize::Zeroizing;

use self::accounts::ACCOUNTS;
use self::compose::{Parts, compose};
use self::files::{Layout, Written};
use self::gateway::Found;
use self::host::HostFacts;
use super::{CommandResult, Exit, Failure, key, output};
use crate::config::{self, FileTrust};
use crate::counterpart;
use crate::supervisor::{certificate as of_file, sockets};

#[derive(Debug, clap::Args)]
pub(crate) struct InitArguments {
    /// Find the OpenClaw or Clawdbot of this host, or read this file of it: takes over its port
    /// and its token, and prints the settings it needs
    #[arg(long, value_name = "FILE", num_args = 0..=1)]
    #[expect(clippy::option_option, reason = "left out, alone, or with a file")]
    gateway: Option<Option<PathBuf>>,
    /// One more name or address that clients call this host by
    #[arg(long, value_name = "NAME", value_parser = name)]
    name: Vec<String>,
    /// Put everything below this folder, and make no users
    #[arg(long, value_name = "DIR")]
    root: Option<PathBuf>,
    /// Leave the two users to you
    #[arg(long)]
    no_users: bool,
    /// Print what would be written, and write nothing
    #[arg(long)]
    dry_run: bool,
}

pub(crate) fn init(arguments: &InitArguments) -> CommandResult {
    let root = arguments.root.as_deref().map(std::path::absolute);
    let root = root.transpose().map_err(Failure::usage)?;
    let layout = Layout::new(root.as_deref());
    let users = root.is_none() && !arguments.no_users;
    if root.is_none() && !arguments.dry_run && !rustix::process::geteuid().is_root() {
        let hint = "init writes below /etc and makes two users: run it as root, or see what it \
                    would do with --dry-run";
        return Err(Failure::usage(anyhow::anyhow!(hint)));
    }
    if layout.config.exists() {
        let there = format!(
            "{} exists and stays as it is; move it away to start anew",
            layout.config.display()
        );
        return Err(Failure::new(Exit::Finding, anyhow::anyhow!(there)));
    }
    let found = match &arguments.gateway {
        None => None,
        Some(named) => {
            let found = gateway::find(named.as_deref(), Path::new("/proc"));
            Some(found.map_err(Failure::usage)?)
        }
    };
    let mut host = host::look().map_err(Failure::other)?;
    host.add_names(&arguments.name);
    let key = key::new_key()?;
    let first = First {
        layout: &layout,
        host: &host,
        found: found.as_ref(),
        hash: key::hash(key.as_bytes()),
    };
    if arguments.dry_run {
        output::print(&first.preview(users)?);
        return Ok(ExitCode::SUCCESS);
    }
    let done = first.write(users)?;
    output::print(&first.report(&done, &key));
    Ok(ExitCode::SUCCESS)
}

/// Everything that is known before something is written.
struct First<'a> {
    layout: &'a Layout,
    host: &'a HostFacts,
    found: Option<&'a Found>,
    /// Of the first key.
    hash: String,
}

/// What was written.
struct Done {
    /// One line each.
    lines: Vec<String>,
    /// Where clients reach it.
    address: String,
    /// As clients pin it.
    fingerprint: String,
    /// What the gateway's own file lacks.
    settings: Option<String>,
}

impl First<'_> {
    fn parts(&self) -> Parts<'_> {
        let upstream = self.found.map(|found| found.upstream.to_string());
        let token = self.found.and_then(|found| found.token.as_deref());
        Parts {
            layout: self.layout,
            host: self.host,
            port: free_port(),
            upstream: format!(
                "http://{}",
                upstream.as_deref().unwrap_or("127.0.0.1:18789")
            ),
            found: self.found.map(Found::describe),
            token: token.map(String::as_str),
            key_hash: &self.hash,
            date: jiff::Zoned::now().date().to_string(),
        }
    }

    fn preview(&self, users: bool) -> Result<String, Failure> {
        let (text, _) = compose(&self.parts()).map_err(Failure::other)?;
        let mut lines: Vec<String> = Vec::new();
        let exists = |path: &Path| if path.exists() { "left " } else { "write" };
        let layout = self.layout;
        for path in [&layout.config, &layout.cert, &layout.key] {
            lines.push(format!("{} {}", exists(path), path.display()));
        }
        if self.parts().token.is_some() {
            lines.push(format!(
                "{} {}",
                exists(&layout.token),
                layout.token.display()
            ));
        }
        if users {
            let missing = ACCOUNTS.iter().filter(|account| !account.exists());
            lines.extend(missing.map(|account| format!("make  user {}", account.name)));
        }
        // The hash is that of a key which nobody was given.
        let text = text.replace(&self.hash, "sha256:…");
        let path = layout.config.display();
        Ok(format!(
            "{}\n\n{path} would be:\n\n{text}",
            lines.join("\n")
        ))
    }

    fn write(&self, users: bool) -> Result<Done, Failure> {
        let parts = self.parts();
        let address = self.host.address(parts.port);
        let (text, config) = compose(&parts).map_err(Failure::other)?;
        let settings = match self.found {
            None => None,
            Some(found) => {
                let has_token = found.token.is_some();
                counterpart::missing(found.product, &config, &found.document, has_token)
                    .map_err(Failure::other)?
            }
        };
        self.make(&text, parts.token, users)
            .map(|(lines, fingerprint)| Done {
                lines,
                address,
                fingerprint,
                settings,
            })
            .map_err(Failure::other)
    }

    /// Writes all of it, or leaves nothing behind.
    fn make(
        &self,
        text: &str,
        token: Option<&str>,
        users: bool,
    ) -> anyhow::Result<(Vec<String>, String)> {
        let layout = self.layout;
        let mut lines = Vec::new();
        let mut written = Written::default();
        for (folder, mode) in &layout.folders {
            written.folder(folder, *mode)?;
        }
        match (layout.cert.exists(), layout.key.exists()) {
            (true, true) => {
                lines.push(left(&layout.cert));
                lines.push(left(&layout.key));
            }
            (false, false) => {
                let made = certificate::make(&self.host.names).context("make a certificate")?;
                written.file(&layout.key, 0o600, &made.key_pem)?;
                written.file(&layout.cert, 0o644, &made.cert_pem)?;
                let path = layout.cert.display();
                lines.push(format!("wrote {path}, self-signed, until {}", made.until));
                lines.push(format!("wrote {}", layout.key.display()));
            }
            (cert, _) => {
                let (there, missing) = if cert {
                    (&layout.cert, &layout.key)
                } else {
                    (&layout.key, &layout.cert)
                };
                bail!(
                    "{} is there without {}: put the other beside it, or move it away",
                    there.display(),
                    missing.display()
                );
            }
        }
        if let Some(token) = token {
            if layout.token.exists() {
                lines.push(left(&layout.token));
            } else {
                written.file(&layout.token, 0o600, token)?;
                lines.push(format!("wrote {}", layout.token.display()));
            }
        }
        written.file(&layout.config, 0o600, text)?;
        lines.push(format!("wrote {}", layout.config.display()));
        if users {
            for account in &ACCOUNTS {
                if !account.exists() {
                    account.make()?;
                    lines.push(format!("made  user {}", account.name));
                }
            }
        }
        // The last word is the daemon's own reader, with the files as they are now.
        config::load(&layout.config, FileTrust::Run)?;
        let pem = fs::read_to_string(&layout.cert)
            .with_context(|| format!("read {}", layout.cert.display()))?;
        let fingerprint = of_file::fingerprint(&pem)
            .with_context(|| format!("{} holds no certificate", layout.cert.display()))?;
        written.keep();
        Ok((lines, fingerprint))
    }

    fn report(&self, done: &Done, key: &Zeroizing<String>) -> Zeroizing<String> {
        let mut text = Zeroizing::new(String::new());
        text.push_str(&done.lines.join("\n"));
        text.push_str("\n\nkey of \"owner\" (shown once, give it to the client):\n  ");
        text.push_str(key);
        text.push_str(&format!(
            "\n\nfor the gateway's own clients, in their file (the key, and the certificate they pin):\n  \
             gateway: {{ mode: \"remote\", remote: {{ url: \"wss://{}\", token: \"the key\",\n    \
             tlsFingerprint: \"{}\" }} }}\n",
            done.address, done.fingerprint
        ));
        let token = self.layout.token.display();
        let uncomment = "then uncomment gateway.upstreamToken";
        match self.found {
            None => text.push_str(&format!(
                "\nno gateway was looked for (--gateway does): it is expected at 127.0.0.1:18789;\n  \
                 its token goes into {token}, {uncomment}\n"
            )),
            Some(found) => {
                let file = found.file.display();
                text.push_str(&format!("\ngateway: {}, {file}\n", found.describe()));
                for note in &found.notes {
                    text.push_str(&format!("  ! {note}\n"));
                }
                if found.token.is_none() {
                    text.push_str(&format!("  ! its token goes into {token}, {uncomment}\n"));
                }
            }
        }
        match (&done.settings, self.found) {
            (Some(settings), _) => text.push_str(&format!(
                "\nmerge this into its file, and restart it (`clawsec render` writes all of it):\n\n{settings}"
            )),
            (None, Some(_)) => text.push_str("  its file holds what clawsec asks of it\n"),
            (None, None) => {}
        }
        let config = match &self.layout.socket {
            None => String::new(),
            Some(_) => format!(" --config {}", self.layout.config.display()),
        };
        let state = match &self.layout.socket {
            None => String::new(),
            Some(_) => format!(" --state-dir {}", self.layout.state.display()),
        };
        let image = if Path::new(DOCKER).exists() {
            "  clawsec sandbox image    # docker is here: the small image that tools run in\n"
        } else {
            ""
        };
        text.push_str(&format!(
            "\nnext:\n{image}  clawsec check{config}\n  clawsec run{config}{state} --confirm 60    # then, \
             within a minute: clawsec confirm\n"
        ));
        text
    }
}

fn left(path: &Path) -> String {
    format!("left  {}, which exists", path.display())
}

/// The usual port, or the next one where somebody listens there already.
fn free_port() -> u16 {
    let table = sockets::table(Path::new("/proc"));
    let taken = |port: u16| {
        let mut listening = table.iter().filter(|socket| socket.is_listening());
        listening.any(|socket| socket.local.port() == port)
    };
    let mut ports = PORTS.into_iter();
    ports.find(|port| !taken(*port)).unwrap_or(PORTS[0])
}

/// A name or an address, as it stands in a certificate.
fn name(text: &str) -> Result<String, String> {
    let is_address = text.parse::<std::net::IpAddr>().is_ok();
    if is_address || host::is_name(text) {
        Ok(text.to_lowercase())
    } else {
        Err("a name such as assistant.example.org, or an address".to_owned())
    }
}

const DOCKER: &str = "/var/run/docker.sock";
const PORTS: [u16; 3] = [8443, 9443, 10443];
