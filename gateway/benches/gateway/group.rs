//! Many local gateways: the start of a thousand, and what eight do where one does its share.

use std::io::Read;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use farcall::{Gateway, Group, Spec};

use crate::Failure;
use crate::assignment::Assignment;
use crate::starts::{REPLY, nothing};
use crate::times::milliseconds;

/// How many are started.
const MANY: usize = 1000;

/// Milliseconds from nothing to a thousand workers that have all answered.
pub(crate) async fn start(assignment: &Assignment) -> Result<f64, Failure> {
    // Each takes several; the usual limit is 1,024.
    farcall::worker::limits::raise_descriptors()?;
    match assignment.contender.as_str() {
        "exec" => fork_and_exec(),
        _ => group().await,
    }
}

async fn group() -> Result<f64, Failure> {
    let began = Instant::now();
    let mut group = Group::open(vec![Spec::local(); MANY]).await?;
    let answers = group.call(nothing, ()).await?;
    let time = milliseconds(began);
    if answers.len() != MANY {
        return Err(format!("{} of {MANY} answered", answers.len()).into());
    }
    group.terminate(Duration::from_secs(20)).await?;
    Ok(time)
}

/// The same program started by hand: all are there at the same time, and each has sent one byte of reply.
fn fork_and_exec() -> Result<f64, Failure> {
    let program = std::env::current_exe()?;
    let began = Instant::now();
    let mut children = Vec::with_capacity(MANY);
    for _ in 0..MANY {
        let mut command = Command::new(&program);
        children.push(command.arg(REPLY).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?);
    }
    for child in &mut children {
        child.stdout.take().ok_or("stdout is piped")?.read_exact(&mut [0])?;
    }
    let time = milliseconds(began);
    children.iter_mut().for_each(|child| drop(child.stdin.take()));
    children.iter_mut().try_for_each(|child: &mut Child| child.wait().map(drop))?;
    Ok(time)
}

/// How long a task takes.
const TASK: Duration = Duration::from_millis(10);

/// How many gateways share the work.
const GATEWAYS: u32 = 8;

/// Calls that a gateway has at once: one that runs, and one so that the slot is never without work.
const CALLS: u32 = 2;

/// A task that blocks its thread.
pub(crate) fn sleep() {
    std::thread::sleep(TASK);
}

/// What eight gateways do in a time, by eight times what one does.
pub(crate) async fn scaling(assignment: &Assignment) -> Result<f64, Failure> {
    let one = rate(1, assignment.length).await?;
    let many = rate(GATEWAYS, assignment.length).await?;
    Ok(many / (f64::from(GATEWAYS) * one))
}

/// Tasks a second on so many gateways.
async fn rate(gateways: u32, length: Duration) -> Result<f64, Failure> {
    let each = u32::try_from(length.as_millis() / TASK.as_millis())?.max(10);
    let group = Group::open(vec![Spec::local().max_tasks(1); gateways as usize]).await?;
    group.call(sleep, ()).await?;
    let began = Instant::now();
    let callers: Vec<_> = group
        .iter()
        .flat_map(|gateway| (0..CALLS).map(move |_| tokio::spawn(call(gateway.clone(), each / CALLS))))
        .collect();
    for caller in callers {
        caller.await??;
    }
    let tasks = gateways * CALLS * (each / CALLS);
    Ok(f64::from(tasks) / began.elapsed().as_secs_f64())
}

async fn call(gateway: Gateway, times: u32) -> Result<(), Failure> {
    for _ in 0..times {
        gateway.call(sleep, ()).await?;
    }
    Ok(())
}
