//! Either side of one measurement of another crate's channels, set up exactly as the benchmark sets up ours.

// The same files that the benchmark itself is made of, so that nobody is measured differently.
#[path = "../../channel/meter.rs"]
mod meter;
#[path = "../../channel/pair.rs"]
mod pair;
#[path = "../../channel/payload.rs"]
mod payload;

mod over_remoc;
mod over_tarpc;

use std::error::Error;
use std::io;
use std::process::ExitCode;

use tokio::net::unix::pipe::{Receiver, Sender};

use pair::{Assignment, Ends, Side};

/// What goes wrong in a measurement is printed, whatever it is.
type Failure = Box<dyn Error + Send + Sync>;

fn main() -> ExitCode {
    let Some(assignment) = Assignment::from_args(std::env::args().skip(1)) else {
        eprintln!("this program is started by `cargo bench -p farcall-channel`");
        return ExitCode::from(2);
    };
    match (assignment.side, take_part(&assignment)) {
        (Side::Near, Ok(number)) => println!("{number}"),
        (Side::Near, Err(error)) => {
            eprintln!("{}: {}: {error}", assignment.contender, assignment.row);
            return ExitCode::FAILURE;
        }
        // The near side leaves when it has its number, so the far side's pipes break: that is how it ends.
        (Side::Far, _) => {}
    }
    ExitCode::SUCCESS
}

fn take_part(assignment: &Assignment) -> Result<f64, Failure> {
    let Ends { reader, writer, far } = assignment.start()?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let measured = runtime.block_on(async {
        let (reader, writer) = (Receiver::from_owned_fd(reader)?, Sender::from_owned_fd(writer)?);
        match assignment.contender.as_str() {
            "remoc" => over_remoc::run(assignment, reader, writer).await,
            "tarpc" => over_tarpc::run(assignment, reader, writer).await,
            other => Err(format!("no contender `{other}`").into()),
        }
    });
    drop(far);
    measured
}

/// What a side returns whose other side has gone too early.
fn ended() -> Failure {
    io::Error::from(io::ErrorKind::UnexpectedEof).into()
}
