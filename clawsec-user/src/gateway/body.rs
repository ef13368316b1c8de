//! Bodies: one boxed type for answers, and requests held whole under a budget.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full};
use hyper::body::{Body as HyperBody, Frame, SizeHint};
use hyper::header::{CONTENT_TYPE, HeaderValue};
use hyper::{Response, StatusCode};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, Sleep, sleep_until};

use super::received::Received;
use super::refusal::Refusal;
use super::shared::Deadlines;

pub(super) type BodyError = Box<dyn std::error::Error + Send + Sync>;
/// What every answer streams.
pub(super) type Body = UnsyncBoxBody<Bytes, BodyError>;

/// Bodies that policy has to read, over all connections at once.
const HELD_TOTAL_KIB: usize = 256 * 1024;

/// The header that ties an answer to its records.
pub(super) const REQUEST_ID: &str = "x-request-id";

pub(super) fn full(bytes: impl Into<Bytes>) -> Body {
    Full::new(bytes.into())
        .map_err(|never| match never {})
        .boxed_unsync()
}

/// An answer of clawsec's own; JSON unless the caller says otherwise.
pub(super) fn response(status: StatusCode, text: String, request: &str) -> Response<Body> {
    let mut response = Response::new(full(text));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(
        CONTENT_TYPE,
        HeaderValue::from_static("application/json; charset=utf-8"),
    );
    if let Ok(id) = HeaderValue::from_str(request) {
        headers.insert(REQUEST_ID, id);
    }
    response
}

/// A client's body that came too slowly.
#[derive(Debug, thiserror::Error)]
#[error("the request body came too slowly")]
pub(super) struct TooSlow;

/// A streamed request body with a deadline for each piece and for the whole.
pub(super) struct Paced<F> {
    body: Received,
    piece: Duration,
    end: Instant,
    deadline: Pin<Box<Sleep>>,
    /// Called once, when the body was read to its end.
    at_end: Option<F>,
}

impl<F: FnOnce()> Paced<F> {
    pub(super) fn new(body: Received, deadlines: &Deadlines, at_end: F) -> Self {
        let now = Instant::now();
        Self {
            body,
            piece: deadlines.body_idle,
            end: now + deadlines.body_total,
            deadline: Box::pin(sleep_until(now + deadlines.body_idle)),
            at_end: Some(at_end),
        }
    }
}

impl<F: FnOnce() + Unpin> HyperBody for Paced<F> {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let this = &mut *self;
        match Pin::new(&mut this.body).poll_frame(cx) {
            Poll::Ready(Some(Ok(frame))) => {
                let next = this.end.min(Instant::now() + this.piece);
                this.deadline.as_mut().reset(next);
                Poll::Ready(Some(Ok(frame)))
            }
            Poll::Ready(ended) => {
                if ended.is_none()
                    && let Some(at_end) = this.at_end.take()
                {
                    at_end();
                }
                Poll::Ready(ended.map(|failed| failed.map_err(Into::into)))
            }
            Poll::Pending => {
                std::task::ready!(this.deadline.as_mut().poll(cx));
                Poll::Ready(Some(Err(TooSlow.into())))
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// The memory that held bodies share.
#[derive(Debug, Clone)]
pub(super) struct Budget(Arc<Semaphore>);

impl Budget {
    pub(super) fn new() -> Self {
        Self(Arc::new(Semaphore::new(HELD_TOTAL_KIB)))
    }
}

/// A body read whole; its share of the budget is given back when it is dropped.
#[derive(Debug)]
pub(super) struct Held {
    pub(super) bytes: Bytes,
    _share: Option<OwnedSemaphorePermit>,
}

/// Reads a body of at most `limit` bytes within `deadline`.
pub(super) async fn hold(
    mut body: Received,
    limit: usize,
    budget: &Budget,
    deadline: Duration,
) -> Result<Held, Refusal> {
    let read = async {
        let mut bytes = BytesMut::new();
        let mut share: Option<OwnedSemaphorePermit> = None;
        while let Some(frame) = body.frame().await {
            let frame = frame.map_err(|error| {
                Refusal::malformed("the request body ended early").detailed(error.to_string())
            })?;
            let Ok(chunk) = frame.into_data() else {
                continue;
            };
            if bytes.len() + chunk.len() > limit {
                return Err(Refusal::too_large());
            }
            let kib = u32::try_from(chunk.len().div_ceil(1024)).unwrap_or(u32::MAX);
            let more = Arc::clone(&budget.0)
                .try_acquire_many_owned(kib)
                .map_err(|_closed_or_full| Refusal::overloaded())?;
            match &mut share {
                Some(share) => share.merge(more),
                None => share = Some(more),
            }
            bytes.extend_from_slice(&chunk);
        }
        Ok(Held {
            bytes: bytes.freeze(),
            _share: share,
        })
    };
    tokio::time::timeout(deadline, read)
        .await
        .unwrap_or_else(|_elapsed| Err(Refusal::slow()))
}
