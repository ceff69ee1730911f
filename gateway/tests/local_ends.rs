//! However a program ends, nothing is left of its children; and signals are relayed to them if it says so.

mod program;

use std::io::Write;
use std::os::unix::process::ExitStatusExt;
use std::time::Duration;

use farcall::local::{self, Options, Pool};
use farcall::{Gateway, Group, Spec, Tasks, map, map_command};
use libtest_mimic::{Arguments, Trial};
use program::{Launch, Launched, PLAY};
use rustix::process::{Signal, kill_process};

/// The stated bound on the end of everything, once the program is gone: the grace of half a second, and one second for killing.
/// The rest is for a machine that is busy with other tests.
const GONE: Duration = Duration::from_millis(1500 + 13_500);

/// How long the relay leaves to what it has signalled: enough to die of it on the busiest of machines.
const GRACE: Duration = Duration::from_secs(3);

fn main() {
    farcall::init(Tasks::new().add(hold).add(spin).add(daemonise).add(deaf).add(nothing).add(leave));
    let mut words = std::env::args().skip(1);
    if words.next().as_deref() == Some(PLAY) {
        return play(&words.next().expect("a role"));
    }
    let tests = vec![
        Trial::test("nothing_outlives_an_interrupt", || ended_by(Signal::INT)),
        Trial::test("nothing_outlives_a_termination", || ended_by(Signal::TERM)),
        Trial::test("nothing_outlives_a_kill", || ended_by(Signal::KILL)),
        Trial::test("nothing_outlives_a_panic", || ended_itself("panic", 101)),
        Trial::test("nothing_outlives_an_end_of_main", || ended_itself("return", 0)),
        Trial::test("nothing_outlives_an_exit", || ended_itself("exit", 3)),
        Trial::test("nothing_outlives_a_kill_in_the_middle_of_starts", killed_at_any_moment),
        Trial::test("nothing_outlives_an_interrupt_in_the_middle_of_maps", || in_the_middle("maps", false)),
        Trial::test("nothing_outlives_a_panic_in_the_middle_of_maps", || in_the_middle("maps", true)),
        Trial::test("nothing_outlives_an_interrupt_as_a_group_grows", || in_the_middle("grows", false)),
        Trial::test("nothing_outlives_a_panic_as_a_group_grows", || in_the_middle("grows", true)),
        Trial::test("signals_are_relayed", signals_are_relayed),
        Trial::test(
            "an_interrupt_that_is_ignored_becomes_a_kill",
            an_interrupt_that_is_ignored_becomes_a_kill,
        ),
    ];
    libtest_mimic::run(&Arguments::from_args(), tests).exit();
}

// ---- tasks -------------------------------------------------------------------------------------------------------

async fn hold() {
    std::future::pending::<()>().await;
}

fn spin() {
    loop {
        std::hint::spin_loop();
    }
}

/// Leaves a process behind that has a session of its own, and computes on.
#[expect(
    clippy::zombie_processes,
    reason = "nobody waits for a daemon; that it is gone in the end is what is tested"
)]
fn daemonise() {
    std::process::Command::new("setsid").args(["sleep", "1000"]).spawn().expect("start a daemon");
    spin();
}

async fn deaf(said: local::PipeSender<()>) {
    let _handler = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::interrupt());
    said.send(()).await.expect("somebody listens");
    hold().await;
}

// ---- roles -------------------------------------------------------------------------------------------------------

fn play(role: &str) {
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    runtime.block_on(async {
        match role {
            "busy" => loop {
                // Dropped as they start.
                let starts = (0..4).map(|_| tokio::spawn(local::run(spin, ())));
                let starts: Vec<_> = starts.collect();
                println!("starting");
                tokio::time::sleep(Duration::from_millis(3)).await;
                starts.iter().for_each(tokio::task::JoinHandle::abort);
            },
            "relay" => relay().await,
            "maps" => maps().await,
            "grows" => grows().await,
            _ => {}
        }
        let pool = Pool::new(2);
        let _calls = [tokio::spawn(call(pool.clone(), false)), tokio::spawn(call(pool.clone(), true))];
        let held = local::open(hold, ()).await.expect("a handle");
        let _run = tokio::spawn(local::run(spin, ()));
        held.wait_for(local::State::Running).await;
        let worker = local::Worker::new().await.expect("a worker");
        println!("ready");
        match role {
            "panic" => panic!("the program is wrong"),
            "exit" => std::process::exit(3),
            "return" => {
                // Handles end by being dropped, or not at all.
                std::mem::forget(held);
                drop(worker);
            }
            _ => std::future::pending().await,
        }
    });
}

async fn call(pool: Pool, spins: bool) {
    let _ = if spins { pool.call(daemonise, ()).await } else { pool.call(hold, ()).await };
}

async fn relay() {
    let mut relay = local::relay_signals(GRACE).expect("a relay");
    let held = local::open(hold, ()).await.expect("a handle");
    held.wait_for(local::State::Running).await;
    let (say, mut said) = local::pipe().expect("a pipe");
    let deaf = Options::new().open(deaf, (say,)).await.expect("a handle");
    said.recv().await.expect("it is deaf by now");
    // Without a handle, and by the short way, which is open by now.
    let (say, mut said) = local::pipe().expect("a pipe");
    let run = tokio::spawn(local::run(self::deaf, (say,)));
    said.recv().await.expect("it is deaf by now");
    println!("ready");
    let number = relay.next().await;
    println!("told {number}");
    println!("held {:?}", held.wait().await);
    println!("deaf {:?}", deaf.wait().await);
    match run.await.expect("no panic") {
        Err(local::RunError::Killed { signal, .. }) => println!("run Signal({signal})"),
        other => println!("run {other:?}"),
    }
    // The program goes on, and may start others.
    assert!(local::run(nothing, ()).await.is_ok());
    println!("end");
    std::io::stdout().flush().expect("flush");
    std::process::exit(0);
}

async fn nothing() {}

/// Leaves a process behind that has a session of its own.
#[expect(
    clippy::zombie_processes,
    reason = "nobody waits for a daemon; that it is gone in the end is what is tested"
)]
fn leave(n: u64) -> u64 {
    std::process::Command::new("setsid").args(["sleep", "1000"]).spawn().expect("start a daemon");
    std::thread::sleep(Duration::from_millis(n % 5));
    n
}

/// Says so, and panics when it is told a time, after that.
async fn doing(what: &str) {
    println!("{what}");
    let line = tokio::task::spawn_blocking(|| std::io::stdin().lines().next()).await.expect("no panic");
    let Some(Ok(micros)) = line else { return std::future::pending().await };
    tokio::time::sleep(Duration::from_micros(micros.parse().expect("a number"))).await;
    panic!("the program is wrong");
}

/// Three kinds of maps at once over the same gateways, which are replaced when they are killed.
async fn maps() {
    let mut gateways = Vec::new();
    for _ in 0..3 {
        gateways.push(Gateway::open(&Spec::local()).await.expect("a gateway"));
    }
    let mut plain = map(leave, 0..u64::MAX).on(&gateways).replace_lost(1000).start().expect("a map");
    let mut isolated = map(leave, 0..u64::MAX).on(&gateways).isolated().start().expect("a map");
    let sleeps = std::iter::repeat_with(|| ["0.003"]);
    let mut commands = map_command("sleep", sleeps).on(&gateways).start().expect("a map");
    let (mut seen, mut told) = ([0_u32; 3], false);
    let mut telling = std::pin::pin!(doing("ready"));
    loop {
        tokio::select! {
            result = plain.next() => seen[0] += u32::from(result.expect("a result").1.is_ok()),
            result = isolated.next() => seen[1] += u32::from(result.expect("a result").1.is_ok()),
            result = commands.next() => seen[2] += u32::from(result.expect("a result").1.is_ok()),
            () = &mut telling, if told => {}
        }
        // Each has begun.
        told |= seen.iter().all(|seen| *seen > 3);
    }
}

async fn grows() {
    let mut group = Group::open("2*local").await.expect("a group");
    let mut telling = std::pin::pin!(doing("ready"));
    loop {
        tokio::select! {
            // The first of these is about to start when this says so.
            biased;
            added = group.add("4*local") => added.expect("four more"),
            () = &mut telling => {}
        }
        if group.len() > 20 {
            drop(std::mem::take(&mut group));
        }
    }
}

// ---- tests -------------------------------------------------------------------------------------------------------

type Result = std::result::Result<(), libtest_mimic::Failed>;

/// A program with children of all kinds: at least four workers with two guardians each, and a daemon.
fn started(role: &str) -> Launched {
    let mut program = Launch::role(role).stderr(std::process::Stdio::null()).start();
    assert_eq!(program.line(), "ready");
    program
}

fn ended_by(signal: Signal) -> Result {
    let mut program = started("wait");
    let end = std::time::Instant::now() + Duration::from_secs(20);
    while program.family().len() < 1 + 4 * 3 + 1 {
        assert!(std::time::Instant::now() < end, "only {} processes", program.family().len());
    }
    kill_process(program.pid(), signal).expect("signal the program");
    program.ended(Duration::from_secs(50));
    program.all_gone(GONE);
    Ok(())
}

fn ended_itself(role: &str, code: i32) -> Result {
    let mut program = started(role);
    assert_eq!(program.ended(Duration::from_secs(50)).code(), Some(code));
    program.all_gone(GONE);
    Ok(())
}

fn killed_at_any_moment() -> Result {
    for lines in 1..8 {
        let mut program = Launch::role("busy").start();
        for _ in 0..lines {
            assert_eq!(program.line(), "starting");
        }
        kill_process(program.pid(), Signal::KILL).expect("kill the program");
        program.ended(Duration::from_secs(50));
        program.all_gone(GONE);
    }
    Ok(())
}

/// At several moments. A panic that nobody catches ends the program, and the main thread's is one.
fn in_the_middle(role: &str, panics: bool) -> Result {
    for micros in [0, 700, 2_000, 4_500, 9_000, 20_000] {
        let mut program = Launch::role(role).stderr(std::process::Stdio::null()).start();
        assert_eq!(program.line(), "ready");
        if panics {
            writeln!(program.stdin.as_mut().expect("it is piped"), "{micros}").expect("it reads");
            assert_eq!(program.ended(Duration::from_secs(50)).code(), Some(101));
        } else {
            std::thread::sleep(Duration::from_micros(micros));
            kill_process(program.pid(), Signal::INT).expect("signal the program");
            assert_eq!(program.ended(Duration::from_secs(50)).signal(), Some(libc::SIGINT));
        }
        program.all_gone(GONE);
    }
    Ok(())
}

fn signals_are_relayed() -> Result {
    for (signal, name) in [(Signal::TERM, "Signal(15)"), (Signal::HUP, "Signal(1)")] {
        let mut program = Launch::role("relay").start();
        assert_eq!(program.line(), "ready");
        kill_process(program.pid(), signal).expect("signal the program");
        assert_eq!(program.line(), format!("told {}", signal.as_raw()));
        assert_eq!(program.line(), format!("held Some({name})"));
        assert_eq!(program.line(), format!("deaf Some({name})"), "it is deaf to another signal");
        assert_eq!(program.line(), format!("run {name}"));
        assert_eq!(program.line(), "end");
        program.ended(Duration::from_secs(50));
        program.all_gone(GONE);
    }
    Ok(())
}

fn an_interrupt_that_is_ignored_becomes_a_kill() -> Result {
    let mut program = Launch::role("relay").start();
    assert_eq!(program.line(), "ready");
    kill_process(program.pid(), Signal::INT).expect("signal the program");
    assert_eq!(program.line(), "told 2");
    assert_eq!(program.line(), "held Some(Signal(2))");
    assert_eq!(program.line(), "deaf Some(Signal(9))");
    assert_eq!(program.line(), "run Signal(9)");
    assert_eq!(program.line(), "end");
    program.ended(Duration::from_secs(50));
    program.all_gone(GONE);
    Ok(())
}
