//! The signals that ask the program to end.

use std::io;

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::mpsc;

use crate::exit::Interrupt;

/// Listens for SIGINT, SIGTERM and SIGHUP from now on, instead of being ended by them.
///
/// One that was ignored when the program started stays ignored: `nohup` and background jobs rely on it. Two may wait
/// to be received; more would not say more. The task that listens ends with the runtime, or with the receiver.
///
/// # Errors
/// When the system refuses a handler.
pub(crate) fn interrupts() -> io::Result<mpsc::Receiver<Interrupt>> {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default(); // elsewhere than on Linux
    let listen = |kind: SignalKind| -> io::Result<Option<Signal>> {
        if is_ignored(&status, kind.as_raw_value()) { Ok(None) } else { signal(kind).map(Some) }
    };
    let mut interrupt = listen(SignalKind::interrupt())?;
    let mut terminate = listen(SignalKind::terminate())?;
    let mut hangup = listen(SignalKind::hangup())?;
    let (sender, receiver) = mpsc::channel(2);
    tokio::spawn(async move {
        loop {
            let which = tokio::select! {
                () = next(&mut interrupt) => Interrupt::Interrupted,
                () = next(&mut terminate) => Interrupt::Terminated,
                () = next(&mut hangup) => Interrupt::Terminated,
                () = sender.closed() => return,
            };
            let _ = sender.try_send(which); // full: two are enough
        }
    });
    Ok(receiver)
}

/// Waits for the next one; for ever where none is listened for, or none can come any more.
async fn next(signal: &mut Option<Signal>) {
    let came = match signal {
        Some(signal) => signal.recv().await.is_some(),
        None => false,
    };
    if !came {
        std::future::pending::<()>().await;
    }
}

/// Whether a signal is ignored, by the mask in `/proc/self/status`.
fn is_ignored(status: &str, signal: i32) -> bool {
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    let mask = mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).unwrap_or(0);
    mask >> (signal - 1) & 1 == 1
}

#[cfg(test)]
mod tests {
    use rustix::process::{Signal, getpid, kill_process};

    use super::*;

    #[tokio::test]
    async fn signals_arrive_as_what_they_ask_for() {
        let mut interrupts = interrupts().unwrap();
        for (signal, expected) in [
            (Signal::TERM, Interrupt::Terminated),
            (Signal::INT, Interrupt::Interrupted),
            (Signal::INT, Interrupt::Interrupted),
            (Signal::HUP, Interrupt::Terminated),
        ] {
            kill_process(getpid(), signal).unwrap();
            assert_eq!(interrupts.recv().await, Some(expected), "{signal:?}");
        }
    }

    #[test]
    fn what_nohup_ignores_is_known() {
        let status = "Name:\tx\nSigBlk:\t0000000000000002\nSigIgn:\t0000000000001001\n";
        assert!(is_ignored(status, 1));
        assert!(is_ignored(status, 13));
        assert!(!is_ignored(status, 2));
        assert!(!is_ignored("", 1));
    }
}
