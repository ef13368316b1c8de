//! One POST over a connection of its own.
//!
//! Invariant: of the answer the status and the first 64 KiB are read, nothing else is believed.

use std::io;

use bytes::Bytes;
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::client::conn::http1;
use hyper::header::{AUTHORIZATION, CONNECTION, CONTENT_TYPE, HOST, HeaderValue};
use hyper::{Request, StatusCode};
use hyper_util::rt::TokioIo;

use crate::config::WebTarget;
use crate::dial::connect;

pub(in crate::audit) async fn post(
    target: &WebTarget,
    body: Vec<u8>,
) -> io::Result<(StatusCode, Bytes)> {
    let stream = connect(&target.endpoint).await?;
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream))
        .await
        .map_err(io::Error::other)?;
    let mut request = Request::post(&target.path)
        .header(HOST, target.endpoint.authority())
        .header(CONTENT_TYPE, "application/json")
        .header(CONNECTION, "close");
    if let Some(value) = &target.authorization {
        let mut value = HeaderValue::from_str(value.reveal()).map_err(io::Error::other)?;
        value.set_sensitive(true);
        request = request.header(AUTHORIZATION, value);
    }
    let request = request
        .body(Full::new(Bytes::from(body)))
        .map_err(io::Error::other)?;
    let exchange = async {
        let answer = sender
            .send_request(request)
            .await
            .map_err(io::Error::other)?;
        let status = answer.status();
        let body = Limited::new(answer.into_body(), ANSWER_BYTES)
            .collect()
            .await;
        let body = body.map_err(io::Error::other)?.to_bytes();
        Ok((status, body))
    };
    tokio::pin!(exchange);
    tokio::select! {
        answer = &mut exchange => answer,
        // The connection may end with the answer in hand.
        ended = connection => match ended {
            Ok(()) => exchange.await,
            Err(error) => Err(io::Error::other(error)),
        },
    }
}

const ANSWER_BYTES: usize = 64 * 1024;
