//! TLS at the front door: rustls with aws-lc-rs, 1.2 and 1.3, HTTP/2 and HTTP/1.1, sessions that
//! clients resume, and certificates of theirs that stand for principals.
//!
//! Invariant: no process-wide default provider is relied on; the provider is named here.

use std::sync::Arc;

use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, pem};
use rustls::server::danger::ClientCertVerifier;
use rustls::server::{ClientHello, ResolvesServerCert, VerifierBuilderError, WebPkiClientVerifier};
use rustls::sign::CertifiedKey;
use rustls::{
    CipherSuite, InconsistentKeys, RootCertStore, ServerConfig, ServerConnection,
    SupportedProtocolVersion, version,
};
use tokio_rustls::TlsAcceptor;

use super::auth::Presented;
use super::challenges::Challenges;
use super::head::Protocol;
use crate::config::TlsVersion;
use crate::ipc::TlsMaterial;

#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    #[error("read the PEM of gateway.tls.cert: {}", said(.0))]
    CertificatePem(pem::Error),
    #[error("the file of gateway.tls.cert holds no certificate")]
    CertificateMissing,
    #[error("read the PEM of gateway.tls.key: {}", said(.0))]
    KeyPem(pem::Error),
    #[error("the key does not belong to the certificate")]
    KeyMismatch,
    #[error("use the certificate and key")]
    Unusable(#[source] rustls::Error),
    #[error("read the PEM of gateway.tls.clientCa: {}", said(.0))]
    ClientCaPem(pem::Error),
    #[error("use a certificate of gateway.tls.clientCa")]
    ClientCaUnusable(#[source] rustls::Error),
    #[error("use gateway.tls.clientCa")]
    ClientCa(#[source] VerifierBuilderError),
    #[error("make keys for session tickets")]
    Ticketer(#[source] rustls::Error),
    #[error("offer the protocol versions")]
    Versions(#[source] rustls::Error),
}

/// The library shows section names as numbers.
fn said(error: &pem::Error) -> String {
    match error {
        pem::Error::MissingSectionEnd { .. } => "a section has no END line; the file is cut".into(),
        pem::Error::IllegalSectionStart { .. } => "a BEGIN line is not whole".into(),
        other => other.to_string(),
    }
}

/// TLS as one policy has it.
pub(super) struct Tls {
    pub(super) acceptor: TlsAcceptor,
    made_of: (TlsMaterial, Terms),
}

/// What TLS is offered on, besides its certificate.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Terms {
    pub(super) min_version: TlsVersion,
    /// The names that are served; empty is any.
    pub(super) hosts: Vec<String>,
    /// An authority may try a name by a handshake of its own.
    pub(super) is_tried: bool,
}

impl Tls {
    pub(super) fn new(
        material: &TlsMaterial,
        terms: Terms,
        challenges: &Arc<Challenges>,
    ) -> Result<Self, TlsError> {
        Ok(Self {
            acceptor: acceptor(material, &terms, challenges)?,
            made_of: (material.clone(), terms),
        })
    }

    pub(super) fn is_of(&self, material: &TlsMaterial, terms: &Terms) -> bool {
        self.made_of.0 == *material && self.made_of.1 == *terms
    }
}

/// What a handshake agreed on: the protocol, and whose certificate the client has.
pub(super) fn agreed(session: &ServerConnection) -> (Protocol, Option<Presented>) {
    let protocol = match session.alpn_protocol() {
        Some(b"h2") => Protocol::Http2,
        _ => Protocol::Http1,
    };
    let certificate = session
        .peer_certificates()
        .and_then(|chain| chain.first())
        .and_then(Presented::certificate);
    (protocol, certificate)
}

/// Whether the handshake was all that was wanted: an authority's.
pub(super) fn is_trial(session: &ServerConnection) -> bool {
    session.alpn_protocol() == Some(ACME_TLS)
}

fn acceptor(
    material: &TlsMaterial,
    terms: &Terms,
    challenges: &Arc<Challenges>,
) -> Result<TlsAcceptor, TlsError> {
    let versions: &[&SupportedProtocolVersion] = match terms.min_version {
        TlsVersion::Tls12 => &[&version::TLS13, &version::TLS12],
        TlsVersion::Tls13 => &[&version::TLS13],
    };
    let provider = Arc::new(provider());
    let certified = certified(&material.cert_pem, &material.key_pem, &provider)?;
    let builder = ServerConfig::builder_with_provider(Arc::clone(&provider))
        .with_protocol_versions(versions)
        .map_err(TlsError::Versions)?;
    let builder = match &material.client_ca_pem {
        None => builder.with_no_client_auth(),
        Some(pem) => builder.with_client_cert_verifier(client_verifier(pem, provider)?),
    };
    let mut config = builder.with_cert_resolver(Arc::new(Named {
        certified: Arc::new(certified),
        hosts: terms.hosts.clone(),
        challenges: Arc::clone(challenges),
    }));
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    if terms.is_tried {
        config.alpn_protocols.push(ACME_TLS.to_vec());
    }
    config.ignore_client_order = true;
    // Keys of its own, rotated by rustls every six hours; a ticket is good for twelve.
    config.ticketer = aws_lc_rs::Ticketer::new().map_err(TlsError::Ticketer)?;
    Ok(TlsAcceptor::from(Arc::new(config)))
}

/// A chain and the key that belongs to it.
fn certified(
    cert_pem: &str,
    key_pem: &str,
    provider: &CryptoProvider,
) -> Result<CertifiedKey, TlsError> {
    let (chain, key) = parsed(cert_pem, key_pem)?;
    CertifiedKey::from_der(chain, key, provider).map_err(|error| match error {
        rustls::Error::InconsistentKeys(InconsistentKeys::KeyMismatch) => TlsError::KeyMismatch,
        error => TlsError::Unusable(error),
    })
}

/// A certificate that we made for a challenge. Its critical extension is none that rustls would
/// take it with, were it held against its key.
pub(super) fn for_challenge(cert_pem: &str, key_pem: &str) -> Result<CertifiedKey, TlsError> {
    let (chain, key) = parsed(cert_pem, key_pem)?;
    let key = aws_lc_rs::sign::any_supported_type(&key).map_err(TlsError::Unusable)?;
    Ok(CertifiedKey::new(chain, key))
}

type Pair = (Vec<CertificateDer<'static>>, PrivateKeyDer<'static>);

fn parsed(cert_pem: &str, key_pem: &str) -> Result<Pair, TlsError> {
    let chain = CertificateDer::pem_slice_iter(cert_pem.as_bytes())
        .collect::<Result<Vec<_>, _>>()
        .map_err(TlsError::CertificatePem)?;
    if chain.is_empty() {
        return Err(TlsError::CertificateMissing);
    }
    let key = PrivateKeyDer::from_pem_slice(key_pem.as_bytes()).map_err(TlsError::KeyPem)?;
    Ok((chain, key))
}

/// aws-lc's, with AES-128 and SHA-256 first.
///
/// They are as strong as the rest of a handshake (X25519, P-256), and what the key schedule
/// hashes costs a fraction of SHA-384 where the CPU has instructions for SHA-256 only. A client
/// that has no AES-128 gets what it has.
fn provider() -> CryptoProvider {
    let mut provider = aws_lc_rs::default_provider();
    let is_first = |suite: CipherSuite| {
        matches!(
            suite,
            CipherSuite::TLS13_AES_128_GCM_SHA256
                | CipherSuite::TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256
                | CipherSuite::TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256
        )
    };
    provider
        .cipher_suites
        .sort_by_key(|suite| !is_first(suite.suite()));
    provider
}

/// Asks for a certificate and goes on without one; a wrong one ends the handshake.
fn client_verifier(
    pem: &str,
    provider: Arc<CryptoProvider>,
) -> Result<Arc<dyn ClientCertVerifier>, TlsError> {
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(pem.as_bytes()) {
        let certificate = certificate.map_err(TlsError::ClientCaPem)?;
        roots.add(certificate).map_err(TlsError::ClientCaUnusable)?;
    }
    WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider)
        .allow_unauthenticated()
        .build()
        .map_err(TlsError::ClientCa)
}

const ACME_TLS: &[u8] = b"acme-tls/1";

/// The one certificate, for the names that are served and for clients that name none.
#[derive(Debug)]
struct Named {
    certified: Arc<CertifiedKey>,
    hosts: Vec<String>,
    challenges: Arc<Challenges>,
}

impl ResolvesServerCert for Named {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        // RFC 8737, 3: a hello that offers this and nothing else.
        let mut offered = hello.alpn().into_iter().flatten();
        if offered.next() == Some(ACME_TLS) && offered.next().is_none() {
            return self.challenges.certificate(hello.server_name()?);
        }
        let served = match hello.server_name() {
            Some(name) if !self.hosts.is_empty() => self
                .hosts
                .iter()
                .any(|host| host.eq_ignore_ascii_case(name)),
            _ => true,
        };
        served.then(|| Arc::clone(&self.certified))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pair() -> (String, String) {
        let pair = rcgen::generate_simple_self_signed(vec!["localhost".into()]).unwrap();
        (pair.cert.pem(), pair.signing_key.serialize_pem())
    }

    #[test]
    fn a_wrong_pair_is_told_apart() {
        let (cert, key) = pair();
        let (_, other_key) = pair();
        let rows = [
            ("a pair", cert.clone(), key.clone(), None),
            (
                "another's key",
                cert.clone(),
                other_key,
                Some("the key does not belong to the certificate"),
            ),
            (
                "no certificate",
                key.clone(),
                key.clone(),
                Some("the file of gateway.tls.cert holds no certificate"),
            ),
            (
                "no key",
                cert.clone(),
                cert,
                Some("read the PEM of gateway.tls.key: no items found"),
            ),
        ];
        let terms = Terms {
            min_version: TlsVersion::Tls12,
            hosts: Vec::new(),
            is_tried: false,
        };
        for (name, cert_pem, key_pem, expected) in rows {
            let material = TlsMaterial {
                cert_pem,
                key_pem,
                client_ca_pem: None,
            };
            let error = acceptor(&material, &terms, &Arc::default()).err();
            assert_eq!(error.map(|e| e.to_string()).as_deref(), expected, "{name}");
        }
    }
}
