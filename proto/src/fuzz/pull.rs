//! Messages of the unicast pull: the first byte says which, the rest is the message.

use bytes::Bytes;
use nackcast_common::geometry::Geometry;
use nackcast_common::ids::{Digest, Epoch, Generation, ObjectId, SessionId, StartNumber};
use nackcast_common::keys::{EpochSecret, Side};
use prost::Message;

use super::{CHANNEL, certificate, publisher, sender};
use crate::pb;
use crate::pull::hello::channel_of;
use crate::pull::{Block, Member, Offer, Peer, ProbeReply, Request};
use crate::wire::{ManifestRef, Role, SenderState, Standing};

const BINDING: [u8; 32] = [9; 32];

fn member() -> Member {
    Member {
        channel: CHANNEL,
        epoch: Epoch(1),
        secret: EpochSecret([5; 32]),
        publisher: publisher().verifying_key(),
        sender: Some((certificate(), sender())),
    }
}

/// One message of the pull.
pub fn pull(input: &[u8]) {
    let Some((kind, bytes)) = input.split_first() else { return };
    let whole = Bytes::copy_from_slice(bytes);
    match kind % 5 {
        0 => hello(bytes),
        1 => {
            if let Ok(request) = Request::decode(bytes) {
                assert_eq!(Request::decode(&request.encode()), Ok(request), "a request comes back as it was");
            }
        }
        2 => {
            if let Ok(offer) = Offer::decode(whole) {
                let again = Offer::encode(offer.as_ref());
                assert_eq!(Offer::decode(again.into()), Ok(offer), "a manifest comes back as it was");
            }
        }
        3 => {
            if let Ok(block) = Block::decode(whole) {
                assert_eq!(Block::decode(block.clone().encode().into()), Ok(block), "a block comes back as it was");
            }
        }
        _ => {
            let peer = Peer { channel: CHANNEL, sender: Some(sender().verifying_key()) };
            if let Ok(reply) = ProbeReply::decode(bytes, &peer) {
                assert_eq!(ProbeReply::decode(&reply.encode(), &peer), Ok(reply), "a reply comes back as it was");
                assert!(
                    reply.standing.is_none_or(|standing| standing.certificate.sender_key == sender().verifying_key())
                );
            }
        }
    }
}

/// As it came, and with a proof that is right, so that mutated bytes reach what is behind it.
fn hello(bytes: &[u8]) {
    let _named = channel_of(bytes).is_ok();
    let _as_it_came = member().check(Side::Client, &BINDING, bytes).is_ok();
    let Ok(mut message) = pb::Hello::decode(bytes) else { return };
    message.channel = CHANNEL.0.to_vec().into();
    message.epoch = 1;
    message.proof = member().secret.prove(CHANNEL, Side::Client, &BINDING).0.to_vec().into();
    let claims = message.sender.is_some();
    let peer = member().check(Side::Client, &BINDING, &message.encode_to_vec());
    assert!(
        peer.is_err() || claims == peer.is_ok_and(|peer| peer.sender.is_some()),
        "a sender is what proved to be one"
    );
}

/// A message of each kind.
pub(super) fn seeds() -> Vec<Vec<u8>> {
    let of = |kind: u8, message: Vec<u8>| [&[kind], &message[..]].concat();
    let root = Bytes::from_static(b"root");
    let reference = ManifestRef { hash: Digest::of(&root), length: 4, geometry: Geometry::default() };
    let offer = Offer { generation: Generation(4), reference, root };
    let standing = Standing {
        channel: CHANNEL,
        session: SessionId(3),
        start_number: StartNumber(1_700_000_000_000),
        certificate: certificate(),
        role: Role::Backup,
        rank: 1,
        state: SenderState::Standby,
        can_read: true,
        can_send: true,
        sequence: 9,
        time: 123_456,
    };
    vec![
        of(0, member().hello(Side::Client, &BINDING)),
        of(0, Member { sender: None, ..member() }.hello(Side::Client, &BINDING)),
        of(1, Request::Blocks { object: ObjectId(7), blocks: 3..9 }.encode()),
        of(1, Request::Manifest.encode()),
        of(2, Offer::encode(Some(&offer))),
        of(3, Block { block: 3, data: Bytes::from_static(&[7; 40]) }.encode()),
        of(1, Request::Probe { asker: None }.encode()),
        of(1, Request::Probe { asker: Some(standing) }.encode()),
        of(4, ProbeReply { standing: Some(standing) }.encode()),
    ]
}
