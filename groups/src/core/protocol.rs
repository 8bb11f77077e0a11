//! The consumer's own protocol inside the classic one: subscription and assignment as clients encode them
//! (ConsumerProtocol, versions 0 to 3). Read to know which topics a group is subscribed to and to move a
//! group between protocols, written for classic members of a consumer group. Bounded like any untrusted
//! bytes.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;

use super::codec::{Damage, Reader, Writer};
use super::types::{Name, Partitions, Topics};

/// The protocol type of consumers.
pub const CONSUMER: &str = "consumer";
/// The newest version of both structures.
const VERSION_MAX: i16 = 3;

/// What a consumer subscribes to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Subscription {
    pub version: i16,
    pub topics: BTreeSet<Name>,
    /// Partitions that the consumer says it owns (versions 1 and up, cooperative).
    pub owned: BTreeMap<Name, BTreeSet<i32>>,
    pub rack_id: Option<Name>,
}

/// Versions above the newest known one only add to the end.
fn version_of(reader: &mut Reader<'_>) -> Result<i16, Damage> {
    let version = reader.int16()?;
    if version < 0 { Err(Damage::Version(version)) } else { Ok(version.min(VERSION_MAX)) }
}

impl Subscription {
    pub fn decode(bytes: &[u8]) -> Result<Subscription, Damage> {
        let mut reader = Reader::new(bytes);
        let version = version_of(&mut reader)?;
        let mut made = Subscription { version, ..Subscription::default() };
        for _ in 0..reader.count()? {
            made.topics.insert(reader.string()?);
        }
        reader.bytes()?; // the user data is the assignor's alone
        if version >= 1 {
            made.owned = read_topics(&mut reader)?;
        }
        if version >= 2 {
            reader.int32()?; // the generation of what is owned
        }
        if version >= 3 {
            made.rack_id = reader.nullable_string()?;
        }
        debug_assert!((0..=VERSION_MAX).contains(&made.version), "version {}", made.version);
        Ok(made)
    }

    /// What is owned, by topic id; topics that do not exist are left out.
    pub fn owned_by_id(&self, topics: &Topics) -> Partitions {
        by_id(&self.owned, topics)
    }
}

fn read_topics(reader: &mut Reader<'_>) -> Result<BTreeMap<Name, BTreeSet<i32>>, Damage> {
    let mut topics: BTreeMap<Name, BTreeSet<i32>> = BTreeMap::new();
    for _ in 0..reader.count()? {
        let partitions = topics.entry(reader.string()?).or_default();
        for _ in 0..reader.count()? {
            partitions.insert(reader.int32()?);
        }
    }
    Ok(topics)
}

fn by_id(named: &BTreeMap<Name, BTreeSet<i32>>, topics: &Topics) -> Partitions {
    let mut found = Partitions::new();
    for (name, partitions) in named {
        if let Some(topic) = topics.by_name(name)
            && !partitions.is_empty()
        {
            found.entry(topic.id).or_default().extend(partitions);
        }
    }
    debug_assert!(found.values().all(|set| !set.is_empty()), "a topic without partitions");
    found
}

/// An assignment as a member of the classic protocol got it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Assignment {
    /// Topics that do not exist are left out.
    pub partitions: Partitions,
    /// Some assignors keep what only they can read.
    pub has_user_data: bool,
}

/// No bytes at all are an empty assignment.
pub fn decode_assignment(bytes: &[u8], topics: &Topics) -> Result<Assignment, Damage> {
    if bytes.is_empty() {
        return Ok(Assignment::default());
    }
    let mut reader = Reader::new(bytes);
    version_of(&mut reader)?;
    let partitions = by_id(&read_topics(&mut reader)?, topics);
    Ok(Assignment { partitions, has_user_data: !reader.bytes()?.is_empty() })
}

/// An assignment for a member that asked with a subscription of this version.
pub fn encode_assignment(version: i16, partitions: &Partitions, topics: &Topics) -> Bytes {
    let named: Vec<_> =
        partitions.iter().filter_map(|(id, set)| topics.name_of(*id).map(|name| (name, set))).collect();
    let mut writer = Writer::new(version.clamp(0, VERSION_MAX));
    writer.count(named.len());
    for (name, set) in named {
        writer.string(name);
        writer.count(set.len());
        for partition in set {
            writer.int32(*partition);
        }
    }
    writer.int32(-1); // no user data
    let bytes = writer.into_bytes();
    debug_assert!(decode_assignment(&bytes, topics).is_ok(), "an assignment that cannot be read");
    bytes
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use highwater_model::TopicId;
    use proptest::prelude::*;
    use uuid::Uuid;

    use super::*;

    /// As Kafka's client writes them.
    const FIXTURES: &str = include_str!("protocol_fixtures.txt");

    fn fixtures() -> BTreeMap<&'static str, Vec<u8>> {
        let bytes = |hex: &str| -> Vec<u8> {
            let digits: Vec<char> = hex.chars().collect();
            let byte = |pair: &[char]| u8::from_str_radix(&pair.iter().collect::<String>(), 16).unwrap();
            digits.chunks(2).map(byte).collect()
        };
        let lines = FIXTURES.lines().filter(|line| !line.starts_with('#'));
        lines.map(|line| line.split_once(' ').unwrap()).map(|(name, hex)| (name, bytes(hex))).collect()
    }

    fn topics() -> Topics {
        let id = |number| TopicId(Uuid::from_u128(number));
        Topics::new([("a".into(), id(1), 2), ("b".into(), id(2), 1)])
    }

    #[test]
    fn subscriptions_of_every_version_are_read() {
        let fixtures = fixtures();
        for version in 0..=VERSION_MAX {
            let bytes = &fixtures[format!("subscription-{version}").as_str()];
            let read = Subscription::decode(bytes).unwrap();
            assert_eq!((read.version, read.topics.len()), (version, 2));
            let owned: usize = read.owned_by_id(&topics()).values().map(BTreeSet::len).sum();
            assert_eq!(owned, if version >= 1 { 3 } else { 0 });
            assert_eq!(read.rack_id.as_deref(), (version >= 3).then_some("r"));
            for end in 0..bytes.len() {
                assert!(Subscription::decode(&bytes[..end]).is_err(), "cut at {end}");
            }
            // A newer version adds to the end.
            let newer = [&[0, 9], &fixtures["subscription-3"][2..], &[1, 2, 3]].concat();
            assert_eq!(Subscription::decode(&newer).unwrap().topics.len(), 2);
        }
        let plain = Subscription::decode(&fixtures["subscription-plain"]).unwrap();
        assert_eq!((plain.topics.len(), plain.owned.len(), plain.rack_id), (1, 0, None));
    }

    #[test]
    fn assignments_are_read_and_written_as_clients_do() {
        let (fixtures, topics) = (fixtures(), topics());
        for version in 0..=VERSION_MAX {
            let bytes = &fixtures[format!("assignment-{version}").as_str()];
            let read = decode_assignment(bytes, &topics).unwrap();
            assert!(!read.has_user_data);
            assert_eq!(encode_assignment(version, &read.partitions, &topics)[..], bytes[..]);
        }
        assert!(decode_assignment(&fixtures["assignment-data"], &topics).unwrap().has_user_data);
        assert_eq!(decode_assignment(&[], &topics), Ok(Assignment::default()));
        // What is gone is left out.
        let left = decode_assignment(&fixtures["assignment-3"], &Topics::default()).unwrap();
        assert!(left.partitions.is_empty());
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..80)) {
            let _ = Subscription::decode(&bytes);
            let _ = decode_assignment(&bytes, &topics());
            let claimed = [&[0, 1, 0xff, 0xff, 0xff, 0x7f][..], &bytes].concat();
            prop_assert!(Subscription::decode(&claimed).is_err());
        }
    }
}
