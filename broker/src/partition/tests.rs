//! A partition over a simulated disk: what its watermark, waiters and bounds do when the disk fails.

use highwater_log::LogSettings;
use highwater_log::disk::{Fault, SimDisk};
use highwater_model::TopicId;
use highwater_tiering::core::manifest::{Edit, EditRequest, ObjectEntry};
use highwater_wire::{BatchBuilder, BatchHeader, Codec, EndMarker};
use uuid::Uuid;

use super::*;
use crate::core::fetch_plan::Grant;
use crate::core::fetch_session::Want;
use crate::core::replica::{LeaderRefusal, Member};
use crate::replica::{AnswerContent, AppendRefusal as AppendRefused, TakeError};

fn open(disk: &SimDisk, flush_messages: &str, manifest: Manifest) -> Arc<Partition> {
    let overrides = [("flush.messages".to_owned(), flush_messages.to_owned())].into();
    let config = Arc::new(TopicConfig::from_overrides(&overrides).expect("legal"));
    let (log, _) = PartitionLog::open_on(Arc::new(disk.clone()), LogSettings::default(), 0).expect("opened");
    let tp = TopicPartition::new(TopicId(Uuid::from_u128(1)), 0);
    let assignment = alone(0, &config);
    Arc::new(Partition::new(tp, "t".into(), config, log, Arc::new(manifest), (NODE, &assignment), 0))
}

const NODE: NodeId = 1;

/// This node is the only replica.
fn alone(partition_epoch: i32, config: &TopicConfig) -> Assignment {
    Assignment {
        leader: Some(NODE),
        leader_epoch: 0,
        partition_epoch,
        replicas: vec![Member { node_id: NODE, broker_epoch: 1, may_join: true }],
        isr: vec![NODE],
        min_isr: 1,
        flush_before_ack: config.flush_messages == 1,
        lag_ms_max: 10_000,
    }
}

/// What `Partition::append` does to the log, without a node.
fn append(partition: &Partition) -> Result<AckWait, AppendRefused> {
    let mut builder = BatchBuilder::new(Codec::None);
    builder.push(1, None, Some(b"value"), &[]);
    let bytes = builder.build();
    let header = BatchHeader::parse(&bytes).expect("built");
    let mut inner = partition.lock_any();
    let appended = inner.replica.append_as_leader(&header, &bytes, true, 0)?;
    partition.take_moves(&mut inner, &appended.moves);
    drop(inner);
    partition.tell(&appended.moves);
    Ok(AckWait { ticket: appended.ticket, needs_all: true })
}

#[test]
fn a_log_start_that_the_disk_refused_follows_later() {
    let disk = SimDisk::new();
    let partition = open(&disk, "9223372036854775807", Manifest::new(0));
    for _ in 0..3 {
        append(&partition).expect("appended");
    }
    let manifest = Manifest::new(0);
    let edit = Edit::Prune { log_start: 2, head: vec![] };
    let request = EditRequest { expected_version: manifest.version, leader_epoch: 0, edit };
    partition.set_manifest(Arc::new(manifest.edited(0, &request).expect("accepted")));
    disk.inject(Fault::WriteFails(std::io::ErrorKind::Other));
    partition.raise_log_start(2).expect_err("the disk refuses");
    assert_eq!(partition.lock_any().log().log_start(), 0);
    partition.follow_log_start().expect("the disk is back");
    assert_eq!(partition.lock_any().log().log_start(), 2);
    assert_eq!(partition.bounds().expect("serves").log_start, 2);
}

fn want(offset: Offset) -> Want {
    Want { fetch_offset: offset, bytes_max: 1_000, current_leader_epoch: -1, last_fetched_epoch: -1 }
}

#[tokio::test]
async fn a_batch_counts_once_it_is_on_the_disk() {
    let partition = open(&SimDisk::new(), "1", Manifest::new(0));
    let wait = append(&partition).expect("appended");
    assert_eq!(partition.high_watermark(), 0);
    let grant = Some(Grant { bytes: 1_000, is_first: true });
    let (look, bounds) = partition.look(&want(0), grant, true).expect("serves");
    assert!(matches!(look, Look::Empty) && bounds.log_end == 1, "not readable yet: {look:?}");
    let waiter = FetchWaiter::default();
    assert!(partition.wait_for_data(&waiter));
    let acknowledged = tokio::spawn({
        let partition = partition.clone();
        async move { partition.wait_acked(&wait).await }
    });
    let ticket = partition.draw_flush(false).expect("something to flush");
    partition.flush_ended(0, ticket.run());
    waiter.notified().await;
    acknowledged.await.expect("ran").expect("durable");
    assert_eq!(partition.high_watermark(), 1);
    assert!(partition.draw_flush(false).is_none(), "nothing is left");
}

#[test]
fn a_flush_counts_though_the_settings_changed_since_the_append() {
    let partition = open(&SimDisk::new(), "1", Manifest::new(0));
    let end = append(&partition).expect("appended").ticket.end;
    let config = Arc::new(TopicConfig::default());
    let ticket = partition.draw_flush(false).expect("work");
    partition.take_assignment(0, &config, &alone(1, &config));
    assert!(!partition.terms().flushes_before_ack());
    assert_eq!(partition.high_watermark(), end, "what is appended counts now");
    partition.flush_ended(0, ticket.run());
    assert_eq!((partition.high_watermark(), partition.flushed_end()), (end, end));
}

#[tokio::test]
async fn a_failed_flush_stops_the_partition_and_is_never_retried() {
    let disk = SimDisk::new();
    let partition = open(&disk, "1", Manifest::new(0));
    let wait = append(&partition).expect("appended");
    disk.inject(Fault::SyncFails);
    partition.flush_ended(0, partition.draw_flush(false).expect("work").run());
    let refused = partition.wait_acked(&wait).await.expect_err("not durable");
    assert!(matches!(refused, AckFailure::Unavailable(Unavailable::Storage(_))), "{refused:?}");
    assert!(matches!(partition.bounds(), Err(Unavailable::Storage(_))));
    assert!(partition.draw_flush(false).is_none(), "no second try (invariant 5)");
    assert_eq!(partition.high_watermark(), 0);
}

/// What the control plane is told, so that another replica leads.
#[test]
fn a_replica_that_takes_nothing_more_says_so_and_one_that_was_closed_does_not() {
    let disk = SimDisk::new();
    let partition = open(&disk, "1", Manifest::new(0));
    append(&partition).expect("appended");
    assert!(!partition.is_broken());
    disk.inject(Fault::SyncFails);
    partition.flush_ended(0, partition.draw_flush(false).expect("work").run());
    assert!(partition.is_broken());

    let disk = SimDisk::new();
    let partition = open(&disk, "9223372036854775807", Manifest::new(0));
    append(&partition).expect("appended");
    disk.inject(Fault::WriteTears { bytes: 20 });
    disk.inject(Fault::TruncateFails);
    append(&partition).expect_err("torn, and cannot be taken back");
    assert!(partition.is_broken() && partition.bounds().is_ok(), "what is there stays readable");

    let partition = open(&SimDisk::new(), "1", Manifest::new(0));
    append(&partition).expect("appended");
    assert!(partition.close(true) && !partition.is_broken(), "given away, or the node stops");
}

#[test]
fn a_torn_write_leaves_the_partition_as_it_was() {
    let disk = SimDisk::new();
    let partition = open(&disk, "9223372036854775807", Manifest::new(0));
    append(&partition).expect("appended");
    disk.inject(Fault::WriteTears { bytes: 20 });
    append(&partition).expect_err("torn");
    assert_eq!(append(&partition).expect("goes on").ticket.end, 2);
    let bounds = partition.bounds().expect("serves");
    assert_eq!((bounds.high_watermark, bounds.log_end), (2, 2));
}

/// What follows `leader` in leader epoch 1, with the present node in sync.
fn follows(leader: NodeId, config: &TopicConfig) -> Assignment {
    let member = |node_id| Member { node_id, broker_epoch: 1, may_join: true };
    Assignment {
        leader: Some(leader),
        leader_epoch: 1,
        replicas: [NODE, 2].map(member).to_vec(),
        isr: vec![NODE, 2],
        ..alone(1, config)
    }
}

/// The log of the leader that `partition` follows from now on.
fn leader_of(partition: &Arc<Partition>) -> ReplicaLog {
    let config = partition.terms().config.clone();
    let terms = follows(2, &config);
    partition.take_assignment(0, &config, &terms);
    let (log, _) =
        PartitionLog::open_on(Arc::new(SimDisk::new()), LogSettings::default(), 0).expect("opened");
    let mut leader = ReplicaLog::new(2, log, TierEnd::default());
    leader.set_assignment(0, &terms);
    leader
}

/// A batch of which all records are delayed has offsets and no records, and waits for its flush as any other.
#[test]
fn a_batch_without_records_is_flushed_by_its_follower() {
    for flush_messages in ["1", "2", "3"] {
        let partition = open(&SimDisk::new(), flush_messages, Manifest::new(0));
        let mut leader = leader_of(&partition);
        let bytes = BatchBuilder::new(Codec::None).producer(7, 0, 0).spanning(1).build();
        let header = BatchHeader::parse(&bytes).expect("built");
        assert_eq!((header.record_count, header.offsets()), (0, 2));
        leader.append_as_leader(&header, &bytes, true, 0).expect("appended");
        let fetch = partition.next_fetch(1).expect("follows");
        let answer = leader.serve_fetch(0, &fetch, 0, 1 << 20).into_answer().expect("reads");
        let (taken, wants) = partition.take(5, &answer);
        assert_eq!(taken.expect("taken").appended_batches, 1);
        assert_eq!(wants.flush, flush_messages != "3", "flush.messages={flush_messages}");
    }
}

#[test]
fn a_batch_without_records_is_flushed_after_flush_ms() {
    let partition = open(&SimDisk::new(), "9223372036854775807", Manifest::new(0));
    let mut leader = leader_of(&partition);
    let overrides = [("flush.ms".to_owned(), "100".to_owned())].into();
    let config = Arc::new(TopicConfig::from_overrides(&overrides).expect("legal"));
    partition.take_assignment(0, &config, &follows(2, &config));
    let bytes = BatchBuilder::new(Codec::None).spanning(0).build();
    let header = BatchHeader::parse(&bytes).expect("built");
    leader.append_as_leader(&header, &bytes, true, 0).expect("appended");
    let fetch = partition.next_fetch(1).expect("follows");
    let answer = leader.serve_fetch(0, &fetch, 0, 1 << 20).into_answer().expect("reads");
    let (taken, wants) = partition.take(5, &answer);
    assert!(taken.is_ok() && !wants.flush);
    assert!(!partition.is_flush_due(104) && partition.is_flush_due(105));
    assert!(partition.draw_flush(false).is_some() && !partition.is_flush_due(1_000));
}

#[test]
fn what_was_written_before_a_damaged_batch_of_the_leader_is_flushed() {
    let partition = open(&SimDisk::new(), "1", Manifest::new(0));
    let mut leader = leader_of(&partition);
    for _ in 0..2 {
        let mut builder = BatchBuilder::new(Codec::None);
        builder.push(1, None, Some(b"value"), &[]);
        let bytes = builder.build();
        let header = BatchHeader::parse(&bytes).expect("built");
        leader.append_as_leader(&header, &bytes, true, 0).expect("appended");
    }
    let fetch = partition.next_fetch(1).expect("follows");
    let mut answer = leader.serve_fetch(0, &fetch, 0, 1 << 20).into_answer().expect("reads");
    let AnswerContent::Records(records) = &mut answer.content else { panic!("{answer:?}") };
    let mut damaged = records.to_vec();
    *damaged.last_mut().expect("two batches") ^= 1;
    *records = damaged.into();
    let (taken, wants) = partition.take(0, &answer);
    assert!(matches!(taken, Err(TakeError::Batch(_))), "{taken:?}");
    assert_eq!(partition.bounds().expect("serves").log_end, 1, "the first batch is whole");
    assert!(wants.flush, "its leader waits for it");
}

/// An unclean election of a replica that has less than the tier, where nothing counts as committed for lack
/// of replicas in sync.
#[test]
fn an_unclean_leader_goes_on_where_the_tier_ends() {
    let partition = open(&SimDisk::new(), "9223372036854775807", published(10));
    let config = Arc::new(TopicConfig::default());
    partition.take_assignment(0, &config, &follows(2, &config));
    let unclean = Assignment {
        leader: Some(NODE),
        leader_epoch: 2,
        partition_epoch: 2,
        isr: vec![NODE],
        min_isr: 2,
        ..follows(2, &config)
    };
    partition.take_assignment(0, &config, &unclean);
    let bounds = partition.bounds().expect("serves");
    assert_eq!((bounds.tiered_end, bounds.high_watermark, bounds.log_end), (10, 10, 10));
}

/// A leader that hands over to a group takes no more, but what it has committed is acknowledged.
#[tokio::test]
async fn what_was_committed_before_a_hand_over_is_acknowledged() {
    let partition = open(&SimDisk::new(), "1", Manifest::new(0));
    let wait = append(&partition).expect("appended");
    let raft = [("highwater.replication".to_owned(), "raft".to_owned())];
    let config = Arc::new(TopicConfig::from_overrides(&raft.into()).expect("legal"));
    partition.take_assignment(0, &config, &alone(1, &config));
    append(&partition).expect_err("it hands over");
    partition.flush_ended(0, partition.draw_flush(false).expect("work").run());
    partition.wait_acked(&wait).await.expect("committed");
}

/// The session with the control plane has lapsed, and a replica in sync takes nothing.
#[tokio::test]
async fn nobody_waits_for_a_leader_that_is_cut_off() {
    let partition = open(&SimDisk::new(), "9223372036854775807", Manifest::new(0));
    let config = Arc::new(TopicConfig::default());
    partition.take_assignment(0, &config, &follows(NODE, &config));
    let wait = append(&partition).expect("appended");
    let waiting = tokio::spawn({
        let partition = partition.clone();
        async move { partition.wait_acked(&wait).await }
    });
    partition.tick(60_000, false);
    partition.tick(1_000, true);
    tokio::task::yield_now().await;
    assert!(!waiting.is_finished(), "with a session it is waited for, and a member may be slow");
    partition.tick(10_000, true);
    let told = tokio::time::timeout(std::time::Duration::from_secs(60), waiting).await;
    let failure = told.expect("told at once").expect("ran").expect_err("it may be lost");
    assert_eq!(failure, AckFailure::NotLeader);
    let refused = append(&partition).expect_err("nor is anything more taken");
    assert!(matches!(refused, AppendRefused::Leader(LeaderRefusal::NotLeader)), "{refused:?}");
    partition.tick(10_000, false);
    append(&partition).expect("the session is held again");
}

/// What `Partition::append_marker` does to the log, without a node.
fn append_marker(partition: &Partition, epoch: i16) -> MarkerAppend {
    let end = EndMarker { commit: true, coordinator_epoch: 0 };
    let marker = Marker { producer_id: 7, producer_epoch: epoch, end, bumps_epoch: true };
    let batch = marker.batch(0).expect("built");
    let mut inner = partition.lock_any();
    let appended = inner.replica.append_from(&batch.header, &batch.bytes, marker.origin(), true, 0);
    let appended = appended.expect("taken");
    partition.take_moves(&mut inner, &appended.moves);
    drop(inner);
    partition.tell(&appended.moves);
    MarkerAppend::Appended(Appended {
        base_offset: appended.base_offset,
        log_append_time_ms: -1,
        log_start: 0,
        waits: Some(AckWait { ticket: appended.ticket, needs_all: true }),
        is_duplicate: appended.duplicate_of.is_some(),
    })
}

/// A coordinator takes the refusal of a marker that comes again for the word that it is written.
#[tokio::test]
async fn a_marker_that_comes_again_counts_no_sooner_than_the_first() {
    let partition = open(&SimDisk::new(), "1", Manifest::new(0));
    let waiting = [append_marker(&partition, 3), append_marker(&partition, 3)].map(|append| {
        let partition = partition.clone();
        tokio::spawn(async move { partition.marker_committed(append).await })
    });
    tokio::task::yield_now().await;
    assert!(waiting.iter().all(|waits| !waits.is_finished()), "neither is on the disk");
    assert_eq!(partition.bounds().expect("serves").log_end, 1, "the second is not written");
    partition.flush_ended(0, partition.draw_flush(false).expect("work").run());
    let [first, second] = waiting;
    first.await.expect("ran").expect("committed");
    let past = second.await.expect("ran").expect_err("not written");
    assert!(matches!(past, MarkerRefusal::Past), "{past:?}");
    let older = partition.marker_committed(append_marker(&partition, 2)).await;
    assert!(matches!(older, Err(MarkerRefusal::Past)), "{older:?}");
}

#[test]
fn what_was_recovered_counts_only_as_far_as_it_is_durable_where_that_is_promised() {
    let disk = SimDisk::new();
    let partition = open(&disk, "9223372036854775807", Manifest::new(0));
    append(&partition).expect("appended");
    drop(partition);
    assert_eq!(open(&disk.kill(), "9223372036854775807", Manifest::new(0)).high_watermark(), 1);
}

fn published(end: Offset) -> Manifest {
    let object = ObjectEntry {
        start: 0,
        end,
        epoch: 0,
        upload_id: Uuid::from_u128(9),
        bytes: 100,
        footer_bytes: 10,
        raw_bytes: 100,
        records: 1,
        min_timestamp: 1,
        max_timestamp: 1,
        crc32c: 0,
    };
    let epochs = vec![highwater_log::EpochStart { epoch: 0, start_offset: 0 }];
    let edit = Edit::Publish { object, epochs };
    let request = EditRequest { expected_version: 0, leader_epoch: 0, edit };
    Manifest::new(0).edited(0, &request).expect("accepted")
}

#[test]
fn eviction_stays_below_what_the_manifest_lists() {
    let partition = open(&SimDisk::new(), "9223372036854775807", Manifest::new(0));
    for _ in 0..4 {
        append(&partition).expect("appended");
        partition.roll_now(0).expect("rolled");
    }
    assert!(partition.evict_below(4).expect("refused quietly").is_none(), "nothing is in the tier");
    partition.set_manifest(Arc::new(published(2)));
    let evicted = partition.evict_below(4).expect("evicts").expect("two segments");
    assert_eq!(evicted.segments.len(), 2);
    let bounds = partition.bounds().expect("serves");
    assert_eq!((bounds.log_start, bounds.local_start, bounds.tiered_end), (0, 2, 2));
    let (look, _) = partition.look(&want(1), None, false).expect("serves");
    assert!(matches!(look, Look::Tier { end: 2 }), "{look:?}");
    partition.set_manifest(Arc::new(Manifest::new(0)));
    assert_eq!(partition.manifest().tiered_end, 2, "an older manifest is ignored");
    let task = partition.seal_task().expect("mapped").expect("more to seal");
    assert_eq!((task.segment.start, task.segment.end), (2, 3));
    partition.raise_seal_alarm("here");
    assert!(partition.seal_task().expect("quiet").is_none() && !partition.has_seal_task());
}

#[tokio::test]
async fn a_closed_partition_tells_everyone() {
    let partition = open(&SimDisk::new(), "1", Manifest::new(0));
    let wait = append(&partition).expect("appended");
    partition.close(false);
    assert_eq!(partition.wait_acked(&wait).await, Err(Unavailable::Closed.into()));
    assert!(matches!(partition.bounds(), Err(Unavailable::Closed)));
    assert!(partition.local_shape().is_none());
}

/// A follower that was paused hears of its leader's manifest later than of where to begin.
#[test]
fn a_follower_may_begin_past_the_manifest_that_it_knows() {
    let partition = open(&SimDisk::new(), "9223372036854775807", Manifest::new(0));
    let config = Arc::new(TopicConfig::default());
    let member = |node_id| Member { node_id, broker_epoch: 1, may_join: true };
    let follows = Assignment {
        leader: Some(2),
        leader_epoch: 1,
        replicas: vec![member(NODE), member(2)],
        isr: vec![2],
        ..alone(1, &config)
    };
    partition.take_assignment(0, &config, &follows);
    let asked = partition.next_fetch(1).expect("follows");
    let epochs = vec![highwater_log::EpochStart { epoch: 0, start_offset: 0 }];
    let beginning = highwater_log::Beginning { offset: 5, epochs, producers: Vec::new() };
    let answer = crate::replica::FetchAnswer {
        position: asked.position,
        high_watermark: 5,
        log_start: 0,
        content: crate::replica::AnswerContent::Begin(beginning),
    };
    {
        let mut inner = partition.lock_any();
        let taken = inner.replica.take_answer(0, &answer).expect("taken");
        partition.take_moves(&mut inner, &taken.moves);
        partition.check_bounds(&mut inner);
    }
    let bounds = partition.bounds().expect("it serves on");
    assert_eq!((bounds.local_start, bounds.tiered_end, bounds.high_watermark), (5, 5, 5));
}

#[test]
fn a_damaged_log_is_cut_for_a_replica_that_begins_again() {
    use highwater_log::disk::Disk;
    let disk = SimDisk::new();
    let partition = open(&disk, "9223372036854775807", Manifest::new(0));
    for _ in 0..3 {
        append(&partition).expect("appended");
    }
    let ticket = partition.draw_flush(false).expect("something to flush");
    partition.flush_ended(0, ticket.run());
    drop(partition);
    let segment = disk.open("00000000000000000000.log").expect("the segment");
    segment.write_at(&[std::io::IoSlice::new(&[0xff; 8])], 100).expect("writes");
    let partition = open(&disk, "9223372036854775807", Manifest::new(0));
    assert!(partition.has_lost() && partition.log_refusal().is_some());
    partition.cut_damage().expect("cuts");
    assert!(!partition.has_lost() && partition.log_refusal().is_none());
    assert_eq!(partition.log_ends().0, 1, "what lies below the damage");
    partition.cut_damage().expect("a sound log stays");
    assert_eq!(partition.log_ends().0, 1);
    partition.lock_any().log_mut().reset_to(0).expect("it is written again");
}

#[test]
fn a_group_takes_over_and_hands_back() {
    use highwater_coordinator::core::{Partition as Record, RaftGroup};
    let partition = open(&SimDisk::new(), "9223372036854775807", Manifest::new(0));
    let config = Arc::new(TopicConfig::default());
    append(&partition).expect("leads");
    let record = |leader, leader_epoch| Record {
        leader,
        leader_epoch,
        partition_epoch: 1,
        replicas: vec![NODE, 2],
        isr: vec![NODE, 2],
        elr: Vec::new(),
        last_known_leader: None,
        lost: Vec::new(),
        adding: Vec::new(),
        removing: Vec::new(),
        is_pinned: false,
        raft: Some(RaftGroup { since_epoch: 1, start_offset: 1, voters: vec![NODE, 2] }),
        manifest: Arc::new(Manifest::new(0)),
    };
    partition.take_raft_record(&config, &record(Some(2), 3));
    let terms = partition.terms();
    assert_eq!((terms.leader, terms.leader_epoch, terms.is_leader), (Some(2), 3, false));
    let refused = append(&partition).expect_err("batches go to the group");
    assert!(matches!(refused, AppendRefused::Leader(crate::core::replica::LeaderRefusal::NotLeader)));
    assert!(partition.next_fetch(1).is_none(), "nobody is followed by fetch");
    assert_eq!(partition.bounds().expect("serves").high_watermark, 1, "what was committed stays");
    // On record as its leader, it leads only once its group says so.
    partition.take_raft_record(&config, &record(Some(NODE), 4));
    let terms = partition.terms();
    assert_eq!((terms.leader, terms.leader_epoch, terms.is_leader), (None, 4, false));
    assert_eq!(partition.released_end(), Some(0), "nothing is evicted while its group is not open");
    partition.leave_raft();
    partition.take_assignment(0, &config, &Assignment { leader_epoch: 5, ..alone(2, &config) });
    assert!(partition.terms().is_leader && partition.terms().raft.is_none());
    append(&partition).expect("leads again");
    assert_eq!(partition.bounds().expect("serves").log_end, 2);
}
