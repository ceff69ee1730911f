//! A queue of whole messages: small ones back to back in one buffer, large ones as shared slices.

use std::collections::VecDeque;

use bytes::Bytes;

/// From this size a payload that is already shared is kept as it is rather than copied.
pub(crate) const LARGE: usize = 4096;

const PREFIX: usize = 4;
const LARGE_BIT: u32 = 1 << 31;

/// A message's bytes.
#[derive(Debug, Clone)]
pub enum Payload<'a> {
    /// Borrowed: copied when the message is taken.
    Slice(&'a [u8]),
    /// Shared: handed on as they are.
    Shared(Bytes),
}

impl Payload<'_> {
    #[inline]
    pub(crate) fn len(&self) -> usize {
        match self {
            Payload::Slice(slice) => slice.len(),
            Payload::Shared(bytes) => bytes.len(),
        }
    }

    pub(crate) fn as_slice(&self) -> &[u8] {
        match self {
            Payload::Slice(slice) => slice,
            Payload::Shared(bytes) => bytes,
        }
    }
}

/// A queue of whole messages, in order.
// Each record is a prefix of four bytes and, unless the prefix has [`LARGE_BIT`], that many bytes; the bytes of a large
// message stand in `large`. A record takes less memory than its message costs, so credit bounds the queue.
#[derive(Debug, Default)]
pub struct Queue {
    records: Vec<u8>,
    /// Where the first record begins.
    start: usize,
    /// Boxed, since most channels never see a large message and idle channels should be small.
    #[expect(clippy::box_collection, reason = "8 bytes in place of 32 in every idle channel")]
    large: Option<Box<VecDeque<Bytes>>>,
}

impl Queue {
    /// Whether no message is queued.
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.start == self.records.len()
    }

    #[inline]
    pub(crate) fn push(&mut self, payload: Payload<'_>) {
        let slice = payload.as_slice();
        let len = slice.len();
        if len >= LARGE {
            self.push_large(match payload {
                Payload::Shared(bytes) => bytes,
                Payload::Slice(slice) => Bytes::copy_from_slice(slice),
            });
            return;
        }
        self.make_room(PREFIX + len);
        self.records.extend_from_slice(&(len as u32).to_ne_bytes());
        self.records.extend_from_slice(slice);
    }

    #[cold]
    fn push_large(&mut self, bytes: Bytes) {
        self.make_room(PREFIX);
        self.records.extend_from_slice(&(bytes.len() as u32 | LARGE_BIT).to_ne_bytes());
        self.large.get_or_insert_default().push_back(bytes);
    }

    /// Makes room for so many bytes; by moving the records to the front where that is cheap, rather than growing without
    /// end behind a queue that is never quite empty.
    #[inline]
    fn make_room(&mut self, more: usize) {
        if self.records.capacity() - self.records.len() < more {
            self.find_room(more);
        }
    }

    #[cold]
    fn find_room(&mut self, more: usize) {
        if self.start > 0 && self.start * 2 >= self.records.len() {
            self.records.drain(..self.start);
            self.start = 0;
        }
        self.records.reserve(more);
    }

    #[inline]
    fn prefix(&self) -> Option<u32> {
        self.records[self.start..].first_chunk().map(|bytes| u32::from_ne_bytes(*bytes))
    }

    /// The length of the first message.
    #[inline]
    pub fn front_len(&self) -> Option<usize> {
        self.prefix().map(|prefix| (prefix & !LARGE_BIT) as usize)
    }

    /// The first message.
    #[inline]
    pub fn front(&self) -> Option<&[u8]> {
        let prefix = self.prefix()?;
        if prefix & LARGE_BIT != 0 {
            self.large.as_ref()?.front().map(|bytes| &bytes[..])
        } else {
            let begin = self.start + PREFIX;
            Some(&self.records[begin..begin + prefix as usize])
        }
    }

    /// Whether the first message is large, so that [`pop_large`](Self::pop_large) takes it without a copy.
    #[inline]
    pub(crate) fn front_is_large(&self) -> bool {
        self.prefix().is_some_and(|prefix| prefix & LARGE_BIT != 0)
    }

    /// The first message, if it is large.
    pub(crate) fn front_shared(&self) -> Option<&Bytes> {
        self.large.as_ref()?.front().filter(|_| self.front_is_large())
    }

    /// Removes the first message.
    #[inline]
    pub fn pop(&mut self) {
        let Some(prefix) = self.prefix() else { return };
        if prefix & LARGE_BIT != 0 {
            self.pop_large();
        } else {
            self.advance(PREFIX + prefix as usize);
        }
    }

    /// Removes the first message, which is large.
    pub(crate) fn pop_large(&mut self) -> Option<Bytes> {
        let bytes = self.large.as_mut()?.pop_front()?;
        self.advance(PREFIX);
        Some(bytes)
    }

    #[inline]
    fn advance(&mut self, by: usize) {
        self.start += by;
        if self.start == self.records.len() {
            self.records.clear();
            self.start = 0;
        }
    }

    /// Removes the first message and hands it to `take`, if it is small and costs no more than `credit`; returns its length.
    #[inline]
    pub(crate) fn pop_small(&mut self, credit: u64, take: impl FnOnce(&[u8])) -> Option<usize> {
        let prefix = self.prefix()?;
        let len = prefix as usize;
        if prefix & LARGE_BIT != 0 || crate::flow::cost(len) > credit {
            return None;
        }
        let begin = self.start + PREFIX;
        take(&self.records[begin..begin + len]);
        self.advance(PREFIX + len);
        Some(len)
    }

    /// Removes the first message as shared bytes.
    pub(crate) fn pop_shared(&mut self) -> Option<Bytes> {
        if self.front_is_large() {
            return self.pop_large();
        }
        let bytes = Bytes::copy_from_slice(self.front()?);
        self.pop();
        Some(bytes)
    }

    /// Drops everything, its memory too.
    pub(crate) fn clear(&mut self) {
        *self = Queue::default();
    }

    /// Gives its buffer to `spares` if nothing is queued, so that an idle channel takes little memory and a busy one does not
    /// grow a buffer anew for each batch.
    pub(crate) fn shrink(&mut self, spares: &mut Spares) {
        if self.is_empty() {
            spares.keep(std::mem::take(&mut self.records));
            self.large = None;
        }
    }

    /// Takes a buffer from `spares` if it has none.
    #[inline]
    pub(crate) fn prepare(&mut self, spares: &mut Spares) {
        if self.records.capacity() == 0
            && let Some(buffer) = spares.buffers.pop()
        {
            spares.bytes -= buffer.capacity();
            self.records = buffer;
        }
    }

    /// The length of the longest queued message.
    pub(crate) fn longest(&self) -> usize {
        let mut rest = &self.records[self.start..];
        let mut longest = 0;
        while let Some((prefix, after)) = rest.split_first_chunk() {
            let prefix = u32::from_ne_bytes(*prefix);
            let len = (prefix & !LARGE_BIT) as usize;
            longest = longest.max(len);
            rest = if prefix & LARGE_BIT != 0 { after } else { &after[len..] };
        }
        longest
    }

    /// Bytes that the queued messages take.
    pub(crate) fn memory(&self) -> usize {
        let large = self.large.iter().flat_map(|large| large.iter());
        self.records.len() - self.start + large.map(|bytes| bytes.len()).sum::<usize>()
    }
}

/// A few empty buffers, kept for the next queue that needs one.
#[derive(Debug, Default)]
pub(crate) struct Spares {
    buffers: Vec<Vec<u8>>,
    bytes: usize,
}

impl Spares {
    /// How many bytes are kept, and buffers of which size are: from worth it to too much for a connection that is idle.
    const MOST: usize = 1024 * 1024;
    const SIZES: std::ops::RangeInclusive<usize> = 1024..=256 * 1024;

    fn keep(&mut self, buffer: Vec<u8>) {
        if self.bytes < Self::MOST && Self::SIZES.contains(&buffer.capacity()) {
            self.bytes += buffer.capacity();
            self.buffers.push(buffer);
        }
    }

    /// Gives the memory back.
    pub(crate) fn clear(&mut self) {
        *self = Spares::default();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_come_out_as_they_went_in() {
        let mut queue = Queue::default();
        let mut expected = VecDeque::new();
        let mut seed = 1u64;
        for round in 0..20_000 {
            seed = seed.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            let random = (seed >> 33) as usize;
            if random % 5 < 3 && expected.len() < 64 {
                let len = [0, 1, 63, 4095, 4096, 9000][random / 5 % 6];
                let message = vec![round as u8; len];
                if random.is_multiple_of(2) {
                    queue.push(Payload::Slice(&message));
                } else {
                    queue.push(Payload::Shared(message.clone().into()));
                }
                expected.push_back(message);
            } else {
                assert_eq!(queue.front(), expected.front().map(|message| &message[..]));
                assert_eq!(queue.front_len(), expected.front().map(Vec::len));
                let popped = if random.is_multiple_of(2) {
                    queue.pop_shared().map(|bytes| bytes.to_vec())
                } else {
                    let front = queue.front().map(<[u8]>::to_vec);
                    queue.pop();
                    front
                };
                assert_eq!(popped, expected.pop_front());
            }
            assert_eq!(queue.is_empty(), expected.is_empty());
            assert_eq!(queue.longest(), expected.iter().map(Vec::len).max().unwrap_or(0));
            assert!(queue.memory() <= expected.iter().map(|message| message.len() + 12).sum());
        }
        assert!(queue.records.capacity() < 64 * (4095 + 12) * 4, "a queue does not grow behind its start");
    }
}
