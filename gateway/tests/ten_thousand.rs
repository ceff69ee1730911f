//! Ten thousand starts and ends of local gateways, in every way and several at once, leak no descriptor, memory, process or file.
//!
//! `cargo test -p farcall --test ten_thousand` shows the figures, too.

mod gateways;

use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use farcall::{CallError, Gateway, Sender, Spec, Tasks};
use farcall_test_support::descendants;
use gateways::{plain, serves_all, until};
use rustix::process::{Pid, Signal, kill_process};

/// The first argument that makes this program start gateways rather than run tests.
const PLAY: &str = "--play";

const COUNT: u64 = 10_000;

/// Before the first count: what is made once is made by then, buffers have their sizes.
const FIRST: u64 = 300;

/// What memory may vary by, in KiB: neither allocators nor kernels account for every page at once.
const TOLERANCE: u64 = 2048;

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

/// What a process has.
#[derive(Clone, Copy, Debug)]
struct Held {
    descriptors: usize,
    threads: usize,
    /// In KiB.
    resident: u64,
}

impl Held {
    fn by(pid: u32) -> Held {
        let count =
            |folder: &str| std::fs::read_dir(format!("/proc/{pid}/{folder}")).expect("a process").count();
        let status = std::fs::read_to_string(format!("/proc/{pid}/status")).expect("a process");
        let resident = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("a line");
        let resident = resident.trim().trim_end_matches(" kB").parse().expect("a number");
        Held { descriptors: count("fd"), threads: count("task"), resident }
    }

    fn no_more_than(&self, before: &Held) -> bool {
        self.descriptors <= before.descriptors && self.threads <= before.threads
    }
}

/// What this process and the one that forks its workers have, and how many others are below, dead ones included.
fn census() -> (Held, Held, usize) {
    let below = descendants(std::process::id());
    let (servers, others): (Vec<u32>, Vec<u32>) = below.into_iter().partition(|pid| serves_all(*pid));
    assert_eq!(servers.len(), 1, "all are forked by one process");
    (Held::by(std::process::id()), Held::by(servers[0]), others.len())
}

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
            until("all have ended", || census().2 == 0).await;
            // Descriptors of the last ones may be open for a moment yet: the least of some looks is what stays.
            let mut least = census();
            for _ in 0..100 {
                tokio::time::sleep(Duration::from_millis(5)).await;
                let now = census();
                least.0.descriptors = least.0.descriptors.min(now.0.descriptors);
                least.1.descriptors = least.1.descriptors.min(now.1.descriptors);
            }
            before = Some(least);
        }
    }
    let before = before.expect("a first round");
    until("nothing more is held than before", || {
        let now = census();
        now.0.no_more_than(&before.0) && now.1.no_more_than(&before.1) && now.2 == 0
    })
    .await;
    let after = census();
    println!(
        "{COUNT} gateways in {:.1?}, {AT_ONCE} at once; after the first {FIRST}, and after all:",
        began.elapsed()
    );
    for (whose, before, after) in
        [("this process", before.0, after.0), ("the one that forks", before.1, after.1)]
    {
        println!(
            "{whose}: {} and {} descriptors, {} and {} threads, {} and {} KiB resident",
            before.descriptors,
            after.descriptors,
            before.threads,
            after.threads,
            before.resident,
            after.resident
        );
        assert!(after.resident < before.resident + TOLERANCE, "{whose} has grown");
    }
    println!("processes left: {}", after.2);
}

// ---- the test ----------------------------------------------------------------------------------------------------

/// In a process whose every folder for files is a new one, which must be empty at the end.
async fn ten_thousand_starts_and_ends_leak_nothing() {
    let folder = tempfile::tempdir().expect("a folder");
    let mut command = Command::new(std::env::current_exe().expect("a path"));
    command.arg(PLAY).current_dir(folder.path()).stdin(Stdio::null()).stdout(Stdio::piped());
    for variable in ["TMPDIR", "HOME", "XDG_CACHE_HOME", "XDG_RUNTIME_DIR", "XDG_STATE_HOME"] {
        command.env(variable, folder.path());
    }
    // The limit of other tests cannot end it meanwhile.
    let output = tokio::task::block_in_place(|| command.spawn().expect("started").wait_with_output());
    let output = output.expect("its end");
    let text = String::from_utf8_lossy(&output.stdout);
    print!("{text}");
    assert!(output.status.success(), "{}: {text}", output.status);
    assert!(text.contains("processes left: 0"), "{text}");
    let files: Vec<_> = std::fs::read_dir(folder.path()).expect("a folder").flatten().collect();
    assert!(files.is_empty(), "{files:?}");
}
