//! An authenticated connection to one host.

use std::borrow::Cow;
use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use russh::client::{self, GexParams, Handle, Msg};
use russh::{Channel, ChannelOpenFailure, Disconnect, Error, SshId};
use tokio::io::{AsyncRead, AsyncWrite, BufReader};
use tokio_util::sync::{CancellationToken, DropGuard};

use super::algorithms::{self, NoneLeft};
use super::auth::{self, AuthError};
use super::clock::{Clock, Late};
use super::config::{self, Config};
use super::dial;
use super::exec::{Exec, tunnel};
use super::gate::{Pass, Unsettled};
use super::handler::{Client, ProtocolError, Report, SharedReport};
use super::host_key::HostKeys;
use super::options::{SshOptions, SshTarget};
use super::prompt::{Haste, Prompt};
use super::pump;
use super::resolve;
use super::stream::{Heard, Line};
use crate::error::{Class, LaunchError, Step};

/// How many jump hosts a connection may pass, those of jump hosts included: enough for anybody, and an end for
/// configurations that go in circles.
const HOPS: u32 = 16;

/// How long a connection may take to say goodbye after its last user has gone.
const FAREWELL: Duration = Duration::from_secs(2);

/// The buffer between socket and protocol: without it, each packet costs two reads.
const READ_BUFFER: usize = 32 << 10;

/// An authenticated connection to one host. Clones are the same connection; it is closed when the last clone, and the
/// last part of the commands that run on it, has been dropped.
#[derive(Clone)]
pub struct Session {
    inner: Arc<Inner>,
}

struct Inner {
    /// Absent only while it is being dropped.
    handle: Option<Handle<Client>>,
    report: SharedReport,
    original: String,
    limit: Duration,
    backlog: usize,
    haste: Haste,
    /// Cuts the stream when dropped.
    cut: Option<DropGuard>,
    /// The connection to the jump host that this one passes through.
    upstream: Option<Session>,
}

impl fmt::Debug for Session {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Session").field("host", &self.inner.original).finish_non_exhaustive()
    }
}

/// Connects to a host as `ssh` would, and authenticates.
///
/// # Errors
/// The [`LaunchError`] says at which step and by which class it failed, what the server said, and what a person can do.
/// When a jump host was the obstacle, the step is [`Step::Jump`] and the cause is the jump host's own error.
///
/// Cancel safe: dropping the future closes what was opened.
///
/// ```no_run
/// # async fn example() -> Result<(), Box<dyn std::error::Error>> {
/// use farcall_bootstrap::ssh::{self, SshOptions, SshTarget};
/// use tokio::io::AsyncReadExt;
///
/// let session = ssh::connect(&SshTarget::new("db1.example.org"), &SshOptions::default()).await?;
/// let mut uname = session.exec("uname -sm").await?;
/// let mut text = String::new();
/// uname.stdout.read_to_string(&mut text).await?;
/// println!("{text}, {:?}", uname.process.wait().await?);
/// # Ok(()) }
/// ```
pub async fn connect(target: &SshTarget, options: &SshOptions) -> Result<Session, LaunchError> {
    connect_hop(target.clone(), options.clone(), None, HOPS).await
}

type Connecting = Pin<Box<dyn Future<Output = Result<Session, LaunchError>> + Send>>;

/// Connects through `upstream`, if given, and else through whatever the configuration says.
fn connect_hop(target: SshTarget, options: SshOptions, upstream: Option<Session>, hops: u32) -> Connecting {
    Box::pin(async move {
        let config = config::effective(&target, &options).await?;
        let name = target.to_string();
        let upstream = match upstream {
            Some(session) => Some(session),
            None => pass_jumps(&config, &options, &name, hops).await?,
        };
        Attempts { name, config, options, upstream }.run().await
    })
}

/// Connects to each jump host through the one before it. The first is reached as its own configuration says, as with
/// `ssh`; settings and keys that were meant for the target do not apply.
async fn pass_jumps(
    config: &Config,
    options: &SshOptions,
    name: &str,
    hops: u32,
) -> Result<Option<Session>, LaunchError> {
    let mut session = None;
    let options =
        SshOptions { settings: Vec::new(), identity_files: Vec::new(), watcher: None, ..options.clone() };
    for (passed, hop) in config.jumps.iter().enumerate() {
        let left = hops.saturating_sub(u32::try_from(passed).unwrap_or(u32::MAX)).saturating_sub(1);
        if left == 0 {
            let error = LaunchError::new(Step::Jump, Class::Connect, name);
            return Err(
                error.with_hint("the configuration's ProxyJump goes in a circle, or through too many hosts")
            );
        }
        let next = connect_hop(hop.clone(), options.clone(), session.take(), left).await;
        session = Some(next.map_err(|e| behind_jump(e, name))?);
    }
    Ok(session)
}

/// A jump host's failure, as the target's.
fn behind_jump(error: LaunchError, name: &str) -> LaunchError {
    let mut failure =
        LaunchError::new(Step::Jump, error.class(), name).with_evidence(error.evidence().as_bytes());
    if let Some(hint) = error.hint() {
        failure = failure.with_hint(hint);
    }
    failure.because(error)
}

/// Tries until a connection stands, or trying again has no point.
struct Attempts {
    name: String,
    config: Config,
    options: SshOptions,
    upstream: Option<Session>,
}

/// How one attempt failed.
enum Failure {
    /// The server cut the connection before authentication: it may have too many others to deal with.
    Busy(LaunchError),
    Final(LaunchError),
}

impl Attempts {
    async fn run(&self) -> Result<Session, LaunchError> {
        let limit = self.config.connect_timeout.unwrap_or(self.options.limit);
        let host_keys = HostKeys::new(&self.config).map_err(|e| self.none_left(e))?;
        let server = self.place();
        let mut clock = None;
        let mut attempt = 0;
        loop {
            let pass = self.options.gate.pass(&server).await;
            // The limit does not run while others have their turn.
            let clock = clock.get_or_insert_with(|| Clock::start(limit));
            match self.attempt(&host_keys, clock, limit, pass).await {
                Ok(session) => return Ok(session),
                Err(Failure::Final(e)) => return Err(e),
                Err(Failure::Busy(e)) => {
                    let pause = pause_after(attempt);
                    attempt += 1;
                    if attempt > self.options.retries || clock.left() <= pause {
                        return Err(e);
                    }
                    tracing::debug!(host = %self.name, attempt, error = %e, "server cut the handshake, trying again");
                    tokio::time::sleep(pause).await;
                }
            }
        }
    }

    /// The server as the gate knows it.
    fn place(&self) -> String {
        let Config { host, port, proxy_command, .. } = &self.config;
        match (&self.upstream, proxy_command) {
            (Some(upstream), _) => format!("{host}:{port} via {}", upstream.inner.original),
            (None, Some(command)) => format!("{host}:{port} by {command}"),
            (None, None) => format!("{host}:{port}"),
        }
    }

    fn error(&self, step: Step, class: Class) -> LaunchError {
        LaunchError::new(step, class, self.name.clone())
    }

    fn none_left(&self, error: NoneLeft) -> LaunchError {
        self.error(Step::Config, Class::Connect).because(error)
    }

    fn begin(&self, step: Step) {
        if let Some(watcher) = &self.options.watcher {
            watcher(step);
        }
    }

    fn late(&self, step: Step, late: Late) -> LaunchError {
        self.error(step, Class::Timeout).because(late)
    }

    async fn attempt(
        &self,
        host_keys: &HostKeys,
        clock: &Clock,
        limit: Duration,
        pass: Pass,
    ) -> Result<Session, Failure> {
        if let Some(upstream) = &self.upstream {
            self.begin(Step::Connect);
            let opening = upstream.open_tunnel(&self.config.host, self.config.port);
            let link = match clock.within(opening).await {
                Err(e) => return Err(Failure::Final(self.late(Step::Jump, e))),
                Ok(Err(e)) => return Err(Failure::Final(self.tunnel_error(e))),
                Ok(Ok(channel)) => pump::start(channel, upstream.clone(), self.options.backlog),
            };
            return self.shake_hands(tunnel(link), Haste::default(), host_keys, clock, limit, pass).await;
        }
        if let Some(command) = &self.config.proxy_command {
            self.begin(Step::Connect);
            let (stream, complaints) = dial::proxy(command)
                .map_err(|e| Failure::Final(self.error(Step::Connect, Class::Connect).because(e)))?;
            return match self.shake_hands(stream, Haste::default(), host_keys, clock, limit, pass).await {
                Ok(session) => Ok(session),
                Err(Failure::Busy(e) | Failure::Final(e)) if e.evidence().is_empty() => {
                    // Not tried again: it is more likely that the command fails than that a server is busy.
                    Err(Failure::Final(e.with_evidence(&complaints.hear().await)))
                }
                Err(failure) => Err(failure),
            };
        }
        self.begin(Step::Resolve);
        let addresses = match clock.within(resolve::addresses(&self.config.host, self.config.family)).await {
            Err(e) => return Err(Failure::Final(self.late(Step::Resolve, e))),
            Ok(Err(e)) => return Err(Failure::Final(self.error(Step::Resolve, Class::Resolve).because(e))),
            Ok(Ok(addresses)) => addresses,
        };
        self.begin(Step::Connect);
        let dialing = dial::tcp(&addresses, self.config.port, self.config.bind_address);
        let stream = match clock.within(dialing).await {
            Err(e) => return Err(Failure::Final(self.late(Step::Connect, e))),
            Ok(Err(e)) => return Err(Failure::Final(self.error(Step::Connect, Class::Connect).because(e))),
            Ok(Ok(stream)) => stream,
        };
        let haste = Haste::default();
        let stream = BufReader::with_capacity(READ_BUFFER, Prompt::new(stream, haste.clone()));
        self.shake_hands(stream, haste, host_keys, clock, limit, pass).await
    }

    fn tunnel_error(&self, error: Error) -> LaunchError {
        let failure = self.error(Step::Jump, Class::Connect);
        match &error {
            Error::ChannelOpenFailure(ChannelOpenFailure::AdministrativelyProhibited) => failure
                .because(error)
                .with_hint("the jump host does not forward connections (AllowTcpForwarding)"),
            _ => failure.because(error),
        }
    }

    async fn shake_hands(
        &self,
        stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
        haste: Haste,
        host_keys: &HostKeys,
        clock: &Clock,
        limit: Duration,
        pass: Pass,
    ) -> Result<Session, Failure> {
        let preferred = algorithms::preferred(&self.config, &host_keys.known_algorithms())
            .map_err(|e| Failure::Final(self.none_left(e)))?;
        let protocol = Arc::new(client::Config {
            client_id: SshId::Standard(Cow::Borrowed(concat!("SSH-2.0-farcall_", env!("CARGO_PKG_VERSION")))),
            // As ssh asks for them; many servers have no groups as large as the library prefers.
            gex: GexParams::new(2048, 3072, 8192).expect("these sizes are in order"),
            window_size: self.options.window,
            preferred,
            keepalive_interval: self.config.alive_interval,
            keepalive_max: self.config.alive_count_max,
            // The socket is ours: dial.rs has set it so.
            nodelay: true,
            ..client::Config::default()
        });
        let cut = CancellationToken::new();
        let guard = cut.clone().drop_guard();
        let report = SharedReport::default();
        let (unsettled, settled) = Unsettled::new();
        let client = Client::new(host_keys.clone(), Arc::clone(&report), unsettled);
        let heard = Arc::<Mutex<Heard>>::default();
        let line = Line::new(stream, &cut, Arc::clone(&heard));
        self.begin(Step::KeyExchange);
        let mut handle = match clock.within(client::connect_stream(protocol, line, client)).await {
            Err(e) => {
                let failure = self.late(Step::KeyExchange, e).with_evidence(&prelude(&heard));
                return Err(Failure::Final(failure));
            }
            Ok(Err(e)) => return Err(self.handshake_error(e, host_keys, &prelude(&heard))),
            Ok(Ok(handle)) => handle,
        };
        // From here on, nothing is tried twice: a server may count attempts to authenticate.
        self.begin(Step::Authenticate);
        if let Err(e) = auth::authenticate(&mut handle, &self.config, &self.options, clock, &report).await {
            return Err(Failure::Final(self.auth_error(e, &report)));
        }
        pass.keep_until(settled);
        self.begin(Step::Session);
        let inner = Inner {
            handle: Some(handle),
            report,
            original: self.name.clone(),
            limit,
            backlog: self.options.backlog,
            haste,
            cut: Some(guard),
            upstream: self.upstream.clone(),
        };
        Ok(Session { inner: Arc::new(inner) })
    }

    fn handshake_error(&self, error: ProtocolError, host_keys: &HostKeys, said: &[u8]) -> Failure {
        let error = match error {
            ProtocolError::HostKey(e) => {
                let remedy = host_keys.remedy(&e);
                let failure = self.error(Step::HostKey, Class::HostKey).because(e);
                return Failure::Final(match remedy {
                    Some(remedy) => failure.with_hint(remedy),
                    None => failure,
                });
            }
            ProtocolError::Ssh(e) => e,
        };
        let failure = self.error(Step::KeyExchange, Class::Connect).with_evidence(said);
        match error {
            Error::Disconnect | Error::HUP | Error::IO(_) => {
                let failure = match error {
                    Error::IO(e) => failure.because(e),
                    _ => failure.because(Closed),
                };
                // OpenSSH 9.8 and later hold grudges against addresses; insisting makes them longer.
                let banned = said.starts_with(b"Not allowed at this time");
                if banned { Failure::Final(failure) } else { Failure::Busy(failure) }
            }
            Error::WrongServerSig => {
                Failure::Final(self.error(Step::HostKey, Class::HostKey).because(error).with_evidence(said))
            }
            other => Failure::Final(failure.because(other)),
        }
    }

    fn auth_error(&self, error: AuthError, report: &SharedReport) -> LaunchError {
        let report = report.lock().unwrap_or_else(PoisonError::into_inner);
        let class = match &error {
            AuthError::Refused { .. } => Class::Auth,
            AuthError::Late(_) => Class::Timeout,
            // A server that leaves with words has decided against us; one that leaves without has gone away.
            AuthError::Ended { .. } if !report.said.is_empty() => Class::Auth,
            AuthError::Ended { .. } | AuthError::Protocol(_) => Class::Lost,
        };
        let hint = error.hint();
        let failure = self.error(Step::Authenticate, class).because(error).with_evidence(&report.said);
        match hint {
            Some(hint) => failure.with_hint(hint),
            None => failure,
        }
    }
}

#[derive(Debug, thiserror::Error)]
#[error("the server closed the connection during the handshake")]
struct Closed;

fn prelude(heard: &Mutex<Heard>) -> Vec<u8> {
    std::mem::take(&mut heard.lock().unwrap_or_else(PoisonError::into_inner).prelude)
}

/// Longer after each attempt, up to a second, and never the same for two clients.
fn pause_after(attempt: u32) -> Duration {
    let longest = 50_u64.saturating_mul(1 << attempt.min(10)).min(1000);
    let mut random = [0; 2];
    // Without randomness the pause is the longest; nothing depends on it but fairness.
    let share =
        getrandom::fill(&mut random).map_or(u64::from(u16::MAX), |()| u64::from(u16::from_le_bytes(random)));
    Duration::from_millis(longest / 2 + longest * share / (2 * u64::from(u16::MAX)))
}

impl Session {
    /// Starts `command` under the account's login shell, on a channel of its own.
    ///
    /// Returns as soon as the channel is open. A server that refuses the command says so later: reading ends with an
    /// error of kind `PermissionDenied`, and [`wait`](super::Process::wait) with [`ExecError::Refused`](super::ExecError::Refused).
    ///
    /// All channels of a session share its connection, and a default sshd allows ten (`MaxSessions`).
    ///
    /// # Errors
    /// When the connection has ended (class lost), the server allows no further channel (class bootstrap), or does
    /// not answer within the limit of the connection.
    ///
    /// Cancel safe: the channel is closed, if it was open already.
    pub async fn exec(&self, command: impl AsRef<[u8]>) -> Result<Exec, LaunchError> {
        let error = |class| LaunchError::new(Step::Session, class, self.inner.original.clone());
        let opening = async {
            let channel = self.handle().channel_open_session().await?;
            channel.exec(true, command.as_ref()).await?;
            Ok::<_, Error>(channel)
        };
        let channel = match tokio::time::timeout(self.inner.limit, opening).await {
            Err(_) => return Err(error(Class::Timeout).because(Late { limit: self.inner.limit })),
            Ok(Err(e @ Error::ChannelOpenFailure(_))) => {
                let hint = "the server limits the channels of a connection (MaxSessions)";
                return Err(error(Class::Bootstrap).because(e).with_hint(hint));
            }
            Ok(Err(e)) => {
                let said = self.report().said.clone();
                return Err(error(Class::Lost).because(e).with_evidence(&said));
            }
            Ok(Ok(channel)) => channel,
        };
        Ok(Exec::new(pump::start(channel, self.clone(), self.inner.backlog)))
    }

    /// Whether the connection has ended.
    pub fn is_closed(&self) -> bool {
        self.handle().is_closed()
    }

    /// Whether this is the same connection as `other`.
    pub fn is_same(&self, other: &Session) -> bool {
        Arc::ptr_eq(&self.inner, &other.inner)
    }

    /// The end of what the server said in words, such as its banner: at most 4 KiB.
    pub fn said(&self) -> Vec<u8> {
        self.report().said.clone()
    }

    fn report(&self) -> std::sync::MutexGuard<'_, Report> {
        self.inner.report.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn handle(&self) -> &Handle<Client> {
        self.inner.handle.as_ref().expect("the handle is taken by drop alone")
    }

    /// Tells, when asked, why the connection ended. Holds no claim on it.
    pub(crate) fn ending(&self) -> impl Fn() -> String + Send + 'static {
        let report = Arc::clone(&self.inner.report);
        move || {
            let report = report.lock().unwrap_or_else(PoisonError::into_inner);
            report.ended.clone().unwrap_or_else(|| "it was closed".to_owned())
        }
    }

    /// To be ended when the server has started a command. One that only forwards for us goes on to wait for
    /// acknowledgements, so its connection stays in haste.
    pub(super) fn haste(&self) -> Haste {
        self.inner.haste.clone()
    }

    async fn open_tunnel(&self, host: &str, port: u16) -> Result<Channel<Msg>, Error> {
        // The originator is for the server's log; ssh sends this too when there is none.
        self.handle().channel_open_direct_tcpip(host, u32::from(port), "127.0.0.1", 0).await
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        let (handle, cut, upstream) = (self.handle.take(), self.cut.take(), self.upstream.take());
        let (Some(mut handle), Ok(runtime)) = (handle, tokio::runtime::Handle::try_current()) else { return };
        // Says goodbye, so that the server need not guess; ends by the server's close or by the limit, and then the
        // stream is cut.
        runtime.spawn(async move {
            let farewell = async {
                let _ = handle.disconnect(Disconnect::ByApplication, "", "").await;
                let _ = (&mut handle).await;
            };
            let _ = tokio::time::timeout(FAREWELL, farewell).await;
            drop((cut, upstream));
        });
    }
}
