//! Chance from the seed and from nothing else: splitmix64, one stream per purpose.
//!
//! Streams are forked by name, so that a new question in one part (the network, say) leaves the answers of
//! the others as they were, and an old seed still shows much the same story.

/// A stream of chance.
#[derive(Clone, Debug)]
pub struct Chance(u64);

impl Chance {
    pub fn new(seed: u64) -> Chance {
        let mut chance = Chance(seed ^ 0x5bd1_e995_9e37_79b9);
        chance.bits();
        chance
    }

    /// A stream of its own; the same name gives the same stream.
    pub fn fork(&self, name: &str) -> Chance {
        let mixed = name.bytes().fold(self.0, |h, b| (h ^ u64::from(b)).wrapping_mul(0x0100_0000_01b3));
        Chance::new(mixed)
    }

    pub fn bits(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// One of `0..bound`; 0 when there is nothing to choose.
    pub fn below(&mut self, bound: u64) -> u64 {
        if bound < 2 { 0 } else { self.bits() % bound }
    }

    /// One of `low..=high`.
    pub fn between(&mut self, low: u64, high: u64) -> u64 {
        assert!(low <= high, "a range has its ends in order");
        low + self.below(high - low + 1)
    }

    /// True this many times in a thousand.
    pub fn permille(&mut self, times: u64) -> bool {
        self.below(1_000) < times
    }

    pub fn pick<'a, T>(&mut self, from: &'a [T]) -> Option<&'a T> {
        let at = self.below(from.len() as u64) as usize;
        from.get(at)
    }

    /// A version-4 UUID.
    pub fn uuid(&mut self) -> uuid::Uuid {
        let (high, low) = (self.bits(), self.bits());
        uuid::Builder::from_random_bytes(((u128::from(high) << 64) | u128::from(low)).to_be_bytes())
            .into_uuid()
    }
}
