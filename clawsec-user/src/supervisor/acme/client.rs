//! Requests to an authority: one connection each, by the TLS that the daemon has anyway.

use std::io;
use std::path::PathBuf;
use std::pin::Pin;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::client::conn::http1;
use hyper::header::{CONNECTION, HOST, HeaderValue, USER_AGENT};
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use instant_acme::{BodyWrapper, BytesResponse, Error, HttpClient};

use crate::config::Endpoint;
use crate::dial::connect;

pub(super) struct Client {
    /// Authorities that the server is verified by; the system's where left out.
    pub(super) ca: Option<PathBuf>,
}

impl HttpClient for Client {
    fn request(
        &self,
        request: Request<BodyWrapper<Bytes>>,
    ) -> Pin<Box<dyn Future<Output = Result<BytesResponse, Error>> + Send>> {
        let ca = self.ca.clone();
        Box::pin(async move {
            let exchanged = tokio::time::timeout(DEADLINE, exchange(request, ca)).await;
            let exchanged = exchanged.unwrap_or_else(|_elapsed| {
                Err(io::Error::other(format!(
                    "no answer within {} s",
                    DEADLINE.as_secs()
                )))
            });
            exchanged
                .map(BytesResponse::from)
                .map_err(|error| Error::Other(Box::new(error)))
        })
    }
}

async fn exchange(
    request: Request<BodyWrapper<Bytes>>,
    ca: Option<PathBuf>,
) -> io::Result<Response<Full<Bytes>>> {
    let (mut parts, body) = request.into_parts();
    let uri = parts.uri.clone();
    let host = uri.host().unwrap_or_default();
    let endpoint = Endpoint {
        host: host.trim_matches(['[', ']']).to_owned(),
        port: uri.port_u16().unwrap_or(443),
        // Whatever its directory says: the account's key signs for nothing that is read in clear.
        tls: true,
        ca,
    };
    let host = uri.authority().map_or(host, |authority| authority.as_str());
    let host = HeaderValue::from_str(host).map_err(io::Error::other)?;
    parts.headers.insert(HOST, host);
    parts
        .headers
        .insert(CONNECTION, HeaderValue::from_static("close"));
    let agent = HeaderValue::from_static(concat!("clawsec/", env!("CARGO_PKG_VERSION")));
    parts.headers.insert(USER_AGENT, agent);
    let path = uri.path_and_query().map_or("/", |path| path.as_str());
    parts.uri = path.parse().map_err(io::Error::other)?;

    let stream = connect(&endpoint).await?;
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream))
        .await
        .map_err(io::Error::other)?;
    let connection = tokio::spawn(connection);
    let answer = sender
        .send_request(Request::from_parts(parts, body))
        .await
        .map_err(io::Error::other)?;
    let (head, body) = answer.into_parts();
    let body = Limited::new(body, ANSWER_BYTES).collect().await;
    connection.abort();
    let body = body.map_err(io::Error::other)?.to_bytes();
    Ok(Response::from_parts(head, Full::new(body)))
}

const DEADLINE: Duration = Duration::from_secs(30);
/// A chain of certificates is some ten thousand bytes.
const ANSWER_BYTES: usize = 256 * 1024;
