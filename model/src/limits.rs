//! Every bound of the system by name (invariant 16). A queue, cache, loop or retry without a limit here or in
//! the settings is a defect. Units stand last in the name.

mod cluster;
mod delayed;
mod groups;
mod shards;
mod transactions;

pub use cluster::*;
pub use delayed::*;
pub use groups::*;
pub use shards::*;
pub use transactions::*;

// --- wire: what one connection or request may ask for ---

/// Largest request frame, in bytes (Kafka's `socket.request.max.bytes`).
pub const REQUEST_BYTES_MAX: usize = 100 * 1024 * 1024;
/// Frames above this grow their buffer as bytes arrive instead of trusting the length prefix.
pub const REQUEST_PREALLOCATE_BYTES_MAX: usize = 2 * 1024 * 1024;
/// Longest client id in a request header, in bytes; what is longer is closed as a broken frame.
pub const CLIENT_ID_BYTES_MAX: usize = 4 * 1024;
/// Tagged fields in one structure of a request (KIP-482); Kafka's own requests have at most a handful.
pub const TAGGED_FIELDS_MAX: usize = 64;
/// Bytes of one unknown tagged field.
pub const TAGGED_FIELD_BYTES_MAX: usize = 64 * 1024;
/// Elements of all arrays of one request together, so that a frame of `REQUEST_BYTES_MAX` cannot claim
/// 50 M of them.
pub const REQUEST_ELEMENTS_MAX: usize = 250_000;
/// Record bytes up to this length are copied between the fields of a fetch response instead of sent as
/// a chunk.
pub const FETCH_INLINE_BYTES_MAX: usize = 512;
/// Step by which the output of a streaming decoder grows, in bytes.
pub const DECOMPRESS_STEP_BYTES: usize = 64 * 1024;
/// What one batch may decompress to, in bytes, unless `max.message.bytes` is larger (and then no more than a
/// request may have).
pub const DECOMPRESSED_BYTES_MAX: usize = 64 * 1024 * 1024;
/// A validation buffer above this is given back after the batch that needed it, in bytes.
pub const DECOMPRESS_SCRATCH_KEEP_BYTES_MAX: usize = 8 * 1024 * 1024;
/// Nesting of a JSON value under `highwater.value.format=json`.
pub const JSON_DEPTH_MAX: usize = 512;

// --- broker admin: settings, administration requests, metrics, command line ---

/// Partitions of one topic.
pub const PARTITIONS_PER_TOPIC_MAX: usize = 100_000;
/// Largest count that a setting may ask for (threads, connections, concurrency).
pub const SETTING_COUNT_MAX: usize = 1_000_000;
/// Partitions that `/metrics` names one by one because their sealing has stopped.
pub const SEAL_ALARM_LABELS_MAX: usize = 100;
/// Largest answer that the command line's client reads, in bytes.
pub const CLIENT_RESPONSE_BYTES_MAX: usize = 128 * 1024 * 1024;
/// Elements of all arrays of one answer together that the command line's client reads: all partitions of a
/// cluster with three replicas each, and room.
pub const CLIENT_RESPONSE_ELEMENTS_MAX: usize = 2_000_000;
/// Pause of the command line's client before it asks again.
pub const CLIENT_RETRY_PAUSE: std::time::Duration = std::time::Duration::from_millis(100);
/// Most bytes that the command line's client unpacks a batch to.
pub const CLIENT_BATCH_BYTES_MAX: usize = 256 * 1024 * 1024;
/// Longest line that `highwater produce` reads, in bytes.
pub const CLIENT_LINE_BYTES_MAX: usize = 64 * 1024 * 1024;
/// Groups of lines between the reader of standard input and the sender.
pub const CLIENT_LINE_GROUPS_MAX: usize = 8;
/// Connections to the HTTP door at a time, and the age at which one is closed (it bounds slow clients too).
pub const HTTP_CONNECTIONS_MAX: usize = 256;
pub const HTTP_CONNECTION_AGE_MAX: std::time::Duration = std::time::Duration::from_secs(300);
/// Connections to the gRPC door at a time, more are refused: two of every other broker, for the control plane
/// and for replication, and those of operators.
pub const GRPC_CONNECTIONS_MAX: usize = 2 * BROKERS_MAX + 128;
/// How long a connection to the gRPC door may take to greet in HTTP/2.
pub const GRPC_GREETING_MAX: std::time::Duration = std::time::Duration::from_secs(10);
/// Refused clients that are told why at a time, and how long each may take to read it.
pub const GRPC_REFUSALS_MAX: usize = 32;
pub const GRPC_REFUSAL_MAX: std::time::Duration = std::time::Duration::from_secs(1);
/// Requests at a time on one connection of the gRPC door.
pub const GRPC_REQUESTS_PER_CONNECTION_MAX: usize = 32;
/// Largest message that the gRPC door reads, in bytes.
pub const GRPC_MESSAGE_BYTES_MAX: usize = 1024 * 1024;
/// Longest that `TierOffload` waits, and how long it waits if the caller does not say.
pub const OFFLOAD_WAIT_MAX: std::time::Duration = std::time::Duration::from_secs(3600);
pub const OFFLOAD_WAIT_DEFAULT: std::time::Duration = std::time::Duration::from_secs(60);
/// Topics in one CreateTopics, DeleteTopics or CreatePartitions request.
pub const ADMIN_TOPICS_PER_REQUEST_MAX: usize = 10_000;
/// Partitions that one request may create, over all its topics (Kafka's bound is the same).
pub const PARTITIONS_PER_REQUEST_MAX: usize = 10_000;
/// Topics that one Metadata request may create; the others stay unknown and the client asks again.
pub const AUTO_CREATE_PER_REQUEST_MAX: usize = 100;
/// Resources that one DescribeConfigs request is answered for; each answer has every setting.
pub const DESCRIBE_CONFIGS_RESOURCES_MAX: usize = 2_000;
/// Keys that one FindCoordinator request looks for; those beyond are to be asked for again.
pub const COORDINATOR_KEYS_MAX: usize = 10_000;
/// Partitions in one answer to DescribeTopicPartitions (Kafka's max.request.partition.size.limit).
pub const DESCRIBE_PARTITIONS_MAX: usize = 2_000;

// --- model: topic settings ---

/// Longest value of one topic setting, in bytes.
pub const TOPIC_CONFIG_VALUE_BYTES_MAX: usize = 32 * 1024;

// --- broker: the data plane ---

/// Requests of one connection that have begun and are not yet answered; the next one waits in the socket.
pub const REQUESTS_PENDING_PER_CONNECTION_MAX: usize = 64;
/// Bytes of answers in memory that wait on one connection for an earlier one; at or above it the next request
/// waits in the socket.
pub const READY_BYTES_PER_CONNECTION_MAX: usize = 4 * 1024 * 1024;
/// A client that takes nothing of an answer which holds memory of the tier's reads is closed after this, in
/// milliseconds ...
pub const HELD_MEMORY_STALL_MS_MAX: u64 = 15_000;
/// ... and one that takes it more slowly than this, on the whole of the answer.
pub const HELD_MEMORY_BYTES_PER_SECOND_MIN: u64 = 64 * 1024;
/// Bytes of a frame that a connection may hold without asking the memory budget of all requests.
pub const REQUEST_UNBUDGETED_BYTES_MAX: usize = 64 * 1024;
/// A connection's buffer above this is given back when the connection has been quiet for one check.
pub const CONNECTION_BUFFER_KEPT_BYTES_MAX: usize = 16 * 1024;
/// How often a connection looks whether it is idle or stuck, in milliseconds.
pub const CONNECTION_CHECK_MS: u64 = 15_000;
/// A frame that has begun to arrive must be whole within this time, in milliseconds, plus one second per
/// `FRAME_BYTES_PER_SECOND_MIN` bytes.
pub const FRAME_ARRIVAL_MS_MAX: u64 = 30_000;
/// Slowest rate at which a large frame may arrive.
pub const FRAME_BYTES_PER_SECOND_MIN: usize = 128 * 1024;
/// Connections of one address.
pub const CONNECTIONS_PER_ADDRESS_MAX: usize = 4_096;
/// Lines per second that tell of refused connections and frames; the rest are counted.
pub const REFUSAL_LOG_LINES_PER_SECOND_MAX: u32 = 10;
/// Slices handed to one gathering write.
pub const WRITE_SLICES_MAX: usize = 64;
/// Bytes handed to one sendfile call.
pub const SENDFILE_BYTES_MAX: usize = 4 * 1024 * 1024;
/// Slices of a segment up to this size are copied into the answer: cheaper than a sendfile of their own.
pub const FETCH_COPY_BYTES_MAX: usize = 16 * 1024;
/// Longest wait of a fetch for data, in milliseconds, whatever the client asks.
pub const FETCH_WAIT_MS_MAX: i64 = 5 * 60 * 1000;
/// Least time that a read from the tier is given before the fetch is answered without it, in milliseconds.
pub const TIER_FETCH_WAIT_MS_MIN: i64 = 500;
/// Deadline of one read from the tier, in milliseconds; it goes on after its fetch was answered, and fills
/// the cache.
pub const TIER_READ_MS_MAX: u64 = 30_000;
/// Partitions of one fetch that are read from the tier at a time.
pub const TIER_PARTITIONS_PER_FETCH_MAX: usize = 16;
/// Fetch sessions kept (Kafka's `max.incremental.fetch.session.cache.slots`).
pub const FETCH_SESSIONS_MAX: usize = 1_000;
/// Partitions of all fetch sessions together; over this, clients get full fetches.
pub const FETCH_SESSION_PARTITIONS_MAX: usize = 500_000;
/// A session unused for this long may be evicted, in milliseconds (Kafka's
/// `min.incremental.fetch.session.eviction.ms`).
pub const FETCH_SESSION_EVICTION_MS: i64 = 120_000;
/// What all compressed batches of one produce request may decompress to, in bytes; the rest is refused.
pub const DECOMPRESSED_PER_REQUEST_BYTES_MAX: usize = 1024 * 1024 * 1024;
/// Fetches that wait for data of one partition; those above it look again every `FETCH_POLL_MS`.
pub const FETCH_WAITERS_PER_PARTITION_MAX: usize = 10_000;
/// See [`FETCH_WAITERS_PER_PARTITION_MAX`]; in milliseconds.
pub const FETCH_POLL_MS: u64 = 100;
/// Stored bytes that one look of a fetch takes of topics whose records may expire: they are read into memory.
pub const SIFT_BYTES_MAX: usize = 8 * 1024 * 1024;
/// What the batches of such a look may hold once decompressed; the first batch may alone be larger.
pub const SIFT_RECORDS_BYTES_MAX: usize = 64 * 1024 * 1024;
/// Bytes of expired records, decompressed, that one fetch goes past before it is answered with where it is.
pub const SIFT_SKIPPED_BYTES_MAX: usize = 512 * 1024 * 1024;
/// Producer ids that the broker takes from the coordinator at a time.
pub const PRODUCER_ID_BLOCK: u32 = 1_000;
/// Free space of the data disk below which produce is refused, in bytes; a disk smaller than 64 times this
/// keeps 1/64.
pub const DISK_FREE_BYTES_MIN: u64 = 256 * 1024 * 1024;
/// How often workers look for what time alone makes due (rolls, flushes, free space), in milliseconds.
pub const WORKER_TICK_MS: u64 = 1_000;
/// First and longest pause before a failed offload is tried again, in milliseconds.
pub const OFFLOAD_RETRY_MS_MIN: u64 = 250;
/// See [`OFFLOAD_RETRY_MS_MIN`].
pub const OFFLOAD_RETRY_MS_MAX: u64 = 60_000;
/// How often the machine is looked at while there is something to offload, in milliseconds.
pub const PACE_LOOK_MS: u64 = 100;
/// Share of all cores in use, in thousandths, from which on tier work makes way.
pub const PACE_BUSY_PERMILLE: u64 = 750;
/// Looks in a row that must find the cores less used before tier work goes on.
pub const PACE_CALM_LOOKS: u32 = 3;
/// Looks without anything to offload after which the machine is looked at no more.
pub const PACE_IDLE_LOOKS: u32 = 10;
/// The disk counts as short with less free space than so many times what is reserved.
pub const PACE_DISK_RESERVES: u64 = 8;
/// Longest wait of `tier offload` for the manifest, in milliseconds.
pub const OFFLOAD_NOW_MS_MAX: u64 = 600_000;
/// Threads that open or close logs at a time.
pub const OPEN_THREADS_MAX: usize = 8;
/// Manifest pages that one pass of retention reads for one partition.
pub const PAGES_PER_RETENTION_MAX: usize = 64;

// --- tiering store/read/offload ---

/// Objects listed inline in a manifest; a publish beyond it is refused until a page has been spilled.
pub const MANIFEST_INLINE_OBJECTS_MAX: usize = 128;
/// Inline objects at which the offloader spills a page.
pub const MANIFEST_SPILL_AT_OBJECTS: usize = 96;
/// Objects in a page of level 0.
pub const MANIFEST_PAGE_OBJECTS: usize = 64;
/// Pages of one level at which they become one page of the next.
pub const MANIFEST_PAGE_FANOUT: usize = 32;
/// Page references in a manifest, all levels together.
pub const MANIFEST_PAGE_REFS_MAX: usize = 192;
/// Nodes that a page read from the bucket may list.
pub const MANIFEST_PAGE_NODES_MAX: usize = 1_024;
/// Levels of pages; 64 * 32^5 objects are two thousand million.
pub const MANIFEST_PAGE_LEVELS_MAX: u8 = 6;
/// Retired things that wait for their grace in one manifest.
pub const MANIFEST_RETIRING_MAX: usize = 64;
/// Uploads named by one `swept` edit.
pub const MANIFEST_SWEPT_MAX: usize = MANIFEST_RETIRING_MAX;
/// Leader epochs kept in a manifest (the newest); older ones are in the objects' footers.
pub const MANIFEST_EPOCHS_MAX: usize = 256;
/// Largest stored page of a manifest that is read, in bytes.
pub const MANIFEST_BYTES_MAX: usize = 1024 * 1024;

// --- tiering object ---

/// Rows of one stripe (a page of each column), and so of one rebuilt batch.
pub const OBJECT_STRIPE_ROWS_MAX: usize = 32 * 1024;
/// Bytes of a stripe's records in Kafka's framing; a larger record has a stripe of its own.
pub const OBJECT_STRIPE_BYTES_MAX: usize = 1024 * 1024 - 4096;
/// Bytes of a row group's records in Kafka's framing at which it is closed: what one ranged GET brings,
/// uncompressed.
pub const OBJECT_ROW_GROUP_BYTES: usize = 16 * 1024 * 1024;
/// Row groups of one object.
pub const OBJECT_ROW_GROUPS_MAX: usize = 64 * 1024;
/// Bytes of an object's records in Kafka's framing, uncompressed, at which it is ended after the batch at
/// hand; what is left of its segment becomes the next object.
pub const OBJECT_RAW_BYTES_MAX: u64 = 1024 * 1024 * 1024;
/// Bytes of an object's row groups at which it is ended likewise.
pub const OBJECT_BYTES_MAX: u64 = 512 * 1024 * 1024;
/// Bytes of a batch that replay builds, header included, unless one record alone is larger.
pub const REBUILT_BATCH_BYTES_MAX: usize = 1024 * 1024;
/// Bytes of an object's footer that a reader accepts.
pub const OBJECT_FOOTER_BYTES_MAX: usize = 64 * 1024 * 1024;
/// Bytes of one stripe's timestamp exceptions kept in the footer; longer ones lie behind the row group.
pub const OBJECT_EXCEPTIONS_INLINE_BYTES_MAX: usize = 64;
/// Bytes that one compressed batch may hold once decompressed at seal; at least what produce accepts.
pub const SEAL_BATCH_BYTES_MAX: usize = 1024 * 1024 * 1024;
/// A sealer's or rebuilder's buffer above this is given back after the large record that it grew for.
pub const OBJECT_BUFFER_KEEP_BYTES_MAX: usize = 8 * 1024 * 1024;
/// Nesting of Thrift structures that a footer's reader follows.
pub const OBJECT_THRIFT_DEPTH_MAX: usize = 12;
/// Bytes of `_key` kept in statistics.
pub const OBJECT_KEY_STATISTICS_BYTES_MAX: usize = 64;

// --- log: one partition's local log ---

/// Leader epochs that a partition remembers; the oldest is forgotten beyond it.
pub const EPOCHS_PER_PARTITION_MAX: usize = 65_536;
/// Sealed local segments of one partition.
pub const SEGMENTS_PER_PARTITION_MAX: usize = 100_000;
/// Rows of one segment's sparse index (2 GiB at the smallest sensible interval).
pub const INDEX_ROWS_MAX: usize = 1 << 20;
/// Largest side file (index, snapshot, checkpoint) that is read into memory, in bytes.
pub const SIDE_FILE_BYTES_MAX: u64 = 32 * 1024 * 1024;
/// Batches remembered per producer to recognise a duplicate (as Kafka; clients send at most 5 at once).
pub const PRODUCER_BATCHES_MAX: usize = 5;
/// Sequence numbers before those batches that a producer's state still vouches for: half of all there are, so
/// that what is old and what is to come cannot be mistaken for each other.
pub const PRODUCER_SEQUENCES_BEFORE_MAX: u32 = 1 << 30;
/// Idempotent producers remembered per partition; beyond it those silent for longest are forgotten.
pub const PRODUCERS_PER_PARTITION_MAX: usize = 10_000;
/// A segment smaller than this is not rolled because its record timestamps span `segment.ms`, in bytes.
pub const ROLL_BY_RECORD_TIME_BYTES_MIN: u64 = 1024 * 1024;
/// Sealed segments of one partition whose file and index are kept open for readers.
pub const SEALED_OPEN_PER_PARTITION_MAX: usize = 4;
/// Bytes read at once when batch headers are walked.
pub const HEADER_WINDOW_BYTES: usize = 4 * 1024;
/// A segment file that has grown to this has disk space reserved ahead of it; smaller ones are as long as
/// what is in them, bytes.
pub const RESERVE_FROM_BYTES: u64 = 1024 * 1024;
/// Disk space reserved ahead of a segment file at a time, at most; less while the file is smaller, bytes.
pub const RESERVE_AHEAD_BYTES_MAX: u64 = 8 * 1024 * 1024;
/// Bytes read at once when a segment is recovered; a larger batch grows it to its own size.
pub const RECOVERY_WINDOW_BYTES: usize = 1024 * 1024;
/// Segments that one read of a partition may span.
pub const READ_SLICES_MAX: usize = 16;
/// Unknown files in a partition's directory that a recovery report names.
pub const REPORTED_FILES_MAX: usize = 16;

// --- coordinator: the control plane ---

/// Topics of a cluster.
pub const TOPICS_MAX: usize = 100_000;
/// Partitions of a cluster.
pub const PARTITIONS_MAX: usize = 200_000;
/// Deleted topics whose objects wait to be swept; more deletions are refused.
pub const DELETED_TOPICS_MAX: usize = 10_000;
/// Brokers of a cluster.
pub const BROKERS_MAX: usize = 1_000;
/// Coordinators of a cluster.
pub const COORDINATORS_MAX: usize = 5;
/// Replicas of a partition, with those that a move adds and removes.
pub const REPLICAS_MAX: usize = 32;
/// Longest host name of a broker, in bytes.
pub const HOST_BYTES_MAX: usize = 255;
/// Producer ids that one request may allocate.
pub const PRODUCER_IDS_PER_BLOCK_MAX: u32 = 1_000_000;
/// Commands that wait to be proposed; more wait at the door.
pub const PROPOSALS_PENDING_MAX: usize = 4_096;
/// Commands of one Raft entry.
pub const COMMANDS_PER_ENTRY_MAX: usize = 256;
/// Bytes of commands after which a Raft entry takes no more.
pub const COMMANDS_PER_ENTRY_BYTES: usize = 1024 * 1024;
/// Largest single command, in bytes; a larger one is refused before it is proposed.
pub const COMMAND_BYTES_MAX: usize = 8 * 1024 * 1024;
/// Largest Raft entry on disk, in bytes; a longer length is corruption.
pub const RAFT_ENTRY_BYTES_MAX: usize = 64 * 1024 * 1024;
/// A Raft log file is closed and a new one begun past this size, in bytes.
pub const RAFT_LOG_FILE_BYTES: u64 = 2 * 1024 * 1024;
/// Requests that wait for the thread that writes the Raft log.
pub const RAFT_WRITES_PENDING_MAX: usize = 1_024;
/// How often the writing of Raft's files is tried again while the disk is full.
pub const RAFT_DISK_FULL_PAUSE: std::time::Duration = std::time::Duration::from_millis(200);
/// Raft entries between two snapshots; twice as many are kept below one.
pub const RAFT_SNAPSHOT_ENTRIES: u64 = 1_000;
/// Snapshots kept; the older one serves if the newer is damaged.
pub const RAFT_SNAPSHOTS_KEPT: usize = 2;
/// Largest snapshot, in bytes; a longer length is corruption.
pub const RAFT_SNAPSHOT_BYTES_MAX: u64 = 4 * 1024 * 1024 * 1024;
/// Longest wait for a connection to the store, in milliseconds.
pub const STORE_CONNECT_MS_MAX: u64 = 5_000;
/// Entries of a local bucket that are looked at for leftovers of interrupted writes when it is opened.
pub const STORE_LEFTOVER_ENTRIES_MAX: usize = 1_000_000;
/// Age at which such a file is no longer being written, in milliseconds: longer than an upload may take.
pub const STORE_LEFTOVER_AGE_MS: u64 = 3_600_000;
/// Keys that one list call may return.
pub const STORE_LIST_KEYS_MAX: usize = 100_000;
/// Keys that one bulk delete names (S3's own limit).
pub const STORE_DELETE_KEYS_MAX: usize = 1_000;
/// First and longest pause between attempts of one store request, in milliseconds.
pub const STORE_BACKOFF_FIRST_MS: u64 = 50;
/// See [`STORE_BACKOFF_FIRST_MS`].
pub const STORE_BACKOFF_LAST_MS: u64 = 5_000;
/// Slowest transfer that an attempt is given time for, in bytes a second.
pub const STORE_BYTES_PER_S_MIN: u64 = 1024 * 1024;
/// Bytes read at a time when an object is compared with what should be in it.
pub const STORE_COMPARE_BYTES: u64 = 8 * 1024 * 1024;
/// Time for each step of the store's probe at start, and for the whole of it, in milliseconds.
pub const STORE_PROBE_STEP_MS_MAX: u64 = 5_000;
/// See [`STORE_PROBE_STEP_MS_MAX`].
pub const STORE_PROBE_MS_MAX: u64 = 15_000;
/// Attempts to raise a partition's log start against concurrent edits of its manifest.
pub const LOG_START_ATTEMPTS_MAX: usize = 16;
/// Time for the upload of one object, retries included, in milliseconds, beside the time that its bytes take
/// at `STORE_BYTES_PER_S_MIN`.
pub const OFFLOAD_UPLOAD_MS_MAX: u64 = 300_000;
/// Time for each other request of an offload (verify, page, orphan), retries included, in milliseconds.
pub const OFFLOAD_STEP_MS_MAX: u64 = 60_000;
/// Proposals of one publish before its outcome is reported as it stands.
pub const OFFLOAD_PROPOSALS_MAX: u32 = 8;
/// Pages spilled after one publish; more than one only when levels fill at once.
pub const OFFLOAD_SPILLS_MAX: u32 = 8;
/// Pause between proposals that failed, in milliseconds.
pub const OFFLOAD_PROPOSE_PAUSE_MS: u64 = 200;
/// Segments that wait for a sealing thread.
pub const SEAL_QUEUE_MAX: usize = 16;
/// A sealing thread idle for this long gives up its buffers, in milliseconds.
pub const SEAL_IDLE_MS: u64 = 30_000;
/// How much lower than the rest of the process sealing in the background runs (`nice`): the lowest there is.
pub const SEAL_NICE: i32 = 19;
/// How long a changed manifest may wait for more changes before it is mirrored, in milliseconds.
pub const MIRROR_DELAY_MS: u64 = 2_000;
/// Bytes at the start of a mirror that are read to learn its version, however large the document is.
pub const MIRROR_HEAD_BYTES: u64 = 1024;
/// Mirrors written at a time.
pub const MIRROR_CONCURRENCY_MAX: usize = 4;
/// Attempts to write one mirror over what others wrote, per round.
pub const MIRROR_ATTEMPTS_MAX: u32 = 4;
/// How long a retired object stays in the bucket, in milliseconds: longer than any read may take
/// (`TIER_READ_MS_MAX`).
pub const RETIRED_GRACE_MS: i64 = 120_000;
/// Keys deleted at once by the sweep.
pub const SWEEP_KEYS_MAX: usize = 500;
/// Prune edits in a row for one retention decision.
pub const PRUNE_ROUNDS_MAX: u32 = 16;
/// Readers that are remembered so that their next read finds what was fetched ahead.
pub const TIER_STREAMS_MAX: usize = 1_024;
/// A reader silent for this long gives up what was fetched ahead for it, in milliseconds.
pub const TIER_STREAM_IDLE_MS: u64 = 10_000;
/// Row groups fetched ahead of one reader.
pub const TIER_AHEAD_GROUPS_MAX: usize = 3;
/// Bytes of batches rebuilt ahead of one reader.
pub const TIER_AHEAD_REBUILT_BYTES_MAX: usize = 2 * 1024 * 1024;
/// Chunks that one read puts together.
pub const TIER_CHUNKS_PER_READ_MAX: usize = 1_024;
/// Times that one read goes on with a fresh manifest after its object was replaced.
pub const TIER_REOPENS_MAX: u32 = 2;
