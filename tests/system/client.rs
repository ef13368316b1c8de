//! A client of clawsec's front door that keeps what it opened: TLS, HTTP/1.1, WebSocket.

use std::fs::File;
use std::io::{self, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::os::fd::AsFd as _;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};
use serde_json::{Value, json};
use xtask::lab::{self, Host, Lab};
use xtask::standin::socket::{self, Side};

/// Longer than a daemon takes to start again: a connection waits for it.
const PATIENCE: Duration = Duration::from_secs(30);

/// The inside host, and whom it trusts. Usable from any thread that has `entered` it.
#[derive(Clone)]
pub(crate) struct Client {
    namespace: Arc<File>,
    config: Arc<ClientConfig>,
    address: SocketAddr,
}

/// One open connection.
pub(crate) struct Connection(StreamOwned<ClientConnection, TcpStream>);

impl Client {
    /// Trusts the certificate, or the authority, in this file.
    pub(crate) fn inside(lab: &Lab, trusted: &Path) -> Self {
        let mut roots = RootCertStore::empty();
        let certificate = CertificateDer::from_pem_file(trusted).expect("read a certificate");
        roots.add(certificate).expect("trust a certificate");
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let config = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .expect("choose versions")
            .with_root_certificates(roots)
            .with_no_client_auth();
        Self {
            namespace: Arc::new(File::open(lab.path(Host::Inside)).expect("open the namespace")),
            config: Arc::new(config),
            address: format!("{}:8443", lab::GATEWAY_INSIDE)
                .parse()
                .expect("parse"),
        }
    }

    /// Moves this thread onto the inside host.
    pub(crate) fn enter(&self) {
        move_into_link_name_space(self.namespace.as_fd(), Some(LinkNameSpaceType::Network))
            .expect("enter the namespace");
    }

    pub(crate) fn connect(&self) -> io::Result<Connection> {
        let stream = TcpStream::connect_timeout(&self.address, PATIENCE)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_nodelay(true)?;
        let name = lab::GATEWAY_INSIDE.try_into().map_err(io::Error::other)?;
        let session =
            ClientConnection::new(Arc::clone(&self.config), name).map_err(io::Error::other)?;
        Ok(Connection(StreamOwned::new(session, stream)))
    }

    /// Asks on a connection of its own.
    pub(crate) fn ask(&self, line: &str, key: &str, body: &str) -> io::Result<u16> {
        self.connect()?.ask(line, key, body)
    }
}

impl Connection {
    /// Writes a request without waiting for its answer.
    pub(crate) fn begin(&mut self, line: &str, key: &str, body: &str) -> io::Result<()> {
        let length = body.len();
        let request = format!(
            "{line} HTTP/1.1\r\nHost: {}\r\nX-API-Key: {key}\r\nContent-Length: {length}\r\n\r\n{body}",
            lab::GATEWAY_INSIDE
        );
        self.0.write_all(request.as_bytes())?;
        self.0.flush()
    }

    /// The status of the next answer, once all of it is there.
    pub(crate) fn answer(&mut self) -> io::Result<u16> {
        Ok(self.whole_answer()?.0)
    }

    /// Asks without a body; the status, and the answer's body.
    pub(crate) fn ask_for_text(&mut self, line: &str, key: &str) -> io::Result<(u16, String)> {
        self.begin(line, key, "")?;
        self.whole_answer()
    }

    fn whole_answer(&mut self) -> io::Result<(u16, String)> {
        let head = self.head()?;
        let field = |name: &str| {
            let mut lines = head.lines();
            lines.find_map(|line| line.strip_prefix(name)?.trim().parse::<usize>().ok())
        };
        let mut body = vec![0; field("content-length:").unwrap_or_default()];
        self.0.read_exact(&mut body)?;
        let text = String::from_utf8_lossy(&body).into_owned();
        Ok((status(&head)?, text))
    }

    pub(crate) fn ask(&mut self, line: &str, key: &str, body: &str) -> io::Result<u16> {
        self.begin(line, key, body)?;
        self.answer()
    }

    /// Up to the empty line, in lower case.
    fn head(&mut self) -> io::Result<String> {
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            let mut byte = [0];
            self.0.read_exact(&mut byte)?;
            head.extend(byte);
        }
        Ok(String::from_utf8_lossy(&head).to_lowercase())
    }

    /// Turns it into a WebSocket, up to the gateway's hello.
    pub(crate) fn upgrade(&mut self, key: &str) -> io::Result<()> {
        write!(
            self.0,
            "GET / HTTP/1.1\r\nHost: {}\r\nX-API-Key: {key}\r\nUpgrade: websocket\r\n\
             Connection: Upgrade\r\nSec-WebSocket-Version: 13\r\n\
             Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n",
            lab::GATEWAY_INSIDE
        )?;
        let status = status(&self.head()?)?;
        if status != 101 {
            return Err(io::Error::other(format!("answered {status}")));
        }
        self.hear()?;
        let hello = self.call(
            "connect",
            &json!({
                "minProtocol": 3, "maxProtocol": 3, "role": "operator",
                "scopes": ["operator.admin"],
                "client": {"id": "cli", "mode": "cli", "version": "1", "platform": "linux"},
            }),
        )?;
        if hello["ok"] == true {
            Ok(())
        } else {
            Err(io::Error::other(hello.to_string()))
        }
    }

    /// A request over the WebSocket, and its answer.
    pub(crate) fn call(&mut self, method: &str, params: &Value) -> io::Result<Value> {
        let request = json!({"type": "req", "id": "1", "method": method, "params": params});
        let text = request.to_string();
        socket::write(&mut self.0, Side::Client, socket::TEXT, text.as_bytes())?;
        match self.hear()? {
            Heard::Text(text) => serde_json::from_str(&text).map_err(io::Error::other),
            Heard::Close(code) => Err(io::Error::other(format!("closed with {code:?}"))),
        }
    }

    /// The next frame that says something.
    pub(crate) fn hear(&mut self) -> io::Result<Heard> {
        loop {
            let (opcode, payload) = socket::read(&mut self.0)?;
            match opcode {
                socket::TEXT => {
                    return Ok(Heard::Text(String::from_utf8_lossy(&payload).into_owned()));
                }
                socket::CLOSE => {
                    let code = payload.first_chunk().map(|code| u16::from_be_bytes(*code));
                    socket::write(&mut self.0, Side::Client, socket::CLOSE, &payload)?;
                    return Ok(Heard::Close(code));
                }
                socket::PING => {
                    socket::write(&mut self.0, Side::Client, socket::PONG, &payload)?;
                }
                _ => {}
            }
        }
    }
}

#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Heard {
    Text(String),
    Close(Option<u16>),
}

fn status(head: &str) -> io::Result<u16> {
    let word = head.split(' ').nth(1).unwrap_or_default();
    word.parse().map_err(io::Error::other)
}
