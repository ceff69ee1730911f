//! Delivers and starts worker programs locally, over SSH or through any command.

pub mod error;
pub mod ssh;

pub use error::{Class, LaunchError, Step};
