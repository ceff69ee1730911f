//! A hub: a host, reached already, from which workers are started.

use std::error::Error;
use std::ffi::OsString;
use std::fmt;
use std::future::Future;
use std::io;
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::Arc;

use tokio::io::{AsyncRead, AsyncWrite};

use crate::artifact::Artifact;
use crate::process::Exit;

/// A future of a trait's method.
pub type Later<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// Starts processes on another host, and relays their streams.
///
/// What [`launch_via`](crate::launch::launch_via) needs: a worker that runs there, say.
pub trait Hub: Send + Sync {
    /// What it is called in errors.
    fn name(&self) -> &str;

    /// The program that the hub itself runs, where its bytes are known: those that were delivered there.
    fn image(&self) -> Option<&Artifact>;

    /// Starts a process there. Cancel-safe: what a dropped start has started is killed.
    fn start(&self, start: HubStart) -> Later<'_, Result<HubStarted, HubError>>;
}

/// A process that a hub is to start. All settings hold for the process itself.
#[derive(Default)]
pub struct HubStart {
    /// The program, looked up in the hub's `PATH` when it has no slash; `None` for the program that the hub itself runs.
    pub program: Option<OsString>,
    /// What it is called in a list of processes.
    pub argv0: Option<OsString>,
    /// Its arguments.
    pub args: Vec<OsString>,
    /// The folder to start in, made with its parents if it is missing.
    pub chdir: Option<PathBuf>,
    /// Added to its niceness.
    pub nice: Option<i32>,
    /// Variables beside those of the hub.
    pub env: Vec<(String, OsString)>,
    /// The limit of its memory in bytes.
    pub memory: Option<u64>,
}

impl fmt::Debug for HubStart {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Variables may hold secrets.
        f.debug_struct("HubStart")
            .field("program", &self.program)
            .field("args", &self.args)
            .finish_non_exhaustive()
    }
}

/// A process that a hub has started, with its streams.
pub struct HubStarted {
    /// Its output.
    pub reader: Box<dyn AsyncRead + Send + Unpin>,
    /// Its input. Shutting it down is the end of the file.
    pub writer: Box<dyn AsyncWrite + Send + Unpin>,
    /// Its error output.
    pub stderr: Box<dyn AsyncRead + Send + Unpin>,
    /// The process itself.
    pub process: Arc<dyn HubProcess>,
}

impl fmt::Debug for HubStarted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HubStarted").finish_non_exhaustive()
    }
}

/// A process at a hub. It is killed when the last handle is dropped.
pub trait HubProcess: Send + Sync {
    /// Waits for its end. [`Exit::Unknown`] when the hub is gone. Asked for once. Cancel-safe.
    fn exit(&self) -> Later<'_, Exit>;

    /// Kills it with its process group. Harmless when it has ended.
    fn kill(&self);

    /// Has the hub write its own program, which must be `length` bytes long, to the process's input. Returns false if it
    /// cannot and has written nothing.
    fn feed(&self, length: u64) -> Later<'_, io::Result<bool>>;
}

/// Why a hub did not start a process.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum HubError {
    /// The start failed there.
    #[error("cannot start {program} from {hub}: cannot {step}: {source}")]
    Start {
        /// The hub.
        hub: String,
        /// The program.
        program: String,
        /// What failed: `execute the program`, `enter its directory`.
        step: String,
        /// What the system there said.
        source: io::Error,
    },
    /// The hub refused, or is gone.
    #[error("{hub} starts nothing: {source}")]
    Refused {
        /// The hub.
        hub: String,
        /// Why.
        source: Box<dyn Error + Send + Sync>,
    },
}
