//! Requests of consumer groups and their offsets: Kafka's messages to the core's plain data and back.
//!
//! Decides nothing about groups (`highwater-groups` does, in the shard's task). What is judged here is what
//! only the cluster's metadata knows, such as whether a topic exists.

pub mod admin;
pub mod classic;
pub mod consumer;
pub mod offsets;

use std::net::IpAddr;

use highwater_groups::core::error::GroupError;
use highwater_groups::core::request::Client;
use highwater_groups::core::types::Name;
use highwater_wire::kafka::messages::GroupId;
use highwater_wire::kafka::protocol::StrBytes;
use uuid::Uuid;

/// Who asks, as groups remember it.
pub(super) fn client(peer: IpAddr, client_id: &str) -> Client {
    // An address behind a slash is how Java prints one, and so what Kafka's tools expect.
    let host = Name::from(format!("/{}", peer.to_canonical()));
    Client { id: Name::from(client_id), host, fresh: Uuid::new_v4() }
}

fn name(text: &StrBytes) -> Name {
    Name::from(text.as_str())
}

fn names(texts: &[StrBytes]) -> Vec<Name> {
    texts.iter().map(name).collect()
}

fn maybe_name(text: Option<&StrBytes>) -> Option<Name> {
    text.map(name)
}

fn text(name: &str) -> StrBytes {
    StrBytes::from_string(name.to_owned())
}

/// Why a group cannot be described: of one that is not there in Kafka's own words, which its tools pass on.
fn undescribed(error: GroupError, group: &str) -> StrBytes {
    match error {
        GroupError::GroupIdNotFound => text(&format!("Group {group} not found.")),
        other => text(&other.to_string()),
    }
}

fn group_id(name: &str) -> GroupId {
    GroupId(text(name))
}

fn code(error: Option<GroupError>) -> i16 {
    error.map_or(0, GroupError::code)
}

fn outcome_code<T>(outcome: &Result<T, GroupError>) -> i16 {
    code(outcome.as_ref().err().copied())
}

/// An answer of another kind than the request: a defect of the core, told as Kafka's unknown error.
const MISMATCH: GroupError = GroupError::UnknownServerError;
