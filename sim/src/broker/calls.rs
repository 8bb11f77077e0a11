//! A broker and the control plane: registration, heartbeats, metadata, and every question that waits for an
//! answer. An answer that does not come in time leaves its outcome unknown.

use std::sync::Arc;

use highwater_broker::core::replica::{IsrOutcome, IsrProposal};
use highwater_coordinator::core::{AlterPartition, BrokerRegistration, Command, IsrMember, Refusal, Reply};

use super::Broker;
use crate::context::{Context, Event};
use crate::message::{Message, Metadata, Proposed};
use crate::network::{Address, MILLI, Micros};

const CALL_TIMEOUT: Micros = 700 * MILLI;
/// A member that has not answered for so long is given up for another.
const MEMBER_TIMEOUT: Micros = 600 * MILLI;

/// What a question was for.
#[derive(Debug)]
pub(super) enum Purpose {
    Register,
    Stop,
    Alter {
        partition: u32,
        proposal: IsrProposal,
    },
    /// A report of leadership in a group.
    Led {
        partition: u32,
        term: u64,
    },
    /// An end of a switch; asked for again as long as it is due.
    Switch,
    /// A step of a partition's upload.
    Upload {
        partition: u32,
    },
}

#[derive(Debug)]
pub(super) struct Call {
    purpose: Purpose,
    sent: Micros,
}

impl Broker {
    /// Heartbeats, registration, and another member where one is silent.
    pub(super) fn beat(&mut self, context: &mut Context) {
        let (node, members) = (self.node, context.params.members);
        let next_member = self.chance.between(1, members);
        let Some(process) = &mut self.process else { return };
        if context.now > process.member_answered + MEMBER_TIMEOUT {
            process.member = next_member;
            process.member_answered = context.now;
        }
        let registers = process.calls.values().any(|c| matches!(c.purpose, Purpose::Register));
        if !registers && process.stopping.is_none() && self.needs_registration() {
            return self.register(context);
        }
        let process = self.process.as_mut().expect("looked at above");
        if let Some(epoch) = process.epoch
            && context.now >= process.next_heartbeat
        {
            process.next_heartbeat = context.now + super::HEARTBEAT;
            let known = process.metadata.as_ref().map_or(0, |m| m.index);
            let to = Address::Member(process.member);
            context.send(Address::Broker(node), to, Message::Heartbeat { node, epoch, known });
        }
    }

    /// It was never registered, or has been fenced since, or an answer to that was lost.
    fn needs_registration(&self) -> bool {
        let Some(process) = &self.process else { return false };
        let Some(epoch) = process.epoch else { return true };
        let known = process.metadata.as_ref().and_then(|m| m.state.brokers.get(&self.node));
        known.is_some_and(|broker| {
            // Another incarnation's is that of a process before this one: its registration was long under
            // way.
            broker.epoch != epoch || broker.incarnation != process.incarnation || broker.is_fenced
        })
    }

    fn register(&mut self, context: &mut Context) {
        let process = self.process.as_ref().expect("alive");
        let registration = BrokerRegistration {
            node_id: self.node,
            incarnation: process.incarnation,
            host: "sim".into(),
            port: 1,
            rack: None,
            storage: self.data.storage,
            clean_stop_of: process.clean_stop_of,
            ..BrokerRegistration::default()
        };
        self.propose(context, Purpose::Register, Command::RegisterBroker(registration));
    }

    pub(super) fn call_stop(&mut self, context: &mut Context) {
        let Some(broker_epoch) = self.process.as_ref().and_then(|p| p.epoch) else { return };
        let command = Command::StopBroker { node_id: self.node, broker_epoch };
        self.propose(context, Purpose::Stop, command);
    }

    pub(super) fn propose_isr(&mut self, context: &mut Context, partition: u32, proposal: IsrProposal) {
        let epoch = self.process.as_ref().and_then(|p| p.epoch);
        let member = |m: &highwater_broker::core::replica::IsrMember| IsrMember {
            node_id: m.node_id,
            broker_epoch: m.broker_epoch,
        };
        let command = Command::AlterPartition(AlterPartition {
            tp: context.params.tp(partition),
            node_id: self.node,
            broker_epoch: epoch.unwrap_or(0),
            leader_epoch: proposal.leader_epoch,
            partition_epoch: proposal.partition_epoch,
            isr: proposal.isr.iter().map(member).collect(),
        });
        self.propose(context, Purpose::Alter { partition, proposal }, command);
    }

    pub(super) fn propose(&mut self, context: &mut Context, purpose: Purpose, command: Command) -> u64 {
        let message = |id| Message::Propose { id, command: Arc::new(command) };
        self.call(context, purpose, message)
    }

    pub(super) fn call(
        &mut self,
        context: &mut Context,
        purpose: Purpose,
        message: impl FnOnce(u64) -> Message,
    ) -> u64 {
        let id = context.id();
        let from = self.address();
        let process = self.process.as_mut().expect("only the living ask");
        process.calls.insert(id, Call { purpose, sent: context.now });
        let to = Address::Member(process.member);
        context.send(from, to, message(id));
        id
    }

    pub(super) fn time_out_calls(&mut self, context: &mut Context) {
        let Some(process) = &self.process else { return };
        let is_late = |call: &Call| context.now > call.sent + CALL_TIMEOUT;
        let late: Vec<u64> = process.calls.iter().filter(|(_, c)| is_late(c)).map(|(id, _)| *id).collect();
        for id in late {
            let call = self.process.as_mut().and_then(|p| p.calls.remove(&id));
            self.no_answer(context, call.expect("just found"), IsrOutcome::Unknown);
        }
    }

    fn no_answer(&mut self, context: &mut Context, call: Call, outcome: IsrOutcome) {
        match call.purpose {
            // Asked again by the next tick, or not at all.
            Purpose::Register | Purpose::Stop | Purpose::Led { .. } | Purpose::Switch => {}
            Purpose::Alter { partition, proposal } => {
                self.isr_settled(context, partition, &proposal, outcome);
            }
            Purpose::Upload { partition } => self.upload_timed_out(context, partition),
        }
    }

    fn isr_settled(
        &mut self,
        context: &mut Context,
        partition: u32,
        proposal: &IsrProposal,
        outcome: IsrOutcome,
    ) {
        let now_ms = self.now_ms(context);
        let Some(held) = self.held(partition) else { return };
        let moves = held.machine_mut().isr_settled(now_ms, proposal, outcome);
        self.moved(context, partition, moves);
    }

    // --- answers ---

    pub(super) fn heartbeat_taken(
        &mut self,
        context: &mut Context,
        from: Address,
        leader: Option<u64>,
        newer: Option<Metadata>,
    ) {
        let process = self.process.as_mut().expect("alive");
        if from == Address::Member(process.member) {
            process.member_answered = context.now;
        }
        if let Some(leader) = leader {
            process.member = leader;
        }
        if let Some(metadata) = newer {
            self.adopt(context, metadata);
        }
    }

    pub(super) fn propose_done(&mut self, context: &mut Context, id: u64, outcome: Proposed) {
        let process = self.process.as_mut().expect("alive");
        let Some(call) = process.calls.remove(&id) else { return };
        match outcome {
            Proposed::NotLeader(hint) => {
                let other = self.chance.between(1, context.params.members);
                self.process.as_mut().expect("alive").member = hint.unwrap_or(other);
                self.no_answer(context, call, IsrOutcome::Refused);
            }
            Proposed::Done(reply, metadata) => {
                if let (Purpose::Register, Ok(Reply::BrokerEpoch(epoch))) = (&call.purpose, &reply) {
                    process.epoch = Some(*epoch);
                    process.next_heartbeat = 0;
                }
                // Whoever asked reads its own write before it goes on.
                self.adopt(context, metadata);
                self.done(context, call.purpose, reply);
            }
        }
    }

    fn done(&mut self, context: &mut Context, purpose: Purpose, reply: Result<Reply, Refusal>) {
        match purpose {
            Purpose::Register | Purpose::Switch => {}
            Purpose::Led { partition, term } => self.led(partition, term, reply.is_ok()),
            Purpose::Stop => {
                let soon = self.chance.between(1, 200) * MILLI;
                context.after(soon, Event::BrokerStop { node: self.node, life: self.life });
            }
            Purpose::Alter { partition, proposal } => {
                let outcome = match reply {
                    Ok(Reply::PartitionEpoch(partition_epoch)) => IsrOutcome::Accepted { partition_epoch },
                    _ => IsrOutcome::Refused,
                };
                self.isr_settled(context, partition, &proposal, outcome);
            }
            Purpose::Upload { partition } => self.upload_proposed(context, partition, &reply),
        }
    }

    pub(super) fn read_done(&mut self, context: &mut Context, id: u64, newest: Option<Metadata>) {
        let process = self.process.as_mut().expect("alive");
        let Some(Call { purpose: Purpose::Upload { partition }, .. }) = process.calls.remove(&id) else {
            return;
        };
        match newest {
            Some(metadata) => {
                self.adopt(context, metadata.clone());
                self.upload_manifest(context, partition, &metadata);
            }
            None => {
                process.member = self.chance.between(1, context.params.members);
                self.upload_timed_out(context, partition);
            }
        }
    }
}
