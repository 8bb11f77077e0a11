//! One queue of fsyncs per disk, shared by every group on it (DESIGN section 4).
//!
//! A few threads, because a file system commits at once what waits together; a group's log stands in the
//! queue at most once, and while one fsync runs its appends gather for the next.

use std::collections::VecDeque;
use std::io;
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread::JoinHandle;

use highwater_model::limits::{RAFT_SYNC_THREADS, RAFT_SYNCS_PENDING_MAX};

/// Work that ends in an fsync. It tells its owner itself how that went.
pub type SyncJob = Box<dyn FnOnce() + Send>;

/// The queue of one disk. Stopping it lets the threads finish what is queued.
#[derive(Default)]
pub struct SyncQueue {
    lane: Arc<Lane>,
    threads: Mutex<Vec<JoinHandle<()>>>,
    /// Without threads: whoever asks does the work, as a simulation needs.
    is_inline: bool,
}

#[derive(Default)]
struct Lane {
    state: Mutex<LaneState>,
    filled: Condvar,
}

#[derive(Default)]
struct LaneState {
    jobs: VecDeque<SyncJob>,
    is_stopped: bool,
}

impl SyncQueue {
    /// Starts the threads.
    ///
    /// # Errors
    /// The system refuses a thread.
    pub fn start() -> io::Result<SyncQueue> {
        let queue = SyncQueue::default();
        for _ in 0..RAFT_SYNC_THREADS {
            let lane = queue.lane.clone();
            let thread = std::thread::Builder::new().name("raft-sync".into()).spawn(move || lane.run())?;
            queue.threads.lock().unwrap_or_else(PoisonError::into_inner).push(thread);
        }
        Ok(queue)
    }

    /// A queue that syncs at once, on the thread that asks.
    pub fn inline() -> SyncQueue {
        SyncQueue { is_inline: true, ..SyncQueue::default() }
    }

    /// # Errors
    /// The queue is full or has stopped.
    pub(super) fn push(&self, job: SyncJob) -> io::Result<()> {
        if self.is_inline {
            job();
            return Ok(());
        }
        let mut state = self.lane.state.lock().unwrap_or_else(PoisonError::into_inner);
        if state.is_stopped || state.jobs.len() >= RAFT_SYNCS_PENDING_MAX {
            return Err(io::Error::other("no more fsyncs are taken"));
        }
        state.jobs.push_back(job);
        self.lane.filled.notify_one();
        Ok(())
    }

    /// Finishes what is queued and ends the threads.
    pub fn stop(&self) {
        self.lane.state.lock().unwrap_or_else(PoisonError::into_inner).is_stopped = true;
        self.lane.filled.notify_all();
        for thread in std::mem::take(&mut *self.threads.lock().unwrap_or_else(PoisonError::into_inner)) {
            if thread.join().is_err() {
                tracing::error!("a thread that syncs for Raft panicked");
            }
        }
    }
}

impl Lane {
    fn run(&self) {
        while let Some(job) = self.next() {
            job();
        }
    }

    fn next(&self) -> Option<SyncJob> {
        let state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let idle = |state: &mut LaneState| state.jobs.is_empty() && !state.is_stopped;
        let mut state = self.filled.wait_while(state, idle).unwrap_or_else(PoisonError::into_inner);
        state.jobs.pop_front()
    }
}
