//! Connections out: TCP, and TLS by rustls with the named authorities or the system's.

use std::io;
use std::path::Path;
use std::sync::Arc;

use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use crate::config::Endpoint;

pub(crate) trait Duplex: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Duplex for T {}
pub(crate) type Stream = Box<dyn Duplex>;

pub(crate) async fn connect(endpoint: &Endpoint) -> io::Result<Stream> {
    let stream = TcpStream::connect((endpoint.host.as_str(), endpoint.port)).await?;
    stream.set_nodelay(true)?;
    if !endpoint.tls {
        return Ok(Box::new(stream));
    }
    let name = ServerName::try_from(endpoint.host.clone()).map_err(io::Error::other)?;
    // Read each time: authorities are renewed too.
    let config = client(endpoint.ca.as_deref())?;
    let stream = TlsConnector::from(Arc::new(config))
        .connect(name, stream)
        .await?;
    Ok(Box::new(stream))
}

fn client(ca: Option<&Path>) -> io::Result<ClientConfig> {
    let file = ca.or_else(|| BUNDLES.iter().map(Path::new).find(|file| file.exists()));
    let Some(file) = file else {
        return Err(io::Error::other(
            "this system has no bundle of authorities; name one in `ca`",
        ));
    };
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_file_iter(file).map_err(io::Error::other)? {
        let certificate = certificate.map_err(io::Error::other)?;
        // A bundle holds some that nobody can use any more; a named file must be right.
        let added = roots.add(certificate);
        if ca.is_some() {
            added.map_err(io::Error::other)?;
        }
    }
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    Ok(ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(io::Error::other)?
        .with_root_certificates(roots)
        .with_no_client_auth())
}

/// Debian and Ubuntu, Fedora and RHEL, Alpine, openSUSE.
const BUNDLES: [&str; 4] = [
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/cert.pem",
    "/etc/ssl/ca-bundle.pem",
];
