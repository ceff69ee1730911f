//! Whole runs with attempts that only pretend: what is shown, what ends them, and what is left.

use std::io::{self, Write};
use std::num::NonZeroUsize;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex};

use tokio::sync::Notify;

use super::*;
use crate::args::run::Layout;
use crate::hosts::error::Source;
use crate::hosts::groups::Groups;
use crate::hosts::{Host, evaluate};
use crate::outcome::{Failure, FailureClass};
use crate::output::tests::Page;
use crate::output::{Options, Progress, Screen};
use crate::run_plan::Limits;

const OK: AttemptEnd = AttemptEnd::Exited { code: 0 };

fn limits() -> Limits {
    Limits {
        at_once: NonZeroUsize::new(64).unwrap(),
        retries: 0,
        command: None,
        grace: Duration::from_secs(5),
        pause: Duration::from_secs(1),
        seed: 0,
    }
}

fn failed(class: FailureClass) -> AttemptEnd {
    let message = "refused".to_owned();
    AttemptEnd::Failed(Failure {
        class,
        step: "connect".into(),
        message,
        evidence: String::new(),
        hint: None,
    })
}

/// A plan and an output for the hosts of a set, and the pages that are written.
struct Stage {
    plan: RunPlan,
    output: Output,
    out: Page,
    err: Page,
}

fn stage(set: &str, limits: Limits, layout: Layout) -> Stage {
    let (out, err) = (Page::default(), Page::default());
    let Stage { plan, output, .. } =
        stage_on(set, limits, layout, Box::new(out.clone()), Box::new(err.clone()));
    Stage { plan, output, out, err }
}

fn stage_on(
    set: &str,
    limits: Limits,
    layout: Layout,
    out: Box<dyn Write + Send>,
    err: Box<dyn Write + Send>,
) -> Stage {
    let set = evaluate(set, Source::Argument, &Groups::default()).unwrap();
    let hosts: Arc<[Host]> = set.iter().cloned().collect();
    let plan = RunPlan::new(hosts.len(), limits);
    let options = Options { layout, ..Options::default() };
    let output =
        Output::new(hosts, &options, Screen::new(out, err, false, false), Progress::hidden()).unwrap();
    Stage { plan, output, out: Page::default(), err: Page::default() }
}

fn nobody() -> mpsc::Receiver<Interrupt> {
    mpsc::channel(1).1
}

#[tokio::test]
async fn output_comes_before_the_result_of_its_host() {
    let stage = stage("n[1-50]", limits(), Layout::Gathered { with_stderr: false });
    let runner = async |attempt: Attempt| {
        attempt.reporter.running().await;
        for i in 0..20 {
            attempt.reporter.output(Stream::Stdout, format!("{i}\n").into_bytes()).await;
        }
        OK
    };
    let end = carry_out(stage.plan, stage.output, move |attempt| Box::pin(runner(attempt)), |_| (), nobody())
        .await
        .unwrap();
    assert_eq!(end.outcomes, vec![Outcome::Exited { code: 0 }; 50]);
    let text: String = (0..20).map(|i| format!("{i}\n")).collect();
    assert_eq!(stage.out.text(), format!("---------------\nn[1-50] (50)\n---------------\n{text}"));
    assert_eq!(stage.err.text(), "50 ok\n");
}

#[tokio::test]
async fn no_more_run_at_once_than_asked() {
    let at_once = NonZeroUsize::new(3).unwrap();
    let stage = stage("n[1-30]", Limits { at_once, ..limits() }, Layout::Live);
    let (now, most) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let runner = |_: Attempt| {
        let (now, most) = (now.clone(), most.clone());
        async move {
            most.fetch_max(now.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
            for _ in 0..5 {
                tokio::task::yield_now().await;
            }
            now.fetch_sub(1, Ordering::SeqCst);
            OK
        }
    };
    let end = carry_out(stage.plan, stage.output, runner, |_| (), nobody()).await.unwrap();
    assert_eq!((end.outcomes.len(), most.load(Ordering::SeqCst)), (30, 3));
}

#[tokio::test(start_paused = true)]
async fn a_refused_host_is_tried_again() {
    let stage = stage("a", Limits { retries: 3, ..limits() }, Layout::Live);
    let runner = async |attempt: Attempt| match attempt.number {
        3 => OK,
        _ => failed(FailureClass::Connect),
    };
    let end = carry_out(stage.plan, stage.output, move |attempt| Box::pin(runner(attempt)), |_| (), nobody())
        .await
        .unwrap();
    assert_eq!(end.outcomes, [Outcome::Exited { code: 0 }]);
    assert_eq!(stage.err.text(), "1 ok\n");
}

#[tokio::test(start_paused = true)]
async fn a_limit_stops_the_command_and_keeps_what_it_said() {
    let limit = Duration::from_secs(30);
    let stage = stage("a", Limits { command: Some(limit), ..limits() }, Layout::Live);
    let runner = async |mut attempt: Attempt| {
        attempt.reporter.running().await;
        attempt.reporter.output(Stream::Stdout, b"begun".to_vec()).await;
        attempt.stop.asked().await;
        attempt.reporter.output(Stream::Stdout, b", stopped".to_vec()).await;
        AttemptEnd::Signaled { signal: 15 }
    };
    let end = carry_out(stage.plan, stage.output, move |attempt| Box::pin(runner(attempt)), |_| (), nobody())
        .await
        .unwrap();
    assert_eq!(end.outcomes, [Outcome::TimedOut { limit }]);
    assert_eq!(stage.out.text(), "a: begun, stopped\n");
    assert_eq!(stage.err.text(), "timed out after 30s (1): a\n1 timed out\n");
}

/// Counts down when it is dropped.
struct Alive(Arc<AtomicUsize>);

impl Alive {
    fn new(count: &Arc<AtomicUsize>) -> Self {
        count.fetch_add(1, Ordering::SeqCst);
        Alive(count.clone())
    }
}

impl Drop for Alive {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

#[tokio::test(start_paused = true)]
async fn one_that_ignores_the_stop_is_dropped_after_the_grace() {
    let stage = stage("a,b", Limits { command: Some(Duration::from_secs(1)), ..limits() }, Layout::Live);
    let alive = Arc::new(AtomicUsize::new(0));
    let runner = |attempt: Attempt| {
        let alive = Alive::new(&alive);
        async move {
            attempt.reporter.running().await;
            std::future::pending::<()>().await;
            drop(alive);
            OK
        }
    };
    let end = carry_out(stage.plan, stage.output, runner, |_| (), nobody()).await.unwrap();
    let limit = Duration::from_secs(1);
    assert_eq!(end.outcomes, [Outcome::TimedOut { limit }, Outcome::TimedOut { limit }]);
    for _ in 0..100 {
        tokio::task::yield_now().await; // a dropped task is let go at its next turn
    }
    assert_eq!(alive.load(Ordering::SeqCst), 0);
}

#[tokio::test]
async fn an_interrupt_stops_all_and_shows_what_there_is() {
    let at_once = NonZeroUsize::new(2).unwrap();
    let stage = stage("n[1-3]", Limits { at_once, ..limits() }, Layout::Gathered { with_stderr: false });
    let (send, interrupts) = mpsc::channel(1);
    let both = Arc::new(tokio::sync::Barrier::new(3));
    let runner = |mut attempt: Attempt| {
        let both = both.clone();
        async move {
            attempt.reporter.running().await;
            attempt.reporter.output(Stream::Stdout, b"half".to_vec()).await;
            both.wait().await;
            attempt.stop.asked().await;
            AttemptEnd::Signaled { signal: 2 }
        }
    };
    let interrupt = async {
        both.wait().await;
        send.send(Interrupt::Interrupted).await.unwrap();
    };
    let (end, ()) = tokio::join!(carry_out(stage.plan, stage.output, runner, |_| (), interrupts), interrupt);
    let end = end.unwrap();
    assert_eq!(end.interrupt, Some(Interrupt::Interrupted));
    assert_eq!(end.outcomes, [Outcome::Interrupted, Outcome::Interrupted, Outcome::NotStarted]);
    assert_eq!(stage.out.text(), "---------------\nn[1-2] (2)\n---------------\nhalf\n");
    let expected = "\
interrupted: stopping 2 at work; interrupt again to leave at once
interrupted (2): n[1-2]
not started (1): n3
2 interrupted, 1 not started
";
    assert_eq!(stage.err.text(), expected);
}

#[tokio::test]
async fn a_second_interrupt_leaves_at_once_and_drops_all() {
    let stage = stage("a", limits(), Layout::Live);
    let (send, interrupts) = mpsc::channel(2);
    let alive = Arc::new(AtomicUsize::new(0));
    let begun = Arc::new(Notify::new());
    let runner = |mut attempt: Attempt| {
        let (alive, begun, send) = (Alive::new(&alive), begun.clone(), send.clone());
        async move {
            attempt.reporter.running().await;
            begun.notify_one();
            attempt.stop.asked().await;
            send.send(Interrupt::Interrupted).await.unwrap(); // and never ends
            std::future::pending::<()>().await;
            drop(alive);
            OK
        }
    };
    let first = async {
        begun.notified().await;
        send.send(Interrupt::Terminated).await.unwrap();
    };
    let (end, ()) = tokio::join!(carry_out(stage.plan, stage.output, runner, |_| (), interrupts), first);
    let end = end.unwrap();
    assert_eq!(end.interrupt, Some(Interrupt::Terminated), "the first one counts");
    assert_eq!(end.outcomes, [Outcome::Interrupted]);
    assert!(stage.err.text().ends_with("interrupted (1): a\n1 interrupted\n"), "{}", stage.err.text());
    for _ in 0..100 {
        tokio::task::yield_now().await;
    }
    assert_eq!(alive.load(Ordering::SeqCst), 0);
}

/// A writer that takes nothing until the test lets it, as a paused terminal does.
#[derive(Clone, Default)]
struct Stuck(Arc<(Mutex<bool>, Condvar)>);

impl Stuck {
    fn release(&self) {
        *self.0.0.lock().unwrap() = true;
        self.0.1.notify_all();
    }
}

impl Write for Stuck {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let guard = self.0.0.lock().unwrap();
        drop(self.0.1.wait_while(guard, |released| !*released).unwrap());
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[tokio::test]
async fn a_paused_terminal_slows_hosts_down_and_does_not_hide_interrupts() {
    let stuck = Stuck::default();
    let stage = stage_on("a", limits(), Layout::Live, Box::new(stuck.clone()), Box::new(Page::default()));
    let (send, interrupts) = mpsc::channel(2);
    let said = Arc::new(AtomicUsize::new(0));
    let full = Arc::new(Notify::new());
    let runner = |attempt: Attempt| {
        let (said, full) = (said.clone(), full.clone());
        async move {
            loop {
                let next = attempt.reporter.output(Stream::Stdout, b"more\n".to_vec());
                // It stops taking more when both queues are full; no progress for so long is far beyond a turn, and a
                // slow machine that looks stuck only takes fewer.
                if tokio::time::timeout(Duration::from_millis(300), next).await.is_err() {
                    full.notify_one();
                    std::future::pending::<()>().await;
                }
                said.fetch_add(1, Ordering::SeqCst);
            }
        }
    };
    let twice = async {
        full.notified().await;
        send.send(Interrupt::Interrupted).await.unwrap();
        send.send(Interrupt::Interrupted).await.unwrap();
    };
    let (end, ()) = tokio::join!(carry_out(stage.plan, stage.output, runner, |_| (), interrupts), twice);
    assert_eq!(end.unwrap().interrupt, Some(Interrupt::Interrupted));
    let said = said.load(Ordering::SeqCst);
    assert!(said <= 2 * QUEUE + 2, "{said} pieces were taken from a host that nobody reads");
    stuck.release();
}

#[tokio::test]
async fn a_reader_that_has_gone_ends_the_run() {
    struct Gone;
    impl Write for Gone {
        fn write(&mut self, _: &[u8]) -> io::Result<usize> {
            Err(io::ErrorKind::BrokenPipe.into())
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }
    let stage = stage_on("a", limits(), Layout::Live, Box::new(Gone), Box::new(Page::default()));
    let runner = async |attempt: Attempt| -> AttemptEnd {
        loop {
            attempt.reporter.output(Stream::Stdout, b"more\n".to_vec()).await;
        }
    };
    let end =
        carry_out(stage.plan, stage.output, move |attempt| Box::pin(runner(attempt)), |_| (), nobody()).await;
    assert!(
        matches!(&end, Err(RunError::Output(OutputError::Screen(error))) if error.kind() == io::ErrorKind::BrokenPipe),
        "{end:?}"
    );
}

/// As a pager does whose reader takes an hour.
#[tokio::test(start_paused = true)]
async fn a_command_does_not_time_out_because_nobody_reads() {
    let stuck = Stuck::default();
    let limits = Limits { command: Some(Duration::from_secs(30)), ..limits() };
    let stage = stage_on("n[1-3]", limits, Layout::Live, Box::new(stuck.clone()), Box::new(Page::default()));
    let runner = async |attempt: Attempt| {
        attempt.reporter.running().await;
        for _ in 0..100 {
            attempt.reporter.output(Stream::Stdout, b"more\n".to_vec()).await;
        }
        OK
    };
    let read = async {
        tokio::time::sleep(Duration::from_secs(3600)).await;
        stuck.release();
    };
    let running =
        carry_out(stage.plan, stage.output, move |attempt| Box::pin(runner(attempt)), |_| (), nobody());
    let (end, ()) = tokio::join!(running, read);
    assert_eq!(end.unwrap().outcomes, vec![Outcome::Exited { code: 0 }; 3]);
}

/// A writer that takes its time.
struct Slow;

impl Write for Slow {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        thread::sleep(Duration::from_millis(4));
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[tokio::test]
async fn a_slow_reader_changes_no_limit_and_delays_no_end() {
    let command = Duration::from_secs(1);
    let limits = Limits { command: Some(command), ..limits() };
    let stage = stage_on("flood,long", limits, Layout::Live, Box::new(Slow), Box::new(Page::default()));
    let runner = async |mut attempt: Attempt| {
        attempt.reporter.running().await;
        let floods = attempt.host == HostId(0);
        // More than is shown within the limit.
        for _ in 0..if floods { usize::MAX } else { 200 } {
            tokio::select! {
                () = attempt.reporter.output(Stream::Stdout, b"more\n".to_vec()) => {}
                () = attempt.stop.asked() => return OK,
            }
            if !floods {
                attempt.reporter.over();
            }
        }
        OK
    };
    let end = carry_out(stage.plan, stage.output, move |attempt| Box::pin(runner(attempt)), |_| (), nobody())
        .await
        .unwrap();
    assert_eq!(end.outcomes, [Outcome::TimedOut { limit: command }, Outcome::Exited { code: 0 }]);
}

#[tokio::test]
async fn a_reader_that_has_gone_is_noticed_while_hosts_are_silent() {
    /// Goes when it has got one thing.
    struct Soon(bool);
    impl Write for Soon {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            if std::mem::replace(&mut self.0, true) {
                Err(io::ErrorKind::BrokenPipe.into())
            } else {
                Ok(bytes.len())
            }
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }
    let stage = stage_on("a", limits(), Layout::Live, Box::new(Soon(false)), Box::new(Page::default()));
    let runner = async |attempt: Attempt| -> AttemptEnd {
        for _ in 0..3 {
            attempt.reporter.output(Stream::Stdout, b"found\n".to_vec()).await;
        }
        std::future::pending().await
    };
    let end =
        carry_out(stage.plan, stage.output, move |attempt| Box::pin(runner(attempt)), |_| (), nobody()).await;
    assert!(matches!(&end, Err(RunError::Output(OutputError::Screen(_)))), "{end:?}");
}

#[tokio::test]
async fn what_is_said_after_the_result_is_not_shown() {
    let stage = stage("a,b", limits(), Layout::Live);
    let (hand_over, mut taken) = mpsc::channel(1);
    let taken = Arc::new(Mutex::new(Some(async move { taken.recv().await.unwrap() })));
    let runner = |attempt: Attempt| {
        let (hand_over, taken) = (hand_over.clone(), taken.clone());
        async move {
            if attempt.host == HostId(0) {
                hand_over.send(attempt.reporter).await.unwrap();
                return OK;
            }
            let first = taken.lock().unwrap().take().unwrap();
            let late: Reporter = first.await;
            for _ in 0..100 {
                tokio::task::yield_now().await; // the first attempt returns
            }
            late.output(Stream::Stdout, b"late\n".to_vec()).await;
            attempt.reporter.output(Stream::Stdout, b"in time\n".to_vec()).await;
            OK
        }
    };
    carry_out(stage.plan, stage.output, runner, |_| (), nobody()).await.unwrap();
    assert_eq!(stage.out.text(), "b: in time\n");
}

#[tokio::test]
async fn a_panic_in_an_attempt_is_an_error_of_ours() {
    let stage = stage("a,b", limits(), Layout::Live);
    let runner = async |attempt: Attempt| -> AttemptEnd {
        assert_ne!(attempt.host, HostId(1), "on purpose");
        std::future::pending().await
    };
    let end =
        carry_out(stage.plan, stage.output, move |attempt| Box::pin(runner(attempt)), |_| (), nobody()).await;
    assert!(matches!(end, Err(RunError::Panic(_))), "{end:?}");
}
