//! Ten thousand calls and as many runs as time allows, given up at random: nothing leaks, and no dead worker is handed out.

mod gateways;

use std::time::{Duration, Instant};

use farcall::Tasks;
use farcall::local::{self, Options, PoolError, RunError};
use gateways::{alive, plain, until};
use rustix::process::{Pid, Signal, kill_process};

fn main() {
    gateways::main(
        Tasks::new().add(double).add(linger).add(stubborn).add(pid),
        [
            plain("ten_thousand_pool_calls_leak_nothing", ten_thousand_pool_calls_leak_nothing),
            plain("runs_given_up_at_random_leak_nothing", runs_given_up_at_random_leak_nothing),
        ],
    );
}

/// How long the runs go on, if there are not ten thousand before.
const RUNS: Duration = Duration::from_secs(35);

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

/// The same for the same seed: xorshift64*.
struct Random(u64);

impl Random {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 33) % bound
    }
}

/// Descriptors, resident kibibytes and descendants of this process.
fn census() -> (usize, u64, usize) {
    let descriptors = std::fs::read_dir("/proc/self/fd").expect("descriptors").count();
    let status = std::fs::read_to_string("/proc/self/status").expect("status");
    let resident = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("a line");
    let resident = resident.trim().trim_end_matches(" kB").parse().expect("a number");
    (descriptors, resident, below())
}

/// What is below this process, dead ones included, but for the process that forks the others.
fn below() -> usize {
    fn count(pid: &str) -> usize {
        let Ok(threads) = std::fs::read_dir(format!("/proc/{pid}/task")) else { return 0 };
        let children = threads.flatten().map(|thread| {
            let children = std::fs::read_to_string(thread.path().join("children")).unwrap_or_default();
            children.split_whitespace().map(|child| one(child) + count(child)).sum::<usize>()
        });
        children.sum()
    }
    fn one(pid: &str) -> usize {
        let name = std::fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
        usize::from(name.trim() != "farcall-forks")
    }
    count("self")
}

/// Drops a future after so many microseconds; `None` if it was not ready then.
async fn given_up<F: Future>(micros: u64, future: F) -> Option<F::Output> {
    tokio::time::timeout(Duration::from_micros(micros), future).await.ok()
}

async fn ten_thousand_pool_calls_leak_nothing() {
    let pool = Options::new().grace(Duration::from_millis(20)).pool(3);
    let mut random = Random(0x5eed_0001);
    for n in 0..200 {
        assert_eq!(pool.call(double, (n,)).await.expect("a value"), 2 * n);
    }
    let mut workers = Vec::new();
    for _ in 0..3 {
        workers.push(pool.call(pid, ()).await.expect("a number"));
    }
    let before = census();
    let (mut dropped, mut killed) = (0, 0);
    for round in 0..2500_u64 {
        // Four at a time on three workers.
        let calls = (0..4).map(|_| {
            let (pool, n) = (pool.clone(), random.below(1 << 40));
            let (what, patience, busy) = (random.below(100), random.below(3000), random.below(2000));
            tokio::spawn(async move {
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
            })
        });
        for call in calls.collect::<Vec<_>>() {
            dropped += u32::from(call.await.expect("its answer was right"));
        }
        if round % 50 == 25 {
            // Somebody kills an idle worker.
            let victim = pool.call(pid, ()).await.expect("a living worker");
            let victim = Pid::from_raw(victim.cast_signed()).expect("a number");
            kill_process(victim, Signal::KILL).expect("kill");
            killed += 1;
        }
    }
    assert!(dropped > 500, "only {dropped} calls were given up");
    assert_eq!(killed, 50);
    let last = pool.call(pid, ()).await.expect("a living worker");
    until("descriptors and processes are as before", || {
        let now = census();
        // All workers may be there now.
        now.0 <= before.0 + 3 * 10 && now.2 <= before.2 + 3 * 3
    })
    .await;
    let now = census();
    assert!(now.1 < before.1 + 16 * 1024, "{} KiB have become {} KiB", before.1, now.1);
    pool.close().await;
    assert!(!alive(last));
    until("nothing is left", || below() == 0).await;
    assert!(matches!(pool.call(double, (1,)).await, Err(PoolError::Closed)));
    drop(workers);
}

async fn runs_given_up_at_random_leak_nothing() {
    let options = Options::new().grace(Duration::from_millis(50));
    let mut random = Random(0x5eed_0002);
    for n in 0..20 {
        assert_eq!(options.run(double, (n,)).await.expect("a value"), 2 * n);
    }
    until("all have ended", || below() == 0).await;
    let before = census();
    let began = Instant::now();
    let (mut runs, mut dropped) = (0_u64, 0_u64);
    while runs < 10_000 && began.elapsed() < RUNS {
        let both = (0..2).map(|_| {
            let (options, n) = (options.clone(), random.below(1 << 40));
            let (what, patience) = (random.below(10), random.below(8000));
            tokio::spawn(async move {
                match what {
                    0..6 => {
                        assert_eq!(options.run(double, (n,)).await.expect("a value"), 2 * n);
                        false
                    }
                    6..8 => given_up(patience, options.run(linger, (4000,))).await.is_none(),
                    8 => given_up(patience, options.run(stubborn, (100_000,))).await.is_none(),
                    _ => match options.time_limit(Duration::from_millis(2)).run(stubborn, (100_000,)).await {
                        Err(RunError::TimedOut { .. }) => false,
                        other => panic!("{other:?}"),
                    },
                }
            })
        });
        for run in both.collect::<Vec<_>>() {
            dropped += u64::from(run.await.expect("its answer was right"));
            runs += 1;
        }
    }
    assert!(runs > 200, "only {runs} runs in {RUNS:?}");
    assert!(dropped > runs / 20, "only {dropped} of {runs} were given up");
    until("all have ended", || below() == 0).await;
    until("all descriptors are closed", || census().0 <= before.0).await;
    let now = census();
    assert!(now.1 < before.1 + 16 * 1024, "{} KiB have become {} KiB", before.1, now.1);
    // Nothing of the family is remembered.
    assert!(local::run(double, (1,)).await.is_ok());
}
