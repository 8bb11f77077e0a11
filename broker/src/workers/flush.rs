//! The flush queues: one thread makes batches durable that acknowledgements wait for, another what nobody
//! waits for.
//!
//! One queue per disk, shared by every partition (DESIGN section 4). While one fdatasync runs, appends of all
//! partitions gather; the next round covers them all. A partition stands in a queue at most once, so a queue
//! is as long as there are partitions. Sealed segments are flushed by their own thread: 64 MiB of writeback
//! must not delay an acknowledgement.

use std::collections::VecDeque;
use std::io;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Condvar, Mutex, PoisonError, Weak};
use std::thread::JoinHandle;
use std::time::Instant;

use crate::node::Node;
use crate::partition::Partition;

#[derive(Default)]
struct Lane {
    state: Mutex<LaneState>,
    filled: Condvar,
}

#[derive(Default)]
struct LaneState {
    queue: VecDeque<Arc<Partition>>,
    is_stopped: bool,
}

impl Lane {
    fn push(&self, partition: &Arc<Partition>) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if !state.is_stopped {
            state.queue.push_back(partition.clone());
            self.filled.notify_one();
        }
    }

    /// Everything queued, waiting for something; None once stopped and empty.
    fn take(&self) -> Option<VecDeque<Arc<Partition>>> {
        let state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let mut state = self
            .filled
            .wait_while(state, |state| state.queue.is_empty() && !state.is_stopped)
            .unwrap_or_else(PoisonError::into_inner);
        (!state.queue.is_empty()).then(|| std::mem::take(&mut state.queue))
    }

    fn stop(&self) {
        self.state.lock().unwrap_or_else(PoisonError::into_inner).is_stopped = true;
        self.filled.notify_all();
    }
}

/// Both queues.
#[derive(Default)]
pub struct FlushQueue {
    urgent: Arc<Lane>,
    sealed: Arc<Lane>,
    threads: Mutex<Vec<JoinHandle<()>>>,
}

impl FlushQueue {
    /// Asks for a flush of all that is appended to `partition`.
    pub fn push(&self, partition: &Arc<Partition>) {
        if !partition.is_flush_queued.swap(true, Ordering::SeqCst) {
            self.urgent.push(partition);
        }
    }

    /// Asks for a flush of the partition's sealed segments.
    pub fn push_sealed(&self, partition: &Arc<Partition>) {
        if !partition.is_sealed_flush_queued.swap(true, Ordering::SeqCst) {
            self.sealed.push(partition);
        }
    }

    /// Finishes what is queued and ends the threads.
    pub fn stop(&self) {
        self.urgent.stop();
        self.sealed.stop();
        let threads = std::mem::take(&mut *self.threads.lock().unwrap_or_else(PoisonError::into_inner));
        for thread in threads {
            if thread.join().is_err() {
                tracing::error!("a flush thread panicked");
            }
        }
    }
}

/// Starts the two threads.
///
/// # Errors
/// The system refuses a thread.
pub fn start(node: &Arc<Node>) -> io::Result<()> {
    let mut threads = node.flush.threads.lock().unwrap_or_else(PoisonError::into_inner);
    for (name, lane, sealed_only) in
        [("flush", node.flush.urgent.clone(), false), ("flush-sealed", node.flush.sealed.clone(), true)]
    {
        // Weak: the node owns the queue, and joins the threads when it stops.
        let node = Arc::downgrade(node);
        let run = move || run(&node, &lane, sealed_only);
        threads.push(std::thread::Builder::new().name(name.to_owned()).spawn(run)?);
    }
    Ok(())
}

fn run(node: &Weak<Node>, lane: &Lane, sealed_only: bool) {
    while let Some(partitions) = lane.take() {
        for partition in partitions {
            // Cleared before the ticket is drawn: what is appended from here on asks again.
            let queued =
                if sealed_only { &partition.is_sealed_flush_queued } else { &partition.is_flush_queued };
            queued.store(false, Ordering::SeqCst);
            let Some(ticket) = partition.draw_flush(sealed_only) else { continue };
            let started = Instant::now();
            let outcome = ticket.run();
            let Some(node) = node.upgrade() else { return };
            node.metrics.fsync_seconds.observe(started.elapsed().as_secs_f64());
            partition.flush_ended(node.now_ms(), outcome);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stopped_lane_hands_out_what_it_has_and_ends() {
        let lane = Lane::default();
        lane.stop();
        assert!(lane.take().is_none());
    }
}
