//! The line between a program and the guardian of a process that runs one function: signals there, the end back.
//!
//! One word is one packet, as of a [`Socket`](super::socket::Socket): a byte that says what it is, and a number (4 bytes,
//! little-endian). The guardian takes the end of the line for the end of the program.

use farcall_bootstrap::Exit;

/// The bytes of a word.
pub(crate) const WORD: usize = 5;

/// What a guardian is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ask {
    /// To hand on the signal of this number.
    Signal(i32),
    /// To kill the process with all that it has started.
    Kill,
}

/// What a guardian tells: one thing, once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Told {
    /// The process has ended, and nothing of it is left.
    Ended(Exit),
    /// It was not forked, for the system's error of this number.
    NotStarted(i32),
}

impl Ask {
    pub(crate) fn to_bytes(self) -> [u8; WORD] {
        match self {
            Ask::Signal(number) => word(b's', number),
            Ask::Kill => word(b'k', 0),
        }
    }

    pub(crate) fn from_bytes(bytes: &[u8]) -> Option<Ask> {
        match split(bytes)? {
            (b's', number) => Some(Ask::Signal(number)),
            (b'k', _) => Some(Ask::Kill),
            _ => None,
        }
    }
}

impl Told {
    pub(crate) fn to_bytes(self) -> [u8; WORD] {
        match self {
            Told::Ended(Exit::Code(code)) => word(b'c', code),
            Told::Ended(Exit::Signal(signal)) => word(b'x', signal),
            Told::Ended(_) => word(b'u', 0),
            Told::NotStarted(errno) => word(b'n', errno),
        }
    }

    pub(crate) fn from_bytes(bytes: &[u8]) -> Option<Told> {
        match split(bytes)? {
            (b'c', code) => Some(Told::Ended(Exit::Code(code))),
            (b'x', signal) => Some(Told::Ended(Exit::Signal(signal))),
            (b'u', _) => Some(Told::Ended(Exit::Unknown)),
            (b'n', errno) => Some(Told::NotStarted(errno)),
            _ => None,
        }
    }
}

fn word(kind: u8, number: i32) -> [u8; WORD] {
    let [a, b, c, d] = number.to_le_bytes();
    [kind, a, b, c, d]
}

fn split(bytes: &[u8]) -> Option<(u8, i32)> {
    let (kind, rest) = bytes.split_first()?;
    Some((*kind, i32::from_le_bytes(rest.try_into().ok()?)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_read_as_they_are_said() {
        for ask in [Ask::Signal(15), Ask::Kill] {
            assert_eq!(Ask::from_bytes(&ask.to_bytes()), Some(ask));
        }
        for exit in [Exit::Code(-1), Exit::Signal(9), Exit::Unknown] {
            assert_eq!(Told::from_bytes(&Told::Ended(exit).to_bytes()), Some(Told::Ended(exit)));
        }
        assert_eq!(Told::from_bytes(&Told::NotStarted(11).to_bytes()), Some(Told::NotStarted(11)));
        for bytes in [&b""[..], b"c", b"c123", b"c12345", b"z1234"] {
            assert_eq!((Ask::from_bytes(bytes), Told::from_bytes(bytes)), (None, None), "{bytes:?}");
        }
    }
}
