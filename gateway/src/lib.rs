//! Run this program's own functions on any host.
//!
//! A program that uses this crate is its own worker: it is copied to where a [`Gateway`] leads, started there, and runs the
//! functions that both sides know, its [`Tasks`]. Nothing needs to be installed there but a POSIX shell.
//!
//! ```no_run
//! use farcall::{Gateway, Receiver, Sender, Spec, Tasks};
//!
//! async fn count(mut lines: Receiver<String>, long: Sender<String>) -> Result<u64, farcall::BoxError> {
//!     let mut count = 0;
//!     while let Some(line) = lines.recv().await? {
//!         if line.len() > 80 {
//!             long.send(line).await?;
//!         }
//!         count += 1;
//!     }
//!     Ok(count)
//! }
//!
//! fn main() -> Result<(), farcall::BoxError> {
//!     farcall::init(Tasks::new().add(count));
//!     tokio::runtime::Runtime::new()?.block_on(async {
//!         let gateway = Gateway::open(&"ssh://web1".parse::<Spec>()?).await?;
//!         let (lines, their_lines) = gateway.pair();
//!         let (their_long, mut long) = gateway.pair();
//!         let counting = gateway.start(count, (their_lines, their_long)).await?;
//!         lines.send("short".to_owned()).await?;
//!         lines.close();
//!         while let Some(line) = long.recv().await? {
//!             println!("{line}");
//!         }
//!         println!("{} lines", counting.await?);
//!         Ok(())
//!     })
//! }
//! ```
//!
//! - [`init`] first thing in `main`; [`Tasks`] and [`Task`] say what a task is, [`Context`] what it knows.
//! - [`Spec`] says where; [`Gateway::open`] goes there; [`Gateway::call`] runs a task.
//! - [`Group`] is many gateways, [`MultiChannel`] a task on each of them.
//! - [`Builder::via`] starts a gateway from another's host; [`Gateway::isolated`] runs tasks in processes of their own.
//! - [`Command`] runs programs there, in the shape of `tokio::process::Command`.
//! - [`map()`] runs a task over any number of inputs on any number of gateways, [`map_command`] a program.
//! - [`Gateway::output`] is what is printed there.
//! - [`local`] is child processes on this machine: one function, a pool, pipes between them.
//! - [`worker`] has the process-level parts of a worker.

#![cfg_attr(not(test), warn(clippy::unwrap_used))]

mod call;
mod context;
mod end;
mod failure;
mod gateway;
mod group;
mod host;
mod ids;
mod init;
mod isolated;
pub mod local;
mod log;
mod map;
mod mismatch;
mod multi;
mod open;
mod output;
mod process;
mod role;
mod spec;
pub mod task;
mod tasks;
mod via;
mod wire;
pub mod worker;

pub use farcall_bootstrap::{
    Cache, Class, CommandForm, CommandTarget, Delivery, Exit, LaunchError, Program, Step, platform::Platform,
    ssh,
};
pub use farcall_channel as channel;
pub use farcall_channel::{Channel, Raw, Receiver, Sender};

pub use call::{Call, CallError, TaskHandle};
pub use context::Context;
pub use end::GatewayEnd;
pub use failure::{Cause, Failure, Panic};
pub use gateway::Gateway;
pub use group::{
    Group, GroupBuilder, IntoSpecs, NotStarted, PartialStart, Plan, StartError, StartFailure, TerminateError,
    Which,
};
pub use host::{Info, RunningTask, Status};
pub use init::{InitError, init, init_twin, try_init};
pub use isolated::{Isolated, IsolatedError, Slot};
pub use map::{
    GatewayProgress, GatewayState, Input, ItemError, Map, MapBuilder, MapError, OnError, Progress,
    ProgressEvents, map, map_command, map_stream,
};
pub use mismatch::Mismatch;
pub use multi::{
    Event, MultiChannel, MultiError, MultiReceiver, MultiSender, Received, SendEachError, SendFailure,
    SendToError, Settled,
};
pub use open::{Builder, OpenError};
pub use output::{Output, PrintStream, Printed};
pub use process::{Child, Command, CommandError, CommandOutput, Ended, ExitStatus, Stdio};
pub use spec::{Spec, SpecError};
pub use task::{Message, Outcome, Plain, Task};
pub use tasks::{Tasks, TasksError};

/// Any error, as tasks may return it.
pub type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// The program that the README shows is compiled, so that it stays true.
#[cfg(doctest)]
#[doc = include_str!("../../README.md")]
struct Readme;
