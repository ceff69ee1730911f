//! Work over workers: calls of a task that does nothing, and commands that do nothing.

use std::io::Write;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use farcall::{Gateway, Map, Spec};

use crate::Failure;
use crate::assignment::Assignment;
use crate::times::median;

/// The program that commands run.
const TRUE: &str = "/bin/true";

/// How many commands a contender that is a program starts in one go.
const COMMANDS: usize = 400;

/// The task.
pub(crate) async fn nothing(_: u64) {}

/// Calls or commands a second.
pub(crate) async fn run(assignment: &Assignment) -> Result<f64, Failure> {
    let length = assignment.length;
    match (assignment.row.as_str(), assignment.contender.as_str()) {
        ("map_tiny", "ours") => {
            let gateways = [Gateway::open(&Spec::local()).await?, Gateway::open(&Spec::local()).await?];
            rate(farcall::map(nothing, 0..).on(&gateways).slots(1).start()?, length).await
        }
        (_, "ours") => {
            let gateway = Gateway::open(&Spec::local()).await?;
            let inputs = std::iter::repeat_with(|| [""; 0]);
            rate(farcall::map_command(TRUE, inputs).on([gateway]).slots(2).start()?, length).await
        }
        (_, "xargs") => {
            median(length, async || commands(Command::new("xargs").args(["-P2", "-n1", TRUE]))).await
        }
        (_, _) => {
            median(length, async || commands(Command::new("parallel").args(["-j2", "-n1", TRUE]))).await
        }
    }
}

/// Takes results for a tenth of the length, then for the length; the rate of the latter.
async fn rate<V>(mut map: Map<V>, length: Duration) -> Result<f64, Failure> {
    let mut rate = 0.0;
    for length in [length / 10, length] {
        let began = Instant::now();
        let mut count = 0_u32;
        while began.elapsed() < length {
            for _ in 0..64 {
                let (_, result) = map.next().await.ok_or("there is no end of the inputs")?;
                result?;
            }
            count += 64;
        }
        rate = f64::from(count) / began.elapsed().as_secs_f64();
    }
    Ok(rate)
}

/// Runs a program that starts a command for each line of its input.
fn commands(program: &mut Command) -> Result<f64, Failure> {
    let began = Instant::now();
    let mut child = program.stdin(Stdio::piped()).spawn()?;
    let mut stdin = child.stdin.take().ok_or("stdin is piped")?;
    stdin.write_all("x\n".repeat(COMMANDS).as_bytes())?;
    drop(stdin);
    let status = child.wait()?;
    if !status.success() {
        return Err(format!("it ended with {status}").into());
    }
    Ok(COMMANDS as f64 / began.elapsed().as_secs_f64())
}
