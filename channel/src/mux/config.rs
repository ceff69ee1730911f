//! What a side holds and promises.

use std::time::Duration;

use crate::flow::MAX_CREDIT;
use crate::frame::{Limits, MAX_ERROR, MAX_REQUEST};

/// Which side of a connection this is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// The side that started the other. It waits for the worker's hello.
    Coordinator,
    /// The side that was started. It speaks first.
    Worker,
}

/// What this side of a connection holds and promises.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// Channels that the peer may have open at once.
    pub max_channels: u32,
    /// Of the channels that the peer allows this side, those that are left for
    /// [`open_kept_back`](crate::Connection::open_kept_back); half of them at most.
    pub kept_back: u32,
    /// Bytes that may be on their way or unread on a channel before its window has grown. At least 64.
    pub initial_window: u32,
    /// The largest that a channel's window grows, in bytes.
    pub max_window: u32,
    /// Bytes by which all windows together may grow.
    pub growth_budget: u64,
    /// The longest message that this side accepts, in bytes; at most 1 GiB.
    pub max_message: u64,
    /// Bytes kept for messages longer than their channel's window; at least `max_message` and 12 bytes more.
    pub assembly_budget: u64,
    /// After so long without a byte from the peer it is asked for one.
    pub heartbeat: Duration,
    /// After so long without a byte from the peer it is lost.
    pub lease: Duration,
}

impl Default for Config {
    fn default() -> Config {
        Config {
            max_channels: 4096,
            kept_back: 0,
            initial_window: 64 * 1024,
            max_window: 16 * 1024 * 1024,
            growth_budget: 64 * 1024 * 1024,
            max_message: 64 * 1024 * 1024,
            assembly_budget: 128 * 1024 * 1024,
            heartbeat: Duration::from_secs(5),
            lease: Duration::from_secs(20),
        }
    }
}

impl Config {
    /// The longest `max_message` that a configuration may have.
    pub const MAX_MESSAGE: u64 = 1 << 30;

    pub(super) fn limits(&self) -> Limits {
        Limits {
            max_channels: self.max_channels,
            initial_window: self.initial_window,
            max_message: self.max_message,
            assembly_budget: self.assembly_budget,
        }
    }

    /// The bound on the memory that buffers of one connection take on this side, in bytes, each way.
    pub fn memory_bound(&self) -> u64 {
        let channel = u64::from(self.initial_window) + MAX_REQUEST as u64 + 2 * MAX_ERROR as u64;
        u64::from(self.max_channels) * channel + self.growth_budget + self.assembly_budget
    }
}

pub(super) fn check_limits(limits: &Limits) -> Result<(), &'static str> {
    if limits.initial_window < 64 || limits.initial_window > MAX_CREDIT / 2 {
        return Err("initial_window must be from 64 to 2^30 - 1");
    }
    if limits.max_message > Config::MAX_MESSAGE {
        return Err("max_message must be at most 2^30");
    }
    if limits.assembly_budget < limits.max_message {
        return Err("assembly_budget must be at least max_message");
    }
    Ok(())
}
