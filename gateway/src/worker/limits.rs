//! What a worker may use: descriptors, memory, processor time; and where it stands in the file system.
//!
//! To be applied after the guardians have started, which would otherwise be limited too, and before any other thread
//! has: on Linux, niceness belongs to a thread and is inherited by those that it starts.

use std::io;
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// The limit on descriptors before it was raised, for what this process starts. A fact about the process, like the
/// limit itself.
static NOFILE_BEFORE: OnceLock<Rlimit> = OnceLock::new();

/// Why a limit could not be applied.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LimitError {
    /// The soft limit on descriptors cannot be changed.
    #[error("cannot raise the limit on descriptors")]
    Descriptors(#[source] io::Error),
    /// The memory limit is refused; above the hard limit of the process, for example.
    #[error("cannot limit memory to {bytes} bytes")]
    Memory {
        /// The limit asked for.
        bytes: u64,
        /// What the system said.
        source: io::Error,
    },
    /// The niceness is refused: only the privileged may lower it.
    #[error("cannot add {increment} to the niceness")]
    Nice {
        /// The increment asked for.
        increment: i32,
        /// What the system said.
        source: io::Error,
    },
    /// The directory cannot be made, or not be entered.
    #[error("cannot {doing} {}", path.display())]
    Directory {
        /// Which of the two: "create" or "enter".
        doing: &'static str,
        /// The directory.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
}

/// Raises this process's soft limit on descriptors to the hard one. What is started by [`super::child`] gets the old one
/// back: programs that use `select` break beyond 1,024, and some loop over all numbers.
///
/// # Errors
/// [`LimitError::Descriptors`]; the limit is then unchanged, and one can go on with it.
pub fn raise_descriptors() -> Result<(), LimitError> {
    let before = getrlimit(Resource::Nofile);
    let raised = Rlimit { current: most_descriptors(before.maximum), maximum: before.maximum };
    setrlimit(Resource::Nofile, raised).map_err(|error| LimitError::Descriptors(error.into()))?;
    // A second call must not take the raised limit for the original.
    let _ = NOFILE_BEFORE.set(before);
    Ok(())
}

#[cfg(not(target_vendor = "apple"))]
fn most_descriptors(hard: Option<u64>) -> Option<u64> {
    hard
}

/// These kernels claim to have no hard limit and then refuse more than `OPEN_MAX`.
#[cfg(target_vendor = "apple")]
fn most_descriptors(hard: Option<u64>) -> Option<u64> {
    Some(hard.unwrap_or(u64::MAX).min(10_240))
}

/// The limit on descriptors that what this process starts should have, if it differs from the process's own.
pub(super) fn descriptors_of_children() -> Option<Rlimit> {
    NOFILE_BEFORE.get().copied()
}

/// Limits the memory of this process, and of each process that it starts, to `bytes`.
///
/// What is limited is `RLIMIT_DATA`: private writable memory, which is what programs run out of. `RLIMIT_AS` would
/// count address space that is only reserved (64 MiB for each thread's heap, stacks, mapped files) and so forbid
/// programs that use little. Before Linux 4.7, `RLIMIT_DATA` covers no more than the `brk` heap, and is weaker than its
/// name. An allocation beyond the limit fails, which aborts a Rust program.
///
/// # Errors
/// [`LimitError::Memory`]; nothing is limited then.
pub fn limit_memory(bytes: u64) -> Result<(), LimitError> {
    let limit = Rlimit { current: Some(bytes), maximum: Some(bytes) };
    setrlimit(Resource::Data, limit).map_err(|error| LimitError::Memory { bytes, source: error.into() })
}

/// Adds `increment` to the niceness of the calling thread and what it starts: of the whole process, while there is no
/// other thread.
///
/// # Errors
/// [`LimitError::Nice`]; the niceness is then unchanged.
pub fn add_nice(increment: i32) -> Result<(), LimitError> {
    rustix::process::nice(increment)
        .map(drop)
        .map_err(|error| LimitError::Nice { increment, source: error.into() })
}

/// Makes `path` with all its parents, if it is missing, and the working directory of the process.
///
/// # Errors
/// [`LimitError::Directory`]; directories that were made stay.
pub fn enter_directory(path: &Path) -> Result<(), LimitError> {
    let failed = |doing| move |source| LimitError::Directory { doing, path: path.to_owned(), source };
    std::fs::create_dir_all(path).map_err(failed("create"))?;
    std::env::set_current_dir(path).map_err(failed("enter"))
}

/// How many tasks that compute fit here at once: the processors that the affinity of this thread and the quota of its
/// control groups (both versions) allow, rounded down, at least one.
#[must_use]
pub fn slots() -> NonZeroUsize {
    // The standard library looks at all three.
    std::thread::available_parallelism().unwrap_or(NonZeroUsize::MIN)
}
