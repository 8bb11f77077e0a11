//! What one run is: everything drawn from the seed before the world begins.

use std::fmt;

use highwater_coordinator::core::{Command, NewTopic};
use highwater_model::{TopicId, TopicPartition};

use crate::exactly;
use crate::network::{MILLI, Micros, SECOND, Weather};
use crate::random::Chance;

/// How partitions are replicated in the run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Mode {
    /// Followers pull from the leader that the control plane names.
    Fetch,
    /// Each partition is a Raft group.
    Raft,
    /// The topic goes from one to the other and back, all the time.
    Switching,
    /// As `Fetch`, with a consumer group and transactions on top; nothing goes to the tier.
    Groups,
}

impl Mode {
    pub const ALL: &[Mode] = &[Mode::Fetch, Mode::Raft, Mode::Switching, Mode::Groups];

    pub fn name(self) -> &'static str {
        match self {
            Mode::Fetch => "fetch",
            Mode::Raft => "raft",
            Mode::Switching => "switching",
            Mode::Groups => "groups",
        }
    }

    pub fn of_name(name: &str) -> Option<Mode> {
        Mode::ALL.iter().copied().find(|mode| mode.name() == name)
    }
}

impl fmt::Display for Mode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// The parameters of one run.
#[derive(Clone, Debug)]
pub struct Params {
    pub seed: u64,
    pub mode: Mode,
    pub brokers: u64,
    pub members: u64,
    pub members_on_brokers: bool,
    /// The leader of the control plane moves partitions by itself.
    pub balances: bool,
    pub partitions: u32,
    pub replication_factor: u64,
    pub min_isr: u64,
    /// How the topic is replicated at first.
    pub begins_as_raft: bool,
    /// `flush.messages=1`: a power failure may happen. Without, processes die but machines do not. A Raft
    /// group syncs in any case.
    pub flush_before_ack: bool,
    /// A sync takes up to this long.
    pub flush_max: Micros,
    pub segment_bytes: u32,
    /// Sealed segments that stay local though they are tiered.
    pub local_segments: usize,
    pub idempotent_producers: u32,
    pub plain_producers: u32,
    /// Producers with acks=1.
    pub weak_producers: u32,
    pub consumers: u32,
    /// Members of the group, each with a transactional id.
    pub workers: u32,
    /// Of the output, who see what is committed.
    pub committed_readers: u32,
    pub weather: Weather,
    /// Between two faults, on average.
    pub fault_every: Micros,
    /// How long faults and load last.
    pub chaos: Micros,
    /// Within which everything must converge once faults have ended.
    pub heal_max: Micros,
    pub replica_lag_ms: i64,
    pub topic_id: TopicId,
}

impl Params {
    pub fn of(mode: Mode, seed: u64) -> Params {
        let mut chance = Chance::new(seed).fork("params");
        let brokers = *chance.pick(&[3, 3, 3, 4, 5]).expect("not empty");
        let replication_factor = *chance.pick(&[3, 3, 3, 2]).expect("not empty");
        let min_isr =
            if replication_factor == 3 { *chance.pick(&[2, 2, 2, 1]).expect("not empty") } else { 1 };
        let is_rough = chance.permille(600);
        let drawn = Params {
            seed,
            mode,
            brokers,
            members: *chance.pick(&[1, 3, 3, 5]).expect("not empty"),
            members_on_brokers: chance.permille(500),
            balances: chance.permille(400),
            partitions: chance.between(1, 3) as u32,
            replication_factor,
            min_isr,
            begins_as_raft: match mode {
                Mode::Fetch | Mode::Groups => false,
                Mode::Raft => true,
                Mode::Switching => seed.is_multiple_of(2),
            },
            flush_before_ack: chance.permille(750) || mode == Mode::Raft,
            flush_max: *chance.pick(&[8, 30, 120, 400]).expect("not empty") * MILLI,
            segment_bytes: chance.between(1_500, 6_000) as u32,
            local_segments: chance.below(3) as usize,
            idempotent_producers: chance.between(1, 2) as u32,
            plain_producers: chance.below(2) as u32,
            weak_producers: chance.below(2) as u32,
            consumers: chance.between(1, 2) as u32,
            workers: 0,
            committed_readers: 0,
            weather: Weather {
                delay_min: 100,
                delay_max: chance.between(1, 10) * MILLI,
                lost_permille: if is_rough { chance.between(0, 40) } else { 0 },
                doubled_permille: if is_rough { chance.between(0, 40) } else { 0 },
                delayed_permille: if is_rough { chance.between(0, 20) } else { 0 },
                delayed_max: chance.between(100, 6_000) * MILLI,
            },
            fault_every: chance.between(300, 2_500) * MILLI,
            chaos: chance.between(8, 16) * SECOND,
            heal_max: 120 * SECOND,
            replica_lag_ms: 1_500,
            topic_id: TopicId(chance.uuid()),
        };
        match mode {
            Mode::Groups => Params {
                partitions: exactly::PARTITIONS,
                idempotent_producers: 1,
                plain_producers: 0,
                weak_producers: 0,
                consumers: 0,
                workers: chance.between(2, 3) as u32,
                committed_readers: 1,
                // A transaction waits for some ten commits, one after another.
                flush_max: drawn.flush_max.min(40 * MILLI),
                ..drawn
            },
            _ => drawn,
        }
    }

    /// Partitions that plain producers write to and plain readers read.
    pub fn plain_partitions(&self) -> Vec<u32> {
        match self.mode {
            Mode::Groups => exactly::INPUTS.to_vec(),
            _ => (0..self.partitions).collect(),
        }
    }

    pub fn tp(&self, partition: u32) -> TopicPartition {
        TopicPartition::new(self.topic_id, partition as i32)
    }

    pub const TOPIC: &str = "sim";

    pub fn create_topic(&self) -> Command {
        let mut configs: std::collections::BTreeMap<String, String> = Default::default();
        configs.insert("min.insync.replicas".into(), self.min_isr.to_string());
        if self.flush_before_ack {
            configs.insert("flush.messages".into(), "1".into());
        }
        if self.begins_as_raft {
            configs.insert("highwater.replication".into(), "raft".into());
        }
        Command::CreateTopic(NewTopic {
            topic_id: self.topic_id,
            name: Params::TOPIC.into(),
            partitions: self.partitions as i32,
            replication_factor: self.replication_factor as i16,
            assignments: Vec::new(),
            configs,
        })
    }
}
