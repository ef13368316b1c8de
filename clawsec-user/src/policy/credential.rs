//! Keys and the principals they stand for.
//!
//! Invariant: a `Principal` is made here only, by `Credentials::authenticate` from a presented
//! key's digest (called in `gateway/auth` alone), or by `Credentials::vouched` in the supervisor,
//! which believes the gateway who authenticated but not what that principal may do.

use std::collections::{BTreeSet, HashMap};
use std::fmt;
use std::sync::Arc;

use super::{Denial, GroupId, Reason, ToolRules, UserId};

/// SHA-256 of a key. Keys themselves are wiped after hashing.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct KeyDigest(pub [u8; 32]);

impl KeyDigest {
    /// Compares without an early exit, so that time tells nothing about where they differ.
    fn equals(&self, other: &Self) -> bool {
        let difference = self
            .0
            .iter()
            .zip(other.0.iter())
            .fold(0u8, |acc, (a, b)| acc | (a ^ b));
        std::hint::black_box(difference) == 0
    }
}

impl fmt::Debug for KeyDigest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "KeyDigest({:02x}{:02x}…)", self.0[0], self.0[1])
    }
}

/// Seconds since the Unix epoch.
pub type UnixSeconds = i64;

/// What a client may do upstream, by the gateway's own names.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Scope {
    Read,
    Write,
    Admin,
    Approvals,
    Pairing,
    /// Of openclaw only, as the two below.
    Questions,
    Talk,
    TalkSecrets,
}

impl Scope {
    pub const ALL: [Self; 8] = [
        Self::Read,
        Self::Write,
        Self::Admin,
        Self::Approvals,
        Self::Pairing,
        Self::Questions,
        Self::Talk,
        Self::TalkSecrets,
    ];

    pub fn as_str(self) -> &'static str {
        match self {
            Self::Read => "operator.read",
            Self::Write => "operator.write",
            Self::Admin => "operator.admin",
            Self::Approvals => "operator.approvals",
            Self::Pairing => "operator.pairing",
            Self::Questions => "operator.questions",
            Self::Talk => "operator.talk",
            Self::TalkSecrets => "operator.talk.secrets",
        }
    }

    pub fn parse(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|scope| scope.as_str() == name)
    }
}

/// One configured key, before it is compiled.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PrincipalSpec {
    pub id: String,
    pub digest: KeyDigest,
    /// The configuration path, such as `security.auth.tokens[1]`; of a key that is being replaced,
    /// `security.auth.tokens[1].previous`.
    pub path: String,
    pub scopes: Vec<Scope>,
    /// Who this key speaks for; `None` lets it name any allowed user.
    pub user: Option<UserId>,
    /// The groups it may speak in; `None` lets it name any allowed group.
    pub groups: Option<Vec<GroupId>>,
    /// Agents it may name; `None` is all.
    pub agents: Option<Vec<String>>,
    pub tools: ToolRules,
    pub not_before: Option<UnixSeconds>,
    pub not_after: Option<UnixSeconds>,
}

impl PrincipalSpec {
    /// Whether both stand for the same one, who may do the same. When they may, and where that
    /// stands in the file, is another question.
    fn is_same_as(&self, other: &Self) -> bool {
        let own = |spec: &Self| {
            let spec = spec.clone();
            Self {
                path: String::new(),
                not_before: None,
                not_after: None,
                ..spec
            }
        };
        own(self) == own(other)
    }
}

/// All configured keys, looked up by digest. Two keys of one id are one principal's, the second
/// until the first has taken its place.
#[derive(Debug, Clone, Default)]
pub struct Credentials {
    by_digest: HashMap<KeyDigest, Arc<PrincipalSpec>>,
}

impl Credentials {
    pub fn new(specs: impl IntoIterator<Item = PrincipalSpec>) -> Self {
        Self {
            by_digest: specs
                .into_iter()
                .map(|spec| (spec.digest, Arc::new(spec)))
                .collect(),
        }
    }

    pub fn len(&self) -> usize {
        self.by_digest.len()
    }

    pub fn is_empty(&self) -> bool {
        self.by_digest.is_empty()
    }

    /// Each once, in order.
    pub fn ids(&self) -> impl Iterator<Item = &str> {
        let specs = self.by_digest.values();
        let ids: BTreeSet<&str> = specs.map(|spec| spec.id.as_str()).collect();
        ids.into_iter()
    }

    /// In no order.
    pub fn specs(&self) -> impl Iterator<Item = &PrincipalSpec> {
        self.by_digest.values().map(AsRef::as_ref)
    }

    /// Whether some key may name certain agents only.
    pub fn bind_agents(&self) -> bool {
        self.by_digest.values().any(|spec| spec.agents.is_some())
    }

    /// The digests of this id's keys, which a sign-in cookie is checked against.
    pub fn digests_of(&self, id: &str) -> impl Iterator<Item = KeyDigest> {
        self.specs()
            .filter(move |spec| spec.id == id)
            .map(|spec| spec.digest)
    }

    /// Finds the principal that a presented key's digest stands for, at `now`.
    pub fn authenticate(&self, digest: KeyDigest, now: UnixSeconds) -> Result<Principal, Denial> {
        let unknown = || Denial::new(Reason::CredentialUnknown, "security.auth");
        let spec = self.by_digest.get(&digest).ok_or_else(unknown)?;
        if !spec.digest.equals(&digest) {
            return Err(unknown());
        }
        Self::in_time(spec, now)?;
        Ok(Principal {
            spec: Arc::clone(spec),
        })
    }

    /// The principal of this id, on the word of the gateway process.
    pub fn vouched(&self, id: &str, now: UnixSeconds) -> Result<Principal, Denial> {
        let mut refused = Denial::new(Reason::CredentialUnknown, "security.auth");
        for spec in self.by_digest.values().filter(|spec| spec.id == id) {
            match Self::in_time(spec, now) {
                Ok(()) => {
                    return Ok(Principal {
                        spec: Arc::clone(spec),
                    });
                }
                Err(denial) => refused = denial,
            }
        }
        Err(refused)
    }

    /// Whether a principal made under an earlier policy would still be one.
    pub fn still_valid(&self, principal: &Principal, now: UnixSeconds) -> bool {
        self.by_digest
            .get(&principal.spec.digest)
            .is_some_and(|spec| {
                spec.is_same_as(&principal.spec) && Self::in_time(spec, now).is_ok()
            })
    }

    fn in_time(spec: &PrincipalSpec, now: UnixSeconds) -> Result<(), Denial> {
        if spec.not_before.is_some_and(|start| now < start) {
            return Err(Denial::new(Reason::CredentialNotYetValid, &spec.path));
        }
        if spec.not_after.is_some_and(|end| now >= end) {
            return Err(Denial::new(Reason::CredentialExpired, &spec.path));
        }
        Ok(())
    }
}

/// Somebody who has shown a configured key. There is no other way to get one.
#[derive(Debug, Clone, PartialEq, Eq)]
#[must_use]
pub struct Principal {
    spec: Arc<PrincipalSpec>,
}

impl Principal {
    pub fn id(&self) -> &str {
        &self.spec.id
    }

    /// The configuration path of the key.
    pub fn path(&self) -> &str {
        &self.spec.path
    }

    /// Of the key.
    pub fn digest(&self) -> KeyDigest {
        self.spec.digest
    }

    pub fn user(&self) -> Option<&UserId> {
        self.spec.user.as_ref()
    }

    pub fn groups(&self) -> Option<&[GroupId]> {
        self.spec.groups.as_deref()
    }

    /// The agents it is bound to, where it is.
    pub fn agents(&self) -> Option<&[String]> {
        self.spec.agents.as_deref()
    }

    pub fn scopes(&self) -> &[Scope] {
        &self.spec.scopes
    }

    pub fn tools(&self) -> &ToolRules {
        &self.spec.tools
    }

    /// `operator.admin` satisfies every scope, and `operator.write` reading and talking, as in the
    /// gateway.
    pub fn has_scope(&self, scope: Scope) -> bool {
        self.spec
            .scopes
            .iter()
            .any(|&held| held == scope || held == Scope::Admin)
            || (matches!(scope, Scope::Read | Scope::Talk)
                && self.spec.scopes.contains(&Scope::Write))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec(id: &str, byte: u8) -> PrincipalSpec {
        PrincipalSpec {
            id: id.into(),
            digest: KeyDigest([byte; 32]),
            path: format!("security.auth.tokens.{id}"),
            scopes: vec![Scope::Admin],
            user: None,
            groups: None,
            agents: None,
            tools: ToolRules::default(),
            not_before: None,
            not_after: None,
        }
    }

    #[test]
    fn a_key_outside_its_validity_window_is_refused() {
        let early = PrincipalSpec {
            not_before: Some(100),
            not_after: Some(200),
            ..spec("a", 1)
        };
        let credentials = Credentials::new([early]);
        let rows = [
            (99, Some(Reason::CredentialNotYetValid)),
            (100, None),
            (199, None),
            (200, Some(Reason::CredentialExpired)),
        ];
        for (now, expected) in rows {
            let result = credentials.authenticate(KeyDigest([1; 32]), now);
            assert_eq!(
                result.err().map(|denial| denial.reason),
                expected,
                "at {now}"
            );
        }
    }

    #[test]
    fn a_principal_ends_with_its_key() {
        let old = Credentials::new([spec("a", 1), spec("b", 2)]);
        let principal = old.authenticate(KeyDigest([1; 32]), 0).unwrap();
        assert!(old.still_valid(&principal, 0));
        assert!(!Credentials::new([spec("b", 2)]).still_valid(&principal, 0));
        let narrowed = PrincipalSpec {
            scopes: vec![Scope::Read],
            ..spec("a", 1)
        };
        assert!(!Credentials::new([narrowed]).still_valid(&principal, 0));
        // Another place in the file is no other principal; an end is one when it has come.
        let moved = PrincipalSpec {
            path: "security.auth.tokens[7]".into(),
            not_after: Some(100),
            ..spec("a", 1)
        };
        let moved = Credentials::new([moved]);
        assert!(moved.still_valid(&principal, 99));
        assert!(!moved.still_valid(&principal, 100));
    }

    #[test]
    fn two_keys_of_one_id_are_one_principal() {
        let previous = PrincipalSpec {
            not_after: Some(100),
            ..spec("a", 1)
        };
        let credentials = Credentials::new([previous, spec("a", 2)]);
        assert_eq!(credentials.ids().collect::<Vec<_>>(), ["a"]);
        assert_eq!(credentials.digests_of("a").count(), 2);
        for (byte, at_99, at_100) in [(1, true, false), (2, true, true)] {
            let opens = |now| credentials.authenticate(KeyDigest([byte; 32]), now).is_ok();
            assert_eq!((opens(99), opens(100)), (at_99, at_100), "{byte}");
        }
        assert!(credentials.vouched("a", 100).is_ok(), "by the other key");
    }

    #[test]
    fn unknown_and_absent_ids_are_told_apart_from_nothing() {
        let credentials = Credentials::new([spec("a", 1)]);
        let denial = credentials.authenticate(KeyDigest([9; 32]), 0).unwrap_err();
        assert_eq!(denial.reason, Reason::CredentialUnknown);
        assert!(credentials.vouched("b", 0).is_err());
        assert_eq!(credentials.vouched("a", 0).unwrap().id(), "a");
    }
}
