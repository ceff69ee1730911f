//! One channel's state: its two directions, and what belongs to the channel as a whole.

use bytes::Bytes;

use crate::flow::{Inflow, Outflow};
use crate::frame::Carried;
use crate::queue::Queue;

/// A channel's place in the table, and which of the channels that have had this place. Valid until both handles of the
/// channel are released or its end has travelled away.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Key {
    pub(super) place: u32,
    pub(super) generation: u32,
}

impl Key {
    /// The place as an index.
    #[inline]
    pub fn index(self) -> usize {
        self.place as usize
    }
}

#[derive(Debug)]
pub(super) struct Slot {
    /// The channel's id; 0 while both of its ends are on this side.
    pub(super) id: u64,
    pub(super) generation: u32,
    /// This side opened it.
    pub(super) ours: bool,
    /// The peer knows it.
    pub(super) announced: bool,
    /// It counts against `max_channels`.
    pub(super) counted: bool,
    /// In the queue of channels with control frames to send.
    pub(super) in_controls: bool,
    /// In the queue of channels with messages to send.
    pub(super) in_ready: bool,
    /// Waits in line for the assembly budget.
    pub(super) in_line: bool,
    /// Frames about the channel that go before data.
    pub(super) owes: Owes,
    pub(super) out: Outgoing,
    pub(super) into: Incoming,
    /// The other end, while it is on this side too.
    pub(super) link: Option<Key>,
    /// Rarely needed parts.
    pub(super) extra: Option<Box<Extra>>,
}

#[derive(Debug, Default, Clone, Copy)]
pub(super) struct Owes {
    pub(super) credit: bool,
    pub(super) reset: bool,
    pub(super) returned: bool,
}

#[derive(Debug, Default, PartialEq)]
pub(super) struct Extra {
    /// The request of an `OPEN` not yet sent, or not yet accepted.
    pub(super) request: Bytes,
    /// In which message this channel's end travels, until it is claimed or the frame is sent.
    pub(super) carried: Option<Carried>,
    /// As `carried`, for the `OPEN` of a channel whose other end goes home before that was sent.
    pub(super) opened: Option<Carried>,
    /// As well: its opener sends nothing, but what comes back out.
    pub(super) silent: bool,
    /// Ends that came with messages of this channel and were not claimed.
    pub(super) cargo: Vec<(u64, u16, Key)>,
    /// The channel that carries this end, until it is claimed or ended.
    pub(super) carrier: Option<Key>,
    /// Messages that came while the other end was on this side; the peer counts without them.
    pub(super) base: u64,
    /// The error to send with `CLOSE`.
    pub(super) close_error: Option<Box<[u8]>>,
    /// The error to send with `RESET`.
    pub(super) reset_error: Option<Box<[u8]>>,
    /// The error that came with `CLOSE`.
    pub(super) closed_with: Option<Box<[u8]>>,
    /// The error that came with `RESET`.
    pub(super) stopped_with: Option<Box<[u8]>>,
    /// The end of this channel went home: what comes goes back out.
    pub(super) echo: bool,
    /// The end of this channel came home: what still comes is for this one.
    pub(super) deliver: Option<Key>,
    /// That one is the receiver that the messages were sent to.
    pub(super) forwards: bool,
    /// This end's partner came home by that channel, which must end before they talk to each other.
    pub(super) homing: Option<Key>,
}

/// How a sending direction stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum OutState {
    /// Messages are accepted.
    Open,
    /// No more messages are accepted; `CLOSE` follows the queued ones.
    Closing,
    /// `CLOSE` is sent; the receipt is to come.
    Closed,
    /// The direction never was used.
    Unused,
    /// The receipt came after `CLOSE`, or instead of one (`stopped`).
    Done { consumed: u64, stopped: bool },
}

#[derive(Debug)]
pub(super) struct Outgoing {
    pub(super) state: OutState,
    pub(super) handle: bool,
    /// Somebody waits until this direction can take more, or has ended.
    pub(super) want: bool,
    pub(super) flow: Outflow,
    pub(super) queue: Queue,
    /// What the queued messages cost that is not yet spent.
    pub(super) queued: u64,
    /// Of the first queued message a `FIRST` is sent, and this many bytes.
    pub(super) begun: Option<u32>,
    pub(super) long: Option<Long>,
    /// A `WITHDRAW` is owed.
    pub(super) withdraw: bool,
    /// Bytes sent in earlier turns beyond the quantum.
    pub(super) debt: u32,
    /// Messages accepted for the wire.
    pub(super) accepted: u64,
    pub(super) bytes: u64,
}

/// A message that is longer than the window and waits at its sender.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Long {
    pub(super) len: u32,
    pub(super) ticket: u32,
    /// Its length was sent.
    pub(super) sent: bool,
}

/// How a receiving direction stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum InState {
    /// Messages may come.
    Open,
    /// `CLOSE` came; what is queued can be received.
    Ended,
    /// The receipt is owed.
    Finishing,
    /// The receipt is sent, or the direction never was used. What still comes is ignored.
    Done,
}

#[derive(Debug)]
pub(super) struct Incoming {
    pub(super) state: InState,
    /// The peer knows this direction.
    pub(super) on_wire: bool,
    pub(super) handle: bool,
    /// Somebody waits for a message.
    pub(super) want: bool,
    pub(super) flow: Inflow,
    pub(super) queue: Queue,
    pub(super) assembly: Option<Box<Assembly>>,
    pub(super) received: u64,
    pub(super) consumed: u64,
    pub(super) bytes: u64,
}

/// A message of which parts have come.
#[derive(Debug)]
pub(super) struct Assembly {
    pub(super) total: u64,
    /// What has come; elsewhere while it is lent.
    pub(super) bytes: Vec<u8>,
    /// How much of it is lent to whoever reads.
    pub(super) lent: usize,
}

impl Assembly {
    /// Makes room for `more` bytes out of the `granted` that the peer had credit for.
    pub(super) fn make_room(&mut self, more: usize, granted: u64) {
        if self.bytes.capacity() - self.bytes.len() < more {
            // All of them, so that the message is seldom moved; never more.
            self.bytes.reserve_exact(granted.min(self.missing()) as usize);
        }
    }

    pub(super) fn missing(&self) -> u64 {
        self.total - (self.bytes.len() + self.lent) as u64
    }
}

impl Slot {
    pub(super) fn new(id: u64, ours: bool, sends: Option<u32>, receives: Option<u32>) -> Slot {
        Slot {
            id,
            generation: 0,
            ours,
            announced: !ours,
            counted: id != 0,
            in_controls: false,
            in_ready: false,
            in_line: false,
            owes: Owes::default(),
            out: Outgoing {
                state: if sends.is_some() { OutState::Open } else { OutState::Unused },
                handle: sends.is_some(),
                want: false,
                flow: Outflow::new(sends.unwrap_or(0)),
                queue: Queue::default(),
                queued: 0,
                begun: None,
                long: None,
                withdraw: false,
                debt: 0,
                accepted: 0,
                bytes: 0,
            },
            into: Incoming {
                state: if receives.is_some() { InState::Open } else { InState::Done },
                on_wire: receives.is_some(),
                handle: receives.is_some(),
                want: false,
                flow: Inflow::new(receives.unwrap_or(0)),
                queue: Queue::default(),
                assembly: None,
                received: 0,
                consumed: 0,
                bytes: 0,
            },
            link: None,
            extra: None,
        }
    }

    pub(super) fn extra(&mut self) -> &mut Extra {
        self.extra.get_or_insert_default()
    }

    /// Gives the memory of the rarely needed parts back, if there is nothing in them.
    pub(super) fn tidy(&mut self) {
        self.extra.take_if(|extra| **extra == Extra::default());
    }

    /// Whether it came in a message and was not claimed.
    pub(super) fn is_cargo(&self) -> bool {
        self.extra.as_ref().is_some_and(|extra| extra.carrier.is_some())
    }

    /// It was claimed, or nobody will.
    pub(super) fn unload(&mut self) {
        if let Some(extra) = &mut self.extra {
            extra.carrier = None;
            self.tidy();
        }
    }

    /// The channel by which the partner came home, until that has ended.
    pub(super) fn homing(&self) -> Option<Key> {
        self.extra.as_ref().and_then(|extra| extra.homing)
    }

    /// Both directions have ended for the peer, too.
    pub(super) fn is_over(&self) -> bool {
        self.out.is_over() && self.into.state == InState::Done
    }

    /// No handle refers to it.
    pub(super) fn is_released(&self) -> bool {
        !self.out.handle && !self.into.handle
    }
}

impl Incoming {
    /// Whether an end on this side may put a message here that costs this much: one always, more within the window.
    pub(super) fn has_local_room(&self, cost: u64) -> bool {
        let held = self.flow.held();
        held == 0 || held + cost <= u64::from(self.flow.window())
    }
}

impl Outgoing {
    pub(super) fn is_over(&self) -> bool {
        matches!(self.state, OutState::Unused | OutState::Done { .. })
    }

    pub(super) fn is_accepting(&self) -> bool {
        self.state == OutState::Open
    }

    /// Whether there is something to send that credit allows.
    pub(super) fn is_ready(&self) -> bool {
        if self.is_over() || self.state == OutState::Closed {
            return false;
        }
        if self.withdraw {
            return true;
        }
        let credit = self.flow.credit();
        match (self.queue.front_len(), self.begun) {
            (Some(_), Some(_)) => credit > 0,
            (Some(len), None) => credit >= self.least_credit(len),
            (None, _) => match self.long {
                Some(Long { sent: false, .. }) => credit >= crate::frame::HEADER_LEN as u64,
                Some(_) => false,
                None => self.state == OutState::Closing,
            },
        }
    }

    /// The credit needed to send anything of a message of `len` bytes. A message of up to half a window waits for
    /// credit for all of it, which is sure to come; cutting it would only cost a copy at the other end.
    pub(super) fn least_credit(&self, len: usize) -> u64 {
        let cost = crate::flow::cost(len);
        if cost <= self.flow.window() / 2 { cost } else { cost.min(crate::frame::HEADER_LEN as u64 + 1) }
    }

    /// Forgets what was not sent.
    pub(super) fn discard(&mut self) {
        self.queue.clear();
        self.queued = 0;
        self.begun = None;
        self.long = None;
        self.withdraw = false;
    }
}
