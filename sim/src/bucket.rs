//! The bucket: objects by key, with the troubles of S3. 503, a write applied whose answer is lost, slowness,
//! absence. Durable whatever happens to brokers.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;

use crate::checker::{Anomaly, Finding};
use crate::guards::{Guard, Guards};
use crate::network::{MILLI, Micros};
use crate::random::Chance;

/// What the bucket does to requests now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BucketWeather {
    /// No answer at all.
    pub is_away: bool,
    pub refused_permille: u64,
    /// Applied, and the answer never comes.
    pub answer_lost_permille: u64,
    pub delay_max: Micros,
}

impl BucketWeather {
    pub const FAIR: BucketWeather =
        BucketWeather { is_away: false, refused_permille: 0, answer_lost_permille: 0, delay_max: 20 * MILLI };
}

/// What is asked.
#[derive(Clone, Debug)]
pub enum Ask {
    /// If-None-Match: *.
    Put {
        key: String,
        body: Bytes,
    },
    Head {
        key: String,
    },
    Get {
        key: String,
    },
}

/// What is answered.
#[derive(Clone, Debug)]
pub enum Answer {
    /// 503.
    SlowDown,
    Written,
    /// 412: the key exists.
    Exists,
    Missing,
    Size(u64),
    Body(Bytes),
}

/// The bucket.
#[derive(Debug)]
pub struct Bucket {
    pub weather: BucketWeather,
    chance: Chance,
    objects: BTreeMap<String, Bytes>,
    pub puts: u64,
}

impl Bucket {
    pub fn new(chance: Chance) -> Bucket {
        Bucket { weather: BucketWeather::FAIR, chance, objects: BTreeMap::new(), puts: 0 }
    }

    pub fn keys(&self) -> BTreeSet<String> {
        self.objects.keys().cloned().collect()
    }

    /// The answer and how long it takes; none when it never comes.
    pub fn serve(
        &mut self,
        ask: &Ask,
        guards: Guards,
        findings: &mut Vec<Finding>,
    ) -> Option<(Answer, Micros)> {
        let weather = self.weather;
        if weather.is_away {
            return None;
        }
        let delay = self.chance.between(MILLI, weather.delay_max.max(MILLI));
        if self.chance.permille(weather.refused_permille) {
            return Some((Answer::SlowDown, delay));
        }
        let answer = match ask {
            Ask::Put { key, body } => self.put(key, body, guards, findings),
            Ask::Head { key } => {
                self.objects.get(key).map_or(Answer::Missing, |body| Answer::Size(body.len() as u64))
            }
            Ask::Get { key } => self.objects.get(key).cloned().map_or(Answer::Missing, Answer::Body),
        };
        let lost = self.chance.permille(weather.answer_lost_permille);
        (!lost).then_some((answer, delay))
    }

    fn put(&mut self, key: &str, body: &Bytes, guards: Guards, findings: &mut Vec<Finding>) -> Answer {
        if self.objects.contains_key(key) {
            if guards.holds(Guard::IfNoneMatch) {
                return Answer::Exists;
            }
            findings.push(Finding::new(Anomaly::ObjectRewritten, key));
        }
        self.puts += 1;
        self.objects.insert(key.to_owned(), body.clone());
        Answer::Written
    }
}
