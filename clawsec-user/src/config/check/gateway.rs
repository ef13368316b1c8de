//! `gateway`: where clients connect, what stands behind, and the certificate between.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use super::super::model::{GatewayConfig, Listen, Secret, UiAccess, Upstream, UpstreamAuth};
use super::super::reader::{Field, Section};
use super::super::redact::Change;
use super::network::prefix;
use super::{acme, tls};
use crate::policy::UnknownMethods;

pub(super) fn read(section: &mut Section<'_, '_>) -> GatewayConfig {
    let upstream = section
        .at("upstream")
        .parsed(
            "an address such as \"http://127.0.0.1:18789\", with its port",
            upstream,
        )
        .unwrap_or_else(|| Upstream {
            host: "127.0.0.1".to_owned(),
            port: 18789,
        });
    if !is_local(&upstream) {
        section
            .at("upstream")
            .warn("requests and the upstream token cross a network unencrypted");
    }
    let tls = section.at("tls").object(tls::read);
    let listen = section
        .at("listen")
        .list(listen)
        .unwrap_or_else(|| WILDCARDS.map(Listen::plain).to_vec());
    if listen.is_empty() && !section.report.has_problem_under("gateway.listen") {
        section
            .at("listen")
            .problem("an empty list: clawsec would serve nobody");
    }
    let listen = match tls {
        // No word about TLS: nobody but this host, whatever `listen` says.
        None => narrow(section, listen),
        Some(None) => {
            section
                .at("tls")
                .warn("TLS is off: keys and messages cross the network unencrypted");
            listen
        }
        Some(Some(_)) => listen,
    };
    let own = listen.iter().map(|entry| entry.address).any(|address| {
        address.port() == upstream.port
            && is_local(&upstream)
            && (address.ip().is_loopback() || address.ip().is_unspecified())
    });
    if own {
        section
            .at("upstream")
            .problem("this is where clawsec itself listens");
    }
    let upstream_auth = section
        .at("upstreamAuth")
        .choice(&[
            ("token", UpstreamAuth::Token),
            ("trustedProxy", UpstreamAuth::TrustedProxy),
        ])
        .unwrap_or_default();
    let reference = section.at("upstreamToken").written().map(str::to_owned);
    let upstream_token = upstream_token(section, upstream_auth);
    let is_named = upstream_token.is_some() || upstream_auth == UpstreamAuth::TrustedProxy;
    let (admin_socket, metrics) = section.at("admin").section(super::admin::read);
    let listen = distinct(section, listen);
    if let Some(metrics) = metrics
        && listen.iter().any(|entry| entry.address == metrics.address)
    {
        section
            .at("listen")
            .problem("clients and `gateway.admin.metrics` cannot share an address");
    }
    let tls = tls.flatten();
    let hosts = section.at("hosts").list(host).unwrap_or_default();
    if let Some(acme) = tls.as_ref().and_then(|tls| tls.acme.as_ref()) {
        acme::fits(
            section,
            acme,
            &listen,
            metrics.map(|metrics| metrics.address),
            &hosts,
        );
    }
    GatewayConfig {
        listen,
        upstream,
        ui: ui(section, is_named),
        upstream_token,
        upstream_token_reference: reference,
        upstream_auth,
        hosts,
        origins: section.at("origins").list(origin).unwrap_or_default(),
        unknown_methods: section
            .at("unknownMethods")
            .choice(&[
                ("admin", UnknownMethods::Admin),
                ("deny", UnknownMethods::Deny),
            ])
            .unwrap_or_default(),
        observe: section.at("observe").boolean().unwrap_or(true),
        max_connections: section
            .at("maxConnections")
            .small(64..=16_384)
            .unwrap_or(4096),
        tls,
        admin_socket,
        metrics,
    }
}

/// `is_named`: the gateway tells clawsec's requests from a visitor's.
fn ui(section: &mut Section<'_, '_>, is_named: bool) -> UiAccess {
    let field = section.at("ui");
    let ui = field
        .choice(&[("signin", UiAccess::SignIn), ("open", UiAccess::Open)])
        .unwrap_or_default();
    if ui == UiAccess::Open && !is_named {
        section.at("ui").problem(
            "\"open\" needs `upstreamToken`: a gateway that asks nobody for a token would answer \
             visitors whatever they read",
        );
    }
    ui
}

/// Whether the upstream is this host: its port can then be guarded.
pub fn is_local(upstream: &Upstream) -> bool {
    match upstream.host.parse::<IpAddr>() {
        Ok(address) => address.is_loopback() || address.is_unspecified(),
        Err(_) => upstream.host == "localhost",
    }
}

fn listen(field: Field<'_, '_>) -> Option<Listen> {
    let path = field.path().to_owned();
    if !field.is_object() {
        let address = address(field)?;
        return Some(Listen {
            path,
            ..Listen::plain(address)
        });
    }
    field.object(|entry| {
        let list = entry.path().to_owned() + ".allowedIPs";
        let allowed = entry.at("allowedIPs").list(prefix);
        if allowed.as_ref().is_some_and(Vec::is_empty) && !entry.report.has_problem_under(&list) {
            entry
                .at("allowedIPs")
                .problem("an empty list: nobody could connect; leave it out for the common list");
        }
        let bypass = entry.at("bypass").list(webhook).unwrap_or_default();
        let proxy_from = entry.at("proxyFrom").list(prefix).unwrap_or_default();
        if let Some(every) = proxy_from.iter().find(|prefix| prefix.prefix_len() == 0) {
            entry.at("proxyFrom").problem(format!(
                "{every} is everybody: whoever connects could claim any address"
            ));
        }
        let address = address(entry.at("address").required("an address with its port"))?;
        Some(Listen {
            address,
            path,
            allowed,
            bypass,
            proxy_from,
        })
    })?
}

/// The exact path of a webhook whose sender the gateway behind knows by its own signature.
fn webhook(field: Field<'_, '_>) -> Option<String> {
    let expected = "the exact path of a webhook such as \"/slack/events\"";
    field.parsed(expected, |text| {
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"/-_.~".contains(&byte);
        let segments = text.strip_prefix('/').unwrap_or_default().split('/');
        let sound = text.bytes().all(plain)
            && segments
                .clone()
                .all(|part| !matches!(part, "" | "." | ".."));
        // What the upstream token opens is not a webhook.
        let first = segments.clone().next().unwrap_or_default();
        if sound && !matches!(first, "v1" | "tools" | "__clawsec") {
            Ok(text.to_owned())
        } else {
            Err(None)
        }
    })
}

pub(super) fn address(field: Field<'_, '_>) -> Option<SocketAddr> {
    let expected = "an address with its port, such as \"0.0.0.0:8443\" or \"[::]:8443\"";
    field.parsed(expected, |text| {
        if let Ok(address) = text.parse::<SocketAddr>() {
            let canonical = SocketAddr::new(address.ip().to_canonical(), address.port());
            // Port 0 takes any port, which the packet plane could not protect.
            let any = canonical.port() == 0 && !canonical.ip().is_loopback();
            return if any { Err(None) } else { Ok(canonical) };
        }
        let port = text.rsplit(':').next().unwrap_or(text);
        Err(match (text.parse::<IpAddr>(), port.parse::<u16>()) {
            (Ok(ip), _) => Some(format!("\"{}\"", SocketAddr::new(ip, 8443))),
            (Err(_), Ok(port)) => Some(format!("\"[::]:{port}\"")),
            _ => None,
        })
    })
}

/// Puts every listener on the loopback address of its family.
fn narrow(section: &mut Section<'_, '_>, listen: Vec<Listen>) -> Vec<Listen> {
    let mut narrowed: Vec<Listen> = Vec::new();
    let mut changed = false;
    for entry in listen {
        let ip = match entry.address.ip() {
            ip if ip.is_loopback() => ip,
            IpAddr::V4(_) => IpAddr::V4(Ipv4Addr::LOCALHOST),
            IpAddr::V6(_) => IpAddr::V6(Ipv6Addr::LOCALHOST),
        };
        let address = SocketAddr::new(ip, entry.address.port());
        changed |= address != entry.address;
        if !narrowed.iter().any(|other| other.address == address) {
            narrowed.push(Listen { address, ..entry });
        }
    }
    if changed {
        section.at("listen").warn(
            "no `gateway.tls`, so clawsec listens on loopback only; set a certificate, or write \
             `tls: { enabled: false }` to serve without encryption",
        );
    }
    narrowed
}

fn distinct(section: &mut Section<'_, '_>, listen: Vec<Listen>) -> Vec<Listen> {
    let mut distinct: Vec<Listen> = Vec::new();
    for entry in listen {
        let address = entry.address;
        if address.port() != 0 && distinct.iter().any(|other| other.address == address) {
            section
                .at("listen")
                .problem(format!("{address} stands here twice"));
        } else {
            distinct.push(entry);
        }
    }
    distinct
}

fn upstream(text: &str) -> Result<Upstream, Option<String>> {
    let Some(rest) = text.strip_prefix("http://") else {
        let bare = text.split_once("://").map_or(text, |(_, rest)| rest);
        let bare = bare.trim_end_matches('/');
        let sound = parse_authority(bare).is_some();
        return Err(sound.then(|| format!("\"http://{bare}\"")));
    };
    parse_authority(rest.strip_suffix('/').unwrap_or(rest)).ok_or(None)
}

/// `host:port`, with the brackets of an IPv6 address taken off.
fn parse_authority(text: &str) -> Option<Upstream> {
    let (host, port) = text.rsplit_once(':')?;
    let port = port.parse().ok().filter(|port| *port != 0)?;
    let host = match host
        .strip_prefix('[')
        .and_then(|host| host.strip_suffix(']'))
    {
        Some(address) => address.parse::<Ipv6Addr>().ok()?.to_string(),
        None if is_host_name(host) => host.to_lowercase(),
        None => return None,
    };
    Some(Upstream { host, port })
}

fn upstream_token(section: &mut Section<'_, '_>, auth: UpstreamAuth) -> Option<Secret> {
    let field = section.at("upstreamToken");
    if auth == UpstreamAuth::TrustedProxy {
        if field.is_present() {
            field.problem("the gateway takes no token with `upstreamAuth: \"trustedProxy\"`");
        }
        return None;
    }
    if !field.is_present() {
        field.warn("left out: clawsec has no credential of its own for the gateway behind it");
        return None;
    }
    let (token, mut place) = field.secret("the gateway's token, as a text")?;
    place.redact(Change::Remove);
    Some(Secret::new(token.to_owned()))
}

/// A name as it stands in a `Host` header, without the port: lower case, IPv6 in brackets.
fn host(field: Field<'_, '_>) -> Option<String> {
    field.parsed("a host name or address without a port", |text| {
        if let Ok(address) = text.trim_matches(['[', ']']).parse::<Ipv6Addr>() {
            return Ok(format!("[{address}]"));
        }
        if is_host_name(text) {
            return Ok(text.to_lowercase());
        }
        let bare = text.split_once("://").map_or(text, |(_, rest)| rest);
        let bare = bare.split([':', '/']).next().unwrap_or(bare);
        Err(is_host_name(bare).then(|| format!("{bare:?}")))
    })
}

/// `scheme://host[:port]`, as browsers send it: lower case, no path.
fn origin(field: Field<'_, '_>) -> Option<String> {
    field.parsed(
        "an origin such as \"https://assistant.example.org\"",
        |text| {
            let lower = text.to_lowercase();
            let (scheme, rest) = lower
                .split_once("://")
                .ok_or_else(|| is_host_name(&lower).then(|| format!("\"https://{lower}\"")))?;
            let scheme_ok = !scheme.is_empty()
                && scheme
                    .bytes()
                    .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'+' | b'-' | b'.'));
            let authority = rest
                .split_once('/')
                .map_or(rest, |(authority, _)| authority);
            let host = authority
                .rsplit_once(':')
                .map_or(authority, |(host, port)| {
                    if port.parse::<u16>().is_ok() {
                        host
                    } else {
                        authority
                    }
                });
            let bracketed = host.starts_with('[') && host.ends_with(']');
            let host_ok = is_host_name(host)
                || (bracketed && host.trim_matches(['[', ']']).parse::<Ipv6Addr>().is_ok());
            if !scheme_ok || !host_ok {
                Err(None)
            } else if authority == rest {
                Ok(lower)
            } else {
                Err(Some(format!("\"{scheme}://{authority}\"")))
            }
        },
    )
}

pub(super) fn is_host_name(text: &str) -> bool {
    !text.is_empty()
        && text.len() <= 253
        && text.split('.').all(|label| {
            !label.is_empty()
                && !label.starts_with('-')
                && label
                    .bytes()
                    .all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_'))
        })
}

/// Both wildcards: `[::]` alone may or may not take IPv4, by a setting of the host.
const WILDCARDS: [SocketAddr; 2] = [
    SocketAddr::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), 8443),
    SocketAddr::new(IpAddr::V6(Ipv6Addr::UNSPECIFIED), 8443),
];
