//! Transactions over the wire: commit and abort under both sets of rules, fencing, timeouts, restarts, the
//! seam with the tier, and the offsets of groups.

use std::time::Duration;

use bytes::Bytes;
use highwater_wire::kafka::messages::add_partitions_to_txn_request::AddPartitionsToTxnTopic;
use highwater_wire::kafka::messages::fetch_response::PartitionData;
use highwater_wire::kafka::messages::produce_response::PartitionProduceResponse;
use highwater_wire::kafka::messages::txn_offset_commit_request::{
    TxnOffsetCommitRequestPartition, TxnOffsetCommitRequestTopic,
};
use highwater_wire::kafka::messages::*;
use highwater_wire::kafka::protocol::StrBytes;
use highwater_wire::{
    BatchBuilder, Batches, Codec, Control, EndMarker, Records, TimestampType, api, read_control,
};

use crate::it::groups::fetch_offset;
use crate::it::harness::*;

pub const INVALID_PRODUCER_EPOCH: i16 = 47;
const INVALID_TXN_STATE: i16 = 48;
const CONCURRENT_TRANSACTIONS: i16 = 51;
const PRODUCER_FENCED: i16 = 90;
const TRANSACTION_ABORTABLE: i16 = 120;

/// Which rules a client follows: the versions that it sends.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Rules {
    /// The client adds partitions itself.
    Old,
    /// Brokers do, and each transaction has an epoch of its own (KIP-890).
    New,
}

/// A transactional producer by hand.
pub struct Txn {
    pub client: Client,
    pub rules: Rules,
    pub id: String,
    pub producer: (i64, i16),
    sequences: [i32; 4],
}

pub async fn harness() -> Harness {
    let harness = Harness::start_with(|settings| {
        settings.offsets_topic_num_partitions = 3;
        settings.transaction_state_topic_num_partitions = 3;
    })
    .await;
    harness.create_topic("t", 4, &[]).await;
    harness
}

pub fn txn_id(id: &str) -> TransactionalId {
    TransactionalId(StrBytes::from_string(id.to_owned()))
}

fn is_passing(code: i16) -> bool {
    // Loading, no leader yet, or the last transaction is being ended.
    [14, 15, 16, CONCURRENT_TRANSACTIONS].contains(&code)
}

pub fn init_request(id: &str, timeout_ms: i32, (producer_id, epoch): (i64, i16)) -> InitProducerIdRequest {
    InitProducerIdRequest::default()
        .with_transactional_id(Some(txn_id(id)))
        .with_transaction_timeout_ms(timeout_ms)
        .with_producer_id(ProducerId(producer_id))
        .with_producer_epoch(epoch)
}

/// Becomes the producer of a transactional id.
pub async fn init(client: &mut Client, id: &str, timeout_ms: i32) -> (i64, i16) {
    let find = FindCoordinatorRequest::default()
        .with_key_type(1)
        .with_coordinator_keys(vec![StrBytes::from_string(id.to_owned())]);
    let found: FindCoordinatorResponse = client.call(api::FIND_COORDINATOR, 6, &find).await;
    assert_eq!((found.coordinators[0].error_code, found.coordinators[0].node_id.0), (0, 1));
    let deadline = tokio::time::Instant::now() + PATIENCE;
    loop {
        let request = init_request(id, timeout_ms, (-1, -1));
        let answer: InitProducerIdResponse = client.call(api::INIT_PRODUCER_ID, 5, &request).await;
        if answer.error_code == 0 {
            return (answer.producer_id.0, answer.producer_epoch);
        }
        assert!(is_passing(answer.error_code), "{answer:?}");
        assert!(tokio::time::Instant::now() < deadline, "no producer id in time");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

pub fn txn_batch((producer_id, epoch): (i64, i16), sequence: i32, values: &[&[u8]]) -> Bytes {
    let builder = BatchBuilder::new(Codec::None).producer(producer_id, epoch, sequence);
    let mut builder = builder.attributes(TimestampType::CreateTime, true, false);
    for value in values {
        builder.push(now_ms(), None, Some(value), &[]);
    }
    builder.build()
}

impl Txn {
    pub async fn begin(harness: &Harness, id: &str, rules: Rules) -> Txn {
        Txn::with_timeout(harness, id, rules, 60_000).await
    }

    pub async fn with_timeout(harness: &Harness, id: &str, rules: Rules, timeout_ms: i32) -> Txn {
        let mut client = harness.client().await;
        let producer = init(&mut client, id, timeout_ms).await;
        Txn { client, rules, id: id.to_owned(), producer, sequences: [0; 4] }
    }

    /// The same producer on a new connection.
    pub async fn reconnect(&mut self, harness: &Harness) {
        self.client = harness.client().await;
    }

    fn produce_version(&self) -> i16 {
        if self.rules == Rules::New { 12 } else { 9 }
    }

    pub async fn add(&mut self, topic: &str, partition: i32) -> i16 {
        let topic =
            AddPartitionsToTxnTopic::default().with_name(name(topic)).with_partitions(vec![partition]);
        let request = AddPartitionsToTxnRequest::default()
            .with_v3_and_below_transactional_id(txn_id(&self.id))
            .with_v3_and_below_producer_id(ProducerId(self.producer.0))
            .with_v3_and_below_producer_epoch(self.producer.1)
            .with_v3_and_below_topics(vec![topic]);
        let answer: AddPartitionsToTxnResponse =
            self.client.call(api::ADD_PARTITIONS_TO_TXN, 3, &request).await;
        answer.results_by_topic_v3_and_below[0].results_by_partition[0].partition_error_code
    }

    /// A batch as it is, without the partition being added by the client.
    pub async fn produce(&mut self, topic: &str, partition: i32, batch: Bytes) -> PartitionProduceResponse {
        let request = produce_request(-1, topic, &[(partition, batch)]);
        let request = request.with_transactional_id(Some(txn_id(&self.id)));
        let version = self.produce_version();
        let response: ProduceResponse = self.client.call(api::PRODUCE, version, &request).await;
        response.responses[0].partition_responses[0].clone()
    }

    /// Writes records as a client does: again while the answer says that it will pass.
    pub async fn write(&mut self, topic: &str, partition: i32, values: &[&[u8]]) -> i64 {
        let deadline = tokio::time::Instant::now() + PATIENCE;
        if self.rules == Rules::Old {
            loop {
                match self.add(topic, partition).await {
                    0 => break,
                    code => assert!(is_passing(code), "add: {code}"),
                }
                assert!(tokio::time::Instant::now() < deadline, "not added in time");
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        }
        let sequence = self.sequences[partition as usize];
        loop {
            let answer = self.produce(topic, partition, txn_batch(self.producer, sequence, values)).await;
            if answer.error_code == 0 {
                self.sequences[partition as usize] += values.len() as i32;
                return answer.base_offset;
            }
            // Not led yet, or not enough: whatever cannot be verified yet.
            assert!([6, 19, CONCURRENT_TRANSACTIONS].contains(&answer.error_code), "{answer:?}");
            assert!(tokio::time::Instant::now() < deadline, "not written in time");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    /// EndTxn as this producer, once; the code and who to go on as.
    pub async fn ask_end(&mut self, commit: bool) -> (i16, (i64, i16)) {
        let request = EndTxnRequest::default()
            .with_transactional_id(txn_id(&self.id))
            .with_producer_id(ProducerId(self.producer.0))
            .with_producer_epoch(self.producer.1)
            .with_committed(commit);
        let version = if self.rules == Rules::New { 5 } else { 3 };
        let answer: EndTxnResponse = self.client.call(api::END_TXN, version, &request).await;
        (answer.error_code, (answer.producer_id.0, answer.producer_epoch))
    }

    /// Ends the transaction and goes on as the answer says.
    pub async fn end(&mut self, commit: bool) {
        let deadline = tokio::time::Instant::now() + PATIENCE;
        loop {
            let (code, producer) = self.ask_end(commit).await;
            if code == 0 {
                if self.rules == Rules::New {
                    assert_eq!(producer.0, self.producer.0);
                    assert!(producer.1 > self.producer.1, "an epoch of its own");
                    (self.producer, self.sequences) = (producer, [0; 4]);
                }
                return;
            }
            assert!(is_passing(code), "end: {code}");
            assert!(tokio::time::Instant::now() < deadline, "not ended in time");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
}

async fn look(client: &mut Client, topic: &str, partition: i32, offset: i64, isolation: i8) -> PartitionData {
    let request = fetch_request(topic, &[(partition, offset)], 0, 0).with_isolation_level(isolation);
    let response = client.fetch(12, &request).await;
    let data = response.responses[0].partitions[0].clone();
    assert_eq!(data.error_code, 0, "{data:?}");
    data
}

/// All values of a partition as a consumer of this isolation hands them to its user.
pub async fn seen(client: &mut Client, topic: &str, partition: i32, isolation: i8) -> Vec<String> {
    let deadline = tokio::time::Instant::now() + PATIENCE;
    let (mut at, mut found) = (0, Vec::new());
    loop {
        let data = look(client, topic, partition, at, isolation).await;
        let aborted = data.aborted_transactions.clone().unwrap_or_default();
        assert_eq!(data.aborted_transactions.is_some(), isolation == 1);
        let end = if isolation == 1 { data.last_stable_offset } else { data.high_watermark };
        if at >= end {
            return found;
        }
        let records = data.records.expect("records");
        let before = at;
        // As Java's consumer leaves out what was aborted.
        let mut begins: Vec<(i64, i64)> =
            aborted.iter().map(|txn| (txn.first_offset, txn.producer_id.0)).collect();
        begins.sort_unstable();
        let (mut begins, mut open) = (begins.into_iter().peekable(), Vec::new());
        for item in Batches::new(&records) {
            let (header, batch) = item.expect("whole");
            while let Some((_, producer)) = begins.next_if(|(first, _)| *first < header.next_offset()) {
                open.push(producer);
            }
            if header.next_offset() <= before {
                continue;
            }
            at = header.next_offset();
            if header.is_control() {
                if let Ok(Control::End(EndMarker { commit: false, .. })) = read_control(&header, batch) {
                    open.retain(|producer| *producer != header.producer_id);
                }
                continue;
            }
            if header.is_transactional() && open.contains(&header.producer_id) {
                assert_eq!(isolation, 1, "only readers of committed data are told");
                continue;
            }
            let mut records = Records::new(&batch[highwater_wire::HEADER_BYTES..], header.record_count);
            while let Some(record) = records.next().expect("whole") {
                found.push(String::from_utf8_lossy(record.value.expect("value")).into_owned());
            }
        }
        // Nothing is answered for a moment while a part of the tier is on its way.
        assert!(tokio::time::Instant::now() < deadline, "stuck at {at} of {end}");
    }
}

/// Waits until a reader of committed data sees exactly this.
pub async fn until_seen(client: &mut Client, topic: &str, partition: i32, expected: &[&str]) {
    let deadline = tokio::time::Instant::now() + PATIENCE;
    loop {
        let found = seen(client, topic, partition, 1).await;
        let data = look(client, topic, partition, 0, 1).await;
        if found == expected && data.last_stable_offset == data.high_watermark {
            return;
        }
        assert!(tokio::time::Instant::now() < deadline, "{found:?} and not {expected:?}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

async fn latest(client: &mut Client, partition: i32, isolation: i8) -> i64 {
    let asked = list_offsets_request::ListOffsetsPartition::default()
        .with_partition_index(partition)
        .with_current_leader_epoch(-1)
        .with_timestamp(-1);
    let topic =
        list_offsets_request::ListOffsetsTopic::default().with_name(name("t")).with_partitions(vec![asked]);
    let request = ListOffsetsRequest::default()
        .with_replica_id(BrokerId(-1))
        .with_isolation_level(isolation)
        .with_topics(vec![topic]);
    let response: ListOffsetsResponse = client.call(api::LIST_OFFSETS, 7, &request).await;
    response.topics[0].partitions[0].offset
}

#[tokio::test]
async fn what_is_committed_is_seen_and_what_is_aborted_is_not() {
    let harness = harness().await;
    let mut reader = harness.client().await;
    for (rules, [p, q]) in [(Rules::New, [0, 1]), (Rules::Old, [2, 3])] {
        let mut txn = Txn::begin(&harness, &format!("id-{rules:?}"), rules).await;
        assert_eq!(txn.write("t", p, &[b"a", b"b"]).await, 0);
        txn.write("t", q, &[b"c"]).await;
        assert_eq!(seen(&mut reader, "t", p, 0).await, ["a", "b"], "uncommitted readers see it at once");
        assert!(seen(&mut reader, "t", p, 1).await.is_empty(), "open");
        assert_eq!((latest(&mut reader, p, 0).await, latest(&mut reader, p, 1).await), (2, 0));
        txn.end(true).await;
        until_seen(&mut reader, "t", p, &["a", "b"]).await;
        until_seen(&mut reader, "t", q, &["c"]).await;
        assert_eq!((latest(&mut reader, p, 0).await, latest(&mut reader, p, 1).await), (3, 3));
        txn.write("t", p, &[b"never"]).await;
        txn.end(false).await;
        until_seen(&mut reader, "t", p, &["a", "b"]).await;
        let all = seen(&mut reader, "t", p, 0).await;
        assert_eq!(all, ["a", "b", "never"], "aborted records stay for those who want them");
        // Others write meanwhile; their records wait for the open transaction before them.
        txn.write("t", p, &[b"d"]).await;
        reader.put("t", p, batch(&[b"plain"])).await;
        assert_eq!(seen(&mut reader, "t", p, 1).await, ["a", "b"]);
        txn.end(true).await;
        until_seen(&mut reader, "t", p, &["a", "b", "d", "plain"]).await;
    }
    harness.stop().await;
}

#[tokio::test]
async fn a_new_producer_fences_the_old_one_and_aborts_what_it_has_open() {
    let harness = harness().await;
    let mut reader = harness.client().await;
    for (rules, p) in [(Rules::New, 0), (Rules::Old, 1)] {
        let id = format!("id-{rules:?}");
        let mut old = Txn::begin(&harness, &id, rules).await;
        old.write("t", p, &[b"lost"]).await;
        let mut new = Txn::begin(&harness, &id, rules).await;
        assert!(new.producer > old.producer, "{:?} {:?}", new.producer, old.producer);
        assert_eq!(new.producer.0, old.producer.0);
        until_seen(&mut reader, "t", p, &[]).await;
        let late = old.produce("t", p, txn_batch(old.producer, 1, &[b"late"])).await;
        assert_eq!(late.error_code, INVALID_PRODUCER_EPOCH);
        assert_eq!(old.ask_end(true).await.0, PRODUCER_FENCED);
        assert_eq!(old.ask_end(false).await.0, PRODUCER_FENCED);
        new.write("t", p, &[b"kept"]).await;
        new.end(true).await;
        until_seen(&mut reader, "t", p, &["kept"]).await;
    }
    harness.stop().await;
}

#[tokio::test]
async fn a_transaction_that_takes_too_long_is_aborted() {
    let harness = harness().await;
    let mut reader = harness.client().await;
    let mut slow = Txn::with_timeout(&harness, "slow", Rules::New, 2_000).await;
    slow.write("t", 0, &[b"late"]).await;
    until_seen(&mut reader, "t", 0, &[]).await;
    assert_eq!(latest(&mut reader, 0, 1).await, 2, "a record and its marker");
    let (code, _) = slow.ask_end(true).await;
    assert!([PRODUCER_FENCED, INVALID_TXN_STATE].contains(&code), "{code}");
    let late = slow.produce("t", 0, txn_batch(slow.producer, 1, &[b"later"])).await;
    assert_eq!(late.error_code, INVALID_PRODUCER_EPOCH);
    harness.stop().await;
}

#[tokio::test]
async fn an_end_that_comes_twice_changes_nothing() {
    let harness = harness().await;
    let mut reader = harness.client().await;
    let mut txn = Txn::begin(&harness, "new", Rules::New).await;
    txn.write("t", 0, &[b"a"]).await;
    let before = txn.producer;
    txn.end(true).await;
    let after = txn.producer;
    until_seen(&mut reader, "t", 0, &["a"]).await;
    // The answer was lost: asked again under the old epoch.
    txn.producer = before;
    let deadline = tokio::time::Instant::now() + PATIENCE;
    let again = loop {
        match txn.ask_end(true).await {
            (CONCURRENT_TRANSACTIONS, _) => {
                assert!(tokio::time::Instant::now() < deadline, "never complete");
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
            answer => break answer,
        }
    };
    assert_eq!(again, (0, after));
    assert_eq!(txn.ask_end(false).await.0, INVALID_TXN_STATE, "it was committed");
    txn.producer = after;
    txn.write("t", 0, &[b"b"]).await;
    txn.producer = before;
    assert_eq!(txn.ask_end(true).await.0, PRODUCER_FENCED, "a late end does not end the next transaction");
    txn.producer = after;
    txn.end(true).await;
    until_seen(&mut reader, "t", 0, &["a", "b"]).await;
    let mut old = Txn::begin(&harness, "old", Rules::Old).await;
    old.write("t", 1, &[b"a"]).await;
    old.end(true).await;
    old.end(true).await;
    until_seen(&mut reader, "t", 1, &["a"]).await;
    assert_eq!(old.ask_end(false).await.0, INVALID_TXN_STATE);
    harness.stop().await;
}

#[tokio::test]
async fn a_late_batch_joins_no_other_transaction() {
    let harness = harness().await;
    let mut reader = harness.client().await;
    let mut txn = Txn::begin(&harness, "new", Rules::New).await;
    txn.write("t", 0, &[b"a"]).await;
    let before = txn.producer;
    txn.end(true).await;
    until_seen(&mut reader, "t", 0, &["a"]).await;
    let late = txn.produce("t", 0, txn_batch(before, 1, &[b"late"])).await;
    assert_eq!(late.error_code, INVALID_PRODUCER_EPOCH);
    // A first batch that is none: the one before it must have been lost.
    let gap = txn.produce("t", 0, txn_batch(txn.producer, 3, &[b"gap"])).await;
    assert_eq!(gap.error_code, 45, "OUT_OF_ORDER_SEQUENCE_NUMBER");
    txn.end(false).await;
    let mut old = Txn::begin(&harness, "old", Rules::Old).await;
    old.write("t", 1, &[b"a"]).await;
    old.end(true).await;
    until_seen(&mut reader, "t", 1, &["a"]).await;
    // The partition was not added to the transaction that this batch would begin.
    let late = old.produce("t", 1, txn_batch(old.producer, 1, &[b"late"])).await;
    assert_eq!(late.error_code, INVALID_TXN_STATE);
    until_seen(&mut reader, "t", 1, &["a"]).await;
    // A transactional batch needs the id of its transaction.
    let none = reader.produce(9, "t", 1, txn_batch(old.producer, 1, &[b"late"])).await;
    assert_eq!(none.error_code, 53, "TRANSACTIONAL_ID_AUTHORIZATION_FAILED");
    // Of another producer's transaction it is none either.
    let other = (old.producer.0 + 1_000, 0);
    let stray = old.produce("t", 1, txn_batch(other, 0, &[b"stray"])).await;
    assert_eq!(stray.error_code, 49, "INVALID_PRODUCER_ID_MAPPING");
    harness.stop().await;
}

#[tokio::test]
async fn transactions_go_on_after_a_restart() {
    let mut harness = harness().await;
    for rules in [Rules::New, Rules::Old] {
        let p = if rules == Rules::New { 0 } else { 1 };
        let mut open = Txn::begin(&harness, &format!("open-{rules:?}"), rules).await;
        open.write("t", p, &[b"a"]).await;
        let mut ended = Txn::begin(&harness, &format!("ended-{rules:?}"), rules).await;
        ended.write("t", p, &[b"b"]).await;
        // Its markers may or may not be written when the node stops.
        ended.end(true).await;
        harness = harness.stop().await.start().await;
        let mut reader = harness.client().await;
        assert!(seen(&mut reader, "t", p, 1).await.is_empty(), "the first one is open still");
        open.reconnect(&harness).await;
        init_is_loaded(&mut open).await;
        open.write("t", p, &[b"c"]).await;
        open.end(true).await;
        until_seen(&mut reader, "t", p, &["a", "b", "c"]).await;
    }
    harness.stop().await;
}

/// Nothing is answered, so what was refused is told by the end of the connection.
#[tokio::test]
async fn a_transaction_may_be_written_without_acknowledgements() {
    let harness = harness().await;
    until("all is led", || {
        harness.node.partitions.view().partitions().all(|partition| partition.terms().is_leader)
    })
    .await;
    for (rules, p) in [(Rules::New, 0), (Rules::Old, 1)] {
        let mut txn = Txn::begin(&harness, &format!("id-{rules:?}"), rules).await;
        if rules == Rules::Old {
            assert_eq!(txn.add("t", p).await, 0);
        }
        let version = txn.produce_version();
        for (sequence, value) in [(0, b"a"), (1, b"b")] {
            let batch = txn_batch(txn.producer, sequence, &[value]);
            let request = produce_request(0, "t", &[(p, batch)]);
            let request = request.with_transactional_id(Some(txn_id(&txn.id)));
            txn.client.send(api::PRODUCE, version, &request).await;
        }
        // The end's answer is the next on this connection, and comes after both.
        txn.end(true).await;
        let mut reader = harness.client().await;
        until_seen(&mut reader, "t", p, &["a", "b"]).await;
        let stale = txn_batch((txn.producer.0, 0), 7, &[b"stale"]);
        let request = produce_request(0, "t", &[(p, stale)]).with_transactional_id(Some(txn_id(&txn.id)));
        let mut doomed = harness.client().await;
        doomed.send(api::PRODUCE, version, &request).await;
        doomed.expect_closed().await;
        until_seen(&mut reader, "t", p, &["a", "b"]).await;
    }
    harness.stop().await;
}

/// The control plane may be away: what needs no producer id does not wait for one.
#[tokio::test]
async fn who_goes_on_asks_for_no_producer_ids() {
    let harness = harness().await;
    let mut txn = Txn::begin(&harness, "id", Rules::New).await;
    txn.write("t", 0, &[b"a"]).await;
    // None is at hand after a start.
    let harness = harness.stop().await.start().await;
    let handed_out = || harness.node.coordinator.with_state(|state| state.producer_ids_end);
    let before = handed_out();
    txn.reconnect(&harness).await;
    init_is_loaded(&mut txn).await;
    txn.end(true).await;
    let again = init(&mut txn.client, "id", 60_000).await;
    assert_eq!((again.0, handed_out()), (txn.producer.0, before));
    let other = init(&mut txn.client, "other", 60_000).await;
    assert!(other.0 >= before && handed_out() > before, "{other:?}: never used before");
    harness.stop().await;
}

/// The markers of one transaction are on their way while the next one begins: its first batches draw tickets
/// that those markers void.
#[tokio::test]
async fn transactions_follow_each_other_at_once() {
    let harness = harness().await;
    let mut txn = Txn::begin(&harness, "id", Rules::New).await;
    let mut expected = Vec::new();
    for round in 0..150 {
        let value = format!("{round}");
        for partition in 0..3 {
            // Whatever this is answered with, it is none that ends a client's transaction.
            txn.write("t", partition, &[value.as_bytes()]).await;
        }
        txn.end(round % 3 != 0).await;
        if round % 3 != 0 {
            expected.push(value);
        }
    }
    let expected: Vec<&str> = expected.iter().map(String::as_str).collect();
    let mut reader = harness.client().await;
    for partition in 0..3 {
        until_seen(&mut reader, "t", partition, &expected).await;
    }
    harness.stop().await;
}

/// Waits until the coordinator of the id is there again.
async fn init_is_loaded(txn: &mut Txn) {
    let deadline = tokio::time::Instant::now() + PATIENCE;
    loop {
        let request = DescribeTransactionsRequest::default().with_transactional_ids(vec![txn_id(&txn.id)]);
        let answer: DescribeTransactionsResponse =
            txn.client.call(api::DESCRIBE_TRANSACTIONS, 0, &request).await;
        if answer.transaction_states[0].error_code == 0 {
            return;
        }
        assert!(tokio::time::Instant::now() < deadline, "{answer:?}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test]
async fn objects_hold_committed_data_and_both_isolations_read_over_the_seam() {
    let harness = harness().await;
    harness.create_topic("small", 1, &[("segment.bytes", "65536")]).await;
    let mut reader = harness.client().await;
    let mut txn = Txn::begin(&harness, "id", Rules::New).await;
    let (kept, lost) = (vec![b'k'; 20_000], vec![b'x'; 20_000]);
    let partition =
        harness.node.partitions.view().by_name("small").expect("there").partitions().next().cloned();
    let partition = partition.expect("one");
    for round in 0..12 {
        let value = if round % 2 == 0 { &kept } else { &lost };
        txn.write("small", 0, &[value]).await;
        txn.end(round % 2 == 0).await;
    }
    // Whole segments of nothing but what is aborted.
    for _ in 0..8 {
        txn.write("small", 0, &[&lost]).await;
    }
    let open_at = partition.bounds().expect("serves").last_stable;
    until("what is sealed and decided is in the tier", || {
        harness.node.offloads.push(&partition);
        let view = partition.local_use();
        let sealed = view.bounds.tiered_end;
        sealed > 0 && sealed <= view.bounds.last_stable
    })
    .await;
    assert!(partition.manifest().tiered_end <= open_at, "nothing of an open transaction is in the tier");
    txn.end(false).await;
    txn.write("small", 0, &[b"last"]).await;
    txn.end(true).await;
    let kept = String::from_utf8(kept).expect("ASCII");
    let mut expected = vec![kept.as_str(); 6];
    expected.push("last");
    until_seen(&mut reader, "small", 0, &expected).await;
    harness.node.offload_now("small", PATIENCE).await.expect("offloaded");
    until_seen(&mut reader, "small", 0, &expected).await;
    harness.node.evict_now("small").await.expect("evicted");
    assert_eq!(seen(&mut reader, "small", 0, 1).await, expected, "from the tier");
    assert_eq!(seen(&mut reader, "small", 0, 0).await, expected, "aborted records end with the local log");
    txn.write("small", 0, &[b"gone"]).await;
    txn.end(false).await;
    txn.write("small", 0, &[b"more"]).await;
    txn.end(true).await;
    expected.push("more");
    until_seen(&mut reader, "small", 0, &expected).await;
    let uncommitted = seen(&mut reader, "small", 0, 0).await;
    assert_eq!(uncommitted[7..], ["gone", "more"]);
    harness.stop().await;
}

#[tokio::test]
async fn a_raft_topic_takes_transactions() {
    let harness = harness().await;
    harness.create_topic("raft", 1, &[("highwater.replication", "raft")]).await;
    until("it is led", || {
        harness.node.partitions.view().partitions().all(|partition| partition.terms().is_leader)
    })
    .await;
    let mut reader = harness.client().await;
    for rules in [Rules::New, Rules::Old] {
        let mut txn = Txn::begin(&harness, &format!("id-{rules:?}"), rules).await;
        txn.write("raft", 0, &[b"a"]).await;
        txn.end(true).await;
        txn.write("raft", 0, &[b"x"]).await;
        txn.end(false).await;
    }
    until_seen(&mut reader, "raft", 0, &["a", "a"]).await;
    assert_eq!(seen(&mut reader, "raft", 0, 0).await, ["a", "x", "a", "x"]);
    harness.stop().await;
}

fn offsets_request(txn: &Txn, group: &str, offset: i64) -> TxnOffsetCommitRequest {
    let partition = TxnOffsetCommitRequestPartition::default()
        .with_partition_index(0)
        .with_committed_offset(offset)
        .with_committed_leader_epoch(-1)
        .with_committed_metadata(Some(StrBytes::from_static_str("note")));
    let topic = TxnOffsetCommitRequestTopic::default().with_name(name("t")).with_partitions(vec![partition]);
    TxnOffsetCommitRequest::default()
        .with_transactional_id(txn_id(&txn.id))
        .with_group_id(GroupId(StrBytes::from_string(group.to_owned())))
        .with_producer_id(ProducerId(txn.producer.0))
        .with_producer_epoch(txn.producer.1)
        .with_generation_id(-1)
        .with_topics(vec![topic])
}

async fn commit_offset(txn: &mut Txn, group: &str, offset: i64) -> i16 {
    let request = offsets_request(txn, group, offset);
    let version = if txn.rules == Rules::New { 5 } else { 3 };
    let answer: TxnOffsetCommitResponse = txn.client.call(api::TXN_OFFSET_COMMIT, version, &request).await;
    answer.topics[0].partitions[0].error_code
}

#[tokio::test]
async fn offsets_of_a_group_count_with_the_transaction() {
    let harness = harness().await;
    let mut reader = harness.client().await;
    for rules in [Rules::New, Rules::Old] {
        let group = format!("group-{rules:?}");
        let mut txn = Txn::begin(&harness, &format!("id-{rules:?}"), rules).await;
        let find = FindCoordinatorRequest::default()
            .with_coordinator_keys(vec![StrBytes::from_string(group.clone())]);
        let _: FindCoordinatorResponse = reader.call(api::FIND_COORDINATOR, 6, &find).await;
        let mut last = -1;
        for (offset, commit) in [(5, true), (9, false), (11, true)] {
            let deadline = tokio::time::Instant::now() + PATIENCE;
            if rules == Rules::Old {
                let refused = commit_offset(&mut txn, &group, offset).await;
                assert!(is_passing(refused) || refused == INVALID_TXN_STATE, "not added: {refused}");
                let request = AddOffsetsToTxnRequest::default()
                    .with_transactional_id(txn_id(&txn.id))
                    .with_producer_id(ProducerId(txn.producer.0))
                    .with_producer_epoch(txn.producer.1)
                    .with_group_id(GroupId(StrBytes::from_string(group.clone())));
                loop {
                    let added: AddOffsetsToTxnResponse =
                        txn.client.call(api::ADD_OFFSETS_TO_TXN, 3, &request).await;
                    if added.error_code == 0 {
                        break;
                    }
                    assert!(is_passing(added.error_code), "{added:?}");
                    assert!(tokio::time::Instant::now() < deadline, "not added in time");
                    tokio::time::sleep(Duration::from_millis(5)).await;
                }
            }
            loop {
                let code = commit_offset(&mut txn, &group, offset).await;
                if code == 0 {
                    break;
                }
                assert!(is_passing(code), "{code}");
                assert!(tokio::time::Instant::now() < deadline, "not committed in time");
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
            assert_eq!(fetch_offset(&mut reader, 8, &group).await, (0, last), "not before the end");
            txn.end(commit).await;
            if commit {
                last = offset;
            }
            let deadline = tokio::time::Instant::now() + PATIENCE;
            while fetch_offset(&mut reader, 8, &group).await != (0, last) {
                assert!(tokio::time::Instant::now() < deadline, "the offset is not {last}");
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        }
        let mut fenced = Txn { client: harness.client().await, ..Txn::begin(&harness, &txn.id, rules).await };
        fenced.producer = txn.producer;
        let code = commit_offset(&mut fenced, &group, 99).await;
        assert!([INVALID_PRODUCER_EPOCH, TRANSACTION_ABORTABLE].contains(&code), "{code}");
    }
    // What was decided is so after a restart too.
    let harness = harness.stop().await.start().await;
    let mut reader = harness.client().await;
    let deadline = tokio::time::Instant::now() + PATIENCE;
    for group in ["group-New", "group-Old"] {
        while fetch_offset(&mut reader, 8, group).await != (0, 11) {
            assert!(tokio::time::Instant::now() < deadline, "{group}");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
    harness.stop().await;
}
