//! The far end's life.
//!
//! The process-level parts know no channels; the rest (`serve` and what it uses) knows both.
//!
//! In the order in which a worker uses them: [`guardian::start`] before anything else, [`limits`] and [`stdio`] next,
//! and [`child`] for every command that a coordinator asks for.

mod background;
pub mod child;
mod command;
pub(crate) mod command_lanes;
pub(crate) mod crew;
mod desk;
mod dial;
mod early;
mod follow;
#[cfg(target_os = "linux")]
pub(crate) mod fork_server;
#[cfg(target_os = "linux")]
mod guard;
pub mod guardian;
#[cfg(target_os = "linux")]
mod keeper;
mod lanes;
pub mod limits;
mod name;
#[cfg(target_os = "linux")]
mod orders;
pub(crate) mod panics;
mod process;
mod pty;
mod reactor;
mod relay;
pub(crate) mod run;
mod running;
pub(crate) mod serve;
pub(crate) mod signals;
mod spawn;
pub mod stdio;
pub(crate) mod stream;
mod streams;
#[cfg(target_os = "linux")]
mod sweep;
#[cfg(target_os = "linux")]
mod title;
