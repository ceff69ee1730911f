//! Carries a plan out: starts attempts, passes on what they report, and listens for interrupts.
//!
//! Attempts are made by a `runner`, a function that the caller gives. What they report comes back through one short
//! queue, so that hosts which write faster than we can show are slowed down. Showing is done by a thread of its own:
//! a terminal that is paused, or a pipe that nobody reads, must not keep an interrupt from being heard.

use std::collections::{HashMap, VecDeque};
use std::future::Future;
use std::thread;
use std::time::{Duration, Instant};

use tokio::sync::mpsc::error::TrySendError;
use tokio::sync::{mpsc, oneshot};
use tokio::task::{AbortHandle, JoinSet};

use crate::exit::Interrupt;
use crate::outcome::Outcome;
use crate::output::{Event, HostId, Output, OutputError, Stream};
use crate::run_clock::RunClock;
use crate::run_plan::{Action, AttemptEnd, RunPlan};

/// How many reports wait for the loop, and how many events for the thread that shows them. Each holds one read of a
/// command's output.
const QUEUE: usize = 64;

/// How often the progress line is redrawn.
const TICK: Duration = Duration::from_millis(200);

/// How long results may take to be shown when the run is left at once: longer than any terminal that is read needs.
const LEAVING: Duration = Duration::from_millis(500);

/// One attempt at one host, as the runner sees it.
pub(crate) struct Attempt {
    pub(crate) host: HostId,
    /// Counted from 1.
    #[cfg_attr(not(test), expect(dead_code, reason = "gateways are all tried alike"))]
    pub(crate) number: u32,
    pub(crate) reporter: Reporter,
    pub(crate) stop: Stop,
}

/// Says what an attempt does. What is said after the attempt has returned is not heard.
#[derive(Clone)]
pub(crate) struct Reporter {
    host: HostId,
    reports: mpsc::Sender<Report>,
    tell_over: mpsc::UnboundedSender<HostId>,
}

impl Reporter {
    /// Says that the command has begun to run: its time limit counts from now, and it is not tried again.
    ///
    /// Cancel safe: either it was said, or not.
    pub(crate) async fn running(&self) {
        // Without a receiver the run is over, and this attempt about to be dropped.
        let _ = self.reports.send(Report::Running(self.host)).await;
    }

    /// Passes on what the command wrote. Waits while what came before is being shown.
    ///
    /// Cancel safe, but the bytes are lost when it is dropped.
    pub(crate) async fn output(&self, stream: Stream, bytes: Vec<u8>) {
        let _ = self.reports.send(Report::Output(self.host, stream, bytes)).await;
    }

    /// Says that the command has ended, whose output may still be on its way: its time limit is over. Does not wait for what
    /// came before.
    pub(crate) fn over(&self) {
        // As above: without a receiver the run is over.
        let _ = self.tell_over.send(self.host);
    }
}

/// Tells an attempt when to end.
pub(crate) struct Stop(oneshot::Receiver<()>);

impl Stop {
    /// Waits until the attempt should end: it should then stop the command, with all that it started, and return.
    /// Never returns while the attempt may go on. To be awaited to its end only once.
    ///
    /// Cancel safe.
    pub(crate) async fn asked(&mut self) {
        if (&mut self.0).await.is_err() {
            std::future::pending::<()>().await; // dropped without a word: so will we be
        }
    }
}

enum Report {
    Running(HostId),
    Output(HostId, Stream, Vec<u8>),
    Ended(HostId, AttemptEnd),
}

/// How a run ended.
#[derive(Debug)]
pub(crate) struct RunEnd {
    /// One for each host; empty where a further interrupt ended the run and they could not be shown at once.
    pub(crate) outcomes: Vec<Outcome>,
    pub(crate) interrupt: Option<Interrupt>,
}

/// A run that could not be carried out.
#[derive(Debug, thiserror::Error)]
pub(crate) enum RunError {
    /// The results cannot be shown.
    #[error(transparent)]
    Output(#[from] OutputError),
    /// The thread that shows results could not be started.
    #[error("cannot start a thread: {0}")]
    Thread(#[from] std::io::Error),
    /// A fault of this program.
    #[error("an attempt at a host panicked: {0}")]
    Panic(tokio::task::JoinError),
    /// A fault of this program.
    #[error("the thread that shows results panicked")]
    ShowPanicked,
}

/// What the thread that shows things is told.
enum Order {
    Event(Event),
    Note(String),
    Tick(Duration),
}

/// Carries out `plan`, with an attempt by `runner` for each start, and shows it on `output`. `finished` is told each host
/// that has its result.
///
/// The first interrupt stops all attempts and waits for them to end; the second waits for nothing. Attempts that have
/// not ended when this returns, or is dropped, are dropped by the runtime, which must be enough to end what they
/// started.
///
/// # Errors
/// When the results cannot be shown, or an attempt panicked; all attempts are dropped then.
pub(crate) async fn carry_out<R, F>(
    mut plan: RunPlan,
    output: Output,
    runner: R,
    finished: impl Fn(HostId),
    mut interrupts: mpsc::Receiver<Interrupt>,
) -> Result<RunEnd, RunError>
where
    R: Fn(Attempt) -> F,
    F: Future<Output = AttemptEnd> + Send + 'static,
{
    let began = now();
    let (orders, mut shown) = show(output)?;
    let (reports, mut reported) = mpsc::channel(QUEUE);
    let (tell_over, mut over) = mpsc::unbounded_channel();
    let mut attempts = Attempts { set: JoinSet::new(), handles: HashMap::new(), reports, tell_over };
    let mut pending: VecDeque<Order> = VecDeque::new();
    let mut interrupt = None;
    let mut clock = RunClock::default();
    let (mut listening, mut left) = (true, false);
    let mut ticks = tokio::time::interval(TICK);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Skip);

    loop {
        // Whoever interrupts does not wait for a reader.
        if interrupt.is_none() && orders.capacity() == 0 {
            clock.wait(now());
        } else {
            clock.go_on(now());
        }
        while let Some(action) = plan.poll_action(clock.show(now())) {
            match action {
                Action::Start { host, attempt } => {
                    if attempt == 1 {
                        pending.push_back(Order::Event(Event::Started { host }));
                    }
                    attempts.start(host, attempt, &runner);
                }
                Action::Stop { host } => attempts.stop(host),
                Action::Drop { host } => attempts.abort(host),
                Action::Finish { host, outcome, elapsed } => {
                    finished(host);
                    pending.push_back(Order::Event(Event::Finished { host, outcome, elapsed }));
                }
            }
        }
        if left {
            drop(attempts);
            let outcomes = leave(pending, orders, shown).await;
            return Ok(RunEnd { outcomes, interrupt });
        }
        if pending.is_empty() && plan.is_finished() {
            break;
        }
        let due = plan.poll_timeout().and_then(|due| clock.when(due));
        tokio::select! {
            biased;
            which = interrupts.recv(), if listening => match which {
                Some(_) if interrupt.is_some() => {
                    plan.handle_interrupt(clock.show(now()));
                    left = true;
                }
                Some(which) => {
                    interrupt = Some(which);
                    plan.handle_interrupt(clock.show(now()));
                    pending.push_back(Order::Note(interrupted(plan.active())));
                }
                None => listening = false,
            },
            room = orders.reserve(), if !pending.is_empty() => match room {
                Ok(room) => {
                    clock.go_on(now());
                    room.send(pending.pop_front().expect("checked to be there"));
                }
                Err(_) => return Err(why_not_shown(shown).await),
            },
            Some(host) = over.recv() => plan.handle_over(host),
            () = sleep_until(due), if due.is_some() => plan.handle_timeout(clock.show(now())),
            Some(ended) = attempts.set.join_next(), if !attempts.set.is_empty() => match ended {
                Err(error) if error.is_panic() => return Err(RunError::Panic(error)),
                _ => {} // its end was reported, or it was aborted
            },
            _ = ticks.tick() => {
                // When the queue is full, there is something to see anyway. Who reads no more is noticed here while hosts are
                // silent.
                if let Err(TrySendError::Closed(_)) = orders.try_send(Order::Tick(now() - began)) {
                    return Err(why_not_shown(shown).await);
                }
            }
            // Only while nothing waits to be shown: so a slow reader slows the hosts down.
            Some(report) = reported.recv(), if pending.is_empty() => match report {
                Report::Running(host) => plan.handle_running(host, clock.show(now())),
                Report::Output(host, stream, bytes) => {
                    // What an attempt that was given up said before has no place after its host's result.
                    if attempts.handles.contains_key(&host) {
                        pending.push_back(Order::Event(Event::Output { host, stream, bytes }));
                    }
                }
                Report::Ended(host, end) => {
                    attempts.handles.remove(&host);
                    plan.handle_ended(host, end, clock.show(now()));
                }
            },
        }
    }
    drop(orders);
    loop {
        tokio::select! {
            biased;
            which = interrupts.recv(), if listening => match which {
                Some(which) => {
                    // Everything has ended; only showing it is left, and that is not wanted.
                    return Ok(RunEnd { outcomes: Vec::new(), interrupt: interrupt.or(Some(which)) });
                }
                None => listening = false,
            },
            outcomes = &mut shown => {
                let outcomes = outcomes.map_err(|_| RunError::ShowPanicked)??;
                return Ok(RunEnd { outcomes, interrupt });
            }
        }
    }
}

/// Has the results of a run that is left at once shown, unless what shows them is stuck: then there are no outcomes.
async fn leave(pending: VecDeque<Order>, orders: mpsc::Sender<Order>, shown: Shown) -> Vec<Outcome> {
    let showing = async {
        for order in pending {
            orders.send(order).await.ok()?;
        }
        drop(orders);
        shown.await.ok()?.ok()
    };
    tokio::time::timeout(LEAVING, showing).await.ok().flatten().unwrap_or_default()
}

/// Why the thread that shows things has ended early: an error, or a panic.
async fn why_not_shown(shown: Shown) -> RunError {
    match shown.await {
        Ok(Err(error)) => error.into(),
        Ok(Ok(_)) | Err(_) => RunError::ShowPanicked,
    }
}

/// What to say at the first interrupt.
fn interrupted(running: usize) -> String {
    match running {
        0 => "interrupted".to_owned(),
        n => format!("interrupted: stopping {n} at work; interrupt again to leave at once"),
    }
}

/// The time by the runtime's clock, which tests can stop.
fn now() -> Instant {
    tokio::time::Instant::now().into_std()
}

async fn sleep_until(due: Option<Instant>) {
    match due {
        Some(due) => tokio::time::sleep_until(due.into()).await,
        None => std::future::pending().await,
    }
}

type Shown = oneshot::Receiver<Result<Vec<Outcome>, OutputError>>;

/// A thread that does what it is told, then ends the output and sends the outcomes. It ends when the sender is
/// dropped, or at the first thing that cannot be written; nobody joins it, since what it writes to may be stuck.
fn show(mut output: Output) -> Result<(mpsc::Sender<Order>, Shown), std::io::Error> {
    let (orders, mut received) = mpsc::channel(QUEUE);
    let (done, shown) = oneshot::channel();
    thread::Builder::new().name("show".to_owned()).spawn(move || {
        let mut show = || {
            while let Some(order) = received.blocking_recv() {
                match order {
                    Order::Event(event) => output.handle(event)?,
                    Order::Note(line) => output.note(&line)?,
                    Order::Tick(elapsed) => output.tick(elapsed),
                }
            }
            Ok(())
        };
        let result: Result<(), OutputError> = show();
        drop(received);
        // Who asks no more may not have told all results.
        if !done.is_closed() {
            let _ = done.send(result.and_then(|()| output.end()));
        }
    })?;
    Ok((orders, shown))
}

/// The attempts that are being made.
struct Attempts {
    /// Dropping it drops them all.
    set: JoinSet<()>,
    handles: HashMap<HostId, (AbortHandle, Option<oneshot::Sender<()>>)>,
    reports: mpsc::Sender<Report>,
    tell_over: mpsc::UnboundedSender<HostId>,
}

impl Attempts {
    fn start<R, F>(&mut self, host: HostId, number: u32, runner: &R)
    where
        R: Fn(Attempt) -> F,
        F: Future<Output = AttemptEnd> + Send + 'static,
    {
        let (stop, stopped) = oneshot::channel();
        let reports = self.reports.clone();
        let reporter = Reporter { host, reports: reports.clone(), tell_over: self.tell_over.clone() };
        let attempt = Attempt { host, number, reporter, stop: Stop(stopped) };
        let work = runner(attempt);
        let handle = self.set.spawn(async move {
            let end = work.await;
            let _ = reports.send(Report::Ended(host, end)).await;
        });
        self.handles.insert(host, (handle, Some(stop)));
    }

    fn stop(&mut self, host: HostId) {
        if let Some((_, stop)) = self.handles.get_mut(&host)
            && let Some(stop) = stop.take()
        {
            let _ = stop.send(()); // it has just ended by itself
        }
    }

    fn abort(&mut self, host: HostId) {
        if let Some((handle, _)) = self.handles.remove(&host) {
            handle.abort();
        }
    }
}

#[cfg(test)]
mod tests;
