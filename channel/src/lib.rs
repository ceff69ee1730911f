//! Typed, flow-controlled message channels over any byte stream.
//!
//! A [`Connection`] carries any number of [`Channel`]s over one byte stream in each direction: a pipe, a socket, a channel of
//! SSH. Each channel carries typed messages in order, with [credit](frame#credit) of its own, so that a slow reader
//! bounds memory on both sides and never holds up another channel.
//!
//! - [`Connection::start`], [`Connection::open`] and [`Connection::accept`] begin; [`Connection::close`] ends.
//! - [`Sender`] and [`Receiver`] are a channel's two directions; [`Receiver::on_message`] calls a function for each message.
//! - Ends made by [`Connection::pair`] travel inside messages.
//! - [`Raw`] channels carry bytes without serde, also as `AsyncRead` and `AsyncWrite` ([`ByteStream`]).
//! - [`DriverThread`] keeps a connection alive while user code blocks.
//!
//! Below that, [`frame`] documents the wire format, and [`mux`] is the protocol without any input or output.
//!
//! This crate prints nothing and reads no environment. It emits `tracing` events: at level `DEBUG` for a handshake that failed, the
//! end of a connection, and the beginning and the end of each channel; at level `TRACE` for each frame.

#![cfg_attr(not(test), warn(clippy::unwrap_used))]
#![forbid(unsafe_code)]

mod callback;
mod channel;
mod codec;
mod connection;
mod driver;
mod ends;
pub mod error;
mod flow;
pub mod frame;
#[cfg(all(test, farcall_loom))]
mod model;
pub mod mux;
mod queue;
mod receiver;
mod sender;
mod sink;
mod slice;
mod stream;
mod sync;
mod thread;

pub use callback::{Callback, Delivery};
pub use channel::{Channel, NotOneChannel};
pub use codec::{Cbor, Codec, Raw, Value, from_bytes, from_bytes_within, to_bytes, to_bytes_within};
pub use connection::{Connection, Incoming, Options};
pub use error::{
    ClosedError, CodecError, ConnectionError, HandshakeError, OpenError, RecvError, RemoteError, SendError,
    SendTimeoutError, TryRecvError, TrySendError, Violation,
};
pub use mux::{Config, Counters, Role};
pub use receiver::{Receiver, Recv};
pub use sender::Sender;
pub use sink::SendSink;
pub use stream::{ByteReader, ByteStream, ByteWriter};
pub use thread::DriverThread;
