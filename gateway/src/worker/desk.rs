//! Where the calls of a stream wait for a lane, and their replies for the writer.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use rustix::process::{Pid, Signal, kill_process_group};
use tokio::sync::Notify;

use crate::map::batch::{self, Reply};
use crate::role::LONGEST;

/// So many bytes of calls may wait before no more are read. The coordinator keeps to far less.
const QUEUE: usize = 8 * 1024 * 1024;

/// So many bytes of replies may wait before no more calls are begun.
const REPLIES: usize = 1024 * 1024;

/// Replies of this size are messages of their own.
const LONG: usize = 16 * 1024;

/// So many bytes of replies are sent without waiting for more.
const ENOUGH: usize = 2 * 1024;

/// Replies to calls that took longer than this are sent at once.
const TINY: Duration = Duration::from_micros(20);

/// A call that waits: its number and arguments.
type Waiting = (u64, Bytes);

/// A call for a lane.
pub(super) struct Call {
    pub(super) args: Bytes,
    /// Set when the call is given up.
    pub(super) cancelled: Arc<AtomicBool>,
}

/// What a lane does next.
pub(super) enum Step {
    Run(Call),
    /// Wait to be [woken](Desk::woken).
    Idle,
    /// The stream is over.
    Closed,
}

/// Why a call that runs is stopped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stop {
    Cancelled,
    TimedOut,
}

/// How a lane's call ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Done {
    /// With a reply, whose payload is in the lane's buffer.
    Replied(Reply),
    /// It obeyed.
    Stopped,
}

pub(super) struct Desk {
    state: Mutex<State>,
    signals: Vec<Signals>,
    /// For the reader: there may be room.
    room: Notify,
    /// For the writer: there are replies, or there is hurry.
    replies: Notify,
    closed: Notify,
}

#[derive(Default)]
struct Signals {
    /// There may be something to do.
    wake: Notify,
    /// The call that runs is to stop.
    stop: Notify,
    /// The same for lanes that are threads.
    bell: std::sync::Condvar,
}

struct State {
    queue: VecDeque<Waiting>,
    queued_bytes: usize,
    lanes: Vec<Lane>,
    idle: Vec<usize>,
    batch: Vec<u8>,
    /// With the numbers of the calls.
    long: Vec<(u64, Vec<u8>)>,
    reply_bytes: usize,
    urgent: bool,
    /// Of the replies that wait: how many, and how long their calls ran.
    ran: (u32, Duration),
    closed: bool,
}

struct Lane {
    /// It is in the list of those.
    idle: bool,
    running: Option<u64>,
    /// Which of the lane's calls that is: numbers of calls are used again, for another try or another call.
    run: u64,
    since: Instant,
    stop: Option<Stop>,
    /// It was reported as stuck.
    told: bool,
    /// The flag that was last given to a call.
    cancelled: Arc<AtomicBool>,
    /// The process group to kill when it is to stop.
    group: Option<Pid>,
}

impl Desk {
    pub(super) fn new(slots: usize) -> Desk {
        let lane = || Lane {
            idle: false,
            running: None,
            run: 0,
            since: Instant::now(),
            stop: None,
            told: false,
            cancelled: Arc::default(),
            group: None,
        };
        Desk {
            state: Mutex::new(State {
                queue: VecDeque::new(),
                queued_bytes: 0,
                lanes: (0..slots).map(|_| lane()).collect(),
                idle: Vec::new(),
                batch: Vec::new(),
                long: Vec::new(),
                reply_bytes: 0,
                urgent: false,
                ran: (0, Duration::ZERO),
                closed: false,
            }),
            signals: (0..slots).map(|_| Signals::default()).collect(),
            room: Notify::new(),
            replies: Notify::new(),
            closed: Notify::new(),
        }
    }

    pub(super) fn slots(&self) -> usize {
        self.signals.len()
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    // ---- what the reader does ------------------------------------------------------------------------------------

    /// Puts calls at the end of the queue, and wakes as many lanes.
    pub(super) fn push(&self, calls: &mut Vec<(u64, Bytes)>) {
        if calls.is_empty() {
            return;
        }
        let mut state = self.lock();
        let wanted = calls.len();
        state.queued_bytes += calls.iter().map(cost).sum::<usize>();
        state.queue.extend(calls.drain(..));
        let woken = state.take_idle(wanted);
        drop(state);
        self.wake(&woken);
    }

    fn wake(&self, lanes: &[usize]) {
        for &lane in lanes {
            self.signals[lane].wake.notify_one();
            self.signals[lane].bell.notify_one();
        }
    }

    /// Waits until the queue may grow.
    ///
    /// Cancel safety: nothing is lost.
    pub(super) async fn room(&self) {
        while self.lock().queued_bytes > QUEUE {
            self.room.notified().await;
        }
    }

    /// Gives up a call that waits; one that runs if `running`: then its lane is returned, and which of its calls it is. An unknown
    /// one was answered already.
    pub(super) fn give_up(&self, number: u64, running: bool) -> Option<(usize, u64)> {
        let mut state = self.lock();
        // From behind: what is withdrawn was ordered last.
        if let Some(at) = state.queue.iter().rposition(|(waiting, _)| *waiting == number)
            && let Some(call) = state.queue.remove(at)
        {
            state.queued_bytes -= cost(&call);
            let kind = if running { Reply::Cancelled } else { Reply::Withdrawn };
            state.put(kind, number);
            state.urgent = true;
            drop(state);
            self.replies.notify_one();
            return None;
        }
        let is_it = |lane: &Lane| lane.running == Some(number) && !lane.told;
        let found = state.lanes.iter().position(is_it).map(|lane| (lane, state.lanes[lane].run));
        drop(state);
        let (lane, run) = found.filter(|_| running)?;
        self.stop(lane, run, Stop::Cancelled).then_some((lane, run))
    }

    /// Has a lane's call stopped; false if that one has ended, or is being stopped.
    pub(super) fn stop(&self, lane: usize, run: u64, why: Stop) -> bool {
        let mut state = self.lock();
        let place = &mut state.lanes[lane];
        if place.running.is_none() || place.run != run || place.stop.is_some() {
            return false;
        }
        place.stop(why);
        drop(state);
        self.signals[lane].stop.notify_one();
        true
    }

    /// Reports a call that was stopped, if it still runs.
    pub(super) fn tell_stuck(&self, lane: usize, run: u64) {
        let mut state = self.lock();
        let place = &mut state.lanes[lane];
        let Some(number) = place.running.filter(|_| place.run == run && !place.told) else { return };
        place.told = true;
        let kind = match place.stop {
            Some(Stop::TimedOut) => Reply::TimedOut,
            Some(Stop::Cancelled) | None => Reply::Cancelled,
        };
        let kind = batch::Kind::to_byte(kind);
        batch::put_with(&mut state.batch, Reply::Stuck, number, &[kind]);
        state.urgent = true;
        drop(state);
        self.replies.notify_one();
    }

    /// Which calls of which lanes have run for longer than `limit`, and when to look again; `None` once the desk is closed.
    pub(super) fn overdue(&self, limit: Duration, overdue: &mut Vec<(usize, u64)>) -> Option<Instant> {
        let now = Instant::now();
        let limit = limit.min(LONGEST);
        let state = self.lock();
        let mut next = now + limit;
        for (index, lane) in state.lanes.iter().enumerate() {
            if lane.running.is_some() && lane.stop.is_none() {
                let end = lane.since + limit;
                if end <= now {
                    overdue.push((index, lane.run));
                } else {
                    next = next.min(end);
                }
            }
        }
        (!state.closed).then_some(next)
    }

    /// Ends everything: what waits is forgotten, what runs is stopped.
    pub(super) fn close(&self) {
        let mut state = self.lock();
        state.closed = true;
        state.queue.clear();
        state.queued_bytes = 0;
        for lane in &mut state.lanes {
            if lane.running.is_some() {
                lane.stop(Stop::Cancelled);
            }
        }
        drop(state);
        for signals in &self.signals {
            signals.stop.notify_one();
            signals.wake.notify_one();
            signals.bell.notify_one();
        }
        self.replies.notify_one();
        self.closed.notify_waiters();
    }

    /// Waits until the desk is closed, for who has seen it open since.
    pub(super) async fn closed(&self) {
        let closed = self.closed.notified();
        let mut closed = std::pin::pin!(closed);
        closed.as_mut().enable();
        if !self.lock().closed {
            closed.await;
        }
    }

    // ---- what the writer does ------------------------------------------------------------------------------------

    /// Waits for replies; false once the desk is closed.
    pub(super) async fn replies(&self) -> bool {
        loop {
            {
                let state = self.lock();
                if state.closed {
                    return false;
                }
                if !state.batch.is_empty() || !state.long.is_empty() {
                    return true;
                }
            }
            self.replies.notified().await;
        }
    }

    pub(super) fn is_urgent(&self) -> bool {
        let state = self.lock();
        state.urgent || state.closed
    }

    /// Waits until the replies are to be sent now.
    pub(super) async fn urgent(&self) {
        while !self.is_urgent() {
            self.replies.notified().await;
        }
    }

    /// Takes what there is to send.
    pub(super) fn take_replies(&self) -> (Vec<u8>, Vec<(u64, Vec<u8>)>) {
        let mut state = self.lock();
        state.urgent = false;
        if let (count @ 1.., time) = std::mem::take(&mut state.ran) {
            let mean = (time / count).as_nanos().try_into().unwrap_or(u64::MAX);
            state.put(Reply::Pace, mean);
        }
        let capacity = state.batch.capacity().min(LONG);
        let batch = std::mem::replace(&mut state.batch, Vec::with_capacity(capacity));
        (batch, std::mem::take(&mut state.long))
    }

    /// What was taken last has been sent.
    pub(super) fn sent(&self) {
        let mut state = self.lock();
        let held_up = state.reply_bytes >= REPLIES;
        state.reply_bytes =
            state.batch.len() + state.long.iter().map(|(_, message)| message.len()).sum::<usize>();
        let woken = if held_up { state.take_idle(usize::MAX) } else { Vec::new() };
        drop(state);
        self.wake(&woken);
    }

    // ---- what a lane does ----------------------------------------------------------------------------------------

    /// Says how the lane's call ended, if it had one, and takes the next. The buffer is empty afterwards.
    pub(super) fn step(&self, lane: usize, done: Option<Done>, payload: &mut Vec<u8>) -> Step {
        let now = Instant::now();
        let mut guard = self.lock();
        let state = &mut *guard;
        let (mut notify, mut room) = (false, false);
        if let Some(done) = done {
            notify = state.finish(lane, done, now, payload);
        }
        payload.clear();
        let next = if state.closed {
            Step::Closed
        } else if state.reply_bytes < REPLIES
            && let Some(call) = state.queue.pop_front()
        {
            let was_full = state.queued_bytes > QUEUE;
            state.queued_bytes -= cost(&call);
            room = was_full && state.queued_bytes <= QUEUE;
            let place = &mut state.lanes[lane];
            if std::mem::take(&mut place.idle) {
                // Woken without having been called.
                state.idle.retain(|idle| *idle != lane);
            }
            if place.cancelled.load(Relaxed) {
                // That was for another call, which may still look at it.
                place.cancelled = Arc::default();
            }
            let (number, args) = call;
            place.running = Some(number);
            place.run += 1;
            place.since = now;
            Step::Run(Call { args, cancelled: Arc::clone(&place.cancelled) })
        } else {
            if !std::mem::replace(&mut state.lanes[lane].idle, true) {
                state.idle.push(lane);
            }
            if !state.batch.is_empty() {
                notify |= !state.urgent;
                state.urgent = true;
            }
            Step::Idle
        };
        drop(guard);
        if notify {
            self.replies.notify_one();
        }
        if room {
            self.room.notify_one();
        }
        next
    }

    /// Says how the lane's call ended, and takes no other.
    pub(super) fn tell(&self, lane: usize, done: Done, payload: &mut Vec<u8>) {
        let mut state = self.lock();
        let mut notify = state.finish(lane, done, Instant::now(), payload);
        if !state.batch.is_empty() {
            notify |= !state.urgent;
            state.urgent = true;
        }
        drop(state);
        payload.clear();
        if notify {
            self.replies.notify_one();
        }
    }

    /// Waits until there may be something to do again.
    pub(super) async fn woken(&self, lane: usize) {
        self.signals[lane].wake.notified().await;
    }

    /// The same for a lane that is a thread: blocks until there is a next step.
    pub(super) fn step_blocking(&self, lane: usize, done: Option<Done>, payload: &mut Vec<u8>) -> Step {
        let mut step = self.step(lane, done, payload);
        while matches!(step, Step::Idle) {
            let mut state = self.lock();
            while state.lanes[lane].idle && !state.closed {
                state = self.signals[lane].bell.wait(state).unwrap_or_else(PoisonError::into_inner);
            }
            drop(state);
            step = self.step(lane, None, payload);
        }
        step
    }

    /// Waits until the lane's call is to stop.
    pub(super) async fn stopped(&self, lane: usize) {
        loop {
            if self.lock().lanes[lane].stop.is_some() {
                return;
            }
            // What is left from a call before wakes it too early.
            self.signals[lane].stop.notified().await;
        }
    }

    /// Whether the lane's call is to stop.
    pub(super) fn is_stopping(&self, lane: usize) -> bool {
        self.lock().lanes[lane].stop.is_some()
    }

    /// From now on the lane's call is a process group, which is killed to stop it; at once if it is to stop already.
    pub(super) fn is_group(&self, lane: usize, group: Pid) {
        let mut state = self.lock();
        let place = &mut state.lanes[lane];
        place.group = Some(group);
        if place.stop.is_some() {
            let _ = kill_process_group(group, Signal::KILL);
        }
    }

    /// The group's leader is about to be reaped, and its number anybody's. Whether the call was to stop.
    pub(super) fn is_no_group(&self, lane: usize) -> bool {
        let mut state = self.lock();
        state.lanes[lane].group = None;
        state.lanes[lane].stop.is_some()
    }
}

/// What a call that waits takes, about.
fn cost((_, args): &Waiting) -> usize {
    args.len() + size_of::<Waiting>()
}

impl State {
    /// Lanes that are to be woken.
    fn take_idle(&mut self, most: usize) -> Vec<usize> {
        let woken = self.idle.split_off(self.idle.len().saturating_sub(most));
        for &lane in &woken {
            self.lanes[lane].idle = false;
        }
        woken
    }

    /// Notes a reply, and says whether the writer should know.
    fn finish(&mut self, lane: usize, done: Done, now: Instant, payload: &[u8]) -> bool {
        let place = &mut self.lanes[lane];
        let Some(number) = place.running.take() else { return false };
        let ran = now.saturating_duration_since(place.since);
        let (stop, told) = (place.stop.take(), std::mem::take(&mut place.told));
        if self.closed {
            return false;
        }
        let was_empty = self.batch.is_empty();
        if told {
            // Its reply was that it is stuck.
            self.put(Reply::Freed, lane as u64);
        } else {
            self.ran.0 += 1;
            self.ran.1 += ran;
            match (done, stop) {
                // Too late, though it ended before it was dropped.
                (_, Some(Stop::TimedOut)) => self.put(Reply::TimedOut, number),
                (Done::Stopped, Some(Stop::Cancelled) | None) => self.put(Reply::Cancelled, number),
                (Done::Replied(kind), _) if payload.len() >= LONG => {
                    let mut message = Vec::with_capacity(payload.len() + 24);
                    batch::put_with(&mut message, kind, number, payload);
                    self.reply_bytes += message.len();
                    self.long.push((number, message));
                    self.urgent = true;
                    return true;
                }
                (Done::Replied(kind), _) if has_payload(kind) => {
                    self.reply_bytes += payload.len();
                    batch::put_with(&mut self.batch, kind, number, payload);
                }
                (Done::Replied(kind), _) => self.put(kind, number),
            }
        }
        let urgent = ran > TINY || self.batch.len() >= ENOUGH;
        let notify = was_empty || (urgent && !self.urgent);
        self.urgent |= urgent;
        notify
    }

    fn put(&mut self, kind: Reply, number: u64) {
        batch::put(&mut self.batch, kind, number);
    }
}

fn has_payload(kind: Reply) -> bool {
    batch::Kind::to_byte(kind) >= 0x80
}

impl Lane {
    fn stop(&mut self, why: Stop) {
        self.stop = Some(why);
        self.cancelled.store(true, Relaxed);
        if let Some(group) = self.group {
            // One that has ended needs no signal.
            let _ = kill_process_group(group, Signal::KILL);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::map::batch::Records;

    fn push(desk: &Desk, numbers: &[u64]) {
        desk.push(&mut numbers.iter().map(|number| (*number, Bytes::new())).collect());
    }

    fn kinds(desk: &Desk) -> Vec<(Reply, u64)> {
        let message = Bytes::from(desk.take_replies().0);
        let mut records = Records::<Reply>::new();
        let all = std::iter::from_fn(|| records.next(&message)).map(|record| record.unwrap());
        all.map(|record| (record.kind, record.number)).filter(|(kind, _)| *kind != Reply::Pace).collect()
    }

    #[test]
    fn a_limit_may_be_of_any_length() {
        let (desk, mut overdue) = (Desk::new(1), Vec::new());
        desk.push(&mut vec![(7, Bytes::new())]);
        assert!(matches!(desk.step_blocking(0, None, &mut Vec::new()), Step::Run(_)));
        assert!(desk.overdue(Duration::MAX, &mut overdue).is_some());
        assert!(overdue.is_empty());
    }

    #[test]
    fn a_call_is_not_taken_for_the_one_before_that_had_its_number() {
        let desk = Desk::new(1);
        push(&desk, &[7, 7, 7]);
        let mut payload = Vec::new();
        assert!(matches!(desk.step(0, None, &mut payload), Step::Run(_)));
        let mut overdue = Vec::new();
        desk.overdue(Duration::ZERO, &mut overdue).unwrap();
        let (lane, run) = overdue[0];
        assert!(desk.stop(lane, run, Stop::TimedOut));
        assert!(matches!(desk.step(0, Some(Done::Stopped), &mut payload), Step::Run(_)));
        assert_eq!(kinds(&desk), [(Reply::TimedOut, 7)]);
        // What was meant for the one before comes now.
        desk.tell_stuck(lane, run);
        assert!(!desk.stop(lane, run, Stop::TimedOut));
        assert!(matches!(desk.step(0, Some(Done::Replied(Reply::Withdrawn)), &mut payload), Step::Run(_)));
        assert_eq!(kinds(&desk), [(Reply::Withdrawn, 7)], "it has ended as it did");
        // And one that does not obey is told.
        let (lane, run) = desk.give_up(7, true).unwrap();
        desk.tell_stuck(lane, run);
        desk.tell_stuck(lane, run);
        assert_eq!(kinds(&desk), [(Reply::Stuck, 7)]);
        assert!(matches!(desk.step(0, Some(Done::Stopped), &mut payload), Step::Idle));
        assert_eq!(kinds(&desk), [(Reply::Freed, 0)]);
    }
}
