//! A group changes its protocol while members are there: up when the first member of the consumer protocol
//! comes, down when the last one leaves.

use std::collections::BTreeSet;

use super::classic_member::version_of;
use super::{ConsumerGroup, Member};
use crate::core::classic::ClassicGroup;
use crate::core::error::GroupError;
use crate::core::protocol::{Subscription, decode_assignment, encode_assignment};
use crate::core::records::{ClassicMemberValue, ClassicUse, CurrentValue, MemberState, MemberValue};
use crate::core::settings::Settings;
use crate::core::types::{Millis, Name, Partitions, Topics, each, insert};

impl ConsumerGroup {
    /// The group that a classic one becomes: its generation is the epoch, its assignments are the target and
    /// what the members have. Refused if a subscription or assignment cannot be read without losing
    /// something.
    pub(in crate::core) fn from_classic(
        classic: &ClassicGroup,
        topics: &Topics,
        settings: &Settings,
    ) -> Result<ConsumerGroup, GroupError> {
        let refused = GroupError::GroupIdNotFound;
        let is_allowed = settings.migration.upgrades()
            && classic.is_of_consumers()
            && classic.members.len() <= settings.consumer_group_size_max;
        if !is_allowed {
            return Err(refused);
        }
        let mut group = ConsumerGroup::new(classic.id.clone());
        group.epoch = classic.generation;
        group.target_epoch = classic.generation;
        let protocol = classic.protocol.as_deref().unwrap_or("");
        let mut taken = Partitions::new();
        for (id, member) in &classic.members {
            let metadata = match member.protocols.iter().find(|p| &*p.name == protocol) {
                Some(found) => found.metadata.clone(),
                None => member.protocols.first().map(|p| p.metadata.clone()).unwrap_or_default(),
            };
            let subscription = Subscription::decode(&metadata).map_err(|_| refused)?;
            let assignment = decode_assignment(&member.assignment, topics).map_err(|_| refused)?;
            if assignment.has_user_data {
                return Err(refused); // an assignor of the client's own would lose it
            }
            let mut assigned = Partitions::new();
            for (topic, partition) in each(&assignment.partitions) {
                if !crate::core::types::contains(&taken, topic, partition) {
                    insert(&mut taken, topic, partition);
                    insert(&mut assigned, topic, partition);
                }
            }
            let said = MemberValue {
                instance_id: member.instance_id.clone(),
                rack_id: subscription.rack_id,
                client_id: member.client_id.clone(),
                client_host: member.client_host.clone(),
                topic_names: subscription.topics,
                topic_regex: None,
                rebalance_timeout_ms: member.rebalance_timeout_ms,
                server_assignor: None,
                classic: Some(ClassicUse {
                    session_timeout_ms: member.session_timeout_ms,
                    protocols: member.protocols.clone(),
                }),
            };
            group.take_over(id, said, assigned, classic.generation);
        }
        debug_assert_eq!(group.members.len(), classic.members.len(), "a member is lost");
        debug_assert_eq!(group.epoch, group.target_epoch, "what they have is their target");
        group.metadata_hash = topics.hash_of(group.subscribed_topics().into_iter());
        group.check();
        Ok(group)
    }

    fn take_over(&mut self, id: &Name, said: MemberValue, assigned: Partitions, epoch: i32) {
        debug_assert!(
            said.classic.is_some() && !self.members.contains_key(id),
            "{id} comes as a classic member"
        );
        self.set_said(id, &said);
        self.target.insert(id.clone(), assigned.clone());
        let at = CurrentValue {
            epoch,
            previous_epoch: epoch,
            state: MemberState::Stable,
            assigned,
            pending_revocation: Partitions::new(),
        };
        self.set_at(id, at);
    }

    /// Whether only members of the classic protocol are left once these have gone.
    pub(in crate::core) fn may_downgrade(&self, settings: &Settings, without: &BTreeSet<Name>) -> bool {
        let left = || self.members.values().filter(|m| !without.contains(&m.id));
        let number = left().count();
        number > 0
            && left().all(Member::is_classic)
            && settings.migration.downgrades()
            && number <= settings.group_size_max
            && left().all(|m| m.said.classic.as_ref().is_some_and(|used| !used.protocols.is_empty()))
    }

    /// The classic group that is left once these have gone. The epoch goes on as the generation.
    pub(in crate::core) fn to_classic(
        &self,
        now: Millis,
        topics: &Topics,
        without: &BTreeSet<Name>,
    ) -> ClassicGroup {
        let mut members = Vec::new();
        for (id, member) in self.members.iter().filter(|(id, _)| !without.contains(*id)) {
            let used = member.said.classic.as_ref().expect("may_downgrade said so");
            let first = used.protocols.first().expect("may_downgrade said so");
            let value = ClassicMemberValue {
                member_id: id.clone(),
                instance_id: member.said.instance_id.clone(),
                client_id: member.said.client_id.clone(),
                client_host: member.said.client_host.clone(),
                rebalance_timeout_ms: member.said.rebalance_timeout_ms,
                session_timeout_ms: used.session_timeout_ms,
                subscription: first.metadata.clone(),
                assignment: encode_assignment(version_of(first), &member.at.assigned, topics),
            };
            members.push((value, used.protocols.clone()));
        }
        let group = ClassicGroup::of_consumers(self.id.clone(), self.epoch, now, members);
        group.check();
        debug_assert!(
            without.iter().all(|id| !group.members.contains_key(id)),
            "a member is there that left"
        );
        debug_assert_eq!(group.generation, self.epoch, "the epoch goes on as the generation");
        group
    }
}
