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
use crate::via::Hub;

/// How long the first failure to start a replacement is waited out; each further one doubles it.
const PATIENCE: Duration = Duration::from_millis(200);

/// How long the end of a worker that closed its stream is waited for, beyond its grace.
const CLOSING: Duration = Duration::from_secs(2);

/// Longer it is never waited.
const MOST_PATIENCE: Duration = Duration::from_secs(10);

/// Serves one gateway, and those that replace it, until the map is over. Runs on the driver.
pub(super) async fn run(shared: Arc<Shared>, gateway: Gateway, gate: GateId, wake: Arc<Notify>) {
    let (mut gateway, mut gate, mut wake) = (gateway, gate, wake);
    loop {
        let lost = match exchange(&shared, &gateway, gate, &wake, false).await {
            Ok(()) => return,
            Err(Broken::Stream(error)) => lost_by(&shared, &gateway, &wake, error).await,
            // Only those that are isolated are given up for it.
            Err(Broken::Stuck { .. }) => {
                lost_by(&shared, &gateway, &wake, StreamError::Malformed(Malformed)).await
            }
        };
        // The map may end meanwhile, and then keeps no gateway.
        let Some(lost) = lost else { return };
        // From here to the decision of `replace` nothing is waited for, so that nobody thinks meanwhile that no gateway is left.
        shared.lost(gate, &lost.loss);
        match replace(&shared, gateway, lost).await {
            Some(found) => (gateway, gate, wake) = found,
            None => return,
        }
    }
}

/// How a gateway was lost to the map.
pub(super) struct Lost {
    pub(super) loss: Loss,
    /// Whether another is to take its place.
    pub(super) replace: bool,
}

/// Starts a gateway in place of a lost one, while the limit allows. `None` if there is none; then it has been seen to whether that
/// was the last.
pub(super) async fn replace(
    shared: &Arc<Shared>,
    lost: Gateway,
    Lost { loss, replace }: Lost,
) -> Option<(Gateway, GateId, Arc<Notify>)> {
    tracing::debug!(gateway = lost.id(), suspicious = loss.suspicious, settle = ?loss.settle, "a gateway of a map is lost");
    let origin = lost.inner().origin.clone().in_place_of(&lost);
    drop(lost);
    if !replace || !shared.may_replace() {
        shared.check_hope(&loss);
        return None;
    }
    // From now on, so that nobody thinks that none is left.
    let (gate, wake) = shared.add_link("".into());
    let mut patience = PATIENCE;
    loop {
        let opened = tokio::select! {
            opened = origin.clone().open() => opened,
            () = shared.over(&wake) => return None,
        };
        match opened {
            Ok(opened) => {
                shared.name_link(gate, opened.id());
                shared.with(|state, _| state.replaced += 1);
                return Some((opened, gate, wake));
            }
            Err(error) => tracing::debug!(%error, "a gateway of a map was not replaced"),
        }
        if !shared.may_replace() {
            shared.lost(gate, &Loss { settle: Duration::ZERO, suspicious: false, end: loss.end.clone() });
            shared.check_hope(&loss);
            return None;
        }
        tokio::select! {
            () = tokio::time::sleep(patience) => {}
            () = shared.over(&wake) => return None,
        }
        patience = (patience * 2).min(MOST_PATIENCE);
    }
}

/// What is to become of a gateway that takes or says nothing more; `None` if the map is over before that is known.
pub(super) async fn lost_by(
    shared: &Shared,
    gateway: &Gateway,
    wake: &Notify,
    error: StreamError,
) -> Option<Lost> {
    tokio::select! {
        lost = found_lost(gateway, error) => Some(lost),
        () = shared.over(wake) => None,
    }
}

async fn found_lost(gateway: &Gateway, error: StreamError) -> Lost {
    let noticed = Instant::now();
    match error {
        // Nothing was begun.
        StreamError::Refused(reason) => {
            tracing::debug!(gateway = gateway.id(), reason, "a gateway refuses a map");
            Lost {
                loss: Loss { settle: Duration::ZERO, suspicious: false, end: gateway.end() },
                replace: false,
            }
        }
        StreamError::Malformed(_) | StreamError::TooLarge { .. } => {
            // What it does is not known.
            gateway.exit();
            Lost { loss: loss(gateway, &gateway.wait().await, noticed), replace: false }
        }
        StreamError::Ended | StreamError::Closed => {
            let mut end = gateway.end();
            if end.is_none() && matches!(error, StreamError::Closed) {
                // A worker that ends closes its streams first. One that does not end can be waited for in vain.
                let limit = gateway.inner().life.grace + CLOSING;
                end = tokio::time::timeout(limit, gateway.wait()).await.ok();
                if end.is_none() {
                    gateway.exit();
                }
            }
            let end = match end {
                Some(end) => end,
                None => gateway.wait().await,
            };
            // One that this side ended is not wanted any more.
            Lost { loss: loss(gateway, &end, noticed), replace: end.class().is_some() }
        }
    }
}

/// What the end of a gateway means for its items.
pub(super) fn loss(gateway: &Gateway, end: &Arc<GatewayEnd>, noticed: Instant) -> Loss {
    let inner = gateway.inner();
    let settle = if is_worker_over(gateway, end) {
        Duration::ZERO
    } else if let Some(hub) = inner.hub.as_ref().and_then(Hub::gateway)
        && let Some(end) = hub.end()
        && is_worker_over(&hub, &end)
        // A command or a host's SSH server may lead further than that guardian reaches.
        && inner.origin.is_local()
    {
        // What the hub's worker started is being killed by its guardian.
        inner.life.grace
    } else {
        // Its lease began no later, and then it has its grace to end.
        inner.life.lease + inner.life.grace
    };
    let settle = settle.saturating_sub(noticed.elapsed());
    let died = matches!(end.class(), Some(Class::Signal | Class::RemoteExit))
        || matches!(end.cause(), ConnectionError::Eof);
    // If it went with its hub, then not for what it ran.
    let suspicious = died && end.hub().is_none();
    Loss { settle, suspicious, end: Some(Arc::clone(end)) }
}

/// Whether the worker's own process is known to have ended.
fn is_worker_over(gateway: &Gateway, end: &GatewayEnd) -> bool {
    let inner = gateway.inner();
    // Of a process inside a worker, that worker tells the end.
    let told = match &inner.hub {
        Some(hub) => hub.is_whole() && end.hub().is_none(),
        None => inner.origin.process_is_worker(),
    };
    told && matches!(end.exit(), Some(Exit::Code(_) | Exit::Signal(_)))
}

type Sending<'a> = Pin<Box<dyn Future<Output = Result<(), StreamError>> + Send + 'a>>;

/// Why no more calls go to a gateway.
pub(super) enum Broken {
    Stream(StreamError),
    /// An isolated call cannot be stopped; it is not answered yet.
    Stuck {
        number: u64,
        error: ItemError,
    },
}

impl<E: Into<StreamError>> From<E> for Broken {
    fn from(error: E) -> Broken {
        Broken::Stream(error.into())
    }
}

/// Until the map is over, or something breaks.
pub(super) async fn exchange(
    shared: &Arc<Shared>,
    gateway: &Gateway,
    gate: GateId,
    wake: &Notify,
    isolated: bool,
) -> Result<(), Broken> {
    let asked = Instant::now();
    let (orders, mut replies) = tokio::select! {
        opened = stream::open(gateway.inner(), shared.name, &shared.plan) => opened?,
        () = shared.over(wake) => return Ok(()),
    };
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
            message = replies.recv() => handle(shared, gate, &message?, &mut opened, isolated)?,
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
    isolated: bool,
) -> Result<(), Broken> {
    shared.with(|state, now| {
        let mut stuck = None;
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
                Reply::Stuck => {
                    let error = match record.bytes(message) {
                        [kind] if Reply::from_byte(*kind) == Some(Reply::TimedOut) => {
                            ItemError::TimedOut { running: !isolated }
                        }
                        _ => ItemError::Stopped,
                    };
                    if isolated {
                        // What else the message says holds all the same.
                        stuck = Some(Broken::Stuck { number: record.number, error });
                        continue;
                    }
                    Answer::Stuck(error)
                }
                Reply::Freed => {
                    state.scheduler.freed(gate);
                    continue;
                }
                Reply::Slots => {
                    let asked = opened.take().ok_or(Malformed)?;
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
        stuck.map_or(Ok(()), Err)
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
