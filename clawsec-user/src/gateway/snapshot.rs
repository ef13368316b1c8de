//! One policy as the gateway enforces it: compiled, with the TLS material and upstream
//! credentials that came along. A reload swaps the whole of it at once.

use std::collections::BTreeMap;
use std::fmt;
use std::path::Path;
use std::sync::Arc;

use super::challenges::Challenges;
use super::tls::{Terms, Tls, TlsError};
use crate::config::{self, AcmeChallenge, Config, NoSources, Secret};
use crate::ipc::PolicyUpdate;
use crate::policy::Policy;

/// Compiles an update's `document`: `compile` in the daemon, a fixture in tests. The error is
/// told to the supervisor as it is.
pub(super) type Compile = fn(&PolicyUpdate) -> Result<Config, String>;

/// Compiles by the same code that compiled it in the supervisor; nothing is left to look up.
pub(super) fn compile(update: &PolicyUpdate) -> Result<Config, String> {
    config::compile(&update.document, Path::new(&update.path), &NoSources)
        .map_err(|error| error.to_string())
}

/// One generation of everything the gateway judges and forwards by.
pub(super) struct Snapshot {
    pub(super) config: Config,
    /// `None` serves plain HTTP, which configuration allows on loopback or when written out.
    pub(super) tls: Option<Arc<Tls>>,
    /// The same in every generation.
    pub(super) challenges: Arc<Challenges>,
    pub(super) upstream_token: Option<Secret>,
    pub(super) device_seeds: BTreeMap<String, [u8; 32]>,
}

#[derive(Debug, thiserror::Error)]
pub enum SnapshotError {
    #[error("compile the configuration: {0}")]
    Compile(String),
    #[error("gateway.tls is on, but no certificate came with the policy")]
    TlsMissing,
    #[error("prepare gateway.tls")]
    Tls(#[source] TlsError),
}

impl Snapshot {
    /// Joins a compiled configuration with what came along.
    ///
    /// TLS that did not change stays the very same, and with it the sessions that clients resume.
    pub(super) fn new(
        mut config: Config,
        update: PolicyUpdate,
        before: Option<&Self>,
    ) -> Result<Self, SnapshotError> {
        config.policy.generation = update.generation;
        config.packets.generation = update.generation;
        let challenges = before.map(|before| Arc::clone(&before.challenges));
        let challenges = challenges.unwrap_or_default();
        let tls = match (&config.gateway.tls, &update.tls) {
            (None, _) => None,
            (Some(_), None) => return Err(SnapshotError::TlsMissing),
            (Some(settings), Some(material)) => {
                let acme = settings.acme.as_ref();
                let terms = Terms {
                    min_version: settings.min_version,
                    hosts: config.gateway.hosts.clone(),
                    is_tried: acme.is_some_and(|a| a.challenge == AcmeChallenge::TlsAlpn01),
                };
                let kept = before
                    .and_then(|before| before.tls.as_ref())
                    .filter(|tls| tls.is_of(material, &terms));
                Some(match kept {
                    Some(tls) => Arc::clone(tls),
                    None => Tls::new(material, terms, &challenges)
                        .map(Arc::new)
                        .map_err(SnapshotError::Tls)?,
                })
            }
        };
        Ok(Self {
            config,
            tls,
            challenges,
            upstream_token: update.upstream_token.map(Secret::new),
            device_seeds: update.device_seeds,
        })
    }

    pub(super) fn compile(
        update: PolicyUpdate,
        compile: Compile,
        before: Option<&Self>,
    ) -> Result<Self, SnapshotError> {
        let config = compile(&update).map_err(SnapshotError::Compile)?;
        Self::new(config, update, before)
    }

    pub(super) fn policy(&self) -> &Policy {
        &self.config.policy
    }

    pub(super) fn max_connections(&self) -> usize {
        self.config.gateway.max_connections as usize
    }

    pub(super) fn generation(&self) -> u64 {
        self.config.policy.generation
    }
}

impl fmt::Debug for Snapshot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Snapshot")
            .field("generation", &self.generation())
            .finish_non_exhaustive()
    }
}
