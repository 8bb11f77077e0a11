//! `highwater-sim`: runs seeds and tells what they found. `make sim SEEDS=n` is its usual caller.

use std::process::ExitCode;
use std::sync::Mutex;
use std::time::Instant;

use clap::Parser;
use highwater_sim::guards::{Guard, Guards};
use highwater_sim::params::Mode;
use highwater_sim::run::{Failure, Tally, run_seed, run_seeds};
use indicatif::{ProgressBar, ProgressStyle};

/// Simulates the cluster: seeds in, anomalies out.
#[derive(Debug, Parser)]
#[command(name = "highwater-sim", version)]
struct Arguments {
    /// How many seeds to run, per mode.
    #[arg(long, default_value_t = 1_000)]
    seeds: u64,
    /// The first of them.
    #[arg(long, default_value_t = 1)]
    first: u64,
    /// Only this seed, with its whole trace.
    #[arg(long)]
    seed: Option<u64>,
    /// Only this mode; all by default.
    #[arg(long, value_parser = parse_mode)]
    mode: Option<Mode>,
    /// Without this guard: something must be found.
    #[arg(long, value_parser = parse_guard)]
    without: Option<Guard>,
    /// Threads; all cores by default.
    #[arg(long)]
    threads: Option<usize>,
    /// Go on after a failure.
    #[arg(long)]
    keep_going: bool,
}

fn parse_mode(name: &str) -> Result<Mode, String> {
    let known = || Mode::ALL.iter().map(|mode| mode.name()).collect::<Vec<_>>().join(", ");
    Mode::of_name(name).ok_or_else(|| format!("one of: {}", known()))
}

fn parse_guard(name: &str) -> Result<Guard, String> {
    let known = || Guard::ALL.map(Guard::name).join(", ");
    Guard::of_name(name).ok_or_else(|| format!("one of: {}", known()))
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    highwater_sim::run::raise_file_limit();
    let modes = arguments.mode.map_or(Mode::ALL.to_vec(), |mode| vec![mode]);
    let is_sound = match arguments.seed {
        Some(seed) => modes.into_iter().all(|mode| one(mode, seed, arguments.without)),
        None => modes.into_iter().all(|mode| many(mode, &arguments)),
    };
    if is_sound { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn guards(removed: Option<Guard>) -> Guards {
    removed.map_or(Guards::default(), Guards::without)
}

/// The whole trace of one seed.
fn one(mode: Mode, seed: u64, removed: Option<Guard>) -> bool {
    let report = run_seed(mode, seed, guards(removed), true);
    println!("{}", Failure { mode, removed, report: &report });
    println!("trace {:016x}, {} lines, {:?}", report.trace_hash, report.trace_lines, report.tally);
    report.is_sound()
}

fn many(mode: Mode, arguments: &Arguments) -> bool {
    let threads = arguments.threads.or_else(|| std::thread::available_parallelism().ok().map(usize::from));
    let style = ProgressStyle::with_template("{msg} {wide_bar} {pos}/{len} seeds, {per_sec}, {eta} left");
    let bar = ProgressBar::new(arguments.seeds).with_message(mode.name());
    bar.set_style(style.expect("a template that parses"));
    let tally = Mutex::new(Tally::default());
    let begun = Instant::now();
    let seeds = arguments.first..arguments.first + arguments.seeds;
    let removed = arguments.without;
    let failed =
        run_seeds(mode, seeds, guards(removed), threads.unwrap_or(1), !arguments.keep_going, &|report| {
            tally.lock().expect("no panic while it is held").add(&report.tally);
            bar.inc(1);
        });
    let done = bar.position();
    bar.finish_and_clear();
    for report in &failed {
        println!("{}\n", Failure { mode, removed, report });
    }
    let (seconds, tally) = (begun.elapsed().as_secs_f64(), tally.into_inner().expect("not poisoned"));
    println!(
        "{mode}: {done} seeds in {seconds:.1} s ({:.1}/s), {} failed; {} records acknowledged, {} read, {} transactions, \
         {} objects, {} changes of leader, {} simulated seconds",
        done as f64 / seconds,
        failed.len(),
        tally.records_acknowledged,
        tally.records_read,
        tally.transactions,
        tally.objects,
        tally.leader_changes,
        tally.simulated_ms / 1_000,
    );
    failed.is_empty()
}
