//! The gateway that clawsec will stand in front of, and what is taken over from it.

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail};
use serde_json::Value;
use zeroize::Zeroizing;

use crate::cli::machine::gateways::{self, Running};
use crate::config::{FileTrust, ProcessSources, Sources as _};
use crate::counterpart::{self, Product};

/// A gateway, as its file and its process tell.
pub(super) struct Found {
    pub(super) product: Product,
    pub(super) file: PathBuf,
    pub(super) upstream: SocketAddr,
    pub(super) token: Option<Zeroizing<String>>,
    /// What its file holds.
    pub(super) document: Value,
    /// What a person should know.
    pub(super) notes: Vec<String>,
    pid: Option<u32>,
}

impl Found {
    pub(super) fn describe(&self) -> String {
        let name = self.product.name();
        match self.pid {
            Some(pid) => format!("{name}, process {pid}"),
            None => format!("{name}, not running"),
        }
    }
}

/// Finds the gateway whose file was named, or the only one that is here.
pub(super) fn find(named: Option<&Path>, proc: &Path) -> anyhow::Result<Found> {
    let running = gateways::running(proc);
    let Some(file) = named else {
        let own = ProcessSources::new(FileTrust::Read).home();
        return choose(&running, &gateways::files(&gateways::homes(own)));
    };
    let absolute = std::path::absolute(file)?;
    let process = running
        .iter()
        .find(|running| running.file().is_some_and(|its| same(&its, &absolute)));
    let product = Product::of_file(file).or(process.map(|running| running.product));
    let Some(product) = product else {
        bail!(
            "{}: whose file is it? Name it openclaw.json or clawdbot.json",
            file.display()
        );
    };
    read(product, absolute, process)
}

fn choose(running: &[Running], files: &[(Product, PathBuf)]) -> anyhow::Result<Found> {
    let here: Vec<&Running> = running.iter().filter(|running| !running.is_apart).collect();
    match here.as_slice() {
        [only] => {
            let pid = only.pid;
            let file = only.file();
            let file = file.with_context(|| format!("find the file of process {pid}"))?;
            return read(only.product, file, Some(only));
        }
        [] => {}
        several => {
            let each = several.iter().map(|running| {
                let file = running.file().unwrap_or_default();
                format!("process {} with {}", running.pid, file.display())
            });
            let each: Vec<String> = each.collect();
            bail!(
                "several gateways run here: {}; name one's file: --gateway FILE",
                each.join(", ")
            );
        }
    }
    if let Some(apart) = running.first() {
        bail!(
            "{} runs as process {} in a network of its own, as in a container: publish its port \
             to 127.0.0.1 only, and name its file: --gateway FILE",
            apart.product.name(),
            apart.pid
        );
    }
    match files {
        [(product, file)] => read(*product, file.clone(), None),
        [] => bail!(
            "no OpenClaw or Clawdbot runs here that {} can see, and no home has its file; start \
             it, or name its file: --gateway FILE",
            if rustix::process::geteuid().is_root() {
                "root"
            } else {
                "this user"
            }
        ),
        several => {
            let paths: Vec<String> = several
                .iter()
                .map(|(_, path)| path.display().to_string())
                .collect();
            bail!(
                "no gateway runs, and there are several files: {}; name one: --gateway FILE",
                paths.join(", ")
            )
        }
    }
}

fn read(product: Product, file: PathBuf, running: Option<&Running>) -> anyhow::Result<Found> {
    let name = file.display();
    let text = match fs::read_to_string(&file) {
        Ok(text) => Zeroizing::new(text),
        // It runs on its defaults.
        Err(error) if running.is_some() && error.kind() == std::io::ErrorKind::NotFound => {
            Zeroizing::new("{}".to_owned())
        }
        Err(error) => return Err(error).with_context(|| format!("read {name}")),
    };
    let document = counterpart::read(&text)
        .map_err(anyhow::Error::msg)
        .with_context(|| format!("read {name}"))?;
    let mut notes = Vec::new();
    let token = token(product, &document, running);
    let mode = document
        .pointer("/gateway/auth/mode")
        .and_then(Value::as_str);
    if let Some(mode) = mode.filter(|mode| *mode != "token") {
        notes.push(format!(
            "its gateway.auth.mode is {mode:?}; clawsec shows it a token"
        ));
    } else if token.is_none() {
        let variable = product.token_variable();
        notes.push(format!(
            "its token is neither in its file nor in {variable}: make one, put it into both"
        ));
    }
    let open = running.map_or(&[][..], |running| &running.listening);
    let open: Vec<String> = open
        .iter()
        .filter(|address| !address.ip().is_loopback())
        .map(SocketAddr::to_string)
        .collect();
    if !open.is_empty() {
        notes.push(format!(
            "it can be reached around clawsec, at {}",
            open.join(", ")
        ));
    }
    if running.is_some_and(|running| running.uid == 0) {
        notes.push("it runs as root: its tools could change clawsec; give it a user".to_owned());
    }
    Ok(Found {
        product,
        upstream: gateways::upstream(&document, running),
        token,
        document,
        notes,
        pid: running.map(|running| running.pid),
        file,
    })
}

/// The token that this gateway asks for: its file's, where that is one or names a variable, else
/// its variable's.
fn token(
    product: Product,
    document: &Value,
    running: Option<&Running>,
) -> Option<Zeroizing<String>> {
    let variable = |name: &str| {
        let of_process = running.and_then(|running| running.variable(name));
        of_process.or_else(|| ProcessSources::new(FileTrust::Read).variable(name))
    };
    let written = document
        .pointer("/gateway/auth/token")
        .and_then(Value::as_str);
    let found = match written {
        None => variable(product.token_variable()),
        Some(text) => match text
            .strip_prefix("${")
            .and_then(|rest| rest.strip_suffix('}'))
        {
            Some(name) => variable(name),
            None => Some(Zeroizing::new(text.to_owned())),
        },
    };
    found.filter(|token| !token.is_empty())
}

fn same(one: &Path, other: &Path) -> bool {
    one == other
        || one
            .canonicalize()
            .ok()
            .is_some_and(|one| other.canonicalize().ok() == Some(one))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of_file(text: &str) -> anyhow::Result<Found> {
        let root = tempfile::tempdir().unwrap();
        let file = root.path().join("openclaw.json");
        fs::write(&file, text).unwrap();
        find(Some(&file), Path::new("/nowhere"))
    }

    #[test]
    fn a_file_tells_port_and_token() {
        let found =
            of_file("{ gateway: { port: 2000, auth: { token: 'abc' } } } // JSON5").unwrap();
        assert_eq!(found.upstream.to_string(), "127.0.0.1:2000");
        assert_eq!(found.token.as_deref().map(String::as_str), Some("abc"));
        assert_eq!(found.notes, [""; 0]);
        assert_eq!(found.describe(), "openclaw, not running");
    }

    #[test]
    fn what_is_missing_is_said() {
        for (text, note) in [
            (
                "{ gateway: { auth: { token: '${NO_SUCH_VARIABLE_HERE}' } } }",
                "neither in its file",
            ),
            ("{ gateway: { auth: { mode: 'none' } } }", "\"none\""),
        ] {
            let found = of_file(text).unwrap();
            assert!(found.token.is_none(), "{text}");
            assert!(found.notes[0].contains(note), "{:?}", found.notes);
        }
        let error = of_file("{ gateway: ").err().unwrap();
        assert!(error.to_string().contains("openclaw.json"), "{error}");
    }

    #[test]
    fn of_several_none_is_guessed() {
        let file = |name: &str| (Product::Openclaw, PathBuf::from(name));
        for (files, says) in [
            (vec![], "--gateway FILE"),
            (
                vec![file("/a/openclaw.json"), file("/b/openclaw.json")],
                "/b/openclaw.json",
            ),
        ] {
            let error = choose(&[], &files).err().unwrap().to_string();
            assert!(error.contains(says), "{error}");
        }
    }
}
