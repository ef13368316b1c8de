//! Who is asking: the one place in the gateway where a `Principal` is made.

use aws_lc_rs::digest;
use hyper::HeaderMap;
use hyper::header::AUTHORIZATION;
use rustls::pki_types::CertificateDer;
use rustls::server::ParsedCertificate;

use super::refusal::Refusal;
use super::shared::unix_now;
use super::snapshot::Snapshot;
use crate::config::certificate_digest;
use crate::policy::{Denial, KeyDigest, Principal, Reason};

/// The gateway's own and everybody's spelling of an API key header.
pub(super) const API_KEY: &str = "x-api-key";

/// A key as somebody showed it, hashed at once.
#[derive(Debug, Clone, Copy)]
pub(super) struct Presented(KeyDigest);

impl Presented {
    pub(super) fn new(key: &str) -> Self {
        let digest = digest::digest(&digest::SHA256, key.as_bytes());
        let mut bytes = [0; 32];
        // A SHA-256 digest is 32 bytes; zip keeps the compiler's peace without a panic path.
        for (to, from) in bytes.iter_mut().zip(digest.as_ref()) {
            *to = *from;
        }
        Self(KeyDigest(bytes))
    }

    /// The key of a client certificate, whose holder TLS has made sure of.
    pub(super) fn certificate(certificate: &CertificateDer<'_>) -> Option<Self> {
        let parsed = ParsedCertificate::try_from(certificate).ok()?;
        let spki = parsed.subject_public_key_info();
        let digest = digest::digest(&digest::SHA256, spki.as_ref());
        let digest = digest.as_ref().try_into().ok()?;
        Some(Self(certificate_digest(digest)))
    }

    /// The key that a sign-in cookie of clawsec's own was made for.
    pub(super) fn sealed(digest: KeyDigest) -> Self {
        Self(digest)
    }

    pub(super) fn digest(self) -> KeyDigest {
        self.0
    }
}

/// The key in a request's headers: `Authorization: Bearer` or `X-API-Key`.
pub(super) fn presented(headers: &HeaderMap) -> Result<Option<Presented>, Refusal> {
    let bearer = single(headers, AUTHORIZATION.as_str())?
        .map(|value| bearer(value).ok_or_else(|| Refusal::from(missing())))
        .transpose()?;
    let api_key = single(headers, API_KEY)?
        .map(str::trim)
        .filter(|key| !key.is_empty());
    match (bearer, api_key) {
        (Some(a), Some(b)) if a != b => Err(Refusal::malformed(
            "Authorization and X-API-Key name different keys",
        )),
        (Some(key), _) | (None, Some(key)) => Ok(Some(Presented::new(key))),
        (None, None) => Ok(None),
    }
}

/// Turns a shown key into the principal it stands for.
pub(super) fn authenticate(
    snapshot: &Snapshot,
    presented: Option<Presented>,
) -> Result<Principal, Denial> {
    let Presented(digest) = presented.ok_or_else(missing)?;
    snapshot
        .policy()
        .credentials
        .authenticate(digest, unix_now())
}

fn missing() -> Denial {
    Denial::new(Reason::CredentialMissing, "security.auth")
}

fn single<'a>(headers: &'a HeaderMap, name: &str) -> Result<Option<&'a str>, Refusal> {
    let mut values = headers.get_all(name).iter();
    let first = values.next();
    if values.next().is_some() {
        return Err(Refusal::malformed("a credential header stands twice"));
    }
    first
        .map(|value| {
            value
                .to_str()
                .map_err(|_not_ascii| Refusal::malformed("a credential header is not ASCII"))
        })
        .transpose()
}

/// As the gateway's `getBearerToken` reads it.
fn bearer(value: &str) -> Option<&str> {
    let (scheme, token) = value.trim().split_once(' ')?;
    let token = token.trim();
    (scheme.eq_ignore_ascii_case("bearer") && !token.is_empty()).then_some(token)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_found_where_clients_put_it() {
        type Row = (
            &'static str,
            &'static [(&'static str, &'static str)],
            Result<Option<&'static str>, Reason>,
        );
        let rows: &[Row] = &[
            ("none", &[], Ok(None)),
            ("bearer", &[("authorization", "Bearer k")], Ok(Some("k"))),
            (
                "any case",
                &[("authorization", "bEARER   k ")],
                Ok(Some("k")),
            ),
            ("api key", &[("x-api-key", "k")], Ok(Some("k"))),
            (
                "the same twice over",
                &[("authorization", "Bearer k"), ("x-api-key", "k")],
                Ok(Some("k")),
            ),
            (
                "two keys",
                &[("authorization", "Bearer k"), ("x-api-key", "l")],
                Err(Reason::RequestMalformed),
            ),
            (
                "two headers",
                &[("x-api-key", "k"), ("x-api-key", "k")],
                Err(Reason::RequestMalformed),
            ),
            (
                "basic",
                &[("authorization", "Basic azpr")],
                Err(Reason::CredentialMissing),
            ),
            (
                "empty bearer",
                &[("authorization", "Bearer ")],
                Err(Reason::CredentialMissing),
            ),
        ];
        for (name, headers, expected) in rows {
            let mut map = HeaderMap::new();
            for (key, value) in *headers {
                map.append(*key, value.parse().unwrap());
            }
            let found = presented(&map)
                .map(|key| key.map(|Presented(digest)| digest))
                .map_err(|refusal| refusal.reason);
            let expected = expected.map(|key| key.map(|key| Presented::new(key).0));
            assert_eq!(found, expected, "{name}");
        }
    }
}
