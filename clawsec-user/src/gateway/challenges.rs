//! What an authority that issues our certificate tries a name by, and who answers it.
//!
//! The supervisor talks to the authority and holds its account; the gateway process, which talks
//! to strangers, knows only the answers of the moment.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use hyper::{Method, StatusCode};
use rustls::sign::CertifiedKey;
use tokio::net::TcpListener;

use super::admin::plain;
use super::shared::Gateway;
use super::small::{self, Small};
use super::tls;
use crate::causes::chain;
use crate::ipc::Challenge;

/// The challenges of the moment.
#[derive(Debug, Default)]
pub(super) struct Challenges(ArcSwap<Held>);

#[derive(Debug, Default)]
struct Held {
    /// By token.
    answers: HashMap<String, String>,
    /// By name, in lower case.
    certificates: HashMap<String, Arc<CertifiedKey>>,
}

impl Challenges {
    /// Takes these in place of all there were.
    pub(super) fn take(&self, challenges: Vec<Challenge>) {
        let mut held = Held::default();
        for challenge in challenges {
            match challenge {
                Challenge::Http { token, answer } => {
                    held.answers.insert(token, answer);
                }
                Challenge::Tls {
                    name,
                    cert_pem,
                    key_pem,
                } => match tls::for_challenge(&cert_pem, &key_pem) {
                    Ok(certified) => {
                        held.certificates.insert(name, Arc::new(certified));
                    }
                    Err(error) => tracing::error!("a challenge for {name}: {}", chain(&error)),
                },
            }
        }
        self.0.store(Arc::new(held));
    }

    pub(super) fn certificate(&self, name: &str) -> Option<Arc<CertifiedKey>> {
        let held = self.0.load();
        held.certificates.get(&name.to_lowercase()).cloned()
    }

    fn answer(&self, path: &str) -> Option<String> {
        let token = path.strip_prefix("/.well-known/acme-challenge/")?;
        self.0.load().answers.get(token).cloned()
    }
}

/// Answers an authority, and nobody else, until the gateway drains. It redirects nowhere: a client
/// that sent its key over plain HTTP should see that fail.
pub(super) async fn serve(gateway: Arc<Gateway>, listener: TcpListener) {
    let challenges = Arc::clone(&gateway.snapshot.load().challenges);
    let answer = move |_peer, request: hyper::Request<_>| {
        let found = match *request.method() {
            Method::GET | Method::HEAD => challenges.answer(request.uri().path()),
            _ => None,
        };
        std::future::ready(match found {
            Some(answer) => plain(StatusCode::OK, &answer),
            None => plain(StatusCode::NOT_FOUND, "nothing is served here\n"),
        })
    };
    small::serve(gateway, listener, SMALL, answer).await;
}

const SMALL: Small = Small {
    name: "gateway.tls.acme.listen",
    // An authority looks from several places at once; strangers must not crowd it out for long.
    most: 64,
    life: Duration::from_secs(10),
};

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_challenges_of_the_moment_are_answered() {
        let challenges = Challenges::default();
        let pair = rcgen::generate_simple_self_signed(["claw.example.org".to_owned()]).unwrap();
        challenges.take(vec![
            Challenge::Http {
                token: "abc".to_owned(),
                answer: "abc.thumb".to_owned(),
            },
            Challenge::Tls {
                name: "claw.example.org".to_owned(),
                cert_pem: pair.cert.pem(),
                key_pem: pair.signing_key.serialize_pem(),
            },
        ]);
        let asked = |path: &str| challenges.answer(path);
        let right = asked("/.well-known/acme-challenge/abc");
        assert_eq!(right.as_deref(), Some("abc.thumb"));
        for path in [
            "/abc",
            "/.well-known/acme-challenge/abd",
            "/.well-known/acme-challenge/",
            "/",
        ] {
            assert_eq!(asked(path), None, "{path}");
        }
        assert!(challenges.certificate("CLAW.example.org").is_some());
        assert!(challenges.certificate("other.example.org").is_none());
        challenges.take(Vec::new());
        assert_eq!(challenges.answer("/.well-known/acme-challenge/abc"), None);
        assert!(challenges.certificate("claw.example.org").is_none());
    }
}
