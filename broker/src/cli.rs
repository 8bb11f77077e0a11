//! The command line, a contract: names and meanings of commands and flags are kept.
//!
//! Owns: parsing, exit codes (0 done, 1 could not, 2 wrong usage) and the form of errors: one line on
//! standard error that says what is wrong and what to do. Must not: contain broker logic; every command but
//! `serve` and `demo` is a client of a running node. Only commands that work are listed.

mod cluster;
mod connect;
mod consume;
mod coordinators;
mod demo;
mod group;
mod output;
mod produce;
mod serve;
mod tier;
mod topic;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// A Kafka-compatible broker whose sealed segments are Parquet objects in a bucket.
#[derive(Debug, Parser)]
#[command(name = "highwater", version, disable_help_subcommand = true)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run a node until SIGTERM.
    Serve(serve::ServeArgs),
    /// Show the main job, start to end, on real data.
    Demo(demo::DemoArgs),
    /// Create, list, describe, alter or delete topics.
    #[command(subcommand)]
    Topic(topic::TopicCommand),
    /// Send each line of standard input to a topic as a record.
    Produce(produce::ProduceArgs),
    /// Write the records of a topic to standard output.
    Consume(consume::ConsumeArgs),
    /// Consumer groups: who is in them and how far they are.
    #[command(subcommand)]
    Group(group::GroupCommand),
    /// The nodes of the cluster, and moving partitions between them.
    #[command(subcommand)]
    Cluster(cluster::ClusterCommand),
    /// What is in the bucket, and moving it there now.
    #[command(subcommand)]
    Tier(tier::TierCommand),
}

/// Why a command ended early.
#[derive(Debug)]
pub enum CommandError {
    /// It could not be done; the text is one line.
    Failed(String),
    /// The reader of standard output has gone away: not an error.
    OutputClosed,
}

impl CommandError {
    /// From anything that can say what is wrong.
    fn failed(reason: impl std::fmt::Display) -> CommandError {
        CommandError::Failed(reason.to_string())
    }

    /// An error of writing to standard output.
    fn output(error: std::io::Error) -> CommandError {
        if error.kind() == std::io::ErrorKind::BrokenPipe {
            return CommandError::OutputClosed;
        }
        CommandError::Failed(format!("cannot write to standard output: {error}; is the disk full?"))
    }
}

impl From<crate::client::ClientError> for CommandError {
    fn from(error: crate::client::ClientError) -> CommandError {
        CommandError::failed(error)
    }
}

/// Parses the arguments of this process, runs the command and answers the exit code.
pub fn main() -> ExitCode {
    let cli = Cli::parse();
    let done = match cli.command {
        Command::Serve(args) => serve::run(args),
        Command::Demo(args) => demo::run(args),
        Command::Topic(command) => block_on(topic::run(command)),
        Command::Produce(args) => block_on(produce::run(args)),
        Command::Consume(args) => block_on(consume::run(args)),
        Command::Group(command) => block_on(group::run(command)),
        Command::Cluster(command) => block_on(cluster::run(command)),
        Command::Tier(command) => block_on(tier::run(command)),
    };
    match done {
        Ok(()) | Err(CommandError::OutputClosed) => ExitCode::SUCCESS,
        Err(CommandError::Failed(reason)) => {
            eprintln!("error: {}", one_line(&reason));
            ExitCode::from(1)
        }
    }
}

fn one_line(text: &str) -> String {
    text.lines().map(str::trim).filter(|line| !line.is_empty()).collect::<Vec<_>>().join("; ")
}

/// Runs a client command on this thread.
fn block_on(command: impl Future<Output = Result<(), CommandError>>) -> Result<(), CommandError> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|e| CommandError::Failed(format!("cannot start: {e}; are there free file handles?")))?;
    let done = runtime.block_on(command);
    // A thread that waits in a read of standard input cannot be joined.
    runtime.shutdown_background();
    done
}

#[cfg(test)]
mod tests;
