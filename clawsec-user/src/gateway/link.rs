//! The gateway's end of the socketpair: events and tool calls out, answers in.
//!
//! Invariant: nothing a client does can make this grow. Events that find the queue full are
//! counted and the count is sent as soon as there is room.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, sleep_until};

use super::figures;
use super::shared::Gateway;
use crate::event::Event;
use crate::ipc::{Document, IpcError, IpcWriter, ToSupervisor, ToolAnswer, ToolCall, Written};

/// Events waiting for the supervisor.
const EVENT_QUEUE: usize = 4096;
/// The shortest time between two writes of events.
const PACE: Duration = Duration::from_millis(5);
/// Tool calls, cancellations and life-cycle messages waiting for the supervisor.
const CONTROL_QUEUE: usize = 256;
/// How long a message may wait for room in the control queue.
const CONTROL_DEADLINE: Duration = Duration::from_secs(5);

/// What the rest of the gateway holds.
#[derive(Debug)]
pub(super) struct Link {
    events: mpsc::Sender<Event>,
    control: mpsc::Sender<ToSupervisor>,
    lost: Arc<AtomicU64>,
    waiting: Arc<Mutex<HashMap<u64, oneshot::Sender<ToolAnswer>>>>,
    /// The one document that is being fetched.
    document: Mutex<Option<(u64, oneshot::Sender<Written>)>>,
    next_call: AtomicU64,
}

/// The receiving ends, for the one task that writes to the socketpair.
#[derive(Debug)]
pub(super) struct Outbox {
    events: mpsc::Receiver<Event>,
    control: mpsc::Receiver<ToSupervisor>,
    lost: Arc<AtomicU64>,
}

#[derive(Debug, thiserror::Error)]
pub(super) enum LinkError {
    #[error("the supervisor takes no more messages")]
    Closed,
    #[error("the supervisor did not answer in time")]
    Deadline,
}

pub(super) fn link() -> (Link, Outbox) {
    let (events_in, events) = mpsc::channel(EVENT_QUEUE);
    let (control_in, control) = mpsc::channel(CONTROL_QUEUE);
    let lost = Arc::new(AtomicU64::new(0));
    let link = Link {
        events: events_in,
        control: control_in,
        lost: Arc::clone(&lost),
        waiting: Arc::default(),
        document: Mutex::default(),
        next_call: AtomicU64::new(1),
    };
    let outbox = Outbox {
        events,
        control,
        lost,
    };
    (link, outbox)
}

impl Link {
    /// Queues an event; never waits.
    pub(super) fn report(&self, event: Event) {
        let count = event.count;
        if self.events.try_send(event).is_err() {
            self.lost.fetch_add(count.max(1), Ordering::Relaxed);
        }
    }

    /// Asks for a timed ban; a full queue only delays it until the next denial.
    pub(super) fn ban(&self, source: IpAddr, seconds: u64, reason: String) {
        let ban = ToSupervisor::Ban {
            source,
            seconds,
            reason,
        };
        if self.control.try_send(ban).is_err() {
            tracing::warn!(%source, "no room to ask for a ban");
        }
    }

    pub(super) async fn send(&self, message: ToSupervisor) -> Result<(), LinkError> {
        self.control
            .send_timeout(message, CONTROL_DEADLINE)
            .await
            .map_err(|_message| LinkError::Closed)
    }

    /// Runs a tool and waits for its answer.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future, as happens when the client goes away, cancels the call.
    pub(super) async fn run_tool(
        &self,
        call: ToolCall,
        deadline: Duration,
    ) -> Result<ToolAnswer, LinkError> {
        let id = self.next_call.fetch_add(1, Ordering::Relaxed);
        let (sender, receiver) = oneshot::channel();
        lock(&self.waiting).insert(id, sender);
        let mut running = RunningCall {
            link: self,
            id,
            sent: false,
        };
        self.send(ToSupervisor::Tool {
            id,
            call: Box::new(call),
        })
        .await?;
        running.sent = true;
        match tokio::time::timeout(deadline, receiver).await {
            Ok(Ok(answer)) => {
                running.sent = false;
                Ok(answer)
            }
            Ok(Err(_dropped)) => Err(LinkError::Closed),
            Err(_elapsed) => Err(LinkError::Deadline),
        }
    }

    /// Fetches a document; a second call takes the first one's place, so that the caller sees to
    /// it that there is one at a time.
    pub(super) async fn document(
        &self,
        gateway: &Gateway,
        document: Document,
    ) -> Result<Written, LinkError> {
        let id = self.next_call.fetch_add(1, Ordering::Relaxed);
        let (sender, receiver) = oneshot::channel();
        *lock(&self.document) = Some((id, sender));
        self.send(figures::message(gateway)).await?;
        self.send(ToSupervisor::Document { id, document }).await?;
        match tokio::time::timeout(CONTROL_DEADLINE, receiver).await {
            Ok(Ok(written)) => Ok(written),
            Ok(Err(_dropped)) => Err(LinkError::Closed),
            Err(_elapsed) => Err(LinkError::Deadline),
        }
    }

    /// Hands a document to whoever asked for it and still waits.
    pub(super) fn document_written(&self, id: u64, written: Written) {
        let waits = lock(&self.document).take_if(|(asked, _)| *asked == id);
        if let Some((_, sender)) = waits
            && sender.send(written).is_err()
        {
            tracing::debug!("nobody waits for this document any more");
        }
    }

    /// Hands an answer to whoever waits for it; one that nobody waits for is dropped.
    pub(super) fn answer(&self, id: u64, answer: ToolAnswer) {
        let waiting = lock(&self.waiting).remove(&id);
        if let Some(waiting) = waiting
            && waiting.send(answer).is_err()
        {
            tracing::debug!(id, "the client of this call is gone");
        }
    }
}

/// A call whose end is awaited; its drop cancels it.
struct RunningCall<'a> {
    link: &'a Link,
    id: u64,
    sent: bool,
}

impl Drop for RunningCall<'_> {
    fn drop(&mut self) {
        lock(&self.link.waiting).remove(&self.id);
        if self.sent
            && self
                .link
                .control
                .try_send(ToSupervisor::Cancel { id: self.id })
                .is_err()
        {
            // The supervisor's own timeout of the tool still ends it.
            tracing::warn!(id = self.id, "no room to cancel a tool call");
        }
    }
}

impl Outbox {
    /// Writes until every sender is gone; control messages go first.
    ///
    /// An event that comes alone goes at once; those that follow within `PACE` share a write, which
    /// is most of what a record costs.
    pub(super) async fn run(mut self, mut writer: IpcWriter<ToSupervisor>) -> Result<(), IpcError> {
        let mut events_open = true;
        let mut next = Instant::now();
        let mut batch = Vec::new();
        loop {
            let paced = async {
                sleep_until(next).await;
                self.events.recv_many(&mut batch, EVENT_QUEUE).await
            };
            tokio::select! {
                biased;
                message = self.control.recv() => match message {
                    Some(message @ ToSupervisor::Drained) => {
                        // Whatever was reported before the end goes out before the end.
                        while let Ok(event) = self.events.try_recv() {
                            batch.push(event);
                        }
                        self.put(&mut writer, &mut batch).await?;
                        return writer.send(&message).await;
                    }
                    Some(message) => writer.send(&message).await?,
                    None => return Ok(()),
                },
                count = paced, if events_open => {
                    events_open = count > 0;
                    self.put(&mut writer, &mut batch).await?;
                    writer.flush().await?;
                    next = Instant::now() + PACE;
                }
            }
        }
    }

    /// Puts events in their order, then how many found no room.
    async fn put(
        &self,
        writer: &mut IpcWriter<ToSupervisor>,
        batch: &mut Vec<Event>,
    ) -> Result<(), IpcError> {
        for event in batch.drain(..) {
            writer.put(&ToSupervisor::Event(Box::new(event)))?;
            if writer.is_full() {
                writer.flush().await?;
            }
        }
        match self.lost.swap(0, Ordering::Relaxed) {
            0 => Ok(()),
            count => writer.put(&ToSupervisor::EventsLost { count }),
        }
    }
}

/// No code panics while it holds this lock; a poisoned one is still whole.
fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::{EventKind, Outcome};
    use crate::ipc;

    fn event(number: usize) -> Event {
        let mut event = Event::new(EventKind::Message, "request", Outcome::Allow, "ok");
        event.request = Some(number.to_string());
        event
    }

    /// What the supervisor reads until the last word, after `before` and a drain at once.
    async fn told(before: impl FnOnce(&Link)) -> Vec<String> {
        let (ours, theirs) = tokio::net::UnixStream::pair().unwrap();
        let (_, writer) = ipc::split::<ToSupervisor, ToSupervisor>(ours);
        let (mut reader, _keep) = ipc::split::<ToSupervisor, ToSupervisor>(theirs);
        let (link, outbox) = link();
        before(&link);
        let sending = tokio::spawn(outbox.run(writer));
        link.send(ToSupervisor::Drained).await.unwrap();
        let mut told = Vec::new();
        loop {
            told.push(match reader.receive().await.unwrap() {
                ToSupervisor::Event(event) => event.request.unwrap(),
                ToSupervisor::EventsLost { count } => format!("{count} lost"),
                ToSupervisor::Drained => break,
                other => panic!("{other:?}"),
            });
        }
        sending.await.unwrap().unwrap();
        told
    }

    #[tokio::test]
    async fn events_share_writes_and_keep_their_order() {
        // More than one buffer of them, and all before the last word.
        let expected: Vec<String> = (0..EVENT_QUEUE).map(|number| number.to_string()).collect();
        let told = told(|link| (0..EVENT_QUEUE).for_each(|number| link.report(event(number))));
        assert_eq!(told.await, expected);
    }

    #[tokio::test]
    async fn what_finds_no_room_is_counted() {
        let told = told(|link| (0..EVENT_QUEUE + 3).for_each(|number| link.report(event(number))));
        assert_eq!(told.await.last().map(String::as_str), Some("3 lost"));
    }

    #[tokio::test]
    async fn events_go_out_within_the_pace_while_others_wait() {
        let (ours, theirs) = tokio::net::UnixStream::pair().unwrap();
        let (_, writer) = ipc::split::<ToSupervisor, ToSupervisor>(ours);
        let (mut reader, _keep) = ipc::split::<ToSupervisor, ToSupervisor>(theirs);
        let (link, outbox) = link();
        tokio::spawn(outbox.run(writer));
        // Without a drain, and with nothing after them that would push them out.
        for number in 0..3 {
            link.report(event(number));
            tokio::task::yield_now().await;
        }
        for number in 0..3 {
            let told = tokio::time::timeout(Duration::from_secs(5), reader.receive());
            let Ok(Ok(ToSupervisor::Event(event))) = told.await else {
                panic!("no event {number}");
            };
            assert_eq!(event.request, Some(number.to_string()));
        }
    }
}
