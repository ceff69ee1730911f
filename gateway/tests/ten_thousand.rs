//! Ten thousand starts and ends of local gateways, in every way and several at once, leak no descriptor, memory, process or file.
//!
//! `cargo test -p farcall --test ten_thousand` shows the figures, too.

mod gateways;
mod tally;

use std::time::{Duration, Instant};

use farcall::{CallError, Gateway, Sender, Spec, Tasks};
use gateways::{Random, plain, until};
use rustix::process::{Pid, Signal, kill_process};
use tally::{COUNT, FIRST, PLAY, Tally, run_alone, this_program};

fn main() {
    let tasks = Tasks::new().add(square).add(hold);
    let args: Vec<String> = std::env::args().skip(1).collect();
    if let [PLAY] = args.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        farcall::init(tasks);
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
        return runtime.expect("a runtime").block_on(start_and_end());
    }
    gateways::main(
        tasks,
        [plain("ten_thousand_starts_and_ends_leak_nothing", ten_thousand_starts_and_ends_leak_nothing)],
    );
}

// ---- tasks -------------------------------------------------------------------------------------------------------

async fn square(n: u64) -> u64 {
    n * n
}

async fn hold(running: Sender<u32>) {
    running.try_send(std::process::id()).expect("room for one");
    std::future::pending().await
}

// ---- the process that starts gateways ----------------------------------------------------------------------------

/// Starts a gateway, and ends it in the way that the numbers say.
async fn one(way: u64, moment: u64) {
    let open = async || Gateway::open(&Spec::local()).await.expect("a gateway");
    match way {
        0..40 => {
            let gateway = open().await;
            assert_eq!(gateway.call(square, (moment,)).await.expect("a number"), moment * moment);
            gateway.exit();
            gateway.wait().await;
        }
        40..50 => open().await.close().await.expect("closed"),
        50..60 => {
            let gateway = open().await;
            gateway.kill();
            gateway.wait().await;
        }
        // Nobody waits for its end.
        60..70 => drop(open().await),
        // Given up at some moment of its start.
        70..80 => drop(tokio::time::timeout(Duration::from_micros(moment), open()).await),
        80..90 => {
            let gateway = open().await;
            let pid = Pid::from_raw(gateway.pid().cast_signed()).expect("a number");
            kill_process(pid, Signal::KILL).expect("killed");
            gateway.wait().await;
        }
        _ => {
            let gateway = open().await;
            let (running, mut runs) = gateway.pair();
            let call = gateway.start(hold, (running,)).await.expect("a call");
            assert_eq!(runs.recv().await.expect("it runs"), Some(gateway.pid()));
            gateway.exit();
            assert!(matches!(call.await, Err(CallError::Ended(_))));
        }
    }
}

/// Starts and ends all of them; panics if anything is left, and prints what there was.
async fn start_and_end() {
    const AT_ONCE: usize = 6;
    let mut random = Random(0x5eed_0003);
    let began = Instant::now();
    let (mut started, mut before) = (0, None);
    while started < COUNT {
        let mut at_once = tokio::task::JoinSet::new();
        // In rounds, so that there are quiet moments to count in.
        let end = (started + FIRST).min(COUNT);
        while started < end {
            if at_once.len() == AT_ONCE {
                at_once.join_next().await.expect("one of them").expect("no panic");
            }
            at_once.spawn(one(random.below(100), random.below(8000)));
            started += 1;
        }
        while let Some(one) = at_once.join_next().await {
            one.expect("no panic");
        }
        if before.is_none() {
            until("all have ended", || Tally::now().below == 0).await;
            before = Some(Tally::at_rest().await);
        }
    }
    println!(
        "{COUNT} gateways in {:.1?}, {AT_ONCE} at once; after the first {FIRST}, and after all:",
        began.elapsed()
    );
    Tally::no_more_than(before.expect("a first round")).await;
    println!("processes left: {}", Tally::now().below);
}

// ---- the test ----------------------------------------------------------------------------------------------------

/// In a process whose every folder for files is a new one, which must be empty at the end.
async fn ten_thousand_starts_and_ends_leak_nothing() {
    let folder = tempfile::tempdir().expect("a folder");
    let mut command = this_program(&[]);
    command.current_dir(folder.path());
    for variable in ["TMPDIR", "HOME", "XDG_CACHE_HOME", "XDG_RUNTIME_DIR", "XDG_STATE_HOME"] {
        command.env(variable, folder.path());
    }
    run_alone(command);
    let files: Vec<_> = std::fs::read_dir(folder.path()).expect("a folder").flatten().collect();
    assert!(files.is_empty(), "{files:?}");
}
