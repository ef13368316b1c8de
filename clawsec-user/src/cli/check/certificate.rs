//! The certificate that clients see: does it fit, until when, for which names.

use std::fs;

use rustls::client::verify_server_name;
use rustls::crypto::aws_lc_rs;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::server::ParsedCertificate;
use rustls::sign::CertifiedKey;

use super::facts::CertificateFacts;
use crate::config::{Config, TlsConfig};
use crate::supervisor::certificate::{is_self_signed, validity};

/// `None` without TLS, or where an authority has not been asked yet.
pub(super) fn look(config: &Config) -> Option<Result<CertificateFacts, String>> {
    let tls = config.gateway.tls.as_ref()?;
    if tls.acme.is_some() && !tls.cert.exists() {
        return None;
    }
    Some(read(tls, &config.gateway.hosts))
}

fn read(tls: &TlsConfig, hosts: &[String]) -> Result<CertificateFacts, String> {
    let text = |path: &std::path::Path| {
        fs::read_to_string(path).map_err(|error| format!("{}: {error}", path.display()))
    };
    let (cert, key) = (text(&tls.cert)?, text(&tls.key)?);
    let bad = |what: &str, error: &dyn std::fmt::Display| format!("{what}: {error}");
    let first = CertificateDer::from_pem_slice(cert.as_bytes())
        .map_err(|error| bad("gateway.tls.cert", &error))?;
    let key = PrivateKeyDer::from_pem_slice(key.as_bytes())
        .map_err(|error| bad("gateway.tls.key", &error))?;
    let parsed =
        ParsedCertificate::try_from(&first).map_err(|error| bad("gateway.tls.cert", &error))?;
    let holds = |host: &&String| {
        let name = host.trim_matches(['[', ']']).to_owned();
        let name = ServerName::try_from(name);
        name.is_ok_and(|name| verify_server_name(&parsed, &name).is_ok())
    };
    let missing = hosts.iter().filter(|host| !holds(host)).cloned().collect();
    let pair = CertifiedKey::from_der(vec![first], key, &aws_lc_rs::default_provider());
    Ok(CertificateFacts {
        validity: validity(&cert).ok_or("gateway.tls.cert: its dates cannot be read")?,
        fits_key: pair.is_ok(),
        is_self_signed: is_self_signed(&cert).unwrap_or(false),
        missing,
    })
}
