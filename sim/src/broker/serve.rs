//! A broker and its clients: produce, consume, and who leads.

use bytes::Bytes;
use highwater_broker::core::replica::{AckState, LeaderRefusal, Moves};
use highwater_broker::replica::AppendRefusal;
use highwater_model::{Offset, TopicConfig};
use highwater_wire::{ProduceRules, validate_produce};

use super::held::Waiting;
use super::{Broker, read};
use crate::context::Context;
use crate::message::{ClientError, Fetched, Message};
use crate::network::Address;

const READ_BYTES: usize = 4_096;

impl Broker {
    pub(super) fn produce(
        &mut self,
        context: &mut Context,
        client: Address,
        id: u64,
        partition: u32,
        batch: &Bytes,
        is_all: bool,
    ) {
        let from = self.address();
        match self.append(context, client, id, partition, batch, is_all) {
            Ok(None) => {}
            Ok(Some(offset)) => context.send(from, client, Message::Produced { id, outcome: Ok(offset) }),
            Err(error) => context.send(from, client, Message::Produced { id, outcome: Err(error) }),
        }
    }

    /// The base offset if it can be told at once.
    fn append(
        &mut self,
        context: &mut Context,
        client: Address,
        id: u64,
        partition: u32,
        batch: &Bytes,
        is_all: bool,
    ) -> Result<Option<Offset>, ClientError> {
        let (now_ms, wall_ms) = (self.now_ms(context), self.wall_ms(context));
        let process = self.process.as_mut().expect("alive");
        let Some(held) = process.held.get_mut(&partition) else { return Err(ClientError::NotLeader) };
        let rules = ProduceRules::of(&TopicConfig::default());
        let accepted = validate_produce(batch, &rules, wall_ms, &mut process.scratch);
        let accepted = accepted.expect("producers of the simulation send sound batches");
        if held.group.is_some() {
            return self.propose_batch(context, client, id, partition, &accepted.header, &accepted.bytes);
        }
        let appended = held
            .machine_mut()
            .append_as_leader(&accepted.header, &accepted.bytes, is_all, now_ms)
            .map_err(error_of)?;
        let base_offset = appended.base_offset;
        if is_all {
            held.waiting.push(Waiting { client, id, base_offset, ticket: appended.ticket });
        }
        self.moved(context, partition, appended.moves);
        self.answer_waiting(context, partition);
        self.flush_soon(context, partition);
        Ok((!is_all).then_some(base_offset))
    }

    /// Carries out what a step of the replica has set going.
    pub(super) fn moved(&mut self, context: &mut Context, partition: u32, moves: Moves) {
        if let Some(high_watermark) = moves.high_watermark {
            context.note(format_args!("broker {} p{partition} hw={high_watermark}", self.node));
            if let Some(held) = self.held(partition) {
                held.machine_mut().log_mut().high_watermark_is(high_watermark);
            }
            self.answer_waiting(context, partition);
        }
        if let Some(proposal) = moves.propose {
            self.propose_isr(context, partition, proposal);
        }
    }

    /// Answers the acknowledgements that have come to their end.
    pub(super) fn answer_waiting(&mut self, context: &mut Context, partition: u32) {
        let from = self.address();
        let Some(held) = self.held(partition) else { return };
        for (waiting, state) in held.settled() {
            let outcome = match state {
                AckState::Committed => Ok(waiting.base_offset),
                AckState::Waiting | AckState::Unproven | AckState::NotLeader => Err(ClientError::Unknown),
            };
            context.send(from, waiting.client, Message::Produced { id: waiting.id, outcome });
        }
    }

    pub(super) fn fetch(
        &mut self,
        context: &mut Context,
        client: Address,
        id: u64,
        partition: u32,
        offset: Offset,
    ) {
        let from = self.address();
        let Some(held) = self.held(partition) else {
            let outcome = Err(ClientError::NotLeader);
            return context.send(from, client, Message::Fetched { id, outcome });
        };
        let (end, log) = (held.machine().readable_end(), held.log());
        if offset < log.local_start().max(log.log_start()) {
            return self.read_tier(context, client, id, partition, offset, end);
        }
        // A replica that is behind has nothing yet for one that has read further elsewhere.
        let records = match log.read(offset, READ_BYTES, end, true) {
            Ok(found) => found.slices.iter().map(|s| s.read().expect("memory files can be read")).collect(),
            Err(_) => Vec::new(),
        };
        let records: Vec<_> = records.iter().flat_map(|bytes: &Vec<u8>| read::values(bytes)).collect();
        let outcome = Ok(Fetched { records, high_watermark: end, is_tiered: false });
        context.send(from, client, Message::Fetched { id, outcome });
    }

    pub(super) fn who_leads(&mut self, context: &mut Context, client: Address, id: u64) {
        let from = self.address();
        let metadata = self.process.as_ref().and_then(|p| p.metadata.as_ref());
        let Some(topic) = metadata.and_then(|m| m.state.topic(context.params.topic_id)) else { return };
        let told = topic.partitions.iter().map(|p| p.leader);
        // A group's word is newer than the control plane's.
        let of_group = |number: u32| self.group(number).and_then(|group| group.leader_node());
        let leaders = (0..).zip(told).map(|(number, leader)| of_group(number).or(leader)).collect();
        let replicas = topic.partitions.iter().map(|p| p.replicas.clone()).collect();
        context.send(from, client, Message::Leads { id, leaders, replicas });
    }
}

fn error_of(refusal: AppendRefusal) -> ClientError {
    match refusal {
        AppendRefusal::Leader(LeaderRefusal::NotEnoughReplicas { .. }) => ClientError::NotEnoughReplicas,
        AppendRefusal::Leader(_) => ClientError::NotLeader,
        AppendRefusal::Sequence(_) => ClientError::OutOfOrder,
        AppendRefusal::Log(_) => ClientError::Storage,
    }
}
