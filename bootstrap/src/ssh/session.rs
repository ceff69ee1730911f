//! An authenticated connection to one host.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use russh::client::{Handle, Msg};
use russh::{Channel, Disconnect, Error};
use tokio_util::sync::{CancellationToken, DropGuard};

use super::clock::Late;
use super::ending::Ending;
use super::exec::Exec;
use super::handler::Client;
use super::opening;
use super::prompt::Haste;
use super::pump;
use super::variables::Variable;
use crate::error::{Class, LaunchError, Step};

/// How long a connection may take to say goodbye after its last user has gone.
const FAREWELL: Duration = Duration::from_secs(2);

/// An authenticated connection to one host. Clones are the same connection; it is closed when the last clone, and the
/// last part of the commands that run on it, has been dropped.
#[derive(Clone)]
pub struct Session {
    inner: Arc<Inner>,
    /// Cancels `left` with the last clone.
    _users: Arc<DropGuard>,
}

/// What a connection is made of, once it stands.
pub(super) struct Parts {
    pub handle: Handle<Client>,
    pub ending: Arc<Ending>,
    pub limit: Duration,
    pub backlog: usize,
    pub haste: Haste,
    /// Cuts the stream when dropped.
    pub cut: DropGuard,
    /// The connection to the jump host that this one passes through.
    pub upstream: Option<Arc<Session>>,
    /// Whether a person had to be asked.
    pub asked: bool,
    /// What the server is asked to set for commands.
    pub variables: Vec<Variable>,
}

struct Inner {
    /// Absent only while it is being dropped.
    parts: Option<Parts>,
    /// Cancelled when nobody uses the connection: those who open channels hold it, and are no users.
    left: CancellationToken,
}

impl fmt::Debug for Session {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Session").field("host", &self.name()).finish_non_exhaustive()
    }
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
    /// Cancel safe: the channel is closed, at once or when the server opens it. The same holds when the limit passes.
    pub async fn exec(&self, command: impl AsRef<[u8]>) -> Result<Exec, LaunchError> {
        let error = |class| LaunchError::new(Step::Session, class, self.name());
        let opening = async {
            let inner = Arc::clone(&self.inner);
            let open = async move { inner.parts().handle.channel_open_session().await };
            let opened = opening::open(open, self.inner.left.clone()).await?;
            let channel = opened.channel();
            for Variable { name, value } in &self.parts().variables {
                // Without an answer: what the server does not accept is not there, as with ssh, and nothing waits for that.
                channel.set_env(false, name, value).await?;
            }
            channel.exec(true, command.as_ref()).await?;
            Ok::<_, Error>(opened.claim())
        };
        let limit = self.parts().limit;
        let channel = match tokio::time::timeout(limit, opening).await {
            Err(_) => return Err(error(Class::Timeout).because(Late { limit })),
            Ok(Err(e @ Error::ChannelOpenFailure(_))) => {
                let hint = "the server limits the channels of a connection (MaxSessions)";
                return Err(error(Class::Bootstrap).because(e).with_hint(hint));
            }
            Ok(Err(e)) => {
                let failure = error(Class::Lost).with_evidence(&self.said());
                return Err(match self.parts().ending.of_jump_host() {
                    Some(cause) => failure.because(cause),
                    None => failure.because(e),
                });
            }
            Ok(Ok(channel)) => channel,
        };
        Ok(Exec::new(pump::start(channel, self.clone(), self.parts().backlog)))
    }

    /// Whether the connection has ended.
    pub fn is_closed(&self) -> bool {
        self.parts().handle.is_closed()
    }

    /// Whether this is the same connection as `other`.
    pub fn is_same(&self, other: &Session) -> bool {
        Arc::ptr_eq(&self.inner, &other.inner)
    }

    /// The end of what the server said in words, such as its banner: at most 4 KiB.
    pub fn said(&self) -> Vec<u8> {
        self.parts().ending.report().said.clone()
    }

    pub(super) fn new(parts: Parts) -> Self {
        let left = CancellationToken::new();
        let users = Arc::new(left.clone().drop_guard());
        Self { inner: Arc::new(Inner { parts: Some(parts), left }), _users: users }
    }

    fn parts(&self) -> &Parts {
        self.inner.parts()
    }

    /// The host, as it was asked for.
    pub(super) fn name(&self) -> &str {
        self.parts().ending.name()
    }

    /// Whether a person had to be asked before the server let us in.
    pub(super) fn was_asked_for(&self) -> bool {
        self.parts().asked
    }

    /// Tells, when asked, why the connection ended. Holds no claim on it.
    pub(super) fn ending(&self) -> &Arc<Ending> {
        &self.parts().ending
    }

    /// To be ended when the server has started a command. One that only forwards for us goes on to wait for
    /// acknowledgements, so its connection stays in haste.
    pub(super) fn haste(&self) -> Haste {
        self.parts().haste.clone()
    }

    /// Lets the server connect us on to `host`. Cancel safe, as [`exec`](Self::exec) is.
    pub(super) async fn open_tunnel(&self, host: &str, port: u16) -> Result<Channel<Msg>, Error> {
        // The originator is for the server's log; ssh sends this too when there is none.
        let (inner, host) = (Arc::clone(&self.inner), host.to_owned());
        let open = async move {
            inner.parts().handle.channel_open_direct_tcpip(host, u32::from(port), "127.0.0.1", 0).await
        };
        Ok(opening::open(open, self.inner.left.clone()).await?.claim())
    }
}

impl Inner {
    fn parts(&self) -> &Parts {
        self.parts.as_ref().expect("the parts are taken by drop alone")
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        let (Some(parts), Ok(runtime)) = (self.parts.take(), tokio::runtime::Handle::try_current()) else {
            return;
        };
        let Parts { mut handle, cut, upstream, .. } = parts;
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
