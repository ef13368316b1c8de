//! The challenges that the gateway process answers now.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::watch;

use crate::ipc::{Challenge, ToGateway};
use crate::supervisor::state::State;

/// Kept so that a gateway process that is started again answers them too.
#[derive(Debug)]
pub(in crate::supervisor) struct Held {
    now: Mutex<(u64, Vec<Challenge>)>,
    /// The last serial that a gateway process said it answers.
    answered: watch::Sender<u64>,
}

impl Default for Held {
    fn default() -> Self {
        Self {
            now: Mutex::default(),
            answered: watch::Sender::new(0),
        }
    }
}

impl Held {
    /// For a gateway process that has none yet.
    pub(in crate::supervisor) fn message(&self) -> Option<ToGateway> {
        let now = self.now.lock().unwrap_or_else(PoisonError::into_inner);
        let (serial, challenges) = &*now;
        (!challenges.is_empty()).then(|| ToGateway::Challenges {
            serial: *serial,
            challenges: challenges.clone(),
        })
    }

    pub(in crate::supervisor) fn answered(&self, serial: u64) {
        self.answered.send_replace(serial);
    }

    fn set(&self, challenges: Vec<Challenge>) -> (u64, ToGateway) {
        let mut now = self.now.lock().unwrap_or_else(PoisonError::into_inner);
        now.0 += 1;
        now.1.clone_from(&challenges);
        let serial = now.0;
        (serial, ToGateway::Challenges { serial, challenges })
    }
}

/// Has these answered in place of those before; whether the gateway process says it does.
pub(super) async fn answer(state: &State, challenges: Vec<Challenge>) -> bool {
    let mut answered = state.challenges.answered.subscribe();
    let (serial, message) = state.challenges.set(challenges);
    if let Some(gateway) = state.gateway_sender() {
        // One that is gone is followed by another, which begins with them.
        let _gone = gateway.send(message).await;
    }
    let taken = answered.wait_for(|last| *last >= serial);
    matches!(tokio::time::timeout(DEADLINE, taken).await, Ok(Ok(_)))
}

/// A gateway process that died is there again within this.
const DEADLINE: Duration = Duration::from_secs(15);
