//! `security.auth`: keys become digests at once, and the text is wiped with the tree.

use std::collections::HashMap;

use aws_lc_rs::digest::{SHA256, digest};
use jiff::Timestamp;
use jiff::civil::Date;
use jiff::tz::TimeZone;

use super::super::reader::{Field, Place, Section};
use super::super::redact::Change;
use crate::policy::{GroupId, KeyDigest, PrincipalSpec, Scope, ToolRules, UnixSeconds, UserId};

/// What `security.auth` says.
#[derive(Default)]
pub(super) struct Auth {
    pub(super) principals: Vec<PrincipalSpec>,
    /// Where a client certificate is named.
    pub(super) certificates: Vec<(String, usize)>,
}

pub(super) fn read(section: &mut Section<'_, '_>) -> Auth {
    let kind = section
        .at("type")
        .required("\"apiKey\" or \"token\"")
        .choice(&[("apiKey", Kind::ApiKey), ("token", Kind::Token)]);
    let principals: Vec<Placed> = match kind {
        Some(Kind::ApiKey) => {
            if section.at("tokens").is_present() {
                section
                    .at("tokens")
                    .problem("belongs to the type \"token\"");
            }
            let key = section.at("key").required("the key, as a text");
            plain(key).into_iter().collect()
        }
        Some(Kind::Token) => {
            if section.at("key").is_present() {
                section.at("key").problem("belongs to the type \"apiKey\"");
            }
            let tokens = section
                .at("tokens")
                .required("a list of tokens")
                .list(token);
            if tokens.as_ref().is_some_and(Vec::is_empty)
                && !section.report.has_problem_under("security.auth.tokens")
            {
                section
                    .at("tokens")
                    .problem("an empty list: nobody could sign in");
            }
            tokens.unwrap_or_default().into_iter().flatten().collect()
        }
        None => {
            section.at("key");
            let tokens = section.at("tokens").list(token).unwrap_or_default();
            tokens.into_iter().flatten().collect()
        }
    };
    refuse_doubles(section, &principals);
    let named = principals
        .iter()
        .filter(|placed| placed.kind == Credential::Certificate);
    let certificates = named.map(|placed| (format!("{}.cert", placed.spec.path), placed.offset));
    Auth {
        certificates: certificates.collect(),
        principals: principals.into_iter().map(|placed| placed.spec).collect(),
    }
}

/// A principal and where its key stands.
struct Placed {
    offset: usize,
    kind: Credential,
    spec: PrincipalSpec,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Credential {
    Key,
    /// The one before it, until its end.
    Previous,
    Certificate,
}

#[derive(Clone, Copy)]
enum Kind {
    ApiKey,
    Token,
}

fn token(field: Field<'_, '_>) -> Option<Vec<Placed>> {
    if field.is_object() {
        field.object(detailed)?
    } else if field.is_text() {
        plain(field).map(|placed| vec![placed])
    } else {
        field.mistyped("a token as a text, or an object")
    }
}

/// A key on its own, as the seed writes it: it may do everything, since the gateway's own command
/// line needs `operator.admin`.
fn plain(field: Field<'_, '_>) -> Option<Placed> {
    let path = field.path().to_owned();
    let (digest, mut place) = key(field)?;
    place.warn("a plain key carries operator.admin; write { id, token, scopes } to give it less");
    let spec = PrincipalSpec {
        id: default_id(digest),
        digest,
        path,
        scopes: vec![Scope::Admin],
        user: None,
        groups: None,
        agents: None,
        tools: ToolRules::default(),
        not_before: None,
        not_after: None,
    };
    let offset = place.offset();
    Some(Placed {
        offset,
        kind: Credential::Key,
        spec,
    })
}

fn detailed(section: &mut Section<'_, '_>) -> Option<Vec<Placed>> {
    let path = section.path().to_owned();
    let id = section
        .at("id")
        .parsed("letters, digits, `.`, `_`, `-`, at most 64", |text| {
            let plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-');
            let sound = (1..=64).contains(&text.len()) && text.bytes().all(plain);
            if sound {
                Ok(text.to_owned())
            } else {
                Err(None)
            }
        });
    let key = if section.has("cert") {
        if section.has("token") {
            section
                .at("cert")
                .problem("beside `token`; write two entries, each of which opens on its own");
        }
        section.at("token");
        certificate(section.at("cert"))
    } else {
        section.at("cert");
        let key = key(section.at("token").required("the token, as a text"));
        key.map(|(digest, place)| (digest, place.offset()))
    };
    let user = section.at("user").text().map(UserId::new);
    let groups = section.at("groups").texts();
    if groups.as_ref().is_some_and(Vec::is_empty) {
        section
            .at("groups")
            .warn("an empty list lets this token name no group at all");
    }
    let groups = groups.map(|names| names.iter().map(|name| GroupId::new(name)).collect());
    let agents = section.at("agents").texts();
    if agents.as_ref().is_some_and(Vec::is_empty) {
        section
            .at("agents")
            .warn("an empty list lets this token name no agent at all");
    }
    let scopes = section.at("scopes").list(|scope| {
        let choices = Scope::ALL.map(|scope| (scope.as_str(), scope));
        scope.choice(&choices)
    });
    if scopes.as_ref().is_some_and(Vec::is_empty)
        && !section.report.has_problem_under(&format!("{path}.scopes"))
    {
        section
            .at("scopes")
            .problem("an empty list: this token could do nothing");
    }
    let tools = section.at("tools").section(super::tools);
    let not_before = section.at("notBefore").parsed(A_TIME, time);
    let not_after = section.at("notAfter").parsed(A_TIME, time);
    if let (Some(start), Some(end)) = (not_before, not_after)
        && end <= start
    {
        section
            .at("notAfter")
            .problem("not after `notBefore`: the token is never valid");
    }
    let previous = previous(section);
    let (digest, offset) = key?;
    let spec = PrincipalSpec {
        id: id.unwrap_or_else(|| default_id(digest)),
        digest,
        path,
        scopes: scopes.unwrap_or_else(|| vec![Scope::Read, Scope::Write]),
        user,
        groups,
        agents,
        tools,
        not_before,
        not_after,
    };
    let previous = previous.map(|(digest, offset, end)| Placed {
        offset,
        kind: Credential::Previous,
        spec: PrincipalSpec {
            digest,
            path: format!("{}.previous", spec.path),
            not_after: Some(not_after.map_or(end, |whole| whole.min(end))),
            ..spec.clone()
        },
    });
    let kind = if section.has("cert") {
        Credential::Certificate
    } else {
        Credential::Key
    };
    let current = Placed { offset, kind, spec };
    Some([current].into_iter().chain(previous).collect())
}

/// The key that is being replaced, and when it ends.
fn previous(section: &mut Section<'_, '_>) -> Option<(KeyDigest, usize, UnixSeconds)> {
    if section.has("cert") && section.has("previous") {
        section
            .at("previous")
            .problem("beside `cert`; write two entries, each with its own certificate");
    }
    let previous = section.at("previous").object(|previous| {
        let end = previous
            .at("notAfter")
            .required(A_TIME)
            .parsed(A_TIME, time);
        let (digest, place) = key(previous.at("token").required("the key before this one"))?;
        Some((digest, place.offset(), end?))
    });
    previous.flatten()
}

/// Reads whose client certificate stands for this principal: the SHA-256 of its public key.
fn certificate(field: Field<'_, '_>) -> Option<(KeyDigest, usize)> {
    let offset = field.offset();
    let expected = "\"sha256:\" and 64 hexadecimal digits, of the certificate's public key";
    let digest = field.parsed(expected, |text| {
        let hex = text.strip_prefix("sha256:").and_then(from_hex);
        hex.map(certificate_digest).ok_or(None)
    })?;
    Some((digest, offset))
}

/// Reads a key, and puts its digest in its place in the redacted document.
pub(super) fn key<'r>(field: Field<'r, '_>) -> Option<(KeyDigest, Place<'r>)> {
    let (text, mut place) = field.secret("a key, or \"sha256:\" and 64 hexadecimal digits")?;
    let digest = if let Some(hex) = text.strip_prefix("sha256:") {
        let Some(digest) = from_hex(hex) else {
            let problem = place.problem("");
            problem.found = Some("\"sha256:\" and something else".to_owned());
            problem.expected = Some("\"sha256:\" and 64 hexadecimal digits".to_owned());
            return None;
        };
        KeyDigest(digest)
    } else if text.bytes().all(|byte| byte.is_ascii_graphic()) {
        if text.len() < SHORT_BYTES {
            let length = text.len();
            place.warn(format!(
                "a key of {length} bytes can be guessed; make one with `clawsec key new`"
            ));
        }
        sha256(text.as_bytes())
    } else {
        place.problem("a key is printable ASCII without spaces, to stand in a header");
        return None;
    };
    place.redact(Change::Set(format!("sha256:{}", to_hex(&digest.0))));
    Some((digest, place))
}

/// One key, and one id, stand for one principal.
fn refuse_doubles(section: &mut Section<'_, '_>, principals: &[Placed]) {
    let mut ids: HashMap<&str, &str> = HashMap::new();
    let mut digests: HashMap<KeyDigest, &str> = HashMap::new();
    for Placed { offset, kind, spec } in principals {
        let path = spec.path.as_str();
        let message = if let Some(first) = digests.insert(spec.digest, path) {
            format!("the same key as {first}")
        } else if *kind == Credential::Previous {
            continue;
        } else if let Some(first) = ids.insert(&spec.id, path) {
            format!("the same id as {first}: {:?}", spec.id)
        } else {
            continue;
        };
        section.report.problem(*offset, path, message);
    }
}

/// What a client certificate is looked up by, from the SHA-256 of its public key (SPKI, DER).
///
/// A key is UTF-8 and never begins with 0xff, so that none can be made to hash to the same.
pub fn certificate_digest(spki_sha256: [u8; 32]) -> KeyDigest {
    let mut text = vec![0xff];
    text.extend_from_slice(b"clawsec client certificate");
    text.extend_from_slice(&spki_sha256);
    sha256(&text)
}

/// SHA-256 of a key's text.
fn sha256(text: &[u8]) -> KeyDigest {
    let mut bytes = [0; 32];
    for (to, from) in bytes.iter_mut().zip(digest(&SHA256, text).as_ref()) {
        *to = *from;
    }
    KeyDigest(bytes)
}

/// The first half of a digest's first word tells keys apart and tells nothing about them.
fn default_id(digest: KeyDigest) -> String {
    format!("key-{}", to_hex(&digest.0[..4]))
}

fn to_hex(bytes: &[u8]) -> String {
    use std::fmt::Write;
    bytes.iter().fold(String::new(), |mut text, byte| {
        // Writing to a String cannot fail.
        _ = write!(text, "{byte:02x}");
        text
    })
}

fn from_hex(text: &str) -> Option<[u8; 32]> {
    if text.len() != 64 || !text.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return None;
    }
    let mut bytes = [0; 32];
    for (index, byte) in bytes.iter_mut().enumerate() {
        *byte = u8::from_str_radix(text.get(2 * index..2 * index + 2)?, 16).ok()?;
    }
    Some(bytes)
}

/// RFC 3339, or a day in UTC.
fn time(text: &str) -> Result<UnixSeconds, Option<String>> {
    if let Ok(timestamp) = text.parse::<Timestamp>() {
        return Ok(timestamp.as_second());
    }
    let day = if text.len() == 10 {
        text.parse::<Date>().ok()
    } else {
        None
    };
    let midnight = day.and_then(|day| day.to_zoned(TimeZone::UTC).ok());
    midnight
        .map(|midnight| midnight.timestamp().as_second())
        .ok_or(None)
}

const A_TIME: &str = "a time such as \"2027-01-31T00:00:00Z\", or a day such as \"2027-01-31\"";

/// The gateway's own audit calls shorter tokens guessable, too.
const SHORT_BYTES: usize = 16;
