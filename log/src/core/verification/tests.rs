use highwater_wire::control::EndMarker;

use super::*;
use crate::core::producers::Sequenced;

fn header(producer_id: i64, epoch: i16, base_sequence: i32, attributes: i16) -> BatchHeader {
    BatchHeader {
        base_offset: 0,
        batch_length: 100,
        leader_epoch: 0,
        magic: 2,
        crc: 0,
        attributes,
        last_offset_delta: 0,
        base_timestamp: 0,
        max_timestamp: 77,
        producer_id,
        producer_epoch: epoch,
        base_sequence,
        record_count: 1,
    }
}

fn transactional(epoch: i16, sequence: i32) -> BatchHeader {
    header(7, epoch, sequence, 1 << 4)
}

#[derive(Default)]
struct Partition {
    table: ProducerTable,
    pending: Verifications,
    end: i64,
}

impl Partition {
    fn draw(&mut self, header: &BatchHeader) -> Option<VerificationTicket> {
        self.pending.draw(&self.table, header, false, self.end)
    }

    fn append(
        &mut self,
        header: &BatchHeader,
        ticket: Option<VerificationTicket>,
    ) -> Result<(), SequenceRefusal> {
        assert_eq!(self.table.check(header)?, Sequenced::New);
        self.pending.check(&self.table, header, ticket)?;
        self.table.apply(header, None, self.end, 0);
        self.pending.appended(header.producer_id);
        self.end += 1;
        Ok(())
    }

    fn end(&mut self, epoch: i16) {
        let marker = EndMarker { commit: true, coordinator_epoch: 0 };
        self.table.apply(&header(7, epoch, -1, 3 << 4), Some(marker), self.end, 0);
        self.pending.appended(7);
        self.end += 1;
    }
}

#[test]
fn a_transaction_begins_only_with_a_ticket_and_goes_on_without() {
    let mut p = Partition::default();
    let first = transactional(0, 0);
    assert_eq!(p.append(&first, None), Err(SequenceRefusal::Unverified(7)));
    let ticket = p.draw(&first);
    assert_eq!(p.append(&first, ticket), Ok(()));
    let second = transactional(0, 1);
    assert_eq!(p.draw(&second), None, "its transaction is open here");
    assert_eq!(p.append(&second, None), Ok(()));
    assert_eq!(p.draw(&header(8, 0, 0, 0)), None, "in no transaction");
    assert_eq!(p.append(&header(8, 0, 0, 0), None), Ok(()));
}

#[test]
fn a_marker_voids_the_ticket() {
    let mut p = Partition::default();
    let late = transactional(0, 0);
    let ticket = p.draw(&late);
    // The coordinator says yes; before the batch is appended the transaction is aborted.
    p.end(0);
    assert_eq!(p.append(&late, ticket), Err(SequenceRefusal::Unverified(7)));
    let again = p.draw(&late);
    assert!(again.is_some() && again != ticket);
    assert_eq!(p.append(&late, ticket), Err(SequenceRefusal::Unverified(7)), "the old one stays void");
    assert_eq!(p.append(&late, again), Ok(()));
}

#[test]
fn batches_that_wait_together_keep_their_order() {
    let mut p = Partition::default();
    let (first, second) = (transactional(0, 0), transactional(0, 1));
    let (later, sooner) = (p.draw(&second), p.draw(&first));
    assert_eq!(later, sooner, "one question for both");
    let expected = SequenceRefusal::OutOfOrder { producer_id: 7, given: 1, expected: 0 };
    // Without state any sequence may come first; the one that waits knows better.
    assert_eq!(p.append(&second, later), Err(expected));
    assert_eq!(p.append(&first, sooner), Ok(()));
    assert_eq!(p.append(&second, later), Ok(()));
}

#[test]
fn a_newer_epoch_takes_over_and_an_older_one_gets_nothing() {
    let mut p = Partition::default();
    let (old, new) = (transactional(0, 0), transactional(1, 0));
    let before = p.draw(&old);
    let after = p.draw(&new);
    assert!(before != after);
    assert_eq!(p.append(&old, before), Err(SequenceRefusal::Unverified(7)));
    let late = p.draw(&old);
    assert_eq!(p.append(&old, late), Err(SequenceRefusal::Unverified(7)));
    assert_eq!(p.append(&new, after), Ok(()));
}

#[test]
fn with_an_epoch_per_transaction_sequences_begin_at_zero() {
    let mut p = Partition::default();
    let lost = transactional(3, 5);
    let ticket = p.pending.draw(&p.table, &lost, true, 0);
    let expected = SequenceRefusal::OutOfOrder { producer_id: 7, given: 5, expected: 0 };
    assert_eq!(p.append(&lost, ticket), Err(expected));
    let first = transactional(3, 0);
    let ticket = p.pending.draw(&p.table, &first, true, 0);
    assert_eq!(p.append(&first, ticket), Ok(()));
}

#[test]
fn tickets_expire_are_voided_and_bounded() {
    let mut p = Partition::default();
    let batch = transactional(0, 0);
    let ticket = p.draw(&batch);
    p.pending.expire(999, 1_000);
    assert_eq!(p.pending.check(&p.table, &batch, ticket), Ok(()));
    p.pending.expire(1_000, 1_000);
    assert_eq!(p.append(&batch, ticket), Err(SequenceRefusal::Unverified(7)));
    let ticket = p.draw(&batch);
    p.pending.clear();
    assert_eq!(p.append(&batch, ticket), Err(SequenceRefusal::Unverified(7)), "no longer the leader");
    for id in 0..2 * TXN_VERIFICATIONS_PER_PARTITION_MAX as i64 {
        p.pending.draw(&p.table, &header(id, 0, 0, 1 << 4), false, id);
    }
    assert!(p.pending.pending.len() <= TXN_VERIFICATIONS_PER_PARTITION_MAX);
    let newest = 2 * TXN_VERIFICATIONS_PER_PARTITION_MAX as i64 - 1;
    assert!(p.pending.pending.contains_key(&newest), "the newest stays");
}

/// What a coordinator writes for a producer, such as the offsets of a group, has no sequences; its epoch and
/// its transaction are judged as a client's.
#[test]
fn batches_without_sequences_are_verified_too() {
    let mut at = Partition::default();
    let offsets = transactional(3, -1);
    let unverified = Err(SequenceRefusal::Unverified(7));
    assert_eq!(at.table.check_unsequenced(&offsets), Ok(()));
    assert_eq!(at.pending.check(&at.table, &offsets, None), unverified);
    let ticket = at.draw(&offsets);
    assert!(ticket.is_some());
    assert_eq!(at.pending.check(&at.table, &offsets, ticket), Ok(()));
    for _ in 0..2 {
        // Another one joins what is open, without a question; none is a duplicate.
        assert_eq!(at.table.check_unsequenced(&offsets), Ok(()));
        at.table.apply(&offsets, None, at.end, 0);
        at.pending.appended(7);
        at.end += 1;
        assert_eq!(at.draw(&offsets), None);
    }
    let plain = header(7, 3, -1, 0);
    assert_eq!(at.table.check_unsequenced(&plain), Err(SequenceRefusal::NotTransactional(7)));
    let newer = at.table.check_unsequenced(&transactional(4, -1));
    assert_eq!(newer, Err(SequenceRefusal::StillOpen { producer_id: 7, open: 3 }));
    at.end(4);
    let stale = at.table.check_unsequenced(&offsets);
    assert_eq!(stale, Err(SequenceRefusal::StaleEpoch { producer_id: 7, given: 3, current: 4 }));
    assert_eq!(at.pending.check(&at.table, &transactional(4, -1), ticket), unverified);
}
