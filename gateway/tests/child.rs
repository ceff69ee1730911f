//! A command on the far side gets what it was promised, its output comes before its end, and it leaves nothing.

mod program;

use std::io;
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use farcall::worker::child::{
    Collected, Ended, Event, Input, Launch, Output, Running, SignalError, Size, SpawnError, Status, Step,
    Whom,
};
use farcall::worker::{guardian, limits};
use rustix::process::{Pid, Signal, kill_process, kill_process_group};
use tokio::io::AsyncWriteExt;

/// For what should take no time at all.
const SOON: Duration = Duration::from_secs(10);

fn main() {
    program::main(
        play,
        &[
            ("output_comes_whole_and_before_the_end", output_comes_whole_and_before_the_end),
            ("input_reaches_it_whole", input_reaches_it_whole),
            ("status_is_code_or_signal", status_is_code_or_signal),
            ("status_is_known_without_waiting", status_is_known_without_waiting),
            ("failed_start_says_the_step_and_leaves_nothing", failed_start_says_the_step_and_leaves_nothing),
            ("program_is_found_in_its_own_path", program_is_found_in_its_own_path),
            ("script_without_an_interpreter_runs", script_without_an_interpreter_runs),
            ("environment_directory_and_name_are_given", environment_directory_and_name_are_given),
            ("only_three_descriptors_are_inherited", only_three_descriptors_are_inherited),
            ("signals_are_at_their_defaults", signals_are_at_their_defaults),
            ("limit_on_descriptors_is_restored", limit_on_descriptors_is_restored),
            ("leads_its_own_group", leads_its_own_group),
            ("kill_reaches_the_whole_group", kill_reaches_the_whole_group),
            ("drop_kills_the_group", drop_kills_the_group),
            ("drop_after_an_unseen_end_kills_the_group", drop_after_an_unseen_end_kills_the_group),
            ("drop_after_a_reported_end_kills_nobody", drop_after_a_reported_end_kills_nobody),
            ("signals_reach_process_or_group", signals_reach_process_or_group),
            ("real_time_signals_are_sent", real_time_signals_are_sent),
            ("each_output_ends_by_itself", each_output_ends_by_itself),
            (
                "an_output_on_hold_is_still_there_after_the_end",
                an_output_on_hold_is_still_there_after_the_end,
            ),
            ("output_held_open_is_cut_and_marked", output_held_open_is_cut_and_marked),
            ("output_held_open_by_a_chatterer_is_cut", output_held_open_by_a_chatterer_is_cut),
            ("late_reader_misses_nothing_of_a_cut_output", late_reader_misses_nothing_of_a_cut_output),
            ("output_over_the_limit_is_marked", output_over_the_limit_is_marked),
            ("terminal_is_a_terminal", terminal_is_a_terminal),
            ("terminal_interrupts_and_resizes", terminal_interrupts_and_resizes),
            ("terminal_input_ends", terminal_input_ends),
            ("terminal_that_nobody_has_open_is_not_hung_up", terminal_that_nobody_has_open_is_not_hung_up),
            ("five_hundred_leave_nothing", five_hundred_leave_nothing),
            ("waiting_works_below_guardians", waiting_works_below_guardians),
            ("needs_a_runtime", needs_a_runtime),
        ],
    );
}

// ---- roles -------------------------------------------------------------------------------------------------------

fn play(role: &str, args: &[String]) {
    match role {
        "descriptors" => println!("{:?}", open_descriptors()),
        "ignoring" => block_on(async {
            for signal in [libc::SIGHUP, libc::SIGINT, libc::SIGQUIT, libc::SIGUSR1, libc::SIGPIPE] {
                // SAFETY: SIG_IGN runs no code.
                unsafe { libc::signal(signal, libc::SIG_IGN) };
            }
            // SAFETY: the set is initialised before it is used.
            unsafe {
                let mut set = std::mem::zeroed();
                libc::sigfillset(&raw mut set);
                libc::pthread_sigmask(libc::SIG_SETMASK, &raw const set, std::ptr::null_mut());
            }
            let status = run(&Launch::new("cat").arg("/proc/self/status")).await;
            print!("{}", text(&status.stdout));
        }),
        "limited" => block_on(async {
            limits::raise_descriptors().expect("raise the limit");
            limits::raise_descriptors().expect("and again");
            let raised = rustix::process::getrlimit(rustix::process::Resource::Nofile);
            assert_eq!(raised.current, raised.maximum);
            let seen = run(&Launch::new("sh").args(["-c", "ulimit -Sn; ulimit -Hn"])).await;
            print!("{}", text(&seen.stdout));
        }),
        "many" => many(args[0].parse().expect("a number")),
        "guarded" => {
            let guarded = guardian::start(&guardian::Options::default()).expect("start the guardians");
            let done = block_on(async {
                let mut done = 0;
                for code in 0..50 {
                    let exit = format!("exit {code}");
                    let ended = run(&Launch::new("sh").args(["-c", &exit])).await.ended;
                    done += i32::from(ended.status == Status::Code(code));
                }
                done
            });
            println!("done {done}");
            drop(guarded);
        }
        other => panic!("unknown role {other}"),
    }
}

/// Starts and ends so many commands, in several ways, and says what is left.
fn many(count: usize) {
    block_on(async {
        // Whatever is opened once is opened now.
        run(&Launch::new("true")).await;
        let before = open_descriptors();
        for turn in 0..count {
            match turn % 4 {
                0 => drop(run(&Launch::new("true")).await),
                1 => assert_eq!(Launch::new("false").spawn().expect("start").wait().await, Status::Code(1)),
                2 => drop(Launch::new("sleep").arg("1000").stdin(Input::Piped).spawn().expect("start")),
                _ => drop(
                    Launch::new("/nonexistent").stdout(Output::Piped).spawn().expect_err("no such program"),
                ),
            }
        }
        // Those that were dropped are reaped when they have died.
        let end = Instant::now() + SOON;
        while children() > 0 || open_descriptors() != before {
            assert!(
                Instant::now() < end,
                "{} children, {:?} open, {before:?} before",
                children(),
                open_descriptors()
            );
            tokio::task::yield_now().await;
        }
        println!("nothing is left");
    });
}

// ---- what the tests share ----------------------------------------------------------------------------------------

fn block_on<T>(future: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on(async {
        tokio::time::timeout(Duration::from_secs(60), future).await.expect("done in a minute")
    })
}

async fn run(launch: &Launch) -> Collected {
    let running = launch.clone().stdout(Output::Piped).stderr(Output::Piped).spawn().expect("start");
    running.collect(16 << 20).await.expect("collect")
}

fn shell(script: &str) -> Launch {
    Launch::new("sh").args(["-c", script]).stdout(Output::Piped).stderr(Output::Piped)
}

fn text(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).expect("text")
}

fn open_descriptors() -> Vec<i32> {
    let directory = rustix::fs::open("/proc/self/fd", rustix::fs::OFlags::RDONLY, rustix::fs::Mode::empty());
    let directory = directory.expect("open the list of descriptors");
    let own = std::os::fd::AsRawFd::as_raw_fd(&directory);
    let mut open: Vec<i32> = rustix::fs::Dir::new(directory)
        .expect("list the descriptors")
        .filter_map(|entry| entry.expect("an entry").file_name().to_str().ok()?.parse().ok())
        .filter(|fd| *fd != own)
        .collect();
    open.sort_unstable();
    open
}

fn children() -> usize {
    std::fs::read_to_string(format!("/proc/self/task/{}/children", std::process::id()))
        .expect("a kernel with children files")
        .split_whitespace()
        .count()
}

/// Reads output until `count` lines have come; their numbers.
async fn numbers(running: &mut Running, count: usize) -> Vec<Pid> {
    let mut all = Vec::new();
    while all.iter().filter(|byte| **byte == b'\n').count() < count {
        match running.next().await.expect("an event") {
            Some(Event::Stdout(bytes)) => all.extend(bytes),
            other => panic!("expected output, got {other:?}"),
        }
    }
    text(&all)
        .lines()
        .map(|line| Pid::from_raw(line.trim().parse().expect("a number")).expect("a pid"))
        .collect()
}

async fn read_until(running: &mut Running, all: &mut Vec<u8>, wanted: &str) {
    while !String::from_utf8_lossy(all).contains(wanted) {
        match running.next().await.expect("an event") {
            Some(Event::Stdout(bytes)) => all.extend(bytes),
            // A shell's remarks about those that died.
            Some(Event::Stderr(_) | Event::StderrEnd) => {}
            other => panic!("expected {wanted:?}, got {other:?} after {:?}", String::from_utf8_lossy(all)),
        }
    }
}

// ---- tests -------------------------------------------------------------------------------------------------------

fn output_comes_whole_and_before_the_end() {
    block_on(async {
        let script = "head -c 300000 /dev/zero; head -c 200000 /dev/zero >&2; exit 3";
        for _ in 0..20 {
            let mut running = shell(script).spawn().expect("start");
            let (mut stdout, mut stderr) = (0, 0);
            let ended = loop {
                match running.next().await.expect("an event").expect("more before the end") {
                    Event::Stdout(bytes) => stdout += bytes.len(),
                    Event::Stderr(bytes) => stderr += bytes.len(),
                    Event::StdoutEnd | Event::StderrEnd => {}
                    Event::Ended(ended) => break ended,
                }
            };
            assert_eq!(
                (stdout, stderr, ended.status, ended.held_open),
                (300_000, 200_000, Status::Code(3), false)
            );
            assert_eq!(running.next().await.expect("no error"), None);
        }
    });
}

fn input_reaches_it_whole() {
    block_on(async {
        let mut running = shell("md5sum; echo done >&2").stdin(Input::Piped).spawn().expect("start");
        let mut stdin = running.stdin().expect("stdin is piped");
        assert!(running.stdin().is_none());
        let writing = tokio::spawn(async move {
            stdin.write_all(&vec![0; 1 << 20]).await.expect("write");
        });
        let collected = running.collect(1 << 20).await.expect("collect");
        writing.await.expect("written");
        assert_eq!(text(&collected.stdout), "b6d81b360a5672d80c27430f39153e2c  -\n");
        assert_eq!(text(&collected.stderr), "done\n");
    });
}

fn status_is_code_or_signal() {
    block_on(async {
        for code in [0, 1, 42, 255] {
            let ended = run(&shell(&format!("exit {code}"))).await.ended;
            assert_eq!(ended.status, Status::Code(code));
        }
        for signal in [libc::SIGKILL, libc::SIGTERM, libc::SIGHUP, libc::SIGPIPE] {
            let ended = run(&shell(&format!("kill -{signal} $$"))).await.ended;
            assert_eq!(ended.status, Status::Signal(signal));
        }
    });
}

fn status_is_known_without_waiting() {
    block_on(async {
        let mut running = shell("read line; exit 4").stdin(Input::Piped).spawn().expect("start");
        assert_eq!(running.status(), None);
        drop(running.stdin());
        while running.status().is_none() {
            tokio::task::yield_now().await;
        }
        assert_eq!(running.status(), Some(Status::Code(4)));
        assert_eq!(running.wait().await, Status::Code(4));
        assert_eq!(running.wait().await, Status::Code(4));
    });
}

fn failed_start_says_the_step_and_leaves_nothing() {
    let folder = tempfolder();
    let plain = folder.join("plain");
    std::fs::write(&plain, "not a program").expect("write a file");
    let failure = |launch: Launch| match launch.spawn().expect_err("cannot start") {
        SpawnError::Step { step, source, .. } => (step, source.kind()),
        other => panic!("unexpected {other:?}"),
    };
    block_on(async {
        assert_eq!(failure(Launch::new("/nonexistent/x")), (Step::Execute, io::ErrorKind::NotFound));
        assert_eq!(failure(Launch::new("surely-no-such-program")), (Step::Execute, io::ErrorKind::NotFound));
        assert_eq!(failure(Launch::new("")), (Step::Execute, io::ErrorKind::NotFound));
        assert_eq!(failure(Launch::new(plain)), (Step::Execute, io::ErrorKind::PermissionDenied));
        let lost = Launch::new("true").current_dir("/nonexistent");
        assert_eq!(failure(lost), (Step::Directory, io::ErrorKind::NotFound));
        assert_eq!(failure(Launch::new("true").arg("a\0b")), (Step::Prepare, io::ErrorKind::InvalidInput));
        let error = Launch::new("surely-no-such-program").spawn().expect_err("no such program");
        assert_eq!(error.to_string(), "cannot start surely-no-such-program: cannot execute the program");
    });
    std::fs::remove_dir_all(folder).expect("remove the folder");
}

fn tempfolder() -> std::path::PathBuf {
    use std::sync::atomic::{AtomicU32, Ordering};
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let name = format!("farcall-child-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
    let folder = std::env::temp_dir().join(name);
    std::fs::create_dir(&folder).expect("a folder of our own");
    folder
}

fn script(folder: &std::path::Path, name: &str, contents: &str) -> std::path::PathBuf {
    use std::os::unix::fs::PermissionsExt;
    let path = folder.join(name);
    std::fs::write(&path, contents).expect("write a script");
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).expect("make it executable");
    path
}

fn program_is_found_in_its_own_path() {
    let folder = tempfolder();
    script(&folder, "only-here", "#!/bin/sh\necho found \"$@\"\n");
    block_on(async {
        let launch = Launch::new("only-here").args(["a", "b c"]);
        assert!(matches!(launch.spawn(), Err(SpawnError::Step { step: Step::Execute, .. })));
        let path = format!("/nonexistent:{}:/usr/bin:/bin", folder.display());
        assert_eq!(text(&run(&launch.env("PATH", path)).await.stdout), "found a b c\n");
        // An empty entry is the working directory.
        let here = Launch::new("only-here").env("PATH", ":/usr/bin:/bin").current_dir(&folder);
        assert_eq!(text(&run(&here).await.stdout), "found\n");
    });
    std::fs::remove_dir_all(folder).expect("remove the folder");
}

fn script_without_an_interpreter_runs() {
    let folder = tempfolder();
    let path = script(&folder, "bare", "echo \"$0\" \"$2\" \"$#\"\n");
    block_on(async {
        let collected = run(&Launch::new(&path).args(["one", "two", "three"])).await;
        assert_eq!(text(&collected.stdout), format!("{} two 3\n", path.display()));
    });
    std::fs::remove_dir_all(folder).expect("remove the folder");
}

fn environment_directory_and_name_are_given() {
    block_on(async {
        let collected =
            run(&Launch::new("env").env_clear().env("A", "1").env("B", "x=y").env_remove("A")).await;
        assert_eq!(text(&collected.stdout), "B=x=y\n");
        let launch = shell("echo $SET; echo ${HOME-none}; pwd")
            .env("SET", "new")
            .env_remove("HOME")
            .current_dir("/usr");
        assert_eq!(text(&run(&launch).await.stdout), "new\nnone\n/usr\n");
        let inherited = run(&shell("echo ${PATH:+given}")).await;
        assert_eq!(text(&inherited.stdout), "given\n");
        let named = run(&Launch::new("sh").arg0("another").args(["-c", "echo $0"])).await;
        assert_eq!(text(&named.stdout), "another\n");
    });
}

fn only_three_descriptors_are_inherited() {
    // One that somebody forgot to mark, as C libraries do.
    let careless =
        rustix::io::dup(std::fs::File::open("/dev/null").expect("open /dev/null")).expect("duplicate");
    assert!(
        !rustix::io::fcntl_getfd(careless.as_fd()).expect("flags").contains(rustix::io::FdFlags::CLOEXEC)
    );
    let myself = std::env::current_exe().expect("own path");
    block_on(async {
        let seen = run(&Launch::new(myself).args([program::PLAY, "descriptors"])).await;
        assert_eq!(text(&seen.stdout), "[0, 1, 2]\n");
    });
}

fn signals_are_at_their_defaults() {
    let mut launched = program::Launch::role("ignoring").start();
    let mut seen = std::collections::BTreeMap::new();
    while seen.len() < 4 {
        let line = launched.line();
        if let Some((name @ ("SigBlk" | "SigIgn" | "SigCgt" | "SigPnd"), mask)) = line.split_once(':') {
            seen.insert(name.to_owned(), u64::from_str_radix(mask.trim(), 16).expect("a mask"));
        }
    }
    assert!(seen.values().all(|mask| *mask == 0), "{seen:x?}");
}

fn limit_on_descriptors_is_restored() {
    let myself = std::env::current_exe().expect("own path");
    let mut command = std::process::Command::new("sh");
    command.args(["-c", "ulimit -Sn 200; ulimit -Hn 4000; exec \"$0\" --play limited"]).arg(myself);
    let output = command.output().expect("run");
    assert_eq!(text(&output.stdout), "200\n4000\n", "{}", text(&output.stderr));
}

fn leads_its_own_group() {
    block_on(async {
        let mut running = shell("cat /proc/$$/stat; read line").stdin(Input::Piped).spawn().expect("start");
        let Some(Event::Stdout(stat)) = running.next().await.expect("an event") else { panic!("no output") };
        let fields: Vec<&str> = text(&stat).rsplit_once(')').expect("a name").1.split_whitespace().collect();
        assert_eq!(fields[2], running.pid().to_string());
    });
}

fn kill_reaches_the_whole_group() {
    block_on(async {
        let script = "trap '' TERM HUP INT; sleep 1000 & echo $!; sleep 1000 & echo $!; wait";
        let mut running = shell(script).spawn().expect("start");
        let sleepers = numbers(&mut running, 2).await;
        running.kill().expect("kill");
        let collected = running.collect(0).await.expect("collect");
        assert_eq!(
            (collected.ended.status, collected.ended.held_open),
            (Status::Signal(libc::SIGKILL), false)
        );
        assert!(sleepers.iter().all(|pid| program::ends(*pid, SOON)));
    });
}

fn drop_kills_the_group() {
    block_on(async {
        let mut running =
            shell("trap '' TERM HUP; sleep 1000 & echo $!; echo $$; wait").spawn().expect("start");
        let all = numbers(&mut running, 2).await;
        drop(running);
        assert!(all.iter().all(|pid| program::ends(*pid, SOON)));
    });
}

fn drop_after_an_unseen_end_kills_the_group() {
    block_on(async {
        let mut running = shell("sleep 1000 & echo $!").spawn().expect("start");
        let left = numbers(&mut running, 1).await;
        while running.status().is_none() {
            tokio::task::yield_now().await;
        }
        drop(running);
        assert!(program::ends(left[0], SOON));
    });
}

/// The next event but ends of single outputs, which must be its end.
async fn end(running: &mut Running) -> Ended {
    loop {
        match running.next().await.expect("an event") {
            Some(Event::StdoutEnd | Event::StderrEnd) => {}
            Some(Event::Ended(ended)) => return ended,
            other => panic!("expected the end, got {other:?}"),
        }
    }
}

fn each_output_ends_by_itself() {
    block_on(async {
        let mut running = shell("exec 2>&-; read line").stdin(Input::Piped).spawn().expect("start");
        assert_eq!(running.next().await.expect("an event"), Some(Event::StderrEnd));
        drop(running.stdin());
        assert_eq!(running.next().await.expect("an event"), Some(Event::StdoutEnd));
        assert_eq!(end(&mut running).await.status, Status::Code(1));
    });
}

/// What is not read for now is neither lost nor taken for held open, however long that lasts.
fn an_output_on_hold_is_still_there_after_the_end() {
    block_on(async {
        let mut running = shell("head -c 50000 /dev/zero; echo reason >&2").spawn().expect("start");
        running.hold([true, false]);
        assert_eq!(running.next().await.expect("an event"), Some(Event::Stderr(b"reason\n".to_vec())));
        assert_eq!(running.next().await.expect("an event"), Some(Event::StderrEnd));
        let late = tokio::time::timeout(Duration::from_millis(1500), running.next()).await;
        assert!(late.is_err(), "{late:?}");
        running.hold([false, false]);
        let collected = running.collect(1 << 20).await.expect("collect");
        assert_eq!((collected.stdout.len(), collected.ended.held_open), (50_000, false));
    });
}

fn real_time_signals_are_sent() {
    block_on(async {
        let mut running = shell("exec sleep 1000").spawn().expect("start");
        for unknown in [libc::SIGRTMIN() - 1, libc::SIGRTMAX() + 1, 0, -1] {
            assert!(
                matches!(running.signal(unknown, Whom::Process), Err(SignalError::Unknown(_))),
                "{unknown}"
            );
        }
        let number = libc::SIGRTMIN() + 1;
        running.signal(number, Whom::Process).expect("sent");
        assert_eq!(end(&mut running).await.status, Status::Signal(number));
    });
}

fn drop_after_a_reported_end_kills_nobody() {
    block_on(async {
        let mut running = shell("sleep 1000 >/dev/null 2>&1 & echo $!").spawn().expect("start");
        let left = numbers(&mut running, 1).await[0];
        let ended = end(&mut running).await;
        assert!(!ended.held_open);
        assert!(matches!(running.kill(), Err(SignalError::Ended)));
        drop(running);
        assert!(
            !program::ends(left, Duration::from_millis(200)),
            "what is left behind ends with the worker only"
        );
        kill_process(left, Signal::KILL).expect("still there");
    });
}

fn signals_reach_process_or_group() {
    block_on(async {
        let script = "trap 'echo parent; exit 5' TERM; (trap 'echo child; exit' TERM; echo 1; while :; do sleep 0.01; \
                      done) & echo 2; while :; do sleep 0.01; done";
        let mut running = shell(script).spawn().expect("start");
        numbers(&mut running, 2).await;
        running.signal(libc::SIGTERM, Whom::Process).expect("signal");
        let mut all = Vec::new();
        read_until(&mut running, &mut all, "parent").await;
        assert_eq!(running.wait().await, Status::Code(5));
        assert!(!String::from_utf8_lossy(&all).contains("child"));
        // The child is still there, so the number is still its group's.
        let group = Pid::from_raw(running.pid().cast_signed()).expect("a number");
        kill_process_group(group, Signal::KILL).expect("kill the child");

        let mut running = shell(script).spawn().expect("start");
        let control = running.control();
        numbers(&mut running, 2).await;
        control.signal(libc::SIGTERM, Whom::Group).expect("signal");
        let mut all = Vec::new();
        read_until(&mut running, &mut all, "parent").await;
        read_until(&mut running, &mut all, "child").await;
        assert!(matches!(control.signal(1000, Whom::Process), Err(SignalError::Unknown(1000))));
        assert_eq!(running.wait().await, Status::Code(5));
        assert!(matches!(control.signal(libc::SIGTERM, Whom::Group), Err(SignalError::Ended)));
    });
}

fn output_held_open_is_cut_and_marked() {
    block_on(async {
        let mut running = shell("sleep 1000 & echo $!; exit 6").spawn().expect("start");
        let left = numbers(&mut running, 1).await[0];
        let begin = Instant::now();
        let ended = end(&mut running).await;
        let taken = begin.elapsed();
        assert_eq!((ended.status, ended.held_open), (Status::Code(6), true));
        assert!(taken > Duration::from_millis(800) && taken < Duration::from_secs(5), "cut after {taken:?}");
        kill_process(left, Signal::KILL).expect("still there");
    });
}

fn output_held_open_by_a_chatterer_is_cut() {
    block_on(async {
        let mut running = shell("echo $$; yes & exit 0").spawn().expect("start");
        let begin = Instant::now();
        let ended = loop {
            match running.next().await.expect("an event").expect("an end") {
                Event::Ended(ended) => break ended,
                _output => assert!(begin.elapsed() < Duration::from_secs(4), "never cut"),
            }
        };
        assert!(ended.held_open);
        // The chatterer dies of its closed output.
    });
}

fn late_reader_misses_nothing_of_a_cut_output() {
    block_on(async {
        let script = "sleep 1000 & echo $! >&2; read line; head -c 50000 /dev/zero";
        let mut running = shell(script).stdin(Input::Piped).spawn().expect("start");
        let Some(Event::Stderr(left)) = running.next().await.expect("an event") else { panic!("no number") };
        drop(running.stdin());
        let left = Pid::from_raw(text(&left).trim().parse().expect("a number")).expect("a pid");
        // Nothing runs on this runtime meanwhile: it hears of end and output only when the time is over.
        assert!(program::ends(Pid::from_raw(running.pid().cast_signed()).expect("a pid"), SOON));
        assert!(!program::ends(left, Duration::from_millis(1500)));
        let collected = running.collect(1 << 20).await.expect("collect");
        assert_eq!((collected.stdout.len(), collected.ended.held_open), (50_000, true));
        kill_process(left, Signal::KILL).expect("still there");
    });
}

fn output_over_the_limit_is_marked() {
    block_on(async {
        let running = shell("head -c 200000 /dev/zero").spawn().expect("start");
        let collected = running.collect(1000).await.expect("collect");
        assert_eq!((collected.stdout.len(), collected.truncated), (1000, true));
        assert!(collected.ended.status.success());
        let whole = shell("printf 1234").spawn().expect("start").collect(4).await.expect("collect");
        assert_eq!((whole.stdout.len(), whole.truncated), (4, false));
    });
}

fn terminal_is_a_terminal() {
    block_on(async {
        let launch = Launch::new("sh")
            .args(["-c", "tty; stty size; test -t 0 -a -t 1 -a -t 2 && echo all; echo x >/dev/tty"]);
        let running = launch.terminal(Size { rows: 33, columns: 77 }).spawn().expect("start");
        let collected = running.collect(1 << 20).await.expect("collect");
        let seen = text(&collected.stdout).replace('\r', "");
        assert!(seen.starts_with("/dev/pts/"), "{seen}");
        assert!(seen.contains("\n33 77\nall\nx\n"), "{seen}");
        assert_eq!((collected.ended.status, collected.ended.held_open), (Status::Code(0), false));
    });
}

fn terminal_interrupts_and_resizes() {
    block_on(async {
        let script = "trap 'stty size' WINCH; echo ready; while :; do sleep 0.01; done";
        let mut running =
            Launch::new("sh").args(["-c", script]).terminal(Size::default()).spawn().expect("start");
        let mut stdin = running.stdin().expect("a terminal");
        let mut all = Vec::new();
        read_until(&mut running, &mut all, "ready").await;
        running.control().resize(Size { rows: 50, columns: 132 }).expect("resize");
        read_until(&mut running, &mut all, "50 132").await;
        stdin.write_all(&[3]).await.expect("type an interrupt");
        assert_eq!(running.wait().await, Status::Signal(libc::SIGINT));
    });
}

fn terminal_input_ends() {
    block_on(async {
        let mut running = Launch::new("cat").terminal(Size::default()).spawn().expect("start");
        let mut stdin = running.stdin().expect("a terminal");
        stdin.write_all(b"hello\n").await.expect("type");
        stdin.shutdown().await.expect("type the end");
        let collected = running.collect(1 << 20).await.expect("collect");
        // Once echoed by the terminal, once by the program.
        assert_eq!(text(&collected.stdout).matches("hello").count(), 2);
        assert_eq!(collected.ended.status, Status::Code(0));
    });
}

fn terminal_that_nobody_has_open_is_not_hung_up() {
    block_on(async {
        // As programs do that look whether their output could be written.
        let launch = Launch::new("sh").args(["-c", "echo told; exec <&- >&- 2>&-; sleep 0.3; exit 5"]);
        let running = launch.terminal(Size::default()).spawn().expect("start");
        let collected = running.collect(1 << 20).await.expect("collect");
        assert!(text(&collected.stdout).starts_with("told"));
        assert_eq!((collected.ended.status, collected.ended.held_open), (Status::Code(5), false));
    });
}

fn five_hundred_leave_nothing() {
    let mut launched = program::Launch::role("many").arg("500").start();
    assert!(
        program::readable(launched.stdout.get_ref(), Duration::from_secs(60)),
        "still at it after a minute"
    );
    assert_eq!(launched.line(), "nothing is left");
    assert!(launched.ended(SOON).success());
}

fn waiting_works_below_guardians() {
    let mut launched = program::Launch::role("guarded").start();
    assert_eq!(launched.line(), "done 50");
    assert!(launched.ended(SOON).success());
}

fn needs_a_runtime() {
    assert!(matches!(Launch::new("true").spawn(), Err(SpawnError::NoRuntime)));
}
