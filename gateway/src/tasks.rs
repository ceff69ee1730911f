//! The tasks of a program: the list that coordinator and worker must agree on.

use std::any::type_name;
use std::collections::BTreeMap;
use std::sync::Arc;

use farcall_channel::Incoming;
use serde::{Deserialize, Serialize};

use crate::local::serve::RunCall;
use crate::task::Task;
use crate::worker::crew::Crew;

/// The longest name of a task: with one letter before it, the request of a channel.
const MAX_NAME: usize = farcall_channel::frame::MAX_REQUEST - 1;

/// The tasks of a program, to be handed to [`init`](crate::init) first thing in `main`.
///
/// A task is a function item: its type is its identity, on the wire it is a name. See [`Task`] for what a function may
/// look like.
///
/// ```
/// use farcall::{Context, Receiver, Sender, Tasks};
///
/// async fn square(n: u64) -> u64 {
///     n * n
/// }
///
/// async fn grep(_: Context, pattern: String, mut lines: Receiver<String>, hits: Sender<String>) -> Result<u64, farcall::BoxError> {
///     let mut count = 0;
///     while let Some(line) = lines.recv().await? {
///         if line.contains(&pattern) {
///             hits.send(line).await?;
///             count += 1;
///         }
///     }
///     Ok(count)
/// }
///
/// /// Blocks, so it is no `async fn`: it runs on a thread of its own.
/// fn count(path: std::path::PathBuf) -> std::io::Result<usize> {
///     Ok(std::fs::read(path)?.iter().filter(|&&byte| byte == b'\n').count())
/// }
///
/// let tasks = Tasks::new().add(square).add(grep).add(count);
/// # assert!(tasks.check().is_ok());
/// ```
#[derive(Default)]
pub struct Tasks {
    entries: BTreeMap<&'static str, Entry>,
    faults: Vec<TasksError>,
    version: String,
}

struct Entry {
    signature: String,
    start: Start,
    stream: Start,
    call: RunCall,
}

/// Takes a channel and runs the task on it.
type Start = Box<dyn Fn(Incoming, &Arc<Crew>) + Send + Sync>;

/// Why tasks cannot be handed over.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum TasksError {
    /// The same function was added twice, or two of the same name.
    #[error("task {name} was added twice")]
    Duplicate {
        /// Its name.
        name: &'static str,
    },
    /// Closures have no name that is theirs alone.
    #[error("{name} is a closure; a task must be a function")]
    Closure {
        /// What the compiler calls it.
        name: &'static str,
    },
    /// The name does not fit into a request.
    #[error("the name of task {name} takes {} bytes, {MAX_NAME} are allowed", .name.len())]
    NameTooLong {
        /// The name.
        name: &'static str,
    },
}

/// A task as both sides name it to each other.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub(crate) struct Declared {
    pub(crate) name: String,
    pub(crate) signature: String,
}

/// The name of a task: that of its function, with crate and modules.
pub(crate) fn name_of<F>() -> &'static str {
    const {
        assert!(
            size_of::<F>() == 0,
            "a task must be a function item: no function pointer, no closure that captures"
        )
    };
    type_name::<F>()
}

impl Tasks {
    /// No tasks yet. A program without any can still run commands on its gateways.
    pub fn new() -> Tasks {
        Tasks::default()
    }

    /// Adds a task. What is wrong with it is reported by [`check`](Self::check), and by [`init`](crate::init).
    ///
    /// What has no name of its own does not compile:
    ///
    /// ```compile_fail
    /// let n = 3;
    /// let _ = farcall::Tasks::new().add(move |m: u64| m + n);
    /// ```
    ///
    /// ```compile_fail
    /// let task: fn(u64) -> u64 = |n| n;
    /// let _ = farcall::Tasks::new().add(task);
    /// ```
    #[must_use]
    #[expect(clippy::should_implement_trait, reason = "no sum is meant, and a list of tasks is no number")]
    pub fn add<F: Task<M>, M: 'static>(mut self, task: F) -> Tasks {
        let name = name_of::<F>();
        if name.contains("{{closure}}") {
            self.faults.push(TasksError::Closure { name });
        } else if name.len() > MAX_NAME {
            self.faults.push(TasksError::NameTooLong { name });
        } else {
            let signature = format!("{} -> {}", type_name::<F::Args>(), type_name::<F::Value>());
            let start: Start =
                Box::new(move |incoming, crew| crate::worker::run::start(name, task, incoming, crew));
            let stream: Start =
                Box::new(move |incoming, crew| crate::worker::stream::start(name, task, incoming, crew));
            let call: RunCall =
                Box::new(move |arguments, stage| crate::local::serve::run(name, task, arguments, stage));
            if self.entries.insert(name, Entry { signature, start, stream, call }).is_some() {
                self.faults.push(TasksError::Duplicate { name });
            }
        }
        self
    }

    /// The version of the program, which both sides must agree on too: usually `env!("CARGO_PKG_VERSION")`.
    #[must_use]
    pub fn version(mut self, version: impl Into<String>) -> Tasks {
        self.version = version.into();
        self
    }

    /// Whether the tasks can be handed over.
    ///
    /// # Errors
    /// The first thing that is wrong with them.
    pub fn check(&self) -> Result<(), TasksError> {
        self.faults.first().map_or(Ok(()), |fault| Err(fault.clone()))
    }

    pub(crate) fn program_version(&self) -> &str {
        &self.version
    }

    pub(crate) fn contains(&self, name: &str) -> bool {
        self.entries.contains_key(name)
    }

    pub(crate) fn start(&self, name: &str) -> Option<&Start> {
        self.entries.get(name).map(|entry| &entry.start)
    }

    /// What runs a stream of calls of the task.
    pub(crate) fn stream(&self, name: &str) -> Option<&Start> {
        self.entries.get(name).map(|entry| &entry.stream)
    }

    pub(crate) fn call(&self, name: &str) -> Option<&RunCall> {
        self.entries.get(name).map(|entry| &entry.call)
    }

    pub(crate) fn declared(&self) -> Vec<Declared> {
        let declared = |(name, entry): (&&'static str, &Entry)| Declared {
            name: (*name).to_owned(),
            signature: entry.signature.clone(),
        };
        self.entries.iter().map(declared).collect()
    }

    /// A number that differs when names or signatures do. Not against forgers, who could as well forge the list: FNV-1a.
    pub(crate) fn digest(&self) -> u64 {
        let words =
            self.entries.iter().flat_map(|(name, entry)| [name.as_bytes(), entry.signature.as_bytes()]);
        let bytes = words.flat_map(|word| word.iter().copied().chain([0]));
        bytes
            .fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3))
    }
}

impl std::fmt::Debug for Tasks {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_set().entries(self.entries.keys()).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn one(n: u64) -> u64 {
        n
    }

    fn two(_: crate::Context, text: String) -> Result<String, String> {
        Ok(text)
    }

    #[test]
    fn duplicates_and_closures_are_refused_by_name() {
        assert_eq!(Tasks::new().add(one).add(two).check(), Ok(()));
        let error = Tasks::new().add(one).add(two).add(one).check().unwrap_err();
        assert_eq!(error.to_string(), format!("task {} was added twice", type_name_of(one)));
        let error = Tasks::new().add(|n: u64| n).check().unwrap_err();
        assert!(matches!(error, TasksError::Closure { .. }), "{error}");
    }

    fn type_name_of<F>(_: F) -> &'static str {
        type_name::<F>()
    }

    #[test]
    fn the_digest_depends_on_names_and_signatures_but_not_on_order() {
        async fn other(n: u32) -> u64 {
            n.into()
        }
        let both = Tasks::new().add(one).add(two);
        assert_eq!(both.digest(), Tasks::new().add(two).add(one).digest());
        assert_ne!(both.digest(), Tasks::new().add(one).digest());
        assert_ne!(both.digest(), Tasks::new().add(one).add(two).add(other).digest());
    }
}
