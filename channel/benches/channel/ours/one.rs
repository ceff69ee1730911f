//! Rows over one channel: a round trip and the streams.

use std::hint::black_box;

use bytes::Bytes;
use farcall_channel::{Cbor, Codec, Connection, Raw};

use super::ended;
use crate::Failure;
use crate::meter::Meter;
use crate::payload::text;

pub(super) async fn ask(connection: &Connection, mut meter: Meter) -> Result<f64, Failure> {
    let (sender, mut receiver) = connection.open::<String, String>("").await?.split();
    let mut message = text();
    loop {
        sender.send(message).await?;
        message = receiver.recv().await?.ok_or_else(ended)?;
        if meter.tick() {
            return Ok(meter.microseconds_each());
        }
    }
}

pub(super) async fn answer(connection: &Connection) -> Result<f64, Failure> {
    let incoming = connection.accept().await.ok_or_else(ended)?;
    let (sender, mut receiver) = incoming.accept::<String, String>().split();
    loop {
        let message = receiver.recv().await?.ok_or_else(ended)?;
        sender.send(message).await?;
    }
}

pub(super) async fn receive<T>(connection: &Connection, mut meter: Meter) -> Result<f64, Failure>
where
    Cbor: Codec<T>,
{
    let mut channel = connection.open::<(), T>("").await?;
    loop {
        black_box(channel.recv().await?.ok_or_else(ended)?);
        if meter.tick() {
            return Ok(meter.per_second());
        }
    }
}

pub(super) async fn send<T>(connection: &Connection, mut next: impl FnMut(u64) -> T) -> Result<f64, Failure>
where
    Cbor: Codec<T>,
{
    let incoming = connection.accept().await.ok_or_else(ended)?;
    let channel = incoming.accept::<T, ()>();
    let mut count = 0;
    loop {
        channel.send(next(count)).await?;
        count += 1;
    }
}

pub(super) async fn receive_bytes(connection: &Connection, mut meter: Meter) -> Result<f64, Failure> {
    let mut channel = connection.open_with::<Bytes, Bytes, Raw>("").await?;
    loop {
        black_box(channel.recv().await?.ok_or_else(ended)?);
        if meter.tick() {
            return Ok(meter.per_second());
        }
    }
}

pub(super) async fn send_bytes(connection: &Connection, message: Bytes) -> Result<f64, Failure> {
    let incoming = connection.accept().await.ok_or_else(ended)?;
    let channel = incoming.accept_with::<Bytes, Bytes, Raw>();
    loop {
        channel.send(message.clone()).await?;
    }
}
