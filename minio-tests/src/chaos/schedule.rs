//! Which fault comes when: a function of the seed.

use std::time::Duration;

/// Number of nodes that faults happen to: 1, 2 and 3.
pub const NODES: usize = 3;

/// What is done.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// kill -9; it starts again after the time.
    Kill,
    /// SIGTERM; it starts again after the time.
    Restart,
    /// SIGSTOP, and SIGCONT after the time.
    Pause,
    /// No packet between the node and the other two.
    CutBoth,
    /// The node hears nothing from the other two.
    CutIn,
    /// The other two hear nothing from the node.
    CutOut,
    /// The node and one other do not hear each other; the third hears both.
    CutPair,
    /// The node's cable is drawn: no client and no store either.
    Unplug,
    /// The node does not reach MinIO.
    CutStore,
    /// MinIO is killed and started again after the time.
    StoreDown,
    /// Something fills the node's disk, and goes away after the time.
    DiskFull,
    /// Replicas of a topic move to other nodes, and preferred leaders are elected.
    Move,
}

/// Every kind once.
pub const KINDS: [Kind; 12] = [
    Kind::Kill,
    Kind::Restart,
    Kind::Pause,
    Kind::CutBoth,
    Kind::CutIn,
    Kind::CutOut,
    Kind::CutPair,
    Kind::Unplug,
    Kind::CutStore,
    Kind::StoreDown,
    Kind::DiskFull,
    Kind::Move,
];

impl Kind {
    pub fn name(self) -> &'static str {
        match self {
            Kind::Kill => "kill -9",
            Kind::Restart => "SIGTERM and start",
            Kind::Pause => "SIGSTOP, SIGCONT",
            Kind::CutBoth => "cut off from the others",
            Kind::CutIn => "hears no other node",
            Kind::CutOut => "is heard by no other node",
            Kind::CutPair => "two nodes cut from each other",
            Kind::Unplug => "cable drawn",
            Kind::CutStore => "cut off from MinIO",
            Kind::StoreDown => "MinIO down",
            Kind::DiskFull => "disk full",
            Kind::Move => "replicas moved, leaders elected",
        }
    }

    /// How long it lasts, in milliseconds: some are over before a session lapses (6 s), some are not.
    fn lasts(self) -> (u64, u64) {
        match self {
            Kind::Kill | Kind::Restart => (0, 3_000),
            Kind::Pause => (1_000, 9_000),
            Kind::CutBoth | Kind::CutIn | Kind::CutOut | Kind::CutPair | Kind::Unplug => (1_500, 9_000),
            Kind::CutStore | Kind::StoreDown => (3_000, 9_000),
            Kind::DiskFull => (2_000, 6_000),
            Kind::Move => (500, 2_000),
        }
    }
}

/// One fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Step {
    pub kind: Kind,
    /// To whom: 1 to [`NODES`].
    pub node: usize,
    pub lasts: Duration,
    /// Whether all must be well again before the next; if not, the next begins into what this one left.
    pub settles: bool,
    /// How long nothing is done after it.
    pub rest: Duration,
}

/// The faults of a seed, without end: every kind once in some order, then every kind again in another.
pub struct Schedule {
    random: Random,
    round: u32,
    bag: Vec<Kind>,
}

impl Schedule {
    pub fn new(seed: u64) -> Schedule {
        Schedule { random: Random(seed), round: 0, bag: Vec::new() }
    }

    /// Rounds of all kinds that have begun.
    pub fn rounds(&self) -> u32 {
        self.round
    }
}

impl Iterator for Schedule {
    type Item = Step;

    fn next(&mut self) -> Option<Step> {
        if self.bag.is_empty() {
            self.bag = KINDS.to_vec();
            for i in (1..self.bag.len()).rev() {
                self.bag.swap(i, self.random.below(i as u64 + 1) as usize);
            }
            self.round += 1;
        }
        let kind = self.bag.pop()?;
        let node = 1 + self.random.below(NODES as u64) as usize;
        let (least, most) = kind.lasts();
        let lasts = Duration::from_millis(least + self.random.below(most - least));
        // The first round gives every kind its own figures.
        let settles = self.random.below(4) > 0 || self.round == 1;
        let rest = Duration::from_millis(self.random.below(1_500));
        Some(Step { kind, node, lasts, settles, rest })
    }
}

/// SplitMix64.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, end: u64) -> u64 {
        self.next() % end
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_decides_everything_and_every_kind_comes_in_every_round() {
        let steps = |seed| Schedule::new(seed).take(KINDS.len() * 20).collect::<Vec<Step>>();
        assert_eq!(steps(7), steps(7));
        assert_ne!(steps(7), steps(8));
        for (number, round) in steps(3).chunks(KINDS.len()).enumerate() {
            let mut kinds: Vec<Kind> = round.iter().map(|step| step.kind).collect();
            kinds.sort();
            assert_eq!(kinds, KINDS);
            assert!(number > 0 || round.iter().all(|step| step.settles));
        }
        let steps = steps(5);
        assert!(steps.iter().any(|step| !step.settles));
        for node in 1..=NODES {
            assert!(steps.iter().any(|step| step.node == node));
        }
        assert!(steps.iter().all(|step| step.lasts < Duration::from_secs(9)));
    }
}
