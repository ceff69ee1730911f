//! How numbered calls and their replies are packed: many to a message, or a tiny call would cost more to carry than to run.
//!
//! A message is records back to back: a kind, a number (LEB128), and for kinds that have the payload bit its length (LEB128) and
//! the payload.

use bytes::Bytes;

/// Records of this kind have a payload.
const PAYLOAD: u8 = 0x80;

/// A payload from this size on is kept as a slice of its message; a smaller one is copied, so that it does not hold the message.
const SLICE: usize = 4096;

/// What the coordinator orders.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Order {
    /// Run the call with these arguments. Calls are begun in this order.
    Run,
    /// Give the call up, also if it runs.
    Cancel,
    /// Give the call back if it was not begun.
    Withdraw,
}

/// What the worker replies. Each call that was ordered is answered by exactly one record of the first nine kinds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Reply {
    /// The value.
    Value,
    /// A [`Failure`](crate::Failure).
    Failed,
    /// A [`Panic`](crate::Panic).
    Panicked,
    /// The arguments cannot be read: why.
    Arguments,
    /// The value cannot be sent: why.
    Unsendable,
    /// It was not begun, and will not be.
    Withdrawn,
    /// It was given up.
    Cancelled,
    /// It took too long and was dropped.
    TimedOut,
    /// It was given up or took too long, and goes on because nothing can stop it: its slot is taken until
    /// [`Freed`](Self::Freed). The payload is the kind that it would have been.
    Stuck,
    /// Not about a call: a slot that was stuck is free.
    Freed,
    /// Not about a call, and first of all: how many slots there are.
    Slots,
    /// Not about a call: the mean run time of those that were answered in this message, in nanoseconds.
    Pace,
}

/// A record that makes no sense, which ends a stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a batch of calls that is none")]
pub(crate) struct Malformed;

/// A kind of record, as one byte.
pub(crate) trait Kind: Copy {
    fn to_byte(self) -> u8;
    fn from_byte(byte: u8) -> Option<Self>;
}

impl Kind for Order {
    fn to_byte(self) -> u8 {
        match self {
            Order::Run => PAYLOAD,
            Order::Cancel => 1,
            Order::Withdraw => 2,
        }
    }

    fn from_byte(byte: u8) -> Option<Order> {
        [Order::Run, Order::Cancel, Order::Withdraw].into_iter().find(|kind| kind.to_byte() == byte)
    }
}

const REPLIES: [Reply; 12] = [
    Reply::Value,
    Reply::Failed,
    Reply::Panicked,
    Reply::Arguments,
    Reply::Unsendable,
    Reply::Withdrawn,
    Reply::Cancelled,
    Reply::TimedOut,
    Reply::Stuck,
    Reply::Freed,
    Reply::Slots,
    Reply::Pace,
];

impl Kind for Reply {
    fn to_byte(self) -> u8 {
        let payload = match self {
            Reply::Value
            | Reply::Failed
            | Reply::Panicked
            | Reply::Arguments
            | Reply::Unsendable
            | Reply::Stuck => PAYLOAD,
            Reply::Withdrawn
            | Reply::Cancelled
            | Reply::TimedOut
            | Reply::Freed
            | Reply::Slots
            | Reply::Pace => 0,
        };
        self as u8 | payload
    }

    fn from_byte(byte: u8) -> Option<Reply> {
        let kind = *REPLIES.get(usize::from(byte & !PAYLOAD))?;
        (kind.to_byte() == byte).then_some(kind)
    }
}

/// Appends a record without payload.
pub(crate) fn put(out: &mut Vec<u8>, kind: impl Kind, number: u64) {
    out.push(kind.to_byte());
    put_number(out, number);
}

/// Appends a record with a payload.
pub(crate) fn put_with(out: &mut Vec<u8>, kind: impl Kind, number: u64, payload: &[u8]) {
    put(out, kind, number);
    put_number(out, payload.len() as u64);
    out.extend_from_slice(payload);
}

fn put_number(out: &mut Vec<u8>, mut number: u64) {
    while number >= 0x80 {
        out.push(number as u8 | 0x80);
        number >>= 7;
    }
    out.push(number as u8);
}

/// A payload: small ones are kept in place, since most arguments and values are small and an allocation for each would cost more
/// than the rest.
#[derive(Clone, Debug)]
pub(crate) enum Payload {
    Small(u8, [u8; Payload::SMALL]),
    Shared(Bytes),
}

impl Payload {
    const SMALL: usize = 30;

    pub(crate) fn new(bytes: &[u8]) -> Payload {
        Payload::small(bytes).unwrap_or_else(|| Payload::Shared(Bytes::copy_from_slice(bytes)))
    }

    fn small(bytes: &[u8]) -> Option<Payload> {
        let mut small = [0; Payload::SMALL];
        small.get_mut(..bytes.len())?.copy_from_slice(bytes);
        Some(Payload::Small(bytes.len() as u8, small))
    }

    /// Takes what is in a buffer, which is empty then.
    pub(crate) fn take(buffer: &mut Vec<u8>) -> Payload {
        let payload = match Payload::small(buffer) {
            Some(small) => small,
            None if buffer.len() >= SLICE => Payload::Shared(std::mem::take(buffer).into()),
            None => Payload::Shared(Bytes::copy_from_slice(buffer)),
        };
        buffer.clear();
        payload
    }

    pub(crate) fn as_slice(&self) -> &[u8] {
        match self {
            Payload::Small(len, bytes) => &bytes[..usize::from(*len)],
            Payload::Shared(bytes) => bytes,
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.as_slice().len()
    }
}

/// One record of a message.
#[derive(Debug)]
pub(crate) struct Record<K> {
    pub(crate) kind: K,
    pub(crate) number: u64,
    start: usize,
    end: usize,
}

impl<K> Record<K> {
    /// The payload's bytes, in the message that the record is of.
    pub(crate) fn bytes<'a>(&self, message: &'a Bytes) -> &'a [u8] {
        message.get(self.start..self.end).unwrap_or_default()
    }

    /// The payload on its own.
    pub(crate) fn payload(&self, message: &Bytes) -> Payload {
        let bytes = self.bytes(message);
        if bytes.len() >= SLICE {
            Payload::Shared(message.slice(self.start..self.end))
        } else {
            Payload::new(bytes)
        }
    }

    /// The payload as a part of its message.
    pub(crate) fn shared(&self, message: &Bytes) -> Bytes {
        message.slice(self.start..self.end)
    }
}

/// Reads the records of a message. After one that makes no sense it ends.
#[derive(Debug)]
pub(crate) struct Records<K> {
    at: usize,
    _kind: std::marker::PhantomData<K>,
}

impl<K: Kind> Records<K> {
    pub(crate) fn new() -> Records<K> {
        Records { at: 0, _kind: std::marker::PhantomData }
    }

    /// Where the record that was read last ends.
    pub(crate) fn at(&self) -> usize {
        self.at
    }

    /// The next record of `message`, which is the same at each call.
    pub(crate) fn next(&mut self, message: &Bytes) -> Option<Result<Record<K>, Malformed>> {
        if self.at >= message.len() {
            return None;
        }
        let record = self.read(message);
        if record.is_none() {
            self.at = usize::MAX;
        }
        Some(record.ok_or(Malformed))
    }

    fn read(&mut self, message: &[u8]) -> Option<Record<K>> {
        let byte = *message.get(self.at)?;
        self.at += 1;
        let kind = K::from_byte(byte)?;
        let number = self.number(message)?;
        let len = if byte & PAYLOAD == 0 { 0 } else { usize::try_from(self.number(message)?).ok()? };
        let start = self.at;
        let end = start.checked_add(len).filter(|end| *end <= message.len())?;
        self.at = end;
        Some(Record { kind, number, start, end })
    }

    fn number(&mut self, message: &[u8]) -> Option<u64> {
        let mut number = 0;
        for shift in (0..64).step_by(7) {
            let byte = *message.get(self.at)?;
            self.at += 1;
            let part = u64::from(byte & 0x7f);
            if part << shift >> shift != part {
                return None;
            }
            number |= part << shift;
            if byte < 0x80 {
                return Some(number);
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_are_read_as_they_are_written() {
        let mut out = Vec::new();
        let numbers = [0, 1, 127, 128, 300, u64::from(u32::MAX), u64::MAX];
        for (at, number) in numbers.into_iter().enumerate() {
            put(&mut out, Reply::Freed, number);
            put_with(&mut out, Reply::Value, number, &vec![7; at * at * 200]);
        }
        let message = Bytes::from(out);
        let mut records = Records::<Reply>::new();
        for (at, number) in numbers.into_iter().enumerate() {
            let freed = records.next(&message).unwrap().unwrap();
            assert_eq!((freed.kind, freed.number, freed.bytes(&message)), (Reply::Freed, number, &[][..]));
            let value = records.next(&message).unwrap().unwrap();
            assert_eq!((value.kind, value.number), (Reply::Value, number));
            assert_eq!(value.payload(&message).as_slice(), vec![7; at * at * 200]);
        }
        assert!(records.next(&message).is_none());
    }

    #[test]
    fn kinds_are_told_apart_and_no_cut_panics() {
        for (at, kind) in REPLIES.into_iter().enumerate() {
            assert_eq!(usize::from(kind.to_byte() & !PAYLOAD), at);
            assert_eq!(Reply::from_byte(kind.to_byte()), Some(kind));
        }
        let mut out = Vec::new();
        put_with(&mut out, Order::Run, 300, b"arguments");
        for cut in 1..out.len() {
            let message = Bytes::copy_from_slice(&out[..cut]);
            let mut records = Records::<Order>::new();
            assert_eq!(records.next(&message).unwrap().unwrap_err(), Malformed);
            assert!(records.next(&message).is_none());
        }
        for lie in
            [&[0x80, 1, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1][..], &[9, 1], &[1, 0xff]]
        {
            assert!(Records::<Order>::new().next(&Bytes::copy_from_slice(lie)).unwrap().is_err());
        }
    }

    #[test]
    fn a_payload_is_the_same_however_it_is_kept() {
        for len in [0, 1, Payload::SMALL, Payload::SMALL + 1, SLICE - 1, SLICE, 3 * SLICE] {
            let bytes: Vec<u8> = (0..len).map(|byte| byte as u8).collect();
            let mut buffer = bytes.clone();
            assert_eq!(Payload::take(&mut buffer).as_slice(), bytes);
            assert!(buffer.is_empty());
            assert_eq!(Payload::new(&bytes).len(), len);
        }
        assert!(size_of::<Payload>() <= 40);
    }
}
