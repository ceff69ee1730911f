//! What a coordinator and its fork server say to each other: one datagram for each word.
//!
//! Both are one program, and the socket is theirs alone; what cannot be read is refused all the same.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};

use crate::process::Exit;

/// The longest datagram in bytes. An order that would be longer is not given: its process is started in another way.
pub const MAX_WORD: usize = 16 << 10;

/// How many descriptors an order to start carries: the process's standard input, output and error.
pub const STREAMS: usize = 3;

/// How many descriptors an order to run carries: the process's socket, and the line to its guardian.
pub const RUN_ENDS: usize = 2;

/// What a fork server is told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Order {
    /// To fork a process, whose standard streams come along. Numbers are never used twice.
    Start {
        /// What it is spoken of by.
        number: u64,
        /// As a list of processes is to show it: the name, and its arguments, which it reads itself.
        words: Vec<OsString>,
    },
    /// To fork a process that is heard of over the two ends that come along. Its end is told there too, not in a [`Report`].
    Run {
        /// What it is spoken of by.
        number: u64,
        /// As of [`Start`](Order::Start).
        words: Vec<OsString>,
    },
    /// To kill a process with all that it has started. Nothing happens if it has ended.
    Kill {
        /// Which.
        number: u64,
    },
}

/// What a fork server tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Report {
    /// It is there. Said once, first of all.
    Ready,
    /// A process has ended, and nothing of it is left.
    Ended {
        /// Which.
        number: u64,
        /// How.
        exit: Exit,
    },
    /// A process could not be forked.
    NotStarted {
        /// Which.
        number: u64,
        /// The system's number of the error.
        errno: i32,
    },
}

impl Order {
    /// As a datagram.
    pub fn to_bytes(&self) -> Vec<u8> {
        match self {
            Order::Kill { number } => head(b'K', *number),
            Order::Start { number, words } | Order::Run { number, words } => {
                let kind = if matches!(self, Order::Run { .. }) { b'R' } else { b'S' };
                let mut bytes = head(kind, *number);
                for word in words {
                    // No argument of a process contains a zero byte.
                    bytes.extend_from_slice(word.as_bytes());
                    bytes.push(0);
                }
                bytes
            }
        }
    }

    /// Reads a datagram.
    pub fn from_bytes(bytes: &[u8]) -> Option<Order> {
        let (kind, number, rest) = split(bytes)?;
        match kind {
            b'K' if rest.is_empty() => Some(Order::Kill { number }),
            b'S' | b'R' => {
                let words = rest.strip_suffix(&[0])?.split(|byte| *byte == 0);
                let words = words.map(|word| OsStr::from_bytes(word).to_owned()).collect();
                Some(match kind {
                    b'S' => Order::Start { number, words },
                    _ => Order::Run { number, words },
                })
            }
            _ => None,
        }
    }
}

impl Report {
    /// As a datagram.
    pub fn to_bytes(self) -> Vec<u8> {
        let (kind, number, value) = match self {
            Report::Ready => (b'R', 0, 0),
            Report::Ended { number, exit: Exit::Code(code) } => (b'C', number, code),
            Report::Ended { number, exit: Exit::Signal(signal) } => (b'X', number, signal),
            Report::Ended { number, exit: Exit::Unknown } => (b'U', number, 0),
            Report::NotStarted { number, errno } => (b'N', number, errno),
        };
        let mut bytes = head(kind, number);
        bytes.extend_from_slice(&value.to_le_bytes());
        bytes
    }

    /// Reads a datagram.
    pub fn from_bytes(bytes: &[u8]) -> Option<Report> {
        let (kind, number, rest) = split(bytes)?;
        let value = i32::from_le_bytes(rest.try_into().ok()?);
        let ended = |exit| Report::Ended { number, exit };
        Some(match kind {
            b'R' => Report::Ready,
            b'C' => ended(Exit::Code(value)),
            b'X' => ended(Exit::Signal(value)),
            b'U' => ended(Exit::Unknown),
            b'N' => Report::NotStarted { number, errno: value },
            _ => return None,
        })
    }
}

fn head(kind: u8, number: u64) -> Vec<u8> {
    let mut bytes = vec![kind];
    bytes.extend_from_slice(&number.to_le_bytes());
    bytes
}

fn split(bytes: &[u8]) -> Option<(u8, u64, &[u8])> {
    let (kind, rest) = bytes.split_first()?;
    let (number, rest) = rest.split_first_chunk()?;
    Some((*kind, u64::from_le_bytes(*number), rest))
}

/// Words as a list of processes holds them.
pub fn in_a_row(words: &[OsString]) -> Vec<u8> {
    words.iter().flat_map(|word| word.clone().into_vec().into_iter().chain([0])).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_read_as_they_are_said() {
        let start =
            |words: &[&str]| Order::Start { number: 7, words: words.iter().map(Into::into).collect() };
        for order in [
            start(&["farcall-worker gw0 of here:1", "--farcall-worker", "id=", "ä"]),
            start(&[""]),
            Order::Run { number: 8, words: vec!["farcall-worker gw0 of here:1".into()] },
            Order::Kill { number: u64::MAX },
        ] {
            assert_eq!(Order::from_bytes(&order.to_bytes()), Some(order));
        }
        let number = 3;
        for report in [
            Report::Ready,
            Report::Ended { number, exit: Exit::Code(-1) },
            Report::Ended { number, exit: Exit::Signal(9) },
            Report::Ended { number, exit: Exit::Unknown },
            Report::NotStarted { number, errno: 11 },
        ] {
            assert_eq!(Report::from_bytes(&report.to_bytes()), Some(report));
        }
    }

    #[test]
    fn nonsense_is_refused() {
        for bytes in [&b""[..], b"S", b"S1234567", b"S12345678", b"S12345678x", b"K12345678x", b"Z12345678"] {
            assert_eq!(Order::from_bytes(bytes), None, "{bytes:?}");
            assert_eq!(Report::from_bytes(bytes), None, "{bytes:?}");
        }
        assert_eq!(Report::from_bytes(b"Z123456781234"), None);
    }
}
