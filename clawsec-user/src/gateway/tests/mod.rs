//! The gateway whole, in process: real sockets on loopback, a fake upstream that speaks the
//! gateway's protocol, and a fake supervisor at the other end of the socketpair.

mod answers;
mod bad_input;
mod canvas;
mod client;
mod drain;
mod failures;
mod fake_supervisor;
mod fake_upstream;
mod http;
mod http2;
mod http2_frames;
mod limits;
mod listeners;
mod node;
mod own;
mod reuse;
mod routes;
mod rules;
mod slow;
mod timed;
mod tls;
mod ui;
mod websocket;

use std::net::{IpAddr, SocketAddr, TcpListener};
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use self::fake_supervisor::supervisor_answer;
use self::fake_upstream::FakeUpstream;
pub(super) use self::rules::Rules;
use self::rules::compile;
use super::serve::{self, GatewayError};
use super::shared::Deadlines;
use crate::event::{Event, Outcome};
use crate::ipc::{self, OwnRole, OwnState, ToGateway, ToSupervisor};

pub(super) const ADMIN_KEY: &str = "admin-key-0123456789";
pub(super) const READ_KEY: &str = "read-key-0123456789ab";
/// Writes, and is bound to the agent `work`.
pub(super) const WORK_KEY: &str = "work-key-0123456789ab";
pub(super) const UPSTREAM_TOKEN: &str = "upstream-token-0123456789";

/// A running gateway with its two neighbours.
pub(super) struct Rig {
    pub(super) address: SocketAddr,
    pub(super) upstream: FakeUpstream,
    pub(super) gateway: JoinHandle<Result<(), GatewayError>>,
    to_gateway: mpsc::Sender<ToGateway>,
    /// What the supervisor was told, events apart.
    told: mpsc::Receiver<ToSupervisor>,
    /// States of clawsec's own connections.
    own: mpsc::Receiver<(OwnRole, OwnState)>,
    events: Arc<Mutex<Vec<Event>>>,
}

impl Rig {
    pub(super) async fn start(rules: Rules) -> Self {
        Self::start_with(rules, Deadlines::default()).await
    }

    pub(super) async fn start_with(rules: Rules, deadlines: Deadlines) -> Self {
        Self::start_before(FakeUpstream::start().await, rules, deadlines).await
    }

    /// The same, before an upstream that was told what to do.
    async fn start_before(upstream: FakeUpstream, rules: Rules, deadlines: Deadlines) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let (ours, theirs) = UnixStream::pair().unwrap();
        let gateway = tokio::spawn(serve::run_with(vec![listener], theirs, compile, deadlines));

        ours.set_nonblocking(true).unwrap();
        let ours = tokio::net::UnixStream::from_std(ours).unwrap();
        let (mut reader, mut writer) = ipc::split::<ToSupervisor, ToGateway>(ours);
        let (to_gateway, mut outgoing) = mpsc::channel::<ToGateway>(16);
        let (tell, told) = mpsc::channel(1024);
        let (tell_own, own) = mpsc::channel(1024);
        let events: Arc<Mutex<Vec<Event>>> = Arc::default();
        tokio::spawn(async move {
            while let Some(message) = outgoing.recv().await {
                writer.send(&message).await.unwrap();
            }
        });
        let answers = to_gateway.clone();
        let seen = Arc::clone(&events);
        tokio::spawn(async move {
            while let Ok(message) = reader.receive().await {
                match message {
                    ToSupervisor::Event(event) => seen.lock().unwrap().push(*event),
                    // They come by the clock; what is counted has tests of its own.
                    ToSupervisor::Figures { .. } => {}
                    ToSupervisor::Tool { id, call } => {
                        if let Some(answer) = supervisor_answer(&call.command) {
                            let answer = ToGateway::Answer { id, answer };
                            answers.send(answer).await.unwrap();
                        }
                        tell.send(ToSupervisor::Tool { id, call }).await.unwrap();
                    }
                    ToSupervisor::Own { role, state } => {
                        tell_own.send((role, state)).await.unwrap();
                    }
                    message => {
                        if tell.send(message).await.is_err() {
                            return;
                        }
                    }
                }
            }
        });
        let mut rig = Self {
            address,
            upstream,
            gateway,
            to_gateway,
            told,
            own,
            events,
        };
        rig.install(rules).await;
        rig
    }

    /// Puts a policy in force and waits until it is.
    pub(super) async fn install(&mut self, rules: Rules) {
        let generation = rules.generation;
        self.send(rules.policy(self.upstream.port)).await;
        let answer = self.told().await;
        assert!(
            matches!(answer, ToSupervisor::Ready { generation: g } if g == generation),
            "{answer:?}"
        );
    }

    pub(super) async fn send(&self, message: ToGateway) {
        self.to_gateway.send(message).await.unwrap();
    }

    /// The next thing the supervisor is told that is not an event.
    pub(super) async fn told(&mut self) -> ToSupervisor {
        let told = tokio::time::timeout(Duration::from_secs(5), self.told.recv());
        told.await.expect("in time").expect("a message")
    }

    /// Every event so far with this action and reason.
    pub(super) fn seen(&self, action: &str, reason: &str) -> Vec<Event> {
        let events = self.events.lock().unwrap();
        let found = events
            .iter()
            .filter(|e| e.action == action && e.reason == reason);
        found.cloned().collect()
    }

    /// Waits for an event with this action, outcome and reason.
    pub(super) async fn event(&self, action: &str, outcome: Outcome, reason: &str) -> Event {
        let is_it = |event: &&Event| {
            event.action == action && event.outcome == outcome && event.reason == reason
        };
        self.event_where(is_it)
            .await
            .unwrap_or_else(|told| panic!("no {action} {outcome:?} {reason} in {told:#?}"))
    }

    /// Waits for an event with this action, reason and source.
    pub(super) async fn event_of(&self, action: &str, reason: &str, source: IpAddr) -> Event {
        let is_it = |event: &&Event| {
            event.action == action && event.reason == reason && event.source == Some(source)
        };
        self.event_where(is_it)
            .await
            .unwrap_or_else(|told| panic!("no {action} {reason} of {source} in {told:#?}"))
    }

    /// Waits until what happened is told as often as it did, and no more; the events.
    pub(super) async fn counted(&self, action: &str, reason: &str, count: u64) -> Vec<Event> {
        for _ in 0..500 {
            let events = self.seen(action, reason);
            let told: u64 = events.iter().map(|event| event.count).sum();
            assert!(told <= count, "{action} {reason}: {told} of {count}");
            if told == count {
                return events;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        panic!("less {action} {reason} than {count}");
    }

    /// Waits for an event; all there were, if it does not come.
    async fn event_where(&self, is_it: impl Fn(&&Event) -> bool) -> Result<Event, Vec<Event>> {
        for _ in 0..500 {
            if let Some(event) = self.events.lock().unwrap().iter().find(&is_it) {
                return Ok(event.clone());
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        Err(self.events.lock().unwrap().clone())
    }
}
