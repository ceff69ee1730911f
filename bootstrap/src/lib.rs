//! Delivers and starts worker programs locally, over SSH or through any command.

pub mod artifact;
pub mod error;
mod escape;
mod failure;
pub mod image;
pub mod launch;
mod local;
pub mod platform;
pub mod process;
mod remote;
pub mod ssh;
pub mod stage;
mod strip;
pub mod target;

pub use error::{Class, LaunchError, Step};
