//! Whatever ends a worker, nothing that it started is left.
//!
//! The program under test is this one, started again in the role of a worker: see `play`.

mod program;

use std::io::Write;
use std::os::unix::process::ExitStatusExt;
use std::time::{Duration, Instant};

use farcall::worker::guardian::{self, Options, StartError};
use program::{Launch, Launched, ends, socket_pair, stat};
use rustix::process::{Pid, Signal, kill_process};

/// The stated bound on killing, once the worker is dead or its grace is over.
const SWEEP: Duration = Duration::from_secs(1);

/// The grace that the workers of these tests get.
const GRACE: Duration = Duration::from_millis(300);

fn main() {
    program::main(
        play,
        &[
            ("killed_worker", killed_worker),
            ("killed_inner_guardian", killed_inner_guardian),
            ("killed_outer_guardian", killed_outer_guardian),
            ("killed_worker_with_one_guardian", killed_worker_with_one_guardian),
            ("both_guardians_killed_together", both_guardians_killed_together),
            ("worker_ends_in_order", worker_ends_in_order),
            ("end_of_input_while_all_threads_spin", end_of_input_while_all_threads_spin),
            ("end_of_input_while_worker_is_stopped", end_of_input_while_worker_is_stopped),
            ("end_of_input_on_a_socket", end_of_input_on_a_socket),
            ("half_closed_socket_is_end_of_input", half_closed_socket_is_end_of_input),
            ("unread_input_does_not_hide_its_end", unread_input_does_not_hide_its_end),
            ("end_of_input_in_a_fork_storm", end_of_input_in_a_fork_storm),
            ("killed_worker_in_a_fork_storm", killed_worker_in_a_fork_storm),
            ("lease_holds_while_touched_and_ends_otherwise", lease_holds_while_touched_and_ends_otherwise),
            ("stopped_and_continued_within_a_lease", stopped_and_continued_within_a_lease),
            ("signal_is_passed_on_then_escalates", signal_is_passed_on_then_escalates),
            ("exit_status_passes_through", exit_status_passes_through),
            ("those_left_behind_are_asked_first_if_so_told", those_left_behind_are_asked_first_if_so_told),
            ("guardians_do_not_hold_the_output", guardians_do_not_hold_the_output),
            (
                "guardians_are_small_and_hold_only_what_they_watch",
                guardians_are_small_and_hold_only_what_they_watch,
            ),
            ("adopted_daemons_leave_no_zombies", adopted_daemons_leave_no_zombies),
            ("worker_leads_its_own_group", worker_leads_its_own_group),
            ("second_thread_is_refused", second_thread_is_refused),
        ],
    );
}

// ---- roles -------------------------------------------------------------------------------------------------------

fn play(role: &str, args: &[String]) {
    match role {
        "worker" => worker(args),
        "stubborn" => sleep_stubbornly("stubborn"),
        "polite" => polite(),
        "daemon" => daemon(),
        "brief-daemon" => {
            daemonise();
        }
        "phoenix" => phoenix(),
        "runner" => runner(),
        "breeder" => breeder(),
        "threads" => threads(),
        other => panic!("unknown role {other}"),
    }
}

/// `worker once|twice BEHAVIOUR ROLE...`: guarded so many times; starts a child per role, says who it is, behaves.
fn worker(args: &[String]) {
    let mut options = Options::default();
    options.grace = GRACE;
    options.doubled = args[0] == "twice";
    options.ask_first = args[1] == "ask";
    let guarded = guardian::start(&options).expect("start the guardians");
    let parent = rustix::process::getppid().expect("a parent").as_raw_nonzero();
    println!("worker {} {parent}", std::process::id());
    for role in &args[2..] {
        let mut command = std::process::Command::new("/proc/self/exe");
        command.args([program::PLAY, role]).stdin(std::process::Stdio::null());
        // Nobody waits for it: that is what the guardians are for.
        std::mem::forget(command.spawn().expect("start a child"));
    }
    match args[1].as_str() {
        "read" | "ask" => read_to_end(),
        "spin" => {
            for _ in 0..3 {
                std::thread::spawn(spin);
            }
            println!("spinning");
            spin();
        }
        "ignore" => {
            ignore(&[libc::SIGTERM, libc::SIGINT, libc::SIGHUP]);
            println!("ignoring");
            pause_for_ever();
        }
        "pause" => pause_for_ever(),
        "lease" => {
            let lease = guarded.lease(Duration::from_millis(500));
            let toucher = lease.clone();
            let (stop, stopped) = std::sync::mpsc::channel::<()>();
            let touching = std::thread::spawn(move || {
                while stopped.recv_timeout(Duration::from_millis(50))
                    == Err(std::sync::mpsc::RecvTimeoutError::Timeout)
                {
                    toucher.touch();
                }
            });
            let mut byte = [0];
            while std::io::Read::read_exact(&mut std::io::stdin(), &mut byte).is_ok() && byte[0] != b's' {}
            drop(stop);
            touching.join().expect("stop touching");
            println!("silent");
            pause_for_ever();
        }
        behaviour => {
            if let Some(code) = behaviour.strip_prefix("exit=") {
                std::process::exit(code.parse().expect("a code"));
            }
            let signal = behaviour.strip_prefix("die=").expect("a behaviour").parse().expect("a signal");
            // SAFETY: resetting and raising a signal, to end by it.
            unsafe {
                libc::signal(signal, libc::SIG_DFL);
                libc::raise(signal);
            }
        }
    }
}

fn read_to_end() {
    let _ = std::io::copy(&mut std::io::stdin(), &mut std::io::sink());
}

fn spin() {
    loop {
        std::hint::spin_loop();
    }
}

fn pause_for_ever() {
    loop {
        // SAFETY: no arguments; returns after a handled signal.
        unsafe { libc::pause() };
    }
}

fn ignore(signals: &[i32]) {
    for signal in signals {
        // SAFETY: SIG_IGN runs no code.
        unsafe { libc::signal(*signal, libc::SIG_IGN) };
    }
}

/// Says who it is on the inherited output, then lets go of it.
fn report(name: &str) {
    println!("{name} {}", std::process::id());
    let null = std::fs::File::options().read(true).write(true).open("/dev/null").expect("open /dev/null");
    rustix::stdio::dup2_stdout(&null).expect("let go of the output");
}

fn sleep_stubbornly(name: &str) {
    ignore(&[libc::SIGTERM, libc::SIGINT, libc::SIGHUP, libc::SIGQUIT, libc::SIGUSR1, libc::SIGUSR2]);
    report(name);
    pause_for_ever();
}

/// Waits for SIGTERM and says so.
fn polite() {
    // SAFETY: the set is initialised before it is used, and lives through the calls.
    unsafe {
        let mut set = std::mem::zeroed();
        libc::sigemptyset(&raw mut set);
        libc::sigaddset(&raw mut set, libc::SIGTERM);
        libc::sigprocmask(libc::SIG_BLOCK, &raw const set, std::ptr::null_mut());
        println!("polite {}", std::process::id());
        let mut signal = 0;
        libc::sigwait(&raw const set, &raw mut signal);
    }
    println!("asked");
}

/// Forks; true in the child.
fn fork() -> bool {
    // SAFETY: the roles that fork have one thread.
    match unsafe { libc::fork() } {
        -1 => panic!("cannot fork"),
        0 => true,
        _ => false,
    }
}

/// Goes where group and session do not lead: fork, setsid, fork.
fn daemonise() {
    if !fork() {
        std::process::exit(0);
    }
    rustix::process::setsid().expect("a session of its own");
    if !fork() {
        std::process::exit(0);
    }
}

fn daemon() {
    daemonise();
    sleep_stubbornly("daemon");
}

/// Two processes in sessions of their own, each of which starts the other again when it dies.
fn phoenix() {
    rustix::process::setsid().expect("a session of its own");
    ignore(&[libc::SIGTERM, libc::SIGHUP]);
    report("phoenix");
    let (mine, theirs) = std::os::unix::net::UnixStream::pair().expect("a pair of sockets");
    let mut ends = [Some(mine), Some(theirs)];
    let mut me = usize::from(fork());
    loop {
        let keep = ends[me].take().expect("an end");
        ends[1 - me] = None;
        // Ends when the other process does.
        let _ = std::io::Read::read(&mut &keep, &mut [0]);
        let (mine, theirs) = std::os::unix::net::UnixStream::pair().expect("a pair of sockets");
        ends = [Some(mine), Some(theirs)];
        me = usize::from(fork());
    }
}

/// One process at a time, each in a session of its own, that lives only until it has forked the next.
fn runner() {
    let begin = Instant::now();
    report("runner");
    // Ends by itself after a while, so that a failing test costs no more than that.
    while begin.elapsed() < Duration::from_secs(20) {
        if !fork() {
            std::process::exit(0);
        }
        let _ = rustix::process::setsid();
    }
}

/// Forks without rest children whose own children outlive them for a moment, each in a session of its own, and leaves
/// forty that stay. Waits for each child, so there are never many more than that.
fn breeder() {
    let begin = Instant::now();
    ignore(&[libc::SIGTERM, libc::SIGHUP]);
    report("breeder");
    let mut born = 0;
    while begin.elapsed() < Duration::from_secs(20) {
        born += 1;
        if fork() {
            let _ = rustix::process::setsid();
            if fork() {
                if born <= 40 {
                    pause_for_ever();
                }
                let begin = Instant::now();
                while begin.elapsed() < Duration::from_millis(2) {
                    std::hint::spin_loop();
                }
            }
            std::process::exit(0);
        }
        let _ = rustix::process::wait(rustix::process::WaitOptions::empty());
    }
}

fn threads() {
    let (_keep, wait) = std::sync::mpsc::channel::<()>();
    std::thread::spawn(move || wait.recv());
    match guardian::start(&Options::default()) {
        Err(StartError::Threads { threads }) => println!("refused {threads}"),
        other => println!("not refused: {other:?}"),
    }
}

// ---- what the tests share ----------------------------------------------------------------------------------------

/// A worker that is ready, with the processes that it was told to start.
struct Worker {
    launched: Launched,
    worker: Pid,
    inner: Pid,
}

const FAMILY: [&str; 4] = ["stubborn", "daemon", "daemon", "phoenix"];

fn start(guards: &str, behaviour: &str, roles: &[&str]) -> Worker {
    start_from(Launch::role("worker"), guards, behaviour, roles)
}

fn start_from(launch: Launch, guards: &str, behaviour: &str, roles: &[&str]) -> Worker {
    let mut launch = launch.arg(guards).arg(behaviour);
    for role in roles {
        launch = launch.arg(role);
    }
    let mut launched = launch.start();
    let ids = launched.numbers("worker");
    let mut lines: Vec<String> = roles.iter().map(|_| launched.line()).collect();
    if let "spin" | "ignore" = behaviour {
        lines.push(launched.line());
    }
    let pid = |at: usize| Pid::from_raw(ids[at]).expect("a process number");
    Worker { worker: pid(0), inner: pid(1), launched }
}

fn kill(pid: Pid, signal: Signal) {
    kill_process(pid, signal).expect("signal a process");
}

impl Worker {
    /// Waits until the guardians have let go of what they do not need, which they do after a few milliseconds.
    fn tidy(&self) {
        let end = Instant::now() + SWEEP * 5;
        for guardian in [self.launched.pid(), self.inner] {
            let first = format!("/proc/{}/fd/1", guardian.as_raw_nonzero());
            while std::fs::read_link(&first).ok().is_none_or(|target| target.to_str() != Some("/dev/null"))
                || stat(guardian).is_none_or(|fields| fields[0] != "S")
            {
                assert!(Instant::now() < end, "a guardian holds on to the output");
                std::thread::yield_now();
            }
        }
    }

    /// Waits until everything is gone, and says how long that took.
    fn gone_within(&mut self, what: &str, bound: Duration) -> Duration {
        let begin = Instant::now();
        let taken = self.launched.all_gone(bound);
        println!("{what}: everything gone after {taken:?}");
        self.launched.ended(bound.saturating_sub(begin.elapsed()) + Duration::from_millis(100));
        taken
    }
}

// ---- tests -------------------------------------------------------------------------------------------------------

fn killed_worker() {
    let mut worker = start("twice", "read", &FAMILY);
    // The phoenix has reported, and forks its other half after that.
    let end = Instant::now() + SWEEP;
    while worker.launched.family().len() < 8 {
        assert!(Instant::now() < end, "two guardians, the worker, and five others");
    }
    kill(worker.worker, Signal::KILL);
    worker.launched.all_gone(SWEEP);
    assert_eq!(worker.launched.ended(SWEEP).signal(), Some(libc::SIGKILL));
}

fn killed_inner_guardian() {
    let mut worker = start("twice", "read", &FAMILY);
    kill(worker.inner, Signal::KILL);
    worker.launched.all_gone(SWEEP);
    assert_eq!(worker.launched.ended(SWEEP).signal(), Some(libc::SIGKILL));
}

fn killed_outer_guardian() {
    let mut worker = start("twice", "spin", &FAMILY);
    kill(worker.launched.pid(), Signal::KILL);
    worker.gone_within("outer guardian killed", SWEEP);
}

fn killed_worker_with_one_guardian() {
    let mut worker = start("once", "read", &FAMILY);
    assert_eq!(worker.inner, worker.launched.pid());
    kill(worker.worker, Signal::KILL);
    worker.gone_within("worker killed", SWEEP);
}

fn both_guardians_killed_together() {
    // No daemon: it would have been adopted by the guardian, and is out of the worker's sight.
    let mut worker = start("twice", "spin", &["stubborn", "stubborn"]);
    // Stopped, so that neither can act on the other's death.
    kill(worker.inner, Signal::STOP);
    kill(worker.launched.pid(), Signal::KILL);
    kill(worker.inner, Signal::KILL);
    worker.gone_within("both guardians killed", SWEEP * 2);
}

fn worker_ends_in_order() {
    let mut worker = start("twice", "read", &FAMILY);
    worker.launched.stdin = None;
    worker.launched.all_gone(SWEEP);
    assert_eq!(worker.launched.ended(SWEEP).code(), Some(0));
}

fn end_of_input_while_all_threads_spin() {
    let mut worker = start("twice", "spin", &FAMILY);
    let begin = Instant::now();
    worker.launched.stdin = None;
    worker.gone_within("input ended", GRACE + SWEEP);
    assert!(begin.elapsed() >= GRACE, "the worker had no grace");
}

fn end_of_input_while_worker_is_stopped() {
    let mut worker = start("twice", "read", &FAMILY);
    kill(worker.worker, Signal::STOP);
    worker.launched.stdin = None;
    worker.gone_within("input ended", GRACE + SWEEP);
}

fn end_of_input_on_a_socket() {
    let (ours, theirs) = socket_pair();
    let mut worker = start_from(Launch::role("worker").stdin(theirs), "twice", "spin", &["daemon"]);
    drop(ours);
    worker.gone_within("socket closed", GRACE + SWEEP);
}

fn half_closed_socket_is_end_of_input() {
    let (ours, theirs) = socket_pair();
    let mut worker = start_from(Launch::role("worker").stdin(theirs), "twice", "spin", &["daemon"]);
    ours.shutdown(std::net::Shutdown::Write).expect("shut down one direction");
    worker.gone_within("socket half closed", GRACE + SWEEP);
}

fn unread_input_does_not_hide_its_end() {
    let mut worker = start("twice", "pause", &["daemon"]);
    let mut stdin = worker.launched.stdin.take().expect("stdin is piped");
    stdin.write_all(&[7; 4096]).expect("the pipe has room");
    drop(stdin);
    worker.gone_within("input ended unread", GRACE + SWEEP);
}

fn end_of_input_in_a_fork_storm() {
    let mut worker = start("twice", "spin", &["breeder", "breeder", "runner", "runner", "phoenix"]);
    worker.launched.stdin = None;
    worker.gone_within("input ended in a storm", GRACE + SWEEP * 2);
}

fn killed_worker_in_a_fork_storm() {
    let mut worker = start("twice", "read", &["breeder", "breeder", "runner", "runner", "daemon"]);
    kill(worker.worker, Signal::KILL);
    worker.gone_within("worker killed in a storm", SWEEP * 2);
}

fn lease_holds_while_touched_and_ends_otherwise() {
    let mut worker = start("twice", "lease", &["daemon"]);
    assert!(!ends(worker.worker, Duration::from_millis(1600)), "ended within its lease");
    worker.launched.stdin.as_mut().expect("stdin is piped").write_all(b"s").expect("ask for silence");
    assert_eq!(worker.launched.line(), "silent");
    worker.gone_within("lease over", Duration::from_millis(500) + GRACE + SWEEP);
}

fn stopped_and_continued_within_a_lease() {
    let worker = start("twice", "lease", &["daemon"]);
    let all = [worker.launched.pid(), worker.inner, worker.worker];
    for pid in all {
        kill(pid, Signal::STOP);
    }
    // Beyond the lease, as when the machine slept.
    assert!(!ends(worker.worker, Duration::from_millis(2500)));
    for pid in all {
        kill(pid, Signal::CONT);
    }
    assert!(!ends(worker.worker, Duration::from_millis(1500)), "ended by a sleep that it woke from");
}

fn signal_is_passed_on_then_escalates() {
    for signal in [Signal::TERM, Signal::INT, Signal::HUP] {
        let mut worker = start("twice", "pause", &["daemon"]);
        kill(worker.launched.pid(), signal);
        worker.launched.all_gone(SWEEP);
        assert_eq!(worker.launched.ended(SWEEP).signal(), Some(signal.as_raw()), "the worker died by it");
    }
    let mut worker = start("twice", "ignore", &["daemon"]);
    kill(worker.launched.pid(), Signal::INT);
    worker.launched.all_gone(GRACE + SWEEP);
    assert_eq!(worker.launched.ended(SWEEP).signal(), Some(libc::SIGKILL), "the grace was over");
}

fn exit_status_passes_through() {
    for code in [0, 1, 7, 255] {
        let mut worker = start("twice", &format!("exit={code}"), &[]);
        assert_eq!(worker.launched.ended(SWEEP * 5).code(), Some(code));
    }
    for signal in [libc::SIGKILL, libc::SIGABRT, libc::SIGSEGV, libc::SIGTERM, libc::SIGPIPE, libc::SIGUSR1] {
        let mut worker = start("twice", &format!("die={signal}"), &[]);
        let status = worker.launched.ended(SWEEP * 5);
        assert_eq!((status.signal(), status.core_dumped()), (Some(signal), false));
    }
}

fn those_left_behind_are_asked_first_if_so_told() {
    let mut worker = start("twice", "ask", &["polite"]);
    worker.launched.stdin = None;
    assert_eq!(worker.launched.line(), "asked");
    worker.gone_within("worker ended", SWEEP);

    let mut worker = start("twice", "ask", &["stubborn"]);
    worker.launched.stdin = None;
    worker.gone_within("asked in vain", GRACE + SWEEP);

    let mut worker = start("twice", "read", &["polite"]);
    worker.launched.stdin = None;
    worker.gone_within("worker ended", SWEEP);
    assert!(
        worker.launched.output_ends(SWEEP) && worker.launched.stdout.buffer().is_empty(),
        "nobody was to be asked"
    );
}

fn guardians_do_not_hold_the_output() {
    let mut worker = start("twice", "read", &["stubborn"]);
    worker.tidy();
    // Stopped, so that they cannot clean up: the end must be seen all the same.
    kill(worker.inner, Signal::STOP);
    kill(worker.launched.pid(), Signal::STOP);
    kill(worker.worker, Signal::KILL);
    assert!(worker.launched.output_ends(SWEEP), "somebody holds the output");
    kill(worker.launched.pid(), Signal::CONT);
    kill(worker.inner, Signal::CONT);
    worker.gone_within("guardians continued", SWEEP);
}

fn guardians_are_small_and_hold_only_what_they_watch() {
    let worker = start("twice", "read", &[]);
    worker.tidy();
    for (guardian, watched) in [(worker.launched.pid(), 2), (worker.inner, 4)] {
        let mut open = Vec::new();
        for entry in
            std::fs::read_dir(format!("/proc/{}/fd", guardian.as_raw_nonzero())).expect("list descriptors")
        {
            let entry = entry.expect("a descriptor");
            let number: i32 = entry.file_name().to_str().expect("digits").parse().expect("a number");
            let target = std::fs::read_link(entry.path()).expect("its target");
            if number > 2 {
                open.push(target);
            } else {
                assert_eq!(target.to_str(), Some("/dev/null"), "descriptor {number}");
            }
        }
        // The sweeper's look at /proc is one more.
        assert_eq!(open.len(), watched + 1, "{open:?}");
        let status =
            std::fs::read_to_string(format!("/proc/{}/status", guardian.as_raw_nonzero())).expect("status");
        let anonymous = status.lines().find_map(|line| line.strip_prefix("RssAnon:")).expect("a line for it");
        let kib: u32 = anonymous.trim().trim_end_matches(" kB").parse().expect("a number");
        assert!(kib <= 256, "{kib} KiB of memory of its own, or shared with the worker");
    }
}

fn adopted_daemons_leave_no_zombies() {
    let roles = ["brief-daemon"; 20];
    let mut launch = Launch::role("worker").arg("twice").arg("read");
    for role in roles {
        launch = launch.arg(role);
    }
    let mut launched = launch.start();
    let ids = launched.numbers("worker");
    let (worker, inner) = (ids[0], ids[1]);
    let end = Instant::now() + Duration::from_secs(10);
    // The children that the worker itself does not wait for are its own; everybody else is the guardian's to reap.
    while !children(inner).iter().all(|child| *child == worker) || children(worker).len() < roles.len() {
        assert!(Instant::now() < end, "zombies are left: {:?}", children(inner));
        std::thread::yield_now();
    }
}

fn children(of: i32) -> Vec<i32> {
    std::fs::read_to_string(format!("/proc/{of}/task/{of}/children"))
        .expect("a kernel with children files")
        .split_whitespace()
        .map(|pid| pid.parse().expect("a number"))
        .collect()
}

fn worker_leads_its_own_group() {
    let worker = start("twice", "read", &[]);
    let of = |pid| stat(pid).expect("alive");
    // After the state come the parent, the group, the session and the terminal.
    let (me, inner, outer) = (of(worker.worker), of(worker.inner), of(worker.launched.pid()));
    assert_eq!(me[2], worker.worker.as_raw_nonzero().to_string());
    assert_eq!(inner[2], worker.inner.as_raw_nonzero().to_string());
    assert_eq!(outer[2], worker.launched.pid().as_raw_nonzero().to_string());
    assert_eq!(me[4], "0", "no terminal");
}

fn second_thread_is_refused() {
    let mut launched = Launch::role("threads").start();
    assert_eq!(launched.line(), "refused 2");
    assert_eq!(launched.ended(SWEEP * 5).code(), Some(0));
}
