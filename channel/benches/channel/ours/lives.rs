//! The row of short lives: open, one message, close, many at a time.

use farcall_channel::Connection;
use tokio::sync::mpsc;

use super::ended;
use crate::Failure;
use crate::meter::Meter;
use crate::payload::text;

/// How many tasks open channels at a time.
const OPENERS: usize = 64;

/// Counts channels that were opened, brought their message and were closed.
pub(super) async fn accept(connection: &Connection, mut meter: Meter) -> Result<f64, Failure> {
    let (finished, mut count) = mpsc::channel(OPENERS);
    let accepting = async {
        loop {
            let incoming = connection.accept().await.ok_or_else(ended)?;
            let mut channel = incoming.accept::<(), String>();
            let finished = finished.clone();
            // Ends with its channel.
            tokio::spawn(async move {
                if let (Ok(Some(_)), Ok(None)) = (channel.recv().await, channel.recv().await) {
                    let _ = finished.send(()).await;
                }
            });
        }
    };
    let counting = async {
        loop {
            count.recv().await.ok_or_else(ended)?;
            if meter.tick() {
                return Ok(meter.per_second());
            }
        }
    };
    tokio::select! {
        result = accepting => result,
        result = counting => result,
    }
}

/// Opens channels without end.
pub(super) async fn open(connection: &Connection) -> Result<f64, Failure> {
    let mut openers = tokio::task::JoinSet::new();
    for _ in 0..OPENERS {
        let connection = connection.clone();
        openers.spawn(async move {
            let text = text();
            loop {
                let channel = connection.open::<String, ()>("").await?;
                channel.send(text.clone()).await?;
                // Dropped here, and so closed.
            }
        });
    }
    openers.join_next().await.ok_or_else(ended)??
}
