//! The simulation as a test: seeds are repeatable, sound seeds stay sound, and each guard is missed when it
//! is taken away. More seeds: `make sim SEEDS=1000`.

use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};

use highwater_sim::guards::{Guard, Guards};
use highwater_sim::params::Mode;
use highwater_sim::run::{Failure, raise_file_limit, run_seed, run_seeds};

const SEEDS: u64 = 200;
/// Within which the absence of a guard must be noticed. A search ends with the first that does.
const GUARD_SEEDS: Range<u64> = 1..201;

fn threads() -> usize {
    raise_file_limit();
    std::thread::available_parallelism().map_or(1, usize::from)
}

#[test]
fn a_seed_gives_the_same_trace_every_time() {
    raise_file_limit();
    for mode in Mode::ALL {
        for seed in [1, 2, 3] {
            let (first, again) = [0; 2].map(|_| run_seed(*mode, seed, Guards::default(), false)).into();
            assert_eq!(first.trace_hash, again.trace_hash, "seed {seed} in mode {mode}");
            assert_eq!(first, again);
            assert!(first.trace_lines > 1_000, "the world has lived: {} lines", first.trace_lines);
        }
    }
}

#[test]
fn seeds_are_sound() {
    for mode in Mode::ALL {
        let transactions = AtomicU64::new(0);
        let failed = run_seeds(*mode, 1..1 + SEEDS, Guards::default(), threads(), true, &|report| {
            assert!(report.tally.records_acknowledged > 0 || !report.is_sound(), "nothing was tried");
            transactions.fetch_add(report.tally.transactions, Ordering::Relaxed);
        });
        if let Some(report) = failed.first() {
            panic!("\n{}", Failure { mode: *mode, removed: None, report });
        }
        let transactions = transactions.into_inner();
        assert_eq!(transactions > SEEDS, *mode == Mode::Groups, "{transactions} in mode {mode}");
    }
}

#[test]
fn every_guard_is_missed() {
    let mut unnoticed = Vec::new();
    for mode in Mode::ALL {
        for guard in Guard::of_mode(*mode) {
            let guards = Guards::without(*guard);
            let failed = run_seeds(*mode, GUARD_SEEDS, guards, threads(), true, &|_| {});
            match failed.first() {
                Some(report) => {
                    println!("{mode} without {guard}: seed {}: {}", report.seed, report.findings[0]);
                }
                None => unnoticed.push((*mode, guard.name())),
            }
        }
    }
    assert!(unnoticed.is_empty(), "seeds {GUARD_SEEDS:?} did not notice the absence of {unnoticed:?}");
}
