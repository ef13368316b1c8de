//! Compresses one file into another on a thread of its own, so that the log is written meanwhile.
//!
//! Invariant: it knows no names. Dropped, it stops within a moment and leaves its target unfinished.

use std::fs::File;
use std::io::{self, Read, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};

use super::rotation::identity_of;

#[derive(Debug)]
pub(super) struct Packer {
    source: (u64, u64),
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<io::Result<()>>>,
}

impl Packer {
    pub(super) fn start(source: File, target: File, durable: bool) -> io::Result<Self> {
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        Ok(Self {
            source: identity_of(&source)?,
            thread: Some(
                thread::Builder::new()
                    .name("audit-pack".to_owned())
                    .spawn(move || pack(source, target, durable, &stopped))?,
            ),
            stop,
        })
    }

    /// Device and inode of what is compressed.
    pub(super) fn source(&self) -> (u64, u64) {
        self.source
    }

    /// `None` while it works.
    pub(super) fn result(&mut self) -> Option<io::Result<()>> {
        if !self.thread.as_ref()?.is_finished() {
            return None;
        }
        let panicked = |_panic| Err(io::Error::other("the compression broke"));
        Some(self.thread.take()?.join().unwrap_or_else(panicked))
    }
}

impl Drop for Packer {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _unfinished = thread.join();
        }
    }
}

fn pack(mut source: File, target: File, durable: bool, stop: &AtomicBool) -> io::Result<()> {
    // Of this thread alone, on Linux: traffic comes first.
    let _best_effort = rustix::process::nice(NICE);
    let mut encoder = zstd::stream::write::Encoder::new(target, LEVEL)?;
    // A damaged part is to be told from a sound one by whoever unpacks it.
    encoder.include_checksum(true)?;
    let mut buffer = vec![0; CHUNK];
    loop {
        if stop.load(Ordering::Relaxed) {
            return Err(io::ErrorKind::Interrupted.into());
        }
        match source.read(&mut buffer)? {
            0 => break,
            read => encoder.write_all(&buffer[..read])?,
        }
    }
    let target = encoder.finish()?;
    if durable {
        target.sync_all()?;
    }
    Ok(())
}

/// Hash-chained lines shrink to about a third at any level; 3 is the fastest that does.
const LEVEL: i32 = 3;
const NICE: i32 = 10;
const CHUNK: usize = 128 * 1024;
