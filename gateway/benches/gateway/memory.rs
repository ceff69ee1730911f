//! What an idle gateway over SSH costs its coordinator.

use std::fs;

use farcall::Gateway;

use crate::Failure;
use crate::assignment::Assignment;
use crate::rows::SERVERS;
use crate::starts::{nothing, remote};

/// Gateways that are opened before measuring begins: what they cost is what all share, the program's own pages above all.
const FIRST: usize = 8;

/// Gateways whose memory is measured, spread over the servers.
const MORE: usize = 2 * SERVERS;

/// Bytes of resident memory for each gateway.
pub(crate) async fn run(assignment: &Assignment) -> Result<f64, Failure> {
    let mut gateways = open(assignment, FIRST).await?;
    let before = resident()?;
    gateways.extend(open(assignment, MORE).await?);
    let after = resident()?;
    // All must be there still: a gateway that has ended costs nothing.
    for gateway in &gateways {
        gateway.call(nothing, ()).await?;
    }
    Ok(after.saturating_sub(before) as f64 / MORE as f64)
}

async fn open(assignment: &Assignment, count: usize) -> Result<Vec<Gateway>, Failure> {
    let opening: Vec<_> = (0..count)
        .map(|n| {
            let spec = remote(&assignment.home, n % SERVERS);
            tokio::spawn(async move {
                let gateway = Gateway::open(&spec).await?;
                gateway.call(nothing, ()).await?;
                Ok::<_, Failure>(gateway)
            })
        })
        .collect();
    let mut gateways = Vec::with_capacity(count);
    for gateway in opening {
        gateways.push(gateway.await??);
    }
    Ok(gateways)
}

/// This process's resident memory in bytes.
fn resident() -> Result<u64, Failure> {
    let status = fs::read_to_string("/proc/self/status")?;
    let line =
        status.lines().find_map(|line| line.strip_prefix("VmRSS:")).ok_or("the system does not tell")?;
    let kibibytes: u64 = line.trim().trim_end_matches(" kB").parse()?;
    Ok(kibibytes << 10)
}
