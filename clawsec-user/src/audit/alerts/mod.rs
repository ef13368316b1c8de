//! Alerts: rules over the records that were written, told to a webhook, a program or the journal.
//!
//! Invariant: the file never waits for an alert. The records come over a bounded queue with a
//! counter of its own; a rule tells at most once in its interval, and says how often it held back.

mod deliver;
mod rules;

use std::ops::ControlFlow;
use std::path::PathBuf;
use std::sync::Arc;

use tokio::sync::mpsc;
use tokio::task::spawn_blocking;

use self::deliver::deliver;
pub use self::rules::{Alert, Watch};
use super::entry::{ALERT, Entry};
use super::filter::Filter;
use super::parts::ReadError;
use super::query::query;
use super::record::Record;
use super::sinks::{Line, Notes, SinkState};
use crate::config::AlertConfig;
use crate::event::{EventKind, Outcome};

/// What would have been told of the records since `filter.since`; tells nobody.
///
/// # Errors
/// `Missing` when there is no log.
pub fn rehearse(
    log: &std::path::Path,
    configs: &[AlertConfig],
    filter: &Filter,
    progress: super::scan::OnProgress<'_>,
    mut give: impl FnMut(&Alert),
) -> Result<super::query::Found, ReadError> {
    let mut watch = Watch::new(configs);
    // Everything is read: what came before the time asked for is what sources were seen.
    let all = Filter::default();
    query(log, &all, progress, |line| {
        if let Ok(record) = Record::parse(line) {
            if filter.since.is_some_and(|since| record.ts < since) {
                watch.learn(&record);
            } else {
                watch.observe(&record).iter().for_each(&mut give);
            }
        }
        ControlFlow::Continue(())
    })
}

#[derive(Debug)]
pub(super) struct AlertWorker {
    pub(super) configs: Vec<AlertConfig>,
    pub(super) log: PathBuf,
    pub(super) lines: mpsc::Receiver<Line>,
    pub(super) state: Arc<SinkState>,
    pub(super) notes: Arc<Notes>,
}

impl AlertWorker {
    /// `seq` is the last record before this daemon's first: what it must have seen.
    pub(super) async fn run(mut self, seq: u64) {
        let mut watch = Watch::new(&self.configs);
        if watch.needs_history() {
            watch = self.with_history(watch, seq).await;
        }
        self.state.connect();
        while let Some(line) = self.lines.recv().await {
            let Ok(record) = Record::parse(&line) else {
                continue;
            };
            for alert in watch.observe(&record) {
                let Some(config) = self.configs.get(alert.index) else {
                    continue;
                };
                let what = format!("{} to {}: {}", alert.rule, config.to, alert.text);
                let note = match deliver(&alert, &config.to).await {
                    Ok(()) => {
                        self.state.add_sent(1);
                        Entry::system(ALERT, Outcome::Allow, "ok").detailed(what)
                    }
                    Err(why) => {
                        tracing::error!("alert {what}: {why}");
                        let detail = format!("{why}: {what}");
                        Entry::system(ALERT, Outcome::Error, "failed").detailed(detail)
                    }
                };
                self.notes.add(note);
            }
            if let Some(loss) = self.state.loss() {
                self.notes.add(loss);
            }
        }
    }

    /// The sources that the log knows. Meanwhile records wait in the queue.
    async fn with_history(&self, mut watch: Watch, seq: u64) -> Watch {
        let log = self.log.clone();
        let read = spawn_blocking(move || {
            let filter = Filter {
                events: vec![EventKind::Auth],
                outcomes: vec![Outcome::Allow],
                ..Filter::default()
            };
            let result = query(&log, &filter, &mut |_| {}, |line| {
                match Record::parse(line) {
                    Ok(record) if record.seq <= seq => watch.learn(&record),
                    _ => {}
                }
                ControlFlow::Continue(())
            });
            if let Err(error) = result {
                tracing::warn!(%error, "alerts: the log's sources cannot be read, all are new");
            }
            watch
        });
        read.await.unwrap_or_else(|_| Watch::new(&self.configs))
    }
}

#[cfg(test)]
mod tests;
