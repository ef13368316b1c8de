//! From a checked configuration to a running daemon, and back down.
//!
//! The order is the promise: ports are held first, the packet filter judges before anything
//! listens, the audit log is open before anything is decided, and at stop the last checkpoint is
//! written after the last packet was counted.

use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use super::child::{self, ChildError};
use super::inherited::Inherited;
use super::link::{Applied, Link};
use super::listen::{self, ListenError};
use super::records::Records;
use super::secrets::SecretError;
use super::seen;
use super::service;
use super::signals::Signals;
use super::state::{Options, State, Tools};
use super::timed::{self, Timed};
use super::{acme, admin, announce, interfaces, kernel, presence, reload};
use crate::audit::{AuditError, CheckpointCause};
use crate::causes;
use crate::config::{Config, OnExit};
use crate::enforcer::{self, Enforcer, EnforcerError, EnforcerPlan};
use crate::event::{Event, EventKind, Outcome};
use crate::sandbox::Sandbox;

/// Who can mend a failed start; the exit code follows from it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Blame {
    Configuration,
    Kernel,
    /// Nobody said that the policy is good.
    Unconfirmed,
    System,
}

#[derive(Debug, thiserror::Error)]
pub enum StartError {
    #[error("bind the listening sockets")]
    Listen(#[from] ListenError),
    #[error("read the daemon's secrets")]
    Secrets(#[from] SecretError),
    #[error("read or write the daemon's state in {path}")]
    StateDirectory {
        path: std::path::PathBuf,
        #[source]
        source: std::io::Error,
    },
    #[error("list the network interfaces")]
    Interfaces(#[source] std::io::Error),
    #[error(
        "no Ethernet interface carries the listen addresses: name some in security.network.interfaces, or run with --no-xdp"
    )]
    NoInterface,
    #[error("start the packet filter; --no-xdp runs without it")]
    Enforcer(#[source] EnforcerError),
    #[error("open the audit log")]
    Audit(#[source] AuditError),
    #[error("bind the admin socket {path}")]
    Admin {
        path: std::path::PathBuf,
        #[source]
        source: std::io::Error,
    },
    #[error("make the first certificate (gateway.tls.acme.dir)")]
    Acme(#[source] std::io::Error),
    #[error("run the gateway process")]
    Child(#[from] ChildError),
    #[error("the gateway process refused the configuration: {why}")]
    Refused { why: String },
    #[error("the gateway process did not get ready within {} s", READY.as_secs())]
    NotReady,
    #[error("nobody confirmed the policy; what was in force before is in force again")]
    Unconfirmed,
    #[error("listen for signals")]
    Signals(#[source] std::io::Error),
}

impl StartError {
    pub fn blame(&self) -> Blame {
        match self {
            Self::Enforcer(_) => Blame::Kernel,
            Self::Unconfirmed => Blame::Unconfirmed,
            Self::Refused { .. }
            | Self::Secrets(SecretError::Read { .. })
            | Self::NoInterface
            | Self::Listen(ListenError::Inherited(_)) => Blame::Configuration,
            _ => Blame::System,
        }
    }
}

/// How long the gateway process may take to compile its first policy.
const READY: Duration = Duration::from_secs(20);

/// Runs the daemon until SIGTERM or SIGINT.
pub async fn run(mut config: Config, options: Options) -> Result<(), StartError> {
    for warning in &config.warnings {
        tracing::warn!("{}: {}", warning.path, warning.message);
    }
    let signals = Signals::new().map_err(StartError::Signals)?;
    let inherited = Inherited::of_this_process().map_err(ListenError::from)?;
    let account = child::account()?;
    let addresses = config.gateway.listen.iter().map(|entry| entry.address);
    // In this order the gateway process knows them.
    let metrics = config.gateway.metrics.map(|metrics| metrics.address);
    let acme = config
        .gateway
        .tls
        .as_ref()
        .and_then(|tls| tls.acme.as_ref());
    let challenged = acme.iter().flat_map(|acme| acme.listen.iter().copied());
    let bound = listen::bind_all(addresses.chain(metrics).chain(challenged), inherited)?;
    if let Some(acme) = acme {
        acme::prepare(acme).map_err(StartError::Acme)?;
    }
    config.number(reload::next_generation(&options.state_dir)?);
    let records = Records::open(&config.audit).map_err(StartError::Audit)?;
    let timed = Timed::open(&options.state_dir);
    let enforcer = match start_enforcer(&config, &options, &timed) {
        Ok(enforcer) => enforcer,
        Err(error) => {
            // Nothing new is in force; the log says what was tried.
            records.report(failed(&error, config.policy.generation));
            records.close().await;
            return Err(error);
        }
    };
    let tools = open_tools(&config).await;
    let state = Arc::new(State::new(options, config, records, timed, enforcer, tools));
    let stop = CancellationToken::new();
    let mut tasks = tokio::task::JoinSet::new();
    // From here on the filter is attached: whatever happens, it is left as `shut_down` leaves it.
    let result = serve(&state, &mut tasks, &stop, signals, account, bound).await;
    if let Err(error) = &result
        && !matches!(error, StartError::Unconfirmed)
    {
        state
            .records
            .report(failed(error, state.config().policy.generation));
    }
    stop.cancel();
    shut_down(&state, tasks).await;
    result
}

/// From an attached filter to the end of the daemon's work.
async fn serve(
    state: &Arc<State>,
    tasks: &mut tokio::task::JoinSet<()>,
    stop: &CancellationToken,
    signals: Signals,
    account: child::Account,
    bound: listen::Bound,
) -> Result<(), StartError> {
    timed::start(state, tasks, stop).await;
    kernel::start(state, tasks, stop).map_err(StartError::Enforcer)?;

    let config = state.config();
    let socket = admin::bind(&config.gateway.admin_socket).map_err(|source| StartError::Admin {
        path: config.gateway.admin_socket.clone(),
        source,
    })?;
    tasks.spawn(admin::serve(socket, Arc::clone(state)));

    let link = Link::new(Arc::clone(state), account, bound.listen()?, stop.clone());
    let applied = link.applied();
    let mut link = tokio::spawn(link.run());
    if let Err(error) = wait_until_ready(applied.clone()).await {
        stop.cancel();
        let _ended = link.await;
        return Err(error);
    }
    announce::announce(state);
    state.service.ready(&state.in_words());
    tasks.spawn(service::live(Arc::clone(state)));
    let probation = state
        .options
        .confirm
        .map(|within| state.confirmation.begin(config.policy.generation, within));
    drop(config);
    tasks.spawn(presence::follow(Arc::clone(state)));
    tasks.spawn(sweep(Arc::clone(state)));
    tasks.spawn(acme::keep(Arc::clone(state)));
    tasks.spawn(seen::remember(Arc::clone(state)));

    let result = tokio::select! {
        result = signals.until_stop(state, applied, probation) => result,
        ended = &mut link => match ended {
            Ok(Err(error)) => Err(StartError::Child(error)),
            _ => Ok(()),
        },
    };
    tracing::info!("stopping");
    state.service.stopping();
    stop.cancel();
    if !link.is_finished() {
        let _ended = link.await;
    }
    result
}

/// A start that came to nothing, or a daemon that had to end.
fn failed(error: &StartError, generation: u64) -> Event {
    let mut event = Event::new(EventKind::System, "start", Outcome::Error, "failed");
    event.generation = generation;
    event.detail = Some(causes::chain(error));
    event
}

fn start_enforcer(
    config: &Config,
    options: &Options,
    timed: &Timed,
) -> Result<Option<Enforcer>, StartError> {
    if options.no_xdp {
        tracing::warn!("--no-xdp: packets are not filtered; addresses are checked at accept only");
        return Ok(None);
    }
    let names = if !options.interfaces.is_empty() {
        options.interfaces.clone()
    } else if !config.kernel.interfaces.is_empty() {
        config.kernel.interfaces.clone()
    } else {
        interfaces::choose(&config.gateway.listen).map_err(StartError::Interfaces)?
    };
    if names.is_empty() {
        if config
            .gateway
            .listen
            .iter()
            .all(|listen| listen.address.ip().is_loopback())
        {
            tracing::info!("clawsec listens on loopback only; there is no interface to filter");
            return Ok(None);
        }
        return Err(StartError::NoInterface);
    }
    let plan = EnforcerPlan {
        interfaces: names,
        mode: config.kernel.mode,
        pin_dir: options.pin_dir.clone(),
        bpf_log: options.bpf_log,
    };
    Enforcer::start_carrying(&plan, &config.packets, &timed.carried())
        .map(Some)
        .map_err(StartError::Enforcer)
}

/// A provider that is broken does not stop the daemon: its tools are denied, never run outside.
pub(super) async fn open_tools(config: &Config) -> Result<Tools, String> {
    if !config.sandbox.enabled {
        return Err("the sandbox is off (security.sandbox.enabled)".into());
    }
    match Sandbox::open(&config.sandbox, &instance(config)).await {
        Ok(sandbox) => {
            match sandbox.remove_orphans().await {
                Ok(0) => {}
                Ok(count) => tracing::info!(count, "removed executions of an earlier daemon"),
                Err(error) => tracing::warn!("remove orphans: {}", causes::chain(&error)),
            }
            Ok(Tools::new(sandbox))
        }
        Err(error) => {
            let why = causes::chain(&error);
            tracing::error!("sandboxed tools are denied: {why}");
            Err(why)
        }
    }
}

/// Removes orphans again and again: docker may have been making a container when the daemon that
/// asked for it was killed, and shows it after the new one has started.
async fn sweep(state: Arc<State>) {
    let mut pause = SWEEP_FIRST;
    loop {
        tokio::time::sleep(pause).await;
        pause = SWEEP;
        let Ok(tools) = state.tools() else {
            continue;
        };
        match tools.sandbox.remove_orphans().await {
            Ok(0) => {}
            Ok(count) => tracing::info!(count, "removed executions of an earlier daemon"),
            Err(error) => tracing::warn!("remove orphans: {}", causes::chain(&error)),
        }
    }
}

const SWEEP_FIRST: Duration = Duration::from_secs(5);
const SWEEP: Duration = Duration::from_mins(1);

/// Kills what still runs and waits until it is removed.
pub(super) async fn close_tools(tools: &Tools) {
    const DEADLINE: Duration = Duration::from_secs(5);
    if !(tools.executions.close(DEADLINE).await && tools.sandbox.close(DEADLINE).await) {
        tracing::warn!("executions are not removed yet; the next start does it");
    }
}

/// Which daemon a container belongs to: one per audit log, whose lock one daemon holds.
fn instance(config: &Config) -> String {
    use aws_lc_rs::digest;
    let path = config.audit.path.as_os_str().as_encoded_bytes();
    let digest = digest::digest(&digest::SHA256, path);
    let short = digest.as_ref().iter().take(6);
    short.fold(String::new(), |name, byte| format!("{name}{byte:02x}"))
}

async fn wait_until_ready(
    mut applied: tokio::sync::watch::Receiver<Applied>,
) -> Result<(), StartError> {
    let decided = applied.wait_for(|applied| *applied != Applied::NotYet);
    match tokio::time::timeout(READY, decided).await {
        Ok(Ok(applied)) => match &*applied {
            Applied::Refused { why, .. } => Err(StartError::Refused { why: why.clone() }),
            _ => Ok(()),
        },
        _ => Err(StartError::NotReady),
    }
}

/// Ends the tasks, writes the last checkpoint, and closes the log.
async fn shut_down(state: &Arc<State>, mut tasks: tokio::task::JoinSet<()>) {
    tasks.shutdown().await;
    timed::finish(state).await;
    if let Some(tools) = state.replace_tools(Err("the daemon is stopping".into())) {
        close_tools(&tools).await;
    }
    kernel::checkpoint(state, CheckpointCause::Forced);
    let mut event = Event::new(EventKind::System, "stop", Outcome::Allow, "ok");
    event.generation = state.config().policy.generation;
    if state.config().kernel.on_exit == OnExit::Detach && state.enforcer().is_some() {
        match enforcer::detach(&state.options.pin_dir) {
            Ok(_) => event.detail = Some("packet filter removed (network.onExit)".into()),
            Err(error) => {
                event.outcome = Outcome::Error;
                event.detail = Some(causes::chain(&error));
                tracing::error!("remove the packet filter: {}", causes::chain(&error));
            }
        }
    } else if state.enforcer().is_some() {
        event.detail = Some("packet filter stays".into());
    }
    state.records.report(event);
    state.records.close().await;
    // The admin socket of a stopped daemon would only confuse.
    let _gone = std::fs::remove_file(&state.config().gateway.admin_socket);
}
