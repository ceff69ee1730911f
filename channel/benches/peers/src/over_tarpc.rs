//! The rows over tarpc. It has no streams, so what streams elsewhere are calls here, many of them in flight.

use std::hint::black_box;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures::StreamExt;
use tarpc::server::{self, BaseChannel, Channel};
use tarpc::tokio_serde::formats::Bincode;
use tarpc::{client, context, serde_transport};
use tokio::io::{Join, join};
use tokio::net::unix::pipe::{Receiver, Sender};
use tokio::sync::Notify;
use tokio_util::codec::LengthDelimitedCodec;

use crate::meter::Meter;
use crate::pair::{Assignment, Side};
use crate::payload::{Record, bulk, record, small, text};
use crate::{Failure, ended};

/// Calls in flight for small messages, and for large ones.
const MANY: usize = 256;
const FEW: usize = 4;

/// What the serving side offers.
#[tarpc::service]
trait Sink {
    async fn echo(message: String) -> String;
    async fn text(message: String);
    async fn record(message: Record);
    async fn bytes(message: Bytes);
}

/// Counts calls; the measurement is over when `done` is notified.
#[derive(Clone)]
struct Counting {
    meter: Arc<Mutex<Meter>>,
    done: Arc<Notify>,
}

impl Counting {
    fn tick(&self) {
        if self.meter.lock().expect("nothing panics under this lock").tick() {
            self.done.notify_one();
        }
    }
}

impl Sink for Counting {
    async fn echo(self, _: context::Context, message: String) -> String {
        message
    }

    async fn text(self, _: context::Context, message: String) {
        black_box(message);
        self.tick();
    }

    async fn record(self, _: context::Context, message: Record) {
        black_box(message);
        self.tick();
    }

    async fn bytes(self, _: context::Context, message: Bytes) {
        black_box(message);
        self.tick();
    }
}

/// Takes this process's part in a row; the near side returns what it measured.
pub(crate) async fn run(assignment: &Assignment, reader: Receiver, writer: Sender) -> Result<f64, Failure> {
    let length = assignment.length;
    let every = |every| Meter::new(length, every);
    match (assignment.row.as_str(), assignment.side) {
        ("rtt_64", Side::Near) => ask(client(reader, writer), every(8)).await,
        ("rtt_64", Side::Far) => serve(reader, writer, every(u64::MAX)).await,
        ("stream_64" | "stream_record" | "stream_64_bytes", Side::Near) => {
            serve(reader, writer, every(256)).await
        }
        ("bulk_1m", Side::Near) => serve(reader, writer, every(1)).await,
        ("stream_64", Side::Far) => {
            call(client(reader, writer), MANY, |client, _| {
                let message = text();
                async move { client.text(soon(), message).await }
            })
            .await
        }
        ("stream_record", Side::Far) => {
            call(
                client(reader, writer),
                MANY,
                |client, n| async move { client.record(soon(), record(n)).await },
            )
            .await
        }
        ("stream_64_bytes", Side::Far) => stream_bytes(client(reader, writer), MANY, small()).await,
        ("bulk_1m", Side::Far) => stream_bytes(client(reader, writer), FEW, bulk()).await,
        (row, _) => Err(format!("tarpc has no part in {row}").into()),
    }
}

type Pipes = Join<Receiver, Sender>;

/// A framed transport over both pipes.
fn framed(reader: Receiver, writer: Sender) -> tokio_util::codec::Framed<Pipes, LengthDelimitedCodec> {
    LengthDelimitedCodec::builder().new_framed(join(reader, writer))
}

fn client(reader: Receiver, writer: Sender) -> SinkClient {
    let mut config = client::Config::default();
    config.max_in_flight_requests = 2 * MANY;
    config.pending_request_buffer = 2 * MANY;
    let transport = serde_transport::new(framed(reader, writer), Bincode::default());
    SinkClient::new(config, transport).spawn()
}

/// A call's context: tarpc keeps a timer for each deadline, which lies beyond every measurement.
fn soon() -> context::Context {
    let mut context = context::current();
    context.deadline = Instant::now() + Duration::from_secs(60);
    context
}

async fn serve(reader: Receiver, writer: Sender, meter: Meter) -> Result<f64, Failure> {
    let counting = Counting { meter: Arc::new(Mutex::new(meter)), done: Arc::default() };
    let mut config = server::Config::default();
    config.pending_response_buffer = 2 * MANY;
    let transport = serde_transport::new(framed(reader, writer), Bincode::default());
    let calls = BaseChannel::new(config, transport).execute(counting.clone().serve());
    let serving = calls.for_each(|call| async {
        tokio::spawn(call);
    });
    tokio::select! {
        () = counting.done.notified() => {
            Ok(counting.meter.lock().expect("nothing panics under this lock").per_second())
        }
        () = serving => Err(ended()),
    }
}

async fn ask(client: SinkClient, mut meter: Meter) -> Result<f64, Failure> {
    let mut message = text();
    loop {
        message = client.echo(soon(), message).await?;
        if meter.tick() {
            return Ok(meter.microseconds_each());
        }
    }
}

async fn stream_bytes(client: SinkClient, at_once: usize, message: Bytes) -> Result<f64, Failure> {
    call(client, at_once, |client, _| {
        let message = message.clone();
        async move { client.bytes(soon(), message).await }
    })
    .await
}

/// Calls without end, so many at once.
async fn call<F>(
    client: SinkClient,
    at_once: usize,
    one: impl Fn(SinkClient, u64) -> F,
) -> Result<f64, Failure>
where
    F: Future<Output = Result<(), client::RpcError>>,
{
    let mut calls = futures::stream::iter(0..).map(|n| one(client.clone(), n)).buffer_unordered(at_once);
    while let Some(answer) = calls.next().await {
        answer?;
    }
    Ok(0.0)
}
