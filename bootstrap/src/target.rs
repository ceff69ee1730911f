//! Where a worker is started, and how its process is set up.

use std::ffi::{OsStr, OsString};
use std::fmt;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;

use crate::fork_server::ForkServer;
use crate::ssh::{SshOptions, SshTarget};

/// A place where a worker can be started.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Target {
    /// This machine: the program is started again, as it is.
    Local,
    /// A host that SSH reaches.
    Ssh(SshTarget),
    /// What a command leads to.
    Command(CommandTarget),
}

/// A local command that leads to another place through its standard input and output.
///
/// ```
/// use farcall_bootstrap::target::{CommandTarget, Target};
///
/// let container = CommandTarget::new("docker").args(["exec", "-i", "web"]);
/// let system_ssh = Target::from(CommandTarget::new("ssh").args(["web1"]).as_line());
/// assert_eq!(Target::from(container.clone()).to_string(), "docker exec -i web");
/// assert_eq!(Target::from(container.named("docker://web")).to_string(), "docker://web");
/// assert_eq!(system_ssh.to_string(), "ssh web1");
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct CommandTarget {
    /// The local program, looked up in `PATH` when it has no slash.
    pub program: OsString,
    /// Its arguments, before what is to run at the far end.
    pub args: Vec<OsString>,
    /// How what is to run at the far end is handed over.
    pub form: CommandForm,
    /// What the place is called in errors; the command itself when absent.
    pub name: Option<String>,
}

/// How a command is told what to run at the far end.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum CommandForm {
    /// As further arguments, which it runs as they are: `docker exec -i NAME`, `podman exec -i`, `kubectl exec -i POD --`,
    /// `sudo -n`, `nsenter -t PID -a`, `srun`.
    #[default]
    Arguments,
    /// As one more argument, a line that the far side's login shell reads: `ssh HOST`.
    Line,
    /// Not at all: the command is the worker or brings it to life, nothing is delivered, and the worker's arguments
    /// are appended. The settings of the process apply to the command itself.
    Worker,
}

impl CommandTarget {
    /// A command that runs further arguments as they are.
    pub fn new(program: impl Into<OsString>) -> Self {
        Self { program: program.into(), args: Vec::new(), form: CommandForm::Arguments, name: None }
    }

    /// Adds arguments.
    #[must_use]
    pub fn args<A: Into<OsString>>(mut self, args: impl IntoIterator<Item = A>) -> Self {
        self.args.extend(args.into_iter().map(Into::into));
        self
    }

    /// Gives the place a name for errors: a command may be long.
    #[must_use]
    pub fn named(mut self, name: impl Into<String>) -> Self {
        self.name = Some(name.into());
        self
    }

    /// Hands over one line for a login shell.
    #[must_use]
    pub fn as_line(mut self) -> Self {
        self.form = CommandForm::Line;
        self
    }

    /// Takes the command for the worker itself.
    #[must_use]
    pub fn as_worker(mut self) -> Self {
        self.form = CommandForm::Worker;
        self
    }
}

impl From<CommandTarget> for Target {
    fn from(command: CommandTarget) -> Self {
        Target::Command(command)
    }
}

impl From<SshTarget> for Target {
    fn from(host: SshTarget) -> Self {
        Target::Ssh(host)
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Target::Local => f.write_str("local"),
            Target::Ssh(host) => write!(f, "{host}"),
            Target::Command(CommandTarget { name: Some(name), .. }) => f.write_str(name),
            Target::Command(command) => {
                write!(f, "{}", command.program.display())?;
                command.args.iter().try_for_each(|arg| write!(f, " {}", arg.display()))
            }
        }
    }
}

/// What becomes of a delivered program.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Cache {
    /// It is kept for the next time.
    #[default]
    Keep,
    /// It is removed as soon as it runs; where the system cannot do that, when it ends.
    LeaveNothing,
}

/// How the worker's process is set up, and how long its start may take.
///
/// The settings of the process hold before its first instruction runs.
#[derive(Clone)]
pub struct LaunchOptions {
    /// The worker's arguments. The first shows in a list of processes behind the name of a delivered file.
    pub arguments: Vec<OsString>,
    /// What a local worker is called in a list of processes, in the place of its path.
    pub argv0: Option<OsString>,
    /// What the worker must say first. A start is not done before that was heard.
    pub greeting: Vec<u8>,
    /// The folder to start in; made, with its parents, where it does not exist. A relative one is taken from where the
    /// place starts its shells, over SSH the home folder; locally from the current folder.
    pub chdir: Option<PathBuf>,
    /// Added to the niceness of the process: −20 to 19.
    pub nice: Option<i32>,
    /// Variables that are set, beside those that the place has.
    pub env: Vec<(String, OsString)>,
    /// The limit of the process's memory in bytes: its data segment (`RLIMIT_DATA`), on systems other than Linux
    /// its address space.
    pub memory: Option<u64>,
    /// What becomes of a delivered program.
    pub cache: Cache,
    /// How long the start may take once the place is reached: the shell's start-up files, delivery, the worker's first
    /// words. Default 60 s.
    pub start_limit: Duration,
    /// What forks local workers that need no settings, instead of executing the program for each.
    pub fork_server: Option<ForkServer>,
    /// How hosts are reached over SSH; the limit for connecting is in here.
    pub ssh: SshOptions,
    /// A descriptor for a local worker, which finds it as ancillary data of its standard error: that is a socket then. Other
    /// places get none.
    pub pass: Option<Arc<OwnedFd>>,
    /// Kept for as long as a local worker has not ended, and so long as it is being started. Whoever holds the other end knows
    /// when nothing is left of a start that was given up. Other places drop it at once.
    pub kept: Option<mpsc::Sender<()>>,
}

impl Default for LaunchOptions {
    fn default() -> Self {
        Self {
            arguments: Vec::new(),
            argv0: None,
            greeting: Vec::new(),
            chdir: None,
            nice: None,
            env: Vec::new(),
            memory: None,
            cache: Cache::default(),
            start_limit: Duration::from_secs(60),
            fork_server: None,
            ssh: SshOptions::default(),
            pass: None,
            kept: None,
        }
    }
}

impl fmt::Debug for LaunchOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Variables may hold secrets: their names are enough.
        let env: Vec<&str> = self.env.iter().map(|(name, _)| name.as_str()).collect();
        f.debug_struct("LaunchOptions")
            .field("arguments", &self.arguments)
            .field("argv0", &self.argv0)
            .field("chdir", &self.chdir)
            .field("nice", &self.nice)
            .field("env", &env)
            .field("memory", &self.memory)
            .field("cache", &self.cache)
            .field("start_limit", &self.start_limit)
            .field("ssh", &self.ssh)
            .finish_non_exhaustive()
    }
}

/// A setting that cannot be.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum OptionError {
    /// The folder's name is empty.
    #[error("the folder to start in has no name")]
    EmptyFolder,
    /// The niceness is out of range.
    #[error("niceness {0} is not between -20 and 19")]
    Nice(i32),
    /// The variable has no name that a shell can set.
    #[error("{0:?} is no name of an environment variable")]
    VariableName(String),
    /// A value contains a zero byte, which no process can be given.
    #[error("{0} contains a zero byte")]
    ZeroByte(&'static str),
}

impl LaunchOptions {
    /// Whether the settings can be made at all.
    pub fn check(&self) -> Result<(), OptionError> {
        let zero = |value: &OsStr| value.as_encoded_bytes().contains(&0);
        if let Some(folder) = &self.chdir {
            if folder.as_os_str().is_empty() {
                return Err(OptionError::EmptyFolder);
            }
            if zero(folder.as_os_str()) {
                return Err(OptionError::ZeroByte("the folder to start in"));
            }
        }
        if let Some(nice) = self.nice.filter(|nice| !(-20..=19).contains(nice)) {
            return Err(OptionError::Nice(nice));
        }
        for (name, value) in &self.env {
            let first = name.bytes().next().is_some_and(|b| b.is_ascii_alphabetic() || b == b'_');
            // Names of an underscore and a letter are those of the delivery script's own variables.
            let ours = name.len() == 2 && name.starts_with('_');
            if !first || ours || !name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_') {
                return Err(OptionError::VariableName(name.clone()));
            }
            if zero(value) {
                return Err(OptionError::ZeroByte("the value of an environment variable"));
            }
        }
        if self.arguments.iter().chain(&self.argv0).any(|value| zero(value)) {
            return Err(OptionError::ZeroByte("an argument"));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_that_cannot_be_are_refused() {
        let good = LaunchOptions::default();
        assert_eq!(good.check(), Ok(()));
        let bad = |change: fn(&mut LaunchOptions)| {
            let mut options = LaunchOptions::default();
            change(&mut options);
            options.check().expect_err("refused")
        };
        assert_eq!(bad(|o| o.chdir = Some("".into())), OptionError::EmptyFolder);
        assert_eq!(bad(|o| o.nice = Some(20)), OptionError::Nice(20));
        for name in ["", "1A", "A B", "A=", "Ä", "_r"] {
            let mut options = LaunchOptions::default();
            options.env.push((name.into(), "x".into()));
            assert_eq!(options.check(), Err(OptionError::VariableName(name.into())));
        }
        assert_eq!(bad(|o| o.arguments.push("a\0b".into())), OptionError::ZeroByte("an argument"));
    }

    #[test]
    fn values_of_variables_are_not_shown() {
        let options =
            LaunchOptions { env: vec![("TOKEN".into(), "hunter2".into())], ..LaunchOptions::default() };
        let shown = format!("{options:?}");
        assert!(shown.contains("TOKEN") && !shown.contains("hunter2"), "{shown}");
    }
}
