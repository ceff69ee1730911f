//! Guardians for a worker whose program may have started threads before it said that it is one.

use super::guardian::{self, Guarded, Options, StartError};

/// Starts the guardians.
///
/// Where there are threads already (`#[tokio::main]`), the process is forked once more, below a copy of itself that does
/// nothing but wait for it. The child has one thread, and a C library that made itself consistent while it forked; of what
/// the other threads held in this program it uses nothing: it serves from a new thread, with runtimes of its own.
/// Guarding from a fresh program instead would not help, as that would start the same threads again before it came here.
#[cfg(target_os = "linux")]
pub(super) fn guarded(options: &Options) -> Result<Guarded, StartError> {
    match guardian::start(options) {
        Err(StartError::Threads { .. }) => {
            below_a_copy()
                .map_err(|source| StartError::System { doing: "fork below the runtime", source })?;
            guardian::start(options)
        }
        result => result,
    }
}

#[cfg(not(target_os = "linux"))]
pub(super) fn guarded(options: &Options) -> Result<Guarded, StartError> {
    guardian::start(options)
}

/// Returns in the child. The parent ends when the child does, in the same way.
#[cfg(target_os = "linux")]
pub(super) fn below_a_copy() -> std::io::Result<()> {
    use rustix::process::{Signal, getpid, getppid, set_parent_process_death_signal};

    let parent = getpid();
    // SAFETY: the child goes on with this thread alone. It uses the allocator, which the C library leaves usable in the child
    // of a process with threads, and nothing that a thread of this program may hold locked.
    match unsafe { libc::fork() } {
        -1 => Err(std::io::Error::last_os_error()),
        0 => {
            // The copy's death must be ours: the launching side knows only the copy.
            set_parent_process_death_signal(Some(Signal::TERM))?;
            if getppid() != Some(parent) {
                std::process::exit(70);
            }
            Ok(())
        }
        child => wait_for(child),
    }
}

/// The copy's whole further life.
#[cfg(target_os = "linux")]
fn wait_for(child: libc::pid_t) -> ! {
    use rustix::process::{Pid, WaitOptions, waitpid};

    // The streams are the worker's: they end when it ends, not when the copy does.
    if let Ok(null) = rustix::fs::open(c"/dev/null", rustix::fs::OFlags::RDWR, rustix::fs::Mode::empty()) {
        let _ = rustix::stdio::dup2_stdin(&null);
        let _ = rustix::stdio::dup2_stdout(&null);
        let _ = rustix::stdio::dup2_stderr(&null);
    }
    let status = loop {
        match waitpid(Pid::from_raw(child), WaitOptions::empty()) {
            Err(rustix::io::Errno::INTR) | Ok(None) => {}
            Ok(Some((_, status))) => break Some(status),
            Err(_) => break None,
        }
    };
    if let Some(signal) = status.and_then(|status| status.terminating_signal()) {
        super::signals::die_by(signal);
    }
    let code = status.and_then(|status| status.exit_status()).unwrap_or(70);
    // SAFETY: ends the process without running what the program registered for its end: the worker has done so.
    unsafe { libc::_exit(code) }
}
