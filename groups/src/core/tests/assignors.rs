//! The assignors: everything is given to somebody who wants it, evenly, and little moves.

use std::sync::Arc;

use proptest::prelude::*;

use super::super::consumer::assignor::{Assignor, Spec, SpecMember, is_allowed};
use super::super::types::{Name, Partitions, contains, count_partitions, each};
use super::topic_id;

const TOPICS: [&str; 3] = ["a", "b", "c"];

fn names() -> Vec<Name> {
    (0..10).map(|number| Name::from(format!("m{number}"))).collect()
}

fn spec<'a>(names: &'a [Name], members: &[u8], counts: &[i32], before: &'a [Partitions]) -> Spec<'a> {
    let mut spec = Spec::default();
    for (number, wants) in members.iter().enumerate() {
        let topics = (0..3).filter(|bit| wants & (1 << bit) != 0).map(|bit| topic_id(TOPICS[bit]));
        spec.members.push(SpecMember {
            id: &names[number],
            instance_id: None,
            topics: Arc::new(topics.collect()),
            before: before.get(number),
        });
    }
    for (name, count) in TOPICS.iter().zip(counts) {
        spec.topics.insert(topic_id(name), *count);
    }
    spec
}

fn total(spec: &Spec<'_>) -> usize {
    let wanted = |topic| spec.members.iter().any(|m| m.topics.contains(topic));
    spec.topics.iter().filter(|(topic, _)| wanted(topic)).map(|(_, count)| *count as usize).sum()
}

fn loads(made: &[Partitions]) -> Vec<usize> {
    made.iter().map(count_partitions).collect()
}

#[test]
fn ranges_are_contiguous_and_alike_for_topics_that_are_alike() {
    let names = names();
    let spec = spec(&names, &[3, 3, 3], &[7, 7, 0], &[]);
    let made = Assignor::Range.assign(&spec);
    let of = |member: usize, topic: &str| -> Vec<i32> {
        made[member].get(&topic_id(topic)).into_iter().flatten().copied().collect()
    };
    assert_eq!((of(0, "a"), of(1, "a"), of(2, "a")), (vec![0, 1, 2], vec![3, 4], vec![5, 6]));
    for member in 0..3 {
        assert_eq!(of(member, "a"), of(member, "b"));
    }
}

proptest! {
    #[test]
    fn everything_is_given_to_somebody_who_wants_it(
        members in prop::collection::vec(0u8..8, 0..9),
        counts in prop::collection::vec(0i32..12, 3),
        is_range in any::<bool>(),
    ) {
        let names = names();
        let spec = spec(&names, &members, &counts, &[]);
        let made = if is_range { Assignor::Range } else { Assignor::Uniform }.assign(&spec);
        prop_assert!(is_allowed(&spec, &made));
        prop_assert_eq!(loads(&made).iter().sum::<usize>(), total(&spec));
        prop_assert_eq!(made.len(), spec.members.len());
    }

    #[test]
    fn alike_members_get_shares_that_differ_by_one_at_most_and_keep_what_they_may(
        sizes in prop::collection::vec(1usize..9, 2..6),
        count in 0i32..40,
    ) {
        let names = names();
        let mut before = Vec::new();
        for members in sizes {
            let spec = spec(&names, &vec![1; members], &[count, 0, 0], &before);
            let made = Assignor::Uniform.assign(&spec);
            let loads = loads(&made);
            let (least, most) = (loads.iter().min().unwrap(), loads.iter().max().unwrap());
            prop_assert!(most - least <= 1, "{:?}", loads);
            // No member that was there loses more than it must.
            for (id, (had, has)) in before.iter().zip(&made).enumerate() {
                let kept = each(had).filter(|(topic, p)| contains(has, *topic, *p)).count();
                prop_assert!(kept >= count_partitions(had).min(*least), "{} kept {}", id, kept);
            }
            before = made;
        }
    }

    #[test]
    fn mixed_subscriptions_are_evened_out(
        members in prop::collection::vec(1u8..8, 1..8),
        others in prop::collection::vec(1u8..8, 1..8),
        counts in prop::collection::vec(0i32..12, 3),
    ) {
        let names = names();
        let first = Assignor::Uniform.assign(&spec(&names, &members, &counts, &[]));
        let spec = spec(&names, &others, &counts, &first);
        let made = Assignor::Uniform.assign(&spec);
        prop_assert!(is_allowed(&spec, &made));
        prop_assert_eq!(loads(&made).iter().sum::<usize>(), total(&spec));
        // Nobody has a partition that somebody with two fewer could take.
        for (id, has) in made.iter().enumerate() {
            for (topic, _) in each(has) {
                for (other, member) in spec.members.iter().enumerate() {
                    let gap = count_partitions(has) as i64 - count_partitions(&made[other]) as i64;
                    prop_assert!(!member.topics.contains(&topic) || gap <= 1, "{} and {}", id, other);
                }
            }
        }
    }
}
