//! Load on coordinators of groups and transactions, in Kafka's protocol over bare sockets, so that on two
//! cores the broker is measured and not its clients. Any broker gets the same bytes. Prints one line of JSON;
//! exit code 1 on any error.
//!
//! Owns: what is asked, in how many threads and until when. Must not wait without an end: a socket is silent
//! for [`connection::SILENCE`] at most, a coordinator that is not ready is asked for
//! [`connection::PATIENCE`].

mod commits;
mod connection;
mod reload;
mod transactions;

use std::process::ExitCode;
use std::time::{Duration, Instant};

const USAGE: &str = "\
coordinator_load commits ADDRESS TOPIC CONSUMERS GROUPS OFFSETS SECONDS
    each consumer commits so many offsets, again and again
coordinator_load transactions ADDRESS TOPIC PRODUCERS RECORDS SECONDS
    each producer has one transaction after another, of so many records of 100 B (KIP-890)
coordinator_load fill ADDRESS TOPIC GROUPS OFFSETS
    each group commits so many offsets
coordinator_load ask ADDRESS TOPIC GROUPS
    when a broker that may not be up yet knows of all of them
coordinator_load check ADDRESS TOPIC GROUPS OFFSETS
    that all of it is there";

/// The arguments after the command.
struct Arguments(Vec<String>);

impl Arguments {
    fn text(&self, at: usize) -> Result<&str, String> {
        self.0.get(at).map(String::as_str).ok_or_else(|| USAGE.to_owned())
    }

    fn number(&self, at: usize) -> Result<usize, String> {
        let text = self.text(at)?;
        text.parse().ok().filter(|&number| number > 0).ok_or_else(|| format!("{text}: not a count\n{USAGE}"))
    }

    fn seconds(&self, at: usize) -> Result<Duration, String> {
        Ok(Duration::from_secs(self.number(at)? as u64))
    }
}

/// What one thread saw: how long each operation took, in microseconds.
#[derive(Default)]
struct Took(Vec<u32>);

impl Took {
    fn since(&mut self, began: Instant) {
        self.0.push(u32::try_from(began.elapsed().as_micros()).unwrap_or(u32::MAX));
    }
}

/// Rate and quantiles of all threads together, `"name": value` separated by commas.
fn figures(took: Vec<Took>, seconds: f64) -> String {
    let mut all: Vec<u32> = took.into_iter().flat_map(|took| took.0).collect();
    all.sort_unstable();
    let at = |quantile: f64| {
        let index = (all.len() as f64 * quantile) as usize;
        all.get(index.min(all.len().saturating_sub(1))).map_or(0.0, |&us| f64::from(us) / 1e3)
    };
    format!(
        "\"operations\": {}, \"seconds\": {seconds:.3}, \"per_s\": {:.1}, \"p50_ms\": {:.3}, \"p99_ms\": {:.3}",
        all.len(),
        all.len() as f64 / seconds,
        at(0.5),
        at(0.99)
    )
}

fn run(command: &str, given: &Arguments) -> Result<String, String> {
    let (address, topic) = (given.text(0)?, given.text(1)?);
    match command {
        "commits" => {
            let (consumers, groups) = (given.number(2)?, given.number(3)?);
            commits::run(address, topic, consumers, groups, given.number(4)?, given.seconds(5)?)
        }
        "transactions" => {
            transactions::run(address, topic, given.number(2)?, given.number(3)?, given.seconds(4)?)
        }
        "fill" => reload::fill(address, topic, given.number(2)?, given.number(3)?),
        "ask" => reload::ask(address, topic, given.number(2)?),
        "check" => reload::check(address, topic, given.number(2)?, given.number(3)?),
        _ => Err(USAGE.to_owned()),
    }
}

fn main() -> ExitCode {
    let mut arguments = std::env::args().skip(1);
    let command = arguments.next().unwrap_or_default();
    match run(&command, &Arguments(arguments.collect())) {
        Ok(figures) => {
            println!("{{{figures}}}");
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}
