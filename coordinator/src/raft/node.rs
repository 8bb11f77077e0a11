//! One node of the group: opening its files, joining or forming the group, proposing and reading.

use std::collections::BTreeMap;
use std::fs::{self, OpenOptions};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use highwater_model::limits::{
    LEADER_LEASE, RAFT_CALL_MS_MAX, RAFT_SNAPSHOT_CHUNK_BYTES, RAFT_SNAPSHOT_CHUNK_MS_MAX,
};
use openraft::error::{ClientWriteError, InitializeError, RaftError};
use openraft::{Config, Raft, ServerState, SnapshotPolicy};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use uuid::Uuid;

use super::OpenError;
use super::election;
use super::files::sync_dir;
use super::formation::{self, Greeted};
use super::group::{Group, Members, Storages, lost_storage};
use super::identity;
use super::log_store::LogStore;
use super::machine::{Machine, StateCell, lone_peer};
use super::members;
use super::network::Network;
use super::service::{CoordinationDoor, Member};
use super::snapshot::SnapshotStore;
use super::types::{GroupLogId, Peer, Replies, TypeConfig};
use super::writer::Writer;
use crate::core::{Batch, RULES_VERSION};

/// What a node needs to start.
pub(crate) struct NodeSettings {
    pub node_id: u64,
    /// The node's data directory; Raft's files lie in `raft/` below it.
    pub data_dir: PathBuf,
    /// Entries between two snapshots, and entries kept below one.
    pub snapshot_entries: u64,
    /// Longest wait until a lone node leads and has applied its log.
    pub start_timeout: Duration,
    /// The members of the group with their addresses; empty, or this node alone, for a lone node.
    pub coordinators: BTreeMap<u64, String>,
}

/// A running node.
pub(crate) struct RaftNode {
    pub(super) raft: Raft<TypeConfig>,
    cell: Arc<StateCell>,
    writer: Arc<Writer>,
    /// None for a lone node.
    pub(super) group: Option<Arc<Group>>,
    leadership: watch::Receiver<Leadership>,
    tasks: Mutex<Vec<JoinHandle<()>>>,
}

/// Who leads, as far as this node knows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Leadership {
    pub leader: Option<u64>,
    pub term: u64,
}

/// What this node knows of its group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct GroupStatus {
    pub leadership: Leadership,
    pub applied: u64,
    /// Since a majority answered; only on the leader.
    pub quorum_ack_ms: Option<u64>,
    pub members: Vec<MemberStatus>,
}

/// What this node knows of one member of its group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct MemberStatus {
    pub node_id: u64,
    /// Empty for the only member.
    pub address: String,
    /// None for the only member.
    pub storage: Option<Uuid>,
    /// It votes; one that does not is still catching up.
    pub is_voter: bool,
    /// Index that it is known to have; only on the leader.
    pub matched: Option<u64>,
}

/// A proposal without an answer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum ProposeFailure {
    /// It has not entered the log: this node does not lead. The leader, if it is known.
    #[error("this node does not lead the control plane")]
    NotLeader(Option<u64>),
    /// It has not entered the log.
    #[error("{0}")]
    Failed(String),
    /// It has not entered the log, nor would it elsewhere or later, as the group is now.
    #[error("{0}")]
    Refused(String),
    /// It may have.
    #[error("{0}")]
    Unknown(String),
}

impl RaftNode {
    /// Opens the node's files. A lone node forms its group if there is none, and leads with its whole log
    /// applied on return. A member of several greets its peers through `door`, and returns once it is
    /// admitted; it may have to wait for them without end.
    pub(crate) async fn open(settings: NodeSettings, door: &CoordinationDoor) -> Result<RaftNode, OpenError> {
        let (node_id, list) = (settings.node_id, settings.coordinators.clone());
        let (snapshot_entries, start_timeout) = (settings.snapshot_entries, settings.start_timeout);
        let is_lone = list.len() <= 1;
        let open = tokio::task::spawn_blocking(move || open_files(&settings));
        let files = open.await.map_err(|e| OpenError::Raft(e.to_string()))??;
        let (cell, log) = (files.machine.cell(), files.log.clone());
        let group = match is_lone {
            true => None,
            false => Some(Arc::new(Group::new(node_id, files.storage.unwrap_or_default(), list))),
        };
        let config =
            Arc::new(if is_lone { lone_config(snapshot_entries) } else { member_config(snapshot_entries) });
        let network = Network { group: group.clone() };
        let raft = Raft::new(node_id, config, network, files.log, files.machine).await;
        let raft = raft.map_err(|e| OpenError::Raft(e.to_string()))?;
        let (tell, leadership) = watch::channel(Leadership::default());
        let follow = tokio::spawn(follow_leadership(raft.server_metrics(), tell));
        let tasks = Mutex::new(vec![follow]);
        let node = RaftNode { raft, cell, writer: files.writer, group, leadership, tasks };
        let joined = match &node.group {
            None => node.lead(node_id, start_timeout).await,
            Some(group) => node.join(Arc::clone(group), log, door).await,
        };
        match joined {
            Ok(()) => Ok(node),
            Err(e) => {
                node.close().await;
                Err(e)
            }
        }
    }

    /// Forms the group at the first start; elects this node where it does not lead already; waits for its
    /// log.
    async fn lead(&self, node_id: u64, timeout: Duration) -> Result<(), OpenError> {
        let fatal = |e: openraft::error::Fatal<u64>| OpenError::Raft(e.to_string());
        if self.raft.is_initialized().await.map_err(fatal)? {
            let found: Vec<u64> = members::of_raft(&self.raft).await?.nodes.into_keys().collect();
            if found.len() > 1 && found.contains(&node_id) {
                return Err(other_list(&found, "alone"));
            }
            if found != [node_id] {
                return Err(OpenError::ForeignNode { expected: node_id, found });
            }
            let state = self.raft.with_raft_state(|s| s.server_state).await.map_err(fatal)?;
            if state != ServerState::Leader {
                self.raft.trigger().elect().await.map_err(fatal)?;
            }
        } else {
            let members = BTreeMap::from([(node_id, lone_peer())]);
            self.raft.initialize(members).await.map_err(|e| OpenError::Raft(e.to_string()))?;
        }
        let ready = |m: &openraft::RaftMetrics<u64, Peer>| {
            m.state == ServerState::Leader && m.last_applied.map(|id| id.index) >= m.last_log_index
        };
        let waited = self.raft.wait(Some(timeout)).metrics(ready, "leads with its log applied").await;
        waited.map_err(|e| OpenError::Raft(e.to_string()))?;
        self.read_version().await.map(|_| ()).map_err(|e| OpenError::Raft(e.to_string()))
    }

    /// Finds the group or forms it; from then on this member votes and appends.
    async fn join(&self, group: Arc<Group>, log: LogStore, door: &CoordinationDoor) -> Result<(), OpenError> {
        let member = Member { group: Arc::clone(&group), raft: self.raft.clone(), log };
        let is_initialized = self.raft.is_initialized().await.map_err(|e| OpenError::Raft(e.to_string()))?;
        let known = match is_initialized {
            true => self.own_group(&group).await?,
            false => None,
        };
        match known {
            Some(members) => {
                group.admit(members);
                group.set_cluster_id(&self.cell.with(|state| state.cluster_id.clone()));
                door.open(member.clone());
                formation::greet_once(&group).await?;
            }
            None => {
                door.open(member.clone());
                match formation::greet(&group).await? {
                    Greeted::Formed(members) => group.admit(members),
                    Greeted::Complete(_) if is_initialized => {
                        return Err(OpenError::Group(lost_storage(group.node_id, group.storage)));
                    }
                    Greeted::Complete(seen) => self.form(&group, seen).await?,
                }
            }
        }
        let mut tasks = self.tasks.lock().unwrap_or_else(PoisonError::into_inner);
        tasks.push(tokio::spawn(election::run(member.clone())));
        tasks.push(tokio::spawn(members::run(member)));
        Ok(())
    }

    /// Writes the first entry, as every member does.
    async fn form(&self, group: &Group, seen: Storages) -> Result<(), OpenError> {
        let peer = |(id, storage): (&u64, &Uuid)| {
            let address = group.channels.address(*id).to_owned();
            (*id, Peer { address, storage: Some(*storage) })
        };
        let nodes: BTreeMap<u64, Peer> = seen.iter().map(peer).collect();
        group.admit(Members::founding(seen));
        match self.raft.initialize(nodes).await {
            // A peer was first, and has sent its entry already: it is the same.
            Ok(()) | Err(RaftError::APIError(InitializeError::NotAllowed(_))) => Ok(()),
            Err(e) => Err(OpenError::Raft(e.to_string())),
        }
    }

    /// The members that this directory's log names; the settings must name them too. None where this storage
    /// is none of them: it has been given the place of another one, and its log may not say so yet.
    async fn own_group(&self, group: &Group) -> Result<Option<Members>, OpenError> {
        let found = members::of_raft(&self.raft).await?;
        let ids: Vec<u64> = found.nodes.keys().copied().collect();
        if group.storage.is_nil() {
            return Err(match ids.contains(&group.node_id) {
                true => OpenError::Group(lost_storage(group.node_id, group.storage)),
                false => OpenError::ForeignNode { expected: group.node_id, found: ids },
            });
        }
        if !ids.iter().all(|id| group.list().contains_key(id)) {
            return Err(other_list(&ids, &crate::rpc::list_text(group.list())));
        }
        let members = found.members();
        Ok(members.filter(|members| members.storages.get(&group.node_id) == Some(&group.storage)))
    }

    pub(crate) fn cell(&self) -> &Arc<StateCell> {
        &self.cell
    }

    /// None for a lone node.
    pub(crate) fn group(&self) -> Option<&Arc<Group>> {
        self.group.as_ref()
    }

    /// Told at every change.
    pub(crate) fn leadership(&self) -> watch::Receiver<Leadership> {
        self.leadership.clone()
    }

    /// This node leads, and a majority has said so lately: what it decides by itself (sessions) counts.
    pub(crate) fn leads_for_sure(&self) -> bool {
        self.group.is_none() || election::leads(&self.raft)
    }

    /// The rules that a new entry may use: all members know them.
    pub(crate) fn rules(&self) -> u16 {
        self.group.as_ref().map_or(RULES_VERSION, |group| group.rules())
    }

    pub(crate) fn status(&self) -> GroupStatus {
        let metrics = self.raft.metrics();
        let metrics = metrics.borrow();
        let index = |id: &Option<GroupLogId>| id.map(|id| id.index);
        let membership = metrics.membership_config.membership();
        let member = |(id, peer): (&u64, &Peer)| MemberStatus {
            node_id: *id,
            address: peer.address.clone(),
            storage: peer.storage,
            // Midway through a change a majority of both lists is needed: who is in one of them alone does
            // not count yet, and the others may not go as if it did.
            is_voter: membership.get_joint_config().iter().all(|list| list.contains(id)),
            matched: metrics.replication.as_ref().and_then(|known| index(known.get(id)?)),
        };
        GroupStatus {
            leadership: *self.leadership.borrow(),
            applied: index(&metrics.last_applied).unwrap_or(0),
            quorum_ack_ms: metrics.millis_since_quorum_ack,
            members: membership.nodes().map(member).collect(),
        }
    }

    /// Appends one entry; returns its answers once it is committed and applied here.
    pub(crate) async fn propose(&self, batch: Arc<Batch>) -> Result<Replies, ProposeFailure> {
        let led = self.raft.metrics().borrow().state == ServerState::Leader;
        match self.raft.client_write(batch).await {
            Ok(written) => Ok(written.data),
            Err(RaftError::APIError(ClientWriteError::ForwardToLeader(e))) if !led => {
                Err(ProposeFailure::NotLeader(e.leader_id))
            }
            // The entry was in the log and another leader's took its place here; elsewhere it may live on.
            Err(RaftError::APIError(ClientWriteError::ForwardToLeader(_))) => {
                Err(ProposeFailure::Unknown("leadership of the control plane changed meanwhile".into()))
            }
            Err(RaftError::APIError(e)) => Err(ProposeFailure::Failed(e.to_string())),
            Err(RaftError::Fatal(e)) => Err(ProposeFailure::Unknown(e.to_string())),
        }
    }

    /// The state's version that holds everything that was acknowledged before the call; applied here. Only on
    /// the leader, which asks a majority whether it still leads.
    pub(crate) async fn read_version(&self) -> Result<u64, ProposeFailure> {
        use openraft::error::CheckIsLeaderError;
        match self.raft.ensure_linearizable().await {
            Ok(_) => Ok(self.cell.with(|state| state.version)),
            Err(RaftError::APIError(CheckIsLeaderError::ForwardToLeader(e))) => {
                Err(ProposeFailure::NotLeader(e.leader_id))
            }
            Err(e) => Err(ProposeFailure::Failed(e.to_string())),
        }
    }

    /// Stops Raft, lets the log's thread finish, and gives up the data directory.
    pub(crate) async fn close(&self) {
        for task in self.tasks.lock().unwrap_or_else(PoisonError::into_inner).drain(..) {
            task.abort();
        }
        self.writer.room().give_up();
        if let Err(e) = self.raft.shutdown().await {
            tracing::warn!(error = %e, "Raft did not shut down cleanly");
        }
        let writer = Arc::clone(&self.writer);
        if tokio::task::spawn_blocking(move || writer.close()).await.is_err() {
            tracing::warn!("the Raft log was not closed cleanly");
        }
    }
}

/// Tells of each change of leader; ends with Raft.
async fn follow_leadership(
    mut metrics: watch::Receiver<openraft::metrics::RaftServerMetrics<u64, Peer>>,
    tell: watch::Sender<Leadership>,
) {
    loop {
        let now = {
            let metrics = metrics.borrow_and_update();
            Leadership { leader: metrics.current_leader, term: metrics.vote.leader_id.term }
        };
        tell.send_if_modified(|known| std::mem::replace(known, now) != now);
        if metrics.changed().await.is_err() {
            return;
        }
    }
}

fn other_list(found: &[u64], given: &str) -> OpenError {
    let found: Vec<String> = found.iter().map(u64::to_string).collect();
    OpenError::Group(format!(
        "this data directory belongs to a group of the nodes {}, and --coordinators is {given}; correct the list \
         or give another --data-dir",
        found.join(", ")
    ))
}

/// What was found in the directory.
struct Files {
    log: LogStore,
    writer: Arc<Writer>,
    machine: Machine,
    /// None for a lone node.
    storage: Option<Uuid>,
}

fn open_files(settings: &NodeSettings) -> Result<Files, OpenError> {
    let dir = settings.data_dir.join("raft");
    fs::create_dir_all(&dir).map_err(OpenError::io(&dir))?;
    let lock_path = dir.join("lock");
    let lock = OpenOptions::new().create(true).truncate(false).write(true).open(&lock_path);
    let lock = lock.map_err(OpenError::io(&lock_path))?;
    lock.try_lock().map_err(|_| OpenError::Locked { path: dir.display().to_string() })?;
    let (mut snapshots, loaded) = SnapshotStore::open(&dir.join("snapshots"))?;
    let (log, writer) = LogStore::open(&dir, lock)?;
    snapshots.share_room(writer.room());
    let machine = Machine::new(snapshots, loaded);
    let found = identity::read(&dir, settings.node_id)?;
    let storage = match (settings.coordinators.len() > 1, found) {
        (false, _) => None,
        (true, Some(storage)) => Some(storage),
        (true, None) if log.last().is_none() && machine.applied().is_none() => {
            Some(identity::mint(&dir, settings.node_id)?)
        }
        // A group's log without a name is refused when its members are compared.
        (true, None) => None,
    };
    // A power failure after the first start must not take the directories away.
    for made in [&dir, &settings.data_dir] {
        sync_dir(made).map_err(OpenError::io(made))?;
    }
    // What lies between the snapshot and the first entry is nowhere: it must not be papered over.
    if log.purged() > machine.applied() {
        let index = |id: Option<GroupLogId>| id.map_or(0, |id| id.index + 1);
        return Err(OpenError::Missing {
            path: dir.display().to_string(),
            first: index(machine.applied()),
            end: index(log.purged()),
        });
    }
    Ok(Files { log, writer, machine, storage })
}

/// A single voter has nobody to hear from: no ticks, no heartbeats, no election timeouts.
fn lone_config(snapshot_entries: u64) -> Config {
    Config {
        cluster_name: "highwater".into(),
        enable_tick: false,
        enable_heartbeat: false,
        enable_elect: false,
        heartbeat_interval: 60_000,
        election_timeout_min: 120_000,
        election_timeout_max: 180_000,
        snapshot_policy: SnapshotPolicy::LogsSinceLast(snapshot_entries),
        // The log reaches back to the older of the two snapshots that are kept.
        max_in_snapshot_log_to_keep: snapshot_entries * 2,
        purge_batch_size: snapshot_entries.div_ceil(4),
        ..Config::default()
    }
}

/// A member of several. Its timers are ours (`election.rs`); of openraft's own, the "heartbeat interval" is
/// the deadline of a call, the shorter election timeout that of a vote, and the longer one the leader's
/// lease.
fn member_config(snapshot_entries: u64) -> Config {
    let lease_ms = u64::try_from(LEADER_LEASE.as_millis()).expect("a second");
    Config {
        heartbeat_interval: RAFT_CALL_MS_MAX,
        election_timeout_min: lease_ms - 1,
        election_timeout_max: lease_ms,
        install_snapshot_timeout: RAFT_SNAPSHOT_CHUNK_MS_MAX,
        snapshot_max_chunk_size: RAFT_SNAPSHOT_CHUNK_BYTES,
        ..lone_config(snapshot_entries)
    }
}
