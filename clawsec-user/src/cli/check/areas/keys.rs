//! Keys of clients, and the token for the gateway behind.

use aws_lc_rs::digest;

use super::super::facts::Facts;
use super::super::registry::{Check, found};
use crate::config::UpstreamAuth;
use crate::counterpart::Severity;
use crate::policy::{KeyDigest, PrincipalSpec, Scope};

pub(in crate::cli::check) const CHECKS: &[Check] = &[
    Check {
        id: "keys.known",
        severity: Severity::Critical,
        title: "a key is an example's or a common password",
        remedy: "make another: `clawsec key new --id …`, or `clawsec key rotate ID`",
        judge: |facts| {
            let known: Vec<KeyDigest> = KNOWN.iter().map(|word| sha256(word.as_bytes())).collect();
            named(facts, |key| known.contains(&key.digest))
        },
        says: &[],
    },
    Check {
        id: "keys.short",
        severity: Severity::Critical,
        title: "a key is short enough to be guessed",
        remedy: "make another: `clawsec key new --id …`",
        judge: |facts| warned(facts, "bytes can be guessed; make one"),
        says: &["bytes can be guessed; make one"],
    },
    Check {
        id: "keys.of_the_gateway",
        severity: Severity::Critical,
        title: "a client's key is the gateway's own token",
        remedy: "give clients a key of their own: whoever has the token needs no clawsec",
        judge: |facts| {
            let token = facts.config.gateway.upstream_token.as_ref();
            let token = token.map(|token| sha256(token.reveal().as_bytes()));
            named(facts, |key| Some(key.digest) == token)
        },
        says: &[],
    },
    Check {
        id: "keys.inline",
        severity: Severity::Warn,
        title: "a secret stands in the configuration in so many words",
        remedy: "a client's key as sha256: (`clawsec key hash`); others as ${VAR} or ${secret:NAME}",
        judge: |facts| facts.config.literal_secrets.clone(),
        says: &[],
    },
    Check {
        id: "keys.plain_administrator",
        severity: Severity::Warn,
        title: "a key without an entry of its own may do everything",
        remedy: "write { id, token, scopes } for each device in security.auth.tokens",
        judge: |facts| warned(facts, "a plain key carries operator.admin"),
        says: &["a plain key carries operator.admin"],
    },
    Check {
        id: "keys.all_administrators",
        severity: Severity::Info,
        title: "every key is an administrator's",
        remedy: "give phones and scripts scopes [\"operator.read\", \"operator.write\"]",
        judge: |facts| {
            let keys: Vec<_> = facts.config.policy.credentials.specs().collect();
            let all = keys.iter().all(|key| key.scopes.contains(&Scope::Admin));
            found(all && keys.len() > 1, || format!("{} keys", keys.len()))
        },
        says: &[],
    },
    Check {
        id: "keys.expired",
        severity: Severity::Info,
        title: "a key has run out",
        remedy: "remove it from security.auth.tokens, or rotate it: `clawsec key rotate ID`",
        judge: |facts| {
            let now = facts.host.now;
            named(facts, |key| key.not_after.is_some_and(|end| end <= now))
        },
        says: &[],
    },
    Check {
        id: "keys.upstream_missing",
        severity: Severity::Warn,
        title: "clawsec has no token for the gateway behind it",
        remedy: "set gateway.upstreamToken, and the same as gateway.auth.token of the gateway",
        judge: |facts| {
            let gateway = &facts.config.gateway;
            let wants = gateway.upstream_auth == UpstreamAuth::Token;
            found(wants && gateway.upstream_token.is_none(), || {
                "gateway.upstreamToken is left out".to_owned()
            })
        },
        says: &["clawsec has no credential of its own"],
    },
    Check {
        id: "keys.upstream_short",
        severity: Severity::Critical,
        title: "the gateway's token is short enough to be guessed",
        remedy: "give the gateway a longer one: `openssl rand -hex 32`",
        judge: |facts| {
            let token = facts.config.gateway.upstream_token.as_ref();
            let short = token
                .map(|token| token.reveal().len())
                .filter(|len| *len < 16);
            short
                .map(|len| format!("{len} bytes"))
                .into_iter()
                .collect()
        },
        says: &[],
    },
    Check {
        id: "keys.anybody",
        severity: Severity::Info,
        title: "a key may speak for any user in any group",
        remedy: "name them: security.users.allowList, security.groups.allowList",
        judge: |facts| {
            let people = &facts.config.policy.people;
            found(people.users.is_none() && people.groups.is_none(), || {
                "neither list is set".to_owned()
            })
        },
        says: &[],
    },
];

fn named(facts: &Facts, is_it: impl Fn(&PrincipalSpec) -> bool) -> Vec<String> {
    let keys = facts.config.policy.credentials.specs();
    let mut named: Vec<String> = keys
        .filter(|key| is_it(key))
        .map(|key| format!("{} ({})", key.id, key.path))
        .collect();
    named.sort_unstable();
    named
}

/// What the reader found that it alone could see: it hashes keys and forgets them.
fn warned(facts: &Facts, part: &str) -> Vec<String> {
    let warnings = facts.config.warnings.iter();
    let fitting = warnings.filter(|warning| warning.message.contains(part));
    fitting.map(|warning| warning.path.clone()).collect()
}

fn sha256(text: &[u8]) -> KeyDigest {
    let mut bytes = [0; 32];
    bytes.copy_from_slice(digest::digest(&digest::SHA256, text).as_ref());
    KeyDigest(bytes)
}

/// Of manuals, tutorials and lists of common passwords; hashed, so that sha256: forms are found.
const KNOWN: [&str; 24] = [
    "0123456789abcdef",
    "12345678",
    "1234567890",
    "admin",
    "api-key",
    "apikey",
    "change-me",
    "changeme",
    "clawdbot",
    "clawsec",
    "default",
    "example",
    "my-secret-key",
    "openclaw",
    "password",
    "secret",
    "secret-key",
    "test",
    "test-key",
    "token",
    "your-api-key",
    "your-api-key-here",
    "your-secret-key",
    "your-secure-api-key",
];
