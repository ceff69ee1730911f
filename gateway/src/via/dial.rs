//! The coordinator's half of a connection that a hub makes.

use std::error::Error;
use std::sync::{Arc, Weak};

use bytes::Bytes;
use farcall_bootstrap::hub::Later;
use farcall_bootstrap::ssh::{DialFailure, Dialed, Dialer, Family};
use farcall_channel::{Channel, Raw};

use crate::gateway::{Gateway, Inner};
use crate::wire::{DialFamily, DialOrder, DialReport, Request};

/// Makes connections from a hub's host. Does not keep the hub alive: its leaves do.
pub(super) struct FromHub {
    hub: Weak<Inner>,
    name: String,
}

/// What the hub says.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
struct Said(String);

/// The hub is gone.
#[derive(Debug, thiserror::Error)]
#[error("the hub {hub} makes no connection: it has ended")]
struct Gone {
    hub: String,
}

impl FromHub {
    pub(super) fn new(hub: &Gateway) -> FromHub {
        FromHub { hub: Arc::downgrade(hub.inner()), name: hub.id().to_owned() }
    }

    async fn connect(&self, host: String, port: u16, family: Family) -> Result<Dialed, DialFailure> {
        let gone = || DialFailure::Lost(Gone { hub: self.name.clone() }.into());
        let lost = |error: Box<dyn Error + Send + Sync>| DialFailure::Lost(error);
        let connection = &self.hub.upgrade().ok_or_else(gone)?.connection;
        let (writer, input) = connection.pair_with::<Bytes, Raw>();
        let (output, reader) = connection.pair_with::<Bytes, Raw>();
        let channel = connection.open(Request::Dial.to_bytes()).await.map_err(|error| lost(error.into()))?;
        let mut channel: Channel<DialOrder, DialReport> = channel;
        let family = match family {
            Family::Any => DialFamily::Any,
            Family::V4 => DialFamily::V4,
            Family::V6 => DialFamily::V6,
        };
        let order = DialOrder { host, port, family, input, output };
        channel.send(order).await.map_err(|error| lost(error.into()))?;
        match channel.recv().await {
            Ok(Some(DialReport::Connected)) => {
                Ok(Dialed { reader: Box::new(reader.into_reader()), writer: Box::new(writer.into_writer()) })
            }
            Ok(Some(DialReport::Unresolved(reason))) => Err(DialFailure::Resolve(Said(reason).into())),
            Ok(Some(DialReport::Unreached(reason))) => Err(DialFailure::Connect(Said(reason).into())),
            Ok(None) => Err(gone()),
            Err(error) => Err(lost(error.into())),
        }
    }
}

impl Dialer for FromHub {
    fn name(&self) -> &str {
        &self.name
    }

    fn dial(&self, host: &str, port: u16, family: Family) -> Later<'_, Result<Dialed, DialFailure>> {
        Box::pin(self.connect(host.to_owned(), port, family))
    }
}
