//! Holds output until it is shown, within a bound on all of it together.

use super::{HostId, Stream};

/// What hosts have said so far.
pub(super) struct Store {
    kept: Vec<[Kept; 2]>,
    /// How many more bytes may be held.
    budget: usize,
}

/// What one host has written to one stream.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub(super) struct Kept {
    pub(super) bytes: Vec<u8>,
    /// How many bytes after those were dropped, as the budget was used up.
    pub(super) lost: u64,
}

impl Store {
    pub(super) fn new(hosts: usize, budget: usize) -> Self {
        Store { kept: (0..hosts).map(|_| Default::default()).collect(), budget }
    }

    /// Takes output, as far as there is room. Once something of a stream was dropped, so is all that follows, so that
    /// what is kept is a beginning and never has a hole.
    pub(super) fn push(&mut self, host: HostId, stream: Stream, bytes: &[u8]) {
        let kept = &mut self.kept[host.0][stream as usize];
        let room = if kept.lost > 0 { 0 } else { self.budget.min(bytes.len()) };
        kept.bytes.extend_from_slice(&bytes[..room]);
        kept.lost += (bytes.len() - room) as u64;
        self.budget -= room;
    }

    /// Hands over what a host wrote; it still counts until [`release`](Self::release).
    pub(super) fn take(&mut self, host: HostId, stream: Stream) -> Kept {
        std::mem::take(&mut self.kept[host.0][stream as usize])
    }

    /// So many bytes are no longer held.
    pub(super) fn release(&mut self, bytes: usize) {
        self.budget += bytes;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_exceeds_the_budget_is_counted_and_leaves_no_hole() {
        let mut store = Store::new(2, 6);
        let (a, b) = (HostId(0), HostId(1));
        store.push(a, Stream::Stdout, b"1234");
        store.push(b, Stream::Stdout, b"abc");
        store.push(a, Stream::Stderr, b"e");
        assert_eq!(store.take(b, Stream::Stdout), Kept { bytes: b"ab".to_vec(), lost: 1 });
        assert_eq!(store.take(a, Stream::Stderr), Kept { bytes: vec![], lost: 1 });
        store.release(2);
        store.push(a, Stream::Stdout, b"567");
        store.release(10);
        store.push(a, Stream::Stdout, b"89");
        assert_eq!(
            store.take(a, Stream::Stdout),
            Kept { bytes: b"123456".to_vec(), lost: 3 },
            "never a hole"
        );
    }
}
