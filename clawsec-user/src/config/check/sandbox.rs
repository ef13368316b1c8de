//! `security.sandbox`: which tools run contained, in what, and with how much.

use std::path::PathBuf;

use super::super::model::{SandboxConfig, SandboxNetwork, SandboxProvider, WorkspaceAccess};
use super::super::reader::{Field, Section};
use crate::policy::{ToolName, ToolRules};

/// The sandbox, and the tools clawsec answers from it.
pub(super) fn read(field: Field<'_, '_>) -> (SandboxConfig, ToolRules, Option<String>) {
    let present = field.is_present();
    field.section(|section| {
        // A section that stands there is meant; one that does not, is not.
        let enabled = section.at("enabled").boolean().unwrap_or(present);
        let tools = section
            .at("tools")
            .list(super::selector)
            .unwrap_or_else(|| ["exec", "bash", "process"].map(str::to_owned).to_vec());
        let path = section.at("tools").path().to_owned();
        let tools: &[String] = if enabled { &tools } else { &[] };
        let sandboxed = ToolRules::new(&path, None, tools, &[]).unwrap_or_default();
        let networks = networks(section);
        let base = SandboxConfig {
            concurrency: section
                .at("concurrency")
                .small(1..=1024)
                .and_then(|count| usize::try_from(count).ok())
                .unwrap_or(4),
            user: user(section).unwrap_or_else(|| "clawsec-sbx".to_owned()),
            docker_socket: section
                .at("dockerSocket")
                .file()
                .unwrap_or_else(|| PathBuf::from("/var/run/docker.sock")),
            ..SandboxConfig::defaults(enabled)
        };
        let mut sandbox = settings(section, &base, networks.as_deref());
        sandbox.networks = match (networks, &sandbox.network) {
            (Some(networks), _) => networks,
            // The one that is named for all is named for each.
            (None, SandboxNetwork::Named(name)) => vec![name.clone()],
            (None, SandboxNetwork::None) => Vec::new(),
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

/// What an agent may say for itself, and the whole says for all; what is left out is `base`'s.
pub(super) fn settings(
    section: &mut Section<'_, '_>,
    base: &SandboxConfig,
    networks: Option<&[String]>,
) -> SandboxConfig {
    let provider = section
        .at("provider")
        .choice(PROVIDERS)
        .unwrap_or(base.provider);
    if base.enabled && provider == SandboxProvider::None {
        section
            .at("provider")
            .warn("\"none\" contains nothing: tools run on this host");
    }
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
    let runtime = section.at("runtime").parsed(
        "the name of a runtime that docker knows, such as \"runsc\"",
        |text| {
            if is_name(text) {
                Ok(text.to_owned())
            } else {
                Err(None)
            }
        },
    );
    let usize_of = |number: u32| usize::try_from(number).ok();
    SandboxConfig {
        provider,
        image: image.or_else(|| base.image.clone()),
        runtime: runtime.or_else(|| base.runtime.clone()),
        network: network(section, provider, base, networks),
        workspace_access: section
            .at("workspace")
            .choice(ACCESSES)
            .unwrap_or(base.workspace_access),
        memory_bytes: section
            .at("memory")
            .size(16 << 20..=1 << 40)
            .unwrap_or(base.memory_bytes),
        cpu_millis: section
            .at("cpus")
            .thousandths(10..=1_024_000)
            .unwrap_or(base.cpu_millis),
        pids: section.at("pids").small(2..=65_536).unwrap_or(base.pids),
        timeout: section
            .at("timeout")
            .millis(100..=86_400_000)
            .unwrap_or(base.timeout),
        output_bytes: section
            .at("output")
            .size(1024..=64 << 20)
            .and_then(|bytes| usize::try_from(bytes).ok())
            .unwrap_or(base.output_bytes),
        pool: section
            .at("pool")
            .small(0..=64)
            .and_then(usize_of)
            .unwrap_or(base.pool),
        ..base.clone()
    }
}

/// `none`, or one of the networks that the operator made for tools.
fn network(
    section: &mut Section<'_, '_>,
    provider: SandboxProvider,
    base: &SandboxConfig,
    networks: Option<&[String]>,
) -> SandboxNetwork {
    let name = section.at("network").parsed(NETWORK, |text| {
        if is_network(text) {
            Ok(text)
        } else {
            Err(None)
        }
    });
    let Some(name) = name else {
        // An agent of a provider that has none cannot be given the others' network.
        return match provider {
            SandboxProvider::Docker | SandboxProvider::Auto => base.network.clone(),
            _ => SandboxNetwork::None,
        };
    };
    if name == "none" {
        return SandboxNetwork::None;
    }
    if !matches!(provider, SandboxProvider::Docker | SandboxProvider::Auto) {
        section
            .at("network")
            .problem("only the provider \"docker\" has named networks");
    }
    if networks.is_some_and(|networks| !networks.iter().any(|known| known == name)) {
        section
            .at("network")
            .problem("is not in `security.sandbox.networks`");
    }
    section
        .at("network")
        .warn("sandboxed tools can reach this network");
    SandboxNetwork::Named(name.to_owned())
}

/// The allowlist of networks, for all agents.
fn networks(section: &mut Section<'_, '_>) -> Option<Vec<String>> {
    section.at("networks").list(|field| {
        field.parsed(NETWORK, |text| {
            if is_network(text) && text != "none" {
                Ok(text.to_owned())
            } else {
                Err(None)
            }
        })
    })
}

/// `host` shares the host's network; `default` and `bridge` reach the host and beyond.
fn is_network(text: &str) -> bool {
    is_name(text) && !matches!(text, "host" | "default" | "bridge")
}

fn is_name(text: &str) -> bool {
    let plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'.' | b'-');
    text.as_bytes()
        .first()
        .is_some_and(u8::is_ascii_alphanumeric)
        && text.bytes().all(plain)
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

const NETWORK: &str = "\"none\", or the name of a docker network made for the sandbox";
const ACCESSES: &[(&str, WorkspaceAccess)] = &[
    ("none", WorkspaceAccess::None),
    ("ro", WorkspaceAccess::ReadOnly),
    ("rw", WorkspaceAccess::ReadWrite),
];
const PROVIDERS: &[(&str, SandboxProvider)] = &[
    ("auto", SandboxProvider::Auto),
    ("docker", SandboxProvider::Docker),
    ("firejail", SandboxProvider::Firejail),
    ("native", SandboxProvider::Native),
    ("none", SandboxProvider::None),
];
