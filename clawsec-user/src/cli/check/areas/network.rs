//! Who may connect, and whether the packet filter is there.

use super::super::facts::Facts;
use super::super::registry::{Check, found};
use crate::config::OnExit;
use crate::counterpart::Severity;
use crate::policy::AddressRule;

pub(in crate::cli::check) const CHECKS: &[Check] = &[
    Check {
        id: "network.open",
        severity: Severity::Critical,
        title: "every address may connect",
        remedy: "name the networks that may: security.network.allowedIPs",
        judge: |facts| {
            let allowed = prefixes(facts);
            let every = allowed.filter(|(length, _, _)| *length == 0);
            let every: Vec<String> = every.map(|(_, _, text)| text).collect();
            if facts.is_public() { every } else { Vec::new() }
        },
        says: &[
            "left out: every address may connect",
            "is every address of its family",
        ],
    },
    Check {
        id: "network.wide",
        severity: Severity::Warn,
        title: "a prefix of the allowlist is a large part of the Internet",
        remedy: "name smaller networks; `clawsec allow add ADDRESS --for 8h` admits one for a while",
        judge: |facts| {
            let allowed = prefixes(facts);
            let wide = allowed
                .filter(|(length, is_v4, _)| *length > 0 && *length < if *is_v4 { 8 } else { 16 });
            wide.map(|(_, _, text)| text).collect()
        },
        says: &[],
    },
    Check {
        id: "network.observes",
        severity: Severity::Warn,
        title: "packets are counted, and none is dropped",
        remedy: "when the counts are as they should be: security.network.mode: \"auto\"",
        judge: |facts| {
            found(facts.config.packets.observe, || {
                "it observes only".to_owned()
            })
        },
        says: &["packets are counted and recorded, and none is dropped"],
    },
    Check {
        id: "network.detaches",
        severity: Severity::Info,
        title: "the packet filter goes when the daemon stops",
        remedy: "security.network.onExit: \"enforce\" keeps the last policy in force",
        judge: |facts| {
            let detaches = facts.config.kernel.on_exit == OnExit::Detach;
            found(detaches, || {
                "security.network.onExit is \"detach\"".to_owned()
            })
        },
        says: &[],
    },
    Check {
        id: "network.upstream_unguarded",
        severity: Severity::Warn,
        title: "the packet filter does not guard the gateway's own port",
        remedy: "security.network.guardUpstream: true",
        judge: |facts| {
            let open = !facts.config.kernel.guard_upstream && facts.upstream_listens.is_some();
            found(open && facts.is_public(), || {
                format!("port {}", facts.config.gateway.upstream.port)
            })
        },
        says: &[],
    },
    Check {
        id: "network.proxies_wide",
        severity: Severity::Warn,
        title: "a large network is believed about whom it speaks for",
        remedy: "name the proxies themselves in proxyFrom of that listen entry",
        judge: |facts| {
            let entries = facts.config.gateway.listen.iter();
            let proxies = entries.flat_map(|entry| {
                let named = entry.proxy_from.iter();
                named.map(|prefix| (entry.path.clone(), *prefix))
            });
            proxies
                .filter(|(_, prefix)| prefix.max_prefix_len() - prefix.prefix_len() > 16)
                .map(|(path, prefix)| format!("{path}.proxyFrom {prefix}"))
                .collect()
        },
        says: &[],
    },
    Check {
        id: "network.hosts_open",
        severity: Severity::Info,
        title: "clawsec answers by whatever name it is called",
        remedy: "list its names in gateway.hosts: a page elsewhere cannot call it by its own then",
        judge: |facts| {
            let open = facts.config.gateway.hosts.is_empty() && facts.is_public();
            found(open, || "gateway.hosts is empty".to_owned())
        },
        says: &[],
    },
    Check {
        id: "network.unfiltered",
        severity: Severity::Critical,
        title: "the running daemon has no packet filter",
        remedy: "run it without --no-xdp; the log says what keeps the filter off",
        judge: |facts| {
            let without = facts.daemon.as_ref().is_some_and(|daemon| !daemon.filters);
            found(without && facts.is_public(), || {
                "addresses are checked at accept alone".to_owned()
            })
        },
        says: &[],
    },
    Check {
        id: "network.slower_mode",
        severity: Severity::Info,
        title: "an interface is filtered in a slower mode",
        remedy: "docs/operations.md, «How the filter is attached», has what helps",
        judge: |facts| {
            let slower = facts.daemon.iter().flat_map(|daemon| &daemon.slower);
            slower
                .map(|(name, mode, why)| format!("{name} ({mode}): {why}"))
                .collect()
        },
        says: &[],
    },
    Check {
        id: "network.other_program",
        severity: Severity::Warn,
        title: "a program of somebody else's runs at an interface's hook",
        remedy: "see `bpftool net`; with security.network.mode: \"tcx\" both run",
        judge: |facts| {
            let interfaces = facts.interfaces.iter();
            interfaces
                .flat_map(|one| {
                    one.others
                        .iter()
                        .map(|other| format!("{}: {other}", one.name))
                })
                .collect()
        },
        says: &[],
    },
    Check {
        id: "network.no_interface",
        severity: Severity::Warn,
        title: "there is no interface that the packet filter could be attached to",
        remedy: "name one: security.network.interfaces",
        judge: |facts| {
            found(facts.is_public() && facts.interfaces.is_empty(), || {
                "no Ethernet interface carries the listen addresses".to_owned()
            })
        },
        says: &[],
    },
];

/// Allowed prefixes: length, whether IPv4, and where they stand.
fn prefixes(facts: &Facts) -> impl Iterator<Item = (u8, bool, String)> {
    let rules = facts.config.policy.addresses.rules().iter();
    let rules = rules.filter(|rule| matches!(rule.rule, AddressRule::Allow { .. }));
    rules.map(|rule| {
        let prefix = rule.prefix;
        let is_v4 = matches!(prefix, ipnet::IpNet::V4(_));
        (
            prefix.prefix_len(),
            is_v4,
            format!("{} {prefix}", rule.path),
        )
    })
}
