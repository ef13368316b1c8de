//! TLS: versions, kinds of keys, resumption, client certificates, reloads.

use std::sync::Arc;

use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair, PublicKeyData as _};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ClientConfig, HandshakeKind, ProtocolVersion, RootCertStore};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::http::over;
use super::{ADMIN_KEY, Rig, Rules};
use crate::event::Outcome;
use crate::ipc::{TlsMaterial, ToGateway, ToSupervisor};

/// A certificate for `localhost` and its key.
pub(super) fn material() -> TlsMaterial {
    with_key(&KeyPair::generate().unwrap())
}

fn with_key(key: &KeyPair) -> TlsMaterial {
    let params = CertificateParams::new(vec!["localhost".into()]).unwrap();
    TlsMaterial {
        cert_pem: params.self_signed(key).unwrap().pem(),
        key_pem: key.serialize_pem(),
        client_ca_pem: None,
    }
}

/// A client that trusts this certificate, and shows one of its own if it has one.
pub(super) fn client(tls: &TlsMaterial, own: Option<&TlsMaterial>) -> ClientConfig {
    let mut roots = RootCertStore::empty();
    roots.add(certificate(tls)).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots);
    match own {
        None => config.with_no_client_auth(),
        Some(own) => {
            let key = PrivateKeyDer::from_pem_slice(own.key_pem.as_bytes()).unwrap();
            config
                .with_client_auth_cert(vec![certificate(own)], key)
                .unwrap()
        }
    }
}

fn certificate(tls: &TlsMaterial) -> CertificateDer<'static> {
    CertificateDer::from_pem_slice(tls.cert_pem.as_bytes()).unwrap()
}

pub(super) async fn connect(
    rig: &Rig,
    config: &Arc<ClientConfig>,
) -> std::io::Result<TlsStream<TcpStream>> {
    connect_over(TcpStream::connect(rig.address).await?, config).await
}

pub(super) async fn connect_over(
    stream: TcpStream,
    config: &Arc<ClientConfig>,
) -> std::io::Result<TlsStream<TcpStream>> {
    TlsConnector::from(Arc::clone(config))
        .connect("localhost".try_into().unwrap(), stream)
        .await
}

fn request(key: &str) -> String {
    format!("GET / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n{key}\r\n")
}

fn with_tls(tls: &TlsMaterial) -> Rules {
    Rules {
        tls: Some(tls.clone()),
        ..Rules::default()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_kind_of_key_and_version_serves() {
    // Debian's openssl makes the RSA key's PEM; rcgen has it from aws-lc-rs.
    let rows = [
        ("P-256", &rcgen::PKCS_ECDSA_P256_SHA256),
        ("P-384", &rcgen::PKCS_ECDSA_P384_SHA384),
        ("Ed25519", &rcgen::PKCS_ED25519),
        ("RSA", &rcgen::PKCS_RSA_SHA256),
    ];
    for (name, algorithm) in rows {
        let tls = with_key(&KeyPair::generate_for(algorithm).unwrap());
        let rig = Rig::start(with_tls(&tls)).await;
        for version in [&rustls::version::TLS12, &rustls::version::TLS13] {
            let mut roots = RootCertStore::empty();
            roots.add(certificate(&tls)).unwrap();
            let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
            let config = ClientConfig::builder_with_provider(provider)
                .with_protocol_versions(&[version])
                .unwrap()
                .with_root_certificates(roots)
                .with_no_client_auth();
            let stream = connect(&rig, &Arc::new(config)).await.unwrap();
            let key = format!("X-API-Key: {ADMIN_KEY}\r\n");
            assert_eq!(
                over(stream, &request(&key)).await.status,
                200,
                "{name} {version:?}"
            );
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_cheaper_cipher_is_taken_where_the_client_has_it() {
    use rustls::CipherSuite::{TLS13_AES_128_GCM_SHA256, TLS13_AES_256_GCM_SHA384};

    let tls = material();
    let rig = Rig::start(with_tls(&tls)).await;
    let has_both = client(&tls, None);
    let mut provider = rustls::crypto::aws_lc_rs::default_provider();
    provider
        .cipher_suites
        .retain(|suite| suite.suite() == TLS13_AES_256_GCM_SHA384);
    let mut roots = RootCertStore::empty();
    roots.add(certificate(&tls)).unwrap();
    let has_one = ClientConfig::builder_with_provider(Arc::new(provider))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    let rows = [
        (has_both, TLS13_AES_128_GCM_SHA256),
        (has_one, TLS13_AES_256_GCM_SHA384),
    ];
    for (config, expected) in rows {
        let stream = connect(&rig, &Arc::new(config)).await.unwrap();
        let agreed = stream.get_ref().1.negotiated_cipher_suite();
        assert_eq!(agreed.map(|suite| suite.suite()), Some(expected));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn sessions_are_resumed_and_outlive_a_reload_of_something_else() {
    let tls = material();
    let mut rig = Rig::start(with_tls(&tls)).await;
    for version in [ProtocolVersion::TLSv1_3, ProtocolVersion::TLSv1_2] {
        let mut config = client(&tls, None);
        if version == ProtocolVersion::TLSv1_2 {
            let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
            let mut roots = RootCertStore::empty();
            roots.add(certificate(&tls)).unwrap();
            config = ClientConfig::builder_with_provider(provider)
                .with_protocol_versions(&[&rustls::version::TLS12])
                .unwrap()
                .with_root_certificates(roots)
                .with_no_client_auth();
        }
        let config = Arc::new(config);
        let key = format!("X-API-Key: {ADMIN_KEY}\r\n");
        let mut kinds = Vec::new();
        for round in 0..3 {
            if round == 2 {
                let generation = if version == ProtocolVersion::TLSv1_3 {
                    2
                } else {
                    3
                };
                rig.install(Rules {
                    generation,
                    requests: 999,
                    ..with_tls(&tls)
                })
                .await;
            }
            let mut stream = connect(&rig, &config).await.unwrap();
            kinds.push(stream.get_ref().1.handshake_kind().unwrap());
            // The ticket of TLS 1.3 comes with the answer.
            stream.write_all(request(&key).as_bytes()).await.unwrap();
            let mut text = Vec::new();
            let _end = stream.read_to_end(&mut text).await;
            assert!(text.starts_with(b"HTTP/1.1 200"), "{version:?}");
        }
        let expected = [
            HandshakeKind::Full,
            HandshakeKind::Resumed,
            HandshakeKind::Resumed,
        ];
        assert_eq!(kinds, expected, "{version:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reload_serves_the_new_certificate_and_keeps_the_old_connections() {
    let (old, new) = (material(), material());
    let mut rig = Rig::start(with_tls(&old)).await;
    let mut kept = connect(&rig, &Arc::new(client(&old, None))).await.unwrap();
    rig.install(Rules {
        generation: 2,
        ..with_tls(&new)
    })
    .await;
    assert!(connect(&rig, &Arc::new(client(&old, None))).await.is_err());
    assert!(connect(&rig, &Arc::new(client(&new, None))).await.is_ok());
    let key = format!("X-API-Key: {ADMIN_KEY}\r\n");
    kept.write_all(request(&key).as_bytes()).await.unwrap();
    let mut text = Vec::new();
    let _end = kept.read_to_end(&mut text).await;
    assert!(text.starts_with(b"HTTP/1.1 200"));

    let broken = Rules {
        generation: 3,
        tls: Some(TlsMaterial {
            key_pem: old.key_pem.clone(),
            ..new.clone()
        }),
        ..Rules::default()
    };
    let update = broken.update(rig.upstream.port);
    rig.send(ToGateway::Policy(Box::new(update))).await;
    let ToSupervisor::Refused { generation: 3, why } = rig.told().await else {
        panic!("not refused");
    };
    assert_eq!(
        why,
        "prepare gateway.tls: the key does not belong to the certificate"
    );
    assert!(connect(&rig, &Arc::new(client(&new, None))).await.is_ok());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_certificate_is_a_principal() {
    let ca_key = KeyPair::generate().unwrap();
    let mut ca_params = CertificateParams::new(Vec::new()).unwrap();
    ca_params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let ca_pem = ca_params.self_signed(&ca_key).unwrap().pem();
    let issuer = Issuer::new(ca_params, ca_key);
    let issue = || {
        let key = KeyPair::generate().unwrap();
        let params = CertificateParams::new(vec!["laptop".into()]).unwrap();
        let issued = TlsMaterial {
            cert_pem: params.signed_by(&key, &issuer).unwrap().pem(),
            key_pem: key.serialize_pem(),
            client_ca_pem: None,
        };
        let spki =
            aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, &key.subject_public_key_info());
        (issued, <[u8; 32]>::try_from(spki.as_ref()).unwrap())
    };
    let (laptop, spki) = issue();
    let (unknown, _) = issue();
    let tls = TlsMaterial {
        client_ca_pem: Some(ca_pem),
        ..material()
    };
    let rules = Rules {
        certificate: Some(spki),
        ..with_tls(&tls)
    };
    let mut rig = Rig::start(rules).await;
    let foreign = material();
    let key = format!("X-API-Key: {ADMIN_KEY}\r\n");
    let rows = [
        ("its certificate", Some(&laptop), "", Some(200)),
        ("none", None, "", Some(401)),
        ("none, but a key", None, key.as_str(), Some(200)),
        (
            "a wrong key beside it",
            Some(&laptop),
            "X-API-Key: wrong\r\n",
            Some(401),
        ),
        ("one that stands for nobody", Some(&unknown), "", Some(401)),
        ("one of another authority", Some(&foreign), "", None),
    ];
    for (name, own, key, status) in rows {
        let config = Arc::new(client(&tls, own));
        let mut answered = None;
        if let Ok(mut stream) = connect(&rig, &config).await
            && stream.write_all(request(key).as_bytes()).await.is_ok()
        {
            let mut text = Vec::new();
            let _end = stream.read_to_end(&mut text).await;
            answered = text
                .get(9..12)
                .map(|s| String::from_utf8_lossy(s).parse().unwrap());
        }
        assert_eq!(answered, status, "{name}");
    }
    let login = rig.event("login", Outcome::Allow, "ok").await;
    assert_eq!(login.principal.as_deref(), Some("laptop"));

    // Taken out of the configuration, it ends its live connection too.
    let mut live = connect(&rig, &Arc::new(client(&tls, Some(&laptop))))
        .await
        .unwrap();
    live.write_all(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
        .await
        .unwrap();
    let mut first = [0; 12];
    live.read_exact(&mut first).await.unwrap();
    assert_eq!(&first, b"HTTP/1.1 200");
    rig.install(Rules {
        generation: 2,
        ..with_tls(&tls)
    })
    .await;
    let mut rest = Vec::new();
    let ended = tokio::time::timeout(
        std::time::Duration::from_secs(5),
        live.read_to_end(&mut rest),
    );
    assert!(ended.await.is_ok());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_name_that_is_not_served_gets_no_certificate() {
    let tls = material();
    let rules = Rules {
        hosts: vec!["a.example"],
        ..with_tls(&tls)
    };
    let rig = Rig::start(rules).await;
    assert!(connect(&rig, &Arc::new(client(&tls, None))).await.is_err());
}
