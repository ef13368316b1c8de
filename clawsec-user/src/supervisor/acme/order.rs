//! One order, from the account to the chain (RFC 8555, 7.1).

use std::sync::Arc;
use std::time::Duration;

use instant_acme::{
    Account, AuthorizationStatus, ChallengeType, Identifier, NewAccount, NewOrder, Order,
    OrderStatus, RetryPolicy,
};
use rcgen::{CertificateParams, CustomExtension, DistinguishedName, KeyPair};

use super::client::Client;
use super::held;
use super::store;
use crate::config::{AcmeChallenge, AcmeConfig};
use crate::ipc::Challenge;
use crate::supervisor::state::State;

#[derive(Debug, thiserror::Error)]
pub(super) enum OrderError {
    #[error("the account in {dir}")]
    Account {
        dir: std::path::PathBuf,
        #[source]
        source: std::io::Error,
    },
    #[error("ask {server} to {what}")]
    Authority {
        server: String,
        what: &'static str,
        #[source]
        source: instant_acme::Error,
    },
    #[error("the authority does not offer {0} for {1}; try the other challenge")]
    NotOffered(&'static str, String),
    #[error("the authority does not see that {name} is ours: {why}; {remedy}")]
    NotProved {
        name: String,
        why: String,
        remedy: &'static str,
    },
    #[error("the authority calls the order {0:?}")]
    Order(OrderStatus),
    #[error("make a key and a request")]
    Request(#[source] rcgen::Error),
    #[error("the gateway process is not there to answer the authority")]
    Unanswered,
}

/// A chain and its key, in PEM.
pub(super) struct Certificate {
    pub(super) chain: String,
    pub(super) key: String,
}

/// Obtains a certificate. The challenges are answered while it runs, and no longer.
pub(super) async fn obtain(
    state: &Arc<State>,
    acme: &AcmeConfig,
) -> Result<Certificate, OrderError> {
    let result = attempt(state, acme).await;
    // Unanswered: a gateway that is being started again begins with none.
    let _gone = held::answer(state, Vec::new()).await;
    result
}

async fn attempt(state: &Arc<State>, acme: &AcmeConfig) -> Result<Certificate, OrderError> {
    let asked = |what| {
        move |source| OrderError::Authority {
            server: acme.server.clone(),
            what,
            source,
        }
    };
    let account = account(acme).await?;
    let names: Vec<_> = acme.names.iter().cloned().map(Identifier::Dns).collect();
    let mut order = account
        .new_order(&NewOrder::new(&names))
        .await
        .map_err(asked("certify the names"))?;
    let challenges = challenges(&mut order, acme).await?;
    if !challenges.is_empty() {
        if !held::answer(state, challenges).await {
            return Err(OrderError::Unanswered);
        }
        let mut authorizations = order.authorizations();
        while let Some(authorization) = authorizations.next().await {
            let mut authorization = authorization.map_err(asked("show its challenges"))?;
            if authorization.status == AuthorizationStatus::Pending
                && let Some(mut challenge) = authorization.challenge(kind(acme.challenge))
            {
                let ready = challenge.set_ready().await;
                ready.map_err(asked("try the challenge"))?;
            }
        }
    }
    let verified = order.poll_ready(&PATIENCE).await;
    if !matches!(verified, Ok(OrderStatus::Ready | OrderStatus::Valid)) {
        return Err(match unproved(&mut order, acme).await {
            Some(told) => told,
            None => match verified {
                Ok(status) => OrderError::Order(status),
                Err(error) => asked("verify the names")(error),
            },
        });
    }
    let (request, key) = request(acme).map_err(OrderError::Request)?;
    order
        .finalize_csr(&request)
        .await
        .map_err(asked("issue the certificate"))?;
    let chain = order
        .poll_certificate(&PATIENCE)
        .await
        .map_err(asked("hand the certificate out"))?;
    Ok(Certificate { chain, key })
}

/// The account, made on first use.
async fn account(acme: &AcmeConfig) -> Result<Account, OrderError> {
    let kept = |source| OrderError::Account {
        dir: acme.dir.clone(),
        source,
    };
    let asked = |source| OrderError::Authority {
        server: acme.server.clone(),
        what: "open the account",
        source,
    };
    let client = Client {
        ca: acme.ca.clone(),
    };
    let builder = Account::builder_with_http(Box::new(client));
    if let Some(credentials) = store::account(acme).map_err(kept)? {
        return builder.from_credentials(credentials).await.map_err(asked);
    }
    let contact: Vec<&str> = acme.contact.iter().map(String::as_str).collect();
    let wanted = NewAccount {
        contact: &contact,
        // Configuration refuses anything but `agreeTos: true`.
        terms_of_service_agreed: true,
        only_return_existing: false,
    };
    let created = builder.create(&wanted, acme.server.clone(), None).await;
    let (account, credentials) = created.map_err(asked)?;
    store::keep_account(acme, &credentials).map_err(kept)?;
    Ok(account)
}

/// What has to be answered for the names that are not proved yet.
async fn challenges(order: &mut Order, acme: &AcmeConfig) -> Result<Vec<Challenge>, OrderError> {
    let mut wanted = Vec::new();
    let mut authorizations = order.authorizations();
    while let Some(authorization) = authorizations.next().await {
        let mut authorization = authorization.map_err(|source| OrderError::Authority {
            server: acme.server.clone(),
            what: "show its challenges",
            source,
        })?;
        if authorization.status == AuthorizationStatus::Valid {
            continue;
        }
        let name = authorization.identifier().to_string();
        let Some(challenge) = authorization.challenge(kind(acme.challenge)) else {
            return Err(OrderError::NotOffered(word(acme.challenge), name));
        };
        let proof = challenge.key_authorization();
        wanted.push(match acme.challenge {
            AcmeChallenge::Http01 => Challenge::Http {
                token: challenge.token.clone(),
                answer: proof.as_str().to_owned(),
            },
            AcmeChallenge::TlsAlpn01 => {
                let digest = proof.digest();
                trial(&name, digest.as_ref()).map_err(OrderError::Request)?
            }
        });
    }
    Ok(wanted)
}

/// The certificate that proves `name` (RFC 8737, 3).
fn trial(name: &str, digest: &[u8]) -> Result<Challenge, rcgen::Error> {
    let mut params = CertificateParams::new([name.to_owned()])?;
    params.custom_extensions = vec![CustomExtension::new_acme_identifier(digest)];
    let key = KeyPair::generate()?;
    Ok(Challenge::Tls {
        name: name.to_owned(),
        cert_pem: params.self_signed(&key)?.pem(),
        key_pem: key.serialize_pem(),
    })
}

/// A P-256 key of its own for each certificate, and the request that it signs.
fn request(acme: &AcmeConfig) -> Result<(Vec<u8>, String), rcgen::Error> {
    let mut params = CertificateParams::new(acme.names.clone())?;
    params.distinguished_name = DistinguishedName::new();
    let key = KeyPair::generate()?;
    let request = params.serialize_request(&key)?;
    Ok((request.der().to_vec(), key.serialize_pem()))
}

/// What the authority says of the first name that it did not find proved.
async fn unproved(order: &mut Order, acme: &AcmeConfig) -> Option<OrderError> {
    let mut authorizations = order.authorizations();
    while let Some(Ok(mut authorization)) = authorizations.next().await {
        if authorization.refresh().await.is_err() {
            continue;
        }
        let name = authorization.identifier().to_string();
        let mut challenges = authorization.challenges.iter();
        if let Some(problem) = challenges.find_map(|challenge| challenge.error.as_ref()) {
            return Some(OrderError::NotProved {
                name,
                why: problem
                    .detail
                    .clone()
                    .unwrap_or_else(|| problem.to_string()),
                remedy: match acme.challenge {
                    AcmeChallenge::Http01 => {
                        "its address must lead to this host's port 80, open to everybody"
                    }
                    AcmeChallenge::TlsAlpn01 => {
                        "its address must lead to this host's port 443, whose allowlist must let \
                         the authority in; if it cannot, use \"http-01\""
                    }
                },
            });
        }
    }
    None
}

fn kind(challenge: AcmeChallenge) -> ChallengeType {
    match challenge {
        AcmeChallenge::Http01 => ChallengeType::Http01,
        AcmeChallenge::TlsAlpn01 => ChallengeType::TlsAlpn01,
    }
}

fn word(challenge: AcmeChallenge) -> &'static str {
    match challenge {
        AcmeChallenge::Http01 => "http-01",
        AcmeChallenge::TlsAlpn01 => "tls-alpn-01",
    }
}

const PATIENCE: RetryPolicy = RetryPolicy::new()
    .initial_delay(Duration::from_millis(500))
    .backoff(1.5)
    .timeout(Duration::from_mins(2));
