//! A peer that speaks bytes: anything may come from it.

use std::time::Instant;

use bytes::Buf;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use farcall_channel::frame::{Frame, HELLO_LEN, Hello, Limits, VERSION};
use farcall_channel::mux::{Config, Mux, Role, Transmit};
use farcall_channel::{Connection, ConnectionError, Options, Violation};

/// A worker's side of a connection, greeted by a coordinator that is not to be trusted.
pub(crate) struct Victim {
    pub(crate) mux: Mux,
    pub(crate) now: Instant,
}

/// A configuration whose numbers are easy to hit.
pub(crate) fn config() -> Config {
    Config {
        max_channels: 4,
        initial_window: 256,
        max_message: 1000,
        assembly_budget: 1000,
        growth_budget: 0,
        ..super::small()
    }
}

/// What a coordinator with this configuration would say of itself.
pub(crate) fn hello(config: &Config) -> Hello {
    let limits = Limits {
        max_channels: config.max_channels,
        initial_window: config.initial_window,
        max_message: config.max_message,
        assembly_budget: config.assembly_budget,
    };
    Hello { version: VERSION, limits }
}

pub(crate) fn encode(frame: Frame<'_>) -> Vec<u8> {
    let mut bytes = Vec::new();
    frame.encode(&mut bytes);
    bytes
}

/// A frame's bytes, however wrong.
pub(crate) fn any_frame(kind: u8, flags: u8, id: u64, payload: &[u8]) -> Vec<u8> {
    let mut bytes = vec![kind, flags];
    bytes.extend_from_slice(&(payload.len() as u16).to_be_bytes());
    bytes.extend_from_slice(&id.to_be_bytes());
    bytes.extend_from_slice(payload);
    bytes
}

/// An `OPEN` without a request.
pub(crate) fn open(id: u64, sends: bool, receives: bool) -> Frame<'static> {
    Frame::Open { id, sends, receives, window: 256, carried: None, request: b"" }
}

impl Victim {
    pub(crate) fn new(config: &Config) -> Victim {
        let now = Instant::now();
        let mut victim = Victim { mux: Mux::new(Role::Worker, config.clone(), now), now };
        let mut bytes = Vec::new();
        hello(config).encode(&mut bytes);
        victim.feed_bytes(&bytes);
        assert!(victim.mux.is_ready());
        let greeting = victim.said();
        assert!(matches!(Hello::decode(&greeting), Ok(Some(_))) && greeting.len() == HELLO_LEN);
        victim
    }

    pub(crate) fn feed_bytes(&mut self, bytes: &[u8]) {
        self.mux.handle_bytes(self.now, bytes);
        while self.mux.poll_event().is_some() {}
    }

    pub(crate) fn feed(&mut self, frame: Frame<'_>) {
        self.feed_bytes(&encode(frame));
    }

    /// What it has to say.
    pub(crate) fn said(&mut self) -> Vec<u8> {
        let mut out = Transmit::default();
        let mut bytes = Vec::new();
        while self.mux.wants_transmit() {
            self.mux.poll_transmit(self.now, &mut out, usize::MAX);
            bytes.extend_from_slice(&out.copy_to_bytes(out.remaining()));
        }
        bytes
    }

    /// The connection ended for this, and the peer is told.
    #[track_caller]
    pub(crate) fn accuses(&mut self, expected: &Violation) {
        match self.mux.cause() {
            Some(ConnectionError::Violation(violation)) => assert_eq!(violation, expected),
            other => panic!("expected {expected:?}, found {other:?}"),
        }
        let said = self.said();
        let told = frames(&said).into_iter().any(|frame| match frame {
            Frame::GoAway { error, text, .. } => {
                error && String::from_utf8_lossy(text).contains(&expected.to_string())
            }
            _ => false,
        });
        assert!(told, "the peer is told why");
        assert_eq!(self.mux.memory(), 0, "nothing is kept");
    }
}

/// The frames in these bytes.
#[track_caller]
pub(crate) fn frames(mut bytes: &[u8]) -> Vec<Frame<'_>> {
    let mut frames = Vec::new();
    while let Some((frame, len)) = Frame::decode(bytes).unwrap() {
        frames.push(frame);
        bytes = &bytes[len..];
    }
    assert!(bytes.is_empty(), "whole frames");
    frames
}

/// A connection whose peer is the test itself.
pub(crate) async fn connection(config: Config) -> (Connection, tokio::io::DuplexStream) {
    connection_over(1 << 20, config).await
}

/// As [`connection`], over a byte stream that holds so many bytes.
pub(crate) async fn connection_over(
    capacity: usize,
    config: Config,
) -> (Connection, tokio::io::DuplexStream) {
    let (near, mut far) = tokio::io::duplex(capacity);
    let (reader, writer) = tokio::io::split(near);
    let options = Options { config: config.clone(), ..Options::default() };
    let start = tokio::spawn(Connection::start(reader, writer, Role::Coordinator, options));
    let mut greeting = Vec::new();
    hello(&config).encode(&mut greeting);
    far.write_all(&greeting).await.unwrap();
    let mut theirs = [0; HELLO_LEN];
    far.read_exact(&mut theirs).await.unwrap();
    assert_eq!(Hello::decode(&theirs).unwrap(), Some(hello(&config)));
    (start.await.unwrap().unwrap(), far)
}
