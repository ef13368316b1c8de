//! TLS at the front door: rustls with aws-lc-rs, 1.2 and 1.3, `http/1.1` only for now.
//!
//! Invariant: no process-wide default provider is relied on; the provider is named here.

use std::sync::Arc;

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, pem};
use rustls::{InconsistentKeys, ServerConfig, SupportedProtocolVersion, version};
use tokio_rustls::TlsAcceptor;

use crate::config::TlsVersion;
use crate::ipc::TlsMaterial;

#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    #[error("read the certificate's PEM")]
    CertificatePem(#[source] pem::Error),
    #[error("the certificate file holds no certificate")]
    CertificateMissing,
    #[error("read the key's PEM")]
    KeyPem(#[source] pem::Error),
    #[error("the key does not belong to the certificate")]
    KeyMismatch,
    #[error("use the certificate and key")]
    Unusable(#[source] rustls::Error),
    #[error("offer the protocol versions")]
    Versions(#[source] rustls::Error),
}

pub(super) fn acceptor(
    material: &TlsMaterial,
    min_version: TlsVersion,
) -> Result<TlsAcceptor, TlsError> {
    let chain = CertificateDer::pem_slice_iter(material.cert_pem.as_bytes())
        .collect::<Result<Vec<_>, _>>()
        .map_err(TlsError::CertificatePem)?;
    if chain.is_empty() {
        return Err(TlsError::CertificateMissing);
    }
    let key =
        PrivateKeyDer::from_pem_slice(material.key_pem.as_bytes()).map_err(TlsError::KeyPem)?;
    let versions: &[&SupportedProtocolVersion] = match min_version {
        TlsVersion::Tls12 => &[&version::TLS13, &version::TLS12],
        TlsVersion::Tls13 => &[&version::TLS13],
    };
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(versions)
        .map_err(TlsError::Versions)?
        .with_no_client_auth()
        .with_single_cert(chain, key)
        .map_err(|error| match error {
            rustls::Error::InconsistentKeys(InconsistentKeys::KeyMismatch) => TlsError::KeyMismatch,
            error => TlsError::Unusable(error),
        })?;
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(TlsAcceptor::from(Arc::new(config)))
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
                Some("the certificate file holds no certificate"),
            ),
            ("no key", cert.clone(), cert, Some("read the key's PEM")),
        ];
        for (name, cert_pem, key_pem, expected) in rows {
            let material = TlsMaterial { cert_pem, key_pem };
            let error = acceptor(&material, TlsVersion::Tls12).err();
            assert_eq!(error.map(|e| e.to_string()).as_deref(), expected, "{name}");
        }
    }
}
