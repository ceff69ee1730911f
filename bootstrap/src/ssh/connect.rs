//! Connecting to one host: attempts until a connection stands or trying again has no point.

use std::borrow::Cow;
use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use russh::client::{self, GexParams};
use russh::{ChannelOpenFailure, Error, SshId};
use tokio::io::{AsyncRead, AsyncWrite, BufReader};
use tokio_util::sync::CancellationToken;

use super::algorithms::{self, NoneLeft};
use super::auth;
use super::auth_error::AuthError;
use super::clock::{Clock, Late};
use super::config::{self, Config, SYSTEM_SSH};
use super::dial::{self, DialFailure, Dialed};
use super::ending::Ending;
use super::exec::tunnel;
use super::gate::{Pass, Unsettled};
use super::handler::{Client, NotText, ProtocolError, SharedReport};
use super::host_key::HostKeys;
use super::jumps::{self, HOPS, Hop};
use super::options::{SshOptions, SshTarget};
use super::prompt::{Haste, Prompt};
use super::pump;
use super::resolve::{self, ResolveError};
use super::session::{Parts, Session};
use super::stream::{Heard, Line};
use crate::error::{Class, LaunchError, Step};

/// The buffer between socket and protocol: without it, each packet costs two reads.
const READ_BUFFER: usize = 32 << 10;

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
    let config = config::effective(target, options).await?;
    if config.forward_agent {
        tracing::warn!(host = %target, "ForwardAgent is set, but no agent is forwarded: {SYSTEM_SSH}");
    }
    reach(Hop { name: target.to_string(), config }, options.clone(), HOPS).await
}

/// The future of a connection.
pub(super) type Connecting = Pin<Box<dyn Future<Output = Result<Session, LaunchError>> + Send>>;

/// Connects through whatever the host's configuration says. No more than `hops` hosts may be passed, it included.
pub(super) fn reach(hop: Hop, options: SshOptions, hops: u32) -> Connecting {
    Box::pin(async move {
        let upstream = jumps::pass(&hop, &options, hops).await?;
        over(upstream, hop, options).await
    })
}

/// Connects to a host through `upstream`, if given, and else directly.
pub(super) async fn over(
    upstream: Option<Arc<Session>>,
    hop: Hop,
    options: SshOptions,
) -> Result<Session, LaunchError> {
    Attempts { name: hop.name, config: hop.config, options, upstream }.run().await
}

/// Tries until a connection stands, or trying again has no point.
struct Attempts {
    name: String,
    config: Config,
    options: SshOptions,
    upstream: Option<Arc<Session>>,
}

/// How one attempt failed.
enum Failure {
    /// The server cut the connection before authentication: it may have too many others to deal with.
    Busy(LaunchError),
    Final(LaunchError),
}

impl Attempts {
    async fn run(&self) -> Result<Session, LaunchError> {
        // As with ssh, a ConnectTimeout ends with the key exchange. Whoever chose a short one, to pass over hosts that are down,
        // did not mean slow logins by it.
        let first = self.config.connect_timeout.unwrap_or(self.options.limit);
        let limit = first.max(self.options.limit);
        let host_keys = HostKeys::new(&self.config).map_err(|e| self.none_left(e))?;
        let server = self.place();
        let mut clock = None;
        let mut attempt = 0;
        loop {
            let pass = self.options.gate.pass(&server).await;
            // The limit does not run while others have their turn.
            let clock = clock.get_or_insert_with(|| Clock::start(first));
            match self.attempt(&host_keys, clock, limit, pass).await.map_err(|failure| self.blame(failure)) {
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
        match (&self.upstream, &self.options.dialer, proxy_command) {
            (Some(upstream), _, _) => format!("{host}:{port} via {}", upstream.name()),
            (None, Some(dialer), _) => format!("{host}:{port} from {}", dialer.name()),
            (None, None, Some(command)) => format!("{host}:{port} by {command}"),
            (None, None, None) => format!("{host}:{port}"),
        }
    }

    /// Where the jump host's connection has ended, that was the reason, and trying again has no point.
    fn blame(&self, failure: Failure) -> Failure {
        let ending = self.upstream.as_ref().map(|upstream| upstream.ending());
        match ending.and_then(|ending| ending.of_jump_host().or_else(|| ending.own())) {
            Some(lost) => Failure::Final(self.error(Step::Jump, Class::Lost).because(lost)),
            None => failure,
        }
    }

    fn error(&self, step: Step, class: Class) -> LaunchError {
        LaunchError::new(step, class, self.name.clone())
    }

    fn none_left(&self, error: NoneLeft) -> LaunchError {
        self.error(Step::Config, Class::Connect).because(error)
    }

    fn begin(&self, step: Step) {
        let Config { host, port, .. } = &self.config;
        tracing::debug!(host = %self.name, at = %format_args!("{host}:{port}"), %step, "connecting");
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
                Ok(Ok(channel)) => pump::start(channel, Session::clone(upstream), self.options.backlog),
            };
            return self.shake_hands(tunnel(link), Haste::default(), host_keys, clock, limit, pass).await;
        }
        if let Some(dialer) = &self.options.dialer {
            if self.config.proxy_command.is_some() {
                let error = self.error(Step::Config, Class::Connect).because(RunsHere);
                return Err(Failure::Final(
                    error.with_hint("ProxyJump and the host's own name work from there"),
                ));
            }
            self.begin(Step::Connect);
            let dialing = dialer.dial(&self.config.host, self.config.port, self.config.family);
            let Dialed { reader, writer } = match clock.within(dialing).await {
                Err(e) => return Err(Failure::Final(self.late(Step::Connect, e))),
                Ok(Err(e)) => return Err(Failure::Final(self.dial_error(e))),
                Ok(Ok(dialed)) => dialed,
            };
            let stream = tokio::io::join(BufReader::with_capacity(READ_BUFFER, reader), writer);
            return self.shake_hands(stream, Haste::default(), host_keys, clock, limit, pass).await;
        }
        if let Some(command) = &self.config.proxy_command {
            self.begin(Step::Connect);
            let (stream, complaints) = dial::proxy(command)
                .map_err(|e| Failure::Final(self.error(Step::Connect, Class::Connect).because(e)))?;
            return match self.shake_hands(stream, Haste::default(), host_keys, clock, limit, pass).await {
                Ok(session) => Ok(session),
                // Not tried again: it is more likely that the command fails than that a server is busy.
                Err(Failure::Busy(e)) if e.evidence().is_empty() => {
                    let failure = e.because(ClosedByCommand).with_evidence(&complaints.hear().await);
                    Err(Failure::Final(
                        failure.with_hint("run the ProxyCommand by itself, to see that it leads there"),
                    ))
                }
                Err(Failure::Final(e)) if e.evidence().is_empty() => {
                    Err(Failure::Final(e.with_evidence(&complaints.hear().await)))
                }
                Err(failure) => Err(failure),
            };
        }
        self.begin(Step::Resolve);
        let Config { host, port, family, .. } = &self.config;
        let looking = resolve::endpoints(host, *port, *family);
        let addresses = match clock.within(looking).await {
            Err(e) => return Err(Failure::Final(self.late(Step::Resolve, e))),
            Ok(Err(e)) => return Err(Failure::Final(self.error(Step::Resolve, Class::Resolve).because(e))),
            Ok(Ok(addresses)) => addresses,
        };
        let origins = match &self.config.bind_address {
            Some(name) => match clock.within(resolve::addresses(name, *family)).await {
                Err(e) => return Err(Failure::Final(self.late(Step::Resolve, e))),
                Ok(Err(source)) => {
                    let error = BindAddress { name: name.clone(), source };
                    return Err(Failure::Final(self.error(Step::Resolve, Class::Resolve).because(error)));
                }
                Ok(Ok(origins)) => Some(origins),
            },
            None => None,
        };
        self.begin(Step::Connect);
        let dialing = dial::endpoints(addresses, origins);
        let stream = match clock.within(dialing).await {
            Err(e) => return Err(Failure::Final(self.late(Step::Connect, e))),
            Ok(Err(e)) => return Err(Failure::Final(self.error(Step::Connect, Class::Connect).because(e))),
            Ok(Ok(stream)) => stream,
        };
        let haste = Haste::default();
        let stream = BufReader::with_capacity(READ_BUFFER, Prompt::new(stream, haste.clone()));
        self.shake_hands(stream, haste, host_keys, clock, limit, pass).await
    }

    fn dial_error(&self, failure: DialFailure) -> LaunchError {
        let (step, class) = match &failure {
            DialFailure::Resolve(_) => (Step::Resolve, Class::Resolve),
            DialFailure::Connect(_) => (Step::Connect, Class::Connect),
            DialFailure::Lost(_) => (Step::Connect, Class::Lost),
        };
        self.error(step, class).because(failure)
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
        let shorter = self.config.connect_timeout.is_some_and(|timeout| timeout < self.options.limit);
        let own = shorter.then(|| Clock::start(limit));
        let clock = own.as_ref().unwrap_or(clock);
        // From here on, nothing is tried twice: a server may count attempts to authenticate.
        self.begin(Step::Authenticate);
        let authenticating = auth::authenticate(&mut handle, &self.config, &self.options, clock, &report);
        let asked = match authenticating.await {
            Ok(asked) => asked,
            Err(e) => return Err(Failure::Final(self.auth_error(e, &report))),
        };
        pass.keep_until(settled);
        self.begin(Step::Session);
        let upstream_ending = self.upstream.as_ref().map(|upstream| Arc::clone(upstream.ending()));
        Ok(Session::new(Parts {
            handle,
            ending: Arc::new(Ending::new(self.name.clone(), report, upstream_ending)),
            limit,
            backlog: self.options.backlog,
            haste,
            cut: guard,
            upstream: self.upstream.clone(),
            asked,
            variables: self.config.variables.wanted(&self.options.environment),
        }))
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
            error if NotText::is(&error) => Failure::Final(failure.because(NotText).with_hint(SYSTEM_SSH)),
            other => Failure::Final(failure.because(other)),
        }
    }

    fn auth_error(&self, error: AuthError, report: &SharedReport) -> LaunchError {
        let report = report.lock().unwrap_or_else(PoisonError::into_inner);
        let class = match &error {
            AuthError::Refused { .. } | AuthError::Endless { .. } => Class::Auth,
            AuthError::NotText(_) => Class::Connect,
            AuthError::Late { .. } => Class::Timeout,
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
#[error("BindAddress {name}: {source}")]
struct BindAddress {
    name: String,
    source: ResolveError,
}

#[derive(Debug, thiserror::Error)]
#[error("the server closed the connection during the handshake")]
struct Closed;

/// Its text is not told: it may hold a secret.
#[derive(Debug, thiserror::Error)]
#[error("the ProxyCommand ended before a server had answered through it")]
struct ClosedByCommand;

#[derive(Debug, thiserror::Error)]
#[error("a ProxyCommand runs on this machine, and the connection is to start elsewhere")]
struct RunsHere;

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
