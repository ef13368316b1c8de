//! Clients over TLS: of pages, a new connection for each, and of the gateway's WebSocket protocol.

use std::io::Write as _;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use bytes::Bytes;
use fastwebsockets::{FragmentCollector, Frame, OpCode, Payload, handshake};
use http_body_util::Empty;
use hyper::Request;
use hyper::header::{AUTHORIZATION, CONNECTION, HOST, UPGRADE};
use hyper::upgrade::Upgraded;
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::client::Resumption;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use serde_json::json;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpSocket, TcpStream};
use tokio::task::JoinSet;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

pub(crate) type Socket = FragmentCollector<TokioIo<Upgraded>>;

/// Clients that one address stands for; under clawsec's limit of 256.
const OF_ONE_SOURCE: u16 = 200;
/// Handshakes under way at once.
const AT_ONCE: usize = 16;
const OPEN_DEADLINE: Duration = Duration::from_secs(20);
const ANSWER_DEADLINE: Duration = Duration::from_secs(10);
/// What the upstream answers.
const PAGE: &[u8] = b"hello";

/// A server's port and what opens it.
#[derive(Clone)]
pub(crate) struct Door {
    port: u16,
    tls: TlsConnector,
    key: String,
}

impl Door {
    pub(crate) fn new(port: u16, ca: &Path, key: String) -> anyhow::Result<Self> {
        let mut roots = RootCertStore::empty();
        let certificate = CertificateDer::from_pem_file(ca).context("read the certificate")?;
        roots.add(certificate).context("trust the certificate")?;
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let mut config = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .context("choose TLS versions")?
            .with_root_certificates(roots)
            .with_no_client_auth();
        // Every handshake is a whole one; those that resume a session are wrk's part.
        config.resumption = Resumption::disabled();
        let tls = TlsConnector::from(Arc::new(config));
        Ok(Self { port, tls, key })
    }

    async fn connect(&self, number: u16) -> anyhow::Result<TlsStream<TcpStream>> {
        let [high, low] = (number / OF_ONE_SOURCE + 256).to_be_bytes();
        let tcp = TcpSocket::new_v4().context("make a socket")?;
        tcp.bind(SocketAddr::from((Ipv4Addr::new(127, 0, high, low), 0)))
            .context("bind a source")?;
        let stream = tcp
            .connect(SocketAddr::from((Ipv4Addr::LOCALHOST, self.port)))
            .await
            .context("connect")?;
        stream.set_nodelay(true).context("tune")?;
        let name = ServerName::try_from("localhost").context("name the server")?;
        self.tls.connect(name, stream).await.context("TLS")
    }

    /// Asks for a page on a connection of its own.
    async fn page(&self, number: u16) -> anyhow::Result<()> {
        let mut stream = self.connect(number).await?;
        let request = format!(
            "GET / HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {}\r\n\
             Connection: close\r\n\r\n",
            self.key
        );
        stream.write_all(request.as_bytes()).await?;
        let mut answer = Vec::new();
        // Not every server closes TLS before it closes TCP.
        let read = stream.read_to_end(&mut answer).await;
        let is_whole = answer.starts_with(b"HTTP/1.1 200") && answer.ends_with(PAGE);
        if !is_whole {
            read?;
            bail!("answered: {}", String::from_utf8_lossy(&answer));
        }
        Ok(())
    }

    /// Opens the WebSocket of client `number`, up to the gateway's hello.
    async fn open(&self, number: u16) -> anyhow::Result<Socket> {
        let stream = self.connect(number).await?;
        let request = Request::get("/")
            .header(HOST, "localhost")
            .header(UPGRADE, "websocket")
            .header(CONNECTION, "Upgrade")
            .header("Sec-WebSocket-Key", handshake::generate_key())
            .header("Sec-WebSocket-Version", "13")
            .header(AUTHORIZATION, format!("Bearer {}", self.key))
            .body(Empty::<Bytes>::new())?;
        let (socket, _) = handshake::client(&TokioExecutor::new(), request, stream)
            .await
            .context("upgrade")?;
        let mut socket = FragmentCollector::new(socket);
        expect(&mut socket, b"connect.challenge").await?;
        let connect = json!({"type": "req", "id": "1", "method": "connect", "params": {
            "minProtocol": 3, "maxProtocol": 3, "role": "operator", "scopes": ["operator.admin"],
            "client": {"id": "cli", "mode": "cli", "version": "1", "platform": "linux"},
        }});
        let connect = connect.to_string().into_bytes();
        socket
            .write_frame(Frame::text(Payload::Owned(connect)))
            .await?;
        expect(&mut socket, b"hello-ok").await?;
        Ok(socket)
    }
}

/// Opens as many WebSockets as asked for, a few at a time.
pub(crate) async fn open_many(door: &Door, count: u16) -> anyhow::Result<Vec<Socket>> {
    let mut opening = JoinSet::new();
    let mut open = Vec::new();
    for number in 0..count {
        if opening.len() >= AT_ONCE
            && let Some(opened) = opening.join_next().await
        {
            open.push(opened??);
        }
        let door = door.clone();
        opening.spawn(async move {
            timeout(OPEN_DEADLINE, door.open(number))
                .await
                .context("no hello in time")?
                .with_context(|| format!("open WebSocket {number}"))
        });
    }
    while let Some(opened) = opening.join_next().await {
        open.push(opened??);
    }
    Ok(open)
}

/// One frame under way on each connection, for so long; figures as JSON.
pub(crate) async fn frames(
    door: Door,
    bytes: usize,
    connections: u16,
    seconds: u64,
) -> anyhow::Result<String> {
    let sockets = open_many(&door, connections).await?;
    let frame = request_of(bytes)?;
    let end = Instant::now() + Duration::from_secs(seconds);
    let mut running = JoinSet::new();
    for socket in sockets {
        running.spawn(exchange(socket, frame.clone(), end));
    }
    figures(running).await
}

/// Pages, each on a new connection with a whole handshake, for so long; figures as JSON.
pub(crate) async fn pages(door: Door, connections: u16, seconds: u64) -> anyhow::Result<String> {
    let end = Instant::now() + Duration::from_secs(seconds);
    let mut running = JoinSet::new();
    for number in 0..connections {
        let door = door.clone();
        running.spawn(async move {
            let mut latencies_us = Vec::new();
            while Instant::now() < end {
                let asked = Instant::now();
                timeout(ANSWER_DEADLINE, door.page(number))
                    .await
                    .context("no page in time")??;
                latencies_us.push(u64::try_from(asked.elapsed().as_micros()).unwrap_or(u64::MAX));
            }
            Ok(latencies_us)
        });
    }
    figures(running).await
}

/// What the clients that were started now have measured.
async fn figures(mut running: JoinSet<anyhow::Result<Vec<u64>>>) -> anyhow::Result<String> {
    let started = Instant::now();
    let (mut latencies_us, mut failed) = (Vec::new(), 0);
    while let Some(ended) = running.join_next().await {
        match ended? {
            Ok(latencies) => latencies_us.extend(latencies),
            Err(error) => {
                failed += 1;
                writeln!(std::io::stderr(), "{error:#}").context("print")?;
            }
        }
    }
    let took_us = u64::try_from(started.elapsed().as_micros()).unwrap_or(u64::MAX);
    latencies_us.sort_unstable();
    let part = |percent: usize| latencies_us.get(latencies_us.len() * percent / 100);
    Ok(json!({
        "answers": latencies_us.len(), "microseconds": took_us, "p50Us": part(50),
        "p99Us": part(99), "failed": failed,
    })
    .to_string())
}

async fn exchange(mut socket: Socket, frame: Vec<u8>, end: Instant) -> anyhow::Result<Vec<u64>> {
    let mut latencies_us = Vec::new();
    while Instant::now() < end {
        let sent = Instant::now();
        let echoed = async {
            let payload = Payload::Owned(frame.clone());
            socket.write_frame(Frame::text(payload)).await?;
            loop {
                let answer = socket.read_frame().await?;
                match answer.opcode {
                    OpCode::Text if answer.payload.len() == frame.len() => return Ok(()),
                    OpCode::Text | OpCode::Close => bail!("another frame than was sent"),
                    _ => {}
                }
            }
        };
        timeout(ANSWER_DEADLINE, echoed)
            .await
            .context("no echo in time")??;
        latencies_us.push(u64::try_from(sent.elapsed().as_micros()).unwrap_or(u64::MAX));
    }
    Ok(latencies_us)
}

/// A request of the gateway's protocol that is exactly so long.
fn request_of(bytes: usize) -> anyhow::Result<Vec<u8>> {
    let with = |pad: &str| {
        json!({"type": "req", "id": "1", "method": "health", "params": {"p": pad}}).to_string()
    };
    let pad = bytes
        .checked_sub(with("").len())
        .context("a frame is longer than that")?;
    Ok(with(&"x".repeat(pad)).into_bytes())
}

async fn expect(socket: &mut Socket, word: &[u8]) -> anyhow::Result<()> {
    loop {
        let frame = socket.read_frame().await?;
        if frame.opcode == OpCode::Text {
            if frame.payload.windows(word.len()).any(|part| part == word) {
                return Ok(());
            }
            bail!("told: {}", String::from_utf8_lossy(&frame.payload));
        }
    }
}
