//! Raft's messages as they travel: openraft's own types to and from `proto`, and nothing else. Entries travel
//! in the form that they have on disk, with its checksums (invariant 19). Lengths are bounded by what a
//! peer's message may have.

use bytes::Bytes;
use openraft::raft::{
    AppendEntriesRequest, AppendEntriesResponse, InstallSnapshotRequest, VoteRequest, VoteResponse,
};

use super::frame::{self, Kind, Position};
use super::snapshot::Meta;
use super::types::{
    GroupEntry, GroupLogId, GroupMembership, GroupVote, StoredMembers, TypeConfig, decode, encode, log_id,
    position, stored_vote, vote,
};
use super::writer::StoredVote;
use crate::rpc::proto;

/// Why a message from a peer cannot be used.
#[derive(Debug, thiserror::Error)]
pub(super) enum WireError {
    #[error("a message without {0}")]
    Missing(&'static str),
    #[error("an entry that is damaged or of a newer release: {0}")]
    Entry(String),
    #[error("{0}")]
    Json(#[from] serde_json::Error),
}

pub(super) fn position_message(id: &GroupLogId) -> proto::LogPosition {
    let Position { term, node, index } = position(id);
    proto::LogPosition { term, node, index }
}

pub(super) fn position_of(message: &proto::LogPosition) -> GroupLogId {
    log_id(Position { term: message.term, node: message.node, index: message.index })
}

pub(super) fn ballot_message(vote: &GroupVote) -> proto::Ballot {
    let StoredVote { term, node, committed } = stored_vote(vote);
    proto::Ballot { term, node, committed }
}

pub(super) fn ballot_of(message: Option<&proto::Ballot>) -> Result<GroupVote, WireError> {
    let message = message.ok_or(WireError::Missing("a vote"))?;
    let proto::Ballot { term, node, committed } = *message;
    Ok(vote(StoredVote { term, node, committed }))
}

pub(super) fn vote_request(request: &VoteRequest<u64>, envelope: proto::Envelope) -> proto::VoteRequest {
    proto::VoteRequest {
        envelope: Some(envelope),
        vote: Some(ballot_message(&request.vote)),
        last: request.last_log_id.as_ref().map(position_message),
    }
}

pub(super) fn vote_request_of(message: &proto::VoteRequest) -> Result<VoteRequest<u64>, WireError> {
    Ok(VoteRequest::new(ballot_of(message.vote.as_ref())?, message.last.as_ref().map(position_of)))
}

pub(super) fn vote_response(response: &VoteResponse<u64>) -> proto::VoteResponse {
    proto::VoteResponse {
        vote: Some(ballot_message(&response.vote)),
        is_granted: response.vote_granted,
        last: response.last_log_id.as_ref().map(position_message),
    }
}

pub(super) fn vote_response_of(message: &proto::VoteResponse) -> Result<VoteResponse<u64>, WireError> {
    let vote = ballot_of(message.vote.as_ref())?;
    Ok(VoteResponse::new(vote, message.last.as_ref().map(position_of), message.is_granted))
}

pub(super) fn append_request(
    request: &AppendEntriesRequest<TypeConfig>,
    envelope: proto::Envelope,
) -> Result<proto::AppendRequest, WireError> {
    let mut entries = Vec::new();
    for entry in &request.entries {
        // How far the log is synced is each node's own affair.
        frame::encode(&encode(entry)?, 0, &mut entries);
    }
    Ok(proto::AppendRequest {
        envelope: Some(envelope),
        vote: Some(ballot_message(&request.vote)),
        previous: request.prev_log_id.as_ref().map(position_message),
        committed: request.leader_commit.as_ref().map(position_message),
        entries: Bytes::from(entries),
    })
}

pub(super) fn append_request_of(
    message: &proto::AppendRequest,
) -> Result<AppendEntriesRequest<TypeConfig>, WireError> {
    Ok(AppendEntriesRequest {
        vote: ballot_of(message.vote.as_ref())?,
        prev_log_id: message.previous.as_ref().map(position_of),
        entries: entries_of(&message.entries)?,
        leader_commit: message.committed.as_ref().map(position_of),
    })
}

fn entries_of(mut bytes: &[u8]) -> Result<Vec<GroupEntry>, WireError> {
    let mut entries = Vec::new();
    while !bytes.is_empty() {
        let (frame, length) = frame::parse(bytes).map_err(|e| WireError::Entry(format!("{e:?}")))?;
        if frame.kind == Kind::Committed {
            return Err(WireError::Entry("a mark is no entry".into()));
        }
        let owned = frame::Frame { kind: frame.kind, at: frame.at, body: frame.body.to_vec() };
        entries.push(decode(&owned).map_err(|e| WireError::Entry(e.to_string()))?);
        bytes = &bytes[length..];
    }
    Ok(entries)
}

pub(super) fn append_response(response: &AppendEntriesResponse<u64>) -> proto::AppendResponse {
    use proto::append_response::Outcome;
    let outcome = match response {
        AppendEntriesResponse::Success => Outcome::Success(true),
        AppendEntriesResponse::PartialSuccess(matching) => {
            Outcome::Partial(proto::PartialSuccess { matching: matching.as_ref().map(position_message) })
        }
        AppendEntriesResponse::Conflict => Outcome::Conflict(true),
        AppendEntriesResponse::HigherVote(vote) => Outcome::Higher(ballot_message(vote)),
    };
    proto::AppendResponse { outcome: Some(outcome) }
}

pub(super) fn append_response_of(
    message: &proto::AppendResponse,
) -> Result<AppendEntriesResponse<u64>, WireError> {
    use proto::append_response::Outcome;
    Ok(match message.outcome.as_ref().ok_or(WireError::Missing("an outcome"))? {
        Outcome::Success(_) => AppendEntriesResponse::Success,
        Outcome::Partial(partial) => {
            AppendEntriesResponse::PartialSuccess(partial.matching.as_ref().map(position_of))
        }
        Outcome::Conflict(_) => AppendEntriesResponse::Conflict,
        Outcome::Higher(vote) => AppendEntriesResponse::HigherVote(ballot_of(Some(vote))?),
    })
}

pub(super) fn snapshot_chunk(
    request: InstallSnapshotRequest<TypeConfig>,
    envelope: proto::Envelope,
) -> Result<proto::SnapshotChunk, WireError> {
    let membership = &request.meta.last_membership;
    Ok(proto::SnapshotChunk {
        envelope: Some(envelope),
        vote: Some(ballot_message(&request.vote)),
        last: request.meta.last_log_id.as_ref().map(position_message),
        members_at: membership.log_id().as_ref().map(position_message),
        members: serde_json::to_vec(&StoredMembers::of(membership.membership()))?.into(),
        id: request.meta.snapshot_id,
        offset: request.offset,
        data: request.data.into(),
        is_last: request.done,
    })
}

pub(super) fn snapshot_chunk_of(
    message: &proto::SnapshotChunk,
) -> Result<InstallSnapshotRequest<TypeConfig>, WireError> {
    let members: StoredMembers = serde_json::from_slice(&message.members)?;
    let members_at = message.members_at.as_ref().map(position_of);
    Ok(InstallSnapshotRequest {
        vote: ballot_of(message.vote.as_ref())?,
        meta: Meta {
            last_log_id: message.last.as_ref().map(position_of),
            last_membership: GroupMembership::new(members_at, members.membership()),
            snapshot_id: message.id.clone(),
        },
        offset: message.offset,
        data: message.data.to_vec(),
        done: message.is_last,
    })
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use openraft::EntryPayload;

    use super::*;
    use crate::core::{Batch, Command, RULES_VERSION};

    fn entry(index: u64) -> GroupEntry {
        let commands = vec![Command::AllocateProducerIds { count: 7 }];
        let batch = Batch { rules: RULES_VERSION, at_ms: 9, commands };
        let payload = if index == 4 { EntryPayload::Blank } else { EntryPayload::Normal(Arc::new(batch)) };
        GroupEntry { log_id: log_id(Position { term: 3, node: 2, index }), payload }
    }

    fn request() -> AppendEntriesRequest<TypeConfig> {
        AppendEntriesRequest {
            vote: vote(StoredVote { term: 3, node: 2, committed: true }),
            prev_log_id: Some(log_id(Position { term: 2, node: 1, index: 3 })),
            entries: vec![entry(4), entry(5)],
            leader_commit: None,
        }
    }

    #[test]
    fn what_is_appended_arrives_as_it_was_and_damage_is_refused() {
        let mut message = append_request(&request(), proto::Envelope::default()).expect("encodes");
        let back = append_request_of(&message).expect("decodes");
        assert_eq!((back.vote, back.prev_log_id), (request().vote, request().prev_log_id));
        assert_eq!(back.entries, request().entries);
        for at in [0, 9, 60, message.entries.len() - 1] {
            let mut damaged = message.entries.to_vec();
            damaged[at] ^= 1;
            let damaged = proto::AppendRequest { entries: damaged.into(), ..message.clone() };
            assert!(append_request_of(&damaged).is_err(), "byte {at}");
        }
        message.entries = message.entries.slice(..message.entries.len() - 1);
        assert!(append_request_of(&message).is_err(), "cut");
        message.vote = None;
        assert!(matches!(append_request_of(&message), Err(WireError::Missing(_))));
    }

    #[test]
    fn answers_arrive_as_they_were() {
        let at = log_id(Position { term: 3, node: 2, index: 9 });
        let vote = vote(StoredVote { term: 4, node: 1, committed: false });
        for answer in [
            AppendEntriesResponse::Success,
            AppendEntriesResponse::PartialSuccess(Some(at)),
            AppendEntriesResponse::PartialSuccess(None),
            AppendEntriesResponse::Conflict,
            AppendEntriesResponse::HigherVote(vote),
        ] {
            assert_eq!(append_response_of(&append_response(&answer)).expect("decodes"), answer);
        }
        let answer = VoteResponse::new(vote, Some(at), true);
        assert_eq!(vote_response_of(&vote_response(&answer)).expect("decodes"), answer);
        assert!(append_response_of(&proto::AppendResponse::default()).is_err());
    }
}
