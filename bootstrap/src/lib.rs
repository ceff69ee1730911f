//! Delivers and starts worker programs locally, over SSH or through any command.
//!
//! [`launch()`] takes a [`Target`], the [`Program`] that is to run there and [`LaunchOptions`], and returns the byte streams
//! of a worker that has said its first words, or a [`LaunchError`] that says where and why it did not come to that. The
//! far side needs no more than a POSIX shell; where it has the program from an earlier start, nothing is sent.
//!
//! ```no_run
//! use farcall_bootstrap::ssh::SshTarget;
//! use farcall_bootstrap::{LaunchOptions, Program, Target, launch};
//!
//! # async fn example() -> Result<(), Box<dyn std::error::Error>> {
//! let program = Program::current()?;
//! let options = LaunchOptions {
//!     arguments: vec!["worker-role".into()],
//!     greeting: b"ready".to_vec(),
//!     ..LaunchOptions::default()
//! };
//! let here = launch(&Target::Local, &program, &options).await?;
//! let there = launch(&SshTarget::new("web1").into(), &program, &options).await?;
//! println!("{:?}, {:?}", here.delivery, there.delivery);
//! # Ok(())
//! # }
//! ```
//!
//! The way of a start: [`target`] describes the place, [`image`] finds the build for its platform and [`artifact`] prepares
//! it, [`ssh`] makes the connection, [`stage`] is the dialogue with the far side's shell, [`launch`](mod@launch) drives it all.

pub mod artifact;
pub mod error;
mod escape;
mod failure;
pub mod fork_server;
mod helper;
pub mod hub;
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
pub use hub::{Hub, HubError, HubProcess, HubStart, HubStarted};
pub use image::Program;
pub use launch::{Delivery, Launched, launch, launch_via};
pub use local::PIPE_SIZE;
pub use process::{Exit, Process, Stderr};
pub use target::{Cache, CommandForm, CommandTarget, LaunchOptions, Target};
