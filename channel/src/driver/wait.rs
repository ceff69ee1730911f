//! Waiting for something under the lock, in a list that a dropped future leaves again.

use std::future::poll_fn;
use std::ops::Deref;
use std::task::{Context, Poll, Waker};

use super::waiters::Ticket;
use super::{List, Shared, State};

/// A future's place in a list. Dropping it leaves the list.
#[derive(Debug)]
pub(crate) struct Place<H: Deref<Target = Shared>> {
    shared: H,
    list: List,
    ticket: Option<Ticket>,
}

impl<H: Deref<Target = Shared>> Place<H> {
    pub(crate) fn new(shared: H, list: List) -> Place<H> {
        Place { shared, list, ticket: None }
    }

    /// Does `act` under the lock; while it gives nothing, it is to be tried again when the list is woken.
    pub(crate) fn poll<R>(
        &mut self,
        cx: &mut Context<'_>,
        act: impl FnOnce(&mut State) -> Option<R>,
    ) -> Poll<R> {
        let (list, ticket) = (self.list, &mut self.ticket);
        self.shared.with(|state| attempt(state, list, ticket, cx, act)).0
    }

    /// As [`poll`](Self::poll), for what is written at once when that is the shorter way.
    fn poll_send<R>(&mut self, cx: &mut Context<'_>, act: impl FnOnce(&mut State) -> Option<R>) -> Poll<R> {
        let (list, ticket) = (self.list, &mut self.ticket);
        self.shared.with_send(|state| attempt(state, list, ticket, cx, act)).0
    }
}

impl<H: Deref<Target = Shared>> Drop for Place<H> {
    fn drop(&mut self) {
        if self.ticket.is_some() {
            self.shared.with(|state| state.leave(self.list, &mut self.ticket));
        }
    }
}

/// The second is a waker to drop outside the lock.
fn attempt<R>(
    state: &mut State,
    list: List,
    ticket: &mut Option<Ticket>,
    cx: &mut Context<'_>,
    act: impl FnOnce(&mut State) -> Option<R>,
) -> (Poll<R>, Option<Waker>) {
    match act(state) {
        Some(result) => (Poll::Ready(result), state.leave(list, ticket)),
        None => (Poll::Pending, state.enter(list, ticket, cx.waker())),
    }
}

/// Waits until `act` gives something.
pub(crate) async fn wait<R>(shared: &Shared, list: List, mut act: impl FnMut(&mut State) -> Option<R>) -> R {
    let mut place = Place::new(shared, list);
    poll_fn(|cx| place.poll(cx, &mut act)).await
}

/// As [`wait`], for what is written at once when that is the shorter way.
pub(crate) async fn wait_to_send<R>(
    shared: &Shared,
    list: List,
    mut act: impl FnMut(&mut State) -> Option<R>,
) -> R {
    let mut place = Place::new(shared, list);
    poll_fn(|cx| place.poll_send(cx, &mut act)).await
}
