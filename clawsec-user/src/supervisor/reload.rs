//! A new configuration in the place of the old one, or not at all.
//!
//! Parse, check and compile; let the gateway process prepare and take it; then fill, verify and
//! flip the kernel's idle slot. Whatever fails, the old policy stays in both planes: a gateway
//! that took a policy the kernel refused is given the old one back, and since a request must
//! pass both planes, the moment between admits nothing that either would refuse.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use tokio::sync::watch;

use super::acme;
use super::link::{self, Applied};
use super::lockout;
use super::start::{StartError, close_tools, open_tools};
use super::state::State;
use crate::causes;
use crate::config::{self, AcmeConfig, Config, FileTrust};
use crate::event::{Event, EventKind, Outcome};

/// How long the gateway may take to compile and take a policy.
const APPLY: Duration = Duration::from_secs(10);
/// How often the file is looked at, and how long it must rest before it is read.
const POLL: Duration = Duration::from_millis(500);

/// Reads the file again and puts it in force, or says why not; either way a record. Gives what
/// was in force before, if it is no longer.
pub(super) async fn reload(
    state: &Arc<State>,
    applied: &mut watch::Receiver<Applied>,
) -> Option<Arc<Config>> {
    let before = state.config();
    let mut replaced = None;
    let mut event = Event::new(EventKind::Config, "reload", Outcome::Allow, "ok");
    event.generation = before.policy.generation;
    state.service.reloading();
    let attempted = attempt(state, &before, applied).await;
    state.service.ready(&state.in_words());
    match attempted {
        Ok(generation) => {
            tracing::info!(generation, "the new configuration is in force");
            event.generation = generation;
            replaced = Some(before);
        }
        Err(why) => {
            tracing::error!("the new configuration is refused, the old one stays: {why}");
            event.outcome = Outcome::Error;
            event.reason = "configuration_refused".into();
            event.detail = Some(why);
        }
    }
    state.records.report(event);
    replaced
}

/// Puts a configuration that was in force before back, whole; its generation is its own still.
pub(super) async fn put_back(
    state: &Arc<State>,
    before: &Config,
    applied: &mut watch::Receiver<Applied>,
) -> Result<(), String> {
    // The packet plane is the one that locks people out.
    exchange(state, before.clone(), First::Kernel, applied).await
}

async fn attempt(
    state: &Arc<State>,
    before: &Config,
    applied: &mut watch::Receiver<Applied>,
) -> Result<u64, String> {
    if let Some(why) = state.confirmation.refusal() {
        return Err(why);
    }
    let mut config =
        config::load(&before.path, FileTrust::Run).map_err(|error| error.to_string())?;
    refuse_what_needs_a_restart(before, &config)?;
    refuse_a_lockout(state, &config)?;
    if let Some(acme) = authority(&config) {
        acme::prepare(acme).map_err(|error| format!("gateway.tls.acme.dir: {error}"))?;
    }
    let generation =
        next_generation(&state.options.state_dir).map_err(|error| causes::chain(&error))?;
    config.number(generation);
    exchange(state, config, First::Gateway, applied).await?;
    Ok(generation)
}

/// Which plane is asked first when one policy takes another's place.
#[derive(Clone, Copy, PartialEq, Eq)]
enum First {
    /// A new policy, which either plane may refuse: what refuses more often goes first.
    Gateway,
    /// A policy that both planes have held before; a gateway that is being started again takes
    /// it as its first.
    Kernel,
}

/// Puts a configuration in force in both planes and in the sandbox. An error of the plane that
/// was asked first leaves the old one in force in both.
async fn exchange(
    state: &Arc<State>,
    config: Config,
    first: First,
    applied: &mut watch::Receiver<Applied>,
) -> Result<(), String> {
    let before = state.config();
    let generation = config.policy.generation;
    if first == First::Kernel {
        switch_kernel(state, &config)?;
    }
    let update = state
        .policy_update_of(&config)
        .map_err(|error| causes::chain(&error))?;
    if first == First::Gateway {
        if !link::publish(state, update).await {
            return Err("the gateway process is being started again; try once more".into());
        }
        wait_for(applied, generation).await?;
        if let Err(why) = switch_kernel(state, &config) {
            if let Ok(update) = state.policy_update_of(&before) {
                link::publish(state, update).await;
            }
            return Err(why);
        }
        put_in_force(state, &before, config).await;
        return Ok(());
    }
    put_in_force(state, &before, config).await;
    if link::publish(state, update).await {
        wait_for(applied, generation).await?;
    }
    Ok(())
}

fn switch_kernel(state: &State, config: &Config) -> Result<(), String> {
    match state.enforcer() {
        Some(mut enforcer) => enforcer
            .switch(&config.packets)
            .map_err(|error| causes::chain(&error)),
        None => Ok(()),
    }
}

/// The supervisor's own copy, and the sandbox where it is another.
async fn put_in_force(state: &Arc<State>, before: &Config, config: Config) {
    if config.sandbox != before.sandbox
        && let Some(replaced) = state.replace_tools(open_tools(&config).await)
    {
        tokio::spawn(async move { close_tools(&replaced).await });
    }
    state.put_in_force(config);
}

/// As at start, less the shell that started the daemon: it may be long gone.
fn refuse_a_lockout(state: &State, config: &Config) -> Result<(), String> {
    let options = &state.options;
    if options.no_xdp || options.yes || options.confirm.is_some() {
        return Ok(());
    }
    match lockout::locked_out(config, &lockout::sessions(None)) {
        None => Ok(()),
        Some(session) => Err(lockout::remedy(session)),
    }
}

/// What cannot change under a running daemon; an honest refusal beats half a reload.
fn refuse_what_needs_a_restart(before: &Config, after: &Config) -> Result<(), String> {
    let rows = [
        (
            "gateway.listen",
            !before
                .gateway
                .listen
                .iter()
                .map(|entry| entry.address)
                .eq(after.gateway.listen.iter().map(|entry| entry.address)),
        ),
        (
            "gateway.admin.socket",
            before.gateway.admin_socket != after.gateway.admin_socket,
        ),
        (
            "gateway.admin.metrics",
            before.gateway.metrics.map(|metrics| metrics.address)
                != after.gateway.metrics.map(|metrics| metrics.address),
        ),
        (
            "gateway.tls.acme.listen",
            authority(before).map(|acme| &acme.listen) != authority(after).map(|acme| &acme.listen),
        ),
        ("security.network.interfaces", before.kernel != after.kernel),
        ("security.audit", before.audit != after.audit),
    ];
    let changed: Vec<&str> = rows
        .into_iter()
        .filter(|(_, changed)| *changed)
        .map(|(key, _)| key)
        .collect();
    if changed.is_empty() {
        return Ok(());
    }
    Err(format!(
        "{} changed: restart the daemon to apply it",
        changed.join(", ")
    ))
}

fn authority(config: &Config) -> Option<&AcmeConfig> {
    config.gateway.tls.as_ref()?.acme.as_ref()
}

async fn wait_for(applied: &mut watch::Receiver<Applied>, wanted: u64) -> Result<(), String> {
    let decided = applied.wait_for(|applied| match applied {
        Applied::NotYet => false,
        Applied::Ready(generation) | Applied::Refused { generation, .. } => *generation == wanted,
    });
    match tokio::time::timeout(APPLY, decided).await {
        Ok(Ok(applied)) => match &*applied {
            Applied::Refused { why, .. } => Err(why.clone()),
            _ => Ok(()),
        },
        _ => Err(format!(
            "the gateway process did not answer within {} s",
            APPLY.as_secs()
        )),
    }
}

/// The next policy generation: it grows over restarts too, so that a record's generation names
/// one policy for ever.
pub(super) fn next_generation(state_dir: &Path) -> Result<u64, StartError> {
    let path = state_dir.join("generation");
    let failed = |source| StartError::StateDirectory {
        path: path.clone(),
        source,
    };
    let last = match std::fs::read_to_string(&path) {
        Ok(text) => text.trim().parse().unwrap_or(0),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => 0,
        Err(error) => return Err(failed(error)),
    };
    let next: u64 = last + 1;
    let write = || {
        use std::os::unix::fs::DirBuilderExt as _;
        std::fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(state_dir)?;
        let new = path.with_extension("new");
        std::fs::write(&new, next.to_string())?;
        std::fs::rename(&new, &path)
    };
    write().map_err(failed)?;
    Ok(next)
}

/// Notices that the configuration, the certificate or its key was replaced or rewritten, by size,
/// time and inode.
pub(super) struct FileWatch {
    seen: Vec<(PathBuf, Option<Stamp>)>,
}

type Stamp = (u64, Option<SystemTime>, u64);

impl FileWatch {
    pub(super) fn new(config: &Config) -> Self {
        let tls = config.gateway.tls.iter();
        let tls = tls.flat_map(|tls| [&tls.cert, &tls.key].into_iter().chain(&tls.client_ca));
        Self::of(std::iter::once(&config.path).chain(tls))
    }

    fn of<'a>(paths: impl Iterator<Item = &'a PathBuf>) -> Self {
        Self {
            seen: paths.map(|path| (path.clone(), stamp(path))).collect(),
        }
    }

    /// Takes the files as they are now for known.
    pub(super) fn settle(&mut self) {
        for (path, seen) in &mut self.seen {
            *seen = stamp(path);
        }
    }

    /// Watches the files of `config`, which may name another certificate than before.
    pub(super) fn follow(&mut self, config: &Config) {
        let mut fresh = Self::new(config);
        for (path, stamp) in &mut fresh.seen {
            if let Some((_, known)) = self.seen.iter().find(|(known, _)| known == path) {
                *stamp = *known;
            }
        }
        *self = fresh;
    }

    /// Waits until a file has changed and all have then rested for one poll: a certificate and
    /// its key are replaced one after the other.
    ///
    /// # Cancel safety
    ///
    /// Cancel safe: nothing is lost but the wait.
    pub(super) async fn changed(&mut self) {
        let mut candidate = None;
        loop {
            tokio::time::sleep(POLL).await;
            let now: Vec<_> = self.seen.iter().map(|(path, _)| stamp(path)).collect();
            let whole = now.iter().all(Option::is_some);
            if whole && !now.iter().eq(self.seen.iter().map(|(_, stamp)| stamp)) {
                if candidate.as_ref() == Some(&now) {
                    for ((_, seen), now) in self.seen.iter_mut().zip(now) {
                        *seen = now;
                    }
                    return;
                }
                candidate = Some(now);
            }
        }
    }
}

fn stamp(path: &Path) -> Option<Stamp> {
    use std::os::unix::fs::MetadataExt as _;
    let metadata = std::fs::metadata(path).ok()?;
    Some((metadata.len(), metadata.modified().ok(), metadata.ino()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn generations_grow_over_restarts() {
        let dir = tempfile::tempdir().unwrap();
        let state = dir.path().join("state");
        assert_eq!(next_generation(&state).unwrap(), 1);
        assert_eq!(next_generation(&state).unwrap(), 2);
    }

    #[tokio::test(start_paused = true)]
    async fn a_replaced_file_is_noticed() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("clawsec.json");
        let key = dir.path().join("key.pem");
        std::fs::write(&path, "{}").unwrap();
        std::fs::write(&key, "").unwrap();
        let mut watch = FileWatch::of([&path, &key].into_iter());
        assert!(
            tokio::time::timeout(POLL * 4, watch.changed())
                .await
                .is_err()
        );
        for (file, text) in [(&path, "{ }"), (&key, "key")] {
            std::fs::write(file, text).unwrap();
            assert!(
                tokio::time::timeout(POLL * 4, watch.changed())
                    .await
                    .is_ok()
            );
        }
        assert!(
            tokio::time::timeout(POLL * 4, watch.changed())
                .await
                .is_err()
        );
    }
}
