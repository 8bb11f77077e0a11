//! What this process knows of its group: who the members are, by which storage it knows them, who is
//! admitted, and when a leader was last heard.
//!
//! Owns the judgement of greetings and of every message's envelope. A member whose storage is not the one
//! that the group knows has forgotten what it voted for and acknowledged: it is refused, and refuses to vote
//! or append itself. Members change (`members.rs`); the newest membership that this node has heard of counts
//! here, which says with whom to talk, never who has won a vote: that is openraft's, by the log. Must not:
//! send or wait (`formation.rs` and `network.rs` do).

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Mutex, PoisonError, RwLock};

use highwater_model::limits::LEADER_LEASE;
use tokio::time::Instant;
use tonic::Status;
use uuid::Uuid;

use crate::core::RULES_VERSION;
use crate::rpc::{
    Channels, check_protocol, list_message, list_of, list_text, proto, protocol, protocol_min, uuid_bytes,
    uuid_of,
};

/// The members by the names of their storages.
pub(crate) type Storages = BTreeMap<u64, Uuid>;

/// Where in the log a membership stands; a later one is newer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct MembersAt {
    pub term: u64,
    pub index: u64,
}

/// The members of a group that is formed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Members {
    pub storages: Storages,
    /// Those that vote; the others catch up.
    pub voters: BTreeSet<u64>,
    pub at: MembersAt,
}

impl Members {
    /// Those that a group is formed with: the first entry of its log.
    pub(crate) fn founding(storages: Storages) -> Members {
        Members { voters: storages.keys().copied().collect(), storages, at: MembersAt::default() }
    }
}

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
    /// Those of the formed group, once this node is admitted to it; the newest that it has heard of.
    members: Option<Members>,
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

    /// The other members that vote.
    pub(crate) fn peers(&self) -> Vec<u64> {
        self.voters().into_iter().filter(|id| *id != self.node_id).collect()
    }

    fn voters(&self) -> BTreeSet<u64> {
        self.read().members.as_ref().map(|members| members.voters.clone()).unwrap_or_default()
    }

    /// Members that decide: more than half.
    pub(crate) fn quorum(&self) -> usize {
        self.voters().len() / 2 + 1
    }

    /// From now on votes and appends are answered and sent, among these members.
    pub(crate) fn admit(&self, members: Members) {
        let own = members.storages.get(&self.node_id);
        assert_eq!(own, Some(&self.storage), "admitted by the storage it has");
        self.write().members = Some(members);
    }

    /// Takes over what the log or a peer says of the members, if it is newer and this node is one of them; a
    /// log that is being filled tells of many that were.
    pub(crate) fn note_members(&self, members: Members) {
        let mut known = self.write();
        let is_newer = known.members.as_ref().is_some_and(|known| known.at < members.at);
        if is_newer && members.storages.get(&self.node_id) == Some(&self.storage) {
            tracing::info!("coordinators: {:?}, of which vote {:?}", members.storages, members.voters);
            known.members = Some(members);
        }
    }

    /// This node is of those that the group was formed with, as far as it knows: it may vote before it has
    /// the entry that says so.
    pub(crate) fn is_founding(&self) -> bool {
        self.read().members.as_ref().is_some_and(|members| members.at == MembersAt::default())
    }

    pub(crate) fn is_admitted(&self) -> bool {
        self.read().members.is_some()
    }

    pub(crate) fn members(&self) -> Option<Members> {
        self.read().members.clone()
    }

    pub(crate) fn cluster_id(&self) -> String {
        self.read().cluster_id.clone()
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
        let known = self.read();
        let is_member = |id: &u64| known.members.as_ref().is_none_or(|m| m.storages.contains_key(id));
        let said = known.rules.iter().filter(|(id, _)| is_member(id));
        said.map(|(_, rules)| *rules).fold(RULES_VERSION, u16::min)
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
        let storage = known.members.as_ref().and_then(|members| members.storages.get(&to));
        let storage = storage.ok_or_else(|| Status::unavailable("not admitted to the group yet"))?;
        Ok(proto::Envelope {
            protocol: protocol(),
            protocol_min: protocol_min(),
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
        let given = uuid_of(&envelope.from_storage).unwrap_or_default();
        match members.storages.get(&from) {
            None => refuse(format!("node {from} is no coordinator of this cluster")),
            Some(storage) if given != *storage => refuse(lost_storage(from, given)),
            Some(_) => Ok(from),
        }
    }

    /// This node's own greeting.
    pub(crate) fn greeting(&self, is_formed: bool) -> proto::HelloRequest {
        proto::HelloRequest {
            protocol: protocol(),
            protocol_min: protocol_min(),
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
            protocol: protocol(),
            protocol_min: protocol_min(),
            from: self.node_id,
            from_storage: uuid_bytes(self.storage),
            process: uuid_bytes(self.process),
            coordinators: list_message(self.list()),
            seen: storages_message(&known.seen),
            rules: u32::from(RULES_VERSION),
            is_formed,
            members: known.members.as_ref().filter(|_| is_formed).map(members_message).unwrap_or_default(),
            members_at: known.members.as_ref().filter(|_| is_formed).map(|members| proto::LogPosition {
                term: members.at.term,
                node: 0,
                index: members.at.index,
            }),
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
        match known.members.as_ref().filter(|_| is_formed).map(|members| members.storages.get(&from)) {
            None => Ok(()),
            Some(Some(known)) if *known == storage => Ok(()),
            Some(Some(_)) => Err(lost_storage(from, storage)),
            Some(None) => Err(no_member(from, storage)),
        }
    }

    /// Until the group is formed, two lists must be the same. Then it is the log that says who is a member:
    /// a list must name all of them, and may name nodes that are to be added.
    pub(crate) fn judge_list(
        &self,
        from: u64,
        theirs: &BTreeMap<u64, String>,
        is_formed: bool,
    ) -> Result<(), String> {
        let own = self.list();
        let agrees = match self.read().members.as_ref().filter(|_| is_formed) {
            Some(members) => members.storages.keys().all(|id| theirs.contains_key(id)),
            // Who the members are this node is about to hear.
            None if is_formed => true,
            None => own == theirs,
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
pub(super) fn lost_storage(node: u64, storage: Uuid) -> String {
    format!(
        "the coordinator of node {node} does not have the storage that the cluster knows: its disk was \
         replaced, or its data directory is another one; restore raft/ of node {node} from its old disk, or, \
         if that is lost for good, run `highwater cluster coordinators replace {node} --storage {storage}` \
         against another node and start this one again"
    )
}

/// What to do about a node that wants to be a member and is none.
pub(super) fn no_member(node: u64, storage: Uuid) -> String {
    format!(
        "node {node} is no coordinator of this cluster (yet); run `highwater cluster coordinators add \
         {node}=HOST:PORT --storage {storage}` against a coordinator and start this one again"
    )
}

/// The members as they travel, with their part in votes.
fn members_message(members: &Members) -> Vec<proto::MemberStorage> {
    let message = |(id, storage): (&u64, &Uuid)| proto::MemberStorage {
        id: *id,
        storage: uuid_bytes(*storage),
        is_learner: !members.voters.contains(id),
    };
    members.storages.iter().map(message).collect()
}

pub(super) fn members_of(message: &[proto::MemberStorage], at: Option<&proto::LogPosition>) -> Members {
    let voters = message.iter().filter(|m| !m.is_learner).map(|m| m.id).collect();
    let at = at.map(|at| MembersAt { term: at.term, index: at.index }).unwrap_or_default();
    Members { storages: storages_of(message), voters, at }
}

pub(super) fn storages_message(storages: &Storages) -> Vec<proto::MemberStorage> {
    let message = |(id, storage): (&u64, &Uuid)| proto::MemberStorage {
        id: *id,
        storage: uuid_bytes(*storage),
        is_learner: false,
    };
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

    fn members() -> Members {
        Members::founding((1..=3).map(|id| (id, Uuid::from_u128(u128::from(id)))).collect())
    }

    #[test]
    fn the_newest_members_count_and_others_are_not_heard_any_more() {
        let (one, three) = (group(1), group(3));
        one.admit(members());
        three.admit(members());
        let old = three.envelope(1).expect("admitted");
        assert!(one.is_founding() && one.check(Some(&old)).is_ok());
        let replaced = Uuid::from_u128(33);
        let mut next = Members { at: MembersAt { term: 4, index: 9 }, ..members() };
        next.storages.insert(3, replaced);
        next.voters.remove(&3);
        one.note_members(next.clone());
        one.note_members(Members { at: MembersAt { term: 3, index: 12 }, ..members() });
        assert_eq!(one.members(), Some(next.clone()), "an older one changes nothing");
        assert_eq!((one.peers(), one.quorum(), one.is_founding()), (vec![2], 2, false));
        let refused = one.check(Some(&old)).expect_err("the old disk").to_string();
        assert!(refused.contains("coordinators replace 3 --storage"), "{refused}");
        let new = proto::Envelope { from_storage: uuid_bytes(replaced), ..old };
        assert_eq!(one.check(Some(&new)).expect("the new one"), 3);
        // It hears that it is a member no more, and stays with what it knew.
        three.note_members(next);
        assert_eq!(three.members(), Some(members()));
    }

    #[test]
    fn lists_may_be_ahead_of_the_members_and_not_behind_them() {
        let one = group(1);
        one.admit(members());
        assert_eq!(one.judge_list(4, &list(&[1, 2, 3, 4, 5]), true), Ok(()), "4 and 5 are to be added");
        assert!(one.judge_list(4, &list(&[1, 2, 4]), true).is_err(), "3 is a member");
        let newcomer = Group::new(4, Uuid::from_u128(4), list(&[1, 2, 3, 4]));
        let refusal = one.hello(&newcomer.greeting(false), true).refusal;
        assert!(refusal.contains("coordinators add 4=HOST:PORT --storage"), "{refusal}");
        assert_eq!(refusal.lines().count(), 1);
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
            proto::Envelope { protocol: protocol() + 2, protocol_min: protocol() + 1, ..envelope },
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
