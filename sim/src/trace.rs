//! Everything that happened, as text: a hash of all of it, and its last lines for whoever reads a failure.

use std::collections::VecDeque;
use std::fmt;

/// Lines kept for a report.
const KEPT_LINES: usize = 400;
/// FNV-1a.
const HASH_START: u64 = 0xcbf2_9ce4_8422_2325;
const HASH_FACTOR: u64 = 0x0100_0000_01b3;

/// The trace of one run.
#[derive(Debug)]
pub struct Trace {
    hash: u64,
    lines: u64,
    kept: VecDeque<String>,
    /// Keeps all lines and not only the last.
    pub keeps_all: bool,
}

impl Default for Trace {
    fn default() -> Trace {
        Trace { hash: HASH_START, lines: 0, kept: VecDeque::new(), keeps_all: false }
    }
}

impl Trace {
    /// Adds a line; `at_us` is simulated time.
    pub fn line(&mut self, at_us: u64, what: fmt::Arguments<'_>) {
        let mut line = match self.kept.len() < KEPT_LINES || self.keeps_all {
            true => String::with_capacity(96),
            false => self.kept.pop_front().expect("not empty"),
        };
        line.clear();
        fmt::Write::write_fmt(
            &mut line,
            format_args!("{:>4}.{:06} {what}", at_us / 1_000_000, at_us % 1_000_000),
        )
        .expect("writing to a string cannot fail");
        self.hash = line.bytes().fold(self.hash, |h, b| (h ^ u64::from(b)).wrapping_mul(HASH_FACTOR));
        self.lines += 1;
        self.kept.push_back(line);
    }

    /// Of every line so far.
    pub fn hash(&self) -> u64 {
        self.hash
    }

    pub fn lines(&self) -> u64 {
        self.lines
    }

    /// The newest lines, oldest of them first.
    pub fn last(&self, count: usize) -> impl Iterator<Item = &str> {
        self.kept.iter().skip(self.kept.len().saturating_sub(count)).map(String::as_str)
    }
}
