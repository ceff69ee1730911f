//! Jump hosts: passing through them, and sharing the connections to them.

use std::fmt;
use std::future::Future;
use std::hash::{Hash, Hasher};
use std::pin::Pin;
use std::sync::{Arc, Weak};

use super::config::{self, Config};
use super::connect;
use super::dial::Dialer;
use super::options::SshOptions;
use super::session::Session;
use super::shared::{NotShared, Pool, Shareable};
use crate::error::{Class, LaunchError, Step};

/// How many jump hosts a connection may pass, those of jump hosts included: enough for anybody, and an end for
/// configurations that go in circles.
pub(super) const HOPS: u32 = 16;

/// How many connections pass through one connection to a jump host. All that they move goes through one TCP stream, is
/// encrypted by one task here and one process there, and dies with either, so they are not all put on one; fifty hosts
/// behind a jump host cost it four logins instead of fifty. A server does not count these channels (`MaxSessions` is
/// about commands).
pub const PASSENGERS: usize = 16;

/// Connections to jump hosts, shared by the hosts behind them. Clones are the same connections; each ends with the last
/// that passes through it.
///
/// Shared are connections that the configuration describes alike: the same host, port, user, keys and all else, through
/// the same hosts. A connection for which a person was asked takes any number of passengers, so that nobody is asked twice.
#[derive(Clone, Default)]
pub struct JumpHosts {
    pool: Arc<Pool<Route, Session, LaunchError>>,
}

impl fmt::Debug for JumpHosts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("JumpHosts").finish_non_exhaustive()
    }
}

/// A host to connect to.
#[derive(Clone)]
pub(super) struct Hop {
    /// As it was asked for.
    pub name: String,
    pub config: Config,
}

/// What must be the same for a connection to be shared.
#[derive(Clone, PartialEq, Eq, Hash)]
struct Route {
    /// The hosts one after the other, the one to be shared last.
    configs: Vec<Config>,
    /// How many more may be passed. As it shrinks from one host to the next, an attempt that waits for others never
    /// waits for itself, even where the configuration goes in circles.
    hops: u32,
    window: u32,
    backlog: usize,
    start: Start,
    /// A connection is served by the runtime on which it was made.
    runtime: tokio::runtime::Id,
}

/// Where connections start: here, or where a dialer makes them. The same dialer is the same place.
#[derive(Clone)]
struct Start(Option<Weak<dyn Dialer>>);

impl Start {
    fn address(&self) -> Option<*const ()> {
        self.0.as_ref().map(|dialer| dialer.as_ptr().cast())
    }
}

impl PartialEq for Start {
    fn eq(&self, other: &Self) -> bool {
        self.address() == other.address()
    }
}

impl Eq for Start {}

impl Hash for Start {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.address().hash(state);
    }
}

impl Shareable for Session {
    fn is_over(&self) -> bool {
        self.is_closed()
    }

    fn capacity(&self) -> usize {
        if self.was_asked_for() { usize::MAX } else { PASSENGERS }
    }
}

/// Connects to the last of the jump hosts that `hop`'s configuration names, each through the one before it; nothing when
/// it names none. The first is reached as its own configuration says, as with `ssh`; settings and keys that were meant
/// for the target do not apply.
pub(super) async fn pass(
    hop: &Hop,
    options: &SshOptions,
    hops: u32,
) -> Result<Option<Arc<Session>>, LaunchError> {
    if hop.config.jumps.is_empty() {
        return Ok(None);
    }
    let options =
        SshOptions { settings: Vec::new(), identity_files: Vec::new(), watcher: None, ..options.clone() };
    if hops as usize <= hop.config.jumps.len() {
        let error = LaunchError::new(Step::Jump, Class::Connect, &hop.name);
        return Err(
            error.with_hint("the configuration's ProxyJump goes in a circle, or through too many hosts")
        );
    }
    let mut route = Vec::new();
    for jump in &hop.config.jumps {
        let config =
            config::effective(jump, &options).await.map_err(|e| behind_jump(Arc::new(e), &hop.name))?;
        route.push(Hop { name: jump.to_string(), config });
    }
    let session = cross(route, options, hops - 1).await.map_err(|e| behind_jump(e, &hop.name))?;
    Ok(Some(session))
}

type Crossing = Pin<Box<dyn Future<Output = Result<Arc<Session>, Arc<LaunchError>>> + Send>>;

/// Takes a place on a connection to the last host of `route`.
fn cross(route: Vec<Hop>, options: SshOptions, hops: u32) -> Crossing {
    Box::pin(async move {
        let last = route.last().expect("a route has at least one host").name.clone();
        let key = Route {
            // Which of its names was used makes no difference.
            configs: route
                .iter()
                .map(|hop| Config { original: String::new(), ..hop.config.clone() })
                .collect(),
            hops,
            window: options.window,
            backlog: options.backlog,
            start: Start(options.dialer.as_ref().map(Arc::downgrade)),
            runtime: tokio::runtime::Handle::current().id(),
        };
        let pool = Arc::clone(&options.jump_hosts.pool);
        match pool.get(key, || connect_last(route.clone(), options.clone(), hops)).await {
            Ok(session) => Ok(session),
            Err(NotShared::Failed(e)) => Err(e),
            Err(NotShared::Abandoned) => Err(Arc::new(LaunchError::new(Step::Connect, Class::Lost, last))),
        }
    })
}

/// Connects to the last host of `route` through those before it.
async fn connect_last(
    mut route: Vec<Hop>,
    options: SshOptions,
    hops: u32,
) -> Result<Session, Arc<LaunchError>> {
    let last = route.pop().expect("a route has at least one host");
    let connected = if route.is_empty() {
        connect::reach(last, options, hops).await
    } else {
        let upstream = cross(route, options.clone(), hops).await?;
        connect::over(Some(upstream), last, options).await
    };
    connected.map_err(Arc::new)
}

/// A jump host's failure, as the target's.
fn behind_jump(error: Arc<LaunchError>, name: &str) -> LaunchError {
    let mut failure =
        LaunchError::new(Step::Jump, error.class(), name).with_evidence(error.evidence().as_bytes());
    if let Some(hint) = error.hint() {
        failure = failure.with_hint(hint);
    }
    failure.because(error)
}
