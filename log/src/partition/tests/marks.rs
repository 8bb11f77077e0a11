use std::sync::atomic::{AtomicUsize, Ordering};

use super::*;
use crate::disk::{Disk, DiskFile, Entry};
use crate::names;

/// Counts how often the marks are opened or made.
#[derive(Debug, Default)]
struct CountingDisk {
    disk: SimDisk,
    opened: AtomicUsize,
}

impl CountingDisk {
    fn count(&self, name: &str) {
        self.opened.fetch_add(usize::from(name == names::MARKS), Ordering::Relaxed);
    }
}

impl Disk for CountingDisk {
    fn list(&self) -> io::Result<Vec<Entry>> {
        self.disk.list()
    }

    fn open(&self, name: &str) -> io::Result<Arc<dyn DiskFile>> {
        self.count(name);
        self.disk.open(name)
    }

    fn create(&self, name: &str) -> io::Result<Arc<dyn DiskFile>> {
        self.count(name);
        self.disk.create(name)
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        self.disk.rename(from, to)
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        self.disk.remove(name)
    }

    fn sync_dir(&self) -> io::Result<()> {
        self.disk.sync_dir()
    }
}

/// A flush writes the marks under the owner's lock, so it must not open them each time.
#[test]
fn a_log_that_flushes_keeps_its_marks_open() {
    let disk = Arc::new(CountingDisk::default());
    let (mut log, _) = PartitionLog::open_on(disk.clone(), small(), NOW).expect("opens");
    let opened = || disk.opened.load(Ordering::Relaxed);
    put(&mut log, &batch(2, 100, NOW));
    flush(&mut log);
    let first = opened();
    assert!(first > 0, "the first flush makes them");
    for _ in 0..60 {
        put(&mut log, &batch(2, 100, NOW));
        flush(&mut log);
    }
    log.raise_log_start(5).expect("raised");
    flush(&mut log);
    assert!(log.sealed().len() > 2, "over several segments");
    assert_eq!(opened(), first);
    // What was written through the kept file is what counts.
    let (again, report) = PartitionLog::open_on(Arc::new(disk.disk.kill()), small(), NOW).expect("opens");
    assert_eq!((again.log_start(), again.log_end()), (5, log.log_end()));
    assert!(report.scanned_segments <= 1 && report.cut.is_none() && report.ignored.is_empty(), "{report:?}");
}
