//! Threads for sealing, below everything else in priority: sealing is a second's worth of computing per
//! segment and must not slow a produce on the same cores. A thread makes its buffers with the
//! first segment, keeps them for the next, and gives them up when it has been idle.
//!
//! Must not touch the async runtime. Invariants: 15, 16 (the queue is bounded; who finds it full waits for a
//! place).

use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, TrySendError, sync_channel};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use highwater_model::limits::{SEAL_IDLE_MS, SEAL_NICE, SEAL_QUEUE_MAX};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};

use crate::object::{SealError, SealInput, SealedObject, Sealer};

struct Job {
    /// Its place in the queue, given back when it has been worked on, also when nobody waits for it any more.
    _place: OwnedSemaphorePermit,
    input: SealInput,
    reply: oneshot::Sender<Result<SealedObject, SealError>>,
}

/// Sealing threads. Dropping the last handle ends them once they are idle.
#[derive(Clone)]
pub struct SealThreads {
    queue: SyncSender<Job>,
    places: Arc<Semaphore>,
}

impl SealThreads {
    /// `threads` run at most that many seals at a time.
    pub fn start(threads: usize) -> std::io::Result<SealThreads> {
        let (queue, jobs) = sync_channel(SEAL_QUEUE_MAX);
        let jobs = Arc::new(Mutex::new(jobs));
        for number in 0..threads.max(1) {
            let jobs = jobs.clone();
            let name = format!("seal-{number}");
            std::thread::Builder::new().name(name).spawn(move || run(&jobs))?;
        }
        Ok(SealThreads { queue, places: Arc::new(Semaphore::new(SEAL_QUEUE_MAX)) })
    }

    /// Seals on one of the threads. None when that thread died of a panic, which its message has named.
    pub async fn seal(&self, input: SealInput) -> Option<Result<SealedObject, SealError>> {
        let place = self.places.clone().acquire_owned().await.ok()?;
        let (reply, sealed) = oneshot::channel();
        match self.queue.try_send(Job { _place: place, input, reply }) {
            Ok(()) => sealed.await.ok(),
            Err(TrySendError::Full(_)) => unreachable!("there are no more places than room in the queue"),
            Err(TrySendError::Disconnected(_)) => None,
        }
    }
}

fn run(jobs: &Mutex<Receiver<Job>>) {
    // On Linux this is the thread's own priority. Without it sealing works as well, only less politely.
    let _ = rustix::process::nice(SEAL_NICE);
    // Made with the first segment, given up after a pause: an idle node holds no buffers.
    let mut sealer: Option<Sealer> = None;
    loop {
        let job = match jobs.lock() {
            Ok(jobs) => jobs.recv_timeout(Duration::from_millis(SEAL_IDLE_MS)),
            Err(_) => return,
        };
        let Job { _place, input, reply } = match job {
            Ok(job) => job,
            Err(RecvTimeoutError::Timeout) => {
                sealer = None;
                continue;
            }
            Err(RecvTimeoutError::Disconnected) => return,
        };
        let work = std::panic::AssertUnwindSafe(|| sealer.get_or_insert_with(Sealer::new).seal(&input));
        match std::panic::catch_unwind(work) {
            // Nobody waits any more when the caller was cancelled.
            Ok(sealed) => drop(reply.send(sealed)),
            Err(_) => {
                sealer = None;
                drop(reply);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use highwater_log::EpochStart;
    use highwater_model::TopicId;
    use uuid::Uuid;

    use super::*;
    use crate::object::ObjectIdentity;
    use crate::test_support::batches;

    fn input(segment: Bytes, end: i64) -> SealInput {
        let identity = ObjectIdentity {
            cluster_id: "c".into(),
            topic: "flights".into(),
            topic_id: TopicId(Uuid::from_u128(1)),
            partition: 0,
            start: 0,
            end,
            leader_epoch: 0,
            upload_id: Uuid::from_u128(2),
        };
        SealInput::new(identity, vec![EpochStart { epoch: 0, start_offset: 0 }], segment)
    }

    /// A caller that is cancelled leaves its job in the queue: its place stays taken until that is done.
    #[tokio::test]
    async fn cancelled_seals_do_not_overfill_the_queue() {
        let threads = SealThreads::start(1).expect("threads");
        let slow = batches(0, 20_000, 1_000);
        for _ in 0..4 * SEAL_QUEUE_MAX {
            let seal = threads.seal(input(slow.clone(), 20_000));
            let _ = tokio::time::timeout(Duration::from_millis(1), seal).await;
        }
        let sealed = threads.seal(input(batches(0, 10, 5), 10)).await.expect("no panic").expect("sealed");
        assert_eq!(sealed.summary.records, 10);
    }
}
