//! Fetch sessions (KIP-227): what each client's incremental fetches stand for, so that a fetch names only
//! changes.
//!
//! Owns the partitions and positions of every session, its epoch, and the rule which partitions an
//! incremental answer must carry. Bounded in sessions and in partitions; when full, an idle session gives
//! way, else the client gets full fetches, which is always correct. Must not know topics, logs or sockets.
//! Sessions are a cache: losing one costs the client one round trip. Invariants 13 and 16.

use std::collections::BTreeMap;
use std::sync::Arc;

use highwater_model::limits::{FETCH_SESSION_EVICTION_MS, FETCH_SESSION_PARTITIONS_MAX, FETCH_SESSIONS_MAX};
use highwater_model::topic_name::TOPIC_NAME_BYTES_MAX;
use highwater_model::{LeaderEpoch, Offset, TopicId};

/// Epoch of a full fetch that wants a session.
const INITIAL_EPOCH: i32 = 0;
/// Epoch of a full fetch that wants none, and closes the one it names.
const FINAL_EPOCH: i32 = -1;
/// The id that stands for no session.
pub const NO_SESSION: i32 = 0;

/// A topic as the client names it: by name before version 13, by id since.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum TopicKey {
    Name(Arc<str>),
    Id(TopicId),
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct PartitionKey {
    pub topic: TopicKey,
    pub partition: i32,
}

/// What a client wants of one partition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Want {
    pub fetch_offset: Offset,
    pub bytes_max: i32,
    /// -1 when the client does not know.
    pub current_leader_epoch: LeaderEpoch,
    /// -1 when the client does not say.
    pub last_fetched_epoch: LeaderEpoch,
}

/// The session part of a fetch request.
#[derive(Clone, Debug)]
pub struct Ask {
    pub session_id: i32,
    pub session_epoch: i32,
    pub uses_ids: bool,
    pub added: Vec<(PartitionKey, Want)>,
    pub forgotten: Vec<PartitionKey>,
}

/// Why a fetch cannot go on with its session; the client starts a new one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SessionRefusal {
    NotFound,
    InvalidEpoch,
    TopicIds,
}

/// What one fetch is to read, in order, and how to answer.
#[derive(Clone, Debug)]
pub struct FetchContext {
    /// Goes into the answer.
    pub session_id: i32,
    /// Only what has changed is answered.
    pub is_incremental: bool,
    pub targets: Vec<(PartitionKey, Want)>,
}

/// What was found for one target.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Seen {
    pub has_records: bool,
    /// An error, or a diverging epoch: always told.
    pub is_remarkable: bool,
    pub has_error: bool,
    pub high_watermark: Offset,
    pub log_start: Offset,
}

#[derive(Debug)]
struct Cached {
    key: PartitionKey,
    want: Want,
    /// As last answered; -1 forces the next answer.
    high_watermark: Offset,
    log_start: Offset,
}

#[derive(Debug)]
struct Session {
    epoch: i32,
    uses_ids: bool,
    created_ms: i64,
    used_ms: i64,
    /// By turn: the partition answered longest ago comes first, so that a byte limit starves none.
    turns: BTreeMap<u64, Cached>,
    by_key: BTreeMap<PartitionKey, u64>,
    next_turn: u64,
}

/// All sessions of a broker.
#[derive(Debug)]
pub struct FetchSessions {
    sessions: BTreeMap<i32, Session>,
    partitions: usize,
    /// State of the generator of ids.
    seed: u64,
    sessions_max: usize,
    partitions_max: usize,
}

impl Session {
    fn new(now_ms: i64, uses_ids: bool) -> Session {
        Session {
            epoch: 1,
            uses_ids,
            created_ms: now_ms,
            used_ms: now_ms,
            turns: BTreeMap::new(),
            by_key: BTreeMap::new(),
            next_turn: 0,
        }
    }

    /// Adds a partition or changes what is wanted of it.
    fn put(&mut self, key: PartitionKey, want: Want) {
        if let Some(turn) = self.by_key.get(&key) {
            self.turns.get_mut(turn).expect("both maps hold the same partitions").want = want;
            return;
        }
        let turn = self.next_turn;
        self.next_turn += 1;
        self.by_key.insert(key.clone(), turn);
        self.turns.insert(turn, Cached { key, want, high_watermark: -1, log_start: -1 });
        debug_assert_eq!(self.turns.len(), self.by_key.len());
    }

    fn forget(&mut self, key: &PartitionKey) {
        if let Some(turn) = self.by_key.remove(key) {
            let removed = self.turns.remove(&turn);
            assert!(removed.is_some(), "both maps hold the same partitions");
        }
    }

    fn targets(&self) -> Vec<(PartitionKey, Want)> {
        self.turns.values().map(|cached| (cached.key.clone(), cached.want)).collect()
    }

    /// Whether `seen` must be in the answer; remembers it as answered.
    fn answer(&mut self, key: &PartitionKey, seen: &Seen, is_incremental: bool) -> bool {
        let Some(turn) = self.by_key.get(key).copied() else {
            return true;
        };
        let cached = self.turns.get_mut(&turn).expect("both maps hold the same partitions");
        let is_changed = cached.high_watermark != seen.high_watermark || cached.log_start != seen.log_start;
        let told = seen.has_records || is_changed || seen.is_remarkable || seen.has_error;
        cached.high_watermark = if seen.has_error { -1 } else { seen.high_watermark };
        cached.log_start = seen.log_start;
        if seen.has_records && is_incremental {
            let cached = self.turns.remove(&turn).expect("looked up above");
            self.by_key.insert(key.clone(), self.next_turn);
            self.turns.insert(self.next_turn, cached);
            self.next_turn += 1;
            assert_eq!(self.turns.len(), self.by_key.len(), "a turn was lost");
        }
        told
    }
}

impl FetchSessions {
    /// With a broker's bounds. `seed` makes the ids differ from those of the broker's former life: a client
    /// that comes with one of those must be told that its session is gone, not be given another's.
    pub fn seeded(seed: u64) -> FetchSessions {
        FetchSessions::new(seed, FETCH_SESSIONS_MAX, FETCH_SESSION_PARTITIONS_MAX)
    }

    /// As [`FetchSessions::seeded`] with bounds of one's own.
    pub fn new(seed: u64, sessions_max: usize, partitions_max: usize) -> FetchSessions {
        FetchSessions { sessions: BTreeMap::new(), partitions: 0, seed, sessions_max, partitions_max }
    }

    pub fn len(&self) -> usize {
        self.sessions.len()
    }

    pub fn is_empty(&self) -> bool {
        self.sessions.is_empty()
    }

    /// Takes a fetch into its session and tells what to read.
    pub fn begin(&mut self, now_ms: i64, ask: Ask) -> Result<FetchContext, SessionRefusal> {
        match ask.session_epoch {
            INITIAL_EPOCH => {
                self.remove(ask.session_id);
                Ok(self.begin_full(now_ms, ask))
            }
            FINAL_EPOCH => {
                self.remove(ask.session_id);
                Ok(sessionless(ask.added))
            }
            _ => self.begin_incremental(now_ms, ask),
        }
    }

    fn begin_full(&mut self, now_ms: i64, ask: Ask) -> FetchContext {
        if ask.added.is_empty() || !names_fit(&ask.added) || !self.make_room(now_ms, ask.added.len()) {
            return sessionless(ask.added);
        }
        let id = self.fresh_id();
        let mut session = Session::new(now_ms, ask.uses_ids);
        for (key, want) in ask.added {
            session.put(key, want);
        }
        let targets = session.targets();
        self.partitions += session.turns.len();
        let replaced = self.sessions.insert(id, session);
        assert!(replaced.is_none(), "a fresh id is not in use");
        self.check();
        FetchContext { session_id: id, is_incremental: false, targets }
    }

    fn begin_incremental(&mut self, now_ms: i64, ask: Ask) -> Result<FetchContext, SessionRefusal> {
        let id = ask.session_id;
        let session = self.sessions.get_mut(&id).ok_or(SessionRefusal::NotFound)?;
        if session.epoch != ask.session_epoch {
            return Err(SessionRefusal::InvalidEpoch);
        }
        if session.uses_ids != ask.uses_ids {
            return Err(SessionRefusal::TopicIds);
        }
        let held = session.turns.len();
        let may_stay = names_fit(&ask.added);
        for (key, want) in ask.added {
            session.put(key, want);
        }
        for key in &ask.forgotten {
            session.forget(key);
        }
        session.used_ms = now_ms;
        session.epoch = if session.epoch == i32::MAX { 1 } else { session.epoch + 1 };
        assert!(session.epoch > 0, "incremental epochs are positive");
        let targets = session.targets();
        self.partitions = self.partitions - held + targets.len();
        if targets.is_empty() || !may_stay || self.partitions > self.partitions_max {
            self.remove(id);
            return Ok(sessionless(targets));
        }
        self.check();
        Ok(FetchContext { session_id: id, is_incremental: true, targets })
    }

    /// Tells for each target of `context` whether its answer must be sent. `seen` stands in the order of the
    /// targets.
    pub fn finish(&mut self, context: &FetchContext, seen: &[Seen]) -> Vec<bool> {
        assert_eq!(seen.len(), context.targets.len(), "one finding per target");
        let session = self.sessions.get_mut(&context.session_id);
        let Some(session) = session.filter(|_| context.session_id != NO_SESSION) else {
            return vec![true; seen.len()];
        };
        let told = context.targets.iter().zip(seen);
        told.map(|((key, _), seen)| {
            let changed = session.answer(key, seen, context.is_incremental);
            changed || !context.is_incremental
        })
        .collect()
    }

    fn remove(&mut self, id: i32) {
        if let Some(session) = self.sessions.remove(&id) {
            assert!(self.partitions >= session.turns.len(), "partitions are counted");
            self.partitions -= session.turns.len();
        }
    }

    /// Makes room for a session of `size` partitions; false when nothing may go.
    fn make_room(&mut self, now_ms: i64, size: usize) -> bool {
        let is_full = |s: &FetchSessions| {
            s.sessions.len() >= s.sessions_max || s.partitions.saturating_add(size) > s.partitions_max
        };
        while is_full(self) {
            let Some(id) = self.victim(now_ms, size) else {
                return false;
            };
            self.remove(id);
        }
        true
    }

    /// The session used longest ago if it is idle, else the smallest one that is old and smaller than the
    /// newcomer.
    fn victim(&self, now_ms: i64, size: usize) -> Option<i32> {
        let (id, oldest) = self.sessions.iter().min_by_key(|(_, s)| s.used_ms)?;
        if now_ms.saturating_sub(oldest.used_ms) > FETCH_SESSION_EVICTION_MS {
            return Some(*id);
        }
        let (id, smallest) = self
            .sessions
            .iter()
            .filter(|(_, s)| now_ms.saturating_sub(s.created_ms) > FETCH_SESSION_EVICTION_MS)
            .min_by_key(|(_, s)| s.turns.len())?;
        (smallest.turns.len() < size).then_some(*id)
    }

    /// A positive id that is not in use (splitmix64).
    fn fresh_id(&mut self) -> i32 {
        assert!(self.sessions.len() <= self.sessions_max, "sessions are bounded, so ids are plenty");
        loop {
            self.seed = self.seed.wrapping_add(0x9e37_79b9_7f4a_7c15);
            let mut z = self.seed;
            z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
            let id = i32::try_from((z ^ (z >> 31)) >> 33).expect("31 bits");
            if id != NO_SESSION && !self.sessions.contains_key(&id) {
                return id;
            }
        }
    }

    fn check(&self) {
        assert!(self.sessions.len() <= self.sessions_max, "too many sessions");
        debug_assert_eq!(self.partitions, self.sessions.values().map(|s| s.turns.len()).sum::<usize>());
    }
}

/// Whether a session may keep these partitions: sessions are bounded in number, so keys must be in size. A
/// longer name is of no topic anyway.
fn names_fit(asked: &[(PartitionKey, Want)]) -> bool {
    asked.iter().all(|(key, _)| match &key.topic {
        TopicKey::Name(name) => name.len() <= TOPIC_NAME_BYTES_MAX,
        TopicKey::Id(_) => true,
    })
}

fn sessionless(asked: Vec<(PartitionKey, Want)>) -> FetchContext {
    FetchContext { session_id: NO_SESSION, is_incremental: false, targets: unique(asked) }
}

/// A partition that is named again is answered once, in its first place, as it was wanted last (as in Kafka):
/// else a small request could ask for one batch thousands of times.
fn unique(asked: Vec<(PartitionKey, Want)>) -> Vec<(PartitionKey, Want)> {
    let mut places: BTreeMap<PartitionKey, usize> = BTreeMap::new();
    let mut targets: Vec<(PartitionKey, Want)> = Vec::with_capacity(asked.len());
    for (key, want) in asked {
        if let Some(place) = places.get(&key) {
            targets[*place].1 = want;
            continue;
        }
        places.insert(key.clone(), targets.len());
        targets.push((key, want));
    }
    assert_eq!(targets.len(), places.len(), "one place per partition");
    targets
}

#[cfg(test)]
mod tests;
