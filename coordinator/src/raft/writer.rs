//! The thread that does all writing of log and vote, in the order asked. Requests that wait together share
//! one fdatasync. After a failed write or sync nothing more is written (invariant 5): what the disk holds is
//! unknown.

use std::fs::{self, File};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Mutex, PoisonError};
use std::thread::JoinHandle;

use highwater_model::limits::RAFT_WRITES_PENDING_MAX;

use super::OpenError;
use super::files::{LogFiles, sync_dir};
use super::frame::{Frame, Position};
use super::room::Room;

/// Told once the request is durable, or has failed; in the order of the requests.
pub(super) type Done = Box<dyn FnOnce(io::Result<()>) + Send>;

/// One request to the thread.
pub(super) enum Write {
    Append { frames: Vec<Frame>, done: Done },
    Committed(Position),
    Vote { vote: StoredVote, done: Done },
    Truncate { from: u64, done: Done },
    Purge { upto: Position, done: Done },
}

/// A vote as it is stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct StoredVote {
    pub term: u64,
    pub node: u64,
    pub committed: bool,
}

const VOTE_MAGIC: &[u8; 8] = b"HWRAFTVT";
const VOTE_VERSION: u32 = 1;
const VOTE_BYTES: usize = 40;

/// The front of the thread. Closing or dropping it lets the thread finish what it was given.
pub(super) struct Writer {
    room: Room,
    requests: Mutex<Option<SyncSender<Write>>>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

impl Writer {
    /// Starts the thread. `lock` is held until it has ended.
    pub(super) fn start(files: LogFiles, dir: &Path, lock: File) -> io::Result<Writer> {
        let (requests, inbox) = sync_channel(RAFT_WRITES_PENDING_MAX);
        let (vote_path, room) = (dir.join("vote"), files.room());
        let work = move || {
            let _lock = lock;
            Thread { files, vote_path, failure: None }.run(&inbox);
        };
        let thread = std::thread::Builder::new().name("raft-log".into()).spawn(work)?;
        Ok(Writer { room, requests: Mutex::new(Some(requests)), thread: Mutex::new(Some(thread)) })
    }

    /// Where what is written for this member waits for room.
    pub(super) fn room(&self) -> &Room {
        &self.room
    }

    /// Hands a request over. Fails when the thread has ended; the request's `done` is then never called.
    pub(super) fn send(&self, request: Write) -> io::Result<()> {
        let requests = self.requests.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let requests = requests.ok_or_else(|| io::Error::other("the Raft log is closed"))?;
        requests.send(request).map_err(|_| io::Error::other("the Raft log's thread has ended"))
    }

    /// Ends the thread after what it was given, and waits for it.
    pub(super) fn close(&self) {
        self.room.give_up();
        drop(self.requests.lock().unwrap_or_else(PoisonError::into_inner).take());
        let thread = self.thread.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(thread) = thread
            && thread.join().is_err()
        {
            tracing::error!("the Raft log's thread panicked");
        }
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        self.close();
    }
}

struct Thread {
    files: LogFiles,
    vote_path: PathBuf,
    failure: Option<String>,
}

impl Thread {
    fn run(mut self, inbox: &Receiver<Write>) {
        let mut carried = None;
        while let Some(request) = carried.take().or_else(|| inbox.recv().ok()) {
            match request {
                Write::Append { frames, done } => carried = self.append(frames, done, inbox),
                Write::Committed(at) => {
                    let _ = self.attempt(|thread| thread.files.mark_committed(at));
                }
                Write::Vote { vote, done } => {
                    done(self.attempt(|thread| write_vote(&thread.vote_path, vote, &thread.files.room())))
                }
                Write::Truncate { from, done } => done(self.attempt(|thread| thread.files.truncate(from))),
                Write::Purge { upto, done } => done(self.attempt(|thread| thread.files.purge(upto))),
            }
        }
    }

    /// Appends what waits, syncs once, tells everyone. Returns a request of another kind that came up.
    fn append(&mut self, frames: Vec<Frame>, done: Done, inbox: &Receiver<Write>) -> Option<Write> {
        let mut outcome = self.attempt(|thread| thread.files.append(&frames));
        let mut waiting = vec![done];
        let mut carried = None;
        while waiting.len() < RAFT_WRITES_PENDING_MAX {
            match inbox.try_recv() {
                Ok(Write::Append { frames, done }) => {
                    outcome = outcome.and_then(|()| self.attempt(|thread| thread.files.append(&frames)));
                    waiting.push(done);
                }
                Ok(other) => {
                    carried = Some(other);
                    break;
                }
                Err(_) => break,
            }
        }
        let outcome = outcome.and_then(|()| self.attempt(|thread| thread.files.sync()));
        for done in waiting {
            done(match &outcome {
                Ok(()) => Ok(()),
                Err(e) => Err(io::Error::new(e.kind(), e.to_string())),
            });
        }
        carried
    }

    fn attempt(&mut self, work: impl FnOnce(&mut Thread) -> io::Result<()>) -> io::Result<()> {
        if let Some(failure) = &self.failure {
            return Err(io::Error::other(failure.clone()));
        }
        work(self).inspect_err(|e| {
            tracing::error!(error = %e, "the Raft log cannot be written; this node's control plane stops");
            self.failure = Some(format!("the Raft log failed before: {e}"));
        })
    }
}

/// Reads the vote; None where there is none yet.
pub(super) fn read_vote(dir: &Path) -> Result<Option<StoredVote>, OpenError> {
    let path = dir.join("vote");
    let bytes = match fs::read(&path) {
        Ok(bytes) => bytes,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(OpenError::io(&path)(e)),
    };
    let u64_at = |at: usize| u64::from_le_bytes(bytes[at..at + 8].try_into().expect("8 bytes"));
    let u32_at = |at: usize| u32::from_le_bytes(bytes[at..at + 4].try_into().expect("4 bytes"));
    let whole = bytes.len() == VOTE_BYTES && &bytes[..8] == VOTE_MAGIC;
    if !whole || u32_at(12) != crc32c::crc32c(&bytes[16..]) {
        return Err(OpenError::damaged(&path, 0, "not a vote"));
    }
    if u32_at(8) != VOTE_VERSION {
        return Err(OpenError::Newer { path: path.display().to_string(), format: u32_at(8) });
    }
    Ok(Some(StoredVote { term: u64_at(16), node: u64_at(24), committed: bytes[32] == 1 }))
}

/// Replaces the vote, whole or not at all; durable on return.
fn write_vote(path: &Path, vote: StoredVote, room: &Room) -> io::Result<()> {
    let mut bytes = [0; VOTE_BYTES];
    bytes[..8].copy_from_slice(VOTE_MAGIC);
    bytes[8..12].copy_from_slice(&VOTE_VERSION.to_le_bytes());
    bytes[16..24].copy_from_slice(&vote.term.to_le_bytes());
    bytes[24..32].copy_from_slice(&vote.node.to_le_bytes());
    bytes[32] = u8::from(vote.committed);
    let crc = crc32c::crc32c(&bytes[16..]);
    bytes[12..16].copy_from_slice(&crc.to_le_bytes());
    let temporary = path.with_extension("tmp");
    let file = room.wait_out(|| {
        let mut file = File::create(&temporary)?;
        file.write_all(&bytes)?;
        Ok(file)
    })?;
    file.sync_all()?;
    room.wait_out(|| fs::rename(&temporary, path))?;
    sync_dir(path.parent().expect("the vote lies in a directory"))
}
