//! One child process, and one call at a time in it.

use std::sync::Arc;
use std::time::Duration;

use tokio::runtime::Handle;
use tokio::sync::mpsc;

use super::error::RunError;
use super::family::Member;
use super::options::Options;
use super::socket::{Assembly, Received, RecvFault, Socket};
use super::wire::{self, Call, Said};
use crate::end::GatewayEnd;
use crate::gateway::Gateway;
use crate::open::{Builder, OpenError};
use crate::task::{Message, Task};
use crate::tasks::name_of;
use crate::wire::{Reply, Request};

/// A child that can be called. Dropping it ends it, within its grace.
pub(crate) struct Child {
    gateway: Gateway,
    socket: Socket,
    assembly: Assembly,
    next: u64,
    /// The call that was sent, at least in part, and not yet answered.
    pending: Option<u64>,
    /// A call was sent in part only.
    torn: bool,
    pub(super) answered: u64,
    grace: Duration,
    /// For signals that reach the program.
    member: Member,
}

/// A child that is being started.
pub(super) struct Birth {
    builder: Builder,
    remains: Remains,
    pending: Option<u64>,
    member: Member,
    grace: Duration,
}

/// What is left of a start that failed or was given up.
pub(super) struct Remains {
    socket: Socket,
    /// Whether a call was sent with it.
    sent: bool,
    /// Ends with the process, of which nothing is left then.
    gone: mpsc::Receiver<()>,
}

/// Why there is no reply.
#[derive(Debug)]
pub(crate) enum Gone {
    /// The process is gone, and had not read the call.
    Unread,
    /// The process is gone, or listens no more.
    Lost,
    /// It replied what is no reply.
    Malformed,
    System(std::io::Error),
}

/// A timer that needs no runtime of the caller's.
pub(super) fn sleep(driver: &Handle, time: Duration) -> tokio::time::Sleep {
    let _entered = driver.enter();
    tokio::time::sleep(time)
}

/// Awaits a future for at most `limit`: by a timer of the current runtime, or of the driver where that is none of tokio's. `None`
/// if it was not ready in time.
pub(super) async fn within<F: Future>(limit: Duration, future: F) -> std::io::Result<Option<F::Output>> {
    let deadline = match Handle::try_current() {
        Ok(_) => tokio::time::sleep(limit),
        Err(_) => sleep(&crate::open::driver()?, limit),
    };
    tokio::select! {
        biased;
        output = future => Ok(Some(output)),
        () = deadline => Ok(None),
    }
}

/// The call of a task, ready to be sent.
pub(super) fn prepare<F: Task<M>, M>(_task: F, args: F::Args) -> Result<Call, RunError> {
    let name = name_of::<F>();
    let program = crate::init::program().ok_or(RunError::of_open(OpenError::BeforeInit))?;
    if !program.tasks.contains(name) {
        return Err(RunError::UnknownTask { name });
    }
    Call::new(name, &args).map_err(RunError::of_arguments)
}

/// The value in a reply.
pub(super) fn value_in<V: Message>(mut received: Received) -> Result<V, RunError> {
    let descriptors = std::mem::take(&mut received.descriptors);
    match wire::reply_in(received.bytes(), descriptors).map_err(RunError::of_reply)? {
        Reply::Value(value) => Ok(value),
        Reply::Failed(failure) => Err(RunError::Failed(failure)),
        Reply::Panicked(panic) => Err(RunError::Panicked(panic)),
        Reply::Arguments(reason) => Err(RunError::Unreadable(reason)),
        Reply::Unsendable(reason) => Err(RunError::Unsendable(reason)),
        Reply::Refused(reason) => Err(RunError::Refused(reason)),
    }
}

impl Child {
    /// Starts a child. A call may be on its way before the child is: it is begun as soon as both sides have agreed.
    pub(super) async fn start(options: &Options, first: Option<&mut Call>) -> Result<Child, RunError> {
        Birth::begin(options, first)?.finish(&mut None).await
    }

    pub(super) fn gateway(&self) -> &Gateway {
        &self.gateway
    }

    pub(super) fn driver(&self) -> &Handle {
        &self.gateway.inner().driver
    }

    pub(super) fn member(&self) -> &Member {
        &self.member
    }

    /// Whether a call is under way.
    pub(super) fn is_busy(&self) -> bool {
        self.pending.is_some()
    }

    /// Whether an idle child is of no more use.
    pub(super) fn is_dead(&mut self) -> bool {
        // What an idle child says is its end, or nothing that was asked for.
        self.gateway.end().is_some() || self.socket.try_recv(&mut self.assembly).is_some()
    }

    /// Sends a call, unless it is on its way, and waits for its reply, which is not decoded. May be called again when it
    /// was dropped, to wait on.
    pub(super) async fn exchange(&mut self, call: &mut Call) -> Result<Received, Gone> {
        let number = match self.pending {
            Some(number) if !self.torn => number,
            _ => {
                let number = self.next;
                self.next += 1;
                self.pending = Some(number);
                let (message, ends) = call.numbered(number);
                let sent = self.socket.send(message, ends, &mut self.torn).await;
                match sent.map_err(|error| (error.kind(), error)) {
                    Ok(()) => {
                        call.departed();
                        number
                    }
                    Err((std::io::ErrorKind::BrokenPipe | std::io::ErrorKind::ConnectionReset, _)) => {
                        return Err(Gone::Unread);
                    }
                    Err((_, error)) => return Err(Gone::System(error)),
                }
            }
        };
        match self.answer(number).await? {
            (Said::Reply(_), received) => {
                self.pending = None;
                self.answered += 1;
                Ok(received)
            }
            // It was not asked to: it is ending.
            (Said::Dropped(_), _) => Err(Gone::Lost),
        }
    }

    /// The next message about the call of this number.
    async fn answer(&mut self, number: u64) -> Result<(Said, Received), Gone> {
        match self.socket.recv(&mut self.assembly).await {
            Ok(Some(received)) => match wire::said(received.bytes()) {
                Some(said @ (Said::Reply(about) | Said::Dropped(about))) if about == number => {
                    Ok((said, received))
                }
                _ => Err(Gone::Malformed),
            },
            Ok(None) if self.assembly.unread => Err(Gone::Unread),
            Ok(None) => Err(Gone::Lost),
            Err(RecvFault::Malformed) => Err(Gone::Malformed),
            Err(RecvFault::Cut) => Err(Gone::Lost),
            Err(RecvFault::System(error)) => Err(Gone::System(error)),
        }
    }

    /// As [`exchange`](Self::exchange), within a time limit, after which the child is killed.
    pub(super) async fn exchange_within(
        &mut self,
        call: &mut Call,
        limit: Option<Duration>,
    ) -> Result<Result<Received, Gone>, RunError> {
        let Some(limit) = limit else { return Ok(self.exchange(call).await) };
        let deadline = sleep(self.driver(), limit);
        tokio::select! {
            biased;
            exchanged = self.exchange(call) => Ok(exchanged),
            () = deadline => {
                self.kill().await;
                Err(RunError::TimedOut { limit })
            }
        }
    }

    /// What to tell of a child that gave no reply. It has ended when this returns.
    pub(super) async fn explain(&mut self, gone: Gone) -> RunError {
        match gone {
            Gone::Malformed => {
                self.kill().await;
                RunError::Malformed
            }
            Gone::System(error) => {
                self.kill().await;
                RunError::System(error)
            }
            // A task may have closed the socket without ending its process, which is of no use any more.
            Gone::Unread | Gone::Lost => RunError::of_end(self.ended_within(self.grace).await),
        }
    }

    /// Waits for its end, and kills it if that does not come.
    async fn ended_within(&self, limit: Duration) -> Arc<GatewayEnd> {
        let deadline = sleep(self.driver(), limit);
        tokio::select! {
            biased;
            end = self.gateway.wait() => return end,
            () = deadline => {}
        }
        self.kill().await
    }

    /// Kills it and waits for its end.
    pub(super) async fn kill(&self) -> Arc<GatewayEnd> {
        self.gateway.kill();
        self.gateway.wait().await
    }

    /// Ends it in order and waits for that; its grace bounds it.
    pub(super) async fn end(self) -> Arc<GatewayEnd> {
        self.gateway.exit();
        self.gateway.wait().await
    }

    /// Cancels the call that is under way. Returns the child when its task is really gone, within the grace; otherwise the
    /// child is killed.
    pub(super) async fn recover(mut self) -> Result<Child, Arc<GatewayEnd>> {
        let Some(number) = self.pending else { return Ok(self) };
        if self.torn {
            return Err(self.kill().await);
        }
        let cancelled = {
            let deadline = sleep(self.driver(), self.grace);
            tokio::select! {
                biased;
                cancelled = self.cancelled(number) => cancelled,
                () = deadline => false,
            }
        };
        if cancelled {
            self.pending = None;
            return Ok(self);
        }
        Err(self.kill().await)
    }

    /// Whether the child has said that the call is over, one way or the other.
    async fn cancelled(&mut self, number: u64) -> bool {
        let request = Request::Cancel(number).to_bytes();
        let connection = self.gateway.inner().connection.clone();
        // The request says it all. The channel is refused.
        let asked = connection.open::<(), ()>(request).await;
        asked.is_ok() && self.answer(number).await.is_ok()
    }
}

impl Birth {
    /// Begins a start: nothing can fail any more but what is outside this process.
    pub(super) fn begin(options: &Options, first: Option<&mut Call>) -> Result<Birth, RunError> {
        // Before the start: a signal that reaches the program in the meantime is for this one too.
        let member = Member::join();
        let (ours, theirs) = Socket::pair().map_err(RunError::System)?;
        let mut pending = None;
        if let Some(call) = first {
            // A new socket has room for a chunk.
            let (message, ends) = call.numbered(0);
            let sent = ours.try_send(message, ends);
            if sent.map_err(|error| RunError::System(error.into()))? {
                call.departed();
                pending = Some(0);
            }
        }
        let (kept, gone) = mpsc::channel(1);
        let builder = Gateway::builder(options.spec()).pass(theirs.descriptor(), kept);
        let remains = Remains { socket: ours, sent: pending.is_some(), gone };
        Ok(Birth { builder, remains, pending, member, grace: options.grace_or_usual() })
    }

    /// The rest of it. When it is dropped, `remains` are what is left.
    pub(super) async fn finish(self, remains: &mut Option<Remains>) -> Result<Child, RunError> {
        let Birth { builder, remains: left, pending, member, grace } = self;
        let left = remains.insert(left);
        let mut assembly = Assembly::default();
        let gateway = match builder.open().await {
            Ok(gateway) => gateway,
            Err(OpenError::Ended { end }) if pending.is_some() => {
                // It may have begun the call, and ended by that before it had introduced itself.
                let _ = left.socket.try_recv(&mut assembly);
                return Err(match assembly.unread {
                    true => RunError::of_open(OpenError::Ended { end }),
                    false => RunError::of_end(end),
                });
            }
            Err(error) => return Err(RunError::of_open(error)),
        };
        member.started(&gateway);
        let Remains { socket, .. } = remains.take().expect("they were put there");
        Ok(Child {
            gateway,
            socket,
            assembly,
            next: u64::from(pending.is_some()),
            pending,
            torn: false,
            answered: 0,
            grace,
            member,
        })
    }
}

impl Remains {
    /// Waits until the process of a start that failed or was given up is gone. Returns whether it may have begun its call.
    pub(super) async fn gone(mut self) -> bool {
        // Nothing is ever sent.
        let _ = self.gone.recv().await;
        let mut assembly = Assembly::default();
        let _ = self.socket.try_recv(&mut assembly);
        self.sent && !assembly.unread
    }
}

impl std::fmt::Debug for Child {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Child").field("gateway", &self.gateway).finish_non_exhaustive()
    }
}
