//! However `farcall run` ends, nothing that it started is left, here or on any host.

mod program;

use std::time::{Duration, Instant};

use program::{Program, STUBBORN, wait_until_none_has};
use rustix::process::Signal;

/// A value for this test's processes on this machine.
fn mark(name: &str) -> String {
    format!("{name}-{}", std::process::id())
}

#[test]
fn an_interrupt_shows_what_there_is_and_stops_everything() {
    let program = Program::with_hosts(2);
    let mut running = program.start(&["run", "-w", "n[1-2]", STUBBORN]);
    running.wait_for("started");
    running.wait_for("started");
    running.signal(Signal::INT);
    let printed = running.end();
    assert_eq!(printed.code, 130, "{printed:?}");
    assert!(printed.err.contains("interrupted: stopping 2 at work"), "{}", printed.err);
    assert!(printed.err.contains("interrupted (2): n[1-2]"), "{}", printed.err);
    program.wait_until_idle();
}

#[test]
fn what_was_gathered_is_shown_after_an_interrupt() {
    let program = Program::with_hosts(2);
    let ready = program.home.path().join("ready");
    std::fs::create_dir(&ready).unwrap();
    let command = format!("echo same; : > {}/$$; {STUBBORN}", ready.display());
    let running = program.start(&["run", "-b", "-w", "n[1-2]", &command]);
    let limit = Instant::now() + program::LIMIT;
    while std::fs::read_dir(&ready).unwrap().count() < 2 {
        assert!(Instant::now() < limit);
        std::thread::sleep(Duration::from_millis(10));
    }
    running.signal(Signal::INT);
    let printed = running.end();
    assert_eq!(printed.code, 130);
    assert!(printed.out.contains("same\n"), "{printed:?}");
    program.wait_until_idle();
}

#[test]
fn a_second_interrupt_leaves_at_once_and_still_nothing_stays() {
    let program = Program::with_hosts(2);
    let mut running = program.start(&["run", "-w", "n[1-2]", STUBBORN]);
    running.wait_for("started");
    running.wait_for("started");
    running.signal(Signal::INT);
    running.signal(Signal::INT);
    assert_eq!(running.end().code, 130);
    program.wait_until_idle();
}

#[test]
fn a_request_to_terminate_is_an_interrupt_with_its_own_code() {
    let program = Program::alone();
    // A terminal that goes hangs up.
    for (signal, name) in [(Signal::TERM, "term"), (Signal::HUP, "hup")] {
        let mark = mark(name);
        let mut running = program.start_marked(&["run", "-w", "2*local", STUBBORN], &mark);
        running.wait_for("started");
        running.wait_for("started");
        running.signal(signal);
        let printed = running.end();
        assert_eq!((printed.code, printed.last_line()), (143, "2 interrupted"), "{printed:?}");
        wait_until_none_has(&mark);
    }
}

/// As in a job of a program that wants no zombies: the system then says nothing of children that end, unless asked.
#[test]
fn nothing_is_left_where_ends_of_children_are_ignored() {
    let program = Program::with_hosts(1);
    // For which the ssh program is asked.
    program.home.write("config", &(program.home.read("config") + "Match all\n  Compression no\n"));
    let mark = mark("chld");
    let usual = program.command(&["run", "-b", "-w", "local,n1", "echo out; exit 3"]);
    let mut command = std::process::Command::new("env");
    command.env_clear().envs(usual.get_envs().filter_map(|(name, value)| Some((name, value?))));
    command
        .env("FARCALL_TEST", &mark)
        .arg("--ignore-signal=CHLD")
        .arg(usual.get_program())
        .args(usual.get_args());
    let output = command.output().unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!((output.status.code(), &*said), (Some(1), "exit 3 (2): local,n1\n2 failed\n"));
    assert!(String::from_utf8(output.stdout).unwrap().ends_with("\nout\n"));
    wait_until_none_has(&mark);
}

#[test]
fn a_killed_coordinator_leaves_nothing_on_any_host() {
    let program = Program::with_hosts(2);
    let mark = mark("kill");
    let mut running = program.start_marked(&["run", "-w", "n[1-2],local", STUBBORN], &mark);
    for _ in 0..3 {
        running.wait_for("started");
    }
    running.signal(Signal::KILL);
    program.wait_until_idle();
    wait_until_none_has(&mark);
    running.close_output();
    assert_eq!(running.end().code, -9);
}

#[test]
fn a_command_past_its_limit_is_stopped_with_all_that_it_started() {
    let program = Program::with_hosts(2);
    let printed = program.run(&["run", "-u", "1", "-w", "n[1-2]", STUBBORN]);
    assert_eq!(printed.code, 3, "{printed:?}");
    assert_eq!(printed.sorted(), ["n1: started", "n2: started"]);
    assert_eq!(printed.err, "timed out after 1s (2): n[1-2]\n2 timed out\n");
    program.wait_until_idle();
}

/// Says something when it runs, and more when it is told to end.
const LAST_WORDS: &str = "trap 'echo last words; echo more >&2; exit 0' TERM; echo started; \
     while :; do sleep 1000 & wait; done";

#[test]
fn what_a_command_says_up_to_its_end_is_shown_when_its_time_is_up() {
    let program = Program::with_hosts(1);
    let printed = program.run(&["run", "-u", "3", "-w", "n1", LAST_WORDS]);
    assert_eq!((printed.code, &*printed.out), (3, "n1: started\nn1: last words\n"), "{printed:?}");
    assert_eq!(printed.err, "n1: more\ntimed out after 3s (1): n1\n1 timed out\n");
    program.wait_until_idle();
}

#[test]
fn what_a_command_says_up_to_its_end_is_shown_after_an_interrupt() {
    let program = Program::with_hosts(1);
    let mut running = program.start(&["run", "-w", "n1", LAST_WORDS]);
    running.wait_for("started");
    running.signal(Signal::INT);
    let printed = running.end();
    assert_eq!((printed.code, &*printed.out), (130, "n1: started\nn1: last words\n"), "{printed:?}");
    assert!(printed.err.contains("n1: more\n"), "{printed:?}");
    program.wait_until_idle();
}

#[test]
fn what_a_command_leaves_behind_does_not_keep_the_program() {
    let program = Program::with_hosts(1);
    let began = Instant::now();
    let printed = program.run(&["run", "-w", "n1", "sleep 1000 & setsid sleep 1000 & echo done"]);
    assert_eq!((printed.code, printed.sorted()[0]), (0, "n1: done"), "{printed:?}");
    assert!(began.elapsed() < Duration::from_secs(30), "the sleepers were waited for");
    program.wait_until_idle();
}

#[test]
fn an_interrupt_while_connecting_is_heard() {
    let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let program = Program::alone();
    let port = silent.local_addr().unwrap().port();
    program.home.write("config", &format!("Host silent\n  HostName 127.0.0.1\n  Port {port}\n"));
    let running = program.start(&["run", "-t", "1h", "-w", "silent", "true"]);
    let _connection = silent.accept().unwrap();
    running.signal(Signal::INT);
    let printed = running.end();
    assert_eq!(printed.code, 130, "{printed:?}");
}
