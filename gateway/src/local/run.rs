//! One function in a fresh process.

use super::child::{Child, prepare, value_in};
use super::error::RunError;
use super::options::Options;
use crate::task::Task;

pub(super) async fn run<F: Task<M>, M>(
    options: &Options,
    task: F,
    args: F::Args,
) -> Result<F::Value, RunError> {
    let mut call = prepare(task, args)?;
    #[cfg(target_os = "linux")]
    if !F::HAS_CONTEXT
        && let Some(process) = super::once::Once::start(options, &mut call)?
        && let Some(received) = process.outcome(options).await?
    {
        return value_in(received);
    }
    let mut child = Child::start(options, Some(&mut call)).await?;
    match child.exchange_within(&mut call, options.time_limit).await? {
        Ok(received) => {
            let value = value_in(received);
            child.end().await;
            value
        }
        Err(gone) => Err(child.explain(gone).await),
    }
}
