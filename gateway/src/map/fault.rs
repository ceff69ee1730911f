//! Why an input of a map has no value.

use std::sync::Arc;

use farcall_channel::CodecError;

use crate::end::GatewayEnd;
use crate::failure::{Failure, Panic};

/// Why an input of a map has no value.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ItemError {
    /// The task returned an error, at every try.
    #[error(transparent)]
    Failed(Failure),
    /// The task panicked, at every try.
    #[error(transparent)]
    Panicked(Panic),
    /// It ran for longer than an item may, at every try.
    #[error("the item took longer than it may{}", if *.running { ", and still runs because nothing can stop it" } else { "" })]
    TimedOut {
        /// Whether it could not be stopped: it computes or blocks. It keeps its slot until it ends, and is not tried again.
        running: bool,
    },
    /// Its gateway was lost: whether it ran, and how far, is not known. With `at_most_once`, or when no gateway is left.
    #[error("the item's gateway was lost{}", .0.as_ref().map(|end| format!(": {end}")).unwrap_or_default())]
    Lost(Option<Arc<GatewayEnd>>),
    /// Workers died whenever they ran it.
    #[error("{deaths} workers died while they ran the item")]
    Poisonous {
        /// How many.
        deaths: u32,
    },
    /// The arguments cannot be encoded, or hold ends of channels: those belong to one gateway.
    #[error("the arguments cannot be sent")]
    Arguments(#[source] Arc<CodecError>),
    /// The arguments are longer than a message may be.
    #[error("the arguments take {len} bytes, a message may have {max}")]
    TooLarge {
        /// Their length in bytes.
        len: u64,
        /// The limit in bytes.
        max: u64,
    },
    /// The worker could not make sense of the arguments.
    #[error("the worker cannot read the arguments: {0}")]
    Unreadable(String),
    /// The task ended well, but its value could not be sent.
    #[error("the worker cannot send the task's value: {0}")]
    Unsendable(String),
    /// The worker's reply made no sense.
    #[error("the worker's reply cannot be read")]
    Reply(#[source] Arc<CodecError>),
    /// The map had been stopped, by the failure of another item.
    #[error("the map was stopped before the item was done")]
    Stopped,
}

/// What a map does when an item has failed for good.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum OnError {
    /// Its error is its result, among the others; the map goes on.
    #[default]
    GoOn,
    /// The map stops: no more inputs are taken, what runs is given up. The results of the inputs that were taken and not done
    /// are [`ItemError::Stopped`]. One that the iterator or stream was just about to yield is thrown away.
    Stop,
    /// As [`GoOn`](Self::GoOn), but errors come after all values, in the order of their inputs. More than `most` stop the map.
    Collect {
        /// How many are kept.
        most: usize,
    },
}
