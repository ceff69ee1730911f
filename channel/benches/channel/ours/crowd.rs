//! Rows over many channels: the load spread over them, or one of them beside others that are stalled.

use std::cell::RefCell;
use std::hint::black_box;
use std::sync::Arc;

use farcall_channel::{Channel, Connection, TrySendError};
use tokio::sync::Notify;

use super::ended;
use crate::Failure;
use crate::meter::Meter;
use crate::payload::text;

/// The request of a channel that nobody will read.
const STALLED: &[u8] = b"stalled";

thread_local! {
    /// All receiving tasks are on the runtime's one thread, and count together.
    static METER: RefCell<Option<Meter>> = const { RefCell::new(None) };
}

/// Reads `busy` channels, a task each, beside `stalled` ones that it opened before and never reads.
pub(super) async fn receive(
    connection: &Connection,
    busy: usize,
    stalled: usize,
    meter: Meter,
) -> Result<f64, Failure> {
    let mut unread: Vec<Channel<(), String>> = Vec::new();
    for _ in 0..stalled {
        unread.push(connection.open(STALLED).await?);
    }
    METER.set(Some(meter));
    let done = Arc::new(Notify::new());
    for _ in 0..busy {
        let mut channel = connection.open::<(), String>("").await?;
        let done = Arc::clone(&done);
        // Ends with the process, which leaves when the meter is done.
        tokio::spawn(async move {
            while let Ok(Some(message)) = channel.recv().await {
                black_box(message);
                if METER.with_borrow_mut(|meter| meter.as_mut().is_some_and(Meter::tick)) {
                    done.notify_one();
                    return;
                }
            }
        });
    }
    done.notified().await;
    drop(unread);
    METER.with_borrow(|meter| meter.as_ref().map(Meter::per_second)).ok_or_else(ended)
}

/// Sends without end on every channel that the near side opens, a task each.
pub(super) async fn send(connection: &Connection) -> Result<f64, Failure> {
    loop {
        let incoming = connection.accept().await.ok_or_else(ended)?;
        let stalled = incoming.request() == STALLED;
        let channel = incoming.accept::<String, ()>();
        if stalled {
            // Full before the next channel is accepted; the measurement begins only then.
            loop {
                match channel.try_send(text()) {
                    Ok(()) => {}
                    Err(TrySendError::Full(_)) => break,
                    Err(error) => return Err(error.into()),
                }
            }
        }
        // Ends with the process, which leaves when the near side does.
        tokio::spawn(async move {
            let text = text();
            while channel.send(text.clone()).await.is_ok() {}
        });
    }
}
