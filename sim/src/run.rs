//! Running seeds: one, or many on all cores; and what is told of a failure.

use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use crate::checker::{Anomaly, Finding};
use crate::guards::{Guard, Guards};
use crate::params::{Mode, Params};
use crate::world::World;

/// Lines of the trace in a report.
const TOLD_LINES: usize = 60;

/// What one seed came to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    pub seed: u64,
    /// Of the whole trace.
    pub trace_hash: u64,
    pub trace_lines: u64,
    pub findings: Vec<Finding>,
    /// The end of the trace, if something was found.
    pub last_lines: Vec<String>,
    pub tally: Tally,
}

/// How much a run has tried.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    pub records_acknowledged: u64,
    pub records_read: u64,
    /// That workers were told to be committed.
    pub transactions: u64,
    pub objects: u64,
    pub leader_changes: u64,
    pub simulated_ms: u64,
}

impl Tally {
    pub fn add(&mut self, other: &Tally) {
        self.records_acknowledged += other.records_acknowledged;
        self.records_read += other.records_read;
        self.transactions += other.transactions;
        self.objects += other.objects;
        self.leader_changes += other.leader_changes;
        self.simulated_ms += other.simulated_ms;
    }
}

impl Report {
    pub fn is_sound(&self) -> bool {
        self.findings.is_empty()
    }
}

/// A failing seed as it is told: what was found, how to run it again, and how it ended.
pub struct Failure<'a> {
    pub mode: Mode,
    pub removed: Option<Guard>,
    pub report: &'a Report,
}

impl fmt::Display for Failure<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Failure { mode, removed, report } = self;
        for line in &report.last_lines {
            writeln!(f, "  {line}")?;
        }
        writeln!(f, "seed {} in mode {mode}:", report.seed)?;
        for finding in &report.findings {
            writeln!(f, "  {finding}")?;
        }
        let without = removed.map_or(String::new(), |guard| format!(" WITHOUT={guard}"));
        write!(f, "run it again: make sim SEED={} MODE={mode}{without}", report.seed)
    }
}

/// Runs one seed. A panic of the product is a finding. `keeps_all` keeps the whole trace.
pub fn run_seed(mode: Mode, seed: u64, guards: Guards, keeps_all: bool) -> Report {
    let mut world = World::new(Params::of(mode, seed), guards);
    world.context.trace.keeps_all = keeps_all;
    let done = catch_unwind(AssertUnwindSafe(|| world.run()));
    let mut findings = std::mem::take(&mut world.context.findings);
    if let Err(panic) = done {
        let text = panic.downcast_ref::<String>().cloned();
        let text = text.or_else(|| panic.downcast_ref::<&str>().map(|s| (*s).to_owned()));
        findings.push(Finding::new(Anomaly::Panicked, text.unwrap_or_default()));
    }
    let trace = &world.context.trace;
    let told = if keeps_all { usize::MAX } else { TOLD_LINES };
    let is_told = keeps_all || !findings.is_empty();
    let last_lines = if is_told { trace.last(told).map(str::to_owned).collect() } else { Vec::new() };
    Report {
        seed,
        trace_hash: trace.hash(),
        trace_lines: trace.lines(),
        findings,
        last_lines,
        tally: world.tally(),
    }
}

/// Runs `seeds`, on as many threads as told, until one fails if `stops` says so; `told` hears of each report
/// as it comes. Returns the reports that are not sound, by seed.
pub fn run_seeds(
    mode: Mode,
    seeds: std::ops::Range<u64>,
    guards: Guards,
    threads: usize,
    stops: bool,
    told: &(dyn Fn(&Report) + Sync),
) -> Vec<Report> {
    let next = AtomicU64::new(seeds.start);
    let is_over = AtomicBool::new(false);
    let failed = Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        for _ in 0..threads.max(1) {
            scope.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= seeds.end || is_over.load(Ordering::Relaxed) {
                        return;
                    }
                    let report = run_seed(mode, seed, guards, false);
                    told(&report);
                    if !report.is_sound() {
                        is_over.fetch_or(stops, Ordering::Relaxed);
                        failed.lock().expect("no panic while it is held").push(report);
                    }
                }
            });
        }
    });
    let mut failed = failed.into_inner().expect("no panic while it is held");
    failed.sort_by_key(|report| report.seed);
    failed
}

/// Simulated files are memory files, and there are many: takes as many descriptors as the system gives.
pub fn raise_file_limit() {
    use rustix::process::{Resource, getrlimit, setrlimit};
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    // With fewer than that, a run fails with the system's own message.
    let _ = setrlimit(Resource::Nofile, limit);
}
