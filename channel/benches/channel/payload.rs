//! What is sent: the same text, record and bytes for every contender.

use bytes::Bytes;
use serde::{Deserialize, Serialize};

/// Bytes of a large message.
pub(crate) const BULK: usize = 1 << 20;

/// Bytes of a small message.
pub(crate) const SMALL: usize = 64;

/// A record of five fields; about 64 bytes as CBOR, names included.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Record {
    pub(crate) id: u64,
    pub(crate) at: f64,
    pub(crate) level: u8,
    pub(crate) host: String,
    pub(crate) line: String,
}

/// The record that is sent as the `n`th; only its number differs.
pub(crate) fn record(n: u64) -> Record {
    Record {
        id: n,
        at: 1_764_000_000.125,
        level: 4,
        host: "web-17".to_owned(),
        line: "disk sda is 91% full".to_owned(),
    }
}

/// The small text.
pub(crate) fn text() -> String {
    "farcall ".repeat(SMALL / 8)
}

/// The small payload of bytes, shared by all that are sent.
pub(crate) fn small() -> Bytes {
    Bytes::from(vec![0x5a; SMALL])
}

/// The large payload of bytes, shared by all that are sent.
pub(crate) fn bulk() -> Bytes {
    Bytes::from(vec![0x5a; BULK])
}
