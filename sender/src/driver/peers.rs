//! What other senders of a channel advertise: heard, opened, verified, handed to the channel's task.

use std::net::SocketAddr;
use std::time::Duration;

use nackcast_common::ids::ChannelId;
use nackcast_common::keys::{EpochSecret, Flow, VerifyingKey};
use nackcast_common::net::GroupSocket;
use nackcast_proto::wire::Advertisement;
use nackcast_proto::wire::header::{self, DatagramType, Header};
use tokio::sync::mpsc;

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

/// What opens and verifies them.
#[derive(Debug)]
pub(crate) struct PeerListener {
    pub(crate) channel: ChannelId,
    pub(crate) secret: EpochSecret,
    pub(crate) publisher: VerifyingKey,
    /// Our own key: what it signed came back to us.
    pub(crate) own: VerifyingKey,
}

impl PeerListener {
    /// Listens as long as it is polled. What finds the queue full is lost: the next one says more.
    pub(crate) async fn run(self, mut socket: GroupSocket, queue: mpsc::Sender<HeardPeer>) {
        loop {
            let heard = socket.recv(|from, datagram| {
                if let Some(advertisement) = self.open(datagram) {
                    drop(queue.try_send(HeardPeer { from, advertisement }));
                }
            });
            if let Err(error) = heard.await {
                tracing::debug!(%error, "reading advertisements of other senders");
                tokio::time::sleep(ERROR_PAUSE).await;
            }
        }
    }

    fn open(&self, datagram: &mut [u8]) -> Option<Advertisement> {
        let head = Header::read(datagram).ok().filter(|head| head.datagram_type == DatagramType::Advertisement)?;
        let key = self.secret.flow_key(self.channel, head.session, Flow::Advertisement);
        let body = key.open_in_place(head.packet_number, header::LEN, datagram).ok()?;
        let advertisement = Advertisement::decode(body, &self.publisher, self.channel).ok()?;
        let is_other = advertisement.certificate.sender_key != self.own;
        (is_other && advertisement.session.0 == head.session).then_some(advertisement)
    }
}
