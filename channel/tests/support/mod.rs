//! Connected pairs for the tests of this crate.

#![allow(dead_code, reason = "each test file uses what it needs, some all of it")]

pub(crate) mod raw;

use std::sync::Arc;

use bytes::Bytes;
use farcall_channel::{Cbor, Channel, Codec, Config, Connection, Options, Raw, Role, Sender};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// Small limits, so that edges happen often.
pub(crate) fn small() -> Config {
    Config {
        max_channels: 16,
        initial_window: 256,
        max_window: 1024,
        growth_budget: 2048,
        max_message: 100_000,
        assembly_budget: 120_000,
        ..Config::default()
    }
}

/// A coordinator and a worker over a pipe of a few bytes' capacity.
pub(crate) async fn connect(config: Config) -> (Connection, Connection) {
    let (near, far) = tokio::io::duplex(4096);
    let (near_read, near_write) = tokio::io::split(near);
    let (far_read, far_write) = tokio::io::split(far);
    let options = Options { config, ..Options::default() };
    let (near, far) = tokio::join!(
        Connection::start(near_read, near_write, Role::Coordinator, options.clone()),
        Connection::start(far_read, far_write, Role::Worker, options),
    );
    (near.unwrap(), far.unwrap())
}

/// Both ends of a new channel.
pub(crate) async fn channel<S, R>(near: &Connection, far: &Connection) -> (Channel<S, R>, Channel<R, S>)
where
    Cbor: Codec<S> + Codec<R>,
{
    mixed::<S, R, R, S>(near, far).await
}

/// Both ends of a new channel, which need not agree on its types.
pub(crate) async fn mixed<S, R, T, U>(near: &Connection, far: &Connection) -> (Channel<S, R>, Channel<T, U>)
where
    Cbor: Codec<S> + Codec<R> + Codec<T> + Codec<U>,
{
    let left = near.open("test").await.unwrap();
    let right = far.accept().await.unwrap().accept();
    (left, right)
}

/// Both ends of a new channel of bytes.
pub(crate) async fn raw(
    near: &Connection,
    far: &Connection,
) -> (Channel<Bytes, Bytes, Raw>, Channel<Bytes, Bytes, Raw>) {
    let left = near.open_with("bytes").await.unwrap();
    let right = far.accept().await.unwrap().accept_with();
    (left, right)
}

/// A value that lets a handle survive the journey of its end.
pub(crate) struct Kept<T>(pub(crate) Arc<Sender<T>>);

impl<T> Serialize for Kept<T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.0.serialize(serializer)
    }
}

impl<'de, T> Deserialize<'de> for Kept<T>
where
    Cbor: Codec<T>,
{
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Sender::deserialize(deserializer).map(|sender| Kept(Arc::new(sender)))
    }
}
