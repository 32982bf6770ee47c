//! What other senders of a channel advertise: heard, opened, verified, handed to the channel's task.

use std::net::SocketAddr;
use std::time::Duration;

use nackcast_common::net::GroupSocket;
use nackcast_proto::wire::Advertisement;
use tokio::sync::mpsc;

use crate::node::AdvertisementOpener;

/// Advertisements that wait for a channel's task.
pub(crate) const QUEUE_LEN: usize = 64;
/// After an error of the socket, so that one that lasts does not spin.
const ERROR_PAUSE: Duration = Duration::from_millis(100);

/// A verified advertisement of another sender.
#[derive(Debug)]
pub(crate) struct HeardPeer {
    pub(crate) from: SocketAddr,
    pub(crate) advertisement: Advertisement,
}

/// Listens as long as it is polled. What finds the queue full is lost: the next one says more.
pub(crate) async fn listen(mut socket: GroupSocket, mut opener: AdvertisementOpener, queue: mpsc::Sender<HeardPeer>) {
    loop {
        let heard = socket.recv(|arrival, datagram| {
            if let Some(advertisement) = opener.open(datagram) {
                drop(queue.try_send(HeardPeer { from: arrival.from, advertisement }));
            }
        });
        if let Err(error) = heard.await {
            tracing::debug!(%error, "reading advertisements of other senders");
            tokio::time::sleep(ERROR_PAUSE).await;
        }
    }
}
