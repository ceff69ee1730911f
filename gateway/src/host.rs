//! What a gateway tells about its worker: the process, the machine, what runs.

use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// The worker's process and machine.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Info {
    /// The number of the process, there.
    pub pid: u32,
    /// Its working directory.
    pub cwd: Option<PathBuf>,
    /// Its program file. A delivered program may have been removed since it started.
    pub executable: Option<PathBuf>,
    /// The name of the machine.
    pub host: String,
    /// The operating system, as Rust names it: `linux`, `macos`.
    pub os: String,
    /// The system's release.
    pub release: String,
    /// The processor's architecture, as Rust names it: `x86_64`, `aarch64`.
    pub arch: String,
    /// The version of this crate in the worker.
    pub farcall: String,
    /// The program's version, if it gave one to [`Tasks::version`](crate::Tasks::version).
    pub program: String,
    /// How long the worker has been running.
    pub uptime: Duration,
    /// The processors that the worker may use.
    pub cores: usize,
    /// The machine's memory in bytes, where the system tells.
    pub memory: Option<u64>,
    /// The worker's resident memory in bytes, where the system tells.
    pub resident: Option<u64>,
}

/// What a worker is doing.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Status {
    /// Channels that are open on the connection, its own included.
    pub channels: usize,
    /// Tasks that run.
    pub running: usize,
    /// Tasks that wait for their turn.
    pub queued: usize,
    /// Commands that run.
    pub commands: usize,
    /// Plain functions that may run at once.
    pub slots: usize,
    /// The tasks one by one; the first 256, in the order in which they came.
    pub tasks: Vec<RunningTask>,
}

/// A task that runs or waits for its turn.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct RunningTask {
    /// The name of its function.
    pub name: String,
    /// How long ago it came.
    pub age: Duration,
    /// Whether it has had its turn.
    pub started: bool,
    /// Whether its caller is gone: it has been cancelled and cannot be stopped, because it computes or blocks.
    pub cancelled: bool,
}

impl Info {
    /// That of this process.
    pub(crate) fn here(program: &str, uptime: Duration) -> Info {
        let uname = rustix::system::uname();
        Info {
            pid: std::process::id(),
            cwd: std::env::current_dir().ok().map(as_text),
            executable: std::env::current_exe().ok().map(as_text),
            host: uname.nodename().to_string_lossy().into_owned(),
            os: std::env::consts::OS.into(),
            release: uname.release().to_string_lossy().into_owned(),
            arch: std::env::consts::ARCH.into(),
            farcall: env!("CARGO_PKG_VERSION").into(),
            program: program.into(),
            uptime,
            cores: crate::worker::limits::slots().get(),
            memory: memory(),
            resident: resident(),
        }
    }
}

/// A name that is not UTF-8 would not cross the wire; this is for people.
fn as_text(path: PathBuf) -> PathBuf {
    path.to_string_lossy().into_owned().into()
}

#[cfg(target_os = "linux")]
fn memory() -> Option<u64> {
    let info = rustix::system::sysinfo();
    // The width of the first depends on the processor.
    u64::try_from(u128::from(info.totalram) * u128::from(info.mem_unit.max(1))).ok()
}

#[cfg(not(target_os = "linux"))]
fn memory() -> Option<u64> {
    None
}

/// The second field of `/proc/self/statm`, in pages.
fn resident() -> Option<u64> {
    let statm = std::fs::read_to_string("/proc/self/statm").ok()?;
    let pages: u64 = statm.split_whitespace().nth(1)?.parse().ok()?;
    Some(pages * rustix::param::page_size() as u64)
}
