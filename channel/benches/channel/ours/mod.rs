//! Our own side of every row: a connection over the pipes, on a runtime of one thread.

mod crowd;
mod lives;
mod memory;
mod one;

use std::io;

use farcall_channel::{Connection, DriverThread, Options, Role};
use tokio::net::unix::pipe::{Receiver, Sender};

use crate::Failure;
use crate::allocation;
use crate::meter::Meter;
use crate::pair::{Assignment, Ends, Side};
use crate::payload::{Record, bulk, record, small, text};

/// How many channels share the load, stand beside it, or lie idle.
const MANY: usize = 1000;
const STALLED: usize = 100;
const IDLE: usize = 10_000;

/// Takes this process's part in a row; the near side returns what it measured.
pub(crate) fn run(assignment: &Assignment, ends: Ends) -> Result<f64, Failure> {
    let Ends { reader, writer, far } = ends;
    if assignment.row.starts_with("idle_channel") {
        allocation::count();
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let measured = runtime.block_on(async {
        let role = match assignment.side {
            Side::Near => Role::Coordinator,
            Side::Far => Role::Worker,
        };
        let mut options = Options::default();
        // Only the rows of idle channels come near the limit; it allocates nothing in advance.
        options.config.max_channels = 2 * IDLE as u32;
        let pipes = || io::Result::Ok((Receiver::from_owned_fd(reader)?, Sender::from_owned_fd(writer)?));
        // Held until the measurement is over.
        let _driver;
        let (reader, writer) = if assignment.row == "rtt_64_thread" {
            let driver = DriverThread::start("driver")?;
            options.driver = Some(driver.handle().clone());
            let pipes = driver.enter(pipes)?;
            _driver = driver;
            pipes
        } else {
            pipes()?
        };
        let connection = Connection::start(reader, writer, role, options).await?;
        take_part(assignment, connection).await
    });
    drop(far);
    measured
}

async fn take_part(assignment: &Assignment, connection: Connection) -> Result<f64, Failure> {
    let every = |every| Meter::new(assignment.length, every);
    let contender = assignment.contender.as_str();
    match (assignment.row.as_str(), assignment.side) {
        ("rtt_64" | "rtt_64_thread", Side::Near) => one::ask(&connection, every(8)).await,
        ("rtt_64" | "rtt_64_thread", Side::Far) => one::answer(&connection).await,
        ("stream_64", Side::Near) => one::receive::<String>(&connection, every(1024)).await,
        ("stream_64", Side::Far) => {
            let text = text();
            one::send(&connection, |_| text.clone()).await
        }
        ("stream_record", Side::Near) => one::receive::<Record>(&connection, every(1024)).await,
        ("stream_record", Side::Far) => one::send(&connection, record).await,
        ("stream_64_bytes", Side::Near) => one::receive_bytes(&connection, every(1024)).await,
        ("stream_64_bytes", Side::Far) => one::send_bytes(&connection, small()).await,
        ("bulk_1m", Side::Near) => one::receive_bytes(&connection, every(1)).await,
        ("bulk_1m", Side::Far) => one::send_bytes(&connection, bulk()).await,
        ("stream_64_1000ch", side) => {
            let channels = if contender == "one" { 1 } else { MANY };
            match side {
                Side::Near => crowd::receive(&connection, channels, 0, every(1024)).await,
                Side::Far => crowd::send(&connection).await,
            }
        }
        ("beside_stalled", side) => {
            let stalled = if contender == "alone" { 0 } else { STALLED };
            match side {
                Side::Near => crowd::receive(&connection, 1, stalled, every(1024)).await,
                Side::Far => crowd::send(&connection).await,
            }
        }
        ("open_close", Side::Near) => lives::accept(&connection, every(64)).await,
        ("open_close", Side::Far) => lives::open(&connection).await,
        ("idle_channel", side) => memory::idle(&connection, side, IDLE, false).await,
        ("idle_channel_used", side) => memory::idle(&connection, side, IDLE, true).await,
        (row, _) => Err(format!("{contender} has no part in {row}").into()),
    }
}

/// What a side returns whose other side has gone too early.
fn ended() -> Failure {
    io::Error::from(io::ErrorKind::UnexpectedEof).into()
}
