//! A request's body, read to its end whatever becomes of the request.
//!
//! An HTTP/2 stream whose answer is sent while its body is still on the way ends with RST_STREAM
//! (NO_ERROR, RFC 9113 §8.1), and clients such as curl 7.88 then lose the answer. What nobody has
//! read is therefore read and thrown away here, as far as it is small and soon.

use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::BodyExt as _;
use hyper::body::{Body, Frame, Incoming, SizeHint};
use tokio_util::task::TaskTracker;

/// A body that lingers when it is dropped before its end.
#[derive(Debug)]
pub(super) struct Received {
    /// `None` once dropped.
    body: Option<Incoming>,
    /// Where what lingers is read; `None` for HTTP/1.1, where the connection ends instead.
    linger: Option<TaskTracker>,
}

/// What is still read of a body that nobody wants.
const LINGER_BYTES: u64 = 64 * 1024;
const LINGER: Duration = Duration::from_secs(1);

impl Received {
    pub(super) fn new(body: Incoming, linger: Option<TaskTracker>) -> Self {
        Self {
            body: Some(body),
            linger,
        }
    }
}

impl Body for Received {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        match &mut self.body {
            Some(body) => Pin::new(body).poll_frame(context),
            None => Poll::Ready(None),
        }
    }

    fn is_end_stream(&self) -> bool {
        self.body.as_ref().is_none_or(Body::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        self.body
            .as_ref()
            .map_or_else(SizeHint::default, Body::size_hint)
    }
}

impl Drop for Received {
    fn drop(&mut self) {
        let (Some(mut body), Some(tasks)) = (self.body.take(), &self.linger) else {
            return;
        };
        let too_large = body.size_hint().lower() > LINGER_BYTES;
        if body.is_end_stream() || too_large || tokio::runtime::Handle::try_current().is_err() {
            return;
        }
        tasks.spawn(async move {
            let mut left = LINGER_BYTES;
            let rest = async {
                while let Some(Ok(frame)) = body.frame().await {
                    let bytes = frame.data_ref().map_or(0, |data| data.len() as u64);
                    match left.checked_sub(bytes) {
                        Some(less) => left = less,
                        None => return,
                    }
                }
            };
            // Over the time the stream is reset, as it would have been at once.
            let _over = tokio::time::timeout(LINGER, rest).await;
        });
    }
}
