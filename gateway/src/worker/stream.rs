//! The worker's side of a stream of calls: reads orders, writes replies in batches, keeps the time.
//!
//! This part runs on the thread that drives the connection and touches no user code. Calls wait at a [`Desk`]; what runs them, on
//! other threads, are [lanes](super::lanes), one for each slot.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use farcall_channel::{Incoming, Raw, Receiver, SendError, Sender};

use super::crew::Crew;
use super::desk::{Desk, Stop};
use super::{background, command_lanes, lanes};
use crate::map::batch::{self, Order, Records, Reply};
use crate::map::stream::Plan;
use crate::task::Task;

/// How long replies to tiny calls may wait for others to be sent with them.
const GATHER: Duration = Duration::from_millis(1);

/// How long a call may take to notice that it is given up, before it is reported as one that cannot be stopped.
const OBEY: Duration = Duration::from_millis(200);

/// More slots than these nobody gets.
pub(crate) const MAX_SLOTS: usize = 4096;

/// Runs calls of `task` for the caller at the other end of `incoming`.
pub(crate) fn start<F: Task<M>, M: 'static>(
    name: &'static str,
    task: F,
    incoming: Incoming,
    crew: &Arc<Crew>,
) {
    serve(incoming, crew, move |desk, crew, _| {
        let runtime = crew.runtime().map_err(|error| format!("cannot start threads: {error}"))?;
        for lane in 0..desk.slots() {
            // Ends with the stream, or with the runtime when the worker ends; nobody waits for it.
            runtime.spawn(lanes::run(name, task, Arc::clone(desk), lane, Arc::clone(crew)));
        }
        Ok(())
    });
}

/// Runs commands for the caller at the other end of `incoming`.
pub(crate) fn start_commands(incoming: Incoming, crew: &Arc<Crew>) {
    serve(incoming, crew, |desk, crew, plan| {
        let plan = plan.command.ok_or("the stream names neither a task nor a command")?;
        command_lanes::start(plan, desk, crew).map_err(|error| format!("cannot start threads: {error}"))
    });
}

fn serve(
    incoming: Incoming,
    crew: &Arc<Crew>,
    open: impl FnOnce(&Arc<Desk>, &Arc<Crew>, Plan) -> Result<(), String> + Send + 'static,
) {
    let (replies, mut orders) = incoming.accept_with::<Bytes, Bytes, Raw>().split();
    let crew = Arc::clone(crew);
    // Ends with the stream or the connection; nobody waits for it.
    background::spawn(async move {
        let Ok(Some(plan)) = orders.recv().await else { return };
        let plan: Plan = match farcall_channel::from_bytes(&plan) {
            Ok(plan) => plan,
            Err(error) => return replies.close_with(error.to_string()),
        };
        let slots = plan.slots.and_then(|slots| usize::try_from(slots).ok());
        let slots = slots.unwrap_or(crew.slot_count()).clamp(1, MAX_SLOTS);
        let limit = plan.limit;
        let desk = Arc::new(Desk::new(slots));
        if let Err(reason) = open(&desk, &crew, plan) {
            // Some of the lanes may be there.
            desk.close();
            return replies.close_with(reason);
        }
        let mut slots_told = Vec::new();
        batch::put(&mut slots_told, Reply::Slots, slots as u64);
        // How it went shows when the next is sent.
        let _ = replies.send(slots_told.into()).await;
        // Each ends when the desk is closed.
        let writing = background::spawn(write(Arc::clone(&desk), replies));
        if let Some(limit) = limit {
            background::spawn(watch(Arc::clone(&desk), limit));
        }
        let closing = Closing(Arc::clone(&desk));
        tokio::select! {
            () = read(&desk, &mut orders) => {}
            // Nobody takes the replies any more.
            _ = writing => {}
        }
        drop(closing);
    });
}

/// Closes the desk however the stream ends.
struct Closing(Arc<Desk>);

impl Drop for Closing {
    fn drop(&mut self) {
        self.0.close();
    }
}

/// Takes orders until there are no more, which gives up all that was ordered.
async fn read(desk: &Arc<Desk>, orders: &mut Receiver<Bytes, Raw>) {
    let mut calls = Vec::new();
    while let Ok(Some(message)) = orders.recv().await {
        let mut records = Records::<Order>::new();
        while let Some(record) = records.next(&message) {
            let Ok(record) = record else { return orders.close_with("a batch of calls that is none") };
            match record.kind {
                Order::Run => calls.push((record.number, record.shared(&message))),
                Order::Cancel | Order::Withdraw => {
                    desk.push(&mut calls);
                    if let Some((lane, run)) = desk.give_up(record.number, record.kind == Order::Cancel) {
                        look_after(desk, lane, run);
                    }
                }
            }
        }
        desk.push(&mut calls);
        desk.room().await;
    }
}

/// Reports a lane's call as stuck unless it soon obeys.
fn look_after(desk: &Arc<Desk>, lane: usize, run: u64) {
    let desk = Arc::clone(desk);
    // Ends by itself; nobody waits for it.
    background::spawn(async move {
        tokio::time::sleep(OBEY).await;
        desk.tell_stuck(lane, run);
    });
}

/// Stops calls that run longer than `limit`, until the desk is closed.
async fn watch(desk: Arc<Desk>, limit: Duration) {
    loop {
        let mut overdue = Vec::new();
        let Some(next) = desk.overdue(limit, &mut overdue) else { return };
        for (lane, run) in overdue {
            if desk.stop(lane, run, Stop::TimedOut) {
                look_after(&desk, lane, run);
            }
        }
        tokio::select! {
            () = tokio::time::sleep_until(next.into()) => {}
            () = desk.closed() => return,
        }
    }
}

/// Sends replies until the desk is closed, or nobody takes them any more: that shows here also while no orders are read.
async fn write(desk: Arc<Desk>, replies: Sender<Bytes, Raw>) {
    tokio::select! {
        () = write_all(&desk, &replies) => {}
        _ = replies.wait_closed() => {}
    }
}

/// Sends replies as they come, those of tiny calls many at a time.
async fn write_all(desk: &Desk, replies: &Sender<Bytes, Raw>) {
    while desk.replies().await {
        if !desk.is_urgent() {
            // More are about to come.
            let _ = tokio::time::timeout(GATHER, desk.urgent()).await;
        }
        let (batch, long) = desk.take_replies();
        if !batch.is_empty() && send_batch(replies, batch.into()).await.is_err() {
            return;
        }
        for (number, message) in long {
            match replies.send(message.into()).await {
                Ok(()) => {}
                Err(error @ SendError::TooLarge { .. }) => {
                    let mut instead = Vec::new();
                    batch::put_with(&mut instead, Reply::Unsendable, number, error.to_string().as_bytes());
                    if replies.send(instead.into()).await.is_err() {
                        return;
                    }
                }
                Err(_) => return,
            }
        }
        desk.sent();
    }
}

/// Sends replies in one message, or in several if the caller takes no message that long.
async fn send_batch(replies: &Sender<Bytes, Raw>, batch: Bytes) -> Result<(), SendError> {
    let max = match replies.send(batch.clone()).await {
        Err(SendError::TooLarge { max, .. }) => usize::try_from(max).unwrap_or(usize::MAX),
        sent => return sent,
    };
    let mut records = Records::<Reply>::new();
    let (mut start, mut end) = (0, 0);
    while let Some(Ok(record)) = records.next(&batch) {
        let next = records.at();
        if next - start > max && end > start {
            replies.send(batch.slice(start..end)).await?;
            start = end;
        }
        if next - start > max {
            let mut instead = Vec::new();
            let reason = format!("the message takes {} bytes, the peer accepts {max}", next - start);
            batch::put_with(&mut instead, Reply::Unsendable, record.number, reason.as_bytes());
            replies.send(instead.into()).await?;
            start = next;
        }
        end = next;
    }
    if end > start { replies.send(batch.slice(start..end)).await } else { Ok(()) }
}
