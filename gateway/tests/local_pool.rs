//! Child processes that run one function after another: reused workers, and pools of them.
//!
//! Some tests look at all that is below their process: they need one each, as nextest gives them, or `-- --test-threads=1`.

mod gateways;
mod local_tasks;

use std::time::Duration;

use farcall::local::{Options, Pool, PoolError, RunError, Worker};
use gateways::{plain, until};
use local_tasks::{
    STUCK, ask, count, descriptors, exit, fail, fill, gone, hold, is_there, kill, note, odd, offspring,
    panics, patient, pid, spin, square, temporary, written, zombies,
};

fn main() {
    let tests = [
        plain("a_worker_goes_on_after_failures", a_worker_goes_on_after_failures),
        plain("a_worker_survives_a_dropped_call_that_waits", a_worker_survives_a_dropped_call_that_waits),
        plain(
            "a_worker_ends_with_a_dropped_call_that_computes",
            a_worker_ends_with_a_dropped_call_that_computes,
        ),
        plain("a_dead_worker_says_so_again_and_again", a_dead_worker_says_so_again_and_again),
        plain("a_pool_starts_processes_as_they_are_needed", a_pool_starts_processes_as_they_are_needed),
        plain("a_pool_is_fair", a_pool_is_fair),
        plain("a_pool_goes_on_after_failures", a_pool_goes_on_after_failures),
        plain("a_dead_worker_is_never_handed_out", a_dead_worker_is_never_handed_out),
        plain("a_worker_killed_at_work_is_replaced", a_worker_killed_at_work_is_replaced),
        plain("a_dropped_call_that_waits_keeps_its_worker", a_dropped_call_that_waits_keeps_its_worker),
        plain("a_dropped_call_that_computes_is_killed", a_dropped_call_that_computes_is_killed),
        plain("a_dropped_call_that_asks_keeps_its_worker", a_dropped_call_that_asks_keeps_its_worker),
        plain("a_pool_limits_time_and_memory", a_pool_limits_time_and_memory),
        plain("closing_a_pool_fails_its_calls", closing_a_pool_fails_its_calls),
        plain("a_closed_pool_has_no_process_left", a_closed_pool_has_no_process_left),
        plain("a_pool_never_has_more_processes_than_workers", a_pool_never_has_more_processes_than_workers),
        plain("workers_are_renewed_after_so_many_calls", workers_are_renewed_after_so_many_calls),
        plain("a_pool_serves_several_runtimes", a_pool_serves_several_runtimes),
    ];
    local_tasks::main(tests);
}

// ---- worker ------------------------------------------------------------------------------------------------------

async fn a_worker_goes_on_after_failures() {
    let mut worker = Worker::new().await.expect("a worker");
    let first = worker.call(pid, ()).await.expect("a number");
    assert_eq!(worker.pid(), Some(first));
    assert!(matches!(worker.call(fail, ()).await, Err(RunError::Failed(_))));
    assert!(matches!(worker.call(panics, ("x".to_owned(),)).await, Err(RunError::Panicked(_))));
    assert!(matches!(worker.call(odd, ()).await, Err(RunError::Undecodable(_))));
    for n in 0..100 {
        assert_eq!(worker.call(square, (n,)).await.expect("a value"), n * n);
        assert_eq!(u64::from(worker.call(count, ()).await.expect("a count")), n);
    }
    assert_eq!(worker.call(pid, ()).await.expect("a number"), first);
    worker.close().await;
    gone(first).await;
}

async fn a_worker_survives_a_dropped_call_that_waits() {
    let (_folder, file) = temporary();
    let mut worker = patient().worker().await.expect("a worker");
    let first = worker.pid().expect("it is idle");
    {
        let call = worker.call(hold, (file.clone(),));
        tokio::select! {
            result = call => panic!("{result:?}"),
            pid = written(&file) => assert_eq!(pid, first),
        }
    }
    assert_eq!(worker.call(pid, ()).await.expect("a number"), first);
    assert!(!std::path::Path::new(&file).exists(), "its task was dropped");
}

async fn a_worker_ends_with_a_dropped_call_that_computes() {
    let (_folder, file) = temporary();
    let mut worker = Options::new().grace(Duration::from_millis(100)).worker().await.expect("a worker");
    let pid = tokio::select! {
        result = worker.call(spin, (file.clone(),)) => panic!("{result:?}"),
        pid = written(&file) => pid,
    };
    let result = worker.call(square, (1,)).await;
    assert!(matches!(result, Err(RunError::Killed { signal: 9, .. })), "{result:?}");
    gone(pid).await;
}

async fn a_dead_worker_says_so_again_and_again() {
    let mut worker = Worker::new().await.expect("a worker");
    let pid = worker.pid().expect("it is idle");
    assert!(matches!(worker.call(exit, (3,)).await, Err(RunError::Exited { code: 3, .. })));
    for _ in 0..2 {
        assert!(matches!(worker.call(square, (1,)).await, Err(RunError::Exited { code: 3, .. })));
    }
    gone(pid).await;
    assert_eq!(worker.pid(), None);
}

// ---- pool --------------------------------------------------------------------------------------------------------

async fn pids(pool: &Pool, count: usize) -> Vec<u32> {
    let mut pids = Vec::new();
    for _ in 0..count {
        pids.push(pool.call(pid, ()).await.expect("a number"));
    }
    pids.sort_unstable();
    pids.dedup();
    pids
}

async fn a_pool_starts_processes_as_they_are_needed() {
    let before = descriptors().len();
    let pool = Pool::new(3);
    assert_eq!(descriptors().len(), before, "nothing is started yet");
    assert_eq!(pids(&pool, 20).await.len(), 1, "one is enough for one call after another");

    let (folder, _) = temporary();
    let files: Vec<String> =
        (0..5).map(|n| folder.path().join(n.to_string()).to_string_lossy().into_owned()).collect();
    let calls: Vec<_> = files
        .iter()
        .map(|file| {
            let (pool, file) = (pool.clone(), file.clone());
            tokio::spawn(async move { pool.call(hold, (file,)).await })
        })
        .collect();
    let running = || files.iter().filter(|file| std::path::Path::new(file).exists()).count();
    until("as many run as there are workers", || running() == 3).await;
    assert_eq!(running(), 3);
    calls.iter().for_each(|call| call.abort());
    pool.close().await;
}

async fn a_pool_is_fair() {
    let (_folder, file) = temporary();
    let pool = Pool::new(1);
    let mut calls = Vec::new();
    for line in 0..20 {
        let mut call = Box::pin({
            let (pool, file) = (pool.clone(), file.clone());
            async move { pool.call(note, (file, line)).await }
        });
        // It takes its place in the queue.
        let ready =
            std::future::poll_fn(|cx| std::task::Poll::Ready(call.as_mut().poll(cx).is_ready())).await;
        assert!(!ready);
        calls.push(call);
    }
    // Whoever asks first is served last in this order of polling.
    let calls: Vec<_> = calls.into_iter().rev().map(tokio::spawn).collect();
    for call in calls {
        call.await.expect("no panic").expect("a value");
    }
    let lines = std::fs::read_to_string(&file).expect("the lines");
    let wanted: String = (0..20).map(|line| format!("{line}\n")).collect();
    assert_eq!(lines, wanted);
}

async fn a_pool_goes_on_after_failures() {
    let pool = Pool::new(1);
    let first = pids(&pool, 1).await;
    for _ in 0..20 {
        assert!(matches!(pool.call(fail, ()).await, Err(PoolError::Run(RunError::Failed(_)))));
        let panicked = pool.call(panics, ("x".to_owned(),)).await;
        assert!(matches!(panicked, Err(PoolError::Run(RunError::Panicked(_)))));
        assert!(matches!(pool.call(odd, ()).await, Err(PoolError::Run(RunError::Undecodable(_)))));
    }
    assert_eq!(pids(&pool, 1).await, first);
}

async fn a_dead_worker_is_never_handed_out() {
    let pool = Pool::new(1);
    let mut last = pids(&pool, 1).await[0];
    for _ in 0..30 {
        kill(last);
        let next = pool.call(pid, ()).await.expect("a living worker");
        assert_ne!(next, last);
        last = next;
    }
}

async fn a_worker_killed_at_work_is_replaced() {
    let (_folder, file) = temporary();
    let pool = Pool::new(1);
    let call = tokio::spawn({
        let (pool, file) = (pool.clone(), file.clone());
        async move { pool.call(hold, (file,)).await }
    });
    kill(written(&file).await);
    let result = call.await.expect("no panic");
    assert!(matches!(result, Err(PoolError::Run(RunError::Killed { signal: 9, .. }))), "{result:?}");
    assert_eq!(pool.call(square, (5,)).await.expect("a value"), 25);
}

/// Drops a call when it runs, and returns its process.
async fn drop_at_work<F, M>(pool: &Pool, task: F, file: &str) -> u32
where
    F: farcall::Task<M, Args = (String,), Value = ()>,
    M: Send + 'static,
{
    tokio::select! {
        result = pool.call(task, (file.to_owned(),)) => panic!("{result:?}"),
        pid = written(file) => pid,
    }
}

async fn a_dropped_call_that_waits_keeps_its_worker() {
    let (_folder, file) = temporary();
    let pool = patient().pool(1);
    let first = pids(&pool, 1).await;
    for _ in 0..10 {
        assert_eq!(drop_at_work(&pool, hold, &file).await, first[0]);
        assert_eq!(pids(&pool, 1).await, first);
        assert!(!std::path::Path::new(&file).exists(), "its task was dropped before the next call");
    }
}

async fn a_dropped_call_that_computes_is_killed() {
    let (_folder, file) = temporary();
    let pool = Options::new().grace(Duration::from_millis(50)).pool(1);
    for _ in 0..3 {
        let pid = drop_at_work(&pool, spin, &file).await;
        assert_eq!(pool.call(square, (2,)).await.expect("a value"), 4);
        gone(pid).await;
        std::fs::remove_file(&file).expect("the file");
    }
}

async fn a_dropped_call_that_asks_keeps_its_worker() {
    let (_folder, file) = temporary();
    let pool = patient().pool(1);
    let pid = drop_at_work(&pool, ask, &file).await;
    assert_eq!(pids(&pool, 1).await, [pid]);
}

async fn a_pool_limits_time_and_memory() {
    let (_folder, file) = temporary();
    let pool = Options::new().memory(128 << 20).time_limit(Duration::from_secs(5)).pool(1);
    let result = pool.call(spin, (file.clone(),)).await;
    assert!(matches!(result, Err(PoolError::Run(RunError::TimedOut { .. }))), "{result:?}");
    gone(written(&file).await).await;
    let result = pool.call(fill, (256 << 20,)).await;
    assert!(matches!(result, Err(PoolError::Run(RunError::Killed { signal: 6, .. }))), "{result:?}");
    assert_eq!(pool.call(square, (2,)).await.expect("a value"), 4);
}

async fn closing_a_pool_fails_its_calls() {
    let (folder, _) = temporary();
    let pool = Pool::new(2);
    let files: Vec<String> =
        (0..2).map(|n| folder.path().join(n.to_string()).to_string_lossy().into_owned()).collect();
    let call = |file: &String| {
        let (pool, file) = (pool.clone(), file.clone());
        tokio::spawn(async move { pool.call(spin, (file,)).await })
    };
    let mut calls: Vec<_> = files.iter().map(call).collect();
    let running = [written(&files[0]).await, written(&files[1]).await];
    // These wait.
    calls.extend(files.iter().map(call));
    pool.close().await;
    gone(running[0]).await;
    gone(running[1]).await;
    for call in calls {
        let result = call.await.expect("no panic");
        assert!(matches!(result, Err(PoolError::Closed)), "{result:?}");
    }
    assert!(matches!(pool.call(square, (1,)).await, Err(PoolError::Closed)));
    assert_eq!(zombies(), 0);
}

async fn a_closed_pool_has_no_process_left() {
    // One that has worked enough.
    let pool = Options::new().max_calls(1).pool(1);
    pids(&pool, 1).await;
    pool.close().await;
    assert!(offspring().is_empty(), "{:?}", offspring());

    // Some that are being started, by calls of which one was given up before.
    let pool = Options::new().env(STUCK, "1").pool(2);
    let calls: Vec<_> = (0..2)
        .map(|n| {
            let pool = pool.clone();
            tokio::spawn(async move { pool.call(square, (n,)).await })
        })
        .collect();
    until("both are being started", || offspring().len() >= 2).await;
    calls[0].abort();
    pool.close().await;
    assert!(offspring().is_empty(), "{:?}", offspring());

    // Those that are put back meanwhile.
    for round in 0..20 {
        let pool = Pool::new(2);
        let calls: Vec<_> = (0..2)
            .map(|n| {
                let pool = pool.clone();
                tokio::spawn(async move { pool.call(square, (n,)).await })
            })
            .collect();
        tokio::time::sleep(Duration::from_micros(round * 500)).await;
        pool.close().await;
        assert!(offspring().is_empty(), "{:?}", offspring());
        for call in calls {
            assert!(matches!(call.await.expect("no panic"), Ok(_) | Err(PoolError::Closed)));
        }
    }
}

async fn a_pool_never_has_more_processes_than_workers() {
    let pool = Options::new().max_calls(1).pool(1);
    pids(&pool, 1).await;
    for _ in 0..10 {
        let last = pool.call(pid, ()).await.expect("a number");
        let alone = pool.call(is_there, (last,)).await.expect("an answer");
        assert!(!alone, "the one before is there");
    }
}

async fn workers_are_renewed_after_so_many_calls() {
    let pool = Options::new().max_calls(3).pool(1);
    assert_eq!(pids(&pool, 9).await.len(), 3);
}

async fn a_pool_serves_several_runtimes() {
    let pool = Pool::new(1);
    let first = pids(&pool, 1).await;
    for _ in 0..3 {
        let other = pool.clone();
        let there = std::thread::spawn(move || {
            let runtime =
                tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
            runtime.block_on(pids(&other, 5))
        });
        assert_eq!(there.join().expect("no panic"), first);
        assert_eq!(pids(&pool, 5).await, first);
    }
}
