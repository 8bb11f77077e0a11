//! Limits of what nodes do together: replication, the control plane between nodes, raft groups. Each is named
//! here with its unit and its reason (invariant 16).

use super::{BROKERS_MAX, REQUEST_BYTES_MAX};

// --- broker: replication by fetch ---

/// Partitions that one request of an operator moves.
pub const MOVES_PER_REQUEST_MAX: usize = 10_000;

/// Pause before a change of the in-sync set is proposed again that was refused or not answered, in
/// milliseconds.
pub const ISR_RETRY_MS: i64 = 500;
/// A replica in sync that has taken nothing for so long, though there is something, is not waited for once
/// the leader's session with the control plane has lapsed, in milliseconds.
pub const ISR_SILENT_MS_MAX: i64 = 2_000;
/// For so long a leader has to have refused appends for lack of room before it resigns, in milliseconds.
pub const DISK_FULL_RESIGN_MS: i64 = 2_000;
/// Refusals for lack of room that are further apart do not count as one state, in milliseconds.
pub const DISK_FULL_GAP_MS: i64 = 5_000;
/// A leader resigns from one partition for lack of room no more often than this, in milliseconds.
pub const DISK_FULL_RESIGN_PAUSE_MS: i64 = 60_000;
/// Leaders of one node that resign at a time for lack of room; the next ones a second later.
pub const DISK_FULL_RESIGN_MAX: usize = 100;
/// Bytes that one message to a follower carries for all its partitions, but for a single larger batch.
pub const REPLICA_ROUND_BYTES_MAX: usize = 4 * 1024 * 1024;
/// Records of a message to a follower up to which they are read on the spot; more are read on a thread of
/// their own.
pub const REPLICA_INLINE_READ_BYTES_MAX: usize = 256 * 1024;
/// A message of replication: the largest batch, and what stands around it.
pub const REPLICA_MESSAGE_BYTES_MAX: usize = REPLICA_ANSWER_BYTES_MAX + 16 * 1024 * 1024;
/// Messages of one replication stream that wait to be sent.
pub const REPLICA_MESSAGES_PENDING: usize = 2;
/// Partitions that one replication stream may carry.
pub const REPLICA_STREAM_PARTITIONS_MAX: usize = 100_000;
/// Positions in one message of a follower.
pub const REPLICA_FETCHES_PER_MESSAGE_MAX: usize = 10_000;
/// Leader epochs that a new replica is told of.
pub const EPOCHS_PER_BEGINNING_MAX: usize = 100_000;
/// Followers' streams that a broker serves at a time.
pub const REPLICA_STREAMS_MAX: usize = 1_024;
/// Longest wait for the first message on a follower's stream.
pub const REPLICA_HELLO_WAIT: std::time::Duration = std::time::Duration::from_secs(10);
/// Pause before a follower asks again what was refused, in milliseconds.
pub const REPLICA_RETRY_MS: u64 = 100;
/// Pause before a follower asks again for what it could not take, in milliseconds: each try may be a line in
/// the log, and syncs.
pub const REPLICA_FAILED_RETRY_MS: u64 = 1_000;
/// Longest pause before a follower connects again to a leader, in milliseconds; it grows from the one above.
pub const REPLICA_RECONNECT_MS_MAX: u64 = 1_000;
/// Streams that want to hear of one partition's news: followers, and replicas on their way.
pub const REPLICA_LISTENERS_MAX: usize = 64;
/// Partitions whose change of the in-sync set is being proposed at a time.
pub const ISR_PROPOSALS_MAX: usize = 32;
/// Bytes that one answer to a follower carries for one partition; a larger batch goes alone.
pub const REPLICA_FETCH_BYTES_MAX: usize = 1024 * 1024;
/// What a throttle of replication lets through at once after a rest, in milliseconds at its rate.
pub const THROTTLE_BURST_MS: u64 = 1_000;
/// Longest pause before a throttle is looked at again, in milliseconds: its rate may have changed.
pub const THROTTLE_LOOK_MS: u64 = 500;
/// Bytes of one answer that a follower takes for one partition: a batch may have as much as a request.
pub const REPLICA_ANSWER_BYTES_MAX: usize = REQUEST_BYTES_MAX;

// --- coordinator: nodes that talk to each other ---

/// Largest message between nodes, in bytes: a Raft entry of the largest command, or a piece of a snapshot.
pub const PEER_MESSAGE_BYTES_MAX: usize = 32 * 1024 * 1024;
/// Longest wait for a connection to a node.
pub const PEER_CONNECT_TIMEOUT: std::time::Duration = std::time::Duration::from_secs(1);
/// How often an idle connection between nodes is probed, and how long the answer may take.
pub const PEER_KEEPALIVE: std::time::Duration = std::time::Duration::from_secs(3);
/// See [`PEER_KEEPALIVE`].
pub const PEER_KEEPALIVE_TIMEOUT: std::time::Duration = std::time::Duration::from_secs(3);
/// Pause before a coordinator that cannot be reached is called again by Raft.
pub const PEER_BACKOFF: std::time::Duration = std::time::Duration::from_millis(200);
/// Deadline of one Raft call, and of one chunk of a Raft snapshot.
pub const RAFT_CALL_MS_MAX: u64 = 2_000;
/// See [`RAFT_CALL_MS_MAX`].
pub const RAFT_SNAPSHOT_CHUNK_MS_MAX: u64 = 10_000;
/// Bytes of one chunk of a Raft snapshot.
pub const RAFT_SNAPSHOT_CHUNK_BYTES: u64 = 1024 * 1024;
/// How often the leader of the control plane is heard when there is nothing else to say.
pub const HEARTBEAT_INTERVAL: std::time::Duration = std::time::Duration::from_millis(200);
/// A member that has heard its leader within this votes for nobody else.
pub const LEADER_LEASE: std::time::Duration = std::time::Duration::from_millis(1_000);
/// Longest that a member waits beyond the lease before it asks to lead; drawn anew each time.
pub const ELECTION_SPREAD: std::time::Duration = std::time::Duration::from_millis(500);
/// The same at the start, when nobody leads.
pub const START_SPREAD: std::time::Duration = std::time::Duration::from_millis(200);
/// Time that a peer has to say whether it would vote for the asker.
pub const PRE_VOTE_WAIT: std::time::Duration = std::time::Duration::from_millis(500);
/// A leader that a majority has answered within this lets nobody else ask for votes.
pub const LEADER_VETO: std::time::Duration = std::time::Duration::from_millis(3_000);
/// Pause between greetings while a group forms, and the deadline of one.
pub const GREETING_PAUSE: std::time::Duration = std::time::Duration::from_millis(200);
/// See [`GREETING_PAUSE`].
pub const GREETING_WAIT: std::time::Duration = std::time::Duration::from_millis(1_000);

/// How often the leader looks at members that have no vote yet.
pub const MEMBERS_LOOK: std::time::Duration = std::time::Duration::from_millis(500);
/// A new coordinator gets its vote when it lacks at most this many entries.
pub const LEARNER_LAG_ENTRIES_MAX: u64 = 100;

// --- broker: raft replication of partitions ---

/// Largest frame of a partition's Raft side file, in bytes; a longer length is damage.
pub const RAFT_SIDE_FRAME_BYTES_MAX: usize = 64 * 1024;
/// A side file that has grown past this, and to twice what its state takes, is written anew; in bytes.
pub const RAFT_SIDE_FILE_BYTES: usize = 64 * 1024;
/// Bytes of log between two rows of a side file: what is scanned at most to find an index.
pub const RAFT_ROW_BYTES: u64 = 1024 * 1024;
/// Recent entries of one group kept in memory for followers and apply, in bytes, and how many.
pub const RAFT_TAIL_BYTES_MAX: usize = 1024 * 1024;
/// See [`RAFT_TAIL_BYTES_MAX`].
pub const RAFT_TAIL_ENTRIES_MAX: usize = 1_024;
/// Entries of one append to a follower, in bytes; one larger batch goes alone.
pub const RAFT_APPEND_BYTES_MAX: usize = 1024 * 1024;
/// Commits are noted in the side file when this much has been appended since, in bytes.
pub const RAFT_COMMIT_NOTE_BYTES: u64 = 1024 * 1024;
/// Threads that fsync for the groups of one disk: file systems commit what waits together at once.
pub const RAFT_SYNC_THREADS: usize = 4;
/// Fsyncs that wait for these threads; more are refused, which ends the group's part.
pub const RAFT_SYNCS_PENDING_MAX: usize = 100_000;
/// Requests that wait for one peer's stream.
pub const RAFT_PEER_REQUESTS_MAX: usize = 1_024;
/// Largest message between peers, in bytes: an append, or a snapshot's producers.
pub const RAFT_MESSAGE_BYTES_MAX: usize = 128 * 1024 * 1024;
/// Deadline of an append or a vote between peers, in milliseconds.
pub const RAFT_RPC_MS_MAX: u64 = 5_000;
/// A leader that answered this recently is not unseated, in milliseconds.
pub const RAFT_LEASE_MS: u64 = 1_000;
/// Groups are looked at, and peers greeted, this often; in milliseconds.
pub const RAFT_TICK_MS: u64 = 100;
/// A peer that was silent for this long counts as gone, in milliseconds.
pub const RAFT_SILENT_MS: i64 = 1_500;
/// How often a leader whose part has ended tries to tell each of the others.
pub const RAFT_RESIGN_TRIES: u32 = 20;
/// Pause between two candidates of one group, and between two tries, in milliseconds.
pub const RAFT_CANDIDATE_STEP_MS: i64 = 150;
/// So long the candidate that comes first in a group denies others its vote, in milliseconds: an election's
/// lease and a few tries.
pub const RAFT_PREFERENCE_MS: i64 = 2_000;
/// Batches that wait for their place in a group's log, or for its commit, over all groups of a node; more are
/// refused with a retriable error.
pub const RAFT_PROPOSALS_PENDING_MAX: usize = 20_000;
/// Partitions whose groups are opened, closed or changed at a time.
pub const RAFT_TASKS_MAX: usize = 256;
/// Pause before a group that could not be opened, or has failed, is opened again, in milliseconds.
pub const RAFT_REOPEN_MS: u64 = 5_000;
/// A new replica has this long to catch up before the change of voters is tried anew, in milliseconds.
pub const RAFT_CATCH_UP_MS_MAX: u64 = 60_000;
/// Pause before a leader asks a node again which replica it has, in milliseconds.
pub const RAFT_ASK_MS: u64 = 2_000;
/// A partition that changes its way of replication is looked at this often, in milliseconds, for so long.
pub const RAFT_SWITCH_LOOK_MS: u64 = 25;
/// See [`RAFT_SWITCH_LOOK_MS`].
pub const RAFT_SWITCH_WAIT_MS: u64 = 2_000;
/// Candidates asked for in one message.
pub const RAFT_PRE_VOTES_PER_MESSAGE: usize = 1_000;
/// Pause before a write or a read is tried at another coordinator.
pub const ROUTE_PAUSE: std::time::Duration = std::time::Duration::from_millis(100);
/// Longest wait for one coordinator's answer to a read.
pub const ROUTE_ATTEMPT_WAIT: std::time::Duration = std::time::Duration::from_secs(3);
/// Metadata streams that one coordinator serves.
pub const METADATA_STREAMS_MAX: usize = 2_000;
/// Bytes of one piece of a metadata update, and pieces that wait for a client.
pub const METADATA_PIECE_BYTES: usize = 256 * 1024;
/// See [`METADATA_PIECE_BYTES`].
pub const METADATA_PIECES_PENDING: usize = 4;
/// Largest metadata update that is received, in bytes.
pub const METADATA_BYTES_MAX: usize = 1024 * 1024 * 1024;
/// A client that takes longer for one update gets a snapshot next.
pub const METADATA_BEHIND: std::time::Duration = std::time::Duration::from_secs(2);
/// A client that takes longer for one piece is left.
pub const METADATA_STALL: std::time::Duration = std::time::Duration::from_secs(30);
/// A coordinator that has had no leader for so long ends its metadata streams.
pub const METADATA_LEADERLESS: std::time::Duration = std::time::Duration::from_secs(4);
/// Longest wait until a metadata stream begins, and the pause before the next attempt.
pub const METADATA_SILENCE: std::time::Duration = std::time::Duration::from_secs(5);
/// See [`METADATA_SILENCE`].
pub const METADATA_RETRY: std::time::Duration = std::time::Duration::from_millis(200);
/// A broker whose session is silent for so long is fenced, in milliseconds, unless the settings say
/// otherwise.
pub const BROKER_SESSION_TIMEOUT_MS: u64 = 6_000;
/// Sessions that one coordinator serves: those of all brokers, and of some that come again.
pub const SESSIONS_MAX: usize = 2 * BROKERS_MAX;
/// How often a broker reports.
pub const SESSION_REPORT_INTERVAL: std::time::Duration = std::time::Duration::from_millis(500);
/// Largest report, in bytes.
pub const SESSION_REPORT_BYTES_MAX: usize = 16 * 1024 * 1024;
/// Reports or answers of one session that wait for the other side.
pub const SESSION_ANSWERS_PENDING: usize = 4;
/// Longest wait for a session to begin.
pub const SESSION_OPEN_WAIT: std::time::Duration = std::time::Duration::from_secs(2);
/// A broker looks for another leader when this one has not answered for so long.
pub const SESSION_SILENCE: std::time::Duration = std::time::Duration::from_secs(2);
/// Pause before a broker opens its session anew.
pub const SESSION_RETRY: std::time::Duration = std::time::Duration::from_millis(100);
/// A session whose stream broke lapses unless it is opened anew within this.
pub const SESSION_REOPEN: std::time::Duration = std::time::Duration::from_millis(1_000);
/// Pause before a broker that could not be fenced is fenced again.
pub const FENCE_AGAIN: std::time::Duration = std::time::Duration::from_millis(500);
/// For so long a new leader takes a broker that it has not heard for alive, when another process claims its
/// id.
pub const SESSION_GRACE: std::time::Duration = std::time::Duration::from_millis(1_500);
/// Longest sleep of the leader between two looks at the sessions.
pub const SESSION_CHECK_MAX: std::time::Duration = std::time::Duration::from_millis(1_000);
/// Over how long the traffic of a partition is averaged for plans of moves, in milliseconds.
pub const RATE_MEAN_MS: u64 = 180_000;
/// Pause between two rounds of balancing.
pub const BALANCE_INTERVAL: std::time::Duration = std::time::Duration::from_secs(5);
/// Partitions that move at a time in the whole cluster.
pub const BALANCE_MOVES_MAX: usize = 8;
/// Elections and changes of order in one round.
pub const BALANCE_ELECTIONS_MAX: usize = 200;
/// A broker is left alone for so long after it registered, in milliseconds.
pub const BALANCE_SETTLE_MS: i64 = 15_000;
/// A broker that is fenced for longer gives its replicas away, in milliseconds, unless the settings say
/// otherwise.
pub const BROKER_DEAD_TIMEOUT_MS: i64 = 600_000;
/// Brokers fenced at a time.
pub const FENCES_AT_ONCE_MAX: usize = 16;
/// Brokers that a new leader looks for at a time, how often at most, and how long each look may take.
pub const PROBES_AT_ONCE_MAX: usize = 64;
/// See [`PROBES_AT_ONCE_MAX`].
pub const PROBE_LOOKS_MAX: u32 = 4;
/// See [`PROBES_AT_ONCE_MAX`].
pub const PROBE_WAIT: std::time::Duration = std::time::Duration::from_millis(150);
/// Largest mark of a bucket that is read, in bytes.
pub const BUCKET_MARK_BYTES_MAX: u64 = 4 * 1024;
/// Longest that a stopping broker waits until its leaders have moved.
pub const STOP_BROKER_WAIT: std::time::Duration = std::time::Duration::from_secs(3);
/// Longest that a stopping node waits for the streams of its gRPC and HTTP doors.
pub const DOORS_CLOSE_WAIT: std::time::Duration = std::time::Duration::from_secs(2);
/// Greatest term that a Raft group may report. Leader epochs go on after it by single steps, and must not run
/// out.
pub const LEADER_EPOCH_MAX: i32 = i32::MAX / 2;
