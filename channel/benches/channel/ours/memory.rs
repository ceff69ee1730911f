//! The rows of idle channels: what one costs each side in memory, handles included.

use farcall_channel::{Channel, Connection};

use super::ended;
use crate::Failure;
use crate::allocation::held;
use crate::pair::Side;
use crate::payload::text;

/// Opens many channels and holds them on both sides; the near side returns the bytes of one, on the side that holds more.
pub(super) async fn idle(
    connection: &Connection,
    side: Side,
    channels: usize,
    used: bool,
) -> Result<f64, Failure> {
    match side {
        Side::Near => near(connection, channels, used).await,
        Side::Far => far(connection, channels, used).await,
    }
}

async fn near(connection: &Connection, channels: usize, used: bool) -> Result<f64, Failure> {
    let (ask, mut told) = connection.open::<(), f64>("").await?.split();
    let before = held();
    let mut idle: Vec<Channel<String, String>> = Vec::with_capacity(channels);
    for _ in 0..channels {
        idle.push(connection.open("").await?);
    }
    if used {
        for channel in &mut idle {
            channel.send(text()).await?;
        }
        for channel in &mut idle {
            channel.recv().await?.ok_or_else(ended)?;
        }
    }
    ask.send(()).await?;
    let theirs = told.recv().await?.ok_or_else(ended)?;
    let ours = each(before, idle.len());
    Ok(ours.max(theirs))
}

async fn far(connection: &Connection, channels: usize, used: bool) -> Result<f64, Failure> {
    let (tell, mut asked) = connection.accept().await.ok_or_else(ended)?.accept::<f64, ()>().split();
    let before = held();
    let mut idle: Vec<Channel<String, String>> = Vec::with_capacity(channels);
    for _ in 0..channels {
        idle.push(connection.accept().await.ok_or_else(ended)?.accept());
    }
    if used {
        for channel in &mut idle {
            let message = channel.recv().await?.ok_or_else(ended)?;
            channel.send(message).await?;
        }
    }
    asked.recv().await?.ok_or_else(ended)?;
    tell.send(each(before, idle.len())).await?;
    // Held until the near side has measured, which ends the connection.
    asked.recv().await?;
    drop(idle);
    Ok(0.0)
}

/// Bytes a channel, of what has been allocated since.
fn each(before: isize, channels: usize) -> f64 {
    (held() - before) as f64 / channels as f64
}
