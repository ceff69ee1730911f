//! The coordinator's side of a stream of calls: one task on one gateway, called many times over one channel.
//!
//! Calls are numbered by whoever makes them, begun in the order in which they were sent, and answered in any order, each once. How
//! many may be out is up to the caller: what it sends the worker holds. Dropping [`Orders`] gives up all that is out.

use std::time::Duration;

use bytes::Bytes;
use farcall_channel::{Channel, OpenError, Raw, Receiver, RecvError, SendError, Sender};
use serde::{Deserialize, Serialize};

use super::batch::{self, Malformed, Order};
use crate::gateway::Inner;
use crate::wire::{Name, Request};

/// Batches of about this many bytes are sent: well within a channel's first window.
pub(crate) const BATCH: usize = 16 * 1024;

/// What the worker is told before the first call.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Plan {
    /// How many calls run at once; `None` leaves it to the worker.
    pub(crate) slots: Option<u32>,
    /// How long a call may run.
    pub(crate) limit: Option<Duration>,
    /// What is run instead of a task: then the request names none.
    pub(crate) command: Option<CommandPlan>,
}

/// A command whose last arguments are those of each call: a list of names.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct CommandPlan {
    pub(crate) program: Name,
    pub(crate) args: Vec<Name>,
    /// `None` takes a variable away.
    pub(crate) env: Vec<(Name, Option<Name>)>,
    pub(crate) env_clear: bool,
    pub(crate) directory: Option<Name>,
    /// The most bytes of each output that are kept; the rest is read and thrown away. Without it the outputs are the worker's.
    pub(crate) keep: Option<u64>,
}

/// Why a stream was not opened, or takes no more.
#[derive(Debug, thiserror::Error)]
pub(crate) enum StreamError {
    #[error("the worker refused: {0}")]
    Refused(String),
    #[error("the call takes {len} bytes, a message may have {max}")]
    TooLarge { len: u64, max: u64 },
    #[error(transparent)]
    Malformed(#[from] Malformed),
    /// The worker closed the stream and gave no reason: its end, which has to come, or something that should not happen.
    #[error("the worker closed the stream")]
    Closed,
    /// The gateway has ended, or is about to.
    #[error("the gateway has ended")]
    Ended,
}

/// The sending half.
#[derive(Debug)]
pub(crate) struct Orders {
    sender: Sender<Bytes, Raw>,
}

/// The receiving half.
#[derive(Debug)]
pub(crate) struct Replies {
    receiver: Receiver<Bytes, Raw>,
}

/// Opens a stream of calls of the task of that name; of none for a command.
pub(crate) async fn open(inner: &Inner, name: &str, plan: &Plan) -> Result<(Orders, Replies), StreamError> {
    let opened = inner.connection.open_with(Request::Stream(name).to_bytes()).await;
    let channel: Channel<Bytes, Bytes, Raw> = match opened {
        Ok(channel) => channel,
        Err(error @ OpenError::RequestTooLong { .. }) => return Err(StreamError::Refused(error.to_string())),
        Err(_) => return Err(StreamError::Ended),
    };
    let plan = farcall_channel::to_bytes(plan).map_err(|error| StreamError::Refused(error.to_string()))?;
    let (sender, receiver) = channel.split();
    let orders = Orders { sender };
    orders.send(plan.into()).await?;
    Ok((orders, Replies { receiver }))
}

impl Orders {
    /// Sends records of [`Order`]s. Waits while the worker takes no more.
    ///
    /// Cancel safety: a dropped `send` has sent nothing.
    pub(crate) async fn send(&self, batch: Bytes) -> Result<(), StreamError> {
        match self.sender.send(batch).await {
            Ok(()) => Ok(()),
            Err(SendError::TooLarge { len, max }) => Err(StreamError::TooLarge { len, max }),
            Err(SendError::Stopped(Some(reason))) => Err(StreamError::Refused(reason.text().into_owned())),
            Err(SendError::Stopped(None)) => Err(StreamError::Closed),
            Err(_) => Err(StreamError::Ended),
        }
    }

    #[expect(dead_code, reason = "a map only withdraws calls, or gives all of them up")]
    /// Gives one call up, also if it runs. Its reply still comes.
    pub(crate) async fn cancel(&self, number: u64) -> Result<(), StreamError> {
        let mut order = Vec::new();
        batch::put(&mut order, Order::Cancel, number);
        self.send(order.into()).await
    }
}

impl Replies {
    /// Receives the next message of records of [`Reply`](batch::Reply)s; the first begins with the number of slots.
    ///
    /// Cancel safety: nothing is lost.
    pub(crate) async fn recv(&mut self) -> Result<Bytes, StreamError> {
        match self.receiver.recv().await {
            Ok(Some(message)) => Ok(message),
            Err(RecvError::Remote(reason)) => Err(StreamError::Refused(reason.text().into_owned())),
            Ok(None) => Err(StreamError::Closed),
            Err(_) => Err(StreamError::Ended),
        }
    }
}
