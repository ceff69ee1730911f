//! The inputs of a map, as its gateways need them: taken, encoded and handed over, on a thread of their own.
//!
//! Iterators may block and inputs' own code may take long, so neither runs where bytes are moved or results are awaited.

use std::any::Any;
use std::panic::AssertUnwindSafe;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use farcall_channel::{Cbor, Codec};
use futures_core::Stream;

use super::batch::Payload;
use super::drive::Shared;
use super::fault::ItemError;
use crate::task::Message;

/// What fits into a message with other calls: workers take messages of 64 MiB.
const MOST: u64 = 64 * 1024 * 1024 - 64 * 1024;

/// Inputs that are encoded, whatever they were.
pub(super) type Encoded = Pin<Box<dyn Stream<Item = Result<Payload, ItemError>> + Send>>;

/// An iterator as a stream that is always ready.
pub(super) struct Iterate<I>(pub(super) I);

// Nothing in it is pinned.
impl<I> Unpin for Iterate<I> {}

impl<I: Iterator> Stream for Iterate<I> {
    type Item = I::Item;

    #[inline]
    fn poll_next(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<I::Item>> {
        Poll::Ready(self.0.next())
    }
}

/// Encodes what another stream yields.
struct Encode<S, F, A> {
    inputs: Pin<Box<S>>,
    args: F,
    buffer: Vec<u8>,
    _args: std::marker::PhantomData<fn() -> A>,
}

impl<S, F, A> Unpin for Encode<S, F, A> {}

impl<S: Stream, A: Message, F: FnMut(S::Item) -> A> Stream for Encode<S, F, A> {
    type Item = Result<Payload, ItemError>;

    #[inline]
    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let this = &mut *self;
        let Some(input) = std::task::ready!(this.inputs.as_mut().poll_next(cx)) else {
            return Poll::Ready(None);
        };
        let args = (this.args)(input);
        this.buffer.clear();
        Poll::Ready(Some(match <Cbor as Codec<A>>::encode(&args, &mut this.buffer) {
            Ok(()) if this.buffer.len() as u64 > MOST => {
                Err(ItemError::TooLarge { len: this.buffer.len() as u64, max: MOST })
            }
            Ok(()) => Ok(Payload::take(&mut this.buffer)),
            Err(error) => Err(ItemError::Arguments(Arc::new(error))),
        }))
    }
}

/// Inputs with what makes arguments of them.
pub(super) fn encoded<S, A, F>(inputs: S, args: F) -> Encoded
where
    S: Stream + Send + 'static,
    A: Message,
    F: FnMut(S::Item) -> A + Send + 'static,
{
    Box::pin(Encode { inputs: Box::pin(inputs), args, buffer: Vec::new(), _args: std::marker::PhantomData })
}

/// How the inputs ended.
pub(super) enum End {
    Exhausted,
    Panicked(Box<dyn Any + Send>),
}

/// Hands over inputs as they are wanted, until there are no more or the map is over. Blocks the thread.
pub(super) fn pump(inputs: Encoded, shared: &Arc<Shared>) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let outcome = runtime.map(|runtime| {
        let pumping = AssertUnwindSafe(|| runtime.block_on(take(inputs, shared)));
        // What the inputs leave behind is gone with them.
        std::panic::catch_unwind(pumping)
    });
    shared.end_inputs(match outcome {
        Ok(Ok(())) => End::Exhausted,
        Ok(Err(panic)) => End::Panicked(panic),
        Err(error) => End::Panicked(Box::new(format!("no runtime for the inputs: {error}"))),
    });
}

async fn take(mut inputs: Encoded, shared: &Arc<Shared>) {
    let mut allowed = 0;
    loop {
        if allowed == 0 {
            allowed = shared.wanted().await;
            if allowed == 0 {
                return;
            }
        }
        let next = std::future::poll_fn(|cx| match inputs.as_mut().poll_next(cx) {
            Poll::Ready(next) => Poll::Ready(Some(next)),
            // It may take long; meanwhile the map may end.
            Poll::Pending => shared.poll_over(cx).map(|()| None),
        });
        let Some(Some(input)) = next.await else { return };
        allowed -= 1;
        if !shared.hand_over(input) {
            return;
        }
    }
}
