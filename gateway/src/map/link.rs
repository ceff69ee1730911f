//! One gateway of a map: sends what the scheduler has for it, tells the scheduler what it replies and how it ends.

use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use farcall_bootstrap::{Class, Exit};
use farcall_channel::ConnectionError;
use tokio::sync::Notify;

use super::batch::{Kind, Malformed, Records, Reply};
use super::drive::Shared;
use super::fault::ItemError;
use super::schedule::{Answer, GateId, Loss};
use super::stream::{self, StreamError};
use crate::end::GatewayEnd;
use crate::failure::{Failure, Panic};
use crate::gateway::Gateway;

/// How long the first failure to start a replacement is waited out; each further one doubles it.
const PATIENCE: Duration = Duration::from_millis(200);

/// Longer it is never waited.
const MOST_PATIENCE: Duration = Duration::from_secs(10);

/// Serves one gateway, and those that replace it, until the map is over. Runs on the driver.
pub(super) async fn run(shared: Arc<Shared>, gateway: Gateway, gate: GateId, wake: Arc<Notify>) {
    let (mut gateway, mut gate, mut wake) = (gateway, gate, wake);
    loop {
        let Some((loss, replace)) = serve(&shared, &gateway, gate, &wake).await else { return };
        tracing::debug!(gateway = gateway.id(), suspicious = loss.suspicious, settle = ?loss.settle, "a gateway of a map is lost");
        let mut replace = shared.lost(gate, &loss, replace);
        let origin = gateway.inner().origin.clone().in_place_of(&gateway);
        drop(gateway);
        let mut patience = PATIENCE;
        let found = loop {
            if !replace {
                break None;
            }
            let id: Arc<str> = "".into();
            let (next, next_wake) = shared.add_link(id);
            match origin.clone().open().await {
                Ok(opened) => {
                    shared.name_link(next, opened.id());
                    shared.with(|state, _| state.replaced += 1);
                    break Some((opened, next, next_wake));
                }
                Err(error) => {
                    tracing::debug!(%error, "a gateway of a map was not replaced");
                    let nothing = Loss { settle: Duration::ZERO, suspicious: false, end: loss.end.clone() };
                    replace = shared.lost(next, &nothing, true);
                    if replace {
                        tokio::time::sleep(patience).await;
                        patience = (patience * 2).min(MOST_PATIENCE);
                    }
                }
            }
        };
        match found {
            Some(found) => (gateway, gate, wake) = found,
            None => return shared.check_hope(&loss),
        }
    }
}

/// Until the map is over, or the gateway is lost to it: how, and whether another should take its place.
async fn serve(shared: &Arc<Shared>, gateway: &Gateway, gate: GateId, wake: &Notify) -> Option<(Loss, bool)> {
    let error = match exchange(shared, gateway, gate, wake).await {
        Ok(()) => return None,
        Err(error) => error,
    };
    let noticed = Instant::now();
    match error {
        // Nothing was begun.
        StreamError::Refused(_) => {
            Some((Loss { settle: Duration::ZERO, suspicious: false, end: gateway.end() }, false))
        }
        StreamError::Malformed(_) | StreamError::TooLarge { .. } => {
            // What it does is not known.
            gateway.exit();
            Some((loss(gateway, &gateway.wait().await, noticed), false))
        }
        StreamError::Ended => {
            let end = gateway.wait().await;
            // One that this side ended is not wanted any more.
            let replace = end.class().is_some();
            Some((loss(gateway, &end, noticed), replace))
        }
    }
}

/// What the end of a gateway means for its items.
fn loss(gateway: &Gateway, end: &Arc<GatewayEnd>, noticed: Instant) -> Loss {
    let inner = gateway.inner();
    let direct = inner.hub.is_none() && inner.origin.process_is_worker();
    let known = direct && matches!(end.exit(), Some(Exit::Code(_) | Exit::Signal(_)));
    let settle = if known {
        Duration::ZERO
    } else {
        // Its lease began no later, and then it has its grace to end.
        (inner.life.lease + inner.life.grace).saturating_sub(noticed.elapsed())
    };
    let suspicious = matches!(end.class(), Some(Class::Signal | Class::RemoteExit))
        || matches!(end.cause(), ConnectionError::Eof);
    Loss { settle, suspicious, end: Some(Arc::clone(end)) }
}

type Sending<'a> = Pin<Box<dyn Future<Output = Result<(), StreamError>> + Send + 'a>>;

async fn exchange(
    shared: &Arc<Shared>,
    gateway: &Gateway,
    gate: GateId,
    wake: &Notify,
) -> Result<(), StreamError> {
    let asked = Instant::now();
    let (orders, mut replies) = stream::open(gateway.inner(), shared.name, &shared.plan).await?;
    let mut opened = Some(asked);
    let mut sending: Option<Sending<'_>> = None;
    loop {
        if sending.is_none() {
            let Some(batch) = shared.next_batch(gate) else { return Ok(()) };
            if !batch.is_empty() {
                sending = Some(Box::pin(orders.send(batch.into())));
            }
        }
        let sent = async {
            match &mut sending {
                Some(sending) => sending.await,
                None => std::future::pending().await,
            }
        };
        // Replies are taken also while nothing can be sent: the worker may wait for that.
        tokio::select! {
            biased;
            sent = sent => {
                sending = None;
                sent?;
            }
            message = replies.recv() => handle(shared, gate, &message?, &mut opened)?,
            () = wake.notified() => {
                if shared.is_over() {
                    return Ok(());
                }
            }
        }
    }
}

/// Tells the scheduler all that a message says.
fn handle(
    shared: &Shared,
    gate: GateId,
    message: &Bytes,
    opened: &mut Option<Instant>,
) -> Result<(), Malformed> {
    shared.with(|state, now| {
        let mut records = Records::<Reply>::new();
        while let Some(record) = records.next(message) {
            let record = record?;
            let text = || String::from_utf8_lossy(record.bytes(message)).into_owned();
            let answer = match record.kind {
                Reply::Value => Answer::Value(record.payload(message)),
                Reply::Failed => Answer::Fault(failed(record.bytes(message))),
                Reply::Panicked => Answer::Fault(panicked(record.bytes(message))),
                Reply::Arguments => Answer::Final(ItemError::Unreadable(text())),
                Reply::Unsendable => Answer::Final(ItemError::Unsendable(text())),
                Reply::Withdrawn => Answer::Withdrawn,
                Reply::Cancelled => Answer::Final(ItemError::Stopped),
                Reply::TimedOut => Answer::Fault(ItemError::TimedOut { running: false }),
                Reply::Stuck => match record.bytes(message) {
                    [kind] if Reply::from_byte(*kind) == Some(Reply::TimedOut) => {
                        Answer::Stuck(ItemError::TimedOut { running: true })
                    }
                    _ => Answer::Stuck(ItemError::Stopped),
                },
                Reply::Freed => {
                    state.scheduler.freed(gate);
                    continue;
                }
                Reply::Slots => {
                    let Some(asked) = opened.take() else { return Err(Malformed) };
                    let slots = u32::try_from(record.number).unwrap_or(u32::MAX);
                    state.scheduler.opened(gate, slots, asked.elapsed(), now);
                    continue;
                }
                Reply::Pace => {
                    state.scheduler.pace(gate, record.number);
                    continue;
                }
            };
            state.scheduler.handle_answer(gate, record.number, answer, now)?;
        }
        Ok(())
    })
}

fn failed(bytes: &[u8]) -> ItemError {
    match farcall_channel::from_bytes::<Failure>(bytes) {
        Ok(failure) => ItemError::Failed(failure),
        Err(error) => ItemError::Reply(Arc::new(error)),
    }
}

fn panicked(bytes: &[u8]) -> ItemError {
    match farcall_channel::from_bytes::<Panic>(bytes) {
        Ok(panic) => ItemError::Panicked(panic),
        Err(error) => ItemError::Reply(Arc::new(error)),
    }
}
