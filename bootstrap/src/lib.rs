//! Delivers and starts worker programs locally, over SSH or through any command.

pub mod artifact;
pub mod error;
pub mod image;
pub mod platform;
pub mod ssh;
mod strip;

pub use error::{Class, LaunchError, Step};
