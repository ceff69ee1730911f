//! Callback mode: a function for each message.

use std::any::Any;
use std::fmt::Display;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::pin;
use std::task::Poll;

use tokio::task::JoinHandle;

use crate::codec::Codec;
use crate::error::RecvError;
use crate::receiver::Receiver;

/// What a callback is called with.
#[derive(Debug)]
pub enum Delivery<T> {
    /// A message.
    Message(T),
    /// The end of the channel, once and last: with its cause if it was not an orderly one.
    End(Option<RecvError>),
}

/// A receiver in callback mode. Dropping this leaves the callback in place: it is called until the channel ends.
#[derive(Debug)]
pub struct Callback {
    task: JoinHandle<()>,
}

impl Callback {
    /// Waits until the callback has returned from the end of the channel, or has failed or panicked before.
    ///
    /// Cancel safety: nothing is lost.
    pub async fn finished(&mut self) {
        // An error is the task's cancellation: by its runtime's end, or by the drop of a callback's own value that panicked.
        let _ = (&mut self.task).await;
    }

    /// Whether the callback will not be called again.
    pub fn is_finished(&self) -> bool {
        self.task.is_finished()
    }

    /// Takes the callback away at its next await: the peer is told to stop. What was not yet delivered is lost, and so is the
    /// message of an unfinished call: neither counts as consumed.
    pub fn cancel(self) {
        self.task.abort();
    }
}

impl<T, C> Receiver<T, C>
where
    T: Send + 'static,
    C: Codec<T> + 'static,
{
    /// Calls `callback` for each message, those already queued first, and last with the end, also if the channel ended
    /// before. The calls are made one after another on the current runtime, never by the loops that move bytes: a
    /// slow callback holds up only this channel. Its error closes this channel, and the peer's sends report it; so does its
    /// panic, and a message that cannot be decoded. A message counts as consumed once its call has returned without an
    /// error.
    ///
    /// # Panics
    /// Outside of a tokio runtime.
    ///
    /// ```no_run
    /// # use farcall_channel::{Delivery, Receiver};
    /// # fn listen(lines: Receiver<String>) {
    /// lines.on_message(|delivery| async move {
    ///     match delivery {
    ///         Delivery::Message(line) if line.is_empty() => return Err("empty line"),
    ///         Delivery::Message(line) => println!("{line}"),
    ///         Delivery::End(None) => println!("that was all"),
    ///         Delivery::End(Some(error)) => println!("lost: {error}"),
    ///     }
    ///     Ok(())
    /// });
    /// # }
    /// ```
    pub fn on_message<F, W, E>(mut self, mut callback: F) -> Callback
    where
        F: FnMut(Delivery<T>) -> W + Send + 'static,
        W: Future<Output = Result<(), E>> + Send,
        E: Display,
    {
        let task = tokio::spawn(async move {
            loop {
                let end = match self.recv().await {
                    Ok(Some(message)) => {
                        self.end.set_unfinished(true);
                        if let Err(error) = call(&mut callback, Delivery::Message(message)).await {
                            self.close_with(error);
                            return;
                        }
                        self.end.set_unfinished(false);
                        continue;
                    }
                    Ok(None) => None,
                    Err(error @ RecvError::Codec(_)) => {
                        self.close_with(error.to_string());
                        Some(error)
                    }
                    Err(error) => Some(error),
                };
                // There is nobody left to tell.
                let _ = call(&mut callback, Delivery::End(end)).await;
                return;
            }
        });
        Callback { task }
    }
}

/// Calls the callback. Its error, or its panic, as the peer is told of it.
async fn call<T, F, W, E>(callback: &mut F, delivery: Delivery<T>) -> Result<(), String>
where
    F: FnMut(Delivery<T>) -> W,
    W: Future<Output = Result<(), E>>,
    E: Display,
{
    // Nothing of the callback is used after a panic but its drop.
    let called = catch_unwind(AssertUnwindSafe(|| callback(delivery))).map_err(panicked)?;
    let mut called = pin!(called);
    std::future::poll_fn(|cx| {
        let polled = catch_unwind(AssertUnwindSafe(|| called.as_mut().poll(cx)));
        match polled {
            Ok(polled) => polled.map_err(|error| error.to_string()),
            Err(panic) => Poll::Ready(Err(panicked(panic))),
        }
    })
    .await
}

fn panicked(panic: Box<dyn Any + Send>) -> String {
    let text = panic.downcast_ref::<&str>().copied();
    match text.or_else(|| panic.downcast_ref::<String>().map(String::as_str)) {
        Some(text) => format!("the callback panicked: {text}"),
        None => "the callback panicked".to_owned(),
    }
}
