//! The log's files: append, sync, truncate, purge, and opening after a crash. Synchronous; one owner
//! (`writer.rs`).
//!
//! A file is named after its first index and begins with a head that holds the position before it, so that
//! the log's start survives the removal of older files. A new file appears by rename after the file before it
//! was synced: only the newest can have a torn tail. Files are removed whole, oldest first; the newest is
//! kept.

use std::collections::VecDeque;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use highwater_model::limits::RAFT_LOG_FILE_BYTES;

use super::OpenError;
use super::frame::{self, Frame, Kind, Position, Tail};
use super::room::Room;

const MAGIC: &[u8; 8] = b"HWRAFTLG";
/// Version of the file's head.
const FILE_VERSION: u32 = 1;
const FILE_HEAD_BYTES: usize = 48;

/// The files of one log.
pub(super) struct LogFiles {
    dir: PathBuf,
    files: VecDeque<LogFile>,
    /// Position of the last entry, or the one before the first; None for a log that never had one.
    last: Option<Position>,
    /// Every entry below this index is synced.
    durable_end: u64,
    buffer: Vec<u8>,
    room: Room,
}

struct LogFile {
    path: PathBuf,
    file: File,
    first: u64,
    before: Option<Position>,
    /// Where the frame of each entry starts.
    starts: Vec<u64>,
    length: u64,
}

/// What was found at opening.
pub(super) struct Opened {
    pub files: LogFiles,
    /// Position before the first entry.
    pub before: Option<Position>,
    pub entries: Vec<Frame>,
    /// The last commit that was noted.
    pub committed: Option<Position>,
    /// Bytes of a torn tail that were cut.
    pub cut_bytes: u64,
}

impl LogFiles {
    /// Opens the log in `dir`, creating the directory; cuts a torn tail and syncs what stays.
    pub(super) fn open(dir: &Path) -> Result<Opened, OpenError> {
        fs::create_dir_all(dir).map_err(OpenError::io(dir))?;
        let mut opened = Opened {
            files: LogFiles {
                dir: dir.to_path_buf(),
                files: VecDeque::new(),
                last: None,
                durable_end: 0,
                buffer: Vec::new(),
                room: Room::default(),
            },
            before: None,
            entries: Vec::new(),
            committed: None,
            cut_bytes: 0,
        };
        let paths = list(dir)?;
        for (i, path) in paths.iter().enumerate() {
            opened.load(path, i + 1 == paths.len())?;
        }
        if let Some(newest) = opened.files.files.back() {
            newest.file.sync_data().map_err(OpenError::io(&newest.path))?;
        }
        let log = &mut opened.files;
        log.durable_end = log.last.map_or(0, |at| at.index + 1);
        Ok(opened)
    }

    /// Where its writes wait for room.
    pub(super) fn room(&self) -> Room {
        self.room.clone()
    }

    /// Writes frames at the end of the log. They are kept once `sync` has returned.
    pub(super) fn append(&mut self, frames: &[Frame]) -> io::Result<()> {
        for frame in frames {
            assert_ne!(frame.kind, Kind::Committed, "marks are written by mark_committed");
            let full = self.files.back().is_none_or(|file| file.length >= RAFT_LOG_FILE_BYTES);
            if full {
                self.write_buffer()?;
                self.begin_file(frame.at.index)?;
            }
            let newest = self.files.back_mut().expect("a file was begun");
            newest.starts.push(newest.length);
            let before = self.buffer.len();
            frame::encode(frame, self.durable_end, &mut self.buffer);
            newest.length += (self.buffer.len() - before) as u64;
            self.last = Some(frame.at);
        }
        self.write_buffer()
    }

    /// Notes a commit; not synced for its own sake.
    pub(super) fn mark_committed(&mut self, at: Position) -> io::Result<()> {
        let Some(newest) = self.files.back_mut() else { return Ok(()) };
        let mark = Frame { kind: Kind::Committed, at, body: Vec::new() };
        let before = self.buffer.len();
        frame::encode(&mark, self.durable_end, &mut self.buffer);
        newest.length += (self.buffer.len() - before) as u64;
        self.write_buffer()
    }

    /// Makes everything appended durable.
    pub(super) fn sync(&mut self) -> io::Result<()> {
        if let Some(newest) = self.files.back() {
            newest.file.sync_data()?;
        }
        self.durable_end = self.last.map_or(0, |at| at.index + 1);
        Ok(())
    }

    /// Removes the entries from index `from` on; durable on return.
    pub(super) fn truncate(&mut self, from: u64) -> io::Result<()> {
        let mut files = self.files.len();
        while let Some(newest) = self.files.back_mut() {
            if from >= newest.first + newest.starts.len() as u64 {
                break;
            }
            let keep = usize::try_from(from.saturating_sub(newest.first)).unwrap_or(usize::MAX);
            if keep == 0 && files > 1 {
                let gone = self.files.pop_back().expect("there are two");
                fs::remove_file(&gone.path)?;
                sync_dir(&self.dir)?;
                files -= 1;
                continue;
            }
            if let Some(end) = newest.starts.get(keep) {
                newest.length = *end;
                newest.starts.truncate(keep);
                newest.file.set_len(newest.length)?;
                newest.file.sync_data()?;
            }
            break;
        }
        self.durable_end = self.durable_end.min(from);
        self.last = self.position_before_end()?;
        Ok(())
    }

    /// Removes files whose entries are all at or below `upto`. Where `upto` is past the end of the log,
    /// everything goes and the log goes on after it.
    pub(super) fn purge(&mut self, upto: Position) -> io::Result<()> {
        if self.last.is_none_or(|last| last.index < upto.index) {
            while let Some(gone) = self.files.pop_front() {
                fs::remove_file(&gone.path)?;
            }
            self.last = Some(upto);
            return self.begin_file(upto.index + 1);
        }
        while self.files.len() > 1 && self.files[1].first <= upto.index + 1 {
            let gone = self.files.pop_front().expect("there are two");
            fs::remove_file(&gone.path)?;
        }
        Ok(())
    }

    /// Begins a file; the one before it is synced first, so that only the newest can be torn.
    fn begin_file(&mut self, first: u64) -> io::Result<()> {
        assert!(self.buffer.is_empty(), "what was encoded belongs to the file before");
        if let Some(full) = self.files.back() {
            full.file.sync_data()?;
        }
        let path = self.dir.join(format!("{first:020}.log"));
        let temporary = path.with_extension("tmp");
        let file = self.room.wait_out(|| {
            let mut options = OpenOptions::new();
            let file = options.create(true).truncate(true).read(true).write(true).open(&temporary)?;
            file.write_all_at(&encode_head(first, self.last), 0)?;
            Ok(file)
        })?;
        file.sync_all()?;
        self.room.wait_out(|| fs::rename(&temporary, &path))?;
        sync_dir(&self.dir)?;
        let length = FILE_HEAD_BYTES as u64;
        self.files.push_back(LogFile { path, file, first, before: self.last, starts: Vec::new(), length });
        Ok(())
    }

    fn write_buffer(&mut self) -> io::Result<()> {
        if self.buffer.is_empty() {
            return Ok(());
        }
        let newest = self.files.back().expect("encoded for the newest file");
        let at = newest.length - self.buffer.len() as u64;
        let written = self.room.wait_out(|| newest.file.write_all_at(&self.buffer, at));
        self.buffer.clear();
        self.buffer.shrink_to(1 << 20);
        written
    }

    /// Position of the last entry on disk, read back; only after a truncation.
    fn position_before_end(&self) -> io::Result<Option<Position>> {
        let Some(newest) = self.files.back() else { return Ok(None) };
        let Some(start) = newest.starts.last() else { return Ok(newest.before) };
        let length = usize::try_from(newest.length - start).map_err(io::Error::other)?;
        let mut bytes = vec![0; length];
        newest.file.read_exact_at(&mut bytes, *start)?;
        let (frame, _) = frame::parse(&bytes).map_err(|e| io::Error::other(format!("own frame: {e:?}")))?;
        Ok(Some(frame.at))
    }
}

impl Opened {
    fn load(&mut self, path: &Path, newest: bool) -> Result<(), OpenError> {
        let file = OpenOptions::new().read(true).write(true).open(path).map_err(OpenError::io(path))?;
        let mut bytes = Vec::new();
        (&file).read_to_end(&mut bytes).map_err(OpenError::io(path))?;
        let (first, before) = parse_head(path, &bytes)?;
        let log = &mut self.files;
        match log.files.is_empty() {
            true => self.before = before,
            false if before != log.last => {
                let expected = log.last.map_or(0, |at| at.index + 1);
                return Err(OpenError::Missing {
                    path: path.display().to_string(),
                    first: expected,
                    end: first,
                });
            }
            false => {}
        }
        let scan = frame::scan(&bytes[FILE_HEAD_BYTES..], Some(first));
        let end = (FILE_HEAD_BYTES + scan.end) as u64;
        match scan.tail {
            Tail::Clean => {}
            Tail::Torn if newest => {
                file.set_len(end).map_err(OpenError::io(path))?;
                self.cut_bytes = bytes.len() as u64 - end;
            }
            Tail::Torn => return Err(OpenError::damaged(path, end, "an entry before later files")),
            Tail::Damaged(fault) => return Err(OpenError::damaged(path, end, format!("{fault:?}"))),
            Tail::Newer(format) => {
                return Err(OpenError::Newer { path: path.display().to_string(), format: u32::from(format) });
            }
        }
        log.last = scan.entries.last().map(|(_, entry)| entry.at).or(before);
        self.committed = scan.committed.or(self.committed);
        let starts = scan.entries.iter().map(|(at, _)| (FILE_HEAD_BYTES + at) as u64).collect();
        let owned = |(_, entry): &(usize, frame::FrameRef<'_>)| Frame {
            kind: entry.kind,
            at: entry.at,
            body: entry.body.to_vec(),
        };
        self.entries.extend(scan.entries.iter().map(owned));
        log.files.push_back(LogFile { path: path.to_path_buf(), file, first, before, starts, length: end });
        Ok(())
    }
}

/// The log files in order of their first index; leftovers of an interrupted creation are removed.
fn list(dir: &Path) -> Result<Vec<PathBuf>, OpenError> {
    let mut paths = Vec::new();
    for entry in fs::read_dir(dir).map_err(OpenError::io(dir))? {
        let path = entry.map_err(OpenError::io(dir))?.path();
        match path.extension().and_then(|e| e.to_str()) {
            Some("log") => paths.push(path),
            Some("tmp") => fs::remove_file(&path).map_err(OpenError::io(&path))?,
            _ => {}
        }
    }
    paths.sort();
    Ok(paths)
}

fn encode_head(first: u64, before: Option<Position>) -> [u8; FILE_HEAD_BYTES] {
    let mut head = [0; FILE_HEAD_BYTES];
    head[..8].copy_from_slice(MAGIC);
    head[8..12].copy_from_slice(&FILE_VERSION.to_le_bytes());
    head[16..24].copy_from_slice(&first.to_le_bytes());
    if let Some(before) = before {
        head[24] = 1;
        head[32..40].copy_from_slice(&before.term.to_le_bytes());
        head[40..48].copy_from_slice(&before.node.to_le_bytes());
    }
    let crc = crc32c::crc32c(&head[16..]);
    head[12..16].copy_from_slice(&crc.to_le_bytes());
    head
}

fn parse_head(path: &Path, bytes: &[u8]) -> Result<(u64, Option<Position>), OpenError> {
    let damaged = |what: &str| OpenError::damaged(path, 0, what);
    let head = bytes.get(..FILE_HEAD_BYTES).ok_or_else(|| damaged("shorter than its head"))?;
    let u64_at = |at: usize| u64::from_le_bytes(head[at..at + 8].try_into().expect("8 bytes"));
    let u32_at = |at: usize| u32::from_le_bytes(head[at..at + 4].try_into().expect("4 bytes"));
    if &head[..8] != MAGIC || u32_at(12) != crc32c::crc32c(&head[16..]) {
        return Err(damaged("not the head of a Raft log file"));
    }
    if u32_at(8) != FILE_VERSION {
        return Err(OpenError::Newer { path: path.display().to_string(), format: u32_at(8) });
    }
    let first = u64_at(16);
    let before = match head[24] {
        0 => None,
        _ if first == 0 => return Err(damaged("nothing comes before index 0")),
        _ => Some(Position { term: u64_at(32), node: u64_at(40), index: first - 1 }),
    };
    Ok((first, before))
}

/// Makes creations, renames and removals in a directory durable.
pub(super) fn sync_dir(dir: &Path) -> io::Result<()> {
    File::open(dir)?.sync_all()
}
