//! What moves bytes and wakes people: one short lock around the [`Mux`], a reader loop and a writer loop.
//!
//! Under the lock nothing is awaited and no serialiser, callback, waker or tracing subscriber runs: whom to wake is collected
//! there and done after. Wakers are stored under the same lock as what they wait for, so none is lost.
//!
//! The writer belongs to whoever took it out of [`State::idle`]: the writer loop, or a sender that answers something and
//! finds it idle. Such a sender writes by itself; that spares the way through the loop, which on a thread of its own costs
//! more than the write. Only one send for each batch received may do so, since one write for each message of a stream
//! would cost far more than batches do.

mod blocked;
mod incoming;
mod patience;
mod read;
mod trace;
mod wait;
mod waiters;
mod write;

use std::task::Waker;
use std::time::{Duration, Instant};

use crate::error::ConnectionError;
use crate::mux::{Counters, Event, Key, Mux};
use crate::sync::{Mutex, MutexGuard};
use blocked::Blocked;
use waiters::Waiters;

#[cfg(all(test, farcall_loom))]
pub(crate) use incoming::receive;
#[cfg(all(test, farcall_loom))]
pub(crate) use read::Parting;
pub(crate) use read::read_loop;
pub(crate) use wait::{Place, wait, wait_to_send};
pub(crate) use waiters::Ticket;
pub(crate) use write::{Writer, write_loop};

/// So long both sides go on for a farewell: the reader for the peer's after a write failed, the writer for this side's while
/// the byte stream takes nothing.
const FAREWELL_LIMIT: Duration = Duration::from_secs(2);
/// So many bytes a task may send before it lets others run.
const SEND_BUDGET: u64 = 32 * 1024;

/// What all handles of a connection and its two loops share.
#[derive(Debug)]
pub(crate) struct Shared {
    state: Mutex<State>,
}

pub(crate) struct State {
    pub(crate) mux: Mux,
    channels: Vec<Waiting>,
    acceptors: Waiters,
    openers: Waiters,
    watchers: Waiters,
    /// The number of the next ticket.
    next_ticket: u64,
    began: Instant,
    blocked: Blocked,
    reader: Option<Waker>,
    /// The writer loop's: while it sleeps, and while it waits for the byte stream.
    writer: Option<Waker>,
    blocked_writer: Option<Waker>,
    /// The writer while nobody writes, with the writer loop's waker.
    idle: Option<(Box<Writer>, Waker)>,
    /// Something came since a sender last wrote by itself.
    answering: bool,
    sent: u64,
    /// A write failed, and when the peer's farewell must have come.
    failed: Option<(ConnectionError, Instant)>,
    /// The connection ended by this side's farewell, which the writer may still be trying to send.
    parting: bool,
    /// The writer loop has ended.
    written: bool,
    greeted: bool,
    told: bool,
}

impl std::fmt::Debug for State {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("State").field("mux", &self.mux).finish_non_exhaustive()
    }
}

/// Who waits on a channel.
#[derive(Default)]
struct Waiting {
    receiver: Option<Waker>,
    /// Boxed, since on most channels nobody ever waits to send.
    senders: Option<Box<Senders>>,
}

/// Who waits on a channel's sending direction.
#[derive(Default)]
struct Senders {
    /// For room.
    room: Waiters,
    blocked: Blocked,
    /// For the end.
    end: Waiters,
}

/// What can be waited for by several.
#[derive(Debug, Clone, Copy)]
pub(crate) enum List {
    /// An incoming channel.
    Incoming,
    /// Room for one more channel.
    Capacity,
    /// A change of the connection as a whole.
    Change,
    /// Room on a channel.
    Room(Key),
    /// The end of a channel's sending direction.
    End(Key),
}

/// Whom to wake once the lock is released.
#[derive(Default)]
pub(crate) struct Wakes(Vec<Waker>);

impl Wakes {
    fn wake(&mut self) {
        for waker in self.0.drain(..) {
            waker.wake();
        }
    }
}

impl State {
    /// Whether all that was sent is in the byte stream.
    pub(crate) fn is_flushed(&self) -> bool {
        // The writer is idle when it has nothing pending and the stream was flushed, or when a write of a sender did not go at once.
        let nothing_pending = self.idle.as_ref().is_some_and(|(writer, _)| writer.is_empty());
        nothing_pending && self.mux.is_flushed()
    }

    fn waiting(&mut self, key: Key) -> &mut Waiting {
        let index = key.index();
        if index >= self.channels.len() {
            self.channels.resize_with(index + 1, Waiting::default);
        }
        &mut self.channels[index]
    }

    /// Has `waker` woken by the next message. Returns the one that it replaces, to be dropped outside the lock.
    pub(crate) fn await_receiver(&mut self, key: Key, waker: &Waker) -> Option<Waker> {
        let place = &mut self.waiting(key).receiver;
        match place {
            Some(known) if known.will_wake(waker) => None,
            _ => place.replace(waker.clone()),
        }
    }

    /// Nobody waits for a message any more. Returns a waker to be dropped outside the lock.
    pub(crate) fn unwait_receiver(&mut self, key: Key) -> Option<Waker> {
        if !self.mux.is_live(key) {
            return None;
        }
        self.mux.unwait_receiver(key);
        self.waiting(key).receiver.take()
    }

    /// Puts `waker` on a list, in the place that `ticket` names if it is still there. Returns the waker that it replaces, to be
    /// dropped outside the lock.
    pub(crate) fn enter(&mut self, list: List, ticket: &mut Option<Ticket>, waker: &Waker) -> Option<Waker> {
        if let List::Room(key) | List::End(key) = list {
            self.mux.await_sender(key);
        }
        let number = self.next_ticket;
        self.next_ticket += 1;
        let (is_new, replaced) = self.waiters(list).enter(ticket, number, waker);
        if is_new && let List::Room(key) = list {
            let now = self.now();
            self.blocked.begin(now);
            self.senders(key).blocked.begin(now);
        }
        replaced
    }

    /// Leaves a list, unless it was woken since. Returns a waker to be dropped outside the lock.
    pub(crate) fn leave(&mut self, list: List, ticket: &mut Option<Ticket>) -> Option<Waker> {
        let ticket = ticket.take()?;
        let waker = self.waiters(list).leave(&ticket)?;
        if let List::Room(key) = list {
            let now = self.now();
            self.blocked.end(now, 1);
            self.senders(key).blocked.end(now, 1);
        }
        Some(waker)
    }

    fn waiters(&mut self, list: List) -> &mut Waiters {
        match list {
            List::Incoming => &mut self.acceptors,
            List::Capacity => &mut self.openers,
            List::Change => &mut self.watchers,
            List::Room(key) => &mut self.senders(key).room,
            List::End(key) => &mut self.senders(key).end,
        }
    }

    fn senders(&mut self, key: Key) -> &mut Senders {
        self.waiting(key).senders.get_or_insert_default()
    }

    /// Nanoseconds since the connection began.
    fn now(&self) -> u64 {
        self.began.elapsed().as_nanos() as u64
    }

    /// How long sends have waited for room on a channel.
    pub(crate) fn blocked(&mut self, key: Key) -> Duration {
        let now = self.now();
        self.waiting(key).senders.as_ref().map_or(Duration::ZERO, |senders| senders.blocked.total(now))
    }

    /// What the connection has moved, and how long its sends have waited.
    pub(crate) fn counters(&self) -> Counters {
        Counters { blocked: self.blocked.total(self.now()), ..self.mux.counters() }
    }

    /// A new channel took the place: nobody waits for the old one.
    pub(crate) fn forget(&mut self, key: Key) {
        let waiting = self.waiting(key);
        debug_assert!(
            waiting.receiver.is_none()
                && (waiting.senders.as_ref())
                    .is_none_or(|senders| senders.room.is_empty() && senders.end.is_empty()),
            "who waited has left, or was told that the end is gone"
        );
        *waiting = Waiting::default();
    }

    /// Whether the sender should let others run first; `bytes` are about to be sent.
    #[inline]
    pub(crate) fn is_greedy(&mut self, bytes: usize) -> bool {
        self.sent += bytes as u64;
        if self.sent > SEND_BUDGET {
            self.sent = 0;
            return true;
        }
        false
    }

    /// Collects whom the events concern; returns whether something arrived.
    fn collect(&mut self, wakes: &mut Wakes) -> bool {
        let mut arrived = false;
        while let Some(event) = self.mux.poll_event() {
            let list = match event {
                Event::Readable(key) => {
                    arrived = true;
                    wakes.0.extend(self.waiting(key).receiver.take());
                    continue;
                }
                Event::Writable(key) => {
                    self.collect_senders(key, wakes);
                    continue;
                }
                Event::Incoming => {
                    arrived = true;
                    &mut self.acceptors
                }
                Event::Capacity => &mut self.openers,
                Event::Ready => {
                    self.greeted = true;
                    &mut self.watchers
                }
                Event::Drained => &mut self.watchers,
                Event::Closed => {
                    self.parting = self.mux.has_farewell();
                    self.acceptors.drain(&mut wakes.0);
                    self.openers.drain(&mut wakes.0);
                    wakes.0.extend(self.reader.take());
                    wakes.0.extend(self.writer.take());
                    wakes.0.extend(self.blocked_writer.take());
                    &mut self.watchers
                }
            };
            list.drain(&mut wakes.0);
        }
        arrived
    }

    fn collect_senders(&mut self, key: Key, wakes: &mut Wakes) {
        let now = self.now();
        let Some(senders) = &mut self.waiting(key).senders else { return };
        senders.end.drain(&mut wakes.0);
        let count = senders.room.drain(&mut wakes.0) as u32;
        if count > 0 {
            senders.blocked.end(now, count);
            self.blocked.end(now, count);
        }
    }

    fn collect_writer(&mut self, wakes: &mut Wakes) {
        if self.writer.is_some() && (self.mux.wants_transmit() || self.mux.is_drained()) {
            wakes.0.extend(self.writer.take());
        }
    }
}

/// Ends the connection when the loop or the write that it belongs to is dropped before it has.
struct Driving<'a>(&'a Shared);

impl Drop for Driving<'_> {
    fn drop(&mut self) {
        self.0.with(|state| state.mux.end(ConnectionError::NotDriven));
    }
}

impl Shared {
    pub(crate) fn new(mux: Mux) -> Shared {
        Shared {
            state: Mutex::new(State {
                mux,
                channels: Vec::new(),
                acceptors: Waiters::default(),
                openers: Waiters::default(),
                watchers: Waiters::default(),
                next_ticket: 0,
                began: Instant::now(),
                blocked: Blocked::default(),
                reader: None,
                writer: None,
                blocked_writer: None,
                idle: None,
                answering: true,
                sent: 0,
                failed: None,
                parting: false,
                written: false,
                greeted: false,
                told: false,
            }),
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Nothing that panics leaves the state half changed in a way that matters more than going on does.
        self.state.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    /// Does something to the state, then wakes whom it concerns.
    #[inline]
    pub(crate) fn with<R>(&self, act: impl FnOnce(&mut State) -> R) -> R {
        let mut wakes = Wakes::default();
        let mut state = self.lock();
        let result = act(&mut state);
        state.collect(&mut wakes);
        state.collect_writer(&mut wakes);
        drop(state);
        wakes.wake();
        result
    }

    /// As [`with`](Self::with), for a send: writes by itself when that is the shorter way.
    #[inline]
    pub(crate) fn with_send<R>(&self, act: impl FnOnce(&mut State) -> R) -> R {
        let mut wakes = Wakes::default();
        let mut state = self.lock();
        let result = act(&mut state);
        state.collect(&mut wakes);
        if state.answering && state.mux.wants_transmit() {
            state.answering = false;
            // One that has failed is the loop's to shut down.
            if state.failed.is_none()
                && let Some((writer, waker)) = state.idle.take()
            {
                drop(state);
                wakes.wake();
                self.write_directly(writer, waker);
                return result;
            }
        }
        state.collect_writer(&mut wakes);
        drop(state);
        wakes.wake();
        result
    }
}
