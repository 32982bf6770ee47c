//! What the tests of this crate share: a sender's side of a channel, made of codecs and keys only.

use std::time::Duration;

use nackcast_common::clock::Time;
use nackcast_common::ids::{ChannelId, Epoch, Generation, SessionId, StartNumber};
use nackcast_common::keys::SigningKey;
use nackcast_proto::wire::{Advertisement, Role, SenderCertificate, SenderState};

pub(crate) const CHANNEL: ChannelId = ChannelId([9; 16]);
pub(crate) const SESSION: SessionId = SessionId(77);

pub(crate) fn publisher() -> SigningKey {
    SigningKey::from_seed([1; 32])
}

/// Signs what the sender sends.
pub(crate) fn sender_key() -> SigningKey {
    SigningKey::from_seed([2; 32])
}

/// An active primary whose first pass is over, with no manifest to offer.
pub(crate) fn advertisement(now: Time, sequence: u64, data_packets: u64) -> Advertisement {
    Advertisement {
        channel: CHANNEL,
        session: SESSION,
        epoch: Epoch(1),
        sequence,
        start_number: StartNumber(1),
        time: now.0,
        interval: Duration::from_millis(250),
        generation: Generation(1),
        manifest: None,
        certificate: SenderCertificate::issue(&publisher(), CHANNEL, sender_key().verifying_key()),
        role: Role::Primary,
        state: SenderState::Active,
        data_group: "239.1.1.1:7601".parse().unwrap(),
        nack_port: 7701,
        quic_port: 0,
        grtt: Duration::from_millis(10),
        nack_window: Duration::from_millis(60),
        group_size: 1,
        max_passes: 16,
        rate_bps: 0,
        first_pass_cursor: u32::MAX,
        first_pass_since: Generation(1),
        finished: Vec::new(),
        data_packets,
        manifest_sent: true,
        list: 0,
        rank: 0,
        wall_ms: 0,
        next_epoch: None,
        reading_every: Duration::ZERO,
    }
}
