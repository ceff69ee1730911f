//! A task over any number of inputs on any number of gateways.
//!
//! - `builder`, `command`, `results`, `progress`, `fault`: what users see.
//! - `schedule`, with `gate`, `pace` and `outbox`: who runs what, decided without gateways, clocks or threads.
//! - `drive`, `link`, `isolation`, `intake`: what joins the scheduler to gateways, inputs and results.
//! - `stream`, `batch`: many calls of one task over one channel, for whoever has many to make.

pub(crate) mod batch;
mod builder;
mod command;
mod drive;
mod fault;
mod gate;
mod intake;
mod isolation;
mod link;
mod outbox;
mod pace;
mod progress;
mod results;
mod schedule;
pub(crate) mod stream;

pub use builder::{Input, MapBuilder, MapError, map, map_stream};
pub use command::map_command;
pub use fault::{ItemError, OnError};
pub use progress::{GatewayProgress, GatewayState, Progress, ProgressEvents};
pub use results::Map;
