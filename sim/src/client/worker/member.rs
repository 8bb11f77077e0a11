//! A worker as a member of its group: it says that it lives and what it works on, and is told what is its
//! own.

use std::collections::BTreeSet;

use highwater_groups::core::answer::Beat;
use highwater_groups::core::error::GroupError;
use highwater_groups::core::request::ConsumerHeartbeat;
use highwater_groups::core::types::{Name, Partitions};

use super::{REQUEST_TIMEOUT, Worker};
use crate::context::Context;
use crate::exactly::{Ask, GROUP, INPUT_TOPIC, OFFSETS, input_topic_id};
use crate::history::Owner;
use crate::message::Message;
use crate::network::{Address, MILLI, Micros};

const BEAT_EVERY: Micros = 300 * MILLI;
const REBALANCE_TIMEOUT_MS: i32 = 2_000;

impl Worker {
    pub(super) fn keep_alive(&mut self, context: &mut Context) {
        let now = context.now;
        if self.beat.take_if(|(_, at)| now >= *at + REQUEST_TIMEOUT).is_some() {
            self.leaders.forget(OFFSETS);
        }
        if self.beat.is_some() || now < self.next_beat {
            return;
        }
        let Some(leader) = self.leaders.of(OFFSETS) else { return self.leaders.ask(context, self.client) };
        let id = context.id();
        (self.beat, self.next_beat) = (Some((id, now)), now + BEAT_EVERY);
        let owned: BTreeSet<i32> = if self.epoch == 0 { BTreeSet::new() } else { self.owned.clone() };
        let mut partitions = Partitions::new();
        if !owned.is_empty() {
            partitions.insert(input_topic_id(), owned);
        }
        let beat = ConsumerHeartbeat {
            group: Name::from(GROUP),
            member_id: self.member.clone(),
            epoch: self.epoch,
            instance_id: None,
            rack_id: None,
            rebalance_timeout_ms: Some(REBALANCE_TIMEOUT_MS),
            topic_names: Some(BTreeSet::from([Name::from(INPUT_TOPIC)])),
            topic_regex: None,
            server_assignor: None,
            owned: Some(partitions),
        };
        let message = Message::Exactly { id, ask: Ask::Beat(beat) };
        context.send(Address::Client(self.client), Address::Broker(leader), message);
    }

    pub(super) fn beaten(&mut self, context: &mut Context, outcome: Result<Beat, GroupError>) {
        match outcome {
            Ok(beat) => {
                self.epoch = beat.epoch;
                if let Some(assigned) = beat.assignment {
                    self.granted = assigned.get(&input_topic_id()).cloned().unwrap_or_default();
                }
                for partition in &self.granted {
                    let (generation, member) = (self.epoch, self.member.to_string());
                    let owner = Owner { partition: *partition, generation, member };
                    if context.history.owners.last() != Some(&owner) {
                        context.history.owners.push(owner);
                    }
                }
            }
            Err(
                GroupError::NotCoordinator
                | GroupError::CoordinatorNotAvailable
                | GroupError::CoordinatorLoadInProgress,
            ) => self.leaders.forget(OFFSETS),
            // It is a member no more: others may have its partitions.
            Err(error) => {
                context.note(format_args!("worker {} is out of the group: {error}", self.client));
                self.epoch = 0;
                self.granted.clear();
                self.owned.clear();
                self.positions.clear();
                self.next_beat = 0;
                if let Some(open) = self.open.as_mut().filter(|open| open.end.is_none()) {
                    open.end = Some(false);
                }
            }
        }
    }
}
