use std::io::IoSlice;

use highwater_log::Beginning;
use highwater_log::disk::Disk;
use highwater_wire::{EndMarker, marker_batch};

use super::*;

fn replica(node_id: NodeId) -> ReplicaLog {
    ReplicaLog::new(node_id, open(&SimDisk::new()), TierEnd::default())
}

/// Three replicas, the first leads in epoch 0.
fn three() -> [ReplicaLog; 3] {
    let mut replicas = [1, 2, 3].map(replica);
    lead(&mut replicas, 1, 0);
    replicas
}

fn lead(replicas: &mut [ReplicaLog], leader: NodeId, epoch: i32) {
    for replica in replicas {
        replica.set_assignment(NOW, &assignment(leader, epoch, &[1, 2, 3]));
    }
}

fn append(replica: &mut ReplicaLog, producer: i64, sequence: i32) -> LeaderAppended {
    let (header, bytes) = batch(producer, sequence, 2);
    replica.append_as_leader(&header, &bytes, true, NOW).expect("appends")
}

#[test]
fn an_acknowledgement_waits_for_every_replica_in_sync() {
    let [mut one, mut two, mut three] = three();
    let ticket = append(&mut one, 7, 0).ticket;
    assert_eq!(one.ack(&ticket), AckState::Waiting);
    catch_up(&mut one, &mut two, 0);
    assert_eq!(one.ack(&ticket), AckState::Waiting);
    exchange(&mut one, &mut three, 0);
    assert_eq!(one.ack(&ticket), AckState::Waiting, "sent, and not yet told that it was written");
    exchange(&mut one, &mut three, 0);
    assert_eq!(one.ack(&ticket), AckState::Committed);
    assert_eq!((one.readable_end(), three.readable_end()), (2, 2));
    assert_eq!(two.readable_end(), 0, "it hears of it with its next fetch");
    assert!(one.has_news_for(&two.next_fetch(1).expect("follows")));
    exchange(&mut one, &mut two, 0);
    assert_eq!(two.readable_end(), 2);
    assert!(!one.has_news_for(&two.next_fetch(1).expect("follows")), "an idle partition is silent");
    assert_eq!(stored(two.log()), stored(one.log()));
}

#[test]
fn where_batches_count_on_the_disk_each_replica_tells_what_it_has_flushed() {
    let [mut one, mut two, mut three] = three();
    for replica in [&mut one, &mut two, &mut three] {
        let terms = Assignment { flush_before_ack: true, partition_epoch: 1, ..assignment(1, 0, &[1, 2, 3]) };
        replica.set_assignment(NOW, &terms);
    }
    let ticket = append(&mut one, 7, 0).ticket;
    catch_up(&mut one, &mut two, 0);
    catch_up(&mut one, &mut three, 0);
    flush(&mut one);
    flush(&mut three);
    exchange(&mut one, &mut two, 0);
    exchange(&mut one, &mut three, 0);
    assert_eq!(one.ack(&ticket), AckState::Waiting, "one replica has not flushed");
    flush(&mut two);
    assert_eq!(one.ack(&ticket), AckState::Waiting, "nor said so");
    exchange(&mut one, &mut two, 0);
    assert_eq!(one.ack(&ticket), AckState::Committed);
}

#[test]
fn a_deposed_leaders_tail_is_cut_where_the_epochs_part() {
    let [mut one, mut two, mut three] = three();
    for n in 0..10 {
        append(&mut one, 7, n * 2);
    }
    catch_up(&mut one, &mut two, 0);
    catch_up(&mut one, &mut three, 0);
    let lost = append(&mut one, 8, 0).ticket;
    append(&mut one, 8, 2);
    lead(std::slice::from_mut(&mut two), 2, 1);
    let fetch = three.next_fetch(1).expect("still follows the first");
    assert!(one.serve_fetch(NOW, &fetch, 0, 1).into_answer().is_ok(), "the old leader does not know yet");
    let won = append(&mut two, 9, 0);
    lead(std::slice::from_mut(&mut one), 2, 1);
    lead(std::slice::from_mut(&mut three), 2, 1);
    assert_eq!(one.ack(&lost), AckState::NotLeader);
    let (header, bytes) = batch(8, 4, 2);
    let refused = one.append_as_leader(&header, &bytes, false, NOW);
    assert!(matches!(refused, Err(AppendRefusal::Leader(LeaderRefusal::NotLeader))), "{refused:?}");
    let cut = exchange(&mut two, &mut one, 0).truncated.expect("the logs part");
    assert_eq!((cut.from, cut.to, cut.is_below_high_watermark), (24, 20, false));
    catch_up(&mut two, &mut one, 0);
    catch_up(&mut two, &mut three, 0);
    assert_eq!(two.ack(&won.ticket), AckState::Committed);
    assert_eq!(stored(one.log()), stored(two.log()));
    assert_eq!(one.log().producers(), two.log().producers(), "the lost batches are forgotten");
    assert_eq!(one.log().epochs(), two.log().epochs());
}

/// What `Partition::append_marker` asks of the log: a commit of a transaction that has this epoch's batches.
fn append_marker(replica: &mut ReplicaLog, producer: i64, epoch: i16) -> LeaderAppended {
    let end = EndMarker { commit: true, coordinator_epoch: 0 };
    let bytes = marker_batch(producer, epoch + 1, end, NOW);
    let header = BatchHeader::parse(&bytes).expect("built whole");
    let origin = Origin::Marker { end, bumps_epoch: true };
    replica.append_from(&header, &bytes, origin, true, NOW).expect("taken")
}

/// A marker that its coordinator sends again must not count as written while it could be lost: the
/// transaction would be complete for the coordinator, and open for ever here.
#[test]
fn a_marker_that_comes_again_is_no_safer_than_the_first() {
    let [mut one, mut two, mut three] = three();
    append(&mut one, 7, 0);
    catch_up(&mut one, &mut two, 0);
    catch_up(&mut one, &mut three, 0);
    let first = append_marker(&mut one, 7, 0);
    let again = append_marker(&mut one, 7, 0);
    assert_eq!((first.duplicate_of.is_some(), again.duplicate_of.is_some()), (false, true));
    assert_eq!((again.ticket.end, one.log().log_end()), (first.ticket.end, first.ticket.end));
    assert_eq!([one.ack(&first.ticket), one.ack(&again.ticket)], [AckState::Waiting; 2]);
    // It is lost with its leader.
    lead(std::slice::from_mut(&mut two), 2, 1);
    lead(std::slice::from_mut(&mut three), 2, 1);
    lead(std::slice::from_mut(&mut one), 2, 1);
    assert_eq!([one.ack(&first.ticket), one.ack(&again.ticket)], [AckState::NotLeader; 2]);
    let written = append_marker(&mut two, 7, 0);
    assert!(written.duplicate_of.is_none(), "the new leader never had it");
    catch_up(&mut two, &mut one, 0);
    catch_up(&mut two, &mut three, 0);
    let known = append_marker(&mut two, 7, 0);
    assert!(known.duplicate_of.is_some());
    assert_eq!([two.ack(&written.ticket), two.ack(&known.ticket)], [AckState::Committed; 2]);
}

/// The new leader has written nothing in its epoch, and the other's tail is of an epoch that it never saw.
#[test]
fn a_tail_of_an_unknown_epoch_is_cut_before_the_new_leader_writes() {
    let [mut one, mut two, mut three] = three();
    append(&mut one, 7, 0);
    catch_up(&mut one, &mut two, 0);
    catch_up(&mut one, &mut three, 0);
    lead(std::slice::from_mut(&mut three), 3, 1);
    append(&mut three, 8, 0);
    for replica in [&mut one, &mut two, &mut three] {
        replica.set_assignment(NOW, &assignment(2, 2, &[1, 2, 3]));
    }
    assert_eq!(two.epoch_end(1), Some((0, 2)), "epoch 1 wrote nothing that it knows");
    let cut = exchange(&mut two, &mut three, 0).truncated.expect("the logs part");
    assert_eq!((cut.from, cut.to), (4, 2));
    catch_up(&mut two, &mut three, 0);
    assert_eq!(stored(three.log()), stored(two.log()));
}

#[test]
fn a_batch_sent_again_after_a_failover_is_found_in_the_log() {
    let [mut one, mut two, mut three] = three();
    for n in 0..6 {
        append(&mut one, 7, n * 2);
    }
    catch_up(&mut one, &mut two, 0);
    catch_up(&mut one, &mut three, 0);
    let mut replicas = [one, two, three];
    lead(&mut replicas, 2, 1);
    let [_, two, _] = &mut replicas;
    let again = append(two, 7, 10);
    assert_eq!((again.base_offset, again.duplicate_of), (10, Some(NOW)));
    assert_eq!(two.ack(&again.ticket), AckState::Waiting, "it has to be committed under this leader");
    assert_eq!(append(two, 7, 12).base_offset, 12);
    let (header, bytes) = batch(7, 20, 2);
    let refused = two.append_as_leader(&header, &bytes, true, NOW);
    assert!(matches!(refused, Err(AppendRefusal::Sequence(_))), "{refused:?}");
}

/// Its acknowledgement hung at a leader that was cut off, while the client went on at the next one.
#[test]
fn a_batch_sent_again_after_many_others_is_a_duplicate_once_it_is_committed() {
    let [mut one, mut two, mut three] = three();
    let first = append(&mut one, 7, 0).ticket;
    catch_up(&mut one, &mut two, 0);
    catch_up(&mut one, &mut three, 0);
    let mut replicas = [one, two, three];
    lead(&mut replicas, 2, 1);
    let [one, two, three] = &mut replicas;
    for n in 1..7 {
        append(two, 7, n * 2);
    }
    let again = |leader: &mut ReplicaLog, sequence| {
        let (header, bytes) = batch(7, sequence, 2);
        match leader.append_as_leader(&header, &bytes, true, NOW) {
            Err(AppendRefusal::Sequence(refusal)) => refusal.error_code(),
            other => panic!("{other:?}"),
        }
    };
    let before = two.log().log_end();
    catch_up(two, one, 0);
    assert_eq!((again(two, 0), two.high_watermark()), (20, 0), "an acknowledged batch could be lost");
    catch_up(two, three, 0);
    exchange(two, three, 0);
    assert!(two.high_watermark() >= first.end);
    assert_eq!(again(two, 0), 46);
    assert_eq!(again(two, 20), 45, "a gap is a gap");
    assert_eq!(two.log().log_end(), before, "nothing is written twice");
}

#[test]
fn late_answers_change_nothing() {
    let [mut one, mut two, mut three] = three();
    append(&mut one, 7, 0);
    let fetch = two.next_fetch(1).expect("follows");
    let answer = one.serve_fetch(NOW, &fetch, 0, 400).into_answer().expect("reads");
    assert!(!two.take_answer(NOW, &answer).expect("takes").is_stale);
    let again = two.take_answer(NOW, &answer).expect("is nothing");
    assert!(again.is_stale && again.appended_batches == 0);
    let fetch = two.next_fetch(1).expect("follows");
    let answer = one.serve_fetch(NOW, &fetch, 0, 400).into_answer().expect("reads");
    lead(std::slice::from_mut(&mut two), 3, 1);
    assert!(two.take_answer(NOW, &answer).expect("is nothing").is_stale, "of the leader before");
    lead(std::slice::from_mut(&mut three), 3, 1);
    let refused = three.serve_fetch(NOW, &fetch, 0, 400).content;
    let fenced = LeaderRefusal::FencedEpoch { given: 0, current: 1 };
    assert!(matches!(refused, ServedContent::Other(AnswerContent::Refused(r)) if r == fenced), "{refused:?}");
}

#[test]
fn what_a_peer_sends_is_checked() {
    let [mut one, mut two, _] = three();
    append(&mut one, 7, 0);
    append(&mut one, 7, 2);
    let fetch = two.next_fetch(1).expect("follows");
    let sound = one.serve_fetch(NOW, &fetch, 0, 4_000).into_answer().expect("reads");
    let AnswerContent::Records(bytes) = &sound.content else { panic!("{sound:?}") };
    let with = |change: &dyn Fn(&mut Vec<u8>)| {
        let mut bytes = bytes.to_vec();
        change(&mut bytes);
        FetchAnswer { content: AnswerContent::Records(bytes.into()), ..sound.clone() }
    };
    for (at, bit) in [(3, 1), (7, 1), (15, 4), (16, 2), (20, 1), (70, 8)] {
        let answer = with(&|bytes| bytes[at] ^= bit);
        two.take_answer(NOW, &answer).expect_err("a flipped bit");
        assert_eq!((two.log().log_end(), two.log().refusal()), (0, None), "bit of byte {at}");
    }
    two.take_answer(NOW, &with(&|bytes| bytes.truncate(bytes.len() - 1))).expect_err("cut short");
    assert_eq!(two.log().log_end(), 2, "the whole batch before is kept");
    let diverging = AnswerContent::Diverging { epoch: 0, end_offset: 9 };
    let fetch = two.next_fetch(1).expect("follows");
    let lie = FetchAnswer { position: fetch.position, content: diverging, ..sound.clone() };
    two.take_answer(NOW, &lie).expect_err("says nothing");
    assert_eq!(two.log().log_end(), 2);
    catch_up(&mut one, &mut two, 0);
    assert_eq!(stored(one.log()), stored(two.log()));
}

#[test]
fn a_new_replica_begins_where_the_tier_ends() {
    let [mut one, mut two, mut three] = three();
    for n in 0..60 {
        append(&mut one, 7, n * 2);
    }
    catch_up(&mut one, &mut two, 0);
    catch_up(&mut one, &mut three, 0);
    let tiered_end = one.log().sealed()[1].end;
    let mut fresh = replica(3);
    fresh.set_assignment(NOW, &assignment(1, 0, &[1, 2]));
    let began = exchange(&mut one, &mut fresh, tiered_end);
    assert_eq!((began.began_at, fresh.high_watermark()), (Some(tiered_end), tiered_end));
    assert!(!fresh.next_fetch(1).expect("follows").needs_beginning);
    catch_up(&mut one, &mut fresh, tiered_end);
    let all = stored(one.log());
    let tail: Vec<_> = all.iter().filter(|(h, _)| h.base_offset >= tiered_end).cloned().collect();
    assert_eq!(stored(fresh.log()), tail);
    assert_eq!(fresh.log().producers(), one.log().producers());
    assert_eq!(fresh.log().epochs(), one.log().epochs());
    assert_eq!(fresh.high_watermark(), 120);
    // One that has something goes on from there, as long as the leader has it.
    let mut behind = replica(3);
    behind.set_assignment(NOW, &assignment(1, 0, &[1, 2]));
    exchange(&mut one, &mut behind, 0);
    let end = behind.log().log_end();
    assert!(end > 0);
    let taken = exchange(&mut one, &mut behind, tiered_end);
    assert!(taken.began_at.is_none() && taken.appended_batches > 0);
    drop(one.log_mut().evict_below(tiered_end).expect("evicts"));
    assert_eq!(exchange(&mut one, &mut behind, tiered_end).began_at, Some(tiered_end));
    catch_up(&mut one, &mut behind, tiered_end);
    assert_eq!(stored(behind.log()), tail);
}

/// A log that was begun anew when its node opened it (its disk was lost) knows neither epochs nor producers.
#[test]
fn a_log_that_knows_nothing_is_told_where_to_begin() {
    let [mut one, mut two, mut three] = three();
    for n in 0..60 {
        append(&mut one, 7, n * 2);
    }
    catch_up(&mut one, &mut two, 0);
    catch_up(&mut one, &mut three, 0);
    let tiered_end = one.log().active_start();
    let mut log = open(&SimDisk::new());
    log.reset_to(tiered_end).expect("begins");
    let mut fresh = ReplicaLog::new(3, log, TierEnd { offset: tiered_end, epoch: Some(0) });
    fresh.set_assignment(NOW, &assignment(1, 0, &[1, 2]));
    assert!(fresh.next_fetch(1).expect("follows").needs_beginning);
    assert_eq!(exchange(&mut one, &mut fresh, tiered_end).began_at, Some(tiered_end));
    assert_eq!(fresh.log().latest_epoch(), Some(0));
    catch_up(&mut one, &mut fresh, tiered_end);
    assert_eq!(fresh.log().producers(), one.log().producers());
}

/// Retention or DeleteRecords may have moved the log start into a segment.
#[test]
fn a_replica_begins_below_a_log_start_within_a_segment() {
    let [mut one, mut two, mut three] = three();
    for n in 0..60 {
        append(&mut one, 7, n * 2);
    }
    catch_up(&mut one, &mut two, 0);
    catch_up(&mut one, &mut three, 0);
    let start = one.log().sealed()[2].start;
    one.log_mut().raise_log_start(start + 3).expect("raises");
    let mut fresh = replica(3);
    fresh.set_assignment(NOW, &assignment(1, 0, &[1, 2]));
    assert_eq!(exchange(&mut one, &mut fresh, 0).began_at, Some(start));
    catch_up(&mut one, &mut fresh, 0);
    assert_eq!(fresh.log().log_start(), start + 3);
    assert_eq!(fresh.log().log_end(), 120);
    assert_eq!(fresh.high_watermark(), 120);
}

#[test]
fn damage_is_replaced_by_a_leader_that_has_committed_it() {
    let [mut one, mut two, mut three] = three();
    for n in 0..60 {
        append(&mut one, 7, n * 2);
    }
    catch_up(&mut one, &mut two, 0);
    catch_up(&mut one, &mut three, 0);
    let disk = SimDisk::new();
    let mut log = open(&disk);
    for (header, bytes) in stored(one.log()) {
        log.append_replicated(&header, &bytes, NOW).expect("follows");
    }
    let done = log.flush_ticket().run().expect("syncs");
    log.flushed(done);
    let start = log.sealed()[1].start;
    let file = disk.open(&format!("{start:020}.log")).expect("a sealed segment");
    file.write_at(&[IoSlice::new(&[0xff; 40])], 300).expect("writes");
    disk.remove("checkpoint").expect("else it would be believed");
    let log = open(&disk);
    assert!(log.damaged_below().is_some());
    let mut damaged = ReplicaLog::new(3, log, TierEnd::default());
    damaged.set_assignment(NOW, &assignment(1, 0, &[1, 2, 3]));
    let refused = FetchAnswer {
        position: damaged.next_fetch(1).expect("follows").position,
        high_watermark: 119,
        log_start: 0,
        content: AnswerContent::Begin(Beginning::default()),
    };
    damaged
        .take_answer(NOW, &refused)
        .expect_err("it is counted on, and the leader has not committed it all");
    let next = Assignment { partition_epoch: 1, ..assignment(1, 0, &[1, 2]) };
    for replica in [&mut one, &mut two, &mut damaged] {
        replica.set_assignment(NOW, &next);
    }
    let taken = exchange(&mut one, &mut damaged, 0);
    assert!(taken.damage_cut && taken.appended_batches > 0, "{taken:?}");
    catch_up(&mut one, &mut damaged, 0);
    assert_eq!(stored(damaged.log()), stored(one.log()));
}

/// What is lost here, a follower may have: compared with what is left it would cut that off.
#[test]
fn a_leader_that_has_lost_something_cuts_nobody_and_drops_nobody() {
    let [mut one, mut two, mut three] = three();
    for n in 0..60 {
        append(&mut one, 7, n * 2);
    }
    catch_up(&mut one, &mut two, 0);
    catch_up(&mut one, &mut three, 0);
    let disk = SimDisk::new();
    let mut log = open(&disk);
    for (header, bytes) in stored(one.log()) {
        log.append_replicated(&header, &bytes, NOW).expect("follows");
    }
    let done = log.flush_ticket().run().expect("syncs");
    log.flushed(done);
    let start = log.sealed()[1].start;
    let file = disk.open(&format!("{start:020}.log")).expect("a sealed segment");
    file.write_at(&[IoSlice::new(&[0xff; 40])], 300).expect("writes");
    disk.remove("checkpoint").expect("else it would be believed");
    let mut damaged = ReplicaLog::new(1, open(&disk), TierEnd::default());
    damaged.set_assignment(NOW, &assignment(1, 1, &[1, 2, 3]));
    assert!(damaged.has_lost() && damaged.log().log_end() < two.log().log_end());
    for follower in [&mut two, &mut three] {
        follower.set_assignment(NOW, &assignment(1, 1, &[1, 2, 3]));
        let end = follower.log().log_end();
        let fetch = follower.next_fetch(1).expect("follows");
        let served = damaged.serve_fetch(NOW, &fetch, 0, 400).into_answer().expect("reads");
        assert_eq!(served.content, AnswerContent::Refused(LeaderRefusal::NotLeader));
        follower.take_answer(NOW, &served).expect_err("refused");
        assert_eq!(follower.log().log_end(), end, "nothing is cut");
    }
    // However long it takes, it drops nobody: they may have everything.
    for later in 1..10 {
        assert_eq!(damaged.tick(NOW + later * LAG_MS).propose, None);
    }
    let (header, bytes) = batch(8, 0, 1);
    damaged.append_as_leader(&header, &bytes, false, NOW).expect_err("takes nothing");
    // Another leads: what was lost comes back from it.
    two.set_assignment(NOW, &assignment(2, 2, &[2, 3]));
    three.set_assignment(NOW, &assignment(2, 2, &[2, 3]));
    damaged.set_assignment(NOW, &assignment(2, 2, &[2, 3]));
    catch_up(&mut two, &mut three, 0);
    catch_up(&mut two, &mut damaged, 0);
    assert!(!damaged.has_lost());
    assert_eq!(stored(damaged.log()), stored(two.log()));
}

/// A node that comes back with records of its own below the tier's end takes them for committed only if they
/// are the tier's.
#[test]
fn what_the_tier_has_from_another_leader_is_not_committed_here() {
    let [mut one, mut two, mut three] = three();
    for n in 0..3 {
        append(&mut one, 7, 2 * n);
    }
    let disk = SimDisk::new();
    let mut log = open(&disk);
    for (header, bytes) in stored(one.log()) {
        log.append_replicated(&header, &bytes, NOW).expect("follows");
    }
    let tier = |offset, epoch| TierEnd { offset, epoch: Some(epoch) };
    let lost = ReplicaLog::new(3, log, tier(4, 1));
    assert_eq!((lost.high_watermark(), lost.agrees_with(tier(4, 1))), (0, false));
    let same = ReplicaLog::new(3, open(&disk.kill()), tier(4, 0));
    assert_eq!((same.high_watermark(), same.agrees_with(tier(4, 0))), (4, true));
    catch_up(&mut one, &mut two, 0);
    catch_up(&mut one, &mut three, 0);
    assert!(two.agrees_with(tier(6, 0)) && !two.agrees_with(tier(7, 0)));
}
