//! What the supervisor's tasks share.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use tokio::sync::mpsc;

use super::acme::Held;
use super::confirm::Confirmation;
use super::records::Records;
use super::secrets::{self, SecretError};
use super::seen::Seen;
use super::service::Service;
use super::timed::Timed;
use crate::config::Config;
use crate::enforcer::Enforcer;
use crate::ipc::{OwnRole, OwnState, PolicyUpdate, ToGateway};
use crate::sandbox::{Registry, Sandbox};

/// From the command line.
#[derive(Debug, Clone)]
pub struct Options {
    /// Overrides `security.network.interfaces` when not empty.
    pub interfaces: Vec<String>,
    pub no_xdp: bool,
    pub bpf_log: bool,
    pub pin_dir: PathBuf,
    pub state_dir: PathBuf,
    /// Take a new policy back unless `clawsec confirm` arrives within this time.
    pub confirm: Option<Duration>,
    /// Put a policy in force even where it cuts off an operator's own session.
    pub yes: bool,
}

pub(super) struct State {
    pub(super) options: Options,
    pub(super) started: Instant,
    config: ArcSwap<Config>,
    pub(super) records: Records,
    pub(super) timed: Timed,
    pub(super) seen: Seen,
    pub(super) confirmation: Confirmation,
    pub(super) service: Service,
    /// What an authority may ask for now.
    pub(super) challenges: Held,
    enforcer: Option<Mutex<Enforcer>>,
    tools: ArcSwap<Result<Arc<Tools>, Arc<str>>>,
    gateway: Mutex<Option<(u32, mpsc::Sender<ToGateway>)>>,
    /// The gateway process's own connections to the protected gateway.
    own: Mutex<BTreeMap<OwnRole, OwnState>>,
}

/// The open provider, and what runs in the background in it.
pub(super) struct Tools {
    pub(super) sandbox: Sandbox,
    pub(super) executions: Registry,
}

impl Tools {
    pub(super) fn new(sandbox: Sandbox) -> Self {
        Self {
            executions: Registry::new(sandbox.clone()),
            sandbox,
        }
    }
}

impl State {
    pub(super) fn new(
        options: Options,
        config: Config,
        records: Records,
        timed: Timed,
        enforcer: Option<Enforcer>,
        tools: Result<Tools, String>,
    ) -> Self {
        Self {
            options,
            started: Instant::now(),
            config: ArcSwap::from_pointee(config),
            records,
            timed,
            seen: Seen::new(),
            confirmation: Confirmation::default(),
            service: Service::of_this_process(),
            challenges: Held::default(),
            enforcer: enforcer.map(Mutex::new),
            tools: ArcSwap::from_pointee(shared(tools)),
            gateway: Mutex::new(None),
            own: Mutex::default(),
        }
    }

    /// One line for a service manager.
    pub(super) fn in_words(&self) -> String {
        let generation = self.config().policy.generation;
        let filtered = self.enforcer().map(|enforcer| {
            let attached = enforcer.attachments().iter();
            let attached: Vec<String> = attached
                .map(|one| format!("{} ({})", one.interface, one.mode.as_str()))
                .collect();
            attached.join(", ")
        });
        let filtered = filtered.unwrap_or_else(|| "nothing".to_owned());
        format!("generation {generation} in force, filtering {filtered}")
    }

    /// The configuration in force.
    pub(super) fn config(&self) -> Arc<Config> {
        self.config.load_full()
    }

    pub(super) fn put_in_force(&self, config: Config) {
        self.config.store(Arc::new(config));
        self.seen.policy_changed();
    }

    /// The sandbox, or why there is none: it is off, or its provider is broken.
    pub(super) fn tools(&self) -> Result<Arc<Tools>, Arc<str>> {
        self.tools.load().as_ref().clone()
    }

    /// Puts another provider in place; returns the one before, to be closed.
    pub(super) fn replace_tools(&self, tools: Result<Tools, String>) -> Option<Arc<Tools>> {
        self.tools
            .swap(Arc::new(shared(tools)))
            .as_ref()
            .clone()
            .ok()
    }

    pub(super) fn set_gateway(&self, gateway: Option<(u32, mpsc::Sender<ToGateway>)>) {
        *self.gateway.lock().unwrap_or_else(PoisonError::into_inner) = gateway;
        // Another process has connections of its own.
        self.own_states().clear();
        self.seen.gateway_gone();
    }

    pub(super) fn set_own(&self, role: OwnRole, state: OwnState) {
        self.own_states().insert(role, state);
    }

    /// In words, for `status`.
    pub(super) fn own(&self, role: OwnRole) -> String {
        let states = self.own_states();
        states
            .get(&role)
            .map_or_else(|| "not yet".to_owned(), OwnState::in_words)
    }

    pub(super) fn is_connected(&self, role: OwnRole) -> bool {
        matches!(
            self.own_states().get(&role),
            Some(OwnState::Connected { .. })
        )
    }

    fn own_states(&self) -> MutexGuard<'_, BTreeMap<OwnRole, OwnState>> {
        self.own.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn gateway_pid(&self) -> Option<u32> {
        let gateway = self.gateway.lock().unwrap_or_else(PoisonError::into_inner);
        gateway.as_ref().map(|(pid, _)| *pid)
    }

    pub(super) fn gateway_sender(&self) -> Option<mpsc::Sender<ToGateway>> {
        let gateway = self.gateway.lock().unwrap_or_else(PoisonError::into_inner);
        gateway.as_ref().map(|(_, sender)| sender.clone())
    }

    /// What the gateway process is sent of the configuration in force.
    pub(super) fn policy_update(&self) -> Result<PolicyUpdate, SecretError> {
        self.policy_update_of(&self.config())
    }

    pub(super) fn policy_update_of(&self, config: &Config) -> Result<PolicyUpdate, SecretError> {
        let own = OwnRole::ALL.map(OwnRole::seed_id);
        let ids = config.policy.credentials.ids().chain(own);
        Ok(PolicyUpdate {
            generation: config.policy.generation,
            document: config.redacted_document.clone(),
            path: config.path.display().to_string(),
            tls: config
                .gateway
                .tls
                .as_ref()
                .map(secrets::tls_material)
                .transpose()?,
            upstream_token: config
                .gateway
                .upstream_token
                .as_ref()
                .map(|t| t.reveal().to_owned()),
            device_seeds: secrets::device_seeds(&self.options.state_dir, ids)?,
        })
    }

    /// The packet plane, if there is one. Its calls are system calls on maps: short, never
    /// awaited under the lock.
    pub(super) fn enforcer(&self) -> Option<MutexGuard<'_, Enforcer>> {
        self.enforcer
            .as_ref()
            .map(|lock| lock.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

fn shared(tools: Result<Tools, String>) -> Result<Arc<Tools>, Arc<str>> {
    tools.map(Arc::new).map_err(Arc::from)
}
