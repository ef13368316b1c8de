//! `gateway.tls`: the certificate that clients see, from the operator or from an authority.

use super::super::model::{AcmeConfig, TlsConfig, TlsVersion};
use super::super::reader::{Field, Section};
use super::acme;

/// `Some(None)` is a TLS that is switched off in so many words.
pub(super) fn read(section: &mut Section<'_, '_>) -> Option<TlsConfig> {
    let enabled = section.at("enabled").boolean().unwrap_or(true);
    let expect = |field: Field<'_, '_>, what: &str| {
        let field = if enabled { field.required(what) } else { field };
        field.file()
    };
    let acme = section.at("acme").object(acme::read);
    let (cert, key) = if let Some(acme) = &acme {
        acme::refuse_files(section);
        let file = acme.as_ref().map(AcmeConfig::certificate);
        (file.clone(), file)
    } else {
        let cert = section.at_either("cert", "certPath");
        let cert = expect(cert, "the certificate's PEM file, or `acme`");
        let key = section.at_either("key", "keyPath");
        (cert, expect(key, "the private key's PEM file"))
    };
    let client_ca = section.at_either("clientCa", "caPath").file();
    let min_version = section
        .at("minVersion")
        .choice(&[("1.2", TlsVersion::Tls12), ("1.3", TlsVersion::Tls13)])
        .unwrap_or(TlsVersion::Tls12);
    enabled.then(|| TlsConfig {
        cert: cert.unwrap_or_default(),
        key: key.unwrap_or_default(),
        min_version,
        client_ca,
        acme: acme.flatten(),
    })
}
