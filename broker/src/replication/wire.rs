//! Between the messages of a stream and what the replica's machine speaks. What a peer sends is checked here
//! for its shape; its meaning is judged by the machine.

use bytes::Bytes;
use highwater_log::{Beginning, EpochStart};
use highwater_model::limits::{EPOCHS_PER_BEGINNING_MAX, REPLICA_ANSWER_BYTES_MAX};
use highwater_model::{NodeId, TopicId, TopicPartition};
use uuid::Uuid;

use super::proto;
use crate::core::replica::LeaderRefusal;
use crate::replica::{AnswerContent, FetchAnswer, FollowerFetch, Position};

/// A message that is none of ours. One line.
#[derive(Debug, thiserror::Error)]
#[error("a malformed message: {0}")]
pub(super) struct Malformed(pub &'static str);

pub(super) fn key(tp: TopicPartition) -> proto::ReplicatedPartition {
    let topic_id = Bytes::copy_from_slice(tp.topic_id.0.as_bytes());
    proto::ReplicatedPartition { topic_id, partition: tp.partition }
}

pub(super) fn tp(key: Option<proto::ReplicatedPartition>) -> Result<TopicPartition, Malformed> {
    let key = key.ok_or(Malformed("no partition"))?;
    let id = Uuid::from_slice(&key.topic_id).map_err(|_| Malformed("a topic id is 16 bytes"))?;
    if key.partition < 0 {
        return Err(Malformed("a negative partition"));
    }
    Ok(TopicPartition::new(TopicId(id), key.partition))
}

fn position_message(position: &Position) -> proto::Position {
    proto::Position {
        leader_epoch: position.leader_epoch,
        fetch_offset: position.fetch_offset,
        last_fetched_epoch: position.last_fetched_epoch,
    }
}

fn position(message: Option<proto::Position>) -> Result<Position, Malformed> {
    let message = message.ok_or(Malformed("no position"))?;
    if message.leader_epoch < 0 || message.fetch_offset < 0 || message.last_fetched_epoch < -1 {
        return Err(Malformed("a negative position"));
    }
    Ok(Position {
        leader_epoch: message.leader_epoch,
        fetch_offset: message.fetch_offset,
        last_fetched_epoch: message.last_fetched_epoch,
    })
}

pub(super) fn fetch_message(tp: TopicPartition, fetch: &FollowerFetch) -> proto::FollowerFetch {
    proto::FollowerFetch {
        partition: Some(key(tp)),
        position: Some(position_message(&fetch.position)),
        broker_epoch: fetch.broker_epoch,
        flushed_end: fetch.flushed_end,
        high_watermark: fetch.high_watermark,
        is_empty: fetch.is_empty,
        needs_beginning: fetch.needs_beginning,
    }
}

pub(super) fn fetch(
    node_id: NodeId,
    message: proto::FollowerFetch,
) -> Result<(TopicPartition, FollowerFetch), Malformed> {
    let tp = tp(message.partition)?;
    let position = position(message.position)?;
    if message.flushed_end < 0 || message.flushed_end > position.fetch_offset || message.high_watermark < 0 {
        return Err(Malformed("ends that contradict each other"));
    }
    let fetch = FollowerFetch {
        node_id,
        broker_epoch: message.broker_epoch,
        position,
        flushed_end: message.flushed_end,
        high_watermark: message.high_watermark,
        is_empty: message.is_empty,
        needs_beginning: message.needs_beginning,
    };
    Ok((tp, fetch))
}

pub(super) fn answer_message(tp: TopicPartition, answer: FetchAnswer) -> proto::LeaderAnswer {
    use proto::leader_answer::Content;
    let content = match answer.content {
        AnswerContent::Records(records) => Content::Records(records),
        AnswerContent::Diverging { epoch, end_offset } => {
            Content::Diverging(proto::Diverging { epoch, end_offset })
        }
        AnswerContent::Begin(beginning) => Content::Beginning(proto::Beginning {
            offset: beginning.offset,
            epochs: beginning
                .epochs
                .iter()
                .map(|e| proto::EpochStart { epoch: e.epoch, start_offset: e.start_offset })
                .collect(),
            producers: beginning.producers.into(),
        }),
        AnswerContent::Refused(refusal) => Content::Refusal(refusal_message(&refusal)),
        AnswerContent::Unreadable => Content::Unreadable(true),
    };
    proto::LeaderAnswer {
        partition: Some(key(tp)),
        position: Some(position_message(&answer.position)),
        high_watermark: answer.high_watermark,
        log_start: answer.log_start,
        content: Some(content),
    }
}

pub(super) fn answer(message: proto::LeaderAnswer) -> Result<(TopicPartition, FetchAnswer), Malformed> {
    use proto::leader_answer::Content;
    let tp = tp(message.partition)?;
    let position = position(message.position)?;
    if message.high_watermark < 0 || message.log_start < 0 {
        return Err(Malformed("a negative offset"));
    }
    let content = match message.content.ok_or(Malformed("an answer without content"))? {
        Content::Records(records) if records.len() > REPLICA_ANSWER_BYTES_MAX => {
            return Err(Malformed("more records than an answer may have"));
        }
        Content::Records(records) => AnswerContent::Records(records),
        Content::Diverging(d) => AnswerContent::Diverging { epoch: d.epoch, end_offset: d.end_offset },
        Content::Beginning(b) if b.epochs.len() > EPOCHS_PER_BEGINNING_MAX => {
            return Err(Malformed("more leader epochs than there can be"));
        }
        Content::Beginning(b) => AnswerContent::Begin(Beginning {
            offset: b.offset,
            epochs: b
                .epochs
                .iter()
                .map(|e| EpochStart { epoch: e.epoch, start_offset: e.start_offset })
                .collect(),
            producers: b.producers.to_vec(),
        }),
        Content::Refusal(refusal) => AnswerContent::Refused(self::refusal(&refusal, &position)?),
        Content::Unreadable(_) => AnswerContent::Unreadable,
    };
    let answer = FetchAnswer {
        position,
        high_watermark: message.high_watermark,
        log_start: message.log_start,
        content,
    };
    Ok((tp, answer))
}

fn refusal_message(refusal: &LeaderRefusal) -> proto::Refusal {
    use proto::refusal::Reason;
    let (reason, current_epoch) = match *refusal {
        LeaderRefusal::NotLeader | LeaderRefusal::NotEnoughReplicas { .. } => (Reason::NotLeader, 0),
        LeaderRefusal::FencedEpoch { current, .. } => (Reason::FencedEpoch, current),
        LeaderRefusal::UnknownEpoch { .. } => (Reason::UnknownEpoch, 0),
        LeaderRefusal::StaleBroker { .. } => (Reason::StaleBroker, 0),
        LeaderRefusal::NoReplica { .. } => (Reason::NoReplica, 0),
    };
    proto::Refusal { reason: reason.into(), current_epoch }
}

fn refusal(message: &proto::Refusal, asked: &Position) -> Result<LeaderRefusal, Malformed> {
    use proto::refusal::Reason;
    let given = asked.leader_epoch;
    // The follower is the one who is told; its node id does not matter to itself.
    Ok(match message.reason() {
        Reason::NotLeader => LeaderRefusal::NotLeader,
        Reason::FencedEpoch => LeaderRefusal::FencedEpoch { given, current: message.current_epoch },
        Reason::UnknownEpoch => LeaderRefusal::UnknownEpoch { given },
        Reason::StaleBroker => LeaderRefusal::StaleBroker { node_id: 0, given: 0 },
        Reason::NoReplica => LeaderRefusal::NoReplica { node_id: 0 },
        Reason::Unspecified => return Err(Malformed("a refusal without a reason")),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at() -> Position {
        Position { leader_epoch: 3, fetch_offset: 10, last_fetched_epoch: 2 }
    }

    fn some_tp() -> TopicPartition {
        TopicPartition::new(TopicId(Uuid::from_u128(7)), 4)
    }

    #[test]
    fn fetches_come_back_as_they_went() {
        let fetch = FollowerFetch {
            node_id: 2,
            broker_epoch: 9,
            position: at(),
            flushed_end: 8,
            high_watermark: 7,
            is_empty: true,
            needs_beginning: false,
        };
        assert_eq!(super::fetch(2, fetch_message(some_tp(), &fetch)).expect("sound"), (some_tp(), fetch));
        let lies = FollowerFetch { flushed_end: 11, ..fetch };
        super::fetch(2, fetch_message(some_tp(), &lies)).expect_err("more on the disk than there is");
    }

    #[test]
    fn answers_come_back_as_they_went() {
        let beginning = Beginning {
            offset: 5,
            epochs: vec![EpochStart { epoch: 1, start_offset: 0 }],
            producers: vec![1, 2, 3],
        };
        for content in [
            AnswerContent::Records(Bytes::from_static(b"batches")),
            AnswerContent::Diverging { epoch: 1, end_offset: 4 },
            AnswerContent::Begin(beginning),
            AnswerContent::Refused(LeaderRefusal::FencedEpoch { given: 3, current: 5 }),
            AnswerContent::Refused(LeaderRefusal::UnknownEpoch { given: 3 }),
            AnswerContent::Refused(LeaderRefusal::NotLeader),
            AnswerContent::Unreadable,
        ] {
            let sent = FetchAnswer { position: at(), high_watermark: 6, log_start: 1, content };
            let got = answer(answer_message(some_tp(), sent.clone())).expect("sound");
            assert_eq!(got, (some_tp(), sent));
        }
    }

    #[test]
    fn what_is_malformed_is_refused() {
        let message = || {
            answer_message(
                some_tp(),
                FetchAnswer {
                    position: at(),
                    high_watermark: 6,
                    log_start: 1,
                    content: AnswerContent::Unreadable,
                },
            )
        };
        answer(proto::LeaderAnswer { content: None, ..message() }).expect_err("no content");
        answer(proto::LeaderAnswer { position: None, ..message() }).expect_err("no position");
        answer(proto::LeaderAnswer { high_watermark: -1, ..message() }).expect_err("negative");
        let short = proto::ReplicatedPartition { topic_id: Bytes::from_static(b"x"), partition: 0 };
        answer(proto::LeaderAnswer { partition: Some(short), ..message() }).expect_err("no id");
        let refusal = proto::leader_answer::Content::Refusal(proto::Refusal::default());
        answer(proto::LeaderAnswer { content: Some(refusal), ..message() }).expect_err("no reason");
    }
}
