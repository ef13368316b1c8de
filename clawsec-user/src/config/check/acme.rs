//! `gateway.tls.acme`: who issues the certificate, for which names, and how they are proved.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;

use super::super::model::{AcmeChallenge, AcmeConfig, Listen};
use super::super::reader::{Field, Section};
use super::gateway::{address, is_host_name};

pub(super) fn read(section: &mut Section<'_, '_>) -> Option<AcmeConfig> {
    let server = section.at("server").parsed(
        "the https URL of an ACME directory, such as \"https://acme-v02.api.letsencrypt.org/directory\"",
        directory,
    );
    let ca = section.at("ca").file();
    let names = section
        .at("names")
        .required("the names to certify, such as [\"claw.example.org\"]")
        .list(name);
    if names.as_ref().is_some_and(Vec::is_empty) && !section.report.has_problem_under(NAMES) {
        section
            .at("names")
            .problem("an empty list: there is nothing to certify");
    }
    let contact = section.at("contact").list(contact).unwrap_or_default();
    let agreed = section
        .at("agreeTos")
        .required("true, once you have read the authority's terms of service")
        .boolean();
    if agreed == Some(false) {
        section.at("agreeTos").problem(
            "no authority issues a certificate to somebody who does not agree to its terms",
        );
    }
    let challenge = section
        .at("challenge")
        .choice(&[
            ("http-01", AcmeChallenge::Http01),
            ("tls-alpn-01", AcmeChallenge::TlsAlpn01),
        ])
        .unwrap_or(AcmeChallenge::Http01);
    let listen = section.at("listen").list(address);
    if challenge == AcmeChallenge::TlsAlpn01 && listen.is_some() {
        section
            .at("listen")
            .problem("\"tls-alpn-01\" is answered where clients connect; leave it out");
    }
    let dir = section.at("dir").file();
    Some(AcmeConfig {
        server: server.unwrap_or_else(|| LETS_ENCRYPT.to_owned()),
        ca,
        names: names?,
        contact,
        challenge,
        listen: match challenge {
            AcmeChallenge::Http01 => listen.unwrap_or_else(|| PORT_80.to_vec()),
            AcmeChallenge::TlsAlpn01 => Vec::new(),
        },
        dir: dir.unwrap_or_else(|| PathBuf::from("/var/lib/clawsec/acme")),
    })
}

/// The files of somebody else's certificate have no place beside an authority.
pub(super) fn refuse_files(tls: &mut Section<'_, '_>) {
    for (key, synonym) in [("cert", "certPath"), ("key", "keyPath")] {
        let file = tls.at_either(key, synonym);
        if file.is_present() {
            file.problem("stands beside `acme`, which writes its own; leave one of them out");
        }
    }
}

/// Holds it against the rest of `gateway`.
pub(super) fn fits(
    gateway: &mut Section<'_, '_>,
    acme: &AcmeConfig,
    listen: &[Listen],
    metrics: Option<SocketAddr>,
    hosts: &[String],
) {
    let taken = listen.iter().map(|entry| entry.address).chain(metrics);
    let shared = taken.clone().find(|address| acme.listen.contains(address));
    if let Some(address) = shared {
        gateway.at("tls").problem(format!(
            "{address} serves something else already; `acme.listen` needs an address of its own"
        ));
    }
    let reachable = listen.iter().any(|entry| entry.address.port() == 443);
    if acme.challenge == AcmeChallenge::TlsAlpn01 && !reachable {
        gateway.at("tls").warn(
            "authorities try `tls-alpn-01` at port 443 only, where nothing listens here; it works \
             if that port is forwarded to one of `listen`",
        );
    }
    let unserved = acme
        .names
        .iter()
        .find(|name| !hosts.is_empty() && !hosts.contains(name));
    if let Some(name) = unserved {
        gateway.at("hosts").warn(format!(
            "{name} is certified by `tls.acme`, but not among the names that are served"
        ));
    }
}

fn directory(text: &str) -> Result<String, Option<String>> {
    let uri: hyper::Uri = text.parse().ok().ok_or(None)?;
    let sound =
        uri.scheme_str() == Some("https") && uri.host().is_some_and(|host| !host.is_empty());
    if sound {
        Ok(text.to_owned())
    } else {
        Err(None)
    }
}

fn name(field: Field<'_, '_>) -> Option<String> {
    field.parsed(
        "a host name such as \"claw.example.org\"; wildcards and addresses need another way to be proved",
        |text| {
            let sound = is_host_name(text) && text.parse::<IpAddr>().is_err() && text.contains('.');
            if sound { Ok(text.to_lowercase()) } else { Err(None) }
        },
    )
}

fn contact(field: Field<'_, '_>) -> Option<String> {
    field.parsed("an address such as \"mailto:you@example.org\"", |text| {
        let (scheme, rest) = text.split_once(':').unwrap_or(("", text));
        match (scheme, rest.contains('@')) {
            ("mailto", true) => Ok(text.to_owned()),
            ("", true) => Err(Some(format!("\"mailto:{rest}\""))),
            _ => Err(None),
        }
    })
}

const NAMES: &str = "gateway.tls.acme.names";
const LETS_ENCRYPT: &str = "https://acme-v02.api.letsencrypt.org/directory";
const PORT_80: [SocketAddr; 2] = [
    SocketAddr::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), 80),
    SocketAddr::new(IpAddr::V6(Ipv6Addr::UNSPECIFIED), 80),
];
