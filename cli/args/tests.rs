//! The command line as people type it.

use std::time::Duration;

use clap::{CommandFactory, Parser};

use super::limit::Limit;
use super::run::{Layout, RunArgs};
use super::*;

/// `run` by itself, as it will be among the commands.
#[derive(Debug, Parser)]
#[command(name = "run")]
struct Run {
    #[command(flatten)]
    args: RunArgs,
}

fn run(line: &str) -> RunArgs {
    let words = std::iter::once("run").chain(line.split(' '));
    Run::try_parse_from(words).unwrap_or_else(|error| panic!("{line}: {error}")).args
}

fn refused(line: &str) -> String {
    let words = std::iter::once("run").chain(line.split(' '));
    let error = Run::try_parse_from(words).expect_err(line);
    assert_eq!(error.exit_code(), 2, "{line}");
    error.to_string().lines().next().unwrap().to_owned()
}

#[test]
fn the_definitions_are_consistent() {
    Cli::command().debug_assert();
    Run::command().debug_assert();
}

#[test]
fn options_end_where_the_command_begins() {
    let args = run("-w local uname -a");
    assert_eq!(args.command(), "uname -a");
    assert_eq!(args.hosts.selection(&[]).with, ["local"]);
    assert!(!args.hosts.selection(&[]).all, "this -a is for uname");
    assert_eq!(run("-a -- -x").command(), "-x");
    assert_eq!(run("-a du -s /data -u 5").command(), "du -s /data -u 5");
}

#[test]
fn numbers_and_times_are_typed() {
    let args = run("-a true");
    assert_eq!((args.running.at_once.get(), args.running.retries), (64, 0));
    assert_eq!(
        (args.connect.connect_limit(), args.running.command_limit),
        (Duration::from_secs(15), Limit(None))
    );
    let args = run("-a -f 3 -t 2m -u 1h30m --retries 2 true");
    assert_eq!((args.running.at_once.get(), args.running.retries), (3, 2));
    assert_eq!(args.connect.connect_limit(), Duration::from_secs(120));
    assert_eq!(args.running.command_limit, Limit(Some(Duration::from_secs(5400))));
}

#[test]
fn names_of_other_tools_mean_the_same() {
    for line in ["-f 5", "--forks 5", "--fanout 5", "--jobs 5", "-j 5", "-j5", "--at-once=5"] {
        assert_eq!(run(&format!("-a {line} true")).running.at_once.get(), 5, "{line}");
    }
    for line in ["--user root", "-l root", "--remote-user root"] {
        assert_eq!(run(&format!("-a {line} true")).connect.user.as_deref(), Some("root"), "{line}");
    }
    for line in ["-i k", "--private-key k", "--key-file k"] {
        assert_eq!(
            run(&format!("-a {line} true")).connect.identities,
            [std::path::PathBuf::from("k")],
            "{line}"
        );
    }
    for line in ["-k", "-L", "--keep-order", "--by-host"] {
        assert_eq!(run(&format!("-a {line} true")).show.layout(), Layout::ByHost, "{line}");
    }
    assert!(run("-a --check true").running.dry_run);
    assert!(run("-a --dryrun true").running.dry_run);
    assert!(run("--hostfile - true").hosts.reads_stdin());
}

#[test]
fn names_that_mean_something_else_elsewhere_are_refused_with_ours() {
    let cases = [
        ("-a -u root true", "-u is the limit for the command, in seconds; the user to log in as is -l"),
        ("-a -t /tmp/out true", "to write the output of each host to a file use --outdir"),
        ("-a --tree /tmp/out true", "to write the output of each host to a file use --outdir"),
        ("-a --timeout 5 true", "say which: --connect-timeout (-t), or --command-timeout (-u)"),
        ("-a --limit web1 true", "narrow the set instead: -w '@web&web[1-3]', or -x"),
        ("--inventory hosts.ini true", "lists of hosts are read with --hostfile, groups with --groups"),
    ];
    for (line, expected) in cases {
        let message = refused(line);
        assert!(message.ends_with(expected), "{line}: {message}");
    }
}

#[test]
fn numbers_that_are_none_are_explained() {
    for (line, expected) in [
        ("-a -f 0 true", "write a number from 1 to 65535"),
        ("-a -f many true", "write a number from 1 to 65535"),
        ("-a --retries x true", "write a number from 0 to 100"),
        ("-a --retries 101 true", "write a number from 0 to 100"),
    ] {
        let message = refused(line);
        assert!(message.ends_with(expected), "{line}: {message}");
    }
}

#[test]
fn a_check_of_hosts_without_w_is_explained() {
    let error = Cli::try_parse_from(["farcall", "check", "web1"]).unwrap_err();
    assert_eq!(error.exit_code(), 2);
    assert!(error.to_string().contains("hosts are named with -w: farcall check -w"), "{error}");
}

#[test]
fn layouts_exclude_each_other() {
    let layouts = [
        ("-b", Layout::Gathered { with_stderr: false }),
        ("-B", Layout::Gathered { with_stderr: true }),
        ("-L", Layout::ByHost),
        ("--diff", Layout::Diff),
        ("--json", Layout::Json),
    ];
    assert_eq!(run("-a true").show.layout(), Layout::Live);
    for (flag, layout) in layouts {
        assert_eq!(run(&format!("-a {flag} true")).show.layout(), layout);
        for (other, _) in layouts {
            if other != flag {
                refused(&format!("-a {flag} {other} true"));
            }
        }
    }
    refused("-a --json -N true");
}

#[test]
fn what_cannot_be_meant_is_refused() {
    for line in [
        "-a",
        "-a -f 0 true",
        "-a -f x true",
        "-a --retries 101 true",
        "-a -t 0 true",
        "-a -o Port true",
        "-a --nope true",
    ] {
        refused(line);
    }
}

#[test]
fn a_command_that_is_not_there_is_not_in_the_help() {
    let names: Vec<String> =
        Cli::command().get_subcommands().map(|command| command.get_name().to_owned()).collect();
    assert_eq!(names, ["run", "check", "hosts"]);
}
