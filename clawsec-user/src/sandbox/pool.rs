//! What stands ready: sandboxes that are made before an execution wants one, each for one use.
//!
//! Invariant: what is taken does not come back.

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use super::SandboxError;
use crate::causes;

#[derive(Debug)]
pub(super) struct Pool<T> {
    size: usize,
    idle: Mutex<VecDeque<T>>,
    taken: Notify,
}

impl<T> Pool<T> {
    pub(super) fn new(size: usize) -> Self {
        Self {
            size,
            idle: Mutex::default(),
            taken: Notify::new(),
        }
    }

    pub(super) fn take(&self) -> Option<T> {
        let idle = self.lock().pop_front();
        if idle.is_some() {
            self.taken.notify_one();
        }
        idle
    }

    /// Whether one is missing; of a pool of nothing none is.
    pub(super) fn lacks(&self) -> bool {
        self.lock().len() < self.size
    }

    /// Waits until one is missing; false once `closing` has come. What is idle then is left to the
    /// caller to take.
    pub(super) async fn wants(&self, closing: &CancellationToken) -> bool {
        while !self.lacks() && !closing.is_cancelled() {
            tokio::select! {
                () = self.taken.notified() => {}
                () = closing.cancelled() => {}
            }
        }
        !closing.is_cancelled()
    }

    /// Puts in what was made; after a failure it waits a while.
    pub(super) async fn put(&self, made: Result<T, SandboxError>, closing: &CancellationToken) {
        match made {
            Ok(idle) => self.lock().push_back(idle),
            Err(error) => {
                tracing::warn!("keep a sandbox ready: {}", causes::chain(&error));
                tokio::select! {
                    () = sleep(RETRY) => {}
                    () = closing.cancelled() => {}
                }
            }
        }
    }

    /// A panic while it is held cannot leave it in a state that matters.
    fn lock(&self) -> MutexGuard<'_, VecDeque<T>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

const RETRY: Duration = Duration::from_secs(5);

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    #[tokio::test]
    async fn what_is_taken_is_replaced_and_never_comes_back() {
        let pool = Arc::new(Pool::new(2));
        let closing = CancellationToken::new();
        let filling = tokio::spawn({
            let (pool, closing) = (Arc::clone(&pool), closing.clone());
            async move {
                let mut made = 0;
                while pool.wants(&closing).await {
                    pool.put(Ok(made), &closing).await;
                    made += 1;
                }
            }
        });
        let mut seen = Vec::new();
        while seen.len() < 5 {
            seen.extend(pool.take());
            tokio::task::yield_now().await;
        }
        assert_eq!(seen, [0, 1, 2, 3, 4]);
        closing.cancel();
        filling.await.unwrap();
    }
}
