//! Opening a channel so that one which nobody takes is closed.
//!
//! A server that was asked for a channel opens it whether or not anybody still waits, and it counts: a default sshd allows ten.

use russh::client::Msg;
use russh::{Channel, Error};
use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;

/// A channel that is closed unless somebody claims it.
pub(crate) struct Unclaimed(Option<Channel<Msg>>);

impl Unclaimed {
    pub(crate) fn channel(&self) -> &Channel<Msg> {
        self.0.as_ref().expect("a channel is taken by a claim, which takes this too, or by drop")
    }

    pub(crate) fn claim(mut self) -> Channel<Msg> {
        self.0.take().expect("a channel is taken by a claim, which takes this too, or by drop")
    }
}

impl Drop for Unclaimed {
    fn drop(&mut self) {
        let (Some(channel), Ok(runtime)) = (self.0.take(), tokio::runtime::Handle::try_current()) else {
            return;
        };
        // Ends when the close is sent, or with the session. With the channel, whatever comes on it goes away too.
        runtime.spawn(async move {
            let _ = channel.close().await;
        });
    }
}

/// Waits for `opening`, whose answer is seen to even if this is dropped, unless `left` is cancelled first: then nobody uses
/// the connection any more, and its end is the channel's.
pub(crate) async fn open(
    opening: impl Future<Output = Result<Channel<Msg>, Error>> + Send + 'static,
    left: CancellationToken,
) -> Result<Unclaimed, Error> {
    let (give, take) = oneshot::channel();
    // Ends with the server's answer, or with the last user of the connection.
    tokio::spawn(async move {
        tokio::select! {
            opened = opening => drop(give.send(opened.map(|channel| Unclaimed(Some(channel))))),
            () = left.cancelled() => {}
        }
    });
    take.await.unwrap_or(Err(Error::Disconnect))
}
