//! The network: which messages arrive, when, and how often.
//!
//! Every link may be slow, lose, reorder or duplicate; hosts may be cut from each other in one direction or
//! both. Links of clients are streams (they lose, but neither reorder nor duplicate), as TCP's are; those
//! between nodes are worse than any stream, so that what was delayed meets a world that has moved on.

use std::collections::{BTreeMap, BTreeSet};

use crate::random::Chance;

/// Microseconds of simulated time.
pub type Micros = u64;

pub const MILLI: Micros = 1_000;
pub const SECOND: Micros = 1_000_000;

/// Who sends and receives.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Address {
    Broker(u64),
    Member(u64),
    Client(u32),
    Bucket,
}

/// What a network can be cut between.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Host(pub u64);

/// No message takes longer, whatever the weather.
pub const DELAYED_MAX: Micros = 6 * SECOND;

/// How bad the network is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Weather {
    pub delay_min: Micros,
    pub delay_max: Micros,
    pub lost_permille: u64,
    pub doubled_permille: u64,
    /// Messages that take up to `delayed_max`.
    pub delayed_permille: u64,
    pub delayed_max: Micros,
}

impl Weather {
    pub const FAIR: Weather = Weather {
        delay_min: 100,
        delay_max: 2 * MILLI,
        lost_permille: 0,
        doubled_permille: 0,
        delayed_permille: 0,
        delayed_max: 0,
    };
}

/// The network. Members of the control plane may share the hosts of brokers.
#[derive(Debug)]
pub struct Network {
    pub weather: Weather,
    chance: Chance,
    members_on_brokers: bool,
    /// Nothing goes from the first to the second.
    cut: BTreeSet<(Host, Host)>,
    /// Latest arrival on each stream.
    streams: BTreeMap<(Address, Address), Micros>,
}

const MEMBER_HOSTS: u64 = 100;
const BUCKET_HOST: u64 = 1_000;
const CLIENT_HOSTS: u64 = 2_000;

impl Network {
    pub fn new(chance: Chance, members_on_brokers: bool) -> Network {
        let (cut, streams) = Default::default();
        Network { weather: Weather::FAIR, chance, members_on_brokers, cut, streams }
    }

    pub fn host(&self, address: Address) -> Host {
        Host(match address {
            Address::Broker(id) => id,
            Address::Member(id) if self.members_on_brokers => id,
            Address::Member(id) => MEMBER_HOSTS + id,
            Address::Bucket => BUCKET_HOST,
            Address::Client(id) => CLIENT_HOSTS + u64::from(id),
        })
    }

    /// Cuts what goes from one host to another.
    pub fn cut(&mut self, from: Host, to: Host) {
        if from != to {
            self.cut.insert((from, to));
        }
    }

    pub fn mend(&mut self) {
        self.cut.clear();
    }

    pub fn is_cut(&self, from: Address, to: Address) -> bool {
        !self.cut.is_empty() && self.cut.contains(&(self.host(from), self.host(to)))
    }

    /// Whether both directions work.
    pub fn meet(&self, a: Address, b: Address) -> bool {
        !self.is_cut(a, b) && !self.is_cut(b, a)
    }

    /// When a message sent now arrives; not at all if it is lost, twice if it is doubled.
    pub fn arrivals(&mut self, now: Micros, from: Address, to: Address) -> [Option<Micros>; 2] {
        if self.is_cut(from, to) {
            return [None, None];
        }
        let weather = self.weather;
        if self.chance.permille(weather.lost_permille) {
            return [None, None];
        }
        let first = now + self.delay();
        let is_stream = matches!(from, Address::Client(_)) || matches!(to, Address::Client(_));
        if is_stream {
            let latest = self.streams.entry((from, to)).or_default();
            *latest = first.max(*latest + 1);
            return [Some(*latest), None];
        }
        let doubled = self.chance.permille(weather.doubled_permille);
        let second = doubled.then(|| now + self.delay());
        [Some(first), second]
    }

    fn delay(&mut self) -> Micros {
        let weather = self.weather;
        assert!(weather.delay_max.max(weather.delayed_max) <= DELAYED_MAX, "bounded weather");
        match self.chance.permille(weather.delayed_permille) {
            true => self.chance.between(weather.delay_min, weather.delayed_max.max(weather.delay_min)),
            false => self.chance.between(weather.delay_min, weather.delay_max),
        }
    }
}
