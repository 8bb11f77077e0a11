//! The storage under openraft: its own test suite, and what a crash, a cut or a flipped byte does to the
//! files.

use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use highwater_model::limits::RAFT_LOG_FILE_BYTES;
use openraft::testing::{StoreBuilder, Suite};
use proptest::prelude::*;

use super::OpenError;
use super::files::LogFiles;
use super::frame::{Frame, Kind, Position};
use super::log_store::LogStore;
use super::machine::Machine;
use super::snapshot::SnapshotStore;
use super::types::{StorageError, TypeConfig, decode, encode};
use super::writer::{StoredVote, Write, Writer, read_vote};
use crate::core::{Batch, ClusterState, Command, RULES_VERSION};

struct Builder;

impl StoreBuilder<TypeConfig, LogStore, Machine, tempfile::TempDir> for Builder {
    async fn build(&self) -> Result<(tempfile::TempDir, LogStore, Machine), StorageError> {
        let dir = tempfile::tempdir().expect("scratch");
        let (log, _) = LogStore::open(dir.path(), lock(dir.path())).expect("opens");
        let (snapshots, loaded) = SnapshotStore::open(&dir.path().join("snapshots")).expect("opens");
        Ok((dir, log, Machine::new(snapshots, loaded)))
    }
}

fn lock(dir: &Path) -> File {
    OpenOptions::new().create(true).truncate(false).write(true).open(dir.join("lock")).expect("lock")
}

#[test]
fn openraft_accepts_the_storage() {
    Suite::test_all(Builder).expect("openraft's storage suite");
}

fn frame(index: u64, bytes: usize) -> Frame {
    let body = (0..bytes).map(|i| (index as u8).wrapping_mul(31).wrapping_add(i as u8)).collect();
    Frame { kind: Kind::Commands, at: Position { term: 1 + index / 10, node: 1, index }, body }
}

fn open(dir: &Path) -> super::files::Opened {
    LogFiles::open(dir).unwrap_or_else(|e| panic!("{e}"))
}

fn log_paths(dir: &Path) -> Vec<PathBuf> {
    let mut paths: Vec<_> = fs::read_dir(dir).expect("dir").map(|e| e.expect("entry").path()).collect();
    paths.sort();
    paths
}

#[test]
fn entries_survive_reopening_over_several_files() {
    let dir = tempfile::tempdir().expect("scratch");
    let body = usize::try_from(RAFT_LOG_FILE_BYTES / 4).expect("fits");
    let written: Vec<Frame> = (0..10).map(|index| frame(index, body)).collect();
    let mut log = open(dir.path()).files;
    log.append(&written[..7]).expect("append");
    log.sync().expect("sync");
    log.append(&written[7..]).expect("append");
    log.sync().expect("sync");
    log.mark_committed(written[9].at).expect("mark");
    drop(log);
    assert!(log_paths(dir.path()).len() >= 3, "several files");
    let opened = open(dir.path());
    assert_eq!(opened.entries, written);
    assert_eq!(opened.committed, Some(written[9].at));
    assert_eq!((opened.before, opened.cut_bytes), (None, 0));
}

#[test]
fn purge_removes_whole_files_and_keeps_the_place() {
    let dir = tempfile::tempdir().expect("scratch");
    let body = usize::try_from(RAFT_LOG_FILE_BYTES).expect("fits");
    let written: Vec<Frame> = (0..5).map(|index| frame(index, body)).collect();
    let mut log = open(dir.path()).files;
    log.append(&written).expect("append");
    log.sync().expect("sync");
    log.purge(written[2].at).expect("purge");
    drop(log);
    let opened = open(dir.path());
    assert_eq!(opened.before, Some(written[2].at));
    assert_eq!(opened.entries, written[3..]);
    // A snapshot that was received lies past the end of the log: the log goes on after it.
    let mut log = opened.files;
    let far = Position { term: 9, node: 2, index: 99 };
    log.purge(far).expect("purge");
    log.append(&[Frame { at: Position { index: 100, ..far }, ..frame(0, 10) }]).expect("append");
    drop(log);
    let opened = open(dir.path());
    assert_eq!(opened.before, Some(far));
    assert_eq!(opened.entries.len(), 1);
}

#[test]
fn a_missing_file_stops_the_start() {
    let dir = tempfile::tempdir().expect("scratch");
    let body = usize::try_from(RAFT_LOG_FILE_BYTES).expect("fits");
    let mut log = open(dir.path()).files;
    log.append(&(0..5).map(|index| frame(index, body)).collect::<Vec<_>>()).expect("append");
    drop(log);
    fs::remove_file(&log_paths(dir.path())[2]).expect("remove");
    let error = LogFiles::open(dir.path()).err().expect("refused");
    assert!(matches!(error, OpenError::Missing { first: 2, end: 3, .. }), "{error}");
}

#[test]
fn damage_before_the_end_stops_the_start_with_one_line() {
    let dir = tempfile::tempdir().expect("scratch");
    let mut log = open(dir.path()).files;
    for index in 0..5 {
        log.append(&[frame(index, 100)]).expect("append");
        log.sync().expect("sync");
    }
    drop(log);
    let path = &log_paths(dir.path())[0];
    let file = OpenOptions::new().write(true).open(path).expect("open");
    file.write_all_at(b"x", 48 + 148 + 60).expect("damage entry 1");
    let error = LogFiles::open(dir.path()).err().expect("refused").to_string();
    assert!(error.contains("damaged at byte 196") && error.contains("restore"), "{error}");
    assert_eq!(error.lines().count(), 1);
}

/// What may be done to a log, and to a list that is its reference.
#[derive(Clone, Debug)]
enum Step {
    Append {
        count: usize,
        bytes: usize,
    },
    Sync,
    Truncate {
        back: u64,
    },
    Purge {
        forth: u64,
    },
    Reopen,
    /// Reopens after `cut` bytes of the unsynced tail were lost.
    Crash {
        cut: u64,
    },
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => (1usize..4, 0usize..3000).prop_map(|(count, bytes)| Step::Append { count, bytes }),
        2 => Just(Step::Sync),
        1 => (0u64..5).prop_map(|back| Step::Truncate { back }),
        1 => (0u64..5).prop_map(|forth| Step::Purge { forth }),
        1 => Just(Step::Reopen),
        1 => any::<u64>().prop_map(|cut| Step::Crash { cut }),
    ]
}

/// The reference: entries, how many of them are synced, and the index before the first.
struct Model {
    entries: Vec<Frame>,
    synced: usize,
    before: u64,
}

impl Model {
    fn run(&mut self, log: &mut LogFiles, dir: &Path, step: &Step) -> Option<LogFiles> {
        match step {
            Step::Append { count, bytes } => {
                let next = self.before + 1 + self.entries.len() as u64;
                let added: Vec<_> = (next..next + *count as u64).map(|index| frame(index, *bytes)).collect();
                log.append(&added).expect("append");
                self.entries.extend(added);
            }
            Step::Sync => {
                log.sync().expect("sync");
                self.synced = self.entries.len();
            }
            Step::Truncate { back } => {
                let keep = self.entries.len().saturating_sub(usize::try_from(*back).expect("small"));
                log.truncate(self.before + 1 + keep as u64).expect("truncate");
                self.entries.truncate(keep);
                self.synced = self.synced.min(keep);
            }
            Step::Purge { forth } => {
                // Raft purges only what is committed, which is synced.
                let gone = usize::try_from(*forth).expect("small").min(self.synced);
                if gone > 0 {
                    log.purge(self.entries[gone - 1].at).expect("purge");
                    self.before = self.entries[gone - 1].at.index;
                    self.entries.drain(..gone);
                    self.synced -= gone;
                }
            }
            Step::Reopen => return Some(self.reopen(dir, self.entries.len())),
            Step::Crash { cut } => {
                let newest = log_paths(dir).pop();
                if let Some(path) = newest.filter(|_| self.synced < self.entries.len()) {
                    self.cut(&path, *cut);
                }
                return Some(self.reopen(dir, self.synced));
            }
        }
        None
    }

    /// Loses an end of the newest file, at most what was not synced.
    fn cut(&self, path: &Path, cut: u64) {
        let file = OpenOptions::new().write(true).open(path).expect("open");
        let length = file.metadata().expect("length").len();
        let unsynced: u64 = self.entries[self.synced..].iter().map(|f| 48 + f.body.len() as u64).sum();
        let losable = unsynced.min(length - 48);
        if losable > 0 {
            file.set_len(length - cut % (losable + 1)).expect("cut");
        }
    }

    fn reopen(&mut self, dir: &Path, least: usize) -> LogFiles {
        let opened = open(dir);
        let found: Vec<_> = opened.entries.into_iter().filter(|f| f.at.index > self.before).collect();
        assert!(found.len() >= least, "{} synced entries, found {}", least, found.len());
        assert_eq!(found, self.entries[..found.len()], "what is found is a prefix of what was written");
        self.entries = found;
        self.synced = self.entries.len();
        opened.files
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn the_log_keeps_what_was_synced(steps in proptest::collection::vec(step(), 1..60)) {
        let dir = tempfile::tempdir().expect("scratch");
        let mut log = open(dir.path()).files;
        let mut model = Model { entries: Vec::new(), synced: 0, before: 0 };
        for step in &steps {
            if let Some(reopened) = model.run(&mut log, dir.path(), step) {
                log = reopened;
            }
        }
        drop(log);
        model.reopen(dir.path(), model.synced);
    }
}

#[test]
fn the_vote_is_replaced_whole_and_checked() {
    let dir = tempfile::tempdir().expect("scratch");
    assert_eq!(read_vote(dir.path()).expect("none yet"), None);
    let files = open(&dir.path().join("log")).files;
    let writer = Writer::start(files, dir.path(), lock(dir.path())).expect("starts");
    let (tell, told) = std::sync::mpsc::sync_channel(2);
    for term in [3, 4] {
        let tell = tell.clone();
        let vote = StoredVote { term, node: 7, committed: term == 4 };
        let done = Box::new(move |outcome: std::io::Result<()>| tell.send(outcome).expect("heard"));
        writer.send(Write::Vote { vote, done }).expect("sent");
        told.recv().expect("answered").expect("written");
    }
    writer.close();
    let vote = StoredVote { term: 4, node: 7, committed: true };
    assert_eq!(read_vote(dir.path()).expect("whole"), Some(vote));
    assert!(writer.send(Write::Committed(frame(0, 0).at)).is_err(), "closed");
    let path = dir.path().join("vote");
    let mut bytes = fs::read(&path).expect("read");
    bytes[16] ^= 1;
    fs::write(&path, bytes).expect("write");
    assert!(matches!(read_vote(dir.path()), Err(OpenError::Damaged { .. })));
}

#[test]
fn entries_of_newer_rules_are_refused() {
    let batch = Batch { rules: RULES_VERSION + 1, at_ms: 0, commands: Vec::new() };
    let payload = openraft::EntryPayload::Normal(Arc::new(batch));
    let entry = openraft::Entry { log_id: super::types::log_id(frame(3, 0).at), payload };
    let frame = encode(&entry).expect("encodes");
    assert!(decode(&frame).expect_err("refused").to_string().contains("rules"));
}

fn formed() -> ClusterState {
    let mut state = ClusterState::default();
    let commands = vec![Command::FormCluster { cluster_id: "cluster".into(), members: Default::default() }];
    let answers = state.apply_batch(&Batch { rules: RULES_VERSION, at_ms: 0, commands });
    assert!(answers[0].is_ok());
    state
}

fn meta(index: u64) -> super::snapshot::Meta {
    super::snapshot::Meta {
        last_log_id: Some(super::types::log_id(frame(index, 0).at)),
        last_membership: super::types::GroupMembership::default(),
        snapshot_id: index.to_string(),
    }
}

#[test]
fn two_snapshots_are_kept_and_the_older_serves_for_a_damaged_one() {
    let dir = tempfile::tempdir().expect("scratch");
    let (store, none) = SnapshotStore::open(dir.path()).expect("opens");
    assert!(none.is_none());
    for index in [5, 9, 14] {
        store.write(&meta(index), &formed()).expect("written");
    }
    let paths = log_paths(dir.path());
    assert_eq!(paths.len(), 2);
    let (_, loaded) = SnapshotStore::open(dir.path()).expect("opens");
    assert_eq!(loaded.expect("loaded"), (meta(14), formed()));
    let mut bytes = fs::read(&paths[1]).expect("read");
    let last = bytes.len() - 2;
    bytes[last] ^= 4;
    fs::write(&paths[1], bytes).expect("write");
    let (_, loaded) = SnapshotStore::open(dir.path()).expect("the older one serves");
    assert_eq!(loaded.expect("loaded").0, meta(9));
    fs::write(&paths[0], b"HWRAFTSN").expect("write");
    let error = SnapshotStore::open(dir.path()).err().expect("nothing is whole").to_string();
    assert!(error.contains("damaged"), "{error}");
}
