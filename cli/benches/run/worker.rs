//! The worker that the program ships: what it weighs on the way, and what it takes while it is idle.

use farcall::{CommandTarget, Delivery, Gateway, Program, Spec};

use crate::Failure;
use crate::assignment::Assignment;

/// The lean twin, as built beside the program.
fn program() -> Program {
    Program::at(env!("CARGO_BIN_EXE_farcall-worker"))
}

/// Bytes that a first delivery sends to a shell.
pub(crate) async fn size(assignment: &Assignment) -> Result<f64, Failure> {
    let cache = assignment.home.join("size");
    if cache.exists() {
        std::fs::remove_dir_all(&cache)?;
    }
    std::fs::create_dir(&cache)?;
    let place = format!("XDG_CACHE_HOME={}", cache.display());
    let shell = CommandTarget::new("env").args([&*place, "sh", "-c"]).as_line();
    let gateway = Gateway::builder(Spec::command(shell)).program(program()).open().await?;
    match gateway.delivery() {
        Delivery::Sent { bytes, .. } => Ok(bytes as f64),
        other => Err(format!("the worker came there as {other:?}").into()),
    }
}

/// Bytes of resident memory of a worker that has nothing to do.
pub(crate) async fn resident() -> Result<f64, Failure> {
    let gateway = Gateway::builder(Spec::local()).program(program()).open().await?;
    let resident = gateway.info().await?.resident.ok_or("the system does not tell")?;
    Ok(resident as f64)
}
