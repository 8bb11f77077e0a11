//! JoinGroup: who may come in, and under which member id (KIP-394, KIP-345).

use highwater_model::limits::{
    GROUP_INSTANCE_ID_BYTES_MAX, GROUP_MEMBER_PROTOCOLS_BYTES_MAX, GROUP_MEMBER_PROTOCOLS_MAX,
    GROUP_MEMBERS_MAX, GROUP_NAME_BYTES_MAX, GROUP_NEW_MEMBER_JOIN_MS_MAX, GROUP_PENDING_MEMBERS_MAX,
    GROUP_PROTOCOLS_BYTES_MAX,
};

use super::{ClassicGroup, ClassicMember, State};
use crate::core::answer::Joined;
use crate::core::error::GroupError;
use crate::core::request::{Client, Join, Ticket};
use crate::core::settings::Settings;
use crate::core::timers::TimerKey;
use crate::core::turn::Turn;
use crate::core::types::Name;

impl Join {
    /// What can be said of a join without its group.
    pub(in crate::core) fn validate(&self, settings: &Settings) -> Result<(), GroupError> {
        if self.group.is_empty() || self.group.len() > GROUP_NAME_BYTES_MAX {
            return Err(GroupError::InvalidGroupId);
        }
        if self.session_timeout_ms < settings.session_ms_min
            || self.session_timeout_ms > settings.session_ms_max
        {
            return Err(GroupError::InvalidSessionTimeout);
        }
        let bytes: usize = self.protocols.iter().map(|p| p.name.len() + p.metadata.len()).sum();
        let names = self.protocols.iter().map(|p| &p.name).chain([&self.protocol_type, &self.member_id]);
        let is_sound = self.protocols.len() <= GROUP_MEMBER_PROTOCOLS_MAX
            && bytes <= GROUP_MEMBER_PROTOCOLS_BYTES_MAX
            && self
                .instance_id
                .as_ref()
                .is_none_or(|id| (1..=GROUP_INSTANCE_ID_BYTES_MAX).contains(&id.len()))
            && names.into_iter().all(|name| name.len() <= GROUP_NAME_BYTES_MAX);
        if is_sound { Ok(()) } else { Err(GroupError::InvalidRequest) }
    }
}

/// A member id nobody had before, as Kafka makes them.
pub(in crate::core) fn new_member_id(client: &Client, instance_id: Option<&Name>) -> Name {
    let id = format!("{}-{}", instance_id.unwrap_or(&client.id), client.fresh);
    debug_assert!(id.len() <= GROUP_NAME_BYTES_MAX, "client and instance ids are bounded");
    Name::from(id)
}

impl ClassicGroup {
    /// A join that was validated. Its answer may be parked until the join phase ends.
    pub(in crate::core) fn join(
        &mut self,
        turn: &mut Turn<'_>,
        ticket: Ticket,
        client: &Client,
        join: &Join,
    ) {
        let no_name = Name::from("");
        if !self.accepts(turn.settings, join) {
            self.drop_newcomer(turn, &join.member_id);
            return turn.joined(ticket, Joined::refused(GroupError::GroupMaxSizeReached, no_name));
        }
        if self.state == State::Dead {
            let refused = Joined::refused(GroupError::CoordinatorNotAvailable, join.member_id.clone());
            return turn.joined(ticket, refused);
        }
        if !self.supports(&join.protocol_type, &join.protocols) {
            let refused = Joined::refused(GroupError::InconsistentGroupProtocol, join.member_id.clone());
            return turn.joined(ticket, refused);
        }
        if join.member_id.is_empty() {
            self.join_new(turn, ticket, client, join);
        } else if self.pending_join.contains(&join.member_id) {
            // A member id is only given out to members without an instance id.
            if join.instance_id.is_some() {
                let refused = Joined::refused(GroupError::UnknownMemberId, join.member_id.clone());
                return turn.joined(ticket, refused);
            }
            self.add(turn, ticket, client, join, join.member_id.clone());
        } else {
            self.join_known(turn, ticket, join);
        }
    }

    /// Whether the group has room. While it prepares, those count that wait, so that the last to come again
    /// are the ones left out when the limit has shrunk.
    fn accepts(&self, settings: &Settings, join: &Join) -> bool {
        let most = settings.group_size_max.min(GROUP_MEMBERS_MAX);
        let member = self.members.get(&join.member_id);
        let bytes: usize = join.protocols.iter().map(|p| p.name.len() + p.metadata.len()).sum();
        if member.is_none() && self.protocol_bytes + bytes > GROUP_PROTOCOLS_BYTES_MAX {
            return false;
        }
        match self.state {
            State::Empty | State::Dead => self.pending_join.len() < GROUP_PENDING_MEMBERS_MAX,
            State::PreparingRebalance => member.is_some_and(|m| m.join.is_some()) || self.joining < most,
            State::CompletingRebalance | State::Stable => member.is_some() || self.members.len() < most,
        }
    }

    fn drop_newcomer(&mut self, turn: &mut Turn<'_>, id: &Name) {
        debug_assert!(self.members.get(id).is_none_or(|m| m.join.is_none()), "who waits is not turned away");
        if self.pending_join.contains(id) {
            self.remove(id);
            turn.forget(&self.id, id);
        }
    }

    fn join_new(&mut self, turn: &mut Turn<'_>, ticket: Ticket, client: &Client, join: &Join) {
        let new_id = new_member_id(client, join.instance_id.as_ref());
        if let Some(instance) = &join.instance_id {
            return match self.statics.get(instance).cloned() {
                Some(old_id) => self.replace_static(turn, ticket, join, &old_id, new_id),
                None => self.add(turn, ticket, client, join, new_id),
            };
        }
        if !join.requires_member_id {
            return self.add(turn, ticket, client, join, new_id);
        }
        if self.pending_join.len() >= GROUP_PENDING_MEMBERS_MAX {
            let refused = Joined::refused(GroupError::GroupMaxSizeReached, Name::from(""));
            return turn.joined(ticket, refused);
        }
        let is_new = self.pending_join.insert(new_id.clone());
        debug_assert!(is_new && !self.members.contains_key(&new_id), "{new_id} was given out before");
        turn.session(&self.id, &new_id, join.session_timeout_ms);
        turn.joined(ticket, Joined::refused(GroupError::MemberIdRequired, new_id));
    }

    fn add(&mut self, turn: &mut Turn<'_>, ticket: Ticket, client: &Client, join: &Join, id: Name) {
        if self.state == State::PreparingRebalance && self.previous == State::Empty {
            self.has_newcomer = true;
        }
        if self.members.is_empty() {
            self.protocol_type = Some(join.protocol_type.clone());
        }
        self.insert(ClassicMember {
            id: id.clone(),
            instance_id: join.instance_id.clone(),
            client_id: client.id.clone(),
            client_host: client.host.clone(),
            rebalance_timeout_ms: join.rebalance_ms(),
            session_timeout_ms: join.session_timeout_ms,
            protocols: join.distinct_protocols(),
            assignment: Default::default(),
            join: Some(ticket),
            sync: None,
            is_new: true,
        });
        // A new member does not know its id yet and cannot send heartbeats; so that those who went away while
        // they waited do not pile up, its join is answered after this time at the latest.
        debug_assert!(!self.pending_join.contains(&id) && self.leader.is_some(), "{id} has not come in");
        let key = TimerKey::Session { group: self.id.clone(), member: id };
        turn.timers.set(key, turn.now + GROUP_NEW_MEMBER_JOIN_MS_MAX);
        self.rebalance_or_complete(turn);
    }

    fn join_known(&mut self, turn: &mut Turn<'_>, ticket: Ticket, join: &Join) {
        let id = &join.member_id;
        if let Err(error) = self.validate(id, join.instance_id.as_ref()) {
            return turn.joined(ticket, Joined::refused(error, id.clone()));
        }
        let member = self.members.get(id).expect("validated");
        let is_same = member.protocols == join.distinct_protocols();
        debug_assert!(
            self.protocol.is_some() || self.state == State::PreparingRebalance,
            "no generation yet"
        );
        match self.state {
            State::PreparingRebalance => self.update(turn, ticket, join),
            // It may not have got the answer to its join; it gets it again.
            State::CompletingRebalance if is_same => turn.joined(ticket, self.joined(id)),
            State::CompletingRebalance => self.update(turn, ticket, join),
            // The leader may see a change that is in no member's metadata.
            State::Stable if self.is_leader(id) || !is_same => self.update(turn, ticket, join),
            State::Stable => turn.joined(ticket, self.joined(id)),
            State::Empty | State::Dead => {
                turn.joined(ticket, Joined::refused(GroupError::UnknownMemberId, id.clone()));
            }
        }
    }

    fn update(&mut self, turn: &mut Turn<'_>, ticket: Ticket, join: &Join) {
        self.set_member(turn, ticket, join, &join.member_id);
        self.rebalance_or_complete(turn);
    }

    /// Takes over what a member says now and parks its join; an older one of it that is parked is refused.
    fn set_member(&mut self, turn: &mut Turn<'_>, ticket: Ticket, join: &Join, id: &Name) {
        let old = self.members.get(id).expect("the caller has it").clone();
        self.count_protocols(&old, false);
        let member = self.members.get_mut(id).expect("the caller has it");
        member.protocols = join.distinct_protocols();
        member.rebalance_timeout_ms = join.rebalance_ms();
        member.session_timeout_ms = join.session_timeout_ms;
        let new = member.clone();
        self.count_protocols(&new, true);
        if let Some(older) = self.park_join(id, Some(ticket)) {
            debug_assert_ne!(older, ticket, "a join is parked twice");
            turn.joined(older, Joined::refused(GroupError::RebalanceInProgress, id.clone()));
        }
        debug_assert!(self.select_protocol().is_some(), "no protocol is left that everyone offers");
    }

    /// A static member came back without its member id: the new one takes the old one's place.
    fn replace_static(&mut self, turn: &mut Turn<'_>, ticket: Ticket, join: &Join, old_id: &Name, id: Name) {
        let was_leader = self.leader.clone();
        let mut member = self.members.get(old_id).expect("static members are members").clone();
        let fenced = (member.join.take(), member.sync.take());
        let is_pending_sync = self.pending_sync.contains(old_id);
        self.park_join(old_id, None);
        self.park_sync(old_id, None);
        if let Some(parked) = fenced.0 {
            turn.joined(parked, Joined::refused(GroupError::FencedInstanceId, old_id.clone()));
        }
        if let Some(parked) = fenced.1 {
            turn.synced(parked, super::Synced::refused(GroupError::FencedInstanceId));
        }
        self.remove(old_id);
        turn.forget(&self.id, old_id);
        member.id = id.clone();
        let session_ms = member.session_timeout_ms;
        self.insert(member);
        if is_pending_sync {
            self.pending_sync.insert(id.clone());
        }
        if was_leader.as_ref() == Some(old_id) {
            self.leader = Some(id.clone());
        }
        debug_assert!(!self.members.contains_key(old_id), "{old_id} is still there");
        debug_assert_eq!(self.static_member(join.instance_id.as_ref().expect("static")), Some(&id));
        turn.session(&self.id, &id, session_ms);
        self.set_member(turn, ticket, join, &id);
        match self.state {
            State::Stable if self.select_protocol() == self.protocol => {
                self.answer_replaced(turn, join, &id, was_leader);
            }
            State::Stable => self.rebalance_or_complete(turn),
            // The leader may have been told the old member id already.
            State::CompletingRebalance => self.prepare_rebalance(turn),
            State::PreparingRebalance => self.maybe_complete_join(turn),
            State::Empty | State::Dead => {
                unreachable!("a group with a static member is not {:?}", self.state)
            }
        }
    }

    /// Nothing changes for the others: the new member id is stored and answered in the present generation.
    fn answer_replaced(&mut self, turn: &mut Turn<'_>, join: &Join, id: &Name, was_leader: Option<Name>) {
        assert_eq!(self.state, State::Stable, "only a stable group goes on unchanged");
        let ticket = self.park_join(id, None).expect("the join was parked above");
        if let Some(member) = self.members.get_mut(id) {
            member.is_new = false;
        }
        self.write(turn);
        let mut joined = self.joined(id);
        if join.can_skip_assignment {
            joined.is_assignment_skipped = self.is_leader(id);
        } else {
            // Older clients take the old leader's id as another's and do not assign anew.
            joined.leader = was_leader;
            joined.members = Vec::new();
        }
        turn.joined(ticket, joined);
    }
}
