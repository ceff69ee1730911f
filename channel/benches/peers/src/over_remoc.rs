//! The rows over remoc: its base channel, which is its fastest, or a channel sent through that.

use std::hint::black_box;

use remoc::rch::{base, bin, mpsc, oneshot};
use remoc::{Cfg, Connect, RemoteSend, codec};
use tokio::net::unix::pipe::{Receiver, Sender};
use tokio::sync::mpsc as local;

use crate::meter::Meter;
use crate::pair::{Assignment, Side};
use crate::payload::{BULK, bulk, record, small, text};
use crate::{Failure, ended};

/// How many tasks open channels at a time.
const OPENERS: usize = 64;

/// Takes this process's part in a row; the near side returns what it measured.
pub(crate) async fn run(assignment: &Assignment, reader: Receiver, writer: Sender) -> Result<f64, Failure> {
    let length = assignment.length;
    match (assignment.row.as_str(), assignment.side) {
        ("rtt_64", Side::Near) => ask(connect(reader, writer).await?, Meter::new(length, 8)).await,
        ("rtt_64", Side::Far) => answer(connect(reader, writer).await?).await,
        ("stream_64", Side::Near) => {
            receive::<String>(connect(reader, writer).await?, Meter::new(length, 256)).await
        }
        ("stream_64", Side::Far) => {
            let text = text();
            send(connect(reader, writer).await?, |_| text.clone()).await
        }
        ("stream_record", Side::Near) => {
            receive::<crate::payload::Record>(connect(reader, writer).await?, Meter::new(length, 256)).await
        }
        ("stream_record", Side::Far) => send(connect(reader, writer).await?, record).await,
        ("stream_64_bytes", Side::Near) => {
            receive_bytes(connect(reader, writer).await?, Meter::new(length, 256)).await
        }
        ("stream_64_bytes", Side::Far) => send_bytes(connect(reader, writer).await?, small()).await,
        ("bulk_1m", Side::Near) => receive_bytes(connect(reader, writer).await?, Meter::new(length, 1)).await,
        ("bulk_1m", Side::Far) => send_bytes(connect(reader, writer).await?, bulk()).await,
        ("open_close", Side::Near) => accept(connect(reader, writer).await?, Meter::new(length, 64)).await,
        ("open_close", Side::Far) => open(connect(reader, writer).await?).await,
        (row, _) => Err(format!("remoc has no part in {row}").into()),
    }
}

type Ends<T> = (base::Sender<T>, base::Receiver<T>);

async fn connect<T: RemoteSend>(reader: Receiver, writer: Sender) -> Result<Ends<T>, Failure> {
    let connecting = Connect::io::<_, _, T, T, codec::Default>(Cfg::default(), reader, writer);
    let (connection, sender, receiver) = connecting.await?;
    // Ends with the process, which does nothing else.
    tokio::spawn(connection);
    Ok((sender, receiver))
}

async fn ask((mut sender, mut receiver): Ends<String>, mut meter: Meter) -> Result<f64, Failure> {
    let mut message = text();
    loop {
        sender.send(message).await?;
        message = receiver.recv().await?.ok_or_else(ended)?;
        if meter.tick() {
            return Ok(meter.microseconds_each());
        }
    }
}

async fn answer((mut sender, mut receiver): Ends<String>) -> Result<f64, Failure> {
    loop {
        let message = receiver.recv().await?.ok_or_else(ended)?;
        sender.send(message).await?;
    }
}

async fn receive<T: RemoteSend>((_sender, mut receiver): Ends<T>, mut meter: Meter) -> Result<f64, Failure> {
    loop {
        black_box(receiver.recv().await?.ok_or_else(ended)?);
        if meter.tick() {
            return Ok(meter.per_second());
        }
    }
}

async fn send<T: RemoteSend>(
    (mut sender, _receiver): Ends<T>,
    mut next: impl FnMut(u64) -> T,
) -> Result<f64, Failure> {
    let mut count = 0;
    loop {
        sender.send(next(count)).await.map_err(|error| error.without_item())?;
        count += 1;
    }
}

async fn receive_bytes(
    (_sender, mut receiver): Ends<bin::Receiver>,
    mut meter: Meter,
) -> Result<f64, Failure> {
    let stream = receiver.recv().await?.ok_or_else(ended)?;
    let mut stream = stream.into_inner().await?;
    stream.set_max_data_size(2 * BULK);
    loop {
        black_box(stream.recv().await?.ok_or_else(ended)?);
        if meter.tick() {
            return Ok(meter.per_second());
        }
    }
}

async fn send_bytes(
    (mut sender, _receiver): Ends<bin::Receiver>,
    message: bytes::Bytes,
) -> Result<f64, Failure> {
    let (stream, theirs) = bin::channel();
    sender.send(theirs).await.map_err(|error| error.without_item())?;
    let mut stream = stream.into_inner().await?;
    loop {
        stream.send(message.clone()).await?;
    }
}

async fn accept(
    (_sender, mut receiver): Ends<mpsc::Receiver<oneshot::Receiver<String>>>,
    mut meter: Meter,
) -> Result<f64, Failure> {
    let mut opened = receiver.recv().await?.ok_or_else(ended)?;
    let (finished, mut count) = local::channel(OPENERS);
    // Ends with the process, which leaves when the meter is done.
    tokio::spawn(async move {
        while let Ok(Some(channel)) = opened.recv().await {
            let finished = finished.clone();
            tokio::spawn(async move {
                if channel.await.is_ok() {
                    let _ = finished.send(()).await;
                }
            });
        }
    });
    loop {
        count.recv().await.ok_or_else(ended)?;
        if meter.tick() {
            return Ok(meter.per_second());
        }
    }
}

async fn open(
    (mut sender, mut receiver): Ends<mpsc::Receiver<oneshot::Receiver<String>>>,
) -> Result<f64, Failure> {
    let (opener, theirs) = mpsc::channel();
    sender.send(theirs).await.map_err(|error| error.without_item())?;
    for _ in 0..OPENERS {
        let opener: mpsc::Sender<oneshot::Receiver<String>> = opener.clone();
        tokio::spawn(async move {
            loop {
                let (channel, theirs) = oneshot::channel();
                if opener.send(theirs).await.is_err() {
                    break;
                }
                // Sent when it is on its way: then this opener is free for the next.
                match channel.send(text()) {
                    Ok(sending) => {
                        let _ = sending.await;
                    }
                    Err(_) => break,
                }
            }
        });
    }
    // Nothing is sent this way: this ends when the near side goes.
    receiver.recv().await?;
    Ok(0.0)
}
