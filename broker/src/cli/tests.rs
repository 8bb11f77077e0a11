use clap::CommandFactory;

use super::*;

fn parse(args: &[&str]) -> Result<Cli, clap::Error> {
    Cli::try_parse_from(std::iter::once("highwater").chain(args.iter().copied()))
}

fn code(args: &[&str]) -> i32 {
    parse(args).err().map_or(0, |error| error.exit_code())
}

#[test]
fn the_contract_parses() {
    Cli::command().debug_assert();
    for args in [
        &["serve"][..],
        &["serve", "--config", "f.toml", "--node-id", "1", "--roles", "broker,coordinator"],
        &[
            "serve",
            "--data-dir",
            "d",
            "--kafka",
            "127.0.0.1:0",
            "--grpc",
            "127.0.0.1:0",
            "--http",
            "127.0.0.1:0",
        ],
        &["serve", "--advertise", "h:1", "--coordinators", "1=h:1", "--object-store", "s3://b/p"],
        &["serve", "--s3-endpoint", "http://h:1", "--log-format", "json", "--auto-create-topics", "false"],
        &["demo"],
        &["topic", "create", "t", "--partitions", "3", "--replicas", "1", "--config", "retention.ms=1"],
        &["topic", "list", "--output", "json"],
        &["topic", "describe", "t"],
        &["topic", "alter", "t", "--partitions", "4"],
        &["topic", "alter", "t", "--config", "a=b=c", "--delete-config", "x"],
        &["topic", "delete", "t", "u", "--if-exists"],
        &["group", "list", "--output", "json"],
        &["group", "describe", "g"],
        &["group", "reset", "g", "--topic", "t", "--to", "earliest"],
        &["group", "reset", "g", "--topic", "t", "--to", "17", "--partition", "2"],
        &["group", "delete", "g", "h"],
        &["produce", "t", "--key-separator", ":", "--acks", "1", "--compression", "zstd", "--header", "a=b"],
        &["consume", "t", "--from-beginning", "--max", "3"],
        &["consume", "t", "--offset", "7", "--partition", "0", "--output", "json"],
        &["consume", "t", "--timestamp", "2013-07-01", "--until-end"],
        &["tier", "status"],
        &["tier", "describe", "t", "--output", "json"],
        &["tier", "offload", "t", "--evict"],
    ] {
        assert!(parse(args).is_ok(), "{args:?}: {:?}", parse(args).err().map(|e| e.to_string()));
    }
}

#[test]
fn wrong_usage_has_exit_code_2_and_help_0() {
    for args in [
        &[][..],
        &["fly"],
        &["serve", "--no-such-flag"],
        &["topic", "create"],
        &["topic", "create", "t", "--partitions", "0"],
        &["topic", "create", "t", "--config", "novalue"],
        &["topic", "alter", "t"],
        &["topic", "delete"],
        &["produce", "t", "--acks", "2"],
        &["produce", "t", "--compression", "rar"],
        &["consume", "t", "--offset", "-1"],
        &["consume", "t", "--offset", "1", "--from-beginning"],
        &["consume", "t", "--timestamp", "yesterday"],
        &["tier", "scrub"],
        &["cluster", "move", "t"],
        &["cluster", "drain"],
        &["group", "delete"],
        &["group", "reset", "g", "--to", "earliest"],
        &["group", "reset", "g", "--topic", "t"],
        &["group", "reset", "g", "--topic", "t", "--to", "-5"],
    ] {
        assert_eq!(code(args), 2, "{args:?}");
    }
    assert_eq!(code(&["--help"]), 0);
    assert_eq!(code(&["serve", "--help"]), 0);
    assert_eq!(code(&["--version"]), 0);
}

#[test]
fn every_setting_is_a_flag_of_serve() {
    let command = Cli::command();
    let serve = command.find_subcommand("serve").expect("serve");
    for def in crate::settings::DEFS {
        let found = serve.get_arguments().any(|arg| arg.get_long() == Some(def.key));
        assert!(found, "--{}", def.key);
    }
}

#[test]
fn errors_are_one_line() {
    assert_eq!(one_line("a\n  b\n\nc "), "a; b; c");
}
