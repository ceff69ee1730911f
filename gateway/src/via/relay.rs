//! The coordinator's half of a process at a hub: its streams, its end, its kill switch.

use std::io;
use std::sync::Arc;

use bytes::Bytes;
use farcall_bootstrap::artifact::Artifact;
use farcall_bootstrap::hub::Later;
use farcall_bootstrap::{Exit, Hub, HubError, HubProcess, HubStart, HubStarted};
use farcall_channel::{Channel, Raw, Receiver, RecvError, Sender};
use tokio::sync::{mpsc, watch};

use crate::gateway::Gateway;
use crate::wire::{ExitReport, RelayOrder, RelayPlan, RelayReport, Request};

/// A gateway as what processes are started by.
pub(super) struct Relay(pub(super) Gateway);

/// The hub gave up without a word.
#[derive(Debug, thiserror::Error)]
#[error("it is ending")]
struct NoReport;

/// The hub refused.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
struct Refusal(String);

impl Hub for Relay {
    fn name(&self) -> &str {
        self.0.id()
    }

    fn image(&self) -> Option<&Artifact> {
        self.0.inner().image.as_ref()
    }

    fn start(&self, start: HubStart) -> Later<'_, Result<HubStarted, HubError>> {
        Box::pin(self.begin(start))
    }
}

impl Relay {
    async fn begin(&self, start: HubStart) -> Result<HubStarted, HubError> {
        let refused = |source| HubError::Refused { hub: self.0.id().to_owned(), source };
        let inner = self.0.inner();
        let connection = &inner.connection;
        let (stdin, their_stdin) = connection.pair_with::<Bytes, Raw>();
        let (their_stdout, stdout) = connection.pair_with::<Bytes, Raw>();
        let (their_stderr, stderr) = connection.pair_with::<Bytes, Raw>();
        let program = start.program.as_ref().map(|program| program.to_string_lossy().into_owned());
        let plan = RelayPlan {
            program: start.program,
            arg0: start.argv0,
            args: start.args,
            env: start.env.into_iter().map(|(name, value)| (name.into(), value)).collect(),
            directory: start.chdir.map(Into::into),
            nice: start.nice,
            memory: start.memory,
            stdin: their_stdin,
            stdout: their_stdout,
            stderr: their_stderr,
        };
        let channel = connection.open(Request::Relay.to_bytes()).await;
        let channel: Channel<RelayOrder, RelayReport> = channel.map_err(|error| refused(error.into()))?;
        let (orders, mut reports) = channel.split();
        orders.send(RelayOrder::Start(Box::new(plan))).await.map_err(|error| refused(error.into()))?;
        match reports.recv().await {
            Ok(Some(RelayReport::Started { .. })) => {}
            Ok(Some(RelayReport::NotStarted { step, code, message })) => {
                let source = match code {
                    Some(code) => io::Error::from_raw_os_error(code),
                    None => io::Error::other(message),
                };
                let program = program.unwrap_or_else(|| "its own program".into());
                return Err(HubError::Start { hub: self.0.id().to_owned(), program, step, source });
            }
            Ok(Some(_) | None) => return Err(refused(NoReport.into())),
            Err(RecvError::Remote(reason)) => {
                return Err(refused(Refusal(reason.text().into_owned()).into()));
            }
            Err(error) => return Err(refused(error.into())),
        }
        let (tell_exit, exit) = watch::channel(None);
        let (tell_fed, fed) = mpsc::channel(1);
        // Ends with the process, or with the hub.
        inner.driver.spawn(listen(reports, tell_exit, tell_fed));
        Ok(HubStarted {
            reader: Box::new(stdout.into_reader()),
            writer: Box::new(stdin.into_writer()),
            stderr: Box::new(stderr.into_reader()),
            process: Arc::new(AtHub { orders, exit, fed: tokio::sync::Mutex::new(fed) }),
        })
    }
}

/// Hands on what the hub reports.
async fn listen(
    mut reports: Receiver<RelayReport>,
    exit: watch::Sender<Option<Exit>>,
    fed: mpsc::Sender<bool>,
) {
    loop {
        let end = match reports.recv().await {
            Ok(Some(RelayReport::Fed { written })) => {
                // One that was not asked for is of no importance.
                let _ = fed.try_send(written);
                continue;
            }
            Ok(Some(RelayReport::Ended { status: ExitReport::Code(code) })) => Exit::Code(code),
            Ok(Some(RelayReport::Ended { status: ExitReport::Signal(signal) })) => Exit::Signal(signal),
            Ok(Some(_) | None) | Err(_) => Exit::Unknown,
        };
        exit.send_replace(Some(end));
        return;
    }
}

/// A process at a hub. Dropping it ends the orders, at which the hub kills the process.
struct AtHub {
    orders: Sender<RelayOrder>,
    exit: watch::Receiver<Option<Exit>>,
    fed: tokio::sync::Mutex<mpsc::Receiver<bool>>,
}

impl HubProcess for AtHub {
    fn exit(&self) -> Later<'_, Exit> {
        let mut exit = self.exit.clone();
        Box::pin(async move {
            let known = exit.wait_for(Option::is_some).await;
            known.ok().and_then(|exit| *exit).unwrap_or(Exit::Unknown)
        })
    }

    fn kill(&self) {
        // There is room: at most three orders are ever sent. One that has ended takes none.
        let _ = self.orders.try_send(RelayOrder::Kill);
    }

    fn feed(&self, length: u64) -> Later<'_, io::Result<bool>> {
        Box::pin(async move {
            let mut fed = self.fed.lock().await;
            self.orders.send(RelayOrder::Feed { length }).await.map_err(io::Error::other)?;
            fed.recv().await.ok_or_else(|| io::ErrorKind::BrokenPipe.into())
        })
    }
}
