//! What runs the calls of a stream: a lane for each slot, which takes one call after another.
//!
//! A call costs no task and no thread of its own: an `async` one is polled by its lane's task, a plain one runs on a blocking thread
//! that its lane keeps as long as there is more to do.

use std::pin::Pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::{Duration, Instant};

use farcall_channel::{Cbor, Codec};
use tokio::sync::OwnedSemaphorePermit;

use super::crew::{Crew, Present};
use super::desk::{Call, Desk, Done, Step};
use super::panics;
use crate::failure::{Failure, Panic};
use crate::map::batch::Reply;
use crate::task::{Message, Task, Work};

/// After so long a lane lets others that wait for a turn to run have it.
const TURN: Duration = Duration::from_millis(50);

type Outcome<V> = Result<Result<V, Failure>, Panic>;

/// What a lane has while it works: one of the places of `max_tasks`, and one on the roll.
struct Turn {
    _permit: OwnedSemaphorePermit,
    _present: Present,
    began: Instant,
}

struct Lane<F> {
    name: &'static str,
    task: F,
    desk: Arc<Desk>,
    number: usize,
    crew: Arc<Crew>,
}

/// Takes calls until the stream is over.
pub(super) async fn run<F: Task<M>, M: 'static>(
    name: &'static str,
    task: F,
    desk: Arc<Desk>,
    number: usize,
    crew: Arc<Crew>,
) {
    let lane = Arc::new(Lane { name, task, desk, number, crew });
    let mut payload = Vec::new();
    let mut done = None;
    let mut turn = None;
    loop {
        let began = match &turn {
            Some(Turn { began, .. }) => *began,
            None => {
                let Some(taken) = lane.turn().await else { return };
                turn.insert(taken).began
            }
        };
        let ended = match lane.desk.step(number, done.take(), &mut payload) {
            Step::Run(call) => match lane.begin(call) {
                Ok(Work::Async(work)) => Ended::Call(lane.drive(work, &mut payload).await),
                Ok(Work::Blocking(work)) => {
                    let (lane, mut buffer) = (Arc::clone(&lane), std::mem::take(&mut payload));
                    let blocking = panics::caught_here(|| {
                        tokio::task::spawn_blocking(move || {
                            let ended = lane.block(work, began, &mut buffer);
                            (ended, buffer)
                        })
                    });
                    match blocking {
                        Ok(blocking) => {
                            // The runtime is going down.
                            let Ok((ended, buffer)) = blocking.await else { return };
                            payload = buffer;
                            ended
                        }
                        // The system gives no thread. Its call must be answered all the same.
                        Err(panic) => Ended::Call(tell(Reply::Panicked, &panic, &mut payload)),
                    }
                }
                Err(unbegun) => Ended::Call(answer_unbegun(unbegun, &mut payload)),
            },
            Step::Idle => Ended::Idle,
            Step::Closed => Ended::Closed,
        };
        match ended {
            Ended::Call(call) if began.elapsed() > TURN => {
                lane.desk.tell(number, call, &mut payload);
                // Whoever waits for a place gets this one.
                turn = None;
            }
            Ended::Call(call) => done = Some(call),
            Ended::Idle => {
                turn = None;
                lane.desk.woken(number).await;
            }
            Ended::Closed => return,
        }
        // A stream that never pauses must not keep other tasks from running.
        tokio::task::consume_budget().await;
    }
}

/// What a lane comes to the end of.
enum Ended {
    /// A call, which is not told yet.
    Call(Done),
    /// What there was to do.
    Idle,
    /// The stream.
    Closed,
}

/// Why a call was not begun.
enum Unbegun {
    Arguments(String),
    Panicked(Panic),
}

impl<F> Lane<F> {
    /// Waits for a place among those that may run; `None` when the stream is over before.
    async fn turn(&self) -> Option<Turn> {
        let permit = tokio::select! {
            biased;
            permit = Arc::clone(&self.crew.permits).acquire_owned() => permit.ok()?,
            () = self.desk.closed() => return None,
        };
        let present = self.crew.enter(self.name, || false);
        present.started();
        Some(Turn { _permit: permit, _present: present, began: Instant::now() })
    }

    /// Reads the arguments and calls the function. Both run code of the user's.
    fn begin<M>(&self, call: Call) -> Result<Work<F::Value>, Unbegun>
    where
        F: Task<M>,
    {
        let cancelled = call.cancelled;
        let cx = || self.crew.context(cancelled);
        let begun = panics::caught_here(|| {
            <Cbor as Codec<F::Args>>::decode(&call.args).map(|args| self.task.work(cx, args))
        });
        match begun {
            Ok(Ok(work)) => Ok(work),
            Ok(Err(error)) => Err(Unbegun::Arguments(error.to_string())),
            Err(panic) => Err(Unbegun::Panicked(panic)),
        }
    }

    /// Runs a call's future to its end, or until the call is to stop.
    async fn drive<V: Message>(
        &self,
        mut work: Pin<Box<dyn Future<Output = Result<V, Failure>> + Send>>,
        payload: &mut Vec<u8>,
    ) -> Done {
        let mut poll = |cx: &mut std::task::Context<'_>| match panics::caught_here(|| work.as_mut().poll(cx))
        {
            Ok(Poll::Pending) => Poll::Pending,
            Ok(Poll::Ready(outcome)) => Poll::Ready(Ok(outcome)),
            Err(panic) => Poll::Ready(Err(panic)),
        };
        // Most are ready at once, and need not be able to stop.
        let first = std::future::poll_fn(|cx| Poll::Ready(poll(cx))).await;
        let outcome = match first {
            Poll::Ready(outcome) => Some(outcome),
            Poll::Pending => tokio::select! {
                biased;
                outcome = std::future::poll_fn(&mut poll) => Some(outcome),
                () = self.desk.stopped(self.number) => None,
            },
        };
        // What it leaves behind is the user's too.
        let dropped = panics::caught_here(|| drop(work));
        match (outcome, dropped) {
            (Some(outcome), Ok(())) => answer(outcome, payload),
            (Some(Ok(_)), Err(panic)) => answer::<V>(Err(panic), payload),
            (Some(outcome), Err(_)) => answer(outcome, payload),
            (None, _) => Done::Stopped,
        }
    }

    /// Runs a call on this thread, and those that follow as long as there are some and its turn lasts.
    fn block<M>(
        &self,
        mut work: Box<dyn FnOnce() -> Result<F::Value, Failure> + Send>,
        began: Instant,
        payload: &mut Vec<u8>,
    ) -> Ended
    where
        F: Task<M>,
    {
        loop {
            let mut done = answer(panics::caught_here(work), payload);
            work = loop {
                if began.elapsed() > TURN {
                    return Ended::Call(done);
                }
                done = match self.desk.step(self.number, Some(done), payload) {
                    Step::Idle => return Ended::Idle,
                    Step::Closed => return Ended::Closed,
                    Step::Run(call) => match self.begin(call) {
                        Ok(Work::Blocking(work)) => break work,
                        // A task is of one kind.
                        Ok(Work::Async(_)) => Done::Stopped,
                        Err(unbegun) => answer_unbegun(unbegun, payload),
                    },
                };
            };
        }
    }
}

fn answer_unbegun(unbegun: Unbegun, payload: &mut Vec<u8>) -> Done {
    match unbegun {
        Unbegun::Arguments(reason) => {
            payload.extend_from_slice(reason.as_bytes());
            Done::Replied(Reply::Arguments)
        }
        Unbegun::Panicked(panic) => tell(Reply::Panicked, &panic, payload),
    }
}

/// Encodes an outcome.
fn answer<V: Message>(outcome: Outcome<V>, payload: &mut Vec<u8>) -> Done {
    match outcome {
        Ok(Ok(value)) => {
            let encoded = panics::caught_here(|| <Cbor as Codec<V>>::encode(&value, payload));
            let dropped = panics::caught_here(|| drop(value));
            match (encoded, dropped) {
                (Ok(Ok(())), Ok(())) => Done::Replied(Reply::Value),
                (Ok(Err(error)), _) => {
                    payload.clear();
                    payload.extend_from_slice(error.to_string().as_bytes());
                    Done::Replied(Reply::Unsendable)
                }
                (Err(panic), _) | (_, Err(panic)) => {
                    payload.clear();
                    tell(Reply::Panicked, &panic, payload)
                }
            }
        }
        Ok(Err(failure)) => tell(Reply::Failed, &failure, payload),
        Err(panic) => tell(Reply::Panicked, &panic, payload),
    }
}

/// Encodes something of ours.
pub(super) fn tell<T: Message>(kind: Reply, what: &T, payload: &mut Vec<u8>) -> Done {
    match <Cbor as Codec<T>>::encode(what, payload) {
        Ok(()) => Done::Replied(kind),
        Err(error) => {
            payload.clear();
            payload.extend_from_slice(error.to_string().as_bytes());
            Done::Replied(Reply::Unsendable)
        }
    }
}
