//! What one step works with besides the group itself: the time, the settings, the timers and the way out.

use std::sync::Arc;

use highwater_model::ProducerId;

use super::answer::{Answer, Effect, Joined, Synced};
use super::records::{Key, Record, Value};
use super::request::Ticket;
use super::settings::Settings;
use super::timers::{TimerKey, Timers};
use super::types::{Millis, Name, Topics};

/// What a step has to say so far.
#[derive(Debug, Default)]
pub(super) struct Out {
    pub records: Vec<Record>,
    pub transaction: Option<(ProducerId, i16)>,
    pub answers: Vec<(Ticket, Answer)>,
}

impl Out {
    /// Hands it over: the records first.
    pub fn drain(&mut self, effects: &mut Vec<Effect>) {
        debug_assert!(self.transaction.is_none() || self.answers.len() == 1, "a commit has one answer");
        let transaction = self.transaction.take();
        if !self.records.is_empty() {
            effects.push(Effect::Append { records: std::mem::take(&mut self.records), transaction });
        }
        effects.extend(self.answers.drain(..).map(|(ticket, answer)| Effect::Answer { ticket, answer }));
        debug_assert!(self.records.is_empty() && self.answers.is_empty());
    }
}

pub(super) struct Turn<'a> {
    pub now: Millis,
    pub settings: &'a Settings,
    pub topics: &'a Arc<Topics>,
    pub topics_version: i64,
    pub timers: &'a mut Timers,
    pub out: &'a mut Out,
}

impl Turn<'_> {
    pub fn answer(&mut self, ticket: Ticket, answer: Answer) {
        debug_assert!(self.out.answers.iter().all(|(t, _)| *t != ticket), "{ticket} is answered twice");
        self.out.answers.push((ticket, answer));
    }

    pub fn joined(&mut self, ticket: Ticket, joined: Joined) {
        self.answer(ticket, Answer::Join(joined));
    }

    pub fn synced(&mut self, ticket: Ticket, synced: Synced) {
        self.answer(ticket, Answer::Sync(synced));
    }

    pub fn write(&mut self, key: Key, value: Value) {
        self.out.records.push(Record::new(key, value));
    }

    pub fn erase(&mut self, key: Key) {
        self.out.records.push(Record::tombstone(key));
    }

    pub fn session(&mut self, group: &Name, member: &Name, timeout_ms: i32) {
        let key = TimerKey::Session { group: group.clone(), member: member.clone() };
        // Requests are checked; what a log says may be anything.
        self.timers.set(key, self.now + i64::from(timeout_ms.max(1)));
    }

    /// Drops every timer of a member.
    pub fn forget(&mut self, group: &Name, member: &Name) {
        let (group, member) = (group.clone(), member.clone());
        self.timers.cancel(&TimerKey::Session { group: group.clone(), member: member.clone() });
        self.timers.cancel(&TimerKey::Revoke { group: group.clone(), member: member.clone() });
        self.timers.cancel(&TimerKey::MemberJoin { group: group.clone(), member: member.clone() });
        self.timers.cancel(&TimerKey::MemberSync { group, member });
    }
}
