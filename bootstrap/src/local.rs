//! A child process of this program whose standard input and output carry a worker.

use std::ffi::{OsStr, OsString};
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::Stdio;

use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg};
use rustix::process::{Resource, Rlimit};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::process::{ChildStderr, Command};

use crate::helper;
use crate::process::{Kill, Process, Stderr, watch_child};
use crate::target::LaunchOptions;

/// A process that was started, with its streams.
pub(crate) struct Started {
    pub(crate) reader: Box<dyn AsyncRead + Send + Unpin>,
    pub(crate) writer: Box<dyn AsyncWrite + Send + Unpin>,
    pub(crate) stderr: Stderr,
    pub(crate) process: Process,
}

/// What a child is, beside its arguments.
pub(crate) struct Child<'a> {
    pub(crate) program: &'a OsStr,
    pub(crate) args: &'a [OsString],
    pub(crate) kill: Kill,
    /// The settings that hold for the child itself; absent when they are meant for what is behind it.
    pub(crate) options: Option<&'a LaunchOptions>,
}

/// Why a child was not started.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SpawnError {
    /// It cannot start in its folder: that cannot be made, or not be entered.
    #[error("cannot start in {folder}: {source}", folder = .folder.display())]
    Folder { folder: PathBuf, source: io::Error },
    /// The rest.
    #[error(transparent)]
    Start(#[from] io::Error),
}

/// The size of the pipes between both sides in bytes: a batch of messages fits in one write, and a child costs a fraction of the 64 MiB
/// that a user's pipes may have together before new ones become tiny (pipe(7)).
pub const PIPE_SIZE: usize = 256 << 10;

/// A socket whose other side is gone is an error. Apple's systems know no such flag, but the standard library has SIGPIPE ignored.
#[cfg(not(target_vendor = "apple"))]
pub(crate) const NO_SIGNAL: SendFlags = SendFlags::NOSIGNAL;
#[cfg(target_vendor = "apple")]
pub(crate) const NO_SIGNAL: SendFlags = SendFlags::empty();

/// Starts a child.
///
/// It leads a process group of its own, so that an interrupt at the terminal does not reach it, and no signal is blocked
/// in it. A command inherits no descriptors but its three pipes and has all signals at their defaults. A worker sees to
/// both itself, as the first thing it does, since nobody else can where SSH started it: to do it here would mean to run
/// code between fork and exec, and a fork copies the page tables of this process. With 50 MB in use that took 5 ms;
/// without, the start takes 1 ms, of which the worker's own half takes 0.7.
pub(crate) async fn spawn(child: Child<'_>) -> Result<Started, SpawnError> {
    let mut command = Command::new(child.program);
    command.args(child.args).process_group(0).kill_on_drop(true);
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let (mut nice, mut memory) = (0, None);
    let mut stderr = None;
    if let Some(options) = child.options {
        if let Some(passed) = &options.pass {
            let (ours, theirs) = socket_with(passed)?;
            command.stderr(OwnedFd::from(theirs));
            stderr = Some(ours);
        }
        if let Some(name) = &options.argv0 {
            command.arg0(name);
        }
        if let Some(folder) = &options.chdir {
            let made = folder.clone();
            // Entered here too: of the child it would not be known whether its folder or its program cannot be used.
            let enter = move || {
                std::fs::create_dir_all(&made)?;
                std::fs::metadata(made.join("."))
            };
            let entered = tokio::task::spawn_blocking(enter).await.map_err(io::Error::from)?;
            entered.map_err(|source| SpawnError::Folder { folder: folder.clone(), source })?;
            command.current_dir(folder);
        }
        command.envs(options.env.iter().map(|(name, value)| (name, value)));
        nice = options.nice.unwrap_or(0);
        memory = options.memory;
    }
    let prepare = move || {
        default_signals();
        close_others_on_exec()?;
        if nice != 0 {
            rustix::process::nice(nice)?;
        }
        if let Some(bytes) = memory {
            let limit = Rlimit { current: Some(bytes), maximum: Some(bytes) };
            rustix::process::setrlimit(MEMORY, limit)?;
        }
        Ok(())
    };
    if child.options.is_none() || nice != 0 || memory.is_some() {
        // SAFETY: between fork and exec the closure makes system calls only: no allocation, no locks.
        unsafe { command.pre_exec(prepare) };
    }
    let mut process = match child.options {
        // A worker ends by itself when its input does, in order.
        Some(_) => {
            let process = command.spawn()?;
            // What else holds their end goes with the command.
            drop(command);
            process
        }
        None => helper::spawn(command).await?,
    };
    if let Some(stderr) = stderr {
        process.stderr = Some(ChildStderr::from_std(OwnedFd::from(stderr).into())?);
    }
    let stdin = process.stdin.take().ok_or(io::Error::from(io::ErrorKind::BrokenPipe))?;
    let stdout = process.stdout.take().ok_or(io::Error::from(io::ErrorKind::BrokenPipe))?;
    // A smaller pipe works too. A worker sees to its own.
    #[cfg(target_os = "linux")]
    if child.options.is_none() {
        for pipe in [stdin.as_fd(), stdout.as_fd()] {
            let _ = rustix::pipe::fcntl_setpipe_size(pipe, PIPE_SIZE);
        }
    }
    let (process, stderr) =
        watch_child(process, child.kill, child.options.and_then(|options| options.kept.clone()));
    Ok(Started { reader: Box::new(stdout), writer: Box::new(stdin), stderr, process })
}

/// Both ends of a socket for a worker's standard error, with a descriptor waiting in theirs. More than three descriptors would
/// mean to run code between fork and exec.
pub(crate) fn socket_with(passed: &OwnedFd) -> io::Result<(UnixStream, UnixStream)> {
    let (ours, theirs) = UnixStream::pair()?;
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    let descriptors = [passed.as_fd()];
    // The buffer is made for one.
    control.push(SendAncillaryMessage::ScmRights(&descriptors));
    sendmsg(&ours, &[io::IoSlice::new(b"!")], &mut control, NO_SIGNAL)?;
    Ok((ours, theirs))
}

/// What bounds a process's memory. On Linux the data segment counts all private writable memory, but not address
/// space that is only reserved, which every thread of glibc's allocator does by the 64 MiB.
const MEMORY: Resource = if cfg!(target_os = "linux") { Resource::Data } else { Resource::As };

/// An ignored signal stays ignored through exec, unlike one with a handler.
#[cfg(target_os = "linux")]
fn default_signals() {
    // The kernel's own form of the structure, all zero: the default action, no flags, nothing blocked. The C library
    // would keep the two numbers from us that its threads use, which an ill-behaved parent may have ignored too.
    let action = [0_u64; 8];
    for signal in 1..=64 {
        // SAFETY: reads `action`, which is longer than the kernel's structure, and sets a disposition of the child alone.
        // Numbers that may not be set are refused without effect.
        unsafe {
            libc::syscall(libc::SYS_rt_sigaction, signal, action.as_ptr(), std::ptr::null_mut::<u64>(), 8)
        };
    }
}

/// An ignored signal stays ignored through exec, unlike one with a handler.
#[cfg(not(target_os = "linux"))]
fn default_signals() {
    for signal in 1..32 {
        // SAFETY: sets a disposition of the child alone; numbers that may not be set are refused without effect.
        unsafe { libc::signal(signal, libc::SIG_DFL) };
    }
}

/// Marks all but the first three descriptors, so that exec closes those that a careless program left inheritable. The
/// mark, rather than closing at once, leaves the one alive through which a failing exec is reported.
#[cfg(target_os = "linux")]
fn close_others_on_exec() -> io::Result<()> {
    // SAFETY: a system call on the child's own descriptor table.
    let done =
        unsafe { libc::syscall(libc::SYS_close_range, 3, libc::c_uint::MAX, libc::CLOSE_RANGE_CLOEXEC) };
    if done == 0 {
        return Ok(());
    }
    match io::Error::last_os_error() {
        // Before Linux 5.11: the worker closes what it does not know.
        error if matches!(error.raw_os_error(), Some(libc::ENOSYS | libc::EINVAL)) => Ok(()),
        error => Err(error),
    }
}

#[cfg(not(target_os = "linux"))]
fn close_others_on_exec() -> io::Result<()> {
    Ok(())
}
