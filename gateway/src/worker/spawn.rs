//! Starts a program: from a complete plan to a running process, as fast as the system can.
//!
//! On Linux by `clone` with `CLONE_VM | CLONE_VFORK`, the way in which C libraries implement `posix_spawn`: nothing of
//! this process's memory is copied, so the cost does not grow with it. `posix_spawn` itself cannot give the child a
//! limit on descriptors, a controlling terminal, or default actions for signals that are ignored here;
//! `std::process::Command` can with `pre_exec`, but then forks.

#[cfg(target_os = "linux")]
use std::ffi::CString;
use std::ffi::OsString;
use std::io;
use std::os::fd::OwnedFd;
use std::path::PathBuf;

use rustix::process::{Pid, Rlimit};

/// What exactly to start. All descriptors are the child's from then on.
pub(super) struct Plan {
    /// Looked for in the `PATH` of `env` unless it contains a slash.
    pub(super) program: OsString,
    /// From the program's own name on.
    pub(super) args: Vec<OsString>,
    /// The whole environment.
    pub(super) env: Vec<(OsString, OsString)>,
    pub(super) directory: Option<PathBuf>,
    /// For descriptors 0, 1 and 2; `None` leaves what is there.
    pub(super) stdio: [Option<OwnedFd>; 3],
    /// Leads a session with descriptor 0 as its controlling terminal, rather than only a group.
    pub(super) terminal: bool,
    pub(super) descriptors: Option<Rlimit>,
    /// The limit of memory in bytes: see [`super::limits::limit_memory`].
    pub(super) memory: Option<u64>,
    /// Added to the niceness; zero changes nothing.
    pub(super) nice: i32,
}

/// What a start consists of, in order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Step {
    /// Arguments, environment, descriptors.
    Prepare,
    /// A new process.
    Fork,
    /// A group or session of its own.
    Group,
    /// The controlling terminal.
    Terminal,
    /// The working directory.
    Directory,
    /// Standard input, output and error.
    Descriptors,
    /// The limit on descriptors.
    Limit,
    /// The limit of memory.
    Memory,
    /// The niceness.
    Nice,
    /// The program itself.
    Execute,
}

impl std::fmt::Display for Step {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Prepare => "prepare the start",
            Self::Fork => "make a process",
            Self::Group => "give it a process group",
            Self::Terminal => "give it a terminal",
            Self::Directory => "enter its directory",
            Self::Descriptors => "give it its descriptors",
            Self::Limit => "restore its limits",
            Self::Memory => "limit its memory",
            Self::Nice => "set its niceness",
            Self::Execute => "execute the program",
        })
    }
}

/// A process that has been started, and must be reaped by whoever has this.
pub(super) struct Started {
    pub(super) pid: Pid,
    /// Readable when it has ended. Missing before Linux 5.2 and elsewhere.
    pub(super) pidfd: Option<OwnedFd>,
}

/// Where a start failed. No process is left of it.
#[derive(Debug)]
pub(super) struct Failed {
    pub(super) step: Step,
    pub(super) source: io::Error,
}

fn failed(step: Step) -> impl FnOnce(io::Error) -> Failed {
    move |source| Failed { step, source }
}

#[cfg(target_os = "linux")]
fn c_string(text: OsString) -> Result<CString, Failed> {
    use std::os::unix::ffi::OsStringExt;
    CString::new(text.into_vec()).map_err(|error| failed(Step::Prepare)(error.into()))
}

#[cfg(target_os = "linux")]
pub(super) use linux::spawn;

#[cfg(target_os = "linux")]
mod linux {
    use std::ffi::{CStr, CString, OsStr, c_char, c_int, c_void};
    use std::io;
    use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};
    use std::os::unix::ffi::OsStrExt;
    use std::ptr;
    use std::sync::atomic::{AtomicI32, Ordering::Relaxed};

    use rustix::process::{Pid, Resource, Rlimit, setrlimit};

    use super::super::signals::SignalSet;
    use super::{Failed, Plan, Started, Step, c_string, failed};

    /// Enough for a dozen system calls and `execve`, in a debug build too.
    const STACK: usize = 64 * 1024;

    /// The last signal number of Linux.
    const SIGNALS: c_int = if cfg!(any(target_arch = "mips", target_arch = "mips64")) { 128 } else { 64 };

    /// The bytes of a set of them, as the kernel counts.
    const SIGNAL_SET: usize = SIGNALS.unsigned_abs() as usize / 8;

    /// Where programs are looked for without a `PATH`.
    const DEFAULT_PATH: &[u8] = b"/usr/local/bin:/bin:/usr/bin";

    /// All that the child needs, in memory that it shares with this process: it must not allocate.
    struct Orders {
        /// Where the program may be, null at the end.
        candidates: *const *const c_char,
        argv: *const *const c_char,
        /// The arguments for a shell, should the program be a script without an interpreter line: the second of them is
        /// to be replaced by the program's path.
        shell_argv: *mut *const c_char,
        envp: *const *const c_char,
        directory: *const c_char,
        stdio: [c_int; 3],
        terminal: bool,
        descriptors: Option<Rlimit>,
        memory: Option<u64>,
        nice: c_int,
        /// Reported back: the step that failed (its place in [`STEPS`], from one), and its error number.
        failed_step: AtomicI32,
        errno: AtomicI32,
    }

    const STEPS: [Step; 8] = [
        Step::Group,
        Step::Terminal,
        Step::Directory,
        Step::Descriptors,
        Step::Limit,
        Step::Memory,
        Step::Nice,
        Step::Execute,
    ];

    /// Starts what `plan` says. Blocks until the program is executing or has failed to: as long as reading its first
    /// page takes.
    pub(in super::super) fn spawn(plan: Plan) -> Result<Started, Failed> {
        let candidates = candidates(&plan)?;
        let args = plan.args.into_iter().map(c_string).collect::<Result<Vec<_>, _>>()?;
        let env = plan.env.into_iter().map(|(mut name, value)| {
            name.push("=");
            name.push(value);
            c_string(name)
        });
        let env = env.collect::<Result<Vec<_>, _>>()?;
        let directory = plan.directory.map(|path| c_string(path.into_os_string())).transpose()?;
        // From three on, so that giving one its place cannot overwrite another. They are close-on-exec here, and
        // duplicating takes that away.
        let stdio = plan.stdio.map(|fd| fd.map(above_standard).transpose());
        let [stdin, stdout, stderr] = stdio;
        let stdio = [stdin?, stdout?, stderr?];

        let candidate_pointers = pointers(&candidates);
        let argv = pointers(&args);
        let envp = pointers(&env);
        let mut shell_argv = vec![c"/bin/sh".as_ptr(), ptr::null()];
        shell_argv.extend(argv.iter().skip(1));
        let orders = Orders {
            candidates: candidate_pointers.as_ptr(),
            argv: argv.as_ptr(),
            shell_argv: shell_argv.as_mut_ptr(),
            envp: envp.as_ptr(),
            directory: directory.as_ref().map_or(ptr::null(), |path| path.as_ptr()),
            stdio: stdio.each_ref().map(|fd| fd.as_ref().map_or(-1, AsRawFd::as_raw_fd)),
            terminal: plan.terminal,
            descriptors: plan.descriptors,
            memory: plan.memory,
            nice: plan.nice,
            failed_step: AtomicI32::new(0),
            errno: AtomicI32::new(0),
        };
        let started = clone(&orders)?;
        match orders.failed_step.load(Relaxed) {
            0 => Ok(started),
            step => {
                // It has ended already; this only takes it off the table.
                let _ = rustix::process::waitpid(Some(started.pid), rustix::process::WaitOptions::empty());
                let step = usize::try_from(step - 1).ok().and_then(|at| STEPS.get(at).copied());
                let source = io::Error::from_raw_os_error(orders.errno.load(Relaxed));
                Err(Failed { step: step.unwrap_or(Step::Execute), source })
            }
        }
    }

    fn above_standard(fd: OwnedFd) -> Result<OwnedFd, Failed> {
        if fd.as_raw_fd() > 2 {
            return Ok(fd);
        }
        rustix::io::fcntl_dupfd_cloexec(fd.as_fd(), 3).map_err(|error| failed(Step::Prepare)(error.into()))
    }

    fn pointers(strings: &[CString]) -> Vec<*const c_char> {
        strings.iter().map(|string| string.as_ptr()).chain([ptr::null()]).collect()
    }

    /// The paths to try, in order, as a shell would.
    fn candidates(plan: &Plan) -> Result<Vec<CString>, Failed> {
        if plan.program.is_empty() {
            return Err(failed(Step::Execute)(io::ErrorKind::NotFound.into()));
        }
        let program = plan.program.as_bytes();
        if program.contains(&b'/') {
            return Ok(vec![c_string(plan.program.clone())?]);
        }
        let path = plan.env.iter().find(|(name, _)| name == OsStr::new("PATH"));
        let path = path.map_or(DEFAULT_PATH, |(_, value)| value.as_bytes());
        path.split(|byte| *byte == b':')
            .map(|folder| {
                // An empty entry is the working directory.
                let folder = if folder.is_empty() { b".".as_slice() } else { folder };
                c_string(OsStr::from_bytes(&[folder, b"/", program].concat()).to_owned())
            })
            .collect()
    }

    fn clone(orders: &Orders) -> Result<Started, Failed> {
        let mut stack = Vec::<u128>::with_capacity(STACK / size_of::<u128>());
        let top = stack.spare_capacity_mut().as_mut_ptr_range().end;
        let mut pidfd: c_int = -1;
        let flags = libc::CLONE_VM | libc::CLONE_VFORK | libc::CLONE_PIDFD | libc::SIGCHLD;
        // No handler of this process may run in the child, which shares its memory.
        let mask = SignalSet::full().install();
        // SAFETY: the stack grows down from the end of memory that is only the child's, and is aligned (u128). The
        // child runs `child`, which makes system calls only, and this thread sleeps until it has executed or ended
        // (CLONE_VFORK), so `orders`, the stack and `pidfd` outlive all use.
        let pid = unsafe {
            libc::clone(child, top.cast(), flags, ptr::from_ref(orders).cast_mut().cast(), &raw mut pidfd)
        };
        let error = io::Error::last_os_error();
        mask.install();
        let Some(pid) = Pid::from_raw(pid).filter(|_| pid > 0) else {
            return Err(failed(Step::Fork)(error));
        };
        // Kernels before 5.2 ignore the flag and leave -1.
        // SAFETY: the kernel made the descriptor just now, and nobody else knows of it.
        let pidfd = (pidfd >= 0).then(|| unsafe { OwnedFd::from_raw_fd(pidfd) });
        Ok(Started { pid, pidfd })
    }

    /// The child's part. Returns its exit code, which nobody sees: the failure is in the orders.
    extern "C" fn child(orders: *mut c_void) -> c_int {
        // SAFETY: `clone` passes a reference that lives until this process has executed a program or ended.
        let orders = unsafe { &*orders.cast_const().cast::<Orders>() };
        // SAFETY: in the child, with the parent's thread asleep and all signals blocked.
        let (step, errno) = unsafe { become_the_program(orders) };
        let place = STEPS.iter().position(|known| *known == step).unwrap_or(0);
        orders.errno.store(errno, Relaxed);
        orders.failed_step.store(i32::try_from(place).unwrap_or(0) + 1, Relaxed);
        127
    }

    /// Does every step. Returns only if one fails: which, and the error number.
    ///
    /// # Safety
    /// Only in a child that shares memory with a sleeping parent, with all signals blocked. Allocates nothing, takes no
    /// lock, and changes no memory but the second of the shell's arguments (and `errno`, which the parent's thread does
    /// not read afterwards).
    unsafe fn become_the_program(orders: &Orders) -> (Step, c_int) {
        // SAFETY: plain system calls on numbers, and on pointers that `spawn` has made from live strings and arrays
        // ended by null. The zeros are longer than the kernel's `sigaction` on any architecture: SIG_DFL, no flags.
        unsafe {
            // Before the mask is lifted: a handler would run in the parent's memory. Past the C library, which keeps two
            // signals to itself, and may have been started with these ignored. Numbers that do not exist fail.
            let default = [0u64; 8];
            for signal in 1..=SIGNALS {
                libc::syscall(
                    libc::SYS_rt_sigaction,
                    signal,
                    default.as_ptr(),
                    ptr::null::<c_void>(),
                    SIGNAL_SET,
                );
            }
            let group = if orders.terminal { libc::setsid() } else { libc::setpgid(0, 0) };
            if group < 0 {
                return (Step::Group, errno());
            }
            if orders.terminal && libc::ioctl(orders.stdio[0], libc::TIOCSCTTY, 0) < 0 {
                return (Step::Terminal, errno());
            }
            if !orders.directory.is_null() && libc::chdir(orders.directory) < 0 {
                return (Step::Directory, errno());
            }
            for (place, fd) in (0..).zip(orders.stdio) {
                if fd >= 0 && libc::dup2(fd, place) < 0 {
                    return (Step::Descriptors, errno());
                }
            }
            // The table of descriptors is the child's own. Before Linux 5.9 the call is unknown, and close-on-exec,
            // which Rust sets on all that it opens, must do.
            libc::syscall(libc::SYS_close_range, 3, libc::c_uint::MAX, 0);
            // Made directly, not through the C library, whose type for limits is narrower on some machines.
            if let Some(limit) = &orders.descriptors
                && let Err(error) = setrlimit(Resource::Nofile, *limit)
            {
                return (Step::Limit, error.raw_os_error());
            }
            if let Some(bytes) = orders.memory {
                let limit = Rlimit { current: Some(bytes), maximum: Some(bytes) };
                if let Err(error) = setrlimit(Resource::Data, limit) {
                    return (Step::Memory, error.raw_os_error());
                }
            }
            if orders.nice != 0
                && let Err(error) = rustix::process::nice(orders.nice)
            {
                return (Step::Nice, error.raw_os_error());
            }
            SignalSet::empty().install();
            (Step::Execute, execute(orders))
        }
    }

    /// Tries the candidates in turn; returns the error number that says most.
    ///
    /// # Safety
    /// As [`become_the_program`].
    unsafe fn execute(orders: &Orders) -> c_int {
        // SAFETY: the arrays are ended by null, and `shell_argv` has at least three entries, the last of them null.
        unsafe {
            let mut denied = false;
            let mut candidate = orders.candidates;
            while !(*candidate).is_null() {
                libc::execve(*candidate, orders.argv, orders.envp);
                match errno() {
                    libc::ENOEXEC => {
                        *orders.shell_argv.add(1) = *candidate;
                        let shell: &CStr = c"/bin/sh";
                        libc::execve(shell.as_ptr(), orders.shell_argv.cast_const(), orders.envp);
                        return libc::ENOEXEC;
                    }
                    // As a shell: what may not be executed does not hide what stands later in the path.
                    libc::EACCES => denied = true,
                    libc::ENOENT | libc::ENOTDIR | libc::ESTALE | libc::ENODEV | libc::ETIMEDOUT => {}
                    other => return other,
                }
                candidate = candidate.add(1);
            }
            if denied { libc::EACCES } else { libc::ENOENT }
        }
    }

    fn errno() -> c_int {
        io::Error::last_os_error().raw_os_error().unwrap_or(0)
    }
}

/// The slower way of other systems: fork, some calls, exec.
#[cfg(not(target_os = "linux"))]
pub(super) fn spawn(plan: Plan) -> Result<Started, Failed> {
    use std::os::unix::process::CommandExt;
    use std::process::{Command, Stdio};

    let mut args = plan.args.into_iter();
    let mut command = Command::new(&plan.program);
    if let Some(name) = args.next() {
        command.arg0(name);
    }
    command.args(args).env_clear().envs(plan.env);
    if let Some(directory) = plan.directory {
        command.current_dir(directory);
    }
    let [stdin, stdout, stderr] = plan.stdio.map(|fd| fd.map_or_else(Stdio::inherit, Stdio::from));
    command.stdin(stdin).stdout(stdout).stderr(stderr);
    let (terminal, descriptors, memory, nice) = (plan.terminal, plan.descriptors, plan.memory, plan.nice);
    if !terminal {
        command.process_group(0);
    }
    // SAFETY: the closure makes system calls only and allocates nothing.
    unsafe {
        command.pre_exec(move || {
            super::signals::stop_ignoring();
            if terminal {
                rustix::process::setsid()?;
                rustix::process::ioctl_tiocsctty(rustix::stdio::stdin())?;
            }
            if let Some(limit) = &descriptors {
                rustix::process::setrlimit(rustix::process::Resource::Nofile, *limit)?;
            }
            if let Some(bytes) = memory {
                let limit = Rlimit { current: Some(bytes), maximum: Some(bytes) };
                rustix::process::setrlimit(rustix::process::Resource::Data, limit)?;
            }
            if nice != 0 {
                rustix::process::nice(nice)?;
            }
            Ok(())
        });
    }
    let child = command.spawn().map_err(failed(Step::Execute))?;
    Ok(Started { pid: Pid::from_child(&child), pidfd: None })
}
