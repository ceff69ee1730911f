//! How a gateway comes to be: launch, connect, agree.

use std::collections::BTreeMap;
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use farcall_bootstrap::fork_server::ForkServer;
use farcall_bootstrap::ssh::{ConfigFiles, SshOptions};
use farcall_bootstrap::{Class, LaunchError, Launched, Program, Step, Target};
use farcall_channel::frame::{HELLO_LEN, Hello as Greeting, Limits, VERSION};
use farcall_channel::{
    Channel, CodecError, Config, Connection, ConnectionError, DriverThread, Options, RecvError,
};
use tokio::sync::{Notify, mpsc, watch};

use crate::end::{self, GatewayEnd, Watched};
use crate::failure::plain;
use crate::gateway::{Gateway, Inner};
use crate::ids::Id;
use crate::init::{Initialised, program};
use crate::isolated::Pool;
use crate::mismatch::Mismatch;
use crate::role::{FORK_SERVER_WORD, Life, Role};
use crate::spec::{Spec, SpecError};
use crate::via::{self, Hub, Via};
use crate::wire::{BUILD, Hello, Request};

/// How long the worker's first answer may take.
const HELLO_LIMIT: Duration = Duration::from_secs(15);

/// How long the standard error of a worker that did not connect may take to end.
const LAST_WORDS: Duration = Duration::from_millis(500);

/// The name of the thread that drives all connections.
pub(crate) const DRIVER_THREAD: &str = "farcall-driver";

/// Channels that are left to ask for information and the end while calls hold all others.
const KEPT_BACK: u32 = 32;

/// Describes a gateway before it is opened: the spec, and what is no part of it.
#[derive(Clone, Debug)]
pub struct Builder {
    spec: Spec,
    program: Option<Program>,
    ssh: Option<SshOptions>,
    config: Config,
    hub: Option<Gateway>,
    /// Whether it is a part of its hub: does not keep it alive, and prints where it prints.
    inside: bool,
    pass: Option<Passed>,
}

/// What a local worker gets that takes its calls over a socket of its own.
#[derive(Clone, Debug)]
struct Passed {
    socket: Arc<OwnedFd>,
    /// Kept until its process is gone.
    kept: mpsc::Sender<()>,
}

/// Why a gateway was not opened. Nothing is left of the attempt.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OpenError {
    /// The program would start itself for ever: a worker only becomes one in [`init`](crate::init).
    #[error("farcall::init must be called first thing in main, before a gateway is opened")]
    BeforeInit,
    /// Another gateway has that id. Nothing was started.
    #[error("there is a gateway {id} already")]
    DuplicateId {
        /// The id.
        id: String,
    },
    /// The spec names a hub by its id, which means something within a group only. Nothing was started.
    #[error(
        "the gateway is to be started via {via}: give that gateway to Builder::via, or start both in a group"
    )]
    UnresolvedVia {
        /// The hub's id.
        via: String,
    },
    /// The hub, from whose host the worker was to be started, has ended.
    #[error("{place}: its hub has ended: {end}")]
    Hub {
        /// The place, as the spec names it.
        place: String,
        /// How the hub ended.
        end: Arc<GatewayEnd>,
    },
    /// The spec asks for what cannot be. Nothing was started.
    #[error(transparent)]
    Spec(#[from] SpecError),
    /// The system gives no thread.
    #[error("cannot start the thread that drives connections")]
    Driver(#[source] io::Error),
    /// The running program's file cannot be found.
    #[error("cannot find this program's own file")]
    Program(#[source] io::Error),
    /// The worker was not reached, delivered or started.
    #[error(transparent)]
    Launch(#[from] LaunchError),
    /// The worker was started, but no connection came of it.
    #[error("{place}: the worker was started, but did not connect: {cause}{}", printed(.stderr))]
    Connect {
        /// The place, as the spec names it.
        place: String,
        /// What was wrong.
        cause: ConnectionError,
        /// The end of what it printed.
        stderr: String,
    },
    /// The worker connected and then said nothing.
    #[error("{place}: the worker did not introduce itself within {} s", HELLO_LIMIT.as_secs())]
    Silent {
        /// The place, as the spec names it.
        place: String,
    },
    /// The worker is not of this program.
    #[error("{place}: {mismatch}")]
    Mismatch {
        /// The place, as the spec names it.
        place: String,
        /// What differs.
        mismatch: Mismatch,
    },
    /// The worker introduced itself in words that this version does not know.
    #[error("{place}: the worker introduced itself as no worker of this version does")]
    Introduction {
        /// The place, as the spec names it.
        place: String,
        /// What was wrong.
        source: CodecError,
    },
    /// The worker ended at once.
    #[error("{end}")]
    Ended {
        /// How.
        end: Arc<GatewayEnd>,
    },
}

fn printed(stderr: &str) -> String {
    match stderr.lines().rev().map(str::trim).find(|line| !line.is_empty()) {
        Some(line) => format!(" (it printed: {})", line.replace(char::is_control, "\u{fffd}")),
        None => String::new(),
    }
}

impl OpenError {
    /// What kind of failure it was.
    pub fn class(&self) -> Class {
        match self {
            OpenError::Launch(error) => error.class(),
            OpenError::Connect { .. } => Class::Lost,
            OpenError::Silent { .. } => Class::Timeout,
            OpenError::Hub { .. } => Class::Lost,
            OpenError::Ended { end } => end.class().unwrap_or(Class::Lost),
            _ => Class::Bootstrap,
        }
    }

    /// Where on the way to a gateway it happened.
    pub fn step(&self) -> Step {
        match self {
            OpenError::Launch(error) => error.step(),
            OpenError::BeforeInit
            | OpenError::DuplicateId { .. }
            | OpenError::UnresolvedVia { .. }
            | OpenError::Hub { .. }
            | OpenError::Spec(_)
            | OpenError::Driver(_)
            | OpenError::Program(_) => Step::Config,
            OpenError::Connect { .. }
            | OpenError::Silent { .. }
            | OpenError::Mismatch { .. }
            | OpenError::Introduction { .. }
            | OpenError::Ended { .. } => Step::Greeting,
        }
    }

    /// The end of what the far side printed; empty if it printed nothing. It comes from there as it is: whoever shows it
    /// escapes control characters, as Display does.
    pub fn evidence(&self) -> &str {
        match self {
            OpenError::Launch(error) => error.evidence(),
            OpenError::Connect { stderr, .. } => stderr,
            OpenError::Ended { end } | OpenError::Hub { end, .. } => end.stderr(),
            _ => "",
        }
    }
}

/// The thread that drives all connections of this process: neither user code that blocks nor runtimes that end stop it.
pub(crate) fn driver() -> io::Result<tokio::runtime::Handle> {
    static DRIVER: Mutex<Option<DriverThread>> = Mutex::new(None);
    let mut driver = DRIVER.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(driver) = &*driver {
        return Ok(driver.handle().clone());
    }
    Ok(driver.insert(DriverThread::start(DRIVER_THREAD)?).handle().clone())
}

/// The thread of starts: they read files, ask people and start processes, any of which may block, and no live gateway waits for
/// that.
fn starter() -> io::Result<tokio::runtime::Handle> {
    static STARTER: Mutex<Option<DriverThread>> = Mutex::new(None);
    let mut starter = STARTER.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(starter) = &*starter {
        return Ok(starter.handle().clone());
    }
    Ok(starter.insert(DriverThread::start("farcall-starter")?).handle().clone())
}

/// A future polled anywhere as if it were polled on a runtime: its streams, timers and tasks are that runtime's.
struct Within<F> {
    runtime: tokio::runtime::Handle,
    future: Pin<Box<F>>,
}

impl<F: Future> Future for Within<F> {
    type Output = F::Output;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<F::Output> {
        let this = &mut *self;
        let _entered = this.runtime.enter();
        this.future.as_mut().poll(cx)
    }
}

/// The running program, read and digested once for all gateways.
fn this_program() -> io::Result<Program> {
    static THIS: Mutex<Option<Program>> = Mutex::new(None);
    let mut this = THIS.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(this) = &*this {
        return Ok(this.clone());
    }
    Ok(this.insert(Program::current()?).clone())
}

/// What forks workers of a program, for all gateways of this process.
fn fork_server(program: &Path) -> ForkServer {
    static SERVERS: Mutex<BTreeMap<PathBuf, ForkServer>> = Mutex::new(BTreeMap::new());
    let mut servers = SERVERS.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(server) = servers.get(program) {
        return server.clone();
    }
    let from = this_process();
    let name = format!("farcall-fork-server of {from}");
    let words = [name, FORK_SERVER_WORD.to_owned(), format!("from={from}")].map(Into::into);
    servers.entry(program.to_owned()).or_insert(ForkServer::new(program, words.into())).clone()
}

/// What forks workers of the running program.
#[cfg(target_os = "linux")]
pub(crate) fn own_fork_server() -> io::Result<ForkServer> {
    Ok(fork_server(this_program()?.local()))
}

/// The name and the arguments of a worker.
#[cfg(target_os = "linux")]
pub(crate) fn worker_words(id: &Id, life: Life, calls: bool) -> Vec<std::ffi::OsString> {
    let role = Role { id: id.text().to_string(), from: this_process(), calls, life };
    let mut words = vec![name_of(&role).into()];
    words.extend(role.to_arguments());
    words
}

/// As a list of processes shows a worker.
fn name_of(role: &Role) -> String {
    format!("farcall-worker {} of {}", role.id, role.from)
}

/// The options of SSH that all gateways of this process share: its gate, its unlocked keys.
fn shared_ssh(environment: &std::collections::BTreeMap<String, String>) -> SshOptions {
    static SSH: Mutex<Option<SshOptions>> = Mutex::new(None);
    let mut ssh = SSH.lock().unwrap_or_else(PoisonError::into_inner);
    let made = || SshOptions {
        environment: environment.clone(),
        home: environment.get("HOME").map(Into::into),
        files: ConfigFiles::Usual,
        ..SshOptions::default()
    };
    ssh.get_or_insert_with(made).clone()
}

/// The first bytes of every worker, which tell it from noise.
fn greeting() -> Vec<u8> {
    let limits = Limits { max_channels: 0, initial_window: 0, max_message: 0, assembly_budget: 0 };
    let mut bytes = Vec::with_capacity(HELLO_LEN);
    Greeting { version: VERSION, limits }.encode(&mut bytes);
    // The version is left to the handshake, which names both sides' in its error.
    bytes.truncate(12);
    bytes
}

impl Builder {
    pub(crate) fn new(spec: Spec) -> Builder {
        let config = Config::default();
        Builder { spec, program: None, ssh: None, config, hub: None, inside: false, pass: None }
    }

    /// What is delivered and started, in place of the running program: other builds of it, say.
    #[must_use]
    pub fn program(mut self, program: Program) -> Builder {
        self.program = Some(program);
        self
    }

    /// How hosts are reached over SSH: who is asked for passwords, what is preferred. A clone shares what was unlocked.
    ///
    /// Of a spec with `openssh` the system's `ssh` is given the configuration file, the settings, the identity files and, in
    /// whole seconds, the limit.
    #[must_use]
    pub fn ssh(mut self, options: SshOptions) -> Builder {
        self.ssh = Some(options);
        self
    }

    /// Starts the worker from the host of another gateway, its hub, over that gateway's connection. What the spec says of a
    /// [hub](Spec::via) is then of no importance.
    ///
    /// - `local` is the hub's host: the hub's own program is started there again, and nothing is transferred. The
    ///   [program](Self::program) does not matter.
    /// - A command is the hub's: it is started there, and the program is delivered through it. Where it is the one that the
    ///   hub itself runs, the hub hands on its own copy.
    /// - SSH starts from the hub's host, which looks up the name and makes the connection, and no more: configuration, keys,
    ///   agents and known hosts are this side's, and what passes the hub is encrypted. `ProxyJump` starts there too;
    ///   a `ProxyCommand` cannot. `openssh` is a command, and with it the keys are the hub's.
    ///
    /// The leaf keeps the hub's handle alive. When the hub ends, so do its leaves: [`exit`](Gateway::exit) ends them first, and if
    /// it is lost, their [ends](GatewayEnd::hub) name it. A leaf may be a hub in turn.
    ///
    /// ```no_run
    /// # use farcall::{Gateway, Spec};
    /// # async fn example() -> Result<(), Box<dyn std::error::Error>> {
    /// let bastion = Gateway::open(&Spec::ssh("bastion")).await?;
    /// let inside = Gateway::builder(Spec::ssh("db1.internal")).via(&bastion).open().await?;
    /// println!("{}", inside.info().await?.host);
    /// # Ok(())
    /// # }
    /// ```
    #[must_use]
    pub fn via(mut self, hub: &Gateway) -> Builder {
        self.hub = Some(hub.clone());
        self
    }

    /// As [`via`](Self::via), for a worker that is a part of its hub.
    pub(crate) fn inside(self, hub: &Gateway) -> Builder {
        Builder { hub: Some(hub.clone()), inside: true, ..self }
    }

    /// Limits of the connection on this side: channels, windows, messages. Heartbeat and lease are the spec's.
    #[must_use]
    pub fn limits(mut self, config: Config) -> Builder {
        self.config = config;
        self
    }

    /// The same for a gateway in place of another: with an automatic id, and via the same hub.
    pub(crate) fn in_place_of(self, other: &Gateway) -> Builder {
        Builder { spec: self.spec.without_id(), hub: other.hub(), ..self }
    }

    /// Whether the process whose end is noticed is the worker itself, not a command or a hub that leads to it.
    pub(crate) fn process_is_worker(&self) -> bool {
        self.spec.is_direct()
    }

    /// Whether the worker is a child of the one that starts it, on the same host.
    pub(crate) fn is_local(&self) -> bool {
        self.spec.is_local()
    }

    /// Hands a local worker the socket over which it takes calls: see [`local`](crate::local). `kept` is dropped when nothing is
    /// left of its process, or of a start that was given up.
    pub(crate) fn pass(mut self, socket: Arc<OwnedFd>, kept: mpsc::Sender<()>) -> Builder {
        self.pass = Some(Passed { socket, kept });
        self
    }

    /// Launches the worker, connects to it, and sees that both sides agree.
    ///
    /// Cancel safety: what a dropped `open` has started is ended.
    ///
    /// # Errors
    /// See [`OpenError`].
    pub async fn open(self) -> Result<Gateway, OpenError> {
        if program().is_none() {
            return Err(OpenError::BeforeInit);
        }
        let id = Id::take(self.spec.asked_id());
        let id =
            id.ok_or_else(|| OpenError::DuplicateId { id: self.spec.asked_id().unwrap_or_default().into() })?;
        self.open_as(id).await
    }

    /// As [`open`](Self::open), with an id that was taken before.
    pub(crate) async fn open_as(self, id: Id) -> Result<Gateway, OpenError> {
        let initialised = program().ok_or(OpenError::BeforeInit)?;
        self.spec.check()?;
        if let (Some(via), None) = (self.spec.asked_via(), &self.hub) {
            return Err(OpenError::UnresolvedVia { via: via.to_owned() });
        }
        let driver = driver().map_err(OpenError::Driver)?;
        let starter = starter().map_err(OpenError::Driver)?;
        let establish = Box::pin(self.establish(id, initialised, driver.clone()));
        // Byte streams belong to the runtime that they are made on.
        AbortOnDrop(starter.spawn(Within { runtime: driver, future: establish })).outcome().await
    }

    async fn establish(
        self,
        id: Id,
        initialised: &'static Initialised,
        driver: tokio::runtime::Handle,
    ) -> Result<Gateway, OpenError> {
        // The hub's ssh knows nothing of files that are here.
        let target = self.spec.target_with(self.ssh.as_ref().filter(|_| self.hub.is_none()));
        // The hub is another's to keep alive, and the socket is for this worker alone.
        let origin = Builder { hub: None, pass: None, ..self.clone() };
        let hub = self.hub;
        let place: Arc<str> = match &hub {
            None => target.to_string().into(),
            Some(hub) => format!("{target} via {}", hub.id()).into(),
        };
        let program = match self.program {
            Some(program) => program,
            None => this_program().map_err(OpenError::Program)?,
        };
        let life = self.spec.life();
        let calls = self.pass.is_some();
        let role = Role { id: id.text().to_string(), from: this_process(), calls, life: life.clone() };
        let ssh = self.ssh.unwrap_or_else(|| shared_ssh(&initialised.environment));
        let mut options = self.spec.launch_options(ssh);
        options.argv0 = Some(name_of(&role).into());
        options.arguments = role.to_arguments();
        options.greeting = greeting();
        if hub.is_none() && matches!(target, Target::Local) {
            options.fork_server = Some(fork_server(program.local()));
        }
        (options.pass, options.kept) = self.pass.map(|passed| (passed.socket, passed.kept)).unzip();
        tracing::debug!(gateway = %role.id, %place, "launch");
        let launched = match &hub {
            None => farcall_bootstrap::launch(&target, &program, &options).await?,
            Some(hub) => via::launch(hub, &target, &program, options, &place).await?,
        };
        // What follows waits for nobody but the worker, and no other start should hold it up.
        let (config, inside, driving) = (self.config, self.inside, driver.clone());
        let connect = Connect { id, place, life, config, hub, inside, origin, initialised, driver: driving };
        AbortOnDrop(driver.spawn(connect.run(launched))).outcome().await
    }
}

/// A worker that has spoken becomes a gateway.
struct Connect {
    id: Id,
    place: Arc<str>,
    life: Life,
    config: Config,
    hub: Option<Gateway>,
    inside: bool,
    origin: Builder,
    initialised: &'static Initialised,
    driver: tokio::runtime::Handle,
}

impl Connect {
    async fn run(self, launched: Launched) -> Result<Gateway, OpenError> {
        let Connect { id, place, life, config, hub, inside, origin, initialised, driver } = self;
        let Launched { reader, writer, stderr, process, platform, delivery, image } = launched;
        let kept_back = config.kept_back.max(KEPT_BACK);
        let config = Config { heartbeat: life.heartbeat, lease: life.lease, kept_back, ..config };
        let options = Options { config, driver: Some(driver.clone()), ..Options::default() };
        let started = Connection::start(reader, writer, farcall_channel::Role::Coordinator, options).await;
        let connection = match started {
            Ok(connection) => connection,
            Err(cause) => {
                // What it had to say may still be on its way.
                let _ = tokio::time::timeout(LAST_WORDS, stderr.closed()).await;
                let stderr = String::from_utf8_lossy(&stderr.tail()).into_owned();
                return Err(OpenError::Connect { place: place.to_string(), cause, stderr });
            }
        };
        let kill = Arc::new(Notify::new());
        let asked = Arc::default();
        let (tell, end) = watch::channel(None);
        let watched = Watched {
            id: Arc::clone(id.text()),
            place: Arc::clone(&place),
            connection: connection.clone(),
            process,
            stderr,
            grace: life.grace,
            kill: Arc::clone(&kill),
            hub: hub.as_ref().map(|hub| Hub::of(hub, inside)),
            asked: Arc::clone(&asked),
        };
        // Ends with the gateway.
        driver.spawn(end::watch(watched, tell));
        let prints = match &hub {
            Some(hub) if inside => Arc::clone(&hub.inner().prints),
            _ => Arc::default(),
        };
        let gateway = Gateway::new(Inner {
            id,
            place,
            connection,
            end,
            kill,
            asked,
            prints,
            platform,
            delivery,
            pid: std::sync::OnceLock::new(),
            tasks: Arc::clone(&initialised.tasks),
            origin,
            driver,
            life,
            image,
            hub: hub.as_ref().map(|hub| Hub::of(hub, inside)),
            via: Via::default(),
            isolated: Pool::default(),
        });
        if let Some(hub) = &hub {
            hub.inner().via.add(&gateway);
        }
        match tokio::time::timeout(HELLO_LIMIT, agree(&gateway, initialised)).await {
            Ok(agreed) => agreed.map(|()| gateway),
            Err(_) => Err(OpenError::Silent { place: gateway.place().to_owned() }),
        }
    }
}

/// Who starts the worker, for those who see it in a list of processes.
fn this_process() -> String {
    let uname = rustix::system::uname();
    format!("{}:{}", uname.nodename().to_string_lossy(), std::process::id())
}

/// Introduces both sides to each other, and has the worker's prints and events told.
async fn agree(gateway: &Gateway, initialised: &Initialised) -> Result<(), OpenError> {
    let inner = gateway.inner();
    let connection = &inner.connection;
    let ended = async || OpenError::Ended { end: inner.ended().await };
    let hello: Result<Channel<Hello, Hello>, _> = connection.open(Request::Hello.to_bytes()).await;
    let Ok(mut hello) = hello else { return Err(ended().await) };
    let ours = Hello {
        farcall: env!("CARGO_PKG_VERSION").into(),
        program: initialised.tasks.program_version().into(),
        digest: initialised.tasks.digest(),
        tasks: Vec::new(),
        build: BUILD,
        pid: std::process::id(),
    };
    if hello.send(ours).await.is_err() {
        return Err(ended().await);
    }
    let prints: Result<Channel<(), crate::Printed>, _> = connection.open(Request::Prints.to_bytes()).await;
    let Ok(prints) = prints else { return Err(ended().await) };
    // Ends with the connection.
    let all = !inner.hub.as_ref().is_some_and(Hub::is_whole);
    inner.driver.spawn(Arc::clone(&inner.prints).gather(prints.split().1, all));
    if let Some(filter) = &initialised.log {
        let log: Result<Channel<String, crate::log::Event>, _> =
            connection.open(Request::Log.to_bytes()).await;
        if let Ok(mut log) = log
            && log.send(filter.clone()).await.is_ok()
        {
            let id = Arc::clone(inner.id.text());
            // Ends with the connection.
            inner.driver.spawn(async move {
                loop {
                    match log.recv().await {
                        Ok(Some(event)) => event.repeat(&id),
                        Err(RecvError::Remote(reason)) => {
                            let reason = reason.text();
                            tracing::warn!(gateway = %id, reason = %plain(&reason), "no events come from there");
                        }
                        // One that makes no sense is left out.
                        Err(RecvError::Codec(_)) => {}
                        Ok(None) | Err(_) => return,
                    }
                }
            });
        }
    }
    let theirs = match hello.recv().await {
        Ok(Some(theirs)) => theirs,
        Err(RecvError::Codec(source)) => {
            return Err(OpenError::Introduction { place: gateway.place().to_owned(), source });
        }
        Ok(None) | Err(_) => {
            connection.abort("the worker did not introduce itself");
            return Err(ended().await);
        }
    };
    match Mismatch::between(&initialised.tasks, &theirs) {
        None => {
            // Set once: here.
            let _ = inner.pid.set(theirs.pid);
            Ok(())
        }
        Some(mismatch) => Err(OpenError::Mismatch { place: gateway.place().to_owned(), mismatch }),
    }
}

struct AbortOnDrop<T>(tokio::task::JoinHandle<T>);

impl<T> AbortOnDrop<Result<T, OpenError>> {
    async fn outcome(mut self) -> Result<T, OpenError> {
        match (&mut self.0).await {
            Ok(outcome) => outcome,
            Err(error) => match error.try_into_panic() {
                Ok(panic) => std::panic::resume_unwind(panic),
                // The threads end with the program only.
                Err(_) => Err(OpenError::Driver(io::Error::other("the driver has ended"))),
            },
        }
    }
}

impl<T> Drop for AbortOnDrop<T> {
    fn drop(&mut self) {
        self.0.abort();
    }
}
