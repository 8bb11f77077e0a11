//! What this process knows of its group: who the members are, by which storage it knows them, who is
//! admitted, and when a leader was last heard.
//!
//! Owns the judgement of greetings and of every message's envelope. A member whose storage is not the one
//! that the group was formed with has forgotten what it voted for and acknowledged: it is refused, and
//! refuses to vote or append itself. Must not: send or wait (`formation.rs` and `network.rs` do).

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError, RwLock};

use highwater_model::limits::LEADER_LEASE;
use tokio::time::Instant;
use tonic::Status;
use uuid::Uuid;

use crate::core::RULES_VERSION;
use crate::rpc::{
    Channels, PROTOCOL, PROTOCOL_MIN, check_protocol, list_message, list_of, list_text, proto, uuid_bytes,
    uuid_of,
};

/// The members by the names of their storages.
pub(crate) type Storages = BTreeMap<u64, Uuid>;

/// Shared by everything that talks to peers or answers them.
pub(crate) struct Group {
    pub node_id: u64,
    pub storage: Uuid,
    /// Made anew by each process: tells this process from another one on the same address.
    pub process: Uuid,
    pub channels: Channels,
    known: RwLock<Known>,
    heard: Mutex<Option<Instant>>,
}

#[derive(Default)]
struct Known {
    /// Storages met while the group is not formed, this node's included.
    seen: Storages,
    /// Those of the formed group, once this node is admitted to it.
    members: Option<Storages>,
    /// The newest rules that each peer knows.
    rules: BTreeMap<u64, u16>,
    cluster_id: String,
}

impl Group {
    /// `list` are the members' addresses, this node among them.
    pub(crate) fn new(node_id: u64, storage: Uuid, list: BTreeMap<u64, String>) -> Group {
        assert!(list.contains_key(&node_id), "settings were checked: a member is in its own list");
        let known = Known { seen: [(node_id, storage)].into(), ..Known::default() };
        Group {
            node_id,
            storage,
            process: Uuid::new_v4(),
            channels: Channels::new(list),
            known: RwLock::new(known),
            heard: Mutex::new(None),
        }
    }

    pub(crate) fn list(&self) -> &BTreeMap<u64, String> {
        self.channels.addresses()
    }

    pub(crate) fn peers(&self) -> impl Iterator<Item = u64> + '_ {
        self.list().keys().copied().filter(|id| *id != self.node_id)
    }

    /// Members that decide: more than half.
    pub(crate) fn quorum(&self) -> usize {
        self.list().len() / 2 + 1
    }

    /// From now on votes and appends are answered and sent, among these members.
    pub(crate) fn admit(&self, members: Storages) {
        assert_eq!(members.get(&self.node_id), Some(&self.storage), "admitted by the storage it has");
        self.write().members = Some(members);
    }

    pub(crate) fn is_admitted(&self) -> bool {
        self.read().members.is_some()
    }

    pub(crate) fn members(&self) -> Option<Storages> {
        self.read().members.clone()
    }

    pub(crate) fn seen(&self) -> Storages {
        self.read().seen.clone()
    }

    pub(crate) fn saw(&self, peer: u64, storage: Uuid) {
        self.write().seen.insert(peer, storage);
    }

    pub(crate) fn set_cluster_id(&self, cluster_id: &str) {
        if self.read().cluster_id != cluster_id {
            self.write().cluster_id = cluster_id.to_owned();
        }
    }

    /// The newest rules that all members know, as far as they have said.
    pub(crate) fn rules(&self) -> u16 {
        self.read().rules.values().copied().fold(RULES_VERSION, u16::min)
    }

    pub(crate) fn note_rules(&self, peer: u64, rules: u32) {
        // A peer that does not say knows the first.
        let rules = u16::try_from(rules.max(1)).unwrap_or(u16::MAX);
        self.write().rules.insert(peer, rules);
    }

    /// Notes that a leader has sent something that this node accepted.
    pub(crate) fn heard_leader(&self) {
        *self.heard.lock().unwrap_or_else(PoisonError::into_inner) = Some(Instant::now());
    }

    pub(crate) fn last_heard(&self) -> Option<Instant> {
        *self.heard.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A leader was heard so lately that this node votes for nobody else.
    pub(crate) fn hears_leader(&self) -> bool {
        self.last_heard().is_some_and(|heard| heard.elapsed() < LEADER_LEASE)
    }

    /// What goes with each message to `to`; none before this node is admitted.
    pub(crate) fn envelope(&self, to: u64) -> Result<proto::Envelope, Status> {
        let known = self.read();
        let storage = known.members.as_ref().and_then(|members| members.get(&to));
        let storage = storage.ok_or_else(|| Status::unavailable("not admitted to the group yet"))?;
        Ok(proto::Envelope {
            protocol: PROTOCOL,
            protocol_min: PROTOCOL_MIN,
            from: self.node_id,
            from_storage: uuid_bytes(self.storage),
            to,
            to_storage: uuid_bytes(*storage),
        })
    }

    /// Whether a message is from a member and for this one.
    pub(crate) fn check(&self, envelope: Option<&proto::Envelope>) -> Result<u64, Status> {
        let envelope = envelope.ok_or_else(|| Status::invalid_argument("a message without envelope"))?;
        let from = envelope.from;
        let refuse = |reason: String| Err(Status::failed_precondition(reason));
        check_protocol(&format!("node {from}"), envelope.protocol, envelope.protocol_min)
            .map_err(Status::failed_precondition)?;
        if envelope.to != self.node_id {
            return refuse(format!(
                "node {} was called as node {}; correct --coordinators",
                self.node_id, envelope.to
            ));
        }
        let known = self.read();
        let Some(members) = &known.members else {
            return Err(Status::unavailable("not admitted to the group yet"));
        };
        if uuid_of(&envelope.to_storage) != Some(self.storage) {
            return refuse(format!("node {} does not have the storage that node {from} knows", self.node_id));
        }
        match members.get(&from) {
            None => refuse(format!("node {from} is no coordinator of this cluster")),
            Some(storage) if uuid_of(&envelope.from_storage) != Some(*storage) => refuse(lost_storage(from)),
            Some(_) => Ok(from),
        }
    }

    /// This node's own greeting.
    pub(crate) fn greeting(&self, is_formed: bool) -> proto::HelloRequest {
        proto::HelloRequest {
            protocol: PROTOCOL,
            protocol_min: PROTOCOL_MIN,
            from: self.node_id,
            from_storage: uuid_bytes(self.storage),
            process: uuid_bytes(self.process),
            coordinators: list_message(self.list()),
            seen: storages_message(&self.read().seen),
            rules: u32::from(RULES_VERSION),
            is_formed,
        }
    }

    /// Answers a greeting, and remembers what it tells.
    pub(crate) fn hello(&self, request: &proto::HelloRequest, is_formed: bool) -> proto::HelloResponse {
        let refusal = self.judge(request, is_formed).err().unwrap_or_default();
        if refusal.is_empty() && self.list().contains_key(&request.from) && request.from != self.node_id {
            self.note_rules(request.from, request.rules);
            if let Some(storage) = uuid_of(&request.from_storage).filter(|_| !is_formed) {
                self.saw(request.from, storage);
            }
        }
        let known = self.read();
        proto::HelloResponse {
            protocol: PROTOCOL,
            protocol_min: PROTOCOL_MIN,
            from: self.node_id,
            from_storage: uuid_bytes(self.storage),
            process: uuid_bytes(self.process),
            coordinators: list_message(self.list()),
            seen: storages_message(&known.seen),
            rules: u32::from(RULES_VERSION),
            is_formed,
            members: known.members.as_ref().filter(|_| is_formed).map(storages_message).unwrap_or_default(),
            cluster_id: known.cluster_id.clone(),
            refusal,
        }
    }

    /// Whether who greets is welcome; else one line for it.
    fn judge(&self, request: &proto::HelloRequest, is_formed: bool) -> Result<(), String> {
        let from = request.from;
        check_protocol(&format!("node {from}"), request.protocol, request.protocol_min)?;
        self.judge_list(from, &list_of(&request.coordinators), is_formed)?;
        if request.from_storage.is_empty() || from == self.node_id {
            return Ok(());
        }
        let storage = uuid_of(&request.from_storage).ok_or("a storage's name is 16 bytes")?;
        let known = self.read();
        match &known.members {
            Some(members) if is_formed && members.get(&from) != Some(&storage) => Err(lost_storage(from)),
            _ => Ok(()),
        }
    }

    /// Two lists must name the same nodes; and the same addresses until the group is formed.
    pub(crate) fn judge_list(
        &self,
        from: u64,
        theirs: &BTreeMap<u64, String>,
        is_formed: bool,
    ) -> Result<(), String> {
        let own = self.list();
        let agrees = match is_formed {
            true => own.keys().eq(theirs.keys()),
            false => own == theirs,
        };
        if agrees {
            return Ok(());
        }
        Err(format!(
            "node {from} was started with --coordinators {}, node {} with {}; give all nodes the same list",
            list_text(theirs),
            self.node_id,
            list_text(own)
        ))
    }

    fn read(&self) -> std::sync::RwLockReadGuard<'_, Known> {
        self.known.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> std::sync::RwLockWriteGuard<'_, Known> {
        self.known.write().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What to do about a member that is not who it was.
pub(super) fn lost_storage(node: u64) -> String {
    format!(
        "the coordinator of node {node} does not have the storage that the cluster was formed with: its disk \
         was replaced, or its data directory is another one; restore raft/ of node {node} from its old disk"
    )
}

pub(super) fn storages_message(storages: &Storages) -> Vec<proto::MemberStorage> {
    let message =
        |(id, storage): (&u64, &Uuid)| proto::MemberStorage { id: *id, storage: uuid_bytes(*storage) };
    storages.iter().map(message).collect()
}

pub(super) fn storages_of(message: &[proto::MemberStorage]) -> Storages {
    message.iter().filter_map(|m| Some((m.id, uuid_of(&m.storage)?))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn list(ids: &[u64]) -> BTreeMap<u64, String> {
        ids.iter().map(|id| (*id, format!("127.0.0.1:{id}"))).collect()
    }

    fn group(node_id: u64) -> Group {
        Group::new(node_id, Uuid::from_u128(u128::from(node_id)), list(&[1, 2, 3]))
    }

    fn members() -> Storages {
        (1..=3).map(|id| (id, Uuid::from_u128(u128::from(id)))).collect()
    }

    #[test]
    fn only_members_with_their_own_storage_are_heard() {
        let (one, two) = (group(1), group(2));
        assert!(one.envelope(2).is_err(), "says nothing before it is admitted");
        one.admit(members());
        let envelope = one.envelope(2).expect("admitted");
        assert_eq!(two.check(Some(&envelope)).expect_err("not admitted").code(), tonic::Code::Unavailable);
        two.admit(members());
        assert_eq!(two.check(Some(&envelope)).expect("a member"), 1);
        assert!(two.check(None).is_err());
        let wrong = [
            proto::Envelope { to: 3, ..envelope.clone() },
            proto::Envelope { from: 4, ..envelope.clone() },
            proto::Envelope { from_storage: uuid_bytes(Uuid::from_u128(9)), ..envelope.clone() },
            proto::Envelope { to_storage: uuid_bytes(Uuid::from_u128(9)), ..envelope.clone() },
            proto::Envelope { protocol: PROTOCOL + 2, protocol_min: PROTOCOL + 1, ..envelope },
        ];
        for envelope in wrong {
            let refused = two.check(Some(&envelope)).expect_err("refused");
            assert_eq!(refused.code(), tonic::Code::FailedPrecondition, "{refused}");
        }
    }

    #[test]
    fn greetings_that_disagree_are_refused_in_one_line() {
        let (one, two) = (group(1), group(2));
        let greeting = one.greeting(false);
        assert_eq!(two.hello(&greeting, false).refusal, "");
        assert_eq!(two.seen().get(&1), Some(&one.storage));
        let other = proto::HelloRequest { coordinators: list_message(&list(&[1, 2])), ..greeting.clone() };
        let refusal = two.hello(&other, false).refusal;
        assert!(refusal.contains("1=127.0.0.1:1,2=127.0.0.1:2,3=127.0.0.1:3"), "{refusal}");
        assert!(refusal.contains("--coordinators 1=127.0.0.1:1,2=127.0.0.1:2, node 2"), "{refusal}");
        two.admit(members());
        let blank = proto::HelloRequest { from_storage: uuid_bytes(Uuid::from_u128(7)), ..greeting.clone() };
        let refusal = two.hello(&blank, true).refusal;
        assert!(refusal.contains("disk") && refusal.contains("restore"), "{refusal}");
        assert_eq!(two.hello(&greeting, true).members.len(), 3);
    }

    #[test]
    fn the_oldest_member_sets_the_rules() {
        let one = group(1);
        assert_eq!(one.rules(), RULES_VERSION);
        one.note_rules(2, u32::from(RULES_VERSION) + 1);
        assert_eq!(one.rules(), RULES_VERSION);
        one.note_rules(3, 1);
        assert_eq!(one.rules(), 1);
    }
}
