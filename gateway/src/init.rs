//! The hand-over at the beginning of `main`: a worker stays here for the rest of its life, a coordinator goes on.

use std::collections::BTreeMap;
use std::sync::{Arc, OnceLock};

use crate::role::{Role, WORD};
use crate::tasks::{Tasks, TasksError};

/// What `init` learned about this program. A program is initialised once.
static PROGRAM: OnceLock<Initialised> = OnceLock::new();

/// What gateways need to know of the program.
#[derive(Debug)]
pub(crate) struct Initialised {
    pub(crate) tasks: Arc<Tasks>,
    /// The filter of the log, for both sides.
    pub(crate) log: Option<String>,
    /// Variables that SSH configurations may refer to, the agent's socket among them.
    pub(crate) environment: BTreeMap<String, String>,
}

/// Why a program cannot go on as a coordinator.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum InitError {
    /// The tasks are not in order.
    #[error(transparent)]
    Tasks(#[from] TasksError),
    /// It was done before; there is one list of tasks.
    #[error("farcall::init was called twice")]
    Twice,
    /// `FARCALL_LOG` is no filter.
    #[error("FARCALL_LOG={value:?} is no filter: {reason}")]
    Log {
        /// The variable's value.
        value: String,
        /// What is wrong with it.
        reason: String,
    },
}

/// Hands over the program's tasks; to be called first thing in `main`.
///
/// In a worker, which is this same program started again by a coordinator, it never returns: it serves until the coordinator
/// goes. In a coordinator it returns at once. Whatever `main` does before it, workers do too: open no files, print nothing,
/// and start no threads.
///
/// Inside a runtime (`#[tokio::main]`) it works as well: the worker then serves from threads of its own. The runtime's
/// threads exist by then, so an idle copy of the process stays above the worker; call it before the runtime if you can.
///
/// If whoever started the program has ignored the ends of children (SIGCHLD), it gives that its default back: no program
/// could learn how a child ended otherwise.
///
/// It reads the environment, which nothing else here does: `FARCALL_LOG`, a filter like `info,farcall=debug`, has events
/// of both sides printed to standard error; the rest is kept for SSH configurations that refer to it.
///
/// If the tasks are not in order, it says so on standard error and ends the program with code 70; [`try_init`] returns
/// instead.
///
/// ```no_run
/// use farcall::{Gateway, Spec, Tasks};
///
/// async fn square(n: u64) -> u64 {
///     n * n
/// }
///
/// fn main() -> Result<(), Box<dyn std::error::Error>> {
///     farcall::init(Tasks::new().add(square));
///     tokio::runtime::Runtime::new()?.block_on(async {
///         let gateway = Gateway::open(&"ssh://web1".parse::<Spec>()?).await?;
///         println!("{}", gateway.call(square, (7,)).await?);
///         Ok(())
///     })
/// }
/// ```
pub fn init(tasks: Tasks) {
    if let Err(error) = try_init(tasks) {
        eprintln!("{error}");
        std::process::exit(70);
    }
}

/// As [`init`], for a program that is nothing but a worker: a lean twin with the same tasks, which others ship as
/// [`Program`](crate::Program). It returns if no coordinator has started it, and opens no gateways then; what a coordinator
/// needs at its start is left out of the program.
///
/// It may be called from a `main` of C's kind (`#![no_main]`), before which the standard library has done nothing: standard
/// descriptors that are closed are opened on `/dev/null`, and SIGPIPE is ignored from here on.
pub fn init_twin(tasks: Tasks) {
    crate::worker::stdio::open_closed();
    crate::worker::signals::ignore_broken_pipes();
    if let Err(error) = serve_if_worker(tasks) {
        eprintln!("{error}");
        std::process::exit(70);
    }
}

/// As [`init`], but what is wrong is returned. In a worker it does not return, as `init`.
///
/// # Errors
/// See [`InitError`]; no gateway can be opened then.
pub fn try_init(tasks: Tasks) -> Result<(), InitError> {
    let tasks = serve_if_worker(tasks)?;
    let log = std::env::var("FARCALL_LOG").ok().filter(|filter| !filter.is_empty());
    let filter = match &log {
        None => None,
        Some(value) => match crate::log::filter(value) {
            Ok(filter) => Some(filter),
            Err(reason) => return Err(InitError::Log { value: value.clone(), reason }),
        },
    };
    let initialised = Initialised { tasks: Arc::new(tasks), log, environment: environment() };
    PROGRAM.set(initialised).map_err(|_| InitError::Twice)?;
    if let Some(filter) = filter {
        crate::log::print(filter);
    }
    Ok(())
}

/// Returns the tasks unless this process was started as a worker.
fn serve_if_worker(tasks: Tasks) -> Result<Tasks, InitError> {
    crate::worker::signals::be_told_of_children();
    let mut arguments = std::env::args_os().skip(1);
    let first = arguments.next();
    tasks.check()?;
    #[cfg(target_os = "linux")]
    let is_fork_server = first.as_ref().is_some_and(|first| first == crate::role::FORK_SERVER_WORD);
    #[cfg(not(target_os = "linux"))]
    let is_fork_server = false;
    let is_worker = first.is_some_and(|first| first == WORD);
    if is_worker || is_fork_server {
        let tasks = Arc::new(tasks);
        // A worker may start workers of its own. Its log goes to its coordinator.
        let initialised = Initialised { tasks: Arc::clone(&tasks), log: None, environment: environment() };
        PROGRAM.set(initialised).map_err(|_| InitError::Twice)?;
        #[cfg(target_os = "linux")]
        if is_fork_server {
            crate::worker::fork_server::serve(tasks);
        }
        match Role::from_arguments(arguments) {
            Ok(role) => crate::worker::serve::serve(role, tasks),
            Err(error) => {
                eprintln!("{error}");
                std::process::exit(70);
            }
        }
    }
    Ok(tasks)
}

fn environment() -> BTreeMap<String, String> {
    std::env::vars_os()
        .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
        .collect()
}

/// What `init` learned; `None` before it.
pub(crate) fn program() -> Option<&'static Initialised> {
    PROGRAM.get()
}
