//! The server-side assignors: `uniform` (even and sticky) and `range` (contiguous and co-partitioned). Pure
//! functions of who is subscribed to what and what was the target before.
//!
//! Invariants: every partition of a topic that somebody is subscribed to has one member, who is subscribed.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use highwater_model::TopicId;

use crate::core::types::{Name, Partitions, contains, count_partitions, each, insert};

/// Which assignor.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Assignor {
    Uniform,
    Range,
}

impl Assignor {
    pub fn by_name(name: &str) -> Option<Assignor> {
        match name {
            "uniform" => Some(Assignor::Uniform),
            "range" => Some(Assignor::Range),
            _ => None,
        }
    }

    pub fn name(self) -> &'static str {
        match self {
            Assignor::Uniform => "uniform",
            Assignor::Range => "range",
        }
    }

    /// The new target of every member, in the order of `spec.members`.
    pub fn assign(self, spec: &Spec<'_>) -> Vec<Partitions> {
        let made = match self {
            Assignor::Uniform if spec.is_homogeneous() => uniform_alike(spec),
            Assignor::Uniform => uniform_mixed(spec),
            Assignor::Range => range(spec),
        };
        debug_assert_eq!(made.len(), spec.members.len(), "a member is left out");
        debug_assert_eq!(
            made.iter().map(count_partitions).sum::<usize>(),
            spec.subscribed().iter().map(|topic| spec.partitions_of(*topic) as usize).sum::<usize>(),
            "a partition is left out or given twice"
        );
        made
    }
}

/// What an assignor is given. Members stand in the order of their ids.
#[derive(Clone, Debug, Default)]
pub struct Spec<'a> {
    pub members: Vec<SpecMember<'a>>,
    /// Partition counts of the topics that exist.
    pub topics: BTreeMap<TopicId, i32>,
}

#[derive(Clone, Debug)]
pub struct SpecMember<'a> {
    pub id: &'a Name,
    pub instance_id: Option<&'a Name>,
    /// Shared by members with the same subscription.
    pub topics: Arc<BTreeSet<TopicId>>,
    /// Its target so far.
    pub before: Option<&'a Partitions>,
}

impl SpecMember<'_> {
    fn had(&self) -> impl Iterator<Item = (TopicId, i32)> {
        self.before.into_iter().flat_map(each)
    }
}

impl Spec<'_> {
    fn partitions_of(&self, topic: TopicId) -> i32 {
        self.topics.get(&topic).copied().unwrap_or(0)
    }

    fn is_homogeneous(&self) -> bool {
        let is_same = |a: &SpecMember<'_>, b: &SpecMember<'_>| {
            Arc::ptr_eq(&a.topics, &b.topics) || a.topics == b.topics
        };
        self.members.windows(2).all(|pair| is_same(&pair[0], &pair[1]))
    }

    fn subscribed(&self) -> BTreeSet<TopicId> {
        let mut subscribed = BTreeSet::new();
        let mut last: Option<&Arc<BTreeSet<TopicId>>> = None;
        for member in &self.members {
            if !last.is_some_and(|last| Arc::ptr_eq(last, &member.topics)) {
                subscribed.extend(member.topics.iter().copied());
            }
            last = Some(&member.topics);
        }
        subscribed
    }

    fn all_partitions(&self) -> impl Iterator<Item = (TopicId, i32)> {
        let topics: Vec<_> = self.subscribed().into_iter().map(|t| (t, self.partitions_of(t))).collect();
        topics.into_iter().flat_map(|(topic, count)| (0..count).map(move |p| (topic, p)))
    }
}

/// Everybody is subscribed to the same: each gets its share, keeps what it had of it, and the rest is dealt
/// out.
fn uniform_alike(spec: &Spec<'_>) -> Vec<Partitions> {
    let members = spec.members.len();
    let total = spec.all_partitions().count();
    let mut made = vec![Partitions::new(); members];
    if members == 0 {
        return made;
    }
    let (share, mut extras) = (total / members, total % members);
    debug_assert_eq!(share * members + extras, total, "shares that do not add up");
    let mut taken: BTreeSet<(TopicId, i32)> = BTreeSet::new();
    let mut wants = vec![0; members];
    for (index, member) in spec.members.iter().enumerate() {
        let is_valid = |(topic, p): &(TopicId, i32)| {
            member.topics.contains(topic) && *p < spec.partitions_of(*topic) && !taken.contains(&(*topic, *p))
        };
        let valid: Vec<_> = member.had().filter(is_valid).collect();
        let mut quota = share;
        if valid.len() > share && extras > 0 {
            extras -= 1;
            quota += 1;
        }
        wants[index] = quota - valid.len().min(quota);
        for (topic, partition) in valid.into_iter().take(quota) {
            taken.insert((topic, partition));
            insert(&mut made[index], topic, partition);
        }
    }
    // Who has no more than its share yet may be one of those with one more.
    let mut open = spec.all_partitions().filter(|partition| !taken.contains(partition));
    for (kept, want) in made.iter_mut().zip(wants) {
        let has = count_partitions(kept);
        let more = usize::from(extras > 0 && has + want == share);
        extras -= more;
        for (topic, partition) in open.by_ref().take(want + more) {
            insert(kept, topic, partition);
        }
    }
    debug_assert!(open.next().is_none() && extras == 0, "{extras} shares were not dealt out");
    made
}

/// Subscriptions differ: keep what may be kept, give the rest to whoever has least, then even out.
fn uniform_mixed(spec: &Spec<'_>) -> Vec<Partitions> {
    let mut subscribers: BTreeMap<TopicId, Vec<usize>> = BTreeMap::new();
    for (index, member) in spec.members.iter().enumerate() {
        for topic in member.topics.iter() {
            subscribers.entry(*topic).or_default().push(index);
        }
    }
    let mut load = vec![0usize; spec.members.len()];
    let mut owner: BTreeMap<(TopicId, i32), usize> = BTreeMap::new();
    for (index, member) in spec.members.iter().enumerate() {
        for (topic, partition) in member.had() {
            let is_valid = member.topics.contains(&topic) && partition < spec.partitions_of(topic);
            if is_valid && !owner.contains_key(&(topic, partition)) {
                owner.insert((topic, partition), index);
                load[index] += 1;
            }
        }
    }
    // Topics with few subscribers first: their partitions have the least choice.
    let mut open: Vec<_> = spec.all_partitions().filter(|p| !owner.contains_key(p)).collect();
    open.sort_by_key(|(topic, partition)| (subscribers[topic].len(), *topic, *partition));
    for (topic, partition) in open {
        let least = *subscribers[&topic].iter().min_by_key(|i| (load[**i], **i)).expect("subscribed");
        owner.insert((topic, partition), least);
        load[least] += 1;
    }
    debug_assert_eq!(owner.len(), load.iter().sum::<usize>(), "loads that do not add up");
    even_out(&mut owner, &mut load, &subscribers);
    debug_assert_eq!(owner.len(), load.iter().sum::<usize>(), "a partition was lost on the way");
    let mut made = vec![Partitions::new(); spec.members.len()];
    for ((topic, partition), index) in owner {
        insert(&mut made[index], topic, partition);
    }
    made
}

/// Moves partitions from who has more to who has at least two less, until nothing can be gained. Every move
/// lowers the sum of the squares of the loads, so it ends.
fn even_out(
    owner: &mut BTreeMap<(TopicId, i32), usize>,
    load: &mut [usize],
    subscribers: &BTreeMap<TopicId, Vec<usize>>,
) {
    loop {
        let mut has_moved = false;
        for ((topic, _), holder) in owner.iter_mut() {
            // Who has no more than one cannot have two more than another.
            if load[*holder] < 2 {
                continue;
            }
            let least = *subscribers[topic].iter().min_by_key(|i| (load[**i], **i)).expect("subscribed");
            if load[least] + 1 < load[*holder] {
                load[*holder] -= 1;
                load[least] += 1;
                *holder = least;
                has_moved = true;
            }
        }
        if !has_moved {
            return;
        }
    }
}

/// Per topic, in order of instance or member id, contiguous ranges; the first ones get one more. The same
/// members get the same numbers of topics that are alike.
fn range(spec: &Spec<'_>) -> Vec<Partitions> {
    let mut made = vec![Partitions::new(); spec.members.len()];
    let mut order: Vec<usize> = (0..spec.members.len()).collect();
    // Static members by instance id, so that a member that comes back under another member id has the same.
    order.sort_by_key(|index| {
        let member = &spec.members[*index];
        (member.instance_id.is_none(), member.instance_id.unwrap_or(member.id))
    });
    for topic in spec.subscribed() {
        let count = spec.partitions_of(topic);
        let is_taker = |index: &&usize| spec.members[**index].topics.contains(&topic);
        let takers: Vec<usize> = order.iter().filter(is_taker).copied().collect();
        let number = i32::try_from(takers.len()).expect("members are bounded");
        debug_assert!(number > 0, "a topic that nobody is subscribed to");
        let (share, extras) = (count / number, count % number);
        let mut next = 0;
        for (place, index) in (0..).zip(takers) {
            let end = next + share + i32::from(place < extras);
            for partition in next..end {
                insert(&mut made[index], topic, partition);
            }
            next = end;
        }
        debug_assert_eq!(next, count, "the ranges do not meet the end");
    }
    made
}

/// Whether every partition in `made` is for someone who is subscribed; for tests and assertions.
pub fn is_allowed(spec: &Spec<'_>, made: &[Partitions]) -> bool {
    let mut seen = Partitions::new();
    spec.members.iter().zip(made).all(|(member, partitions)| {
        each(partitions).all(|(topic, partition)| {
            let is_new = !contains(&seen, topic, partition);
            insert(&mut seen, topic, partition);
            is_new && member.topics.contains(&topic)
        })
    })
}
