//! What a caller decides about an SSH connection: the target, the options, who answers questions.

use std::collections::BTreeMap;
use std::fmt;
use std::future::Future;
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use zeroize::Zeroizing;

use super::dial::Dialer;
use super::gate::Gate;
use super::jumps::JumpHosts;
use super::keyring::Keyring;
use crate::error::Step;

/// Where to connect: what a person writes after `ssh`.
///
/// ```
/// use farcall_bootstrap::ssh::SshTarget;
///
/// let target = SshTarget::new("db1.example.org").user("admin").port(2222);
/// assert_eq!(target.to_string(), "admin@db1.example.org:2222");
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct SshTarget {
    /// The name, as configuration files know it: an alias, a host name or an address.
    pub host: String,
    /// The account there; the configuration's, and else the local account's name, when absent.
    pub user: Option<String>,
    /// The port; the configuration's, and else 22, when absent.
    pub port: Option<u16>,
}

impl SshTarget {
    /// A target with the user and port that the configuration gives.
    pub fn new(host: impl Into<String>) -> Self {
        Self { host: host.into(), user: None, port: None }
    }

    /// Sets the account.
    #[must_use]
    pub fn user(mut self, user: impl Into<String>) -> Self {
        self.user = Some(user.into());
        self
    }

    /// Sets the port.
    #[must_use]
    pub fn port(mut self, port: u16) -> Self {
        self.port = Some(port);
        self
    }
}

impl fmt::Display for SshTarget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(user) = &self.user {
            write!(f, "{user}@")?;
        }
        match self.port {
            Some(port) if self.host.contains(':') => write!(f, "[{}]:{port}", self.host),
            Some(port) => write!(f, "{}:{port}", self.host),
            None => f.write_str(&self.host),
        }
    }
}

/// Which configuration files are read.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub enum ConfigFiles {
    /// The user's `~/.ssh/config`, then the system's `/etc/ssh/ssh_config`.
    #[default]
    Usual,
    /// This file alone, as `ssh -F` does.
    Only(PathBuf),
    /// None, as `ssh -F none` does.
    None,
}

/// How connections are made. The defaults are those of `ssh`, with host keys checked strictly.
///
/// Nothing is read from the environment: what `ssh` would take from there (the agent's socket, variables that a
/// configuration names) is given in [`environment`](Self::environment).
///
/// A clone shares the gate, the keyring and the connections to jump hosts, so that many connections of one program pass
/// the same gate, a passphrase is asked for once, and a jump host is not logged in to for each host behind it.
#[derive(Clone)]
pub struct SshOptions {
    /// The `ssh` program that is asked for the effective configuration (`ssh -G`). A name without a slash is looked up
    /// as the system looks up programs. Where it does not exist, or with `None`, the files are read by a parser of our
    /// own, which knows `Host` and `Include` but refuses `Match`. That parser is also believed where nothing is written but
    /// the usual settings in their plain forms, since asking takes longer than a connection.
    pub program: Option<PathBuf>,
    /// Which configuration files are read.
    pub files: ConfigFiles,
    /// Settings that win over the files, each as `Keyword=value`, as after `ssh -o`. As with `ssh`, they apply to
    /// the target and not to jump hosts.
    pub settings: Vec<String>,
    /// Private keys that are tried before those of the configuration, as after `ssh -i`; not for jump hosts.
    pub identity_files: Vec<PathBuf>,
    /// The home folder that `~` stands for; the one of the account's entry in `/etc/passwd` when absent.
    pub home: Option<PathBuf>,
    /// The name of the local account; the one in `/etc/passwd` when absent.
    pub local_user: Option<String>,
    /// The variables that a configuration may refer to, `SSH_AUTH_SOCK` above all.
    pub environment: BTreeMap<String, String>,
    /// The limit of one attempt to connect: name look-up, connection, key exchange and authentication together,
    /// without the time in which a person is asked. A `ConnectTimeout` in the configuration takes its place up to the end of
    /// the key exchange, as with `ssh`, and authentication then has a limit of its own, the longer of both. Each jump host
    /// has its own. More than a year is a year. Default 20 s.
    pub limit: Duration,
    /// How many more times a connection is tried that a busy server cut before authentication. Default 9.
    pub retries: u32,
    /// How many bytes a server may have in flight towards us, on each channel. Default 32 MiB, which fills a path of
    /// 600 MiB/s with a round trip of 50 ms.
    pub window: u32,
    /// How many bytes of standard output are kept while nobody reads them. A server that sends more loses the channel.
    /// Default 64 MiB.
    pub backlog: usize,
    /// Bounds the handshakes that run at once; by default the one that all connections of this process share.
    pub gate: Gate,
    /// Who answers when a passphrase or password is needed. Without one nobody is asked.
    pub prompter: Option<Arc<dyn Prompter>>,
    /// Keys that were unlocked, kept for further connections.
    pub keyring: Keyring,
    /// Connections to jump hosts, which the hosts behind them share.
    pub jump_hosts: JumpHosts,
    /// Makes the connections, those to jump hosts included, from elsewhere than from this machine. A `ProxyCommand` is then an
    /// error, since it would run here, and `BindAddress` has no meaning.
    pub dialer: Option<Arc<dyn Dialer>>,
    /// Is told when a connection begins a step: looking up, connecting, key exchange, authentication, and the session
    /// that follows when all went well; those of jump hosts are not told. A connection that a busy server cut begins
    /// again. It must not block.
    pub watcher: Option<Watcher>,
}

/// Who is told how far a connection has come.
pub type Watcher = Arc<dyn Fn(Step) + Send + Sync>;

impl Default for SshOptions {
    fn default() -> Self {
        Self {
            program: Some(PathBuf::from("ssh")),
            files: ConfigFiles::default(),
            settings: Vec::new(),
            identity_files: Vec::new(),
            home: None,
            local_user: None,
            environment: BTreeMap::new(),
            limit: Duration::from_secs(20),
            retries: 9,
            window: 32 << 20,
            backlog: 64 << 20,
            gate: Gate::shared(),
            prompter: None,
            keyring: Keyring::default(),
            jump_hosts: JumpHosts::default(),
            dialer: None,
            watcher: None,
        }
    }
}

impl fmt::Debug for SshOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The environment may hold secrets.
        f.debug_struct("SshOptions")
            .field("program", &self.program)
            .field("files", &self.files)
            .field("settings", &self.settings)
            .field("identity_files", &self.identity_files)
            .field("home", &self.home)
            .field("local_user", &self.local_user)
            .field("limit", &self.limit)
            .field("retries", &self.retries)
            .field("window", &self.window)
            .field("backlog", &self.backlog)
            .field("prompter", &self.prompter.is_some())
            .field("dialer", &self.dialer.as_ref().map(|dialer| dialer.name().to_owned()))
            .finish_non_exhaustive()
    }
}

/// What is asked of a person.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Question {
    /// The passphrase of an encrypted private key.
    Passphrase {
        /// The key's file.
        key: PathBuf,
        /// The number of answers to this question that were wrong.
        failures: u32,
    },
    /// The password of an account.
    Password {
        /// The account.
        user: String,
        /// The host.
        host: String,
        /// The number of answers to this question that were wrong.
        failures: u32,
    },
    /// A question of the server's own. Its words come from there: show them with control characters removed.
    Server {
        /// The account.
        user: String,
        /// The host.
        host: String,
        /// What the server says before its questions, if anything.
        instructions: String,
        /// The question.
        prompt: String,
        /// Whether the answer may be seen while it is typed.
        echo: bool,
    },
}

/// An answer that is kept out of logs, and wiped from memory when it is dropped.
pub struct Secret(Zeroizing<String>);

impl Secret {
    /// Takes over `text`.
    pub fn new(text: impl Into<String>) -> Self {
        Self(Zeroizing::new(text.into()))
    }

    pub(crate) fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret")
    }
}

/// The future of an answer.
pub type Answer<'a> = Pin<Box<dyn Future<Output = Option<Secret>> + Send + 'a>>;

/// Answers questions: a terminal, a dialog, a password store.
///
/// Questions of connections that share a [`Keyring`] come one at a time, so that a terminal is never asked twice at once.
pub trait Prompter: Send + Sync {
    /// Answers, or declines with `None`, after which this way of authenticating is given up.
    fn ask(&self, question: Question) -> Answer<'_>;
}
