//! Ten thousand pool calls and ten thousand runs, given up at random and several at once: no descriptor, memory, thread or process
//! is left, and no dead worker is handed out.
//!
//! `cargo test -p farcall --test local_loops -- --nocapture` shows the figures, too.

mod gateways;
mod tally;

use std::time::{Duration, Instant};

use farcall::Tasks;
use farcall::local::{Options, Pool, PoolError, RunError};
use gateways::{Random, alive, plain, until};
use rustix::process::{Pid, Signal, kill_process};
use tally::{COUNT, FIRST, PLAY, Tally, run_alone, this_program};
use tokio::task::JoinSet;

fn main() {
    let tasks = Tasks::new().add(double).add(linger).add(stubborn).add(pid);
    let args: Vec<String> = std::env::args().skip(1).collect();
    if let [PLAY, part] = args.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        farcall::init(tasks);
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
        return runtime.expect("a runtime").block_on(async {
            match part {
                "calls" => calls().await,
                _ => runs().await,
            }
        });
    }
    gateways::main(
        tasks,
        [
            plain("ten_thousand_pool_calls_leak_nothing", || async { run_alone(this_program(&["calls"])) }),
            plain("ten_thousand_runs_leak_nothing", || async { run_alone(this_program(&["runs"])) }),
        ],
    );
}

// ---- tasks -------------------------------------------------------------------------------------------------------

async fn double(n: u64) -> u64 {
    2 * n
}

/// Waits so many microseconds.
async fn linger(micros: u64) {
    tokio::time::sleep(Duration::from_micros(micros)).await;
}

/// Computes so many microseconds, whatever anybody wants.
fn stubborn(micros: u64) {
    let began = Instant::now();
    while began.elapsed() < Duration::from_micros(micros) {}
}

async fn pid() -> u32 {
    std::process::id()
}

// ---- what both parts share ---------------------------------------------------------------------------------------

/// Drops a future after so many microseconds; `None` if it was not ready then.
async fn given_up<F: Future>(micros: u64, future: F) -> Option<F::Output> {
    tokio::time::timeout(Duration::from_micros(micros), future).await.ok()
}

// ---- calls -------------------------------------------------------------------------------------------------------

const WORKERS: usize = 3;

/// Has all workers of the pool started.
async fn all_up(pool: &Pool) {
    loop {
        // At once, so that each has a worker of its own.
        let mut calls = JoinSet::new();
        for _ in 0..WORKERS {
            let pool = pool.clone();
            calls.spawn(async move {
                pool.call(linger, (50_000,)).await.expect("a living worker");
                pool.call(pid, ()).await.expect("a living worker")
            });
        }
        let mut pids = calls.join_all().await;
        pids.sort_unstable();
        pids.dedup();
        if pids.len() == WORKERS {
            return;
        }
    }
}

/// Four at a time on three workers, of which somebody kills one now and then.
async fn calls() {
    const AT_ONCE: u64 = 4;
    let began = Instant::now();
    let pool = Options::new().grace(Duration::from_millis(20)).pool(WORKERS);
    let mut random = Random(0x5eed_0001);
    let (mut made, mut dropped, mut killed, mut before) = (0, 0, 0, None);
    while made < COUNT {
        let mut at_once = JoinSet::new();
        for _ in 0..AT_ONCE {
            let (pool, n) = (pool.clone(), random.below(1 << 40));
            let (what, patience, busy) = (random.below(100), random.below(3000), random.below(2000));
            at_once.spawn(async move {
                match what {
                    0..60 => {
                        // Whoever waits for it gets its own answer, from a worker that lives.
                        assert_eq!(pool.call(double, (n,)).await.expect("a living worker"), 2 * n);
                        false
                    }
                    60..80 => given_up(patience, pool.call(double, (n,))).await.is_none(),
                    80..98 => given_up(patience, pool.call(linger, (busy,))).await.is_none(),
                    _ => given_up(patience, pool.call(stubborn, (busy * 20,))).await.is_none(),
                }
            });
            made += 1;
        }
        while let Some(call) = at_once.join_next().await {
            dropped += u32::from(call.expect("its answer was right"));
        }
        if made % 200 == 100 {
            // Somebody kills an idle worker.
            let victim = pool.call(pid, ()).await.expect("a living worker");
            let victim = Pid::from_raw(victim.cast_signed()).expect("a number");
            kill_process(victim, Signal::KILL).expect("kill");
            killed += 1;
        }
        if made >= FIRST && before.is_none() {
            all_up(&pool).await;
            before = Some(Tally::at_rest().await);
        }
    }
    println!("{made} calls in {:.1?}, {dropped} of them given up, {killed} workers killed", began.elapsed());
    assert!(dropped > 500 && killed == 50);
    all_up(&pool).await;
    Tally::no_more_than(before.expect("a first round")).await;
    let last = pool.call(pid, ()).await.expect("a living worker");
    pool.close().await;
    assert!(!alive(last));
    assert!(matches!(pool.call(double, (1,)).await, Err(PoolError::Closed)));
    println!("processes left: {}", Tally::now().below);
}

// ---- runs --------------------------------------------------------------------------------------------------------

/// Runs one, in the way that the numbers say. Returns whether it was given up.
async fn one(options: Options, what: u64, n: u64, patience: u64) -> bool {
    match what {
        0..60 => {
            assert_eq!(options.run(double, (n,)).await.expect("a value"), 2 * n);
            false
        }
        60..90 => given_up(patience, options.run(linger, (4000,))).await.is_none(),
        90..95 => given_up(patience, options.run(stubborn, (100_000,))).await.is_none(),
        _ => match options.time_limit(Duration::from_millis(2)).run(stubborn, (100_000,)).await {
            Err(RunError::TimedOut { .. }) => false,
            other => panic!("{other:?}"),
        },
    }
}

async fn runs() {
    const AT_ONCE: usize = 6;
    let began = Instant::now();
    let options = Options::new().grace(Duration::from_millis(10));
    let mut random = Random(0x5eed_0002);
    let (mut begun, mut dropped, mut before) = (0, 0_u64, None);
    while begun < COUNT {
        let mut at_once = JoinSet::new();
        // In rounds, so that there are quiet moments to count in.
        let end = (begun + FIRST).min(COUNT);
        while begun < end {
            if at_once.len() == AT_ONCE {
                dropped += u64::from(at_once.join_next().await.expect("one").expect("its answer was right"));
            }
            let (what, n, patience) = (random.below(100), random.below(1 << 40), random.below(8000));
            at_once.spawn(one(options.clone(), what, n, patience));
            begun += 1;
        }
        while let Some(one) = at_once.join_next().await {
            dropped += u64::from(one.expect("its answer was right"));
        }
        if before.is_none() {
            until("all have ended", || Tally::now().below == 0).await;
            before = Some(Tally::at_rest().await);
        }
    }
    println!("{begun} runs in {:.1?}, {AT_ONCE} at once, {dropped} of them given up", began.elapsed());
    assert!(dropped > begun / 20);
    Tally::no_more_than(before.expect("a first round")).await;
    println!("processes left: {}", Tally::now().below);
}
