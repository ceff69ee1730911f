//! What must come out of a direction of a channel, whatever happens in between.

use std::collections::VecDeque;

use super::script::next;

/// A direction of a channel, from the point of view of somebody who sees both sides at once.
#[derive(Debug, Default)]
pub struct Flow {
    /// Messages that were taken from its sender.
    pub sent: u64,
    /// Messages that its receiver handed out.
    pub received: u64,
    /// Messages taken and not handed out.
    pub expected: VecDeque<Message>,
    /// The sender ended it, with this error.
    pub closed: Option<Option<Vec<u8>>>,
    /// The receiver saw the end.
    pub ended: bool,
    /// The receiver stopped it, with this error.
    pub stopped: Option<Option<Vec<u8>>>,
    /// Messages sent by earlier holders of the sending end: receipts for the present one leave them out.
    pub before: u64,
    /// An end went to the side where its partner is.
    pub returned: bool,
    /// It has not arrived.
    pub homing: bool,
    /// It is the receiver, so ends in messages on their way to it are with nobody.
    pub unread: bool,
    /// Both ends were sent to the other side at once, which ends them.
    pub crossed: bool,
}

#[derive(Debug, Clone)]
pub struct Message {
    /// What its content was made from.
    pub stamp: u64,
    pub len: usize,
    /// The ends that travel in it, and whether each goes to the side where its partner was.
    pub ends: Vec<(Mark, bool)>,
}

/// An end of a channel, wherever it is: which directions it sends and receives on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Mark {
    pub out: Option<usize>,
    pub into: Option<usize>,
}

impl Flow {
    /// What the receiver did not consume, as its sender may be told.
    pub fn unconsumed(&self) -> u64 {
        (self.sent - self.received).min(self.sent - self.before)
    }
}

/// The bytes of a message: its own, and no other's.
pub fn payload(stamp: u64, len: usize) -> Vec<u8> {
    let mut state = next(stamp << 32 ^ len as u64);
    let mut bytes = Vec::with_capacity(len + 8);
    while bytes.len() < len {
        state = next(state);
        bytes.extend_from_slice(&(state ^ state >> 29).to_le_bytes());
    }
    bytes.truncate(len);
    bytes
}
