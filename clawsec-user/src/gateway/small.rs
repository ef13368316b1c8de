//! A listener beside those that clients connect to: few connections, each short, plain HTTP/1.1.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::body::Body;
use super::http;
use super::shared::Gateway;

/// What such a listener may cost.
#[derive(Debug, Clone, Copy)]
pub(super) struct Small {
    /// For messages: the configuration key.
    pub(super) name: &'static str,
    /// Connections at once; more are closed as they come.
    pub(super) most: usize,
    /// However it is used, a connection ends: a client that reads slowly must not keep a place.
    pub(super) life: Duration,
}

/// Accepts until the gateway drains.
pub(super) async fn serve<A, R>(
    gateway: Arc<Gateway>,
    listener: TcpListener,
    small: Small,
    answer: A,
) where
    A: Fn(SocketAddr, Request<Incoming>) -> R + Clone + Send + Sync + 'static,
    R: Future<Output = Response<Body>> + Send + 'static,
{
    let places = Arc::new(Semaphore::new(small.most));
    loop {
        let accepted = tokio::select! {
            () = gateway.drain.cancelled() => return,
            accepted = listener.accept() => accepted,
        };
        let (stream, peer) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                tracing::warn!(%error, "accept on {}", small.name);
                tokio::time::sleep(Duration::from_millis(50)).await;
                continue;
            }
        };
        let Ok(place) = Arc::clone(&places).try_acquire_owned() else {
            continue;
        };
        let answer = answer.clone();
        let answer = move |request| answer(peer, request);
        gateway
            .tasks
            .spawn(one(Arc::clone(&gateway), stream, small, answer, place));
    }
}

async fn one<A, R>(
    gateway: Arc<Gateway>,
    stream: TcpStream,
    small: Small,
    answer: A,
    place: OwnedSemaphorePermit,
) where
    A: Fn(Request<Incoming>) -> R,
    R: Future<Output = Response<Body>>,
{
    let server = http::server(&gateway.deadlines);
    let service = service_fn(|request| {
        let answered = answer(request);
        async { Ok::<_, Infallible>(answered.await) }
    });
    let served = server.serve_connection(TokioIo::new(stream), service);
    tokio::select! {
        ended = tokio::time::timeout(small.life, served) => {
            if let Ok(Err(error)) = ended {
                tracing::debug!(%error, "a request to {} ended early", small.name);
            }
        }
        () = gateway.drain.cancelled() => {}
    }
    drop(place);
}
