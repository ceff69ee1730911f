//! A pool of parsers: each in a process of its own, so that one that hangs, eats memory or crashes costs one file and nothing
//! else.
//!
//! ```text
//! cargo run -p farcall --example parsers *.json
//! ```

use std::path::PathBuf;
use std::time::Duration;

use farcall::local::{Options, PoolError, RunError};
use farcall::{BoxError, Plain, Tasks};
use serde::{Deserialize, Serialize};

/// What is told of a file.
#[derive(Serialize, Deserialize)]
struct Summary {
    lines: usize,
    longest: usize,
}

impl Plain for Summary {}

/// Runs in a worker of the pool. It blocks, so it is no `async fn`.
fn parse(path: PathBuf) -> Result<Summary, std::io::Error> {
    let text = std::fs::read_to_string(path)?;
    let longest = text.lines().map(str::len).max().unwrap_or_default();
    Ok(Summary { lines: text.lines().count(), longest })
}

fn main() -> Result<(), BoxError> {
    farcall::init(Tasks::new().add(parse));

    let files: Vec<PathBuf> = std::env::args_os().skip(1).map(PathBuf::from).collect();
    tokio::runtime::Runtime::new()?.block_on(async {
        let cores = std::thread::available_parallelism()?.get();
        let parsers = Options::new()
            .name("parser")
            .memory(256 << 20)
            .time_limit(Duration::from_secs(10))
            // What leaks in a parser ends with it.
            .max_calls(1000)
            .pool(cores);
        let calls: Vec<_> = files
            .into_iter()
            .map(|file| {
                let parsers = parsers.clone();
                tokio::spawn(async move { (file.clone(), parsers.call(parse, (file,)).await) })
            })
            .collect();
        for call in calls {
            let (file, parsed) = call.await?;
            let file = file.display();
            match parsed {
                Ok(Summary { lines, longest }) => {
                    println!("{file}: {lines} lines, the longest of {longest} bytes")
                }
                Err(PoolError::Run(RunError::TimedOut { .. })) => println!("{file}: takes too long"),
                // A failed allocation aborts, which is signal 6.
                Err(PoolError::Run(RunError::Killed { signal, .. })) => {
                    println!("{file}: signal {signal}")
                }
                Err(error) => println!("{file}: {error}"),
            }
        }
        parsers.close().await;
        Ok(())
    })
}
