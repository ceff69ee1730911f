//! What can go wrong: an enum for each operation, and the cause of a connection's end in all of them.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use crate::frame::{FrameError, Limits};

/// Why a connection ended. Cheap to clone: every channel of the connection reports it.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum ConnectionError {
    /// This side closed the connection.
    #[error("the connection was closed")]
    Closed,
    /// This side ended the connection at once, with this reason.
    #[error("the connection was ended: {reason}")]
    Aborted {
        /// The reason that was given.
        reason: Arc<str>,
    },
    /// The peer closed the connection in order.
    #[error("the peer closed the connection")]
    ClosedByPeer,
    /// The peer ended the connection at once, with this reason.
    #[error("the peer ended the connection: {reason}")]
    AbortedByPeer {
        /// The reason, as the peer put it.
        reason: Arc<str>,
    },
    /// The byte stream from the peer ended without a farewell: the peer died or the path was cut.
    #[error("the connection to the peer was lost: its byte stream ended")]
    Eof,
    /// Reading or writing the byte stream failed.
    #[error("the connection to the peer was lost: {0}")]
    Io(#[source] Arc<io::Error>),
    /// Nothing came from the peer for as long as the lease.
    #[error("the connection to the peer was lost: nothing heard for {:.1} s", .after.as_secs_f64())]
    Silent {
        /// How long the peer was silent.
        after: Duration,
    },
    /// The loops that move the bytes were dropped with their runtime, or by a panic in a byte stream.
    #[error("the connection is not driven any more: its runtime ended or its byte stream panicked")]
    NotDriven,
    /// The peer broke the protocol.
    #[error("the peer broke the protocol: {0}")]
    Violation(#[from] Violation),
    /// The byte stream was not, or not in time, greeted as both sides need.
    #[error(transparent)]
    Handshake(#[from] HandshakeError),
}

impl ConnectionError {
    /// Whether the connection ended because one side closed it in order.
    pub fn is_orderly(&self) -> bool {
        matches!(self, ConnectionError::Closed | ConnectionError::ClosedByPeer)
    }
}

/// Why a connection did not come to be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum HandshakeError {
    /// The peer speaks another version.
    #[error("the peer speaks version {theirs} of the protocol, this side version {ours}")]
    Version {
        /// This side's version.
        ours: u16,
        /// The peer's version.
        theirs: u16,
    },
    /// One side's limits make no sense to the other.
    #[error("the limits of both sides do not go together: {what} (ours: {ours}; theirs: {theirs})")]
    Limits {
        /// Which rule is broken.
        what: &'static str,
        /// This side's limits.
        ours: Limits,
        /// The peer's limits.
        theirs: Limits,
    },
    /// The peer's greeting did not come in time.
    #[error("the peer did not greet within {:.1} s", .after.as_secs_f64())]
    Timeout {
        /// How long was waited.
        after: Duration,
    },
}

/// How a peer can break the protocol.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Violation {
    /// Bytes that are no frame.
    #[error(transparent)]
    Frame(#[from] FrameError),
    /// An `OPEN` with an id that is not the peer's to give, or not above its last.
    #[error("channel {id} opened out of order")]
    OpenOrder {
        /// The id.
        id: u64,
    },
    /// An `OPEN` beyond the number that this side allows.
    #[error("more than {max} channels opened")]
    TooManyChannels {
        /// The number allowed.
        max: u32,
    },
    /// A frame for a channel that was never opened.
    #[error("frame for channel {id}, which was never opened")]
    UnknownChannel {
        /// The id.
        id: u64,
    },
    /// More data than the channel had credit for.
    #[error("channel {id} sent more than its credit")]
    Overrun {
        /// The channel.
        id: u64,
    },
    /// Credit that adds up to more than a channel may have, or returned without having been given.
    #[error("channel {id} was given an impossible credit")]
    Credit {
        /// The channel.
        id: u64,
    },
    /// Data after `CLOSE`, or on a direction that was not opened.
    #[error("data on channel {id}, whose sender had closed it")]
    AfterClose {
        /// The channel.
        id: u64,
    },
    /// A message longer than this side allows.
    #[error("message of {len} bytes on channel {id}, {max} are allowed")]
    TooLong {
        /// The channel.
        id: u64,
        /// The length announced.
        len: u64,
        /// The length allowed.
        max: u64,
    },
    /// Parts of a message that do not make one.
    #[error("parts of a message on channel {id} that do not fit together")]
    Parts {
        /// The channel.
        id: u64,
    },
    /// A receipt for more messages than were sent.
    #[error("channel {id} acknowledged messages that were never sent")]
    Receipt {
        /// The channel.
        id: u64,
    },
    /// An end that travels in a message or on a channel where it cannot.
    #[error("an end of channel {id} travels where it cannot")]
    Travel {
        /// The channel.
        id: u64,
    },
}

/// The error with which the peer closed a channel.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{}", self.text())]
pub struct RemoteError {
    bytes: Box<[u8]>,
}

impl RemoteError {
    pub(crate) fn new(bytes: Box<[u8]>) -> RemoteError {
        RemoteError { bytes }
    }

    /// The error as text; what is not UTF-8 is replaced.
    pub fn text(&self) -> std::borrow::Cow<'_, str> {
        String::from_utf8_lossy(&self.bytes)
    }

    /// The error's bytes, exactly as the peer gave them; at most 8 KiB.
    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes
    }
}

/// A value that could not be encoded or decoded. The channel stays usable.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CodecError {
    /// The value's own `Serialize` failed, or CBOR cannot express it.
    #[error("the value cannot be encoded: {0}")]
    Encode(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// The bytes are not an encoding of the expected type.
    #[error("the message is not what was expected: {0}")]
    Decode(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// The bytes end inside the value.
    #[error("the message is truncated")]
    Truncated,
    /// Bytes follow the value.
    #[error("{extra} bytes follow the message")]
    Trailing {
        /// How many.
        extra: usize,
    },
    /// Values nested deeper than any reader should follow.
    #[error("the message is nested too deeply")]
    TooDeep,
    /// The encoding is longer than the caller allows.
    #[error("the message takes {len} bytes, {max} are allowed")]
    TooLarge {
        /// The length in bytes.
        len: u64,
        /// The length allowed, in bytes.
        max: u64,
    },
    /// An end of a channel outside a message on a channel.
    #[error("ends of channels travel only inside messages on a channel")]
    OutsideChannel,
    /// An end of a channel of another connection.
    #[error("the end belongs to another connection")]
    ForeignEnd,
    /// An end that its holder has used, and that therefore may not travel; or one on its way already.
    #[error("the end is in use and cannot travel")]
    EndInUse,
    /// The end that the message names did not come with it, or is claimed already.
    #[error("the end of a channel that the message names did not come with it")]
    EndMissing,
    /// The end sends where a receiver was expected, or the reverse.
    #[error("the end of a channel is of another direction than expected")]
    EndDirection,
}

/// Why a message was not sent.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SendError {
    /// This side had closed the channel.
    #[error("the channel is closed")]
    Closed,
    /// The peer takes no more messages, for this reason if it gave one.
    #[error("the peer stopped receiving{}", .0.as_ref().map(|error| format!(": {error}")).unwrap_or_default())]
    Stopped(Option<RemoteError>),
    /// The connection ended.
    #[error(transparent)]
    Lost(ConnectionError),
    /// An end in the message needs a channel, and one of the sides is closing the connection.
    #[error("the connection is being closed, so no end can travel")]
    Draining,
    /// The value could not be encoded; the channel is as before.
    #[error(transparent)]
    Codec(CodecError),
    /// The message is longer than the peer accepts; the channel is as before.
    #[error("the message takes {len} bytes, the peer accepts {max}")]
    TooLarge {
        /// The message's length in bytes.
        len: u64,
        /// The peer's limit in bytes.
        max: u64,
    },
}

/// Why a message was not sent at once.
#[derive(Debug, thiserror::Error)]
pub enum TrySendError<T> {
    /// There is no room now. The value comes back.
    #[error("no room on the channel now")]
    Full(T),
    /// It will never be sent.
    #[error(transparent)]
    Failed(SendError),
}

/// Why a message was not sent in time.
#[derive(Debug, thiserror::Error)]
pub enum SendTimeoutError {
    /// The time passed; nothing was sent.
    #[error("no room on the channel in time")]
    Timeout,
    /// It will never be sent.
    #[error(transparent)]
    Failed(SendError),
}

/// Why no message was received.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RecvError {
    /// The peer closed the channel with this error. Reported once, after all messages; then the channel is at its end.
    #[error(transparent)]
    Remote(RemoteError),
    /// The connection ended before the channel did. Reported again and again.
    #[error(transparent)]
    Lost(ConnectionError),
    /// This message could not be decoded. It is consumed; the next one can be received.
    #[error(transparent)]
    Codec(CodecError),
}

/// Why no message was received at once or in time.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TryRecvError {
    /// There is none yet.
    #[error("no message yet")]
    Empty,
    /// As from a receive that waits.
    #[error(transparent)]
    Failed(RecvError),
}

/// Why a channel was not opened.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum OpenError {
    /// The request is too long.
    #[error("the request takes {len} bytes, {max} are allowed", max = crate::frame::MAX_REQUEST)]
    RequestTooLong {
        /// Its length.
        len: usize,
    },
    /// One of the sides is closing the connection.
    #[error("the connection is being closed")]
    Draining,
    /// The connection ended.
    #[error(transparent)]
    Lost(ConnectionError),
}

/// How a sender's channel ended, from [`Sender::wait_closed`](crate::Sender::wait_closed).
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum ClosedError {
    /// The peer stopped receiving before it had consumed everything.
    #[error("the peer stopped receiving with {unconsumed} messages not consumed{}",
        .error.as_ref().map(|error| format!(": {error}")).unwrap_or_default())]
    Stopped {
        /// Messages that were accepted from this side and never consumed.
        unconsumed: u64,
        /// The peer's reason, if it gave one.
        error: Option<RemoteError>,
    },
    /// The connection ended; what the peer consumed is not known.
    #[error(transparent)]
    Lost(ConnectionError),
}
