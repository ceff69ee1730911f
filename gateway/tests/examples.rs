//! The examples, run as somebody would who tries them.

mod program;

use std::ffi::OsStr;
use std::io::{Read, Write};
use std::path::PathBuf;
use std::process::{Command, ExitStatus, Stdio};
use std::time::Duration;

use farcall_test_support::{Sshd, TempHome};
use program::Launch;

/// More than any of them needs, on a busy machine.
const LIMIT: Duration = Duration::from_secs(60);

/// The stated bound on the end of everything, once the program is gone: the grace of 2 s, and 1 s for killing. The rest is for a
/// machine that is busy with other tests.
const GONE: Duration = Duration::from_secs(3 + 12);

/// The example's program, which is built with all tests, and here if it is missing.
fn example(name: &str) -> PathBuf {
    let this = std::env::current_exe().expect("a path");
    let profile = this.parent().and_then(|deps| deps.parent()).expect("a folder for the profile");
    let program = profile.join("examples").join(name);
    if !program.exists() {
        // The folder of the target is between the two.
        let target = profile.parent().and_then(|triple| triple.parent()).expect("a folder for targets");
        let mut cargo = Command::new(env!("CARGO"));
        cargo
            .args(["build", "--quiet", "--package", "farcall", "--example", name, "--target-dir"])
            .arg(target);
        if profile.ends_with("release") {
            cargo.arg("--release");
        }
        assert!(cargo.status().expect("cargo").success());
    }
    program
}

/// Runs an example to its end, after which nothing is left of it.
fn run(name: &str, args: &[&OsStr], input: impl Into<Stdio>) -> (ExitStatus, String, String) {
    let mut launch = Launch::program(example(name)).stdin(input).stderr(Stdio::piped());
    for arg in args {
        launch = launch.arg(arg);
    }
    let mut program = launch.start();
    let mut errors = program.child.stderr.take().expect("it is piped");
    let errors = std::thread::spawn(move || {
        let mut text = Vec::new();
        errors.read_to_end(&mut text).expect("read");
        String::from_utf8_lossy(&text).into_owned()
    });
    let mut printed = String::new();
    program.stdout.read_to_string(&mut printed).expect("text");
    let status = program.ended(LIMIT);
    program.all_gone(GONE);
    (status, printed, errors.join().expect("no panic"))
}

#[test]
fn hello_greets_from_another_process() {
    let (status, printed, errors) = run("hello", &[], Stdio::null());
    assert!(status.success(), "{errors}");
    let lines: Vec<&str> = printed.lines().collect();
    assert!(lines[0].starts_with("hello world, from process "), "{printed}");
    assert_eq!(lines[1..], ["7 * 7 = 49"], "{printed}");
}

#[test]
fn grep_sends_back_what_matches() {
    let mut text = tempfile::tempfile().expect("a file");
    text.write_all("one\nanother one\ntwo\n".repeat(1000).as_bytes()).expect("written");
    std::io::Seek::rewind(&mut text).expect("rewound");
    let (status, printed, errors) = run("grep", &["another".as_ref(), "local".as_ref()], text);
    assert!(status.success(), "{errors}");
    let lines: Vec<&str> = printed.lines().collect();
    assert_eq!((lines.len(), lines[0], lines[999]), (1000, "2: another one", "2999: another one"));
    assert_eq!(errors, "3000 lines\n");

    let (status, printed, errors) = run("grep", &["".as_ref()], Stdio::null());
    assert!(!status.success());
    assert!(printed.is_empty() && errors.contains("there is nothing to look for"), "{errors}");
}

#[test]
fn disks_of_a_host_that_ssh_reaches_are_looked_at() {
    let (server, home) = (Sshd::start(), TempHome::new());
    let config = home.write("config", &server.config("server"));
    let [there, nobody] =
        ["server", "nobody.invalid"].map(|host| format!("ssh://{host}?config={}", config.display()));
    let (status, printed, errors) = run("disks", &[there.as_ref(), nobody.as_ref()], Stdio::null());
    assert!(status.success(), "{errors}");
    let of = |spec: &str| printed.lines().filter(|line| line.starts_with(&format!("{spec}: "))).count();
    assert!(of(&there) >= 1, "{printed}");
    assert!(
        printed.lines().any(|line| line.contains("nobody.invalid") && line.contains("resolve")),
        "{printed}"
    );
    server.wait_until_idle();
}

#[test]
fn words_are_counted_over_several_gateways() {
    let mut text = tempfile::tempfile().expect("a file");
    for line in 0..20_000 {
        let rare = if line % 1000 == 0 { "rare" } else { "" };
        writeln!(text, "To be or NOT to be, {rare} that is the question").expect("written");
    }
    std::io::Seek::rewind(&mut text).expect("rewound");
    let (status, printed, errors) = run("words", &["3*local".as_ref()], text);
    assert!(status.success(), "{errors}");
    let counts: Vec<Vec<&str>> = printed.lines().map(|line| line.split_whitespace().collect()).collect();
    assert_eq!(counts[..3], [["40000", "be"], ["40000", "to"], ["20000", "is"]], "{printed}");
    assert_eq!(counts[counts.len() - 1], ["20", "rare"], "{printed}");
    let pieces = errors.lines().filter_map(|line| line.split_once(": ")?.1.strip_suffix(" pieces"));
    let pieces: Vec<u64> = pieces.map(|count| count.parse().expect("a number")).collect();
    assert_eq!(
        (pieces.len(), pieces.iter().sum::<u64>()),
        (3, 20_000_u64 * 42 / (64 * 1024) + 1),
        "{errors}"
    );
}

#[test]
fn words_of_a_text_that_cannot_be_read_are_no_count() {
    let folder = tempfile::tempdir().expect("a folder");
    let unreadable = std::fs::File::open(folder.path()).expect("it can be opened");
    let (status, printed, errors) = run("words", &["local".as_ref()], unreadable);
    assert!(!status.success());
    assert_eq!(printed, "");
    assert!(errors.contains("cannot read the text to its end"), "{errors}");
}

#[test]
fn parsers_tell_of_each_file() {
    let folder = tempfile::tempdir().expect("a folder");
    let (good, none) = (folder.path().join("good.json"), folder.path().join("none.json"));
    std::fs::write(&good, "[1,\n22]\n").expect("a file");
    let (status, printed, errors) = run("parsers", &[good.as_os_str(), none.as_os_str()], Stdio::null());
    assert!(status.success(), "{errors}");
    let lines: Vec<&str> = printed.lines().collect();
    assert_eq!(lines.len(), 2, "{printed}");
    assert_eq!(lines[0], format!("{}: 2 lines, the longest of 3 bytes", good.display()));
    assert!(lines[1].starts_with(&format!("{}: No such file", none.display())), "{printed}");
}

#[test]
fn the_farm_survives_what_is_done_to_it() {
    let (status, printed, errors) = run("farm", &[], Stdio::null());
    assert!(status.success(), "{errors}");
    let rest = printed.trim_end().strip_prefix("303 primes below 2001, found by ").expect("its line");
    let numbers: Vec<u32> = rest.split_whitespace().filter_map(|word| word.parse().ok()).collect();
    let [workers, killed] = numbers[..] else { panic!("{printed}") };
    assert!(killed > 0 && workers > 4, "{printed}");
}
