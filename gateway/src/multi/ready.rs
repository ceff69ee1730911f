//! Which of many pollable things are worth polling: those that woke, in the order in which they did.

use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Wake, Waker};

/// A set of numbers, each with a waker of its own, so that a message from one of a thousand sources costs one poll and not a
/// thousand.
#[derive(Debug)]
pub(crate) struct Ready {
    shared: Arc<Shared>,
    wakers: Vec<Waker>,
}

#[derive(Debug)]
struct Shared(Mutex<State>);

#[derive(Debug)]
struct State {
    queue: VecDeque<usize>,
    /// Whether a number is in the queue, which therefore is never longer than the set.
    queued: Vec<bool>,
    /// Whoever polls the whole.
    parent: Option<Waker>,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn push(&self, index: usize) -> Option<Waker> {
        let mut state = self.lock();
        if std::mem::replace(&mut state.queued[index], true) {
            return None;
        }
        state.queue.push_back(index);
        state.parent.take()
    }
}

struct Member {
    index: usize,
    shared: Arc<Shared>,
}

impl Wake for Member {
    fn wake(self: Arc<Self>) {
        // Outside the lock: a waker is anybody's code.
        if let Some(parent) = self.shared.push(self.index) {
            parent.wake();
        }
    }
}

impl Ready {
    /// The numbers below `count`, all of them worth polling.
    pub(crate) fn new(count: usize) -> Ready {
        let state = State { queue: (0..count).collect(), queued: vec![true; count], parent: None };
        let shared = Arc::new(Shared(Mutex::new(state)));
        let waker = |index| Waker::from(Arc::new(Member { index, shared: Arc::clone(&shared) }));
        Ready { wakers: (0..count).map(waker).collect(), shared }
    }

    /// Has a number polled again though it has not woken; behind the others.
    pub(crate) fn again(&self, index: usize) {
        if let Some(parent) = self.shared.push(index) {
            parent.wake();
        }
    }

    /// Polls one after the other until one is ready.
    pub(crate) fn poll<T>(
        &mut self,
        cx: &mut Context<'_>,
        mut one: impl FnMut(usize, &mut Context<'_>) -> Poll<T>,
    ) -> Poll<T> {
        // Each at most once: one that wakes itself at once means to let others run.
        let mut left = {
            let mut state = self.shared.lock();
            state.parent = Some(cx.waker().clone());
            state.queue.len()
        };
        while left > 0 {
            left -= 1;
            let index = {
                let mut state = self.shared.lock();
                let Some(index) = state.queue.pop_front() else { return Poll::Pending };
                state.queued[index] = false;
                index
            };
            if let Poll::Ready(value) = one(index, &mut Context::from_waker(&self.wakers[index])) {
                return Poll::Ready(value);
            }
        }
        // Those that woke meanwhile have woken the parent.
        Poll::Pending
    }
}

/// Drives all futures at once and returns their values in the futures' order. `done` is told of each when it is ready.
pub(crate) async fn all<F: Future>(
    futures: impl IntoIterator<Item = F>,
    mut done: impl FnMut(usize, &F::Output),
) -> Vec<F::Output> {
    let mut futures: Vec<Pin<Box<F>>> = futures.into_iter().map(Box::pin).collect();
    let mut outputs: Vec<Option<F::Output>> = futures.iter().map(|_| None).collect();
    let mut ready = Ready::new(futures.len());
    let mut left = futures.len();
    std::future::poll_fn(|cx| {
        while left > 0 {
            let (index, output) = std::task::ready!(ready.poll(cx, |index, cx| {
                if outputs[index].is_some() {
                    return Poll::Pending;
                }
                futures[index].as_mut().poll(cx).map(|output| (index, output))
            }));
            done(index, &output);
            outputs[index] = Some(output);
            left -= 1;
        }
        Poll::Ready(())
    })
    .await;
    outputs.into_iter().flatten().collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

    #[tokio::test]
    async fn only_those_that_woke_are_polled() {
        let polls = AtomicUsize::new(0);
        let (senders, receivers): (Vec<_>, Vec<_>) =
            (0..100).map(|_| tokio::sync::oneshot::channel::<usize>()).unzip();
        let waiting = receivers.into_iter().map(|mut receiver| {
            let polls = &polls;
            std::future::poll_fn(move |cx| {
                polls.fetch_add(1, Relaxed);
                Pin::new(&mut receiver).poll(cx)
            })
        });
        let sending = async {
            for (number, sender) in senders.into_iter().enumerate().rev() {
                tokio::task::yield_now().await;
                sender.send(number).expect("awaited");
            }
        };
        let mut order = Vec::new();
        let all = all(waiting, |index, _| order.push(index));
        let (numbers, ()) = tokio::join!(all, sending);
        assert!(numbers.into_iter().map(|number| number.expect("sent")).eq(0..100));
        assert_eq!(order, (0..100).rev().collect::<Vec<_>>());
        // Once at first, and once when it was woken.
        assert_eq!(polls.load(Relaxed), 200);
    }

    #[tokio::test]
    async fn one_that_always_wakes_does_not_keep_the_others_or_the_thread() {
        let (sender, receiver) = tokio::sync::oneshot::channel();
        let (stop, stopped) = (AtomicUsize::new(0), AtomicUsize::new(0));
        let busy = std::future::poll_fn(|cx| {
            if stop.load(Relaxed) == 1 {
                return Poll::Ready(0);
            }
            cx.waker().wake_by_ref();
            Poll::Pending
        });
        type Number<'a> = Pin<Box<dyn Future<Output = u32> + 'a>>;
        let futures: [Number<'_>; 2] = [Box::pin(busy), Box::pin(async { receiver.await.expect("sent") })];
        let all = all(futures, |index, _| stopped.store(index + 1, Relaxed));
        let others = async {
            tokio::task::yield_now().await;
            sender.send(7).expect("awaited");
            while stopped.load(Relaxed) != 2 {
                tokio::task::yield_now().await;
            }
            stop.store(1, Relaxed);
        };
        let (numbers, ()) = tokio::join!(all, others);
        assert_eq!(numbers, [0, 7]);
    }
}
