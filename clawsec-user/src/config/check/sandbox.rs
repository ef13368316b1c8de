//! `security.sandbox`: which tools run contained, in what, and with how much.

use std::path::PathBuf;
use std::time::Duration;

use super::super::model::{SandboxConfig, SandboxNetwork, SandboxProvider};
use super::super::reader::{Field, Section};
use crate::policy::{ToolName, ToolRules};

/// The sandbox, and the tools clawsec answers from it.
pub(super) fn read(field: Field<'_, '_>) -> (SandboxConfig, ToolRules, Option<String>) {
    let present = field.is_present();
    field.section(|section| {
        // A section that stands there is meant; one that does not, is not.
        let enabled = section.at("enabled").boolean().unwrap_or(present);
        let provider = section
            .at("provider")
            .choice(PROVIDERS)
            .unwrap_or(SandboxProvider::Auto);
        if enabled && provider == SandboxProvider::None {
            section
                .at("provider")
                .warn("\"none\" contains nothing: tools run on this host");
        }
        let tools = section
            .at("tools")
            .list(super::selector)
            .unwrap_or_else(|| ["exec", "bash", "process"].map(str::to_owned).to_vec());
        let path = section.at("tools").path().to_owned();
        let tools: &[String] = if enabled { &tools } else { &[] };
        let sandboxed = ToolRules::new(&path, None, tools, &[]).unwrap_or_default();
        section.at("pool").unavailable();
        let docker = matches!(provider, SandboxProvider::Docker | SandboxProvider::Auto);
        let image = section
            .at("image")
            .parsed("an image reference without spaces", |text| {
                let sound = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_graphic());
                if sound && !text.starts_with('-') {
                    Ok(text.to_owned())
                } else {
                    Err(None)
                }
            });
        let sandbox = SandboxConfig {
            enabled,
            provider,
            image: match image {
                None if docker => Some("clawsec-sandbox:latest".to_owned()),
                image => image,
            },
            network: network(section, docker),
            memory_bytes: section
                .at("memory")
                .size(16 << 20..=1 << 40)
                .unwrap_or(512 << 20),
            cpu_millis: section
                .at("cpus")
                .thousandths(10..=1_024_000)
                .unwrap_or(1000),
            pids: section.at("pids").small(2..=65_536).unwrap_or(128),
            timeout: section
                .at("timeout")
                .millis(100..=86_400_000)
                .unwrap_or(Duration::from_secs(30)),
            output_bytes: section
                .at("output")
                .size(1024..=64 << 20)
                .and_then(|bytes| usize::try_from(bytes).ok())
                .unwrap_or(262_144),
            concurrency: section
                .at("concurrency")
                .small(1..=1024)
                .and_then(|count| usize::try_from(count).ok())
                .unwrap_or(4),
            user: user(section).unwrap_or_else(|| "clawsec-sbx".to_owned()),
            // Also after an upgrade has put another file in its place.
            launcher: PathBuf::from("/proc/self/exe"),
            docker_socket: section
                .at("dockerSocket")
                .file()
                .unwrap_or_else(|| PathBuf::from("/var/run/docker.sock")),
        };
        let node_host = node_host(section, enabled, &sandboxed);
        (sandbox, sandboxed, node_host)
    })
}

/// The name of clawsec's node, where it is to be one.
fn node_host(
    section: &mut Section<'_, '_>,
    has_sandbox: bool,
    sandboxed: &ToolRules,
) -> Option<String> {
    let field = section.at("nodeHost");
    let present = field.is_present();
    let (enabled, name) = field.section(|node| {
        let enabled = node.at("enabled").boolean().unwrap_or(present);
        let expected = "letters, digits, `.`, `_`, `-`, at most 64";
        let name = node.at("name").parsed(expected, |text| {
            let plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-');
            let sound = (1..=64).contains(&text.len()) && text.bytes().all(plain);
            if sound {
                Ok(text.to_owned())
            } else {
                Err(None)
            }
        });
        (enabled, name.unwrap_or_else(|| "clawsec".to_owned()))
    });
    if !enabled {
        return None;
    }
    if !has_sandbox {
        section
            .at("nodeHost")
            .problem("the sandbox is off; switch it on, or the node off too (`enabled: false`)");
    } else if !sandboxed.names(&ToolName::new("exec")) {
        section.at("nodeHost").problem(
            "a node runs `exec`; name it in `security.sandbox.tools`, or leave the node out",
        );
    }
    Some(name)
}

/// `none`, or a network that the operator made; never one of the host's own.
fn network(section: &mut Section<'_, '_>, docker: bool) -> SandboxNetwork {
    let expected = "\"none\", or the name of a docker network made for the sandbox";
    let name = section.at("network").parsed(expected, |text| {
        let plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'.' | b'-');
        let sound = text
            .as_bytes()
            .first()
            .is_some_and(u8::is_ascii_alphanumeric)
            && text.bytes().all(plain);
        // `host` shares the host's network; `default` and `bridge` reach the host and beyond.
        let hosts = matches!(text, "host" | "default" | "bridge");
        if sound && !hosts { Ok(text) } else { Err(None) }
    });
    match name {
        None | Some("none") => SandboxNetwork::None,
        Some(name) => {
            if !docker {
                section
                    .at("network")
                    .problem("only the provider \"docker\" has named networks");
            }
            section
                .at("network")
                .warn("sandboxed tools can reach this network");
            SandboxNetwork::Named(name.to_owned())
        }
    }
}

/// firejail refuses `nobody`, and run by root it contains next to nothing.
fn user(section: &mut Section<'_, '_>) -> Option<String> {
    section
        .at("user")
        .parsed("the name of an ordinary user, not root or nobody", |text| {
            let plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-' | b'.');
            let sound = text.len() <= 32
                && text.bytes().all(plain)
                && text.bytes().any(|byte| !byte.is_ascii_digit());
            if sound && !matches!(text, "root" | "nobody") {
                Ok(text.to_owned())
            } else {
                Err(None)
            }
        })
}

const PROVIDERS: &[(&str, SandboxProvider)] = &[
    ("auto", SandboxProvider::Auto),
    ("docker", SandboxProvider::Docker),
    ("firejail", SandboxProvider::Firejail),
    ("native", SandboxProvider::Native),
    ("none", SandboxProvider::None),
];
