//! From the command line to the exit code, with a runner that only pretends.

use clap::Parser;

use super::*;
use crate::output::Stream;
use crate::output::tests::Page;

#[derive(Debug, Parser)]
#[command(name = "run")]
struct Run {
    #[command(flatten)]
    args: RunArgs,
}

fn job_in(line: &str, environment: &Environment, stdin: &str) -> Result<Job, SelectError> {
    let args = Run::try_parse_from(std::iter::once("run").chain(line.split(' '))).unwrap().args;
    Job::new(&args, environment, stdin.as_bytes(), 0)
}

fn job(line: &str) -> Job {
    job_in(line, &Environment::default(), "").unwrap()
}

/// Runs it; each host says its own place in the list and exits with `code` of it.
async fn run(line: &str, code: fn(usize) -> u8) -> (Exit, String, String) {
    let (out, err) = (Page::default(), Page::default());
    let runner = move |attempt: Attempt| async move {
        attempt.reporter.running().await;
        let host = attempt.host.0;
        attempt.reporter.output(Stream::Stdout, format!("{host}\n").into_bytes()).await;
        AttemptEnd::Exited { code: code(host) }
    };
    let interrupts = mpsc::channel(1).1;
    let exit = job(line)
        .run(runner, |_| (), Box::new(out.clone()), Box::new(err.clone()), interrupts)
        .await
        .unwrap();
    (exit, out.text(), err.text())
}

#[tokio::test]
async fn a_run_shows_sums_up_and_exits() {
    let (exit, out, err) = run("-w n[1-3] -L true", |_| 0).await;
    assert_eq!((exit, out.as_str(), err.as_str()), (Exit::OK, "n1: 0\nn2: 1\nn3: 2\n", "3 ok\n"));
    let (exit, _, err) = run("-w n[1-3] true", |host| if host == 1 { 7 } else { 0 }).await;
    assert_eq!((exit, err.as_str()), (Exit::FAILED, "exit 7 (1): n2\n2 ok, 1 failed\n"));
}

#[tokio::test]
async fn codes_pass_as_asked() {
    assert_eq!(run("-w a false", |_| 3).await.0, Exit::STOPPED, "one host: its own code, which is 3 here");
    assert_eq!(run("-w a,b -S false", |host| host as u8 + 3).await.0, Exit::UNREACHABLE, "the largest, 4");
}

#[tokio::test]
async fn a_dry_run_starts_nobody() {
    let out = Page::default();
    let runner =
        |attempt: Attempt| -> std::future::Ready<AttemptEnd> { panic!("started {:?}", attempt.host) };
    let job = job("-w n[1-3],x --dry-run -f 2 echo a\nb");
    let exit =
        job.run(runner, |_| (), Box::new(out.clone()), Box::new(Page::default()), mpsc::channel(1).1).await;
    assert_eq!(exit.unwrap(), Exit::OK);
    let expected = "would run on 4 hosts, at most 2 at once:\n  n[1-3],x\nthe command:\n  echo a\n  b\n";
    assert_eq!(out.text(), expected);
}

#[test]
fn standard_input_goes_to_the_hosts_unless_there_is_a_reason() {
    let pipe = Environment::default();
    let terminal = Environment { stdin_is_terminal: true, ..Environment::default() };
    assert!(job_in("-w a cat", &pipe, "").unwrap().stdin);
    assert!(!job_in("-w a -n cat", &pipe, "").unwrap().stdin);
    assert!(!job_in("-w a cat", &terminal, "").unwrap().stdin);
    assert!(!job_in("--hostfile - cat", &pipe, "a\n").unwrap().stdin);
}

#[test]
fn colour_is_for_terminals_and_never_in_json() {
    let terminal =
        Environment { stdout_is_terminal: true, stderr_is_terminal: true, ..Environment::default() };
    let plain = Environment { no_color: true, ..terminal.clone() };
    let color = |line: &str, environment: &Environment| {
        let job = job_in(line, environment, "").unwrap();
        (job.color_out, job.color_err)
    };
    assert_eq!(color("-w a x", &Environment::default()), (false, false));
    assert_eq!(color("-w a x", &terminal), (true, true));
    assert_eq!(color("-w a x", &plain), (false, false));
    assert_eq!(color("-w a --color always x", &plain), (true, true));
    assert_eq!(color("-w a --color never x", &terminal), (false, false));
    assert_eq!(color("-w a --json --color always x", &terminal), (false, true));
}

#[test]
fn progress_is_for_terminals_too() {
    let terminal = Environment { stderr_is_terminal: true, ..Environment::default() };
    assert!(job_in("-w a x", &terminal, "").unwrap().progress);
    assert!(!job_in("-w a -q x", &terminal, "").unwrap().progress);
    assert!(!job_in("-w a x", &Environment::default(), "").unwrap().progress);
}

#[test]
fn no_hosts_are_an_error_before_anything_starts() {
    let error = job_in("-w a!a x", &Environment::default(), "").unwrap_err();
    assert_eq!(error.to_string(), "no hosts matched");
    assert_eq!(CommandError::from(error).exit(), Exit::USAGE);
}
