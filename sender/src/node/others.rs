//! Opens what other senders of a channel advertise: what is not theirs costs one look or one try to open.

use nackcast_common::epochs::Epochs;
use nackcast_common::keys::{Flow, VerifyingKey};
use nackcast_proto::wire::Advertisement;
use nackcast_proto::wire::header::{self, DatagramType, Header};

/// What opens and verifies them; for [`super::SenderNode::handle_advertisement`].
#[derive(Clone, Debug)]
pub struct AdvertisementOpener {
    /// Open them; of which epoch does not matter, their senders are certified.
    pub epochs: Epochs,
    /// Who certifies senders.
    pub publisher: VerifyingKey,
    /// Our own key: what it signed came back to us.
    pub own: VerifyingKey,
}

impl AdvertisementOpener {
    /// An advertisement of another sender, verified. The datagram's bytes are worth nothing afterwards.
    #[must_use]
    pub fn open(&mut self, datagram: &mut [u8]) -> Option<Advertisement> {
        let head = Header::read(datagram).ok().filter(|head| head.datagram_type == DatagramType::Advertisement)?;
        let (epoch, secret) = self.epochs.by_low(head.epoch_low)?;
        let channel = self.epochs.channel();
        let key = secret.flow_key(channel, head.session, Flow::Advertisement);
        let body = key.open_in_place(head.packet_number, header::LEN, datagram).ok()?;
        let advertisement = Advertisement::decode(body, &self.publisher, channel).ok()?;
        self.epochs.heard(epoch);
        let is_other = advertisement.certificate.sender_key != self.own;
        (is_other && advertisement.session.0 == head.session).then_some(advertisement)
    }
}
