//! Signals that reach the program, handed on to its children.

use std::io;
use std::time::Duration;

use rustix::process::Signal;
use tokio::signal::unix::{self, SignalKind, signal};
use tokio::sync::mpsc;
use tokio::task::AbortHandle;

use super::child::sleep;
use super::family;

/// Signals that nobody has asked for yet; more are not told, but relayed.
const UNTOLD: usize = 16;

/// Hands INT, TERM and HUP on to the children, as long as it lives. From [`relay_signals`].
#[derive(Debug)]
pub struct Relay {
    signals: mpsc::Receiver<i32>,
    relaying: AbortHandle,
}

/// From now on, hands INT, TERM and HUP that reach this process on to all children of [`local`](super): what runs in them gets
/// the signal, which ends it unless it handles it; one that is being started gets it as soon as it runs. Those that live at such
/// a signal and still do when `grace` has passed are killed.
///
/// The program itself does not end by these signals any more, not even when the relay is dropped: what it does is for it to
/// decide, by [`Relay::next`]. A program that has no relay ends by them, and its children with it.
///
/// ```no_run
/// # async fn example() -> std::io::Result<()> {
/// let mut relay = farcall::local::relay_signals(std::time::Duration::from_secs(2))?;
/// tokio::select! {
///     signal = relay.next() => eprintln!("ended by signal {signal:?}"),
///     () = work() => {}
/// }
/// # Ok(())
/// # }
/// # async fn work() {}
/// ```
///
/// # Errors
/// That the system gives no thread, or no handler.
pub fn relay_signals(grace: Duration) -> io::Result<Relay> {
    let driver = crate::open::driver()?;
    let entered = driver.enter();
    let mut sources = Sources {
        interrupt: signal(SignalKind::interrupt())?,
        terminate: signal(SignalKind::terminate())?,
        hangup: signal(SignalKind::hangup())?,
    };
    drop(entered);
    let (tell, signals) = mpsc::channel(UNTOLD);
    let own = driver.clone();
    // Ends with the relay.
    let relaying = driver.spawn(async move {
        loop {
            let signal = sources.next().await;
            let children = family::members();
            children.iter().for_each(|child| child.relay(signal));
            let _ = tell.try_send(signal.as_raw());
            let grace = sleep(&own, grace);
            // Ends with the grace.
            own.spawn(async move {
                grace.await;
                children.iter().for_each(|child| child.kill());
            });
        }
    });
    Ok(Relay { signals, relaying: relaying.abort_handle() })
}

struct Sources {
    interrupt: unix::Signal,
    terminate: unix::Signal,
    hangup: unix::Signal,
}

impl Sources {
    async fn next(&mut self) -> Signal {
        tokio::select! {
            Some(()) = self.interrupt.recv() => Signal::INT,
            Some(()) = self.terminate.recv() => Signal::TERM,
            Some(()) = self.hangup.recv() => Signal::HUP,
            else => std::future::pending().await,
        }
    }
}

impl Relay {
    /// The number of the next signal that reached the program. It was handed on already.
    ///
    /// Cancel safety: nothing is lost.
    pub async fn next(&mut self) -> i32 {
        match self.signals.recv().await {
            Some(number) => number,
            // The driver ends with the program.
            None => std::future::pending().await,
        }
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.relaying.abort();
    }
}
