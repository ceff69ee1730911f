//! The far end's life: the process-level parts of a worker, which know no channels.
//!
//! In the order in which a worker uses them: [`guardian::start`] before anything else, [`limits`] and [`stdio`] next,
//! and [`child`] for every command that a coordinator asks for.

pub mod child;
#[cfg(target_os = "linux")]
mod guard;
pub mod guardian;
pub mod limits;
mod process;
mod pty;
mod reactor;
mod running;
mod signals;
mod spawn;
pub mod stdio;
mod streams;
#[cfg(target_os = "linux")]
mod sweep;
