//! How a group comes to be, and how a member finds its group again: greetings (ADR 0011).
//!
//! No bootstrap step. Members of a group that is not formed greet each other until all have seen the same
//! storages everywhere; then each writes the same first entry, which names members, addresses and storages. A
//! member that is late is told by any peer that the group is formed, and waits for its leader. Must not: form
//! a group while a peer is silent, or go on where two disagree (one line says what to do).

use std::collections::BTreeMap;
use std::time::Duration;

use futures::future::join_all;
use highwater_model::limits::{GREETING_PAUSE, GREETING_WAIT};
use tokio::time::Instant;

use super::OpenError;
use super::group::{Group, Members, Storages, lost_storage, members_of, no_member, storages_of};
use crate::rpc::{brief, check_protocol, list_of, list_text, proto, timed, uuid_of, within};

/// How often a member that waits says for whom.
const TELL_EVERY: Duration = Duration::from_secs(10);

/// What greetings have come to.
pub(super) enum Greeted {
    /// The group is formed, of these members, and this node is one of them.
    Formed(Members),
    /// All are there, none is formed, and all have seen the same.
    Complete(Storages),
}

/// Greets until the group is known or can be formed.
pub(super) async fn greet(group: &Group) -> Result<Greeted, OpenError> {
    let mut told = Instant::now();
    loop {
        let answers = round(group, false).await;
        // One that was away may not know yet that this node is a member.
        if let Some((peer, answer)) = welcome(group, &answers) {
            return formed(group, peer, answer);
        }
        let mut silent = Vec::new();
        let mut agree = true;
        for (peer, answer) in answers {
            match answer {
                Ok(answer) => {
                    judge(group, peer, &answer)?;
                    if peer == group.node_id {
                        continue;
                    }
                    if answer.is_formed {
                        return formed(group, peer, &answer);
                    }
                    let storage = uuid_of(&answer.from_storage);
                    let storage = storage.ok_or_else(|| refused(format!("node {peer} names no storage")))?;
                    group.saw(peer, storage);
                    agree &= storages_of(&answer.seen) == group.seen();
                }
                Err(reason) => {
                    if peer != group.node_id {
                        silent.push(format!("{peer} at {} ({reason})", group.channels.address(peer)));
                    }
                }
            }
        }
        let seen = group.seen();
        if silent.is_empty() && agree && seen.len() == group.list().len() {
            return Ok(Greeted::Complete(seen));
        }
        if !silent.is_empty() && told.elapsed() >= TELL_EVERY {
            told = Instant::now();
            tracing::info!("waiting for coordinators: {}", silent.join(", "));
        }
        tokio::time::sleep(GREETING_PAUSE).await;
    }
}

/// A peer that knows this node as a member of the formed group.
fn welcome<'a>(
    group: &Group,
    answers: &'a BTreeMap<u64, Result<proto::HelloResponse, String>>,
) -> Option<(u64, &'a proto::HelloResponse)> {
    answers.iter().find_map(|(peer, answer)| {
        let answer = answer.as_ref().ok().filter(|answer| answer.is_formed && answer.from == *peer)?;
        let is_known = storages_of(&answer.members).get(&group.node_id) == Some(&group.storage);
        let is_welcome = answer.refusal.is_empty() && *peer != group.node_id && is_known;
        let speaks = check_protocol(&format!("node {peer}"), answer.protocol, answer.protocol_min).is_ok();
        (is_welcome && speaks).then_some((*peer, answer))
    })
}

/// One greeting of a member whose group is formed: peers that are there may refuse it, or tell it of changes
/// that it has missed. One that has missed more itself has no say.
pub(super) async fn greet_once(group: &Group) -> Result<(), OpenError> {
    for (peer, answer) in round(group, true).await {
        match answer {
            Ok(answer) => {
                let own = group.members().map(|members| members.at).unwrap_or_default();
                let is_formed = answer.is_formed && peer != group.node_id;
                if is_formed && members_of(&answer.members, answer.members_at.as_ref()).at < own {
                    continue;
                }
                judge(group, peer, &answer)?;
                if is_formed && let Greeted::Formed(members) = formed(group, peer, &answer)? {
                    group.note_members(members);
                }
            }
            Err(reason) if peer == group.node_id => {
                tracing::warn!(
                    "this node cannot reach itself at {} ({reason}); is --coordinators right?",
                    group.channels.address(peer)
                );
            }
            Err(_) => {}
        }
    }
    Ok(())
}

/// Greets everybody at once, this node's own address too: who answers there tells of a second process.
async fn round(group: &Group, is_formed: bool) -> BTreeMap<u64, Result<proto::HelloResponse, String>> {
    let greet = |peer: u64| async move {
        let call = async {
            let mut client = group.channels.coordination(peer)?;
            client.hello(timed(group.greeting(is_formed), GREETING_WAIT)).await
        };
        (peer, within(GREETING_WAIT, call).await.map_err(|status| brief(&status)))
    };
    join_all(group.list().keys().copied().map(greet)).await.into_iter().collect()
}

fn refused(reason: String) -> OpenError {
    OpenError::Group(reason)
}

/// Whether who answered is who was meant, and agrees.
fn judge(group: &Group, peer: u64, answer: &proto::HelloResponse) -> Result<(), OpenError> {
    let address = group.channels.address(peer);
    if answer.from != peer {
        return Err(refused(format!(
            "--coordinators says that node {peer} is at {address}, but node {} answers there; correct the list \
             or the node's --node-id",
            answer.from
        )));
    }
    if peer == group.node_id {
        return match uuid_of(&answer.process) == Some(group.process) {
            true => Ok(()),
            false => Err(refused(format!(
                "another process runs as node {peer} at {address}; stop it, or give this one another --node-id"
            ))),
        };
    }
    if !answer.refusal.is_empty() {
        return Err(refused(answer.refusal.clone()));
    }
    check_protocol(&format!("node {peer}"), answer.protocol, answer.protocol_min).map_err(refused)?;
    group.judge_list(peer, &list_of(&answer.coordinators), answer.is_formed).map_err(refused)?;
    group.note_rules(peer, answer.rules);
    Ok(())
}

/// Whether this node is one of the formed group that `peer` tells of.
fn formed(group: &Group, peer: u64, answer: &proto::HelloResponse) -> Result<Greeted, OpenError> {
    let members = members_of(&answer.members, answer.members_at.as_ref());
    let (own_id, told_id) = (group.cluster_id(), &answer.cluster_id);
    let known = group.members();
    let is_other_cluster = match own_id.is_empty() || told_id.is_empty() {
        true => known.is_some_and(|own| own.at == members.at && own.storages != members.storages),
        false => own_id != *told_id,
    };
    if is_other_cluster {
        return Err(refused(format!(
            "node {peer} belongs to another cluster than this node; correct --coordinators or --data-dir"
        )));
    }
    if !members.storages.keys().all(|id| group.list().contains_key(id)) {
        let ids: Vec<_> = members.storages.keys().map(u64::to_string).collect();
        return Err(refused(format!(
            "node {peer} belongs to a group of the nodes {}, and --coordinators is {}; correct the list",
            ids.join(", "),
            list_text(group.list())
        )));
    }
    match members.storages.get(&group.node_id) {
        Some(storage) if *storage == group.storage => Ok(Greeted::Formed(members)),
        Some(_) => Err(refused(lost_storage(group.node_id, group.storage))),
        None => Err(refused(no_member(group.node_id, group.storage))),
    }
}
