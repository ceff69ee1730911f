//! A farm that survives `kill -9` of its workers: while it works, one of them is killed every half second. What they had is done by
//! others, new workers take their places, and every input has its result once.
//!
//! ```text
//! cargo run -p farcall --example farm
//! ```

use std::collections::BTreeSet;
use std::process::Command;
use std::time::{Duration, Instant};

use farcall::{BoxError, Gateway, Spec, Tasks};

/// Finds out whether a number is prime the long way; and says in which process.
fn is_prime(n: u64) -> (bool, u32) {
    std::thread::sleep(Duration::from_millis(20));
    (n > 1 && (2..n).take_while(|m| m * m <= n).all(|m| !n.is_multiple_of(m)), std::process::id())
}

fn main() -> Result<(), BoxError> {
    farcall::init(Tasks::new().add(is_prime));

    tokio::runtime::Runtime::new()?.block_on(async {
        let mut gateways = Vec::new();
        for _ in 0..4 {
            gateways.push(Gateway::open(&Spec::local()).await?);
        }
        let mut results =
            farcall::map(is_prime, 1..2001).on(&gateways).ordered().replace_lost(100).start()?;

        let mut events = results.progress();
        let telling = tokio::spawn(async move {
            while let Some(now) = events.next().await {
                eprint!(
                    "\r{} done, {:.0} a second, {} moved, {} workers replaced ",
                    now.done, now.rate, now.moved, now.replaced
                );
            }
            eprintln!();
        });

        let (mut primes, mut workers, mut killed) = (0, BTreeSet::new(), 0);
        let mut last = Instant::now();
        while let Some((_, result)) = results.next().await {
            let (prime, worker) = result?;
            primes += u32::from(prime);
            workers.insert(worker);
            if last.elapsed() > Duration::from_millis(500) {
                last = Instant::now();
                killed += 1;
                Command::new("kill").args(["-9", &worker.to_string()]).status()?;
            }
        }
        telling.await?;
        println!(
            "{primes} primes below 2001, found by {} workers, of which {killed} were killed",
            workers.len()
        );
        Ok(())
    })
}
