//! A task with channels: lines go there as they are read, matches come back as they are found.
//!
//! ```text
//! cargo run -p farcall --example grep error ssh://user@host < big.log
//! ```

use farcall::{BoxError, Context, Gateway, Receiver, Sender, Spec, Tasks};
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncBufReadExt, BufReader};

/// A line that matches. It travels inside a channel.
#[derive(Serialize, Deserialize)]
struct Hit {
    number: u64,
    line: String,
}

/// Why a search ends early. It needs not be serde: its message and those of its sources cross the wire.
#[derive(Debug, thiserror::Error)]
enum GrepError {
    #[error("there is nothing to look for")]
    EmptyPattern,
    #[error("the lines cannot be read")]
    Lines(#[from] farcall::channel::RecvError),
    #[error("the hits cannot be sent")]
    Hits(#[from] farcall::channel::SendError),
}

/// Returns how many lines it saw. If nobody takes the hits, the lines wait too: nothing piles up anywhere.
async fn grep(
    _: Context,
    pattern: String,
    mut lines: Receiver<String>,
    hits: Sender<Hit>,
) -> Result<u64, GrepError> {
    if pattern.is_empty() {
        return Err(GrepError::EmptyPattern);
    }
    let mut number = 0;
    while let Some(line) = lines.recv().await? {
        number += 1;
        if line.contains(&pattern) {
            hits.send(Hit { number, line }).await?;
        }
    }
    Ok(number)
}

fn main() -> Result<(), BoxError> {
    farcall::init(Tasks::new().add(grep));

    let mut args = std::env::args().skip(1);
    let pattern = args.next().ok_or("usage: grep PATTERN [SPEC] < FILE")?;
    let spec: Spec = args.next().unwrap_or_else(|| "local".into()).parse()?;
    tokio::runtime::Runtime::new()?.block_on(async {
        let gateway = Gateway::open(&spec).await?;

        // Of each pair one end stays here, and one travels in the arguments.
        let (lines, their_lines) = gateway.pair();
        let (their_hits, mut hits) = gateway.pair();
        let search = gateway.start(grep, (pattern, their_lines, their_hits)).await?;

        let reading = tokio::spawn(async move {
            let mut input = BufReader::new(tokio::io::stdin()).lines();
            while let Some(line) = input.next_line().await? {
                lines.send(line).await?;
            }
            // Dropping the end tells the task that there are no more.
            Ok::<(), BoxError>(())
        });
        while let Some(Hit { number, line }) = hits.recv().await? {
            println!("{number}: {line}");
        }
        let seen = search.await?;
        reading.await??;
        eprintln!("{seen} lines");
        Ok(())
    })
}
