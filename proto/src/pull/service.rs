//! A server's side: what a connection says first is checked, and its requests are answered from a [`Shelf`].

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use nackcast_common::ids::{ChannelId, ObjectId};
use nackcast_common::keys::VerifyingKey;
use nackcast_common::net::quic;

use super::hello::Subject;
use super::join::{JoinRefusal, Joined};
use super::membership::{Greeted, Membership};
use super::request::{Block, Offer, ProbeReply, Request};
use crate::wire::Standing;

/// What a node has of a channel. Called on threads that may wait for a disk.
pub trait Shelf: Send + Sync {
    /// The manifest in force.
    fn manifest(&self) -> Option<Offer>;
    /// A block's bytes, verified; none when it is not here.
    fn block(&self, object: ObjectId, block: u32) -> Option<Bytes>;
    /// What a sender does; another one may ask, and says what that one does. None at a receiver.
    fn probe(&self, _asker: Option<Standing>) -> Option<Standing> {
        None
    }
    /// Somebody with this identity has no secret and wants to join. Only senders let anybody in.
    fn join(&self, _identity: &VerifyingKey) -> Joined {
        Joined::Refused(JoinRefusal::NotHere)
    }
}

/// Serves the channels of a node.
#[derive(Default)]
pub struct Service {
    channels: BTreeMap<ChannelId, (Arc<Membership>, Arc<dyn Shelf>)>,
}

impl std::fmt::Debug for Service {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_list().entries(self.channels.keys()).finish()
    }
}

impl Service {
    /// Serves a channel, too.
    pub fn add(&mut self, membership: Arc<Membership>, shelf: Arc<dyn Shelf>) {
        self.channels.insert(membership.channel(), (membership, shelf));
    }
}

impl quic::Service for Service {
    fn greet(
        &self,
        identity: &VerifyingKey,
        binding: &[u8; 32],
        hello: &[u8],
    ) -> Result<(Vec<u8>, Arc<dyn quic::Session>), String> {
        let channel = Subject::of(hello).map_err(|error| error.to_string())?.channel;
        let (membership, shelf) =
            self.channels.get(&channel).ok_or_else(|| format!("channel {channel} is not known here"))?;
        let (reply, greeted) = membership.greet(binding, hello).map_err(|error| error.to_string())?;
        let (membership, shelf) = (Arc::clone(membership), Arc::clone(shelf));
        Ok((reply, Arc::new(ChannelSession { greeted, identity: *identity, membership, shelf })))
    }
}

/// One connection, about one channel.
struct ChannelSession {
    greeted: Greeted,
    identity: VerifyingKey,
    membership: Arc<Membership>,
    shelf: Arc<dyn Shelf>,
}

impl quic::Session for ChannelSession {
    fn is_member(&self) -> bool {
        // An epoch may have ended since the greeting.
        matches!(self.greeted, Greeted::Member(..)) && self.membership.still_takes(&self.greeted)
    }

    fn answer(&self, request: &[u8]) -> Option<quic::Replies> {
        let one = |reply: Vec<u8>| -> quic::Replies { Box::new(std::iter::once(Bytes::from(reply))) };
        let request = Request::decode(request).ok()?;
        let Greeted::Member(peer, _) = Some(self.greeted).filter(|greeted| self.membership.still_takes(greeted))?
        else {
            return (request == Request::Join).then(|| one(self.shelf.join(&self.identity).encode()));
        };
        match request {
            Request::Manifest => Some(one(Offer::encode(self.shelf.manifest().as_ref()))),
            Request::Blocks { object, blocks } => {
                let shelf = Arc::clone(&self.shelf);
                let replies = blocks.filter_map(move |block| {
                    let data = shelf.block(object, block)?;
                    Some(Block { block, data }.encode().into())
                });
                Some(Box::new(replies))
            }
            Request::Probe { asker } => {
                if asker.is_some_and(|asker| !peer.is(&asker)) {
                    return None;
                }
                Some(one(ProbeReply { standing: self.shelf.probe(asker) }.encode()))
            }
            // Who holds a secret asks for the next on a connection without one, as everybody.
            Request::Join => None,
        }
    }
}
