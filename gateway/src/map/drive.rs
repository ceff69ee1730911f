//! What joins the scheduler to gateways, inputs and results.
//!
//! One link for each gateway runs on the thread that drives connections, and moves bytes only. Everything that it learns it tells
//! the scheduler under one short lock, and asks it what to send. Wakers are collected there and woken after.

use std::any::Any;
use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use tokio::sync::{Notify, watch};

use super::batch::{self, Order, Payload};
use super::fault::ItemError;
use super::intake::End;
use super::isolation::{self, Isolation};
use super::link;
use super::progress::{self, Progress, Rate};
use super::schedule::{Ended, GateId, Loss, Rules, Scheduler};
use super::stream::{BATCH, Plan};
use crate::gateway::Gateway;

/// How often progress is told.
const TELL: Duration = Duration::from_millis(100);

/// What all parts of a map share.
pub(super) struct Shared {
    state: Mutex<State>,
    /// Locked after the state, or alone.
    intake: Mutex<Intake>,
    /// For the inputs: more may be wanted.
    wanted: Notify,
    /// For the clock: something is due earlier, or the map is over.
    clock: Notify,
    pub(super) began: Instant,
    /// Empty for commands.
    pub(super) name: &'static str,
    pub(super) plan: Plan,
    progress: watch::Sender<Progress>,
}

/// Inputs between their thread and the scheduler.
struct Intake {
    inputs: Vec<Result<Payload, ItemError>>,
    /// A gateway could have more than there is. That is decided under this lock, so that no input comes between the look and the
    /// decision: nobody would hear of it.
    hungry: bool,
    /// No more are taken.
    over: bool,
}

pub(super) struct State {
    pub(super) scheduler: Scheduler,
    /// What was just taken from the intake, and else its room.
    taken: Vec<Result<Payload, ItemError>>,
    links: Vec<Link>,
    consumer: Option<Waker>,
    /// Of the inputs, once they wait while the map might end.
    inputs: Option<Waker>,
    panic: Option<Box<dyn Any + Send>>,
    /// Gateways that may still be started in place of lost ones.
    pub(super) replacements: usize,
    pub(super) replaced: u64,
    /// Gateways whose links may all be lost, while it is not decided yet whether another takes their place.
    pub(super) undecided: usize,
    dropped: bool,
    /// When the clock will look next.
    due: Option<Duration>,
    rate: Rate,
}

/// What others have for a link.
struct Link {
    id: Arc<str>,
    wake: Arc<Notify>,
    /// It has nothing to send.
    idle: bool,
    /// Orders beside calls.
    extra: Vec<u8>,
}

/// Whom to wake once the lock is released.
#[derive(Default)]
struct Wakes {
    links: Vec<Arc<Notify>>,
    wakers: Vec<Waker>,
    wanted: bool,
    clock: bool,
}

impl Shared {
    pub(super) fn new(name: &'static str, plan: Plan, rules: Rules, replacements: usize) -> Shared {
        Shared {
            state: Mutex::new(State {
                scheduler: Scheduler::new(rules),
                taken: Vec::new(),
                links: Vec::new(),
                consumer: None,
                inputs: None,
                panic: None,
                replacements,
                replaced: 0,
                undecided: 0,
                dropped: false,
                due: None,
                rate: Rate::default(),
            }),
            intake: Mutex::new(Intake { inputs: Vec::new(), hungry: true, over: false }),
            wanted: Notify::new(),
            clock: Notify::new(),
            began: Instant::now(),
            name,
            plan,
            progress: watch::Sender::new(Progress::default()),
        }
    }

    pub(super) fn now(&self) -> Duration {
        self.began.elapsed()
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Does something to the state, then has done what follows from it.
    pub(super) fn with<R>(&self, act: impl FnOnce(&mut State, Duration) -> R) -> R {
        let now = self.now();
        let mut state = self.lock();
        let result = act(&mut state, now);
        let wakes = self.follow(&mut state, now);
        drop(state);
        self.wake(wakes);
        result
    }

    fn follow(&self, state: &mut State, now: Duration) -> Wakes {
        let mut wakes = Wakes::default();
        self.drain(state);
        let mut first = true;
        let over = loop {
            let (over, hungry) = look(state, now, &mut wakes);
            let ends = over || state.scheduler.is_stopped();
            let mut intake = self.intake();
            let missed = if ends { !intake.over } else { hungry && first };
            let missed = missed && !intake.inputs.is_empty();
            // Who comes while it is looked again, looks himself.
            intake.hungry = hungry || missed;
            intake.over |= ends;
            if !missed {
                break over;
            }
            std::mem::swap(&mut state.taken, &mut intake.inputs);
            drop(intake);
            first = false;
            state.give();
        };
        wakes.wanted = over || state.scheduler.wanted(now) > 0;
        if over || state.scheduler.has_results() {
            wakes.wakers.extend(state.consumer.take());
        }
        if over {
            wakes.wakers.extend(state.inputs.take());
        }
        let due = state.scheduler.poll_timeout();
        wakes.clock = over || due.is_some_and(|due| state.due.is_none_or(|known| due < known));
        wakes
    }

    fn wake(&self, wakes: Wakes) {
        for link in wakes.links {
            link.notify_one();
        }
        for waker in wakes.wakers {
            waker.wake();
        }
        if wakes.wanted {
            self.wanted.notify_one();
        }
        if wakes.clock {
            self.clock.notify_one();
        }
    }

    // ---- inputs --------------------------------------------------------------------------------------------------

    /// Waits until inputs are wanted, and returns how many; zero once the map is over.
    pub(super) async fn wanted(&self) -> usize {
        loop {
            let wanted = self.with(|state, now| {
                if state.is_over() || state.scheduler.is_stopped() {
                    return Some(0);
                }
                self.drain(state);
                Some(state.scheduler.wanted(now)).filter(|wanted| *wanted > 0)
            });
            match wanted {
                Some(wanted) => return wanted,
                None => self.wanted.notified().await,
            }
        }
    }

    /// Ready when no more inputs are wanted.
    pub(super) fn poll_over(&self, cx: &mut Context<'_>) -> Poll<()> {
        let mut state = self.lock();
        if state.is_over() || state.scheduler.is_stopped() {
            return Poll::Ready(());
        }
        state.inputs = Some(cx.waker().clone());
        Poll::Pending
    }

    fn intake(&self) -> MutexGuard<'_, Intake> {
        self.intake.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes an input, unless the map is over or was stopped; then no more are to come.
    #[inline]
    pub(super) fn hand_over(&self, input: Result<Payload, ItemError>) -> bool {
        let mut intake = self.intake();
        if intake.over {
            return false;
        }
        intake.inputs.push(input);
        let hungry = intake.hungry;
        drop(intake);
        if hungry {
            self.with(|_, _| ());
        }
        true
    }

    /// Gives the scheduler what was handed over.
    fn drain(&self, state: &mut State) {
        std::mem::swap(&mut state.taken, &mut self.intake().inputs);
        state.give();
    }

    pub(super) fn end_inputs(&self, end: End) {
        self.with(|state, _| {
            self.drain(state);
            if let End::Panicked(panic) = end {
                state.panic = Some(panic);
            }
            state.scheduler.end_inputs();
        });
    }

    // ---- links ---------------------------------------------------------------------------------------------------

    /// Adds a gateway that is open, or is about to be.
    pub(super) fn add_link(&self, id: Arc<str>) -> (GateId, Arc<Notify>) {
        let wake = Arc::new(Notify::new());
        let link = Link { id, wake: Arc::clone(&wake), idle: false, extra: Vec::new() };
        self.with(|state, _| {
            state.links.push(link);
            (state.scheduler.add_gate(), wake)
        })
    }

    pub(super) fn name_link(&self, gate: GateId, id: &str) {
        self.lock().links[gate].id = id.into();
    }

    /// What is to be sent to a gateway now; `None` once the map is over. One call too long for a batch comes alone, so that it
    /// is known which one it was.
    pub(super) fn next_batch(&self, gate: GateId) -> Option<Vec<u8>> {
        let now = self.now();
        let mut guard = self.lock();
        let state = &mut *guard;
        if state.is_over() {
            return None;
        }
        self.drain(state);
        let mut orders = std::mem::take(&mut state.links[gate].extra);
        while orders.len() < BATCH
            && let Some((number, args)) = state.scheduler.next_call(gate, now)
        {
            batch::put_with(&mut orders, Order::Run, number, args.as_slice());
        }
        state.links[gate].idle = orders.is_empty();
        let wakes = self.follow(state, now);
        drop(guard);
        self.wake(wakes);
        Some(orders)
    }

    /// A gateway is lost to this map.
    pub(super) fn lost(&self, gate: GateId, loss: &Loss) {
        self.with(|state, now| {
            state.links[gate].idle = false;
            state.scheduler.lost(gate, loss, now);
        });
    }

    /// Whether a gateway may be started in place of a lost one, which then counts.
    pub(super) fn may_replace(&self) -> bool {
        let mut state = self.lock();
        let may = state.replacements > 0 && !state.is_over();
        state.replacements -= usize::from(may);
        may
    }

    /// Waits until the map is over. The link is woken then.
    pub(super) async fn over(&self, wake: &Notify) {
        while !self.is_over() {
            wake.notified().await;
        }
    }

    /// Gives up if no gateway is left.
    pub(super) fn check_hope(&self, loss: &Loss) {
        self.with(|state, _| {
            if !state.scheduler.has_gates() && state.undecided == 0 {
                state.scheduler.give_up_hope(loss.end.clone());
            }
        });
    }

    pub(super) fn is_over(&self) -> bool {
        self.lock().is_over()
    }

    // ---- results -------------------------------------------------------------------------------------------------

    /// Waits for results: `false` when there will be no more.
    pub(super) fn poll_results(
        &self,
        results: &mut VecDeque<(u64, Ended)>,
        cx: &mut Context<'_>,
    ) -> Poll<bool> {
        self.with(|state, _| {
            state.scheduler.take_results(results);
            if !results.is_empty() {
                return Poll::Ready(true);
            }
            if state.scheduler.is_done() {
                return Poll::Ready(false);
            }
            state.consumer = Some(cx.waker().clone());
            Poll::Pending
        })
    }

    /// The panic that ended the inputs, once.
    pub(super) fn take_panic(&self) -> Option<Box<dyn Any + Send>> {
        self.lock().panic.take()
    }

    /// Nobody wants the results any more.
    pub(super) fn drop_all(&self) {
        self.with(|state, _| state.dropped = true);
    }

    // ---- time and progress ---------------------------------------------------------------------------------------

    /// Keeps the time until the map is over. Runs on the driver.
    pub(super) async fn keep_time(self: Arc<Self>) {
        let mut tell = Duration::ZERO;
        loop {
            let now = self.now();
            let watched = self.progress.receiver_count() > 0;
            if watched && now >= tell {
                tell = now + TELL;
                self.tell();
            }
            let due = self.with(|state, now| {
                state.scheduler.handle_timeout(now);
                state.due = state.scheduler.poll_timeout();
                if state.is_over() { None } else { Some(state.due) }
            });
            let Some(due) = due else { break };
            let next = due.into_iter().chain(watched.then_some(tell)).min();
            let sleep = async {
                match next {
                    Some(next) => tokio::time::sleep_until((self.began + next).into()).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                () = sleep => {}
                () = self.clock.notified() => {}
            }
        }
        self.tell();
    }

    fn tell(&self) {
        let progress = self.snapshot();
        self.progress.send_replace(progress);
    }

    pub(super) fn snapshot(&self) -> Progress {
        let now = self.now();
        let mut state = self.lock();
        let counts = state.scheduler.counts();
        let rate = state.rate.at(now, counts.done + counts.failed);
        let ids = state.links.iter().map(|link| Arc::clone(&link.id));
        let (over, replaced) = (state.is_over(), state.replaced);
        progress::describe(&state.scheduler, ids, now, rate, over, replaced)
    }

    pub(super) fn progress(&self) -> watch::Receiver<Progress> {
        let receiver = self.progress.subscribe();
        self.clock.notify_one();
        receiver
    }
}

/// Finds the links that have something to send; whether the map is over, and whether a link could have more than there is.
fn look(state: &mut State, now: Duration, wakes: &mut Wakes) -> (bool, bool) {
    while let Some((gate, number)) = state.scheduler.poll_withdrawal(now) {
        batch::put(&mut state.links[gate].extra, Order::Withdraw, number);
    }
    let over = state.is_over();
    let mut hungry = false;
    for (gate, link) in state.links.iter_mut().enumerate() {
        if over || (link.idle && (!link.extra.is_empty() || state.scheduler.has_call(gate, now))) {
            link.idle = false;
            wakes.links.push(Arc::clone(&link.wake));
        }
        hungry |= link.idle;
    }
    (over, hungry)
}

impl State {
    /// Gives the scheduler what was taken from the intake.
    fn give(&mut self) {
        for input in self.taken.drain(..) {
            match input {
                Ok(args) => self.scheduler.push(args),
                Err(error) => self.scheduler.push_failed(error),
            }
        }
    }

    /// Whether nothing is to be done any more.
    fn is_over(&self) -> bool {
        self.dropped || self.scheduler.is_done()
    }
}

/// Starts the links and the clock of a map, on the driver of its gateways.
pub(super) fn start(shared: &Arc<Shared>, gateways: Vec<Gateway>, isolation: Option<Isolation>) {
    // All of them, before one that is lost could mean that none is left.
    let links: Vec<_> = gateways
        .into_iter()
        .map(|gateway| {
            let (gate, wake) = shared.add_link(gateway.id().into());
            (gateway, gate, wake)
        })
        .collect();
    let Some(driver) = links.first().map(|(gateway, ..)| gateway.inner().driver.clone()) else { return };
    // Each ends with the map.
    for (gateway, gate, wake) in links {
        let shared = Arc::clone(shared);
        match isolation {
            None => driver.spawn(link::run(shared, gateway, gate, wake)),
            Some(isolation) => driver.spawn(isolation::run(shared, isolation, gateway, gate, wake)),
        };
    }
    driver.spawn(Arc::clone(shared).keep_time());
}
