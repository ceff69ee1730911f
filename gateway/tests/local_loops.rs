//! Ten thousand pool calls and ten thousand runs, given up at random and several at once: no descriptor, memory, thread or process
//! is left, and no dead worker is handed out.
//!
//! `cargo test -p farcall --test local_loops -- --nocapture` shows the figures, too.

mod gateways;

use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use farcall::Tasks;
use farcall::local::{Options, Pool, PoolError, RunError};
use farcall_test_support::descendants;
use gateways::{alive, plain, serves_all, until};
use rustix::process::{Pid, Signal, kill_process};
use tokio::task::JoinSet;

/// The first argument that makes this program do one of the parts rather than run tests.
const PLAY: &str = "--play";

const COUNT: u64 = 10_000;

/// Before the first count: what is made once is made by then, buffers have their sizes.
const FIRST: u64 = 300;

/// What memory may vary by, in KiB: neither allocators nor kernels account for every page at once.
const TOLERANCE: u64 = 4096;

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
            plain("ten_thousand_pool_calls_leak_nothing", || in_its_own_process("calls")),
            plain("ten_thousand_runs_leak_nothing", || in_its_own_process("runs")),
        ],
    );
}

/// So that what is counted is of this part alone, and that the limit of other tests cannot end it.
async fn in_its_own_process(part: &str) {
    let mut command = Command::new(std::env::current_exe().expect("a path"));
    command.args([PLAY, part]).stdin(Stdio::null()).stdout(Stdio::piped());
    let output = tokio::task::block_in_place(|| command.spawn().expect("started").wait_with_output());
    let output = output.expect("its end");
    let text = String::from_utf8_lossy(&output.stdout);
    print!("{text}");
    assert!(output.status.success(), "{}: {text}", output.status);
    assert!(text.contains("processes left: 0"), "{text}");
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

/// What this process has.
#[derive(Clone, Copy, Debug)]
struct Held {
    descriptors: usize,
    threads: usize,
    /// In KiB.
    resident: u64,
    /// Dead ones included, but for the process that forks the others.
    below: usize,
}

impl Held {
    fn now() -> Held {
        let count = |folder: &str| std::fs::read_dir(folder).expect("a process").count();
        let status = std::fs::read_to_string("/proc/self/status").expect("a process");
        let resident = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("a line");
        Held {
            descriptors: count("/proc/self/fd"),
            threads: count("/proc/self/task"),
            resident: resident.trim().trim_end_matches(" kB").parse().expect("a number"),
            below: below(),
        }
    }

    /// Descriptors of what has just ended may be open for a moment yet: the least of some looks is what stays.
    async fn at_rest() -> Held {
        let mut least = Held::now();
        for _ in 0..100 {
            tokio::time::sleep(Duration::from_millis(5)).await;
            let now = Held::now();
            least.descriptors = least.descriptors.min(now.descriptors);
            least.below = least.below.min(now.below);
        }
        least
    }
}

fn below() -> usize {
    descendants(std::process::id()).into_iter().filter(|pid| !serves_all(*pid)).count()
}

/// Waits until this process has no more than before, and prints both.
async fn no_more_than(before: Held) {
    until("nothing more is held than before", || {
        let now = Held::now();
        now.descriptors <= before.descriptors && now.threads <= before.threads && now.below <= before.below
    })
    .await;
    let after = Held::now();
    println!(
        "{} and {} descriptors, {} and {} threads, {} and {} KiB resident, {} and {} processes",
        before.descriptors,
        after.descriptors,
        before.threads,
        after.threads,
        before.resident,
        after.resident,
        before.below,
        after.below
    );
    assert!(after.resident < before.resident + TOLERANCE, "it has grown");
}

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
            before = Some(Held::at_rest().await);
        }
    }
    println!("{made} calls in {:.1?}, {dropped} of them given up, {killed} workers killed", began.elapsed());
    assert!(dropped > 500 && killed == 50);
    all_up(&pool).await;
    no_more_than(before.expect("a first round")).await;
    let last = pool.call(pid, ()).await.expect("a living worker");
    pool.close().await;
    assert!(!alive(last));
    assert!(matches!(pool.call(double, (1,)).await, Err(PoolError::Closed)));
    println!("processes left: {}", below());
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
            until("all have ended", || below() == 0).await;
            before = Some(Held::at_rest().await);
        }
    }
    println!("{begun} runs in {:.1?}, {AT_ONCE} at once, {dropped} of them given up", began.elapsed());
    assert!(dropped > begun / 20);
    no_more_than(before.expect("a first round")).await;
    println!("processes left: {}", below());
}
