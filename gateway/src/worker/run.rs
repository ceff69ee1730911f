//! One task's life: wait for a turn, read the arguments, run, reply.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

use farcall_channel::{Incoming, Receiver, RecvError, SendError, Sender};

use crate::failure::{Failure, Panic};
use crate::task::{Message, Task, Work};
use crate::wire::{Order, Reply};
use crate::worker::crew::{Crew, Entry, Present};
use crate::worker::panics;

/// Runs `task` for the caller at the other end of `incoming`.
pub(crate) fn start<F: Task<M>, M: 'static>(
    name: &'static str,
    task: F,
    incoming: Incoming,
    crew: &Arc<Crew>,
) {
    let channel = incoming.accept::<Reply<F::Value>, Order<F::Args>>();
    let (replies, orders) = channel.split();
    let replies = Arc::new(replies);
    let runtime = match crew.runtime() {
        Ok(runtime) => runtime,
        Err(error) => {
            // The channel is new, so there is room; and a caller that is gone needs no reply.
            let _ = replies.try_send(Reply::Refused(format!("cannot start threads: {error}")));
            return;
        }
    };
    let asked = Arc::clone(&replies);
    let present = crew.enter(name, move || asked.is_closed());
    let caller = Caller { replies, orders, args: None, detached: false, entry: present.entry() };
    // Ends with the task, or with the runtime when the worker ends; nobody waits for it.
    runtime.spawn(live(task, caller, Arc::new(present), Arc::clone(crew)));
}

/// The task is on the roll until its reply is on its way: who waits for all tasks waits for their replies.
async fn live<F, A, V, M>(task: F, mut caller: Caller<A, V>, present: Arc<Present>, crew: Arc<Crew>)
where
    F: Task<M, Args = A, Value = V>,
    A: Message,
    V: Message,
    M: 'static,
{
    let permit = tokio::select! {
        biased;
        permit = Arc::clone(&crew.permits).acquire_owned() => permit,
        () = caller.gone() => return,
    };
    let args = match caller.args().await {
        Ok(Some(args)) => args,
        Ok(None) => return,
        Err(reply) => return caller.into_reply(reply).await,
    };
    present.started();
    let cancelled = Arc::new(AtomicBool::new(false));
    let cx = || crew.context(Arc::clone(&cancelled));
    let outcome = match panics::caught_here(|| task.work(cx, args)) {
        Err(panic) => Err(panic),
        Ok(Work::Async(work)) => {
            tokio::select! {
                biased;
                outcome = panics::caught(work) => outcome,
                () = caller.gone() => return,
            }
        }
        Ok(Work::Blocking(work)) => {
            let slot = tokio::select! {
                biased;
                slot = Arc::clone(&crew.slots).acquire_owned() => slot,
                () = caller.gone() => return,
            };
            let until_it_ends = Arc::clone(&present);
            let work = tokio::task::spawn_blocking(move || {
                let outcome = panics::caught_here(work);
                // Taken until now, whether or not anybody waits for the outcome: it cannot be stopped.
                drop((slot, permit, until_it_ends));
                outcome
            });
            let outcome = tokio::select! {
                biased;
                outcome = work => outcome,
                () = caller.gone() => {
                    cancelled.store(true, Relaxed);
                    return;
                }
            };
            match outcome {
                Ok(outcome) => return caller.into_reply(reply_of(outcome)).await,
                // The runtime is going down.
                Err(_) => return,
            }
        }
    };
    caller.into_reply(reply_of(outcome)).await;
    drop((present, permit));
}

fn reply_of<V>(outcome: Result<Result<V, Failure>, Panic>) -> Reply<V> {
    match outcome {
        Ok(Ok(value)) => Reply::Value(value),
        Ok(Err(failure)) => Reply::Failed(failure),
        Err(panic) => Reply::Panicked(panic),
    }
}

/// Whoever called the task.
struct Caller<A, V> {
    replies: Arc<Sender<Reply<V>>>,
    orders: Receiver<Order<A>>,
    /// Read while looking whether the caller had let go.
    args: Option<A>,
    detached: bool,
    entry: Arc<Entry>,
}

impl<A: Message, V: Message> Caller<A, V> {
    /// Waits until the caller has dropped the call; for ever once it has let go. Cancel-safe.
    async fn gone(&mut self) {
        if !self.detached {
            // How it went does not matter.
            let _ = self.replies.wait_closed().await;
        }
        loop {
            if self.detached {
                // Ends with the runtime.
                std::future::pending::<()>().await;
            }
            // That nobody receives any more is known before what was sent earlier is read.
            match panics::caught(self.orders.recv()).await {
                Ok(Ok(Some(Order::Run(args)))) => self.args = Some(args),
                Ok(Ok(Some(Order::Detach))) => {
                    self.entry.detached();
                    self.detached = true;
                }
                Ok(Ok(None) | Err(_)) | Err(_) => return,
            }
        }
    }

    /// The arguments; `None` if the caller is gone, or the reply that says what is wrong with them.
    async fn args(&mut self) -> Result<Option<A>, Reply<V>> {
        if let Some(args) = self.args.take() {
            return Ok(Some(args));
        }
        // Reading them runs code of the user's types.
        match panics::caught(self.orders.recv()).await {
            Ok(Ok(Some(Order::Run(args)))) => Ok(Some(args)),
            Ok(Err(RecvError::Codec(error))) => Err(Reply::Arguments(error.to_string())),
            Ok(Ok(_) | Err(_)) => Ok(None),
            Err(panic) => Err(Reply::Panicked(panic)),
        }
    }

    /// Tells the caller. One that is gone needs no telling.
    async fn into_reply(self, reply: Reply<V>) {
        let Caller { replies, .. } = self;
        let instead = match panics::caught(replies.send(reply)).await {
            Ok(Err(error @ (SendError::Codec(_) | SendError::TooLarge { .. } | SendError::Draining))) => {
                Reply::Unsendable(error.to_string())
            }
            Ok(_) => return replies.close(),
            Err(panic) => Reply::Panicked(panic),
        };
        let _ = replies.send(instead).await;
        replies.close();
    }
}
