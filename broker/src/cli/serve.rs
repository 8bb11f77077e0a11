//! `highwater serve`: flags from the table of settings, the log, the runtime.

use std::collections::BTreeMap;
use std::io::IsTerminal;
use std::path::PathBuf;

use clap::{Arg, ArgMatches, Args, FromArgMatches};
use tracing_subscriber::EnvFilter;

use super::{CommandError, output};
use crate::settings::{DEFS, LogFormat, Reference, Settings};

#[derive(Debug, Args)]
pub struct ServeArgs {
    /// Configuration file (TOML); its keys are the names of the flags.
    #[arg(long, env = "HIGHWATER_CONFIG", value_name = "FILE")]
    config: Option<PathBuf>,
    /// Print the reference of all settings and exit.
    #[arg(long)]
    print_settings: bool,
    #[command(flatten)]
    flags: SettingFlags,
}

/// One flag per row of the table; only those given.
#[derive(Debug)]
struct SettingFlags(BTreeMap<String, String>);

impl Args for SettingFlags {
    fn augment_args(command: clap::Command) -> clap::Command {
        DEFS.iter().fold(command, |command, def| {
            let about = match def.default {
                "" => format!("{} [env: {}]", def.doc, def.env()),
                default => format!("{} [default: {default}] [env: {}]", def.doc, def.env()),
            };
            command.arg(Arg::new(def.field).long(def.key).value_name(def.capitals).help(about))
        })
    }

    fn augment_args_for_update(command: clap::Command) -> clap::Command {
        Self::augment_args(command)
    }
}

impl FromArgMatches for SettingFlags {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, clap::Error> {
        let given = |field: &str| matches.get_one::<String>(field).cloned();
        let flags = DEFS.iter().filter_map(|def| Some((def.field.to_owned(), given(def.field)?)));
        Ok(SettingFlags(flags.collect()))
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        *self = Self::from_arg_matches(matches)?;
        Ok(())
    }
}

/// Runs a node until it is told to stop.
pub fn run(args: ServeArgs) -> Result<(), CommandError> {
    if args.print_settings {
        return output::text(&Reference.to_string());
    }
    let settings = Settings::load(&args.flags.0, args.config.as_deref()).map_err(CommandError::failed)?;
    start_log(&settings)?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(settings.worker_threads())
        .enable_all()
        .build()
        .map_err(|e| CommandError::Failed(format!("cannot start threads: {e}; lower --threads")))?;
    let done = runtime.block_on(crate::serve::run(settings)).map_err(CommandError::failed);
    // Everything durable has been written by now; a read of a slow bucket need not be waited for.
    runtime.shutdown_background();
    done
}

fn start_log(settings: &Settings) -> Result<(), CommandError> {
    let level = &settings.log_level;
    // Libraries speak only when something is wrong, unless they are asked by name. openraft says five times a
    // second that a peer is away; what it means is told here.
    let text = match level.contains(['=', ',']) {
        true => level.clone(),
        false => format!("{level},openraft=off,h2=warn,hyper=warn,tower=warn,object_store=warn"),
    };
    let filter = EnvFilter::try_new(text).map_err(|e| {
        CommandError::Failed(format!("log-level: {level:?} is not valid: {e}; use info or info,NAME=debug"))
    })?;
    let log = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    match settings.log_format {
        LogFormat::Human => log.with_ansi(std::io::stderr().is_terminal()).with_target(false).init(),
        LogFormat::Json => log.json().flatten_event(true).init(),
    }
    Ok(())
}
