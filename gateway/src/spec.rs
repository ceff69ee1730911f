//! Where and how a worker is started: the description that people write, and its builder.

mod text;

use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

use farcall_bootstrap::ssh::{ConfigFiles, SshOptions, SshTarget};
use farcall_bootstrap::{Cache, CommandTarget, LaunchOptions, Target};

pub use text::SpecError;

use crate::role::{LONGEST, Life};

/// Where and how a worker is started.
///
/// As text it is a place, and after a `?` its settings, with `&` between them:
///
/// | place | a worker |
/// |---|---|
/// | `local` | on this machine |
/// | `HOST`, `USER@HOST`, `ssh://USER@HOST:PORT` | on a host that SSH reaches, by its name in the SSH configuration |
/// | `openssh://USER@HOST:PORT` | the same through the system's `ssh` program |
/// | `docker://NAME`, `podman://NAME` | in a running container, as `USER@NAME` if so written |
/// | `kubectl://POD`, `kubectl://NAMESPACE/POD/CONTAINER` | in a pod |
/// | `sudo://USER` | on this machine as another user, by `sudo -n` |
/// | `command:WORD,WORD` | wherever the command leads that runs a program given as further arguments |
/// | `command-line:WORD,WORD` | the same for a command that takes one line for a shell |
/// | `worker:WORD,WORD` | the command is the worker itself |
///
/// | setting | meaning |
/// |---|---|
/// | `id` | the gateway's id, instead of `gw0`, `gw1`, … |
/// | `chdir` | the folder to start in, made if it is missing |
/// | `nice` | added to the niceness of the process |
/// | `env.NAME` | a variable, set before the worker starts |
/// | `memory` | the limit of the process's memory: bytes, or with `K`, `M`, `G` |
/// | `max_tasks` | how many tasks run at once; more wait |
/// | `heartbeat`, `lease`, `grace` | 5 s, 20 s and 2 s: `30` or `30s`, `1500ms`, `2m` |
/// | `start_limit` | how long the start may take once the place is reached (60 s) |
/// | `config` | the SSH configuration file, `none` for none |
/// | `identity` | a private key for SSH |
/// | `name` | what a command's place is called in messages |
/// | `cache` | `keep` the delivered program there, or leave `none` |
/// | `via` | the id of the gateway from whose host it is started |
///
/// Every part may be escaped as in URLs: `%` and two hexadecimal digits. `4*local` is four specs: [`Spec::parse_all`].
///
/// ```
/// use farcall::Spec;
///
/// let spec: Spec = "ssh://admin@web1:2222?chdir=/srv&nice=5&env.TZ=UTC".parse()?;
/// assert_eq!(spec, Spec::ssh("web1").user("admin").port(2222).chdir("/srv").nice(5).env("TZ", "UTC"));
/// assert_eq!(spec.to_string(), "ssh://admin@web1:2222?chdir=/srv&nice=5&env.TZ=UTC");
/// # Ok::<(), farcall::SpecError>(())
/// ```
#[derive(Clone, PartialEq, Eq)]
pub struct Spec {
    place: Place,
    id: Option<String>,
    chdir: Option<PathBuf>,
    nice: Option<i32>,
    env: Vec<(String, OsString)>,
    memory: Option<u64>,
    max_tasks: Option<usize>,
    heartbeat: Option<Duration>,
    lease: Option<Duration>,
    grace: Option<Duration>,
    start_limit: Option<Duration>,
    config: Option<ConfigFiles>,
    identity: Option<PathBuf>,
    cache: Option<Cache>,
    via: Option<String>,
}

/// The place, as it was written.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Place {
    Local,
    Ssh(SshTarget),
    OpenSsh(SshTarget),
    Container { tool: Tool, user: Option<String>, name: String },
    Pod { namespace: Option<String>, pod: String, container: Option<String> },
    Sudo { user: String },
    Command(CommandTarget),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Tool {
    Docker,
    Podman,
}

impl Spec {
    fn at(place: Place) -> Spec {
        Spec {
            place,
            id: None,
            chdir: None,
            nice: None,
            env: Vec::new(),
            memory: None,
            max_tasks: None,
            heartbeat: None,
            lease: None,
            grace: None,
            start_limit: None,
            config: None,
            identity: None,
            cache: None,
            via: None,
        }
    }

    /// On this machine.
    pub fn local() -> Spec {
        Spec::at(Place::Local)
    }

    /// On a host that SSH reaches: a name of the SSH configuration, a host name or an address.
    pub fn ssh(host: impl Into<String>) -> Spec {
        Spec::at(Place::Ssh(SshTarget::new(host)))
    }

    /// Through a command; see [`CommandTarget`].
    pub fn command(command: CommandTarget) -> Spec {
        Spec::at(Place::Command(command))
    }

    /// In a running container, by `docker exec`.
    pub fn docker(name: impl Into<String>) -> Spec {
        Spec::at(Place::Container { tool: Tool::Docker, user: None, name: name.into() })
    }

    /// In a running container, by `podman exec`.
    pub fn podman(name: impl Into<String>) -> Spec {
        Spec::at(Place::Container { tool: Tool::Podman, user: None, name: name.into() })
    }

    /// The account at the place. The local place and commands have none.
    #[must_use]
    pub fn user(mut self, user: impl Into<String>) -> Spec {
        match &mut self.place {
            Place::Ssh(target) | Place::OpenSsh(target) => target.user = Some(user.into()),
            Place::Container { user: place, .. } => *place = Some(user.into()),
            Place::Sudo { user: place } => *place = user.into(),
            Place::Local | Place::Pod { .. } | Place::Command(_) => {}
        }
        self
    }

    /// The port of SSH. Other places have none.
    #[must_use]
    pub fn port(mut self, port: u16) -> Spec {
        if let Place::Ssh(target) | Place::OpenSsh(target) = &mut self.place {
            target.port = Some(port);
        }
        self
    }

    /// The gateway's id. Without one it is called `gw0`, `gw1`, and so on.
    #[must_use]
    pub fn id(mut self, id: impl Into<String>) -> Spec {
        self.id = Some(id.into());
        self
    }

    /// The folder to start in; made with its parents if it is missing.
    #[must_use]
    pub fn chdir(mut self, folder: impl Into<PathBuf>) -> Spec {
        self.chdir = Some(folder.into());
        self
    }

    /// Added to the niceness of the whole process: −20 to 19.
    #[must_use]
    pub fn nice(mut self, nice: i32) -> Spec {
        self.nice = Some(nice);
        self
    }

    /// A variable that is set before the worker starts. Setting it again replaces it.
    #[must_use]
    pub fn env(mut self, name: impl Into<String>, value: impl Into<OsString>) -> Spec {
        let name = name.into();
        self.env.retain(|(known, _)| *known != name);
        self.env.push((name, value.into()));
        self
    }

    /// The limit of the process's memory in bytes: what of it is writable and its own.
    #[must_use]
    pub fn memory(mut self, bytes: u64) -> Spec {
        self.memory = Some(bytes);
        self
    }

    /// How many tasks run at once; more wait for their turn.
    #[must_use]
    pub fn max_tasks(mut self, max: usize) -> Spec {
        self.max_tasks = Some(max);
        self
    }

    /// After so long without a sign of life each side asks the other for one. Five seconds by default, or a quarter of a lease
    /// that is shorter than usual; at most half of the lease.
    #[must_use]
    pub fn heartbeat(mut self, heartbeat: Duration) -> Spec {
        // Half of the longest lease.
        self.heartbeat = Some(heartbeat.min(LONGEST / 2));
        self
    }

    /// After so long without a sign of life each side takes the other for lost. Twenty seconds by default.
    #[must_use]
    pub fn lease(mut self, lease: Duration) -> Spec {
        self.lease = Some(lease.min(LONGEST));
        self
    }

    /// How long the worker's tasks and processes may take to end when the coordinator is gone. Two seconds by default.
    #[must_use]
    pub fn grace(mut self, grace: Duration) -> Spec {
        self.grace = Some(grace.min(LONGEST));
        self
    }

    /// How long the start may take once the place is reached. Sixty seconds by default.
    #[must_use]
    pub fn start_limit(mut self, limit: Duration) -> Spec {
        self.start_limit = Some(limit.min(LONGEST));
        self
    }

    /// Which SSH configuration is read.
    #[must_use]
    pub fn config(mut self, files: ConfigFiles) -> Spec {
        self.config = Some(files).filter(|files| *files != ConfigFiles::Usual);
        self
    }

    /// A private key that SSH tries first.
    #[must_use]
    pub fn identity(mut self, file: impl Into<PathBuf>) -> Spec {
        self.identity = Some(file.into());
        self
    }

    /// What becomes of the delivered program.
    #[must_use]
    pub fn cache(mut self, cache: Cache) -> Spec {
        self.cache = Some(cache);
        self
    }

    /// The id of the gateway from whose host the worker is started: its hub.
    ///
    /// Ids mean something within a group, which finds the hub. For a gateway on its own the hub is given to
    /// [`Builder::via`](crate::Builder::via).
    #[must_use]
    pub fn via(mut self, id: impl Into<String>) -> Spec {
        self.via = Some(id.into());
        self
    }

    /// The id of the hub that was asked for.
    pub fn asked_via(&self) -> Option<&str> {
        self.via.as_deref()
    }

    /// The id that was asked for.
    pub fn asked_id(&self) -> Option<&str> {
        self.id.as_deref()
    }

    /// What is started, for the crate that starts it.
    pub fn target(&self) -> Target {
        self.target_with(None)
    }

    /// The same, with what the system's `ssh` is told of the options for SSH.
    pub(crate) fn target_with(&self, ssh: Option<&SshOptions>) -> Target {
        let named = |command: CommandTarget| command.named(self.place.to_string()).into();
        match &self.place {
            Place::Local => Target::Local,
            Place::Ssh(target) => target.clone().into(),
            Place::OpenSsh(target) => {
                // It must not ask at the terminal: many of it would at once, and nobody could answer.
                let mut command = CommandTarget::new("ssh").args(["-T", "-o", "BatchMode=yes"]);
                if let Some(user) = &target.user {
                    command = command.args(["-l", user]);
                }
                if let Some(port) = target.port {
                    command = command.args(["-p".to_owned(), port.to_string()]);
                }
                match self.config.as_ref().or(ssh.map(|ssh| &ssh.files)) {
                    Some(ConfigFiles::Only(file)) => command = command.args(["-F".into(), file.clone()]),
                    Some(ConfigFiles::None) => command = command.args(["-F", "none"]),
                    Some(ConfigFiles::Usual) | None => {}
                }
                for file in self.identity.iter().chain(ssh.iter().flat_map(|ssh| &ssh.identity_files)) {
                    command = command.args(["-i".into(), file.clone()]);
                }
                if let Some(ssh) = ssh {
                    for setting in &ssh.settings {
                        command = command.args(["-o", setting]);
                    }
                    // Of a setting that is given twice the first counts. Whole seconds, of which 0 would be none.
                    let seconds = ssh.limit.as_millis().div_ceil(1000).max(1);
                    command = command.args(["-o".to_owned(), format!("ConnectTimeout={seconds}")]);
                }
                named(command.args(["--", target.host.as_str()]).as_line())
            }
            Place::Container { tool, user, name } => {
                let tool = match tool {
                    Tool::Docker => "docker",
                    Tool::Podman => "podman",
                };
                let mut command = CommandTarget::new(tool).args(["exec", "-i"]);
                if let Some(user) = user {
                    command = command.args(["-u", user]);
                }
                named(command.args([name]))
            }
            Place::Pod { namespace, pod, container } => {
                let mut command = CommandTarget::new("kubectl").args(["exec", "-i"]);
                if let Some(namespace) = namespace {
                    command = command.args(["-n", namespace]);
                }
                if let Some(container) = container {
                    command = command.args(["-c", container]);
                }
                named(command.args([pod.as_str(), "--"]))
            }
            Place::Sudo { user } => {
                let command = CommandTarget::new("sudo").args(["-n"]);
                named(if user.is_empty() { command } else { command.args(["-u", user]) }.args(["--"]))
            }
            Place::Command(command) => command.clone().into(),
        }
    }

    /// The same without an id.
    pub(crate) fn without_id(mut self) -> Spec {
        self.id = None;
        self
    }

    /// Whether no command leads to the worker, so that what ends there is the worker.
    pub(crate) fn is_direct(&self) -> bool {
        matches!(self.place, Place::Local | Place::Ssh(_))
    }

    /// Whether the worker is a child of the one that starts it.
    pub(crate) fn is_local(&self) -> bool {
        matches!(self.place, Place::Local)
    }

    /// Whether it can be: its text is read as it is written.
    ///
    /// # Errors
    /// What is wrong, as with a text.
    pub fn check(&self) -> Result<(), SpecError> {
        self.to_string().parse::<Spec>().map(drop)
    }

    pub(crate) fn life(&self) -> Life {
        let usual = Life::default();
        let lease = self.lease.unwrap_or(usual.lease);
        Life {
            // A question and its answer must fit into the lease, or one that is idle is lost.
            heartbeat: self.heartbeat.unwrap_or(usual.heartbeat.min(lease / 4)),
            lease,
            grace: self.grace.unwrap_or(usual.grace),
            max_tasks: self.max_tasks,
        }
    }

    /// The settings of the start. Those of SSH that the spec does not name are `ssh`'s.
    pub(crate) fn launch_options(&self, mut ssh: SshOptions) -> LaunchOptions {
        if let Some(files) = &self.config {
            ssh.files = files.clone();
        }
        ssh.identity_files.extend(self.identity.clone());
        let usual = LaunchOptions::default();
        LaunchOptions {
            chdir: self.chdir.clone(),
            nice: self.nice,
            env: self.env.clone(),
            memory: self.memory,
            cache: self.cache.unwrap_or_default(),
            start_limit: self.start_limit.unwrap_or(usual.start_limit),
            ssh,
            ..usual
        }
    }
}

impl std::fmt::Debug for Spec {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // Variables may hold secrets.
        let mut shown = self.clone();
        for (_, value) in &mut shown.env {
            *value = "…".into();
        }
        write!(f, "Spec({shown})")
    }
}
