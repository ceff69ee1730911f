//! Child processes: one function in a fresh one, and calls of one that is there.

use std::io::{Read, Write};
use std::process::{Child, ChildStdin, ChildStdout, Command, ExitCode, Stdio};
use std::time::{Duration, Instant};

use farcall::local::{self, Pool};

use crate::Failure;
use crate::assignment::Assignment;
use crate::starts::{REPLY, nothing};
use crate::times::{median, milliseconds};

/// The argument that makes this program send back what it reads.
pub(crate) const ECHO: &str = "echo";

/// The bytes that go there and back.
const SMALL: usize = 64;

/// Milliseconds of one function in a fresh process, from nothing to nothing.
pub(crate) async fn run(assignment: &Assignment) -> Result<f64, Failure> {
    let once = async || match assignment.contender.as_str() {
        "exec" => fork_and_exec(),
        _ => {
            let began = Instant::now();
            local::run(nothing, ()).await?;
            Ok(milliseconds(began))
        }
    };
    median(assignment.length, once).await
}

/// The same program started by hand: one byte of reply, and its end.
fn fork_and_exec() -> Result<f64, Failure> {
    let program = std::env::current_exe()?;
    let began = Instant::now();
    let mut child = Command::new(program).arg(REPLY).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
    child.stdout.take().ok_or("stdout is piped")?.read_exact(&mut [0])?;
    drop(child.stdin.take());
    child.wait()?;
    Ok(milliseconds(began))
}

/// Microseconds of a round trip: a call of a warm worker, or bytes through two pipes.
pub(crate) async fn call(assignment: &Assignment) -> Result<f64, Failure> {
    if assignment.contender == "raw" {
        let mut echo = Echo::start()?;
        let number = per_event(assignment.length, async || echo.round_trip()).await;
        echo.end()?;
        return number;
    }
    let pool = Pool::new(1);
    let number = per_event(assignment.length, async || Ok(pool.call(nothing, ()).await?)).await;
    pool.close().await;
    number
}

/// The mean over about `length`, in microseconds; a tenth of that before it counts.
async fn per_event(
    length: Duration,
    mut event: impl AsyncFnMut() -> Result<(), Failure>,
) -> Result<f64, Failure> {
    let warm = Instant::now();
    while warm.elapsed() < length / 10 {
        event().await?;
    }
    let (began, mut events) = (Instant::now(), 0_u32);
    while began.elapsed() < length {
        for _ in 0..64 {
            event().await?;
        }
        events += 64;
    }
    Ok(began.elapsed().as_secs_f64() * 1e6 / f64::from(events))
}

/// This program as the far end of two pipes.
struct Echo {
    child: Child,
    to: ChildStdin,
    from: ChildStdout,
}

impl Echo {
    fn start() -> Result<Self, Failure> {
        let mut command = Command::new(std::env::current_exe()?);
        let mut child = command.arg(ECHO).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
        let to = child.stdin.take().ok_or("stdin is piped")?;
        let from = child.stdout.take().ok_or("stdout is piped")?;
        Ok(Self { child, to, from })
    }

    fn round_trip(&mut self) -> Result<(), Failure> {
        let mut bytes = [7; SMALL];
        self.to.write_all(&bytes)?;
        Ok(self.from.read_exact(&mut bytes)?)
    }

    fn end(mut self) -> Result<(), Failure> {
        drop(self.to);
        self.child.wait()?;
        Ok(())
    }
}

/// The other half of [`Echo`]. Nothing of the library buffers in between.
pub(crate) fn echo() -> ExitCode {
    let (input, output) = (rustix::stdio::stdin(), rustix::stdio::stdout());
    let mut bytes = [0; SMALL];
    loop {
        match rustix::io::read(input, &mut bytes) {
            Ok(0) => return ExitCode::SUCCESS,
            // So few bytes come and go at once.
            Ok(count) if rustix::io::write(output, &bytes[..count]).is_ok() => {}
            _ => return ExitCode::FAILURE,
        }
    }
}
