//! Holds tier work back while clients need the cores, as [`crate::core::pace`] decides.
//!
//! Looks at the machine a few times a second while there is something to offload, and not at all otherwise.
//! What waits for the tier is counted exactly once per tick; between two ticks segments that were sealed are
//! added and those published taken off. Must not hold a partition's lock, nor work already begun: a seal that
//! turns urgent is taken over by threads of usual priority. Invariants: 15, 16.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use highwater_model::limits::{PACE_IDLE_LOOKS, PACE_LOOK_MS};
use tokio::sync::{Notify, watch};

use crate::core::pace::{Backlog, CpuMeter, CpuTimes, Pace, Rules, pace};
use crate::node::Node;
use crate::settings::Settings;

/// What has been sealed and is not in the tier.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Unpublished {
    pub bytes: u64,
    /// When the oldest of it was sealed (Unix milliseconds).
    pub oldest_ms: Option<i64>,
}

impl Unpublished {
    /// Takes another partition's into account.
    pub fn add(&mut self, other: Unpublished) {
        self.bytes += other.bytes;
        self.oldest_ms = match (self.oldest_ms, other.oldest_ms) {
            (Some(one), Some(two)) => Some(one.min(two)),
            (one, two) => one.or(two),
        };
    }
}

/// The pace of all tier work of the node.
pub struct Pacer {
    rules: Rules,
    pace: watch::Sender<Pace>,
    unpublished: Mutex<Unpublished>,
    /// People who wait for `tier offload`.
    waiting: AtomicUsize,
    wake: Notify,
}

/// Tier work takes its full share while this is held.
pub struct Hurry<'a>(&'a Pacer);

impl Drop for Hurry<'_> {
    fn drop(&mut self) {
        self.0.waiting.fetch_sub(1, Ordering::SeqCst);
        self.0.wake.notify_one();
    }
}

impl Pacer {
    pub fn new(settings: &Settings) -> Pacer {
        let rules = Rules {
            backlog_bytes_max: settings.offload_backlog_bytes_max,
            backlog_ms_max: settings.offload_backlog_ms_max,
        };
        let at_rest = pace(0, rules, Backlog::default(), true);
        Pacer {
            rules,
            pace: watch::Sender::new(at_rest),
            unpublished: Mutex::default(),
            waiting: AtomicUsize::new(0),
            wake: Notify::new(),
        }
    }

    /// How tier work runs now.
    pub fn pace(&self) -> Pace {
        *self.pace.borrow()
    }

    /// A segment was sealed.
    pub fn sealed(&self, bytes: u64) {
        self.unpublished().bytes += bytes;
    }

    /// A segment has reached the tier.
    pub(super) fn published(&self, bytes: u64) {
        let mut unpublished = self.unpublished();
        unpublished.bytes = unpublished.bytes.saturating_sub(bytes);
    }

    /// All partitions were counted.
    pub(super) fn counted(&self, unpublished: Unpublished) {
        *self.unpublished() = unpublished;
    }

    /// Somebody waits for the tier until the result is dropped.
    pub(super) fn hurry(&self) -> Hurry<'_> {
        self.waiting.fetch_add(1, Ordering::SeqCst);
        self.wake.notify_one();
        Hurry(self)
    }

    /// Returns when work may begin.
    pub(super) async fn turn(&self) {
        let mut pace = self.pace.subscribe();
        // The sender lives in the same struct.
        let _ = pace.wait_for(|pace| *pace != Pace::Wait).await;
    }

    fn unpublished(&self) -> MutexGuard<'_, Unpublished> {
        self.unpublished.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn someone_waits(&self) -> bool {
        self.waiting.load(Ordering::SeqCst) > 0
    }

    fn decide(&self, now_ms: i64, is_disk_short: bool, is_machine_busy: bool) -> Pace {
        let Unpublished { bytes, oldest_ms } = *self.unpublished();
        let backlog = Backlog { bytes, oldest_ms, is_disk_short, someone_waits: self.someone_waits() };
        let decided = pace(now_ms, self.rules, backlog, is_machine_busy);
        self.pace.send_if_modified(|pace| std::mem::replace(pace, decided) != decided);
        decided
    }
}

/// Decides again and again while there is work.
pub(super) async fn run(node: Arc<Node>) {
    let mut stop = node.stopping();
    let (mut meter, mut idle_looks) = (CpuMeter::default(), 0);
    loop {
        let pacer = &node.pacer;
        idle_looks = if node.offloads.has_work() || pacer.someone_waits() { 0 } else { idle_looks + 1 };
        // Between two segments it goes on looking; who comes after a rest waits for a few looks.
        let rests = idle_looks > PACE_IDLE_LOOKS;
        if rests {
            meter = CpuMeter::default();
        }
        let is_busy = rests || meter.look(cpu_times());
        let decided = pacer.decide(node.now_ms(), node.disk.is_short(), is_busy);
        node.offloader.hurry(decided == Pace::Full);
        let pause = async {
            match rests {
                true => node.offloads.arrival().await,
                false => tokio::time::sleep(Duration::from_millis(PACE_LOOK_MS)).await,
            }
        };
        tokio::select! {
            () = pacer.wake.notified() => {}
            () = pause => {}
            _ = stop.wait_for(|stopping| *stopping) => return,
        }
    }
}

/// Of the whole machine, as the system counts them; none where there is no such thing.
fn cpu_times() -> Option<CpuTimes> {
    CpuTimes::parse(&std::fs::read_to_string("/proc/stat").ok()?)
}

#[cfg(test)]
mod tests {
    use futures::FutureExt;

    use super::*;

    #[test]
    fn work_has_its_turn_when_it_is_calm_late_or_waited_for() {
        let settings = Settings { offload_backlog_bytes_max: 1_000, ..Settings::default() };
        let pacer = Pacer::new(&settings);
        let is_its_turn = || pacer.turn().now_or_never().is_some();
        assert!(!is_its_turn(), "not before the first look");
        assert_eq!((pacer.decide(0, false, false), is_its_turn()), (Pace::Background, true));
        assert_eq!((pacer.decide(0, false, true), is_its_turn()), (Pace::Wait, false));
        let (one, two) = (pacer.hurry(), pacer.hurry());
        drop(one);
        assert_eq!((pacer.decide(0, false, true), is_its_turn()), (Pace::Full, true));
        drop(two);
        assert_eq!(pacer.decide(0, false, true), Pace::Wait);
        assert_eq!(pacer.decide(0, true, true), Pace::Full, "the disk runs short");
        pacer.sealed(600);
        pacer.sealed(600);
        assert_eq!(pacer.decide(0, false, true), Pace::Full);
        pacer.published(600);
        assert_eq!(pacer.decide(0, false, true), Pace::Wait);
        let old = Unpublished { bytes: 1, oldest_ms: Some(5) };
        pacer.counted(old);
        assert_eq!(pacer.decide(6, false, true), Pace::Wait);
        assert_eq!(pacer.decide(5 + settings.offload_backlog_ms_max as i64, false, true), Pace::Full);
    }

    #[test]
    fn the_oldest_of_all_partitions_counts() {
        let mut all = Unpublished::default();
        for (bytes, oldest_ms) in [(0, None), (5, Some(70)), (1, Some(30)), (2, None)] {
            all.add(Unpublished { bytes, oldest_ms });
        }
        assert_eq!(all, Unpublished { bytes: 8, oldest_ms: Some(30) });
    }
}
