//! A worker on this machine starts as this program again: settings, descriptors, signals, its end.

mod place;

use std::fs;
use std::io;
use std::path::Path;
use std::time::{Duration, Instant};

use farcall_bootstrap::image::Program;
use farcall_bootstrap::launch::{Delivery, launch};
use farcall_bootstrap::platform::Platform;
use farcall_bootstrap::process::Exit;
use farcall_bootstrap::target::{CommandTarget, LaunchOptions, Target};
use farcall_bootstrap::{Class, LaunchError, Step};
use place::{Worker, options, program};
use rustix::io::{FdFlags, fcntl_setfd};
use rustix::process::{Pid, Signal, kill_process};
use tokio::io::AsyncWriteExt;

async fn started(options: &LaunchOptions) -> Worker {
    Worker::start(&Target::Local, &program(), options).await.expect("started")
}

async fn refused(options: &LaunchOptions) -> LaunchError {
    launch(&Target::Local, &program(), options).await.expect_err("refused")
}

/// Waits until a process is gone altogether: dead and reaped.
async fn gone(pid: u32) {
    let limit = Instant::now() + Duration::from_secs(20);
    while Path::new(&format!("/proc/{pid}")).exists() {
        assert!(Instant::now() < limit, "process {pid} is still there");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test]
async fn settings_hold_before_the_worker_speaks() {
    let folder = tempfile::tempdir().expect("a folder");
    let below = folder.path().join("a b/c");
    let settings = LaunchOptions {
        arguments: vec!["one".into(), "".into(), "t'wo\n".into()],
        argv0: Some("farcall: somewhere".into()),
        chdir: Some(below.clone()),
        nice: Some(4),
        env: vec![("ODD".into(), "a=b\n".into())],
        memory: Some(256 << 20),
        ..options()
    };
    let worker = started(&settings).await;
    assert_eq!(worker.delivery(), Delivery::Present);
    assert_eq!(worker.launched.platform, Some(Platform::current()));
    assert_eq!(worker.launched.process.id(), Some(worker.pid));
    assert_eq!(worker.proc("cmdline"), "farcall: somewhere\0one\0\0t'wo\n\0");
    assert_eq!(worker.link("cwd"), below);
    assert!(worker.proc("environ").split('\0').any(|variable| variable == "ODD=a=b\n"));
    let stat = worker.proc("stat");
    let fields: Vec<&str> = stat.rsplit_once(')').expect("a name").1.split(' ').collect();
    assert_eq!(fields[17], "4", "niceness");
    assert_eq!(fields[3], worker.pid.to_string(), "leads its process group");
    let limits = worker.proc("limits");
    let data = limits.lines().find(|line| line.starts_with("Max data size")).expect("a limit");
    assert_eq!(data.split_whitespace().nth(3), Some("268435456"), "{data}");
    worker.echo_and_end().await;
}

#[tokio::test]
async fn a_command_inherits_nothing_but_its_three_pipes_and_default_signals() {
    let stray = fs::File::open("/dev/null").expect("readable");
    fcntl_setfd(&stray, FdFlags::empty()).expect("inheritable");
    // SAFETY: no handler is involved, and nextest runs each test in a process of its own.
    unsafe { libc::signal(libc::SIGUSR1, libc::SIG_IGN) };
    let home = tempfile::tempdir().expect("a folder");
    let target = CommandTarget::new("env").args([format!("HOME={}", home.path().display())]).into();
    let worker = Worker::start(&target, &program(), &options()).await.expect("started");
    assert_inherited_nothing(&worker);
    drop(stray);
    worker.echo_and_end().await;
}

fn assert_inherited_nothing(worker: &Worker) {
    let mut open: Vec<_> = fs::read_dir(format!("/proc/{}/fd", worker.pid))
        .expect("it lives")
        .map(|entry| entry.expect("readable").file_name().into_string().expect("a number"))
        .collect();
    open.sort();
    assert_eq!(open, ["0", "1", "2"]);
    let status = worker.proc("status");
    for mask in ["SigBlk", "SigIgn"] {
        let line = status.lines().find(|line| line.starts_with(mask)).expect("a mask");
        let set =
            u64::from_str_radix(line.split_whitespace().nth(1).expect("a number"), 16).expect("hexadecimal");
        // The Rust runtime of the worker itself ignores SIGPIPE before main.
        assert_eq!(set & !(1 << (libc::SIGPIPE - 1)), 0, "{line}");
    }
}

fn worker_path() -> &'static str {
    env!("CARGO_BIN_EXE_farcall-bootstrap-test-worker")
}

#[tokio::test]
async fn a_command_may_be_the_worker() {
    let target = CommandTarget::new("env").args([worker_path()]).as_worker().into();
    let settings = LaunchOptions { arguments: vec!["label".into()], ..options() };
    let worker = Worker::start(&target, &program(), &settings).await.expect("started");
    assert_eq!(worker.delivery(), Delivery::Present);
    assert_eq!(worker.proc("cmdline"), format!("{}\0label\0", worker_path()));
    worker.echo_and_end().await;
}

#[tokio::test]
async fn the_end_is_known_with_its_code_or_signal_and_leaves_no_zombie() {
    let worker = started(&options()).await;
    let pid = worker.pid;
    let (mut process, stderr) = (worker.launched.process, worker.launched.stderr);
    assert_eq!(process.exit(), None);
    kill_process(Pid::from_raw(pid.cast_signed()).expect("a number"), Signal::TERM).expect("it lives");
    assert_eq!(process.wait().await, Exit::Signal(15));
    assert_eq!(process.exit(), Some(Exit::Signal(15)));
    assert_eq!(process.wait().await, Exit::Signal(15), "again");
    stderr.closed().await;
    assert_eq!(stderr.tail(), b"started\n");
    gone(pid).await;
    process.kill();

    let mut worker = started(&options()).await;
    worker.launched.process.kill();
    assert_eq!(worker.launched.process.wait().await, Exit::Signal(9));
    gone(worker.pid).await;
}

#[tokio::test]
async fn dropping_what_was_launched_kills_and_reaps_it() {
    let worker = started(&options()).await;
    let pid = worker.pid;
    drop(worker);
    gone(pid).await;
}

#[tokio::test]
async fn dropping_a_start_kills_it() {
    let settings =
        LaunchOptions { arguments: vec!["mute".into()], argv0: Some("mute-and-alone".into()), ..options() };
    let program = program();
    let mine = || {
        let processes = fs::read_dir("/proc").expect("mounted").filter_map(Result::ok);
        processes
            .filter(|process| {
                fs::read(process.path().join("cmdline"))
                    .is_ok_and(|line| line.starts_with(b"mute-and-alone\0"))
            })
            .filter_map(|process| process.file_name().to_str()?.parse().ok())
            .next()
    };
    let pid: u32 = {
        let start = launch(&Target::Local, &program, &settings);
        tokio::select! {
            result = start => panic!("{result:?}"),
            pid = async { loop { match mine() { Some(pid) => break pid, None => tokio::task::yield_now().await } } } => pid,
        }
    };
    gone(pid).await;
}

#[tokio::test]
async fn a_program_that_does_not_greet_is_refused() {
    let mute = LaunchOptions {
        arguments: vec!["mute".into()],
        start_limit: Duration::from_millis(300),
        ..options()
    };
    let error = refused(&mute).await;
    assert_eq!((error.step(), error.class()), (Step::Greeting, Class::Timeout));
    assert!(error.hint().expect("a remedy").contains("main"), "{error}");

    let other = LaunchOptions { greeting: b"another greeting".to_vec(), ..options() };
    let error = refused(&other).await;
    assert_eq!((error.step(), error.class()), (Step::Greeting, Class::Exec));
    // The last that it printed where the worker's words belong, whatever it said to standard error when it was left.
    assert!(error.to_string().contains("(it printed: HELLO "), "{error}");
    assert!(error.hint().expect("a remedy").contains("prints nothing before"), "{error}");

    let failing = LaunchOptions { arguments: vec!["fail".into()], ..options() };
    let error = refused(&failing).await;
    assert_eq!((error.step(), error.class()), (Step::Greeting, Class::RemoteExit));
    assert!(error.to_string().contains("exit code 3"), "{error}");
    assert!(error.to_string().contains("the reason for it"), "{error}");

    let dying = LaunchOptions { arguments: vec!["abort".into()], ..options() };
    let error = refused(&dying).await;
    assert_eq!((error.step(), error.class()), (Step::Greeting, Class::Signal));
}

/// Between the start of a program and its first worker there may be an upgrade.
#[tokio::test]
async fn the_running_program_is_started_and_shipped_also_when_its_file_is_another_by_now() {
    let original = env!("CARGO_BIN_EXE_farcall-bootstrap-test-coordinator");
    let digest = Program::at(original).for_here().await.expect("loads").digest().to_string();
    let folder = tempfile::tempdir().expect("a folder");
    let copy = folder.path().join("tool");
    fs::copy(original, &copy).expect("copied");
    // Another program, which does not greet.
    let output =
        std::process::Command::new(&copy).args(["replaced", "/bin/false"]).output().expect("it runs");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}");
    assert_eq!(String::from_utf8_lossy(&output.stdout), format!("{digest}\n{digest}\n"), "{said}");
    assert_eq!(fs::read(&copy).expect("there"), fs::read("/bin/false").expect("there"), "it was replaced");
}

#[tokio::test]
async fn what_cannot_be_started_is_named() {
    let error =
        launch(&Target::Local, &Program::at("/no/such/program"), &options()).await.expect_err("missing");
    assert_eq!((error.step(), error.class()), (Step::Exec, Class::Exec));
    assert!(error.to_string().contains("/no/such/program"), "{error}");

    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("broken");
    fs::copy(worker_path(), &path).expect("copied");
    fs::write(&path, b"\x7fELF").expect("spoilt");
    let error = launch(&Target::Local, &Program::at(&path), &options()).await.expect_err("no program");
    assert_eq!((error.step(), error.class()), (Step::Exec, Class::Exec));

    let settings = LaunchOptions { chdir: Some("/proc/no/such".into()), ..options() };
    let error = refused(&settings).await;
    assert_eq!(error.step(), Step::Exec);
    assert!(error.cause().expect("a cause").to_string().contains("cannot start"), "{error}");

    let settings = LaunchOptions { nice: Some(100), ..options() };
    assert_eq!(refused(&settings).await.step(), Step::Config);
}

#[tokio::test]
async fn words_on_standard_error_never_block_the_worker() {
    // More than any pipe holds.
    let script = "head -c 3000000 /dev/zero | tr '\\0' x >&2; echo the end >&2; echo HELLO $$; exec cat";
    let target = CommandTarget::new("sh").args(["-c", script]).as_worker().into();
    let worker = Worker::start(&target, &program(), &options()).await.expect("started");
    let stderr = worker.launched.stderr.clone();
    worker.echo_and_end().await;
    stderr.closed().await;
    let tail = stderr.tail();
    assert_eq!(tail.len(), farcall_bootstrap::error::EVIDENCE_LIMIT);
    assert!(tail.ends_with(b"xxx\nthe end\n") || tail.ends_with(b"xthe end\n"));
}

#[tokio::test]
async fn a_worker_that_went_away_is_an_error_for_its_writer() {
    let mut worker = started(&options()).await;
    worker.launched.process.kill();
    worker.launched.process.wait().await;
    let error = loop {
        match worker.launched.writer.write_all(&[0; 65536]).await {
            Ok(()) => {}
            Err(error) => break error,
        }
    };
    assert_eq!(error.kind(), io::ErrorKind::BrokenPipe);
}
