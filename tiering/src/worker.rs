//! Threads for sealing, in two sets: one far below everything else in priority, which uses what produce and
//! reads leave of the cores, and one that takes its share when segments have waited long enough. A thread's
//! priority cannot be raised again without privileges, so work that must no longer wait is given up within a
//! stripe and done anew by the other set. A thread makes its buffers with the first segment, keeps them for
//! the next, and gives them up when it has been idle.
//!
//! Must not touch the async runtime, nor decide when to hurry: see `core::pace` in the broker and
//! docs/adr/0010. Invariants: 15, 16 (the queues are bounded; who finds one full waits for a place).

use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, TrySendError, sync_channel};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use highwater_model::limits::{SEAL_IDLE_MS, SEAL_NICE, SEAL_QUEUE_MAX};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};

use crate::metrics::OffloadCounters;
use crate::object::{SealError, SealInput, SealedObject, Sealer};

type Sealed = Result<SealedObject, SealError>;

struct Job {
    /// Its place in the queue, given back when it has been worked on, also when nobody waits for it any more.
    _place: OwnedSemaphorePermit,
    input: SealInput,
    reply: oneshot::Sender<Sealed>,
}

/// Sealing threads. Dropping the last handle ends them once they are idle.
#[derive(Clone)]
pub struct SealThreads {
    background: Pool,
    foreground: Pool,
    /// Set while nothing is to be left to the background.
    hurry: Arc<AtomicBool>,
    counters: Arc<OffloadCounters>,
}

impl SealThreads {
    /// `threads` run at most that many seals at a time in the background, and as many in a hurry.
    pub fn start(threads: usize, counters: Arc<OffloadCounters>) -> std::io::Result<SealThreads> {
        let hurry = Arc::new(AtomicBool::new(false));
        let background = Pool::start("seal-low", threads, SEAL_NICE, hurry.clone())?;
        let foreground = Pool::start("seal", threads, 0, Arc::default())?;
        Ok(SealThreads { background, foreground, hurry, counters })
    }

    /// From now on, what is begun takes its share of the cores, and so does what was begun in the background.
    /// False: what is begun from now on makes way for everything else.
    pub fn hurry(&self, hurry: bool) {
        self.hurry.store(hurry, Relaxed);
    }

    /// Seals on one of the threads. None when that thread died of a panic, which its message has named.
    pub async fn seal(&self, input: SealInput) -> Option<Sealed> {
        if !self.hurry.load(Relaxed) {
            // Cheap to copy: the segment's bytes are shared.
            match self.background.seal(input.clone()).await {
                Some(Err(SealError::Interrupted)) => self.counters.seals_begun_anew.add(1),
                sealed => {
                    self.counters.sealed_in_background.add(1);
                    return sealed;
                }
            }
        }
        self.counters.sealed_in_hurry.add(1);
        self.foreground.seal(input).await
    }
}

/// Threads of one priority, and their queue.
#[derive(Clone)]
struct Pool {
    queue: SyncSender<Job>,
    places: Arc<Semaphore>,
}

impl Pool {
    /// A job is interrupted when `stop` is set.
    fn start(name: &str, threads: usize, nice: i32, stop: Arc<AtomicBool>) -> std::io::Result<Pool> {
        let (queue, jobs) = sync_channel(SEAL_QUEUE_MAX);
        let jobs = Arc::new(Mutex::new(jobs));
        for number in 0..threads.max(1) {
            let (jobs, stop) = (jobs.clone(), stop.clone());
            let run = move || run(&jobs, nice, &stop);
            std::thread::Builder::new().name(format!("{name}-{number}")).spawn(run)?;
        }
        Ok(Pool { queue, places: Arc::new(Semaphore::new(SEAL_QUEUE_MAX)) })
    }

    async fn seal(&self, input: SealInput) -> Option<Sealed> {
        let place = self.places.clone().acquire_owned().await.ok()?;
        let (reply, sealed) = oneshot::channel();
        match self.queue.try_send(Job { _place: place, input, reply }) {
            Ok(()) => sealed.await.ok(),
            Err(TrySendError::Full(_)) => unreachable!("there are no more places than room in the queue"),
            Err(TrySendError::Disconnected(_)) => None,
        }
    }
}

fn run(jobs: &Mutex<Receiver<Job>>, nice: i32, stop: &AtomicBool) {
    if nice > 0 {
        // On Linux this is the thread's own priority. Without it sealing works as well, only less politely.
        let _ = rustix::process::nice(nice);
    }
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
        let seal = || sealer.get_or_insert_with(Sealer::new).seal_unless(&input, stop);
        match std::panic::catch_unwind(std::panic::AssertUnwindSafe(seal)) {
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

    fn threads() -> SealThreads {
        SealThreads::start(1, Arc::default()).expect("threads")
    }

    /// A caller that is cancelled leaves its job in the queue: its place stays taken until that is done.
    #[tokio::test]
    async fn cancelled_seals_do_not_overfill_the_queue() {
        let threads = threads();
        let slow = batches(0, 20_000, 1_000);
        for _ in 0..4 * SEAL_QUEUE_MAX {
            let seal = threads.seal(input(slow.clone(), 20_000));
            let _ = tokio::time::timeout(Duration::from_millis(1), seal).await;
        }
        let sealed = threads.seal(input(batches(0, 10, 5), 10)).await.expect("no panic").expect("sealed");
        assert_eq!(sealed.summary.records, 10);
    }

    /// What was begun in the background and what waits behind it is done by the other threads at once.
    #[tokio::test]
    async fn a_hurry_takes_over_what_the_background_has_begun() {
        let threads = threads();
        let segment = batches(0, 100_000, 1_000);
        let mut begun = Vec::new();
        for _ in 0..3 {
            let (threads, input) = (threads.clone(), input(segment.clone(), 100_000));
            begun.push(tokio::spawn(async move { threads.seal(input).await }));
        }
        while threads.background.places.available_permits() > SEAL_QUEUE_MAX - 3 {
            tokio::task::yield_now().await;
        }
        threads.hurry(true);
        for seal in begun {
            let sealed = seal.await.expect("joined").expect("no panic").expect("sealed");
            assert_eq!(sealed.summary.records, 100_000);
        }
        let count = threads.counters.snapshot();
        // The third had not been begun when the hurry came.
        assert!(count.seals_begun_anew >= 1 && count.sealed_in_hurry >= 1, "{count:?}");
        assert_eq!(count.sealed_in_background + count.sealed_in_hurry, 3);
        threads.hurry(false);
        threads.seal(input(batches(0, 10, 5), 10)).await.expect("no panic").expect("sealed");
        assert!(threads.counters.snapshot().sealed_in_background > count.sealed_in_background);
    }
}
