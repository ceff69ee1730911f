//! An administrator's script: how full are the disks of these hosts? All at once, each with its own way to fail.
//!
//! ```text
//! cargo run -p farcall --example disks ssh://web1 ssh://web2 ssh://db1?nice=10
//! ```

use farcall::{BoxError, Gateway, Spec, Tasks};

/// The part of the work that is done there; only what is worth telling comes back.
fn full_disks(limit: u8) -> Result<Vec<(String, u8)>, BoxError> {
    let df = std::process::Command::new("df").arg("-P").output()?;
    let text = String::from_utf8_lossy(&df.stdout).into_owned();
    let rows = text.lines().skip(1).filter_map(|row| {
        let mut fields = row.split_whitespace();
        let used = fields.nth(4)?.trim_end_matches('%').parse().ok()?;
        Some((fields.next()?.to_owned(), used))
    });
    Ok(rows.filter(|(_, used)| *used >= limit).collect())
}

async fn check(spec: Spec) -> Result<Vec<(String, u8)>, BoxError> {
    let gateway = Gateway::open(&spec).await?;
    let mut full = gateway.call(full_disks, (80,)).await?;
    // Commands run without any task.
    let uptime = gateway.command("uptime").output().await?;
    if full.is_empty() && !uptime.status.success() {
        full.push(("uptime failed".into(), 0));
    }
    Ok(full)
}

fn main() -> Result<(), BoxError> {
    farcall::init(Tasks::new().add(full_disks));

    let specs =
        std::env::args().skip(1).map(|text| Spec::parse_all(&text)).collect::<Result<Vec<_>, _>>()?.concat();
    tokio::runtime::Runtime::new()?.block_on(async {
        let checks: Vec<_> =
            specs.into_iter().map(|spec| (spec.to_string(), tokio::spawn(check(spec)))).collect();
        for (host, check) in checks {
            match check.await? {
                Ok(full) if full.is_empty() => println!("{host}: fine"),
                Ok(full) => full.iter().for_each(|(disk, used)| println!("{host}: {disk} is {used} % full")),
                // Which host, at which step, why, and what to do about it.
                Err(error) => println!("{error}"),
            }
        }
        Ok(())
    })
}
