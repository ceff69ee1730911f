//! What start-up files and accounts do before the first stage runs does not matter, or is shown as the reason.

mod place;

use std::fs;
use std::time::Duration;

use farcall_bootstrap::launch::Delivery;
use farcall_bootstrap::target::{CommandTarget, LaunchOptions};
use farcall_bootstrap::{Class, Step};
use place::{Place, Worker, options, program};

/// Two megabytes, things that look like messages, the command itself, and no line end.
const NOISE: &str = "head -c 2000000 /dev/urandom; echo; echo run cached gnu Linux x86_64; \
                     cat /proc/$$/cmdline; printf 'no line end'";

async fn noisy(file: &str, login: &[&str]) {
    let place = Place::new().login(login);
    let path = place.home().join(file);
    fs::create_dir_all(path.parent().expect("a folder")).expect("made");
    fs::write(path, format!("sh -c \"{}\"\n", NOISE.replace('$', "\\$"))).expect("written");
    for _ in 0..2 {
        place.start(&program(), &options()).await.expect("started").echo_and_end().await;
    }
}

#[tokio::test]
async fn start_up_files_of_bash_may_print() {
    noisy(".bash_profile", &["bash", "-l", "-c"]).await;
}

#[tokio::test]
async fn start_up_files_of_dash_may_print() {
    noisy(".profile", &["dash", "-l", "-c"]).await;
}

#[tokio::test]
async fn start_up_files_of_zsh_may_print() {
    noisy(".zshenv", &["zsh", "-c"]).await;
}

#[tokio::test]
async fn start_up_files_of_ksh_may_print() {
    noisy(".profile", &["ksh93", "-l", "-c"]).await;
}

#[tokio::test]
async fn start_up_files_of_fish_may_print() {
    let place = Place::new().login(&["fish", "-c"]);
    let folder = place.home().join(".config/fish");
    fs::create_dir_all(&folder).expect("made");
    fs::write(folder.join("config.fish"), "head -c 2000000 /dev/urandom; echo -n no line end\n")
        .expect("written");
    place.start(&program(), &options()).await.expect("started").echo_and_end().await;
}

#[tokio::test]
async fn start_up_files_of_tcsh_may_print() {
    let place = Place::new().login(&["tcsh", "-c"]);
    fs::write(place.home().join(".tcshrc"), "head -c 2000000 /dev/urandom; echo -n no line end\n")
        .expect("written");
    place.start(&program(), &options()).await.expect("started").echo_and_end().await;
}

#[tokio::test]
async fn a_shell_that_shows_what_it_runs_does_not_forge_a_message() {
    let place = Place::new().login(&["bash", "-x", "-v", "-c"]);
    place.start(&program(), &options()).await.expect("started").echo_and_end().await;
    // The command shown on standard output, as an echoing terminal would.
    let home = format!("HOME={}", place.home().display());
    let line = "echo \"$0\"; exec bash -c \"$0\"";
    let target = CommandTarget::new("env").args([&home, "bash", "-c", line]).as_line();
    Worker::start(&target.into(), &program(), &options()).await.expect("started").echo_and_end().await;
}

#[tokio::test]
async fn an_account_that_is_refused_says_why() {
    let target = CommandTarget::new("sh").args([
        "-c",
        "echo Could not chdir to home directory /x: No such file or directory >&2; \
            echo This account is currently not available.; exit 1",
    ]);
    let error = Worker::start(&target.into(), &program(), &options()).await.err().expect("refused");
    assert_eq!((error.step(), error.class()), (Step::Probe, Class::Bootstrap));
    assert!(error.to_string().contains("This account is currently not available."), "{error}");
    assert!(error.to_string().contains("exit code 1"), "{error}");
    assert_eq!(
        error.hint(),
        Some("the account has no shell to log in with: use another account, or give it one")
    );
}

#[tokio::test]
async fn a_command_that_cannot_reach_its_place_says_why() {
    let refusal = "echo connect to host x port 22: Connection refused >&2; exit 255";
    let target = CommandTarget::new("sh").args(["-c", refusal]);
    let error = Worker::start(&target.into(), &program(), &options()).await.err().expect("refused");
    assert_eq!((error.step(), error.class()), (Step::Start, Class::Connect));
    assert!(error.to_string().contains("Connection refused"), "{error}");

    let error = Worker::start(&CommandTarget::new("/no/such/docker").into(), &program(), &options()).await;
    let error = error.err().expect("not installed");
    assert_eq!((error.step(), error.class()), (Step::Start, Class::Exec));
    assert!(error.to_string().contains("/no/such/docker"), "{error}");
}

#[tokio::test]
async fn a_place_without_a_shell_says_so() {
    let target = CommandTarget::new("env").args(["-i", "PATH=/nowhere"]);
    let error = Worker::start(&target.into(), &program(), &options()).await.err().expect("no shell");
    assert_eq!((error.step(), error.class()), (Step::Start, Class::Bootstrap), "{error:?}");
    assert!(error.hint().expect("a remedy").contains("POSIX shell"), "{error}");
}

#[tokio::test]
async fn a_start_up_file_that_waits_for_input_ends_with_the_limit() {
    let place = Place::new().login(&["bash", "-l", "-c"]);
    fs::write(place.home().join(".bash_profile"), "echo -n 'Project: '; read project\n").expect("written");
    let settings = LaunchOptions { start_limit: Duration::from_millis(500), ..options() };
    let error = place.start(&program(), &settings).await.err().expect("it waits for ever");
    assert_eq!((error.step(), error.class()), (Step::Probe, Class::Timeout));
    assert!(error.evidence().contains("Project: "), "{error:?}");
    assert!(error.hint().expect("a remedy").contains("start-up files"), "{error}");
}

#[tokio::test]
async fn a_terminal_in_between_is_named() {
    // `script` runs a command at a terminal of its own.
    let place = Place::new();
    let home = format!("HOME={}", place.home().display());
    let line = "exec script -qec \"$0\" /dev/null";
    let target = CommandTarget::new("env").args([&home, "bash", "-c", line]).as_line();
    let error =
        Worker::start(&target.into(), &program(), &options()).await.err().expect("it would spoil all bytes");
    assert!(error.to_string().contains("terminal"), "{error}");
}

#[tokio::test]
async fn separate_arguments_serve_as_well_as_a_line() {
    let place = Place::new();
    let home = format!("HOME={}", place.home().display());
    let target = CommandTarget::new("env").args([home.as_str(), "nice", "-n", "1"]).into();
    let settings = LaunchOptions { arguments: vec!["it's odd\n".into()], ..options() };
    let worker = Worker::start(&target, &program(), &settings).await.expect("started");
    assert!(matches!(worker.delivery(), Delivery::Sent { kept: true, .. }));
    assert_eq!(worker.proc("cmdline").split('\0').nth(1), Some("it's odd\n"));
    worker.echo_and_end().await;
}
