//! Moves what a command writes to whoever reads it: each of its outputs at the speed of its own reader.

use std::future::Future;

use bytes::Bytes;
use farcall_channel::{Raw, Sender};
use tokio::sync::mpsc;

use super::child::{Event, Running};
use super::command::report_of;
use crate::wire::CommandReport;

/// Moves the output, and returns how the command ended, once all that it wrote is passed on. An output that nobody reads holds
/// up itself and the end, but not the other.
pub(super) async fn follow(
    running: &mut Running,
    stdout: Option<Sender<Bytes, Raw>>,
    stderr: Option<Sender<Bytes, Raw>>,
) -> CommandReport {
    let ((mut stdout, out), (mut stderr, err)) = (lane(stdout), lane(stderr));
    let mut passing = std::pin::pin!(async { tokio::join!(out, err) });
    let mut passed = false;
    let report = loop {
        let held = [stdout.is_full(), stderr.is_full()];
        running.hold(held);
        let event = tokio::select! {
            biased;
            _ = &mut passing, if !passed => {
                passed = true;
                continue;
            }
            // A reader that goes is noticed also while nothing is written.
            () = stdout.given_up() => {
                stdout.end();
                running.close_stdout();
                continue;
            }
            () = stderr.given_up() => {
                stderr.end();
                running.close_stderr();
                continue;
            }
            () = stdout.room(), if held[0] => continue,
            () = stderr.room(), if held[1] => continue,
            event = running.next() => event,
        };
        match event {
            Ok(Some(Event::Stdout(bytes))) => stdout.push(bytes),
            Ok(Some(Event::Stderr(bytes))) => stderr.push(bytes),
            Ok(Some(Event::StdoutEnd)) => stdout.end(),
            Ok(Some(Event::StderrEnd)) => stderr.end(),
            Ok(Some(Event::Ended(ended))) => {
                break CommandReport::Ended { status: report_of(ended.status), held_open: ended.held_open };
            }
            Ok(None) => break CommandReport::Lost { message: "its end was reported before".into() },
            Err(error) => break CommandReport::Lost { message: error.to_string() },
        }
    };
    // The end comes after what was written before.
    stdout.end();
    stderr.end();
    if !passed {
        passing.await;
    }
    report
}

/// One output on its way to its reader. It takes a piece while the piece before is being sent.
struct Lane(Option<mpsc::Sender<Bytes>>);

/// A lane, and what moves the pieces on it until it has ended or nobody reads any more.
fn lane(sender: Option<Sender<Bytes, Raw>>) -> (Lane, impl Future<Output = ()>) {
    let (pieces, waiting) = mpsc::channel(1);
    (Lane(sender.is_some().then_some(pieces)), pass_on(sender, waiting))
}

async fn pass_on(sender: Option<Sender<Bytes, Raw>>, mut pieces: mpsc::Receiver<Bytes>) {
    let Some(sender) = sender else { return };
    loop {
        let piece = tokio::select! {
            biased;
            // How it went does not matter.
            _ = sender.wait_closed() => return,
            piece = pieces.recv() => piece,
        };
        let Some(piece) = piece else { return };
        if sender.send(piece).await.is_err() {
            return;
        }
    }
}

impl Lane {
    /// Whether it takes no more for now.
    fn is_full(&self) -> bool {
        self.0.as_ref().is_some_and(|pieces| pieces.capacity() == 0)
    }

    /// Waits until it takes more, or nobody reads any more.
    async fn room(&self) {
        match &self.0 {
            Some(pieces) => drop(pieces.reserve().await),
            None => std::future::pending().await,
        }
    }

    /// Waits until nobody reads any more. Not once it has ended.
    async fn given_up(&self) {
        match &self.0 {
            Some(pieces) => pieces.closed().await,
            None => std::future::pending().await,
        }
    }

    fn push(&self, bytes: Vec<u8>) {
        if let Some(pieces) = &self.0 {
            // There is room, or it would have been held; what nobody reads any more is noticed elsewhere.
            let _ = pieces.try_send(bytes.into());
        }
    }

    fn end(&mut self) {
        self.0 = None;
    }
}
