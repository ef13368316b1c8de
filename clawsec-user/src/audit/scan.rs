//! A log read by all cores at once, in order where order matters, in bounded memory.
//!
//! Blocks go to the workers in turn and come back in turn, so that at most a few are under way and
//! what was found is folded in the order of the log.

use std::collections::VecDeque;
use std::ops::ControlFlow;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread;

use super::blocks::{Block, Blocks, Progress};
use super::parts::ReadError;

/// What the fold is given, in the order of the log.
pub(super) enum Piece<T> {
    Made(T),
    /// The rest of a part that cannot be read; the next parts follow.
    Damage(ReadError),
}

/// Called now and then while a scan goes on.
pub type OnProgress<'a> = &'a mut dyn FnMut(Progress);

/// Gives each block to one worker, and what it made of it to `fold`; ends with the workers' states.
///
/// `fold` may end the scan early.
pub(super) fn scan<S: Send, T: Send>(
    blocks: &mut Blocks,
    progress: OnProgress<'_>,
    begin: impl Fn() -> S + Sync,
    work: impl Fn(&mut S, &Block) -> T + Sync,
    mut fold: impl FnMut(Piece<T>) -> ControlFlow<()>,
) -> Vec<S> {
    let (begin, work) = (&begin, &work);
    thread::scope(|scope| {
        let mut lanes = Vec::new();
        let mut workers = Vec::new();
        for _ in 0..thread::available_parallelism()
            .map_or(1, usize::from)
            .min(MOST_WORKERS)
        {
            let (give, given) = sync_channel::<Block>(LANE_DEPTH);
            let (put, done) = sync_channel::<(Block, T)>(LANE_DEPTH);
            workers.push(scope.spawn(move || {
                let mut state = begin();
                work_lane(&given, &put, |block| work(&mut state, block));
                state
            }));
            lanes.push((give, done));
        }
        drive(blocks, progress, &lanes, &mut fold);
        // The workers end when nothing can come any more.
        drop(lanes);
        let join = |worker: thread::ScopedJoinHandle<'_, S>| match worker.join() {
            Ok(state) => state,
            Err(panic) => std::panic::resume_unwind(panic),
        };
        workers.into_iter().map(join).collect()
    })
}

fn work_lane<T>(
    given: &Receiver<Block>,
    put: &SyncSender<(Block, T)>,
    mut work: impl FnMut(&Block) -> T,
) {
    while let Ok(block) = given.recv() {
        let made = work(&block);
        // Nobody waits for it any more: the scan was ended early.
        if put.send((block, made)).is_err() {
            return;
        }
    }
}

/// The way to one thread and back.
type Lane<T> = (SyncSender<Block>, Receiver<(Block, T)>);

fn drive<T>(
    blocks: &mut Blocks,
    progress: OnProgress<'_>,
    lanes: &[Lane<T>],
    fold: &mut impl FnMut(Piece<T>) -> ControlFlow<()>,
) {
    // In the order of the log: the lane a block went to, or why there is none.
    let mut under_way: VecDeque<Result<usize, ReadError>> = VecDeque::new();
    let mut turn = (0..lanes.len()).cycle();
    let mut spare = Vec::new();
    let mut more = true;
    loop {
        while more && under_way.len() < lanes.len() * LANE_DEPTH {
            match blocks.next(spare.pop().unwrap_or_default()) {
                Ok(None) => more = false,
                Err(error) => under_way.push_back(Err(error)),
                Ok(Some(block)) => {
                    let lane = turn.next().unwrap_or(0);
                    // A worker that is gone has panicked; joining it says so.
                    if lanes[lane].0.send(block).is_err() {
                        return;
                    }
                    under_way.push_back(Ok(lane));
                }
            }
            progress(blocks.progress());
        }
        let flow = match under_way.pop_front() {
            None => return,
            Some(Err(error)) => fold(Piece::Damage(error)),
            Some(Ok(lane)) => {
                let Ok((block, made)) = lanes[lane].1.recv() else {
                    return;
                };
                spare.push(block.text);
                fold(Piece::Made(made))
            }
        };
        if flow.is_break() {
            return;
        }
    }
}

const MOST_WORKERS: usize = 8;
/// Blocks waiting for a worker; with the one it works on, enough that none is idle.
const LANE_DEPTH: usize = 3;
