//! Attackers that the packet filter lets in: what each does to a gateway behind TLS.
//!
//! `system::attacks` asserts what must hold meanwhile, `cargo xtask bench attack` measures what is
//! left for others. Every attack ends when it is told to; loopback and namespaces only.

mod http1;
mod http2;
mod tls;
mod websocket;

use std::collections::BTreeMap;
use std::fs::File;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::AsFd as _;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use rustix::thread::{CpuSet, LinkNameSpaceType, move_into_link_name_space, sched_setaffinity};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use tokio::net::{TcpSocket, TcpStream};
use tokio::task::JoinSet;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use xtask::lab::{Host, Lab};

/// One kind of attack.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Attack {
    /// Connects and leaves.
    Churn,
    /// Says hello, lets the server sign, and leaves.
    Hellos,
    /// Whole TLS handshakes without a request.
    Handshakes,
    /// Heads that come a byte at a time.
    SlowHeads,
    /// Heads of a thousand lines.
    HeaderBombs,
    /// Requests whose end two readers may see in two places.
    Smuggling,
    /// Wrong keys.
    Guesses,
    /// HTTP/2 streams that are opened and reset at once (CVE-2023-44487).
    RapidReset,
    /// One HTTP/2 head in frames without end (CVE-2024-27316).
    Continuation,
    /// HTTP/2 settings, each to be acknowledged (CVE-2019-9515).
    Settings,
    /// Small WebSocket messages with a valid key, as fast as they can be written.
    Frames,
    /// One WebSocket message in fragments of one byte, without end, with a valid key.
    Fragments,
    /// Pings, with a valid key.
    Pings,
}

impl Attack {
    pub(crate) const ALL: [Self; 13] = [
        Self::Churn,
        Self::Hellos,
        Self::Handshakes,
        Self::SlowHeads,
        Self::HeaderBombs,
        Self::Smuggling,
        Self::Guesses,
        Self::RapidReset,
        Self::Continuation,
        Self::Settings,
        Self::Frames,
        Self::Fragments,
        Self::Pings,
    ];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Churn => "connections that come and go",
            Self::Hellos => "TLS hellos that are left alone",
            Self::Handshakes => "TLS handshakes without a request",
            Self::SlowHeads => "heads that come a byte at a time",
            Self::HeaderBombs => "heads of a thousand lines",
            Self::Smuggling => "requests with two ends",
            Self::Guesses => "wrong keys",
            Self::RapidReset => "HTTP/2 rapid reset",
            Self::Continuation => "HTTP/2 CONTINUATION without end",
            Self::Settings => "HTTP/2 settings flood",
            Self::Frames => "WebSocket frames, with a key",
            Self::Fragments => "WebSocket fragments, with a key",
            Self::Pings => "WebSocket pings, with a key",
        }
    }
}

/// Whom to attack, and from where.
#[derive(Clone)]
pub(crate) struct Target {
    pub(crate) address: SocketAddr,
    /// Addresses that the attackers' host has; connections are spread over them.
    pub(crate) sources: Vec<IpAddr>,
    /// Connections at once, of each source.
    pub(crate) lanes: usize,
    /// A valid key, for the attacks of a client that went bad.
    pub(crate) key: String,
    pub(crate) cpu: Option<usize>,
    roots: Arc<RootCertStore>,
}

/// What an attack did, and what it was told.
#[derive(Debug, Default, Clone)]
pub(crate) struct Tally {
    pub(crate) tries: u64,
    /// By a status, `closed`, `refused` (no connection, or no handshake) or `kept`.
    pub(crate) answers: BTreeMap<String, u64>,
}

impl Tally {
    fn add(&mut self, answer: &str) {
        self.tries += 1;
        *self.answers.entry(answer.to_owned()).or_default() += 1;
    }

    fn merge(&mut self, other: Self) {
        self.tries += other.tries;
        for (answer, count) in other.answers {
            *self.answers.entry(answer).or_default() += count;
        }
    }

    pub(crate) fn count(&self, answer: &str) -> u64 {
        self.answers.get(answer).copied().unwrap_or(0)
    }
}

impl Target {
    pub(crate) fn new(address: SocketAddr, certificate: &Path, key: &str) -> Self {
        let mut roots = RootCertStore::empty();
        let certificate = CertificateDer::from_pem_file(certificate).expect("read a certificate");
        roots.add(certificate).expect("trust a certificate");
        Self {
            address,
            sources: Vec::new(),
            lanes: 2,
            key: key.to_owned(),
            cpu: None,
            roots: Arc::new(roots),
        }
    }

    fn config(&self, protocol: &[u8]) -> Arc<ClientConfig> {
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let mut config = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .expect("choose versions")
            .with_root_certificates(Arc::clone(&self.roots))
            .with_no_client_auth();
        config.resumption = rustls::client::Resumption::disabled();
        config.alpn_protocols = vec![protocol.to_vec()];
        Arc::new(config)
    }

    async fn connect(&self, source: IpAddr) -> Option<TcpStream> {
        let socket = match source {
            IpAddr::V4(_) => TcpSocket::new_v4(),
            IpAddr::V6(_) => TcpSocket::new_v6(),
        };
        let socket = socket.ok()?;
        socket.bind(SocketAddr::new(source, 0)).ok()?;
        let stream = timeout(PATIENCE, socket.connect(self.address))
            .await
            .ok()?
            .ok()?;
        stream.set_nodelay(true).ok()?;
        Some(stream)
    }

    async fn handshake(&self, source: IpAddr, config: &Arc<ClientConfig>) -> Option<Stream> {
        let stream = self.connect(source).await?;
        let connector = TlsConnector::from(Arc::clone(config));
        let opened = timeout(PATIENCE, connector.connect(server_name(), stream)).await;
        opened.ok()?.ok()
    }
}

type Stream = TlsStream<TcpStream>;

/// The tests' certificates have no IPv6 address.
fn server_name() -> ServerName<'static> {
    ServerName::try_from("localhost").expect("a name")
}

/// For a connection and a handshake; who is dropped at the card waits as long for each try.
const PATIENCE: Duration = Duration::from_secs(1);

/// Runs an attack from a host of the lab until told to stop.
pub(crate) fn run(
    attack: Attack,
    target: &Target,
    lab: &Lab,
    host: Host,
    stop: &Arc<AtomicBool>,
) -> Tally {
    let namespace = File::open(lab.path(host)).expect("open the namespace");
    std::thread::scope(|scope| {
        let thread = scope.spawn(|| {
            move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Network))
                .expect("enter the namespace");
            if let Some(cpu) = target.cpu {
                let mut set = CpuSet::new();
                set.set(cpu);
                sched_setaffinity(None, &set).expect("pin to a CPU");
            }
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .expect("start the async runtime");
            runtime.block_on(attack_from_all(attack, target, stop))
        });
        thread.join().expect("the attackers end well")
    })
}

async fn attack_from_all(attack: Attack, target: &Target, stop: &Arc<AtomicBool>) -> Tally {
    let mut running = JoinSet::new();
    for &source in &target.sources {
        for _ in 0..target.lanes {
            let (target, stop) = (target.clone(), Arc::clone(stop));
            running.spawn(async move { lane(attack, &target, source, &stop).await });
        }
    }
    let mut all = Tally::default();
    while let Some(tally) = running.join_next().await {
        all.merge(tally.expect("a lane ends well"));
    }
    all
}

/// One connection after the other.
async fn lane(attack: Attack, target: &Target, source: IpAddr, stop: &AtomicBool) -> Tally {
    let mut tally = Tally::default();
    let one = target.config(b"http/1.1");
    let two = target.config(b"h2");
    while !stop.load(Ordering::Relaxed) {
        match attack {
            Attack::Churn => tls::churn(target, source, &mut tally).await,
            Attack::Hellos => tls::hello(target, source, &one, &mut tally).await,
            Attack::Handshakes => tls::handshake(target, source, &one, &mut tally).await,
            Attack::SlowHeads => http1::slow(target, source, &one, &mut tally, stop).await,
            Attack::HeaderBombs => http1::bombs(target, source, &one, &mut tally, stop).await,
            Attack::Smuggling => http1::smuggling(target, source, &one, &mut tally).await,
            Attack::Guesses => http1::guesses(target, source, &one, &mut tally, stop).await,
            Attack::RapidReset | Attack::Continuation | Attack::Settings => {
                http2::flood(attack, target, source, &two, &mut tally, stop).await;
            }
            Attack::Frames | Attack::Fragments | Attack::Pings => {
                websocket::flood(attack, target, source, &one, &mut tally, stop).await;
            }
        }
        // What never waits would keep the others of this thread from running.
        tokio::task::yield_now().await;
    }
    tally
}
