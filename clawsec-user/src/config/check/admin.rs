//! `gateway.admin`: the daemon's own door, and where its figures are served.

use std::path::PathBuf;

use super::super::model::MetricsConfig;
use super::super::reader::Section;
use super::{auth, gateway};

pub(super) fn read(section: &mut Section<'_, '_>) -> (PathBuf, Option<MetricsConfig>) {
    let socket = section.at("socket").file();
    let socket = socket.unwrap_or_else(|| PathBuf::from("/run/clawsec/admin.sock"));
    let remote = section.at("remote").boolean().unwrap_or(false);
    let token = auth::key(section.at("token")).map(|(digest, _)| digest);
    let has_token = section.has("token");
    let metrics = section.at("metrics");
    let Some(address) = metrics.is_present().then(|| gateway::address(metrics)) else {
        if has_token {
            section
                .at("token")
                .problem("opens what `gateway.admin.metrics` serves, which is left out");
        }
        return (socket, None);
    };
    if let Some(address) = address.filter(|address| !address.ip().is_loopback()) {
        if !remote {
            section.at("metrics").problem(format!(
                "{address} can be reached by other machines; use a loopback address such as \
                 \"127.0.0.1:9464\", or set `gateway.admin.remote: true`"
            ));
        } else if !has_token {
            section
                .at("metrics")
                .problem("other machines need `gateway.admin.token` to read it");
        } else {
            section
                .at("metrics")
                .warn("the figures and their token cross the network unencrypted");
        }
    }
    (
        socket,
        address.map(|address| MetricsConfig { address, token }),
    )
}
