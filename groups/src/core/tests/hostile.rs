//! Requests that no honest client sends: a typed error each time, and the others go on.

use highwater_model::limits::{
    GROUP_MEMBER_PROTOCOLS_BYTES_MAX, GROUP_NAME_BYTES_MAX, GROUP_PENDING_MEMBERS_MAX,
    GROUP_SUBSCRIPTION_BYTES_MAX,
};

use super::super::error::GroupError;
use super::*;

fn join(group: &str, member: &str, blob: usize) -> Join {
    Join {
        group: group.into(),
        member_id: member.into(),
        instance_id: None,
        protocol_type: "consumer".into(),
        protocols: vec![ClassicProtocol { name: "range".into(), metadata: vec![7; blob].into() }],
        session_timeout_ms: 10_000,
        rebalance_timeout_ms: 10_000,
        requires_member_id: true,
        can_skip_assignment: true,
    }
}

fn join_error(notebook: &mut Notebook, join: Join) -> Option<GroupError> {
    match answers(&notebook.request("c", Request::Join(join)))[..] {
        [Answer::Join(joined)] => joined.error,
        ref other => panic!("{other:?}"),
    }
}

fn commit(group: &str, offset: CommitOffset) -> Request {
    Request::CommitOffsets(CommitOffsets {
        group: group.into(),
        member_id: "".into(),
        instance_id: None,
        generation: -1,
        retention_ms: Some(i64::MAX),
        knows_epochs: true,
        offsets: vec![offset],
    })
}

fn offset(topic: &str, partition: i32, offset: i64) -> CommitOffset {
    CommitOffset {
        topic: topic.into(),
        topic_id: None,
        partition,
        offset,
        leader_epoch: -1,
        metadata: "".into(),
    }
}

#[test]
fn ids_and_blobs_are_bounded() {
    let mut notebook = Notebook::new(Settings::default());
    let long = "x".repeat(GROUP_NAME_BYTES_MAX + 1);
    let n = &mut notebook;
    assert_eq!(join_error(n, join(&long, "", 0)), Some(GroupError::InvalidGroupId));
    assert_eq!(join_error(n, join("", "", 0)), Some(GroupError::InvalidGroupId));
    assert_eq!(join_error(n, join("g", &long, 0)), Some(GroupError::InvalidRequest));
    let too_much = GROUP_MEMBER_PROTOCOLS_BYTES_MAX + 1;
    assert_eq!(join_error(n, join("g", "", too_much)), Some(GroupError::InvalidRequest));
    let mut many = join("g", "", 0);
    many.protocols =
        (0..200).map(|i| ClassicProtocol { name: format!("p{i}").into(), metadata: Bytes::new() }).collect();
    assert_eq!(join_error(n, many), Some(GroupError::InvalidRequest));
    let mut static_member = join("g", "", 0);
    static_member.instance_id = Some(long.as_str().into());
    assert_eq!(join_error(n, static_member), Some(GroupError::InvalidRequest));
    assert!(n.groups.list(&[], &[]).is_empty() && n.log.is_empty(), "something is left");

    let beat = |topic: String| {
        Request::ConsumerHeartbeat(ConsumerHeartbeat {
            group: "k".into(),
            member_id: "m".into(),
            epoch: 0,
            instance_id: None,
            rack_id: None,
            rebalance_timeout_ms: Some(1_000),
            topic_names: Some([Name::from(topic)].into()),
            topic_regex: None,
            server_assignor: None,
            owned: Some(Partitions::new()),
        })
    };
    for topic in [long.clone(), "t".repeat(GROUP_SUBSCRIPTION_BYTES_MAX)] {
        let effects = n.request("c", beat(topic));
        assert_eq!(answers(&effects), [&Answer::ConsumerHeartbeat(Err(GroupError::InvalidRequest))]);
    }
    let effects = n.request("c", commit("g", offset(&long, 0, 1)));
    assert_eq!(
        answers(&effects),
        [&Answer::CommitOffsets(Ok(vec![Err(GroupError::UnknownTopicOrPartition)]))]
    );
    let effects = n.request("c", commit("g", offset("t", -1, 1)));
    assert_eq!(
        answers(&effects),
        [&Answer::CommitOffsets(Ok(vec![Err(GroupError::UnknownTopicOrPartition)]))]
    );
    let effects = n.request("c", commit(&long, offset("t", 0, 1)));
    assert_eq!(answers(&effects), [&Answer::CommitOffsets(Err(GroupError::InvalidGroupId))]);
    assert!(n.groups.list(&[], &[]).is_empty() && n.log.is_empty(), "something is left");
}

/// Offsets are not compared with the log: clients commit what they like, as in Kafka.
#[test]
fn any_offset_and_retention_is_taken_and_read_back() {
    let mut notebook = Notebook::new(Settings::default());
    notebook.now = 5_000;
    for value in [-7, 0, i64::MAX, i64::MIN] {
        let effects = notebook.request("c", commit("g", offset("t", 0, value)));
        assert_eq!(answers(&effects), [&Answer::CommitOffsets(Ok(vec![Ok(())]))]);
        let kept = notebook.groups.offsets().get("g", "t", 0).expect("committed");
        assert_eq!((kept.offset, kept.expires_ms), (value, Some(i64::MAX)));
    }
    notebook.reload();
    assert_eq!(notebook.groups.offsets().get("g", "t", 0).map(|kept| kept.offset), Some(i64::MIN));
}

/// Asking for ids without ever using them.
#[test]
fn ids_that_nobody_uses_are_bounded_and_forgotten() {
    let mut notebook = Notebook::new(Settings::default());
    let mut granted = 0;
    loop {
        match join_error(&mut notebook, join("g", "", 0)) {
            Some(GroupError::MemberIdRequired) => granted += 1,
            Some(GroupError::GroupMaxSizeReached) => break,
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(granted, GROUP_PENDING_MEMBERS_MAX);
    notebook.advance(60_000);
    assert_eq!(join_error(&mut notebook, join("g", "", 0)), Some(GroupError::MemberIdRequired));
}

/// Assignments of a mebibyte: taken while the generation fits a record, refused as Kafka does above that.
#[test]
fn assignments_that_fit_no_record_are_refused() {
    let mut notebook = Notebook::new(Settings::default());
    let mut ids: Vec<Name> = Vec::new();
    for _ in 0..20 {
        let mut member = join("g", "", 1024);
        member.requires_member_id = false;
        notebook.request("c", Request::Join(member));
    }
    for (_, effect) in notebook.advance(6_000) {
        if let Effect::Answer { answer: Answer::Join(joined), .. } = effect {
            ids.push(joined.member_id);
        }
    }
    assert_eq!(ids.len(), 20);
    let leader = notebook.groups.describe_classic("g").expect("there").members[0].member_id.clone();
    let sync = Request::Sync(Sync {
        group: "g".into(),
        generation: 1,
        member_id: leader,
        instance_id: None,
        protocol_type: None,
        protocol: None,
        assignments: ids.iter().map(|id| (id.clone(), vec![1; 1024 * 1024].into())).collect(),
    });
    let effects = notebook.request("c", sync);
    let [Answer::Sync(synced)] = answers(&effects)[..] else { panic!("{effects:?}") };
    assert_eq!(synced.error, Some(GroupError::UnknownServerError));
    assert_eq!(notebook.groups.describe_classic("g").expect("there").state, "PreparingRebalance");
    assert!(effects.iter().all(|effect| matches!(effect, Effect::Answer { .. })), "nothing was written");
}
