//! The storage under openraft: its own suite, and what a crash leaves.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, Weak};
use std::thread::JoinHandle;

use highwater_log::PartitionLog;
use highwater_log::disk::{Disk, SimDisk};
use openraft::testing::{StoreBuilder, Suite};

use super::kit::{Home, batch};
use crate::core::raft_side::{EntryId, StoredVote};
use crate::raft::machine::Machine;
use crate::raft::storage::Log;
use crate::raft::types::{Batch, Body, StorageError, TypeConfig};
use crate::raft::{Beginning, OpenError, PartitionPort, Store, SyncQueue, TierPoint};

struct Builder;

impl StoreBuilder<TypeConfig, Log, Machine, ()> for Builder {
    async fn build(&self) -> Result<((), Log, Machine), StorageError> {
        let (_, store) = open(&SimDisk::new(), &Beginning::Joining { replica: 0 });
        Ok(((), Log::new(store.clone()), Machine::new(store)))
    }
}

/// openraft's own suite, but for the cases that leave holes in the log or apply what it does not hold: here
/// the log is the state (`snapshot_meta`, `transfer_snapshot`,
/// `get_initial_state_membership_from_log_and_sm`,
/// `get_initial_state_last_log_lt_sm`; the tests below take their place).
#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn openraft_accepts_the_storage() {
    type S = Suite<TypeConfig, Log, Machine, Builder, ()>;
    macro_rules! run {
        ($($case:ident),* $(,)?) => {$(
            let ((), log, machine) = Builder.build().await.expect("opens");
            S::$case(log, machine).await.unwrap_or_else(|e| panic!("{}: {e}", stringify!($case)));
        )*};
    }
    run!(
        last_membership_in_log_initial,
        last_membership_in_log,
        last_membership_in_log_multi_step,
        get_membership_initial,
        get_membership_from_log_and_empty_sm,
        get_membership_from_empty_log_and_sm,
        get_membership_from_log_le_sm_last_applied,
        get_membership_from_log_gt_sm_last_applied_1,
        get_membership_from_log_gt_sm_last_applied_2,
        get_initial_state_without_init,
        get_initial_state_with_state,
        get_initial_state_last_log_gt_sm,
        get_initial_state_log_ids,
        get_initial_state_re_apply_committed,
        save_vote,
        get_log_entries,
        limited_get_log_entries,
        try_get_log_entry,
        initial_logs,
        get_log_state,
        get_log_id,
        last_id_in_log,
        last_applied_state,
        purge_logs_upto_0,
        purge_logs_upto_5,
        purge_logs_upto_20,
        delete_logs_since_11,
        delete_logs_since_0,
        append_to_log,
        apply_single,
        apply_multiple,
    );
}

fn open(disk: &SimDisk, beginning: &Beginning) -> (Arc<Home>, Arc<Store>) {
    try_open(disk, beginning).unwrap_or_else(|e| panic!("{e}"))
}

fn try_open(disk: &SimDisk, beginning: &Beginning) -> Result<(Arc<Home>, Arc<Store>), OpenError> {
    let home = Home::open(disk);
    let port: Arc<dyn Disk> = Arc::new(disk.clone());
    let store = Store::open(&port, home.clone(), Arc::new(SyncQueue::inline()), beginning)?;
    Ok((home, store))
}

fn group(offset: i64) -> Beginning {
    let members = BTreeMap::from([(1, 1), (2, 2), (3, 3)]);
    Beginning::Group { replica: 1, term: 4, offset, members }
}

fn id(term: u64, index: u64) -> EntryId {
    EntryId { term, leader: 2, index }
}

/// Appends what a leader of term 5 would send: a blank, then batches.
fn append(store: &Arc<Store>, from: u64, batches: u64) {
    for index in from..from + batches {
        let (header, bytes) = batch(&format!("record {index} {}", "x".repeat(100)), 2);
        let header =
            highwater_wire::batch::BatchHeader { base_offset: store.lock_end(), leader_epoch: 5, ..header };
        store.append_batch(id(5, index), Batch::stored(header, bytes)).expect("appends");
    }
}

#[test]
fn entries_are_found_by_index_from_memory_and_from_files() {
    let disk = SimDisk::new();
    let (_, store) = open(&disk, &group(0));
    store.append_side(id(5, 1), None).expect("a blank");
    append(&store, 2, 300);
    store.append_side(id(5, 302), None).expect("a blank");
    append(&store, 303, 300);
    for shed in [false, true] {
        if shed {
            store.shed();
        }
        for index in [1, 2, 3, 150, 301, 302, 303, 450, 602] {
            let entry = store.entry(index).expect("reads").unwrap_or_else(|| panic!("entry {index}"));
            assert_eq!(entry.id, id(5, index));
            match entry.body {
                Body::Batch { header, .. } => assert_eq!(header.base_offset, entry.offset),
                _ => assert!(index == 1 || index == 302),
            }
        }
        assert!(store.entry(0).expect("reads").is_none() && store.entry(603).expect("reads").is_none());
        let some = store.entries(300, 310, usize::MAX).expect("reads");
        assert_eq!(some.iter().map(|e| e.id.index).collect::<Vec<_>>(), (300..310).collect::<Vec<_>>());
        let few = store.entries(10, 600, 1_000).expect("reads");
        assert!(few.len() > 1 && few.iter().map(|e| e.bytes()).sum::<usize>() <= 1_000);
    }
}

#[test]
fn a_truncation_is_exact_and_survives_reopening() {
    let disk = SimDisk::new();
    let (home, store) = open(&disk, &group(0));
    store.append_side(id(5, 1), None).expect("a blank");
    append(&store, 2, 50);
    let before = home.bytes();
    append(&store, 52, 20);
    store.append_side(id(5, 72), None).expect("a blank");
    append(&store, 73, 5);
    store.truncate(52).expect("cuts");
    assert_eq!((store.last(), home.bytes() == before), (Some(id(5, 51)), true));
    let blank = EntryId { term: 6, leader: 3, index: 52 };
    store.append_side(blank, None).expect("a blank of the next leader");
    store.flush();
    drop(store);
    let (_, store) = open(&disk, &Beginning::Existing);
    assert_eq!(store.last(), Some(blank));
    assert_eq!(store.entry(51).expect("reads").map(|e| e.id), Some(id(5, 51)));
}

#[test]
fn what_is_committed_is_never_cut() {
    let (_, store) = open(&SimDisk::new(), &group(0));
    store.append_side(id(5, 1), None).expect("a blank");
    append(&store, 2, 5);
    let end = store.entry(4).expect("reads").map(|e| e.next_offset());
    store.applied(id(5, 4), end);
    assert!(store.truncate(4).is_err());
    store.truncate(5).expect("not committed");
    assert_eq!(store.last(), Some(id(5, 4)));
}

#[test]
fn the_high_watermark_waits_for_the_disk() {
    let (home, store) = open(&SimDisk::new(), &group(0));
    store.append_side(id(5, 1), None).expect("a blank");
    append(&store, 2, 5);
    store.applied(id(5, 6), store.entry(6).expect("reads").map(|e| e.next_offset()));
    assert_eq!(home.high_watermark.load(std::sync::atomic::Ordering::SeqCst), 0);
    store.flush();
    assert_eq!(home.high_watermark.load(std::sync::atomic::Ordering::SeqCst), 10);
}

/// A crash at any point loses at most what was not synced, and never shifts an index.
#[test]
fn a_crash_leaves_a_prefix_with_every_index_in_its_place() {
    for seed in 0..300 {
        let disk = SimDisk::new();
        let (_, store) = open(&disk, &group(0));
        store.append_side(id(5, 1), None).expect("a blank");
        store.sync_side(Box::new(|done| done.expect("syncs"))).expect("queued");
        append(&store, 2, 20 + seed % 7);
        store.flush();
        let durable = store.last();
        append(&store, 22 + seed % 7, 10);
        let next = 32 + seed % 7;
        store.append_side(EntryId { term: 6, leader: 3, index: next }, None).expect("a blank");
        if seed % 2 == 0 {
            store.sync_side(Box::new(|done| done.expect("syncs"))).expect("queued");
        }
        let whole: Vec<_> = store.entries(1, u64::MAX, usize::MAX).expect("reads");
        let disk = disk.crash(seed).expect("memory");
        let (home, store) = open(&disk, &Beginning::Existing);
        let left = store.entries(1, u64::MAX, usize::MAX).expect("reads");
        assert!(store.last() >= durable, "seed {seed}: what was synced is there");
        assert_eq!(left.last().map(|e| e.id), store.last());
        for (was, is) in whole.iter().zip(&left) {
            assert_eq!(
                (was.id, was.offset, was.next_offset()),
                (is.id, is.offset, is.next_offset()),
                "{seed}"
            );
        }
        assert_eq!(left.last().map(|e| e.next_offset()), Some(home.log_end()));
    }
}

/// As above while a truncation is under way and another leader's entries take the place of what is cut.
#[test]
fn a_crash_around_a_truncation_leaves_one_of_the_two_logs() {
    for seed in 0..300 {
        let disk = SimDisk::new();
        let (_, store) = open(&disk, &group(0));
        store.append_side(id(5, 1), None).expect("a blank");
        append(&store, 2, 30);
        store.append_side(id(5, 32), None).expect("a blank");
        store.sync_side(Box::new(|done| done.expect("syncs"))).expect("queued");
        append(&store, 33, 10);
        store.flush();
        let cut = 10 + seed % 25;
        store.truncate(cut).expect("cuts");
        let blank = EntryId { term: 6, leader: 3, index: cut };
        store.append_side(blank, None).expect("a blank");
        if seed % 3 > 0 {
            store.sync_side(Box::new(|done| done.expect("syncs"))).expect("queued");
        }
        let disk = disk.crash(seed).expect("memory");
        let (home, store) = open(&disk, &Beginning::Existing);
        let left = store.entries(1, u64::MAX, usize::MAX).expect("reads");
        assert!(left.iter().zip(1..).all(|(entry, index)| entry.id.index == index), "seed {seed}");
        let is_cut = store.last() == Some(blank) || store.last() == Some(id(5, cut - 1));
        assert!(is_cut, "seed {seed}: {:?}", store.last());
        assert_eq!(left.last().map(|e| e.next_offset()), Some(home.log_end()));
    }
}

#[test]
fn a_purged_log_begins_at_its_base_and_a_new_replica_begins_there() {
    let disk = SimDisk::new();
    let (home, store) = open(&disk, &group(0));
    store.append_side(id(5, 1), None).expect("a blank");
    append(&store, 2, 200);
    store.flush();
    store.applied(id(5, 201), store.entry(201).expect("reads").map(|e| e.next_offset()));
    home.tier.lock().expect("tier").tiered_end = 250;
    let (at, members, snapshot) = store.snapshot().expect("made").expect("something is committed");
    let start = snapshot.beginning.offset;
    assert!(start > 0 && start <= 250);
    assert_eq!(store.entry(at.index).expect("reads").map(|e| e.next_offset()), Some(start));
    store.purge(at).expect("purges");
    assert_eq!(store.released_end(), start);
    assert!(store.entry(at.index).expect("reads").is_none());
    let encoded = snapshot.encode();
    assert_eq!(crate::raft::store::Snapshot::decode(&encoded).expect("whole"), snapshot);
    for bit in (0..encoded.len() * 8).step_by(7) {
        let mut bad = encoded.clone();
        bad[bit / 8] ^= 1 << (bit % 8);
        assert!(crate::raft::store::Snapshot::decode(&bad).is_err(), "bit {bit}");
    }
    let (new_home, new) = open(&SimDisk::new(), &Beginning::Joining { replica: 9 });
    new.install(at, members, &snapshot).expect("installs");
    let rest = store.entries(at.index + 1, u64::MAX, usize::MAX).expect("reads");
    for entry in rest {
        let Body::Batch { header, bytes } = entry.body else { panic!("batches only") };
        new.append_batch(entry.id, Batch::stored(header, bytes)).expect("follows");
    }
    assert!(home.bytes().ends_with(&new_home.bytes()) && !new_home.bytes().is_empty());
    assert_eq!(new.last(), store.last());
}

/// What a group takes over from fetch replication may be ahead of the tier: a new replica would lack it.
#[test]
fn a_group_that_begins_above_the_tier_is_joined_once_the_tier_is_there() {
    let disk = SimDisk::new();
    {
        let home = Home::open(&disk);
        let mut log = home.log.lock().expect("log");
        for at in 0..5 {
            let (header, bytes) = batch(&format!("record {at}"), 2);
            log.append(&header, &bytes, 3, 0).expect("appends");
        }
        log.close().expect("closes");
    }
    let (home, store) = open(&disk, &group(10));
    for (tiered_end, is_joinable) in [(0, false), (9, false), (10, true), (11, true)] {
        home.tier.lock().expect("tier").tiered_end = tiered_end;
        assert_eq!(store.is_joinable(), is_joinable, "the tier ends at {tiered_end}");
    }
    let (_, from_nothing) = open(&SimDisk::new(), &group(0));
    assert!(from_nothing.is_joinable());
}

#[test]
fn an_installation_is_whole_after_a_crash() {
    let (home, store) = open(&SimDisk::new(), &group(0));
    store.append_side(id(5, 1), None).expect("a blank");
    append(&store, 2, 200);
    store.flush();
    store.applied(id(5, 201), store.entry(201).expect("reads").map(|e| e.next_offset()));
    home.tier.lock().expect("tier").tiered_end = 300;
    let (at, members, snapshot) = store.snapshot().expect("made").expect("something is committed");
    for seed in 0..100 {
        let disk = SimDisk::new();
        let (_, behind) = open(&disk, &group(0));
        behind.append_side(id(5, 1), None).expect("a blank");
        append(&behind, 2, seed % 40);
        if seed % 2 == 0 {
            behind.flush();
        }
        behind.install(at, members.clone(), &snapshot).expect("installs");
        let disk = disk.crash(seed).expect("memory");
        let (home, behind) = open(&disk, &Beginning::Existing);
        assert_eq!((behind.last(), home.log_end()), (Some(at), snapshot.beginning.offset), "seed {seed}");
        assert_eq!(home.log.lock().expect("log").epochs(), &snapshot.beginning.epochs[..]);
    }
}

#[test]
fn a_leader_that_died_on_its_way_out_takes_its_removal_back() {
    let without_me = || {
        let nodes = BTreeMap::from([(2, 2), (4, 4)]);
        Some(Arc::new(crate::core::raft_side::Members::of_voters(nodes)))
    };
    let mine = |index| EntryId { term: 5, leader: 1, index };
    let vote = |term, replica| StoredVote { term, replica, is_committed: true };
    // Leads in term 5, and appends the entry that leaves it out, and a batch after it.
    let dies = |later: &dyn Fn(&Arc<Store>)| {
        let disk = SimDisk::new();
        let (_, store) = open(&disk, &group(0));
        store.write_vote(vote(5, 1)).expect("led");
        store.append_side(mine(1), None).expect("a blank");
        let (header, bytes) = batch("before", 2);
        let header = highwater_wire::batch::BatchHeader { leader_epoch: 5, ..header };
        store.append_batch(mine(2), Batch::stored(header, bytes)).expect("appends");
        store.append_side(mine(3), without_me()).expect("members");
        let (header, bytes) = batch("after", 2);
        let header = highwater_wire::batch::BatchHeader { base_offset: 2, leader_epoch: 5, ..header };
        store.append_batch(mine(4), Batch::stored(header, bytes)).expect("appends");
        store.flush();
        store.sync_side(Box::new(|done| done.expect("syncs"))).expect("queued");
        later(&store);
        let (home, store) = open(&disk.crash(7).expect("memory"), &Beginning::Existing);
        (store.last(), home.log_end())
    };
    let (taken_back, kept) = ((Some(mine(2)), 2), (Some(mine(4)), 4));
    assert_eq!(dies(&|_| {}), taken_back);
    let votes = |store: &Arc<Store>| {
        store.write_vote(StoredVote { term: 6, replica: 4, is_committed: false }).expect("votes");
        store.sync_side(Box::new(|done| done.expect("syncs"))).expect("queued");
    };
    assert_eq!(dies(&votes), taken_back, "a vote for another one is no promise of its log");
    let follows = |store: &Arc<Store>| {
        store.write_vote(vote(6, 4)).expect("follows");
        store.sync_side(Box::new(|done| done.expect("syncs"))).expect("queued");
    };
    assert_eq!(dies(&follows), kept, "another leader may have counted on it");
    let removed_by_another = |disk: &SimDisk| {
        let (_, store) = open(disk, &group(0));
        store.append_side(id(5, 1), None).expect("a blank");
        store.append_side(id(5, 2), without_me()).expect("members");
        store.sync_side(Box::new(|done| done.expect("syncs"))).expect("queued");
    };
    let disk = SimDisk::new();
    removed_by_another(&disk);
    let (_, store) = open(&disk.crash(7).expect("memory"), &Beginning::Existing);
    assert_eq!(store.last(), Some(id(5, 2)), "it was not its leader");
}

#[test]
fn a_replica_that_lost_its_promises_is_refused() {
    let disk = SimDisk::new();
    assert!(matches!(try_open(&disk, &Beginning::Existing), Err(OpenError::Lost(_))));
    assert!(matches!(try_open(&disk, &group(10)), Err(OpenError::Behind { log_end: 0, offset: 10 })));
    let (_, store) = open(&disk, &group(0));
    store.append_side(id(5, 1), None).expect("a blank");
    store.sync_side(Box::new(|done| done.expect("syncs"))).expect("queued");
    append(&store, 2, 100);
    store.flush();
    store.purge(id(5, 60)).expect("purges");
    drop(store);
    let raw: Arc<dyn Disk> = Arc::new(disk.clone());
    let file = raw.open("raft").expect("there");
    file.write_at(&[std::io::IoSlice::new(&[0xff; 8])], 30).expect("writes");
    assert!(matches!(try_open(&disk, &Beginning::Existing), Err(OpenError::Side(_))));
}

#[test]
fn a_failed_fsync_ends_the_replicas_part() {
    let disk = SimDisk::new();
    let (home, store) = open(&disk, &group(0));
    store.append_side(id(5, 1), None).expect("a blank");
    append(&store, 2, 5);
    let (tell, told) = std::sync::mpsc::sync_channel(1);
    store.when_durable(6, Box::new(move |done| tell.send(done.is_ok()).expect("waits")));
    disk.inject(highwater_log::disk::Fault::SyncFails);
    store.flush();
    assert_eq!(told.recv(), Ok(false), "who waits is told");
    assert!(home.failure.lock().expect("failure").is_some());
    let (header, bytes) = batch("late", 1);
    assert!(store.append_batch(id(5, 7), Batch::stored(header, bytes)).is_err());
}

#[test]
fn a_journal_that_grows_is_written_anew() {
    use crate::core::raft_side::{Mark, StoredVote};
    let disk = SimDisk::new();
    let (_, store) = open(&disk, &group(0));
    for term in 5..5_000 {
        store.write_mark(&Mark::Vote(StoredVote { term, replica: 2, is_committed: false })).expect("writes");
    }
    let raw: Arc<dyn Disk> = Arc::new(disk.clone());
    let bytes = raw.list().expect("lists").iter().find(|e| e.name == "raft").map(|e| e.bytes);
    assert!(bytes < Some(2 * highwater_model::limits::RAFT_SIDE_FILE_BYTES as u64), "{bytes:?}");
    drop(store);
    let (_, store) = open(&disk, &Beginning::Existing);
    assert_eq!(store.vote().map(|vote| vote.term), Some(4_999));
}

/// Begins a flush when the log is next asked for once it ends at `at`, and holds it before its end.
struct FlushAmid {
    home: Arc<Home>,
    at: AtomicI64,
    store: OnceLock<Weak<Store>>,
    flush: Mutex<Option<JoinHandle<()>>>,
    is_drawn: AtomicBool,
    is_released: AtomicBool,
}

const FLUSH: &str = "flush amid";

impl FlushAmid {
    fn open(beginning: &Beginning) -> (Arc<FlushAmid>, Arc<Store>) {
        let sim = SimDisk::new();
        let disk: Arc<dyn Disk> = Arc::new(sim.clone());
        let port = Arc::new(FlushAmid {
            home: Home::open(&sim),
            at: AtomicI64::new(i64::MAX),
            store: OnceLock::new(),
            flush: Mutex::default(),
            is_drawn: AtomicBool::new(false),
            is_released: AtomicBool::new(false),
        });
        let store = Store::open(&disk, port.clone(), Arc::new(SyncQueue::inline()), beginning);
        let store = store.unwrap_or_else(|e| panic!("{e}"));
        port.store.set(Arc::downgrade(&store)).expect("once");
        (port, store)
    }

    fn begin(&self) {
        let store = self.store.get().and_then(Weak::upgrade).expect("open");
        let flush = std::thread::Builder::new().name(FLUSH.to_owned()).spawn(move || store.flush());
        let flush = flush.expect("a thread");
        while !self.is_drawn.load(Ordering::SeqCst) && !flush.is_finished() {
            std::thread::yield_now();
        }
        *self.flush.lock().expect("flush") = Some(flush);
    }

    /// Lets the flush end, if one has begun.
    fn finish(&self) {
        self.at.store(i64::MAX, Ordering::SeqCst);
        self.is_released.store(true, Ordering::SeqCst);
        if let Some(flush) = self.flush.lock().expect("flush").take() {
            flush.join().expect("a flush covers what it was drawn for");
        }
    }
}

impl PartitionPort for FlushAmid {
    fn with_log(&self, work: &mut dyn FnMut(&mut PartitionLog)) -> bool {
        if std::thread::current().name() == Some(FLUSH) {
            // Its first call draws it, its second one is its end.
            while self.is_drawn.swap(true, Ordering::SeqCst) && !self.is_released.load(Ordering::SeqCst) {
                std::thread::yield_now();
            }
        } else if self.at.load(Ordering::SeqCst) == self.home.log_end() {
            self.at.store(i64::MAX, Ordering::SeqCst);
            self.begin();
        }
        self.home.with_log(work)
    }

    fn now_ms(&self) -> i64 {
        self.home.now_ms()
    }

    fn advance(&self, high_watermark: i64) {
        self.home.advance(high_watermark);
    }

    fn tier(&self) -> TierPoint {
        self.home.tier()
    }

    fn begun(&self, offset: i64) {
        self.home.begun(offset);
    }

    fn failed(&self, why: &str) {
        self.home.failed(why);
    }
}

#[test]
fn a_flush_amid_a_cut_makes_nothing_durable_that_comes_after() {
    let (amid, store) = FlushAmid::open(&group(0));
    store.append_side(id(5, 1), None).expect("a blank");
    append(&store, 2, 50);
    store.shed();
    let cut = store.entry(30).expect("reads").expect("there").offset;
    amid.at.store(cut, Ordering::SeqCst);
    store.truncate(30).expect("cuts");
    amid.finish();
    append(&store, 30, 1);
    let (tell, told) = std::sync::mpsc::sync_channel(1);
    store.when_durable(30, Box::new(move |done| tell.send(done.is_ok()).expect("waits")));
    assert!(told.try_recv().is_err(), "it was never synced");
    store.flush();
    assert_eq!((told.recv(), store.durable()), (Ok(true), Some(id(5, 30))));
}

#[test]
fn a_flush_amid_an_installation_ends_and_counts_for_nothing() {
    let (home, store) = open(&SimDisk::new(), &group(0));
    store.append_side(id(5, 1), None).expect("a blank");
    append(&store, 2, 200);
    store.flush();
    store.applied(id(5, 201), store.entry(201).expect("reads").map(|e| e.next_offset()));
    home.tier.lock().expect("tier").tiered_end = 300;
    let (at, members, snapshot) = store.snapshot().expect("made").expect("something is committed");
    let (amid, other) = FlushAmid::open(&group(0));
    other.append_side(id(5, 1), None).expect("a blank");
    append(&other, 2, 250);
    // Of another term: what is here contradicts it.
    let at = EntryId { term: 6, ..at };
    amid.at.store(snapshot.beginning.offset, Ordering::SeqCst);
    other.install(at, members, &snapshot).expect("installs");
    assert!(amid.is_drawn.load(Ordering::SeqCst), "a flush came in between");
    amid.finish();
    assert_eq!((other.last(), other.durable()), (Some(at), Some(at)));
    assert_eq!(amid.home.log_end(), snapshot.beginning.offset);
}

#[test]
fn a_replica_does_not_join_over_a_log_that_it_cannot_empty() {
    let disk = SimDisk::new();
    let home = Home::open(&disk);
    home.is_closed.store(true, Ordering::SeqCst);
    let raw: Arc<dyn Disk> = Arc::new(disk.clone());
    let joining = Beginning::Joining { replica: 9 };
    let opened = Store::open(&raw, home, Arc::new(SyncQueue::inline()), &joining);
    assert!(matches!(opened, Err(OpenError::Io(_))));
    assert!(raw.list().expect("lists").iter().all(|entry| entry.name != "raft"), "it has not begun");
}
