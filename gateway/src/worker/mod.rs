//! The far end's life: the process-level parts of a worker, which know no channels.
//!
//! In the order in which a worker uses them: [`guardian::start`] before anything else, [`limits`] and [`stdio`] next,
//! and [`child`] for every command that a coordinator asks for.

pub mod guardian;
mod signals;
#[cfg(target_os = "linux")]
mod sweep;
