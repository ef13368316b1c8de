//! OpenClaw and Clawdbot on this machine: the processes that listen, and their files.
//!
//! Invariant: nothing is asked of a gateway; what is known is read of `/proc` and of its file.

use std::fs;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use nix::unistd::{Uid, User};
use serde_json::Value;
use zeroize::Zeroizing;

use crate::counterpart::Product;
use crate::supervisor::sockets::{self, Socket};

/// A process that listens and is called as a gateway is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Running {
    pub(crate) product: Product,
    pub(crate) pid: u32,
    pub(crate) uid: u32,
    /// Without doubles, in order.
    pub(crate) listening: Vec<SocketAddr>,
    /// In a network namespace of its own, as in a container: its addresses are not this host's.
    pub(crate) is_apart: bool,
    folder: PathBuf,
}

/// Every one that can be seen; other users' take root.
pub(crate) fn running(proc: &Path) -> Vec<Running> {
    let ours = fs::read_link(proc.join("self/ns/net")).ok();
    let processes = sockets::processes(proc).into_iter();
    let mut found: Vec<Running> = processes
        .filter_map(|(pid, folder)| {
            let arguments = fs::read(folder.join("cmdline")).ok()?;
            let product = product_of(&arguments)?;
            let held = sockets::held_by(&folder);
            let mut listening: Vec<SocketAddr> = sockets::table(&folder)
                .iter()
                .filter(|socket| socket.is_listening() && held.contains(&socket.inode))
                .map(|socket: &Socket| socket.local)
                .collect();
            listening.sort_unstable();
            listening.dedup();
            Some(Running {
                product,
                pid,
                uid: fs::metadata(&folder).ok()?.uid(),
                is_apart: fs::read_link(folder.join("ns/net")).ok() != ours,
                listening,
                folder,
            })
        })
        .filter(|running| !running.listening.is_empty())
        .collect();
    found.sort_by_key(|running| running.pid);
    found
}

impl Running {
    /// A variable that the process was started with.
    pub(crate) fn variable(&self, name: &str) -> Option<Zeroizing<String>> {
        let block = Zeroizing::new(fs::read(self.folder.join("environ")).ok()?);
        let mut entries = block.split(|&byte| byte == 0);
        let value = entries.find_map(|entry| {
            let rest = entry.strip_prefix(name.as_bytes())?;
            rest.strip_prefix(b"=")
        })?;
        let text = std::str::from_utf8(value).ok()?;
        (!text.is_empty()).then(|| Zeroizing::new(text.to_owned()))
    }

    /// Where its configuration file is, by what it was started with.
    pub(crate) fn file(&self) -> Option<PathBuf> {
        let path = |name: &str| self.variable(name).map(|text| PathBuf::from(text.as_str()));
        if let Some(named) = path(self.product.path_variable()) {
            return Some(named);
        }
        if let Some(state) = path(self.product.state_variable()) {
            let name = self.product.name();
            return Some(state.join(format!("{name}.json")));
        }
        let user = || User::from_uid(Uid::from_raw(self.uid)).ok().flatten();
        let home = path("HOME").or_else(|| Some(user()?.dir))?;
        Some(self.product.file(&home))
    }
}

/// Where clawsec reaches the gateway: the port of its file if it listens there, else its lowest,
/// since the others (a browser's control, a canvas) are counted up from it.
pub(crate) fn upstream(document: &Value, running: Option<&Running>) -> SocketAddr {
    let written = document.pointer("/gateway/port").and_then(Value::as_u64);
    let written = written.and_then(|port| u16::try_from(port).ok());
    let listening = running.map_or(&[][..], |running| &running.listening);
    let at = |port: u16| {
        listening
            .iter()
            .filter(move |address| address.port() == port)
    };
    let port = written
        .filter(|&port| listening.is_empty() || at(port).next().is_some())
        .or_else(|| listening.iter().map(SocketAddr::port).min())
        .unwrap_or(DEFAULT_PORT);
    let any_local = |address: &&SocketAddr| {
        let ip = address.ip();
        ip.is_unspecified() || ip == IpAddr::V4(Ipv4Addr::LOCALHOST)
    };
    let ip = match (at(port).find(any_local), at(port).next()) {
        (None, Some(other)) => other.ip(),
        _ => Ipv4Addr::LOCALHOST.into(),
    };
    SocketAddr::new(ip, port)
}

/// Files where the products have them, in the homes of this host's people.
pub(crate) fn files(homes: &[PathBuf]) -> Vec<(Product, PathBuf)> {
    let places = homes
        .iter()
        .flat_map(|home| Product::BOTH.map(|product| (product, product.file(home))));
    places.filter(|(_, path)| path.is_file()).collect()
}

/// By the first words of a command line. Node programs give themselves a title, which stands
/// there in place of the command: `openclaw-gateway`.
fn product_of(arguments: &[u8]) -> Option<Product> {
    let words = arguments.split(|&byte| byte == 0).take(4);
    words
        .filter_map(|word| std::str::from_utf8(word).ok())
        .flat_map(|word| word.split(['/', ' ']))
        .find_map(|part| {
            let stem = part.split(['.', '-']).next()?;
            match stem {
                "openclaw" => Some(Product::Openclaw),
                "clawdbot" | "moltbot" => Some(Product::Clawdbot),
                _ => None,
            }
        })
}

/// Homes where a gateway's file may be: the caller's, the one `sudo` was called by, and all below
/// `/home`.
pub(crate) fn homes(own: Option<PathBuf>) -> Vec<PathBuf> {
    let by_sudo = std::env::var_os("SUDO_USER").and_then(|name| {
        let name = std::str::from_utf8(name.as_bytes()).ok()?;
        Some(User::from_name(name).ok()??.dir)
    });
    let people = fs::read_dir("/home").into_iter().flatten().flatten();
    let mut homes: Vec<PathBuf> = own.into_iter().chain(by_sudo).collect();
    homes.extend(people.map(|entry| entry.path()));
    let mut known = std::collections::HashSet::new();
    homes.retain(|home| known.insert(home.clone()));
    homes
}

const DEFAULT_PORT: u16 = 18789;

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn a_gateway_is_known_by_its_title_or_its_program() {
        let rows: [(&str, Option<Product>); 6] = [
            ("openclaw-gateway", Some(Product::Openclaw)),
            ("clawdbot", Some(Product::Clawdbot)),
            (
                "node\0/usr/lib/node_modules/openclaw/openclaw.mjs\0gateway",
                Some(Product::Openclaw),
            ),
            ("node\0/opt/moltbot/dist/entry.js", Some(Product::Clawdbot)),
            ("node\0/srv/app.js\0--name\0x\0openclaw", None),
            ("nginx: worker process", None),
        ];
        for (arguments, product) in rows {
            assert_eq!(product_of(arguments.as_bytes()), product, "{arguments:?}");
        }
    }

    #[test]
    fn a_process_tells_its_ports_and_its_file() {
        let root = tempfile::tempdir().unwrap();
        let proc = root.path();
        process(proc, 10, "openclaw-gateway", "OPENCLAW_STATE_DIR=/srv/claw");
        // Of the same name, and nothing listens.
        process(proc, 11, "openclaw", "HOME=/home/me");
        fs::remove_file(proc.join("11/fd/3")).unwrap();
        fs::create_dir_all(proc.join("self/ns")).unwrap();
        symlink("net:[1]", proc.join("self/ns/net")).unwrap();
        let found = running(proc);
        assert_eq!(found.len(), 1, "{found:?}");
        let one = &found[0];
        assert_eq!(
            (one.pid, one.product, one.is_apart),
            (10, Product::Openclaw, false)
        );
        assert_eq!(one.listening, ["0.0.0.0:18789".parse().unwrap()]);
        assert_eq!(one.file(), Some("/srv/claw/openclaw.json".into()));
        assert_eq!(one.variable("OPENCLAW_GATEWAY_TOKEN"), None);
    }

    fn process(proc: &Path, pid: u32, title: &str, variable: &str) {
        let folder = proc.join(pid.to_string());
        for name in ["fd", "net", "ns"] {
            fs::create_dir_all(folder.join(name)).unwrap();
        }
        fs::write(folder.join("cmdline"), title).unwrap();
        fs::write(folder.join("environ"), format!("A=b\0{variable}\0")).unwrap();
        symlink("socket:[4711]", folder.join("fd/3")).unwrap();
        symlink("net:[1]", folder.join("ns/net")).unwrap();
        let table = "sl local rem st\n\
             0: 00000000:4965 00000000:0000 0A 0:0 0:0 0 0 0 4711 1\n\
             1: 00000000:0016 00000000:0000 0A 0:0 0:0 0 0 0 4712 1\n";
        fs::write(folder.join("net/tcp"), table).unwrap();
    }

    #[test]
    fn the_upstream_is_where_the_gateway_listens() {
        let listening = |addresses: &[&str]| Running {
            product: Product::Openclaw,
            pid: 1,
            uid: 0,
            listening: addresses.iter().map(|text| text.parse().unwrap()).collect(),
            is_apart: false,
            folder: PathBuf::new(),
        };
        let with = |port: u16| serde_json::json!({ "gateway": { "port": port } });
        let none = serde_json::json!({});
        for (document, addresses, expected) in [
            (&none, &[][..], "127.0.0.1:18789"),
            (&with(2000), &[], "127.0.0.1:2000"),
            (
                &with(2000),
                &["0.0.0.0:1999", "0.0.0.0:2000"],
                "127.0.0.1:2000",
            ),
            (
                &with(2000),
                &["127.0.0.1:3002", "127.0.0.1:3000"],
                "127.0.0.1:3000",
            ),
            (&none, &["192.0.2.7:18789"], "192.0.2.7:18789"),
            (
                &none,
                &["[::1]:18789", "127.0.0.1:18789"],
                "127.0.0.1:18789",
            ),
        ] {
            let running = listening(addresses);
            let running = (!addresses.is_empty()).then_some(&running);
            let found = upstream(document, running);
            assert_eq!(found.to_string(), expected, "{document} {addresses:?}");
        }
    }
}
