//! The protected gateway, and ways around clawsec to it.

use super::super::registry::{Check, found};
use crate::counterpart::Severity;

pub(in crate::cli::check) const CHECKS: &[Check] = &[
    Check {
        id: "gateway.reachable",
        severity: Severity::Critical,
        title: "the gateway listens where others reach it without clawsec",
        remedy: "gateway.bind: \"loopback\" in the gateway's own file, then restart it",
        judge: |facts| {
            let around = facts.gateways.iter().flat_map(|gateway| {
                let open = gateway.listening.iter().filter(|at| !at.ip().is_loopback());
                open.map(|at| {
                    format!(
                        "{} (process {}) on {at}",
                        gateway.product.name(),
                        gateway.pid
                    )
                })
            });
            around.collect()
        },
        says: &[],
    },
    Check {
        id: "gateway.published",
        severity: Severity::Critical,
        title: "a container publishes the gateway's port to other machines",
        remedy: "publish it to loopback: `-p 127.0.0.1:PORT:PORT`",
        judge: |facts| {
            let port = facts.config.gateway.upstream.port;
            let open = facts.published.iter().filter(|one| {
                !one.address.is_loopback() && (one.port == port || one.inner == port)
            });
            open.map(|one| {
                format!(
                    "{} publishes {} at {}:{}",
                    one.container, one.inner, one.address, one.port
                )
            })
            .collect()
        },
        says: &[],
    },
    Check {
        id: "gateway.silent",
        severity: Severity::Warn,
        title: "nothing listens where the gateway should",
        remedy: "start the gateway, or mend gateway.upstream",
        judge: |facts| {
            found(facts.upstream_listens == Some(false), || {
                facts.config.gateway.upstream.authority()
            })
        },
        says: &[],
    },
    Check {
        id: "gateway.elsewhere",
        severity: Severity::Warn,
        title: "requests and the gateway's token cross a network unencrypted",
        remedy: "run clawsec on the gateway's own host, or through a tunnel to its loopback",
        judge: |facts| {
            found(facts.upstream_listens.is_none(), || {
                facts.config.gateway.upstream.authority()
            })
        },
        says: &["requests and the upstream token cross a network unencrypted"],
    },
    Check {
        id: "gateway.runs_as_root",
        severity: Severity::Warn,
        title: "the gateway runs as root: its own tools are root's",
        remedy: "run it as a user of its own",
        judge: |facts| {
            let roots = facts.gateways.iter().filter(|gateway| gateway.uid == 0);
            roots
                .map(|one| format!("{} (process {})", one.product.name(), one.pid))
                .collect()
        },
        says: &[],
    },
    Check {
        id: "gateway.figures_remote",
        severity: Severity::Warn,
        title: "the figures and their token cross the network unencrypted",
        remedy: "gateway.admin.metrics: \"127.0.0.1:9464\", and a tunnel to it",
        judge: |facts| {
            let address = facts.config.gateway.metrics.map(|metrics| metrics.address);
            let remote = address.filter(|address| !address.ip().is_loopback());
            remote
                .map(|address| address.to_string())
                .into_iter()
                .collect()
        },
        says: &["the figures and their token cross the network unencrypted"],
    },
    Check {
        id: "gateway.ui_open",
        severity: Severity::Info,
        title: "pages of the Control UI are served without a key",
        remedy: "gateway.ui: \"signin\"",
        judge: |facts| {
            let open = facts.config.gateway.ui == crate::config::UiAccess::Open;
            found(open, || "gateway.ui is \"open\"".to_owned())
        },
        says: &[],
    },
];
