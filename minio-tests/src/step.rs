//! The name of each step as it begins, past the test runner's capture: a run of minutes shows where it is.

use std::io::Write;
use std::sync::OnceLock;
use std::time::Instant;

static STARTED: OnceLock<Instant> = OnceLock::new();

/// Prints one line with the seconds since the first step of the run.
pub fn step(text: impl AsRef<str>) {
    let seconds = STARTED.get_or_init(Instant::now).elapsed().as_secs_f64();
    let line = format!("  [{seconds:6.1} s] {}\n", text.as_ref());
    // The handle itself is not captured, unlike the print macros. A closed stderr is no reason to fail.
    let _ = std::io::stderr().write_all(line.as_bytes());
}
