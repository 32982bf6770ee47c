//! A server's side: what a connection says first is checked, and its requests are answered from a [`Shelf`].

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use nackcast_common::ids::{ChannelId, ObjectId};
use nackcast_common::keys::Side;
use nackcast_common::net::quic;

use super::hello::{Member, Peer, channel_of};
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
}

/// Serves the channels of a node.
#[derive(Default)]
pub struct Service {
    channels: BTreeMap<ChannelId, (Member, Arc<dyn Shelf>)>,
}

impl std::fmt::Debug for Service {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_list().entries(self.channels.keys()).finish()
    }
}

impl Service {
    /// Serves a channel, too.
    pub fn add(&mut self, member: Member, shelf: Arc<dyn Shelf>) {
        self.channels.insert(member.channel, (member, shelf));
    }
}

impl quic::Service for Service {
    fn greet(&self, binding: &[u8; 32], hello: &[u8]) -> Result<(Vec<u8>, Arc<dyn quic::Session>), String> {
        let channel = channel_of(hello).map_err(|error| error.to_string())?;
        let (member, shelf) =
            self.channels.get(&channel).ok_or_else(|| format!("channel {channel} is not known here"))?;
        let peer = member.check(Side::Client, binding, hello).map_err(|error| error.to_string())?;
        let session = ChannelSession { peer, shelf: Arc::clone(shelf) };
        Ok((member.hello(Side::Server, binding), Arc::new(session)))
    }
}

/// One connection, about one channel.
struct ChannelSession {
    peer: Peer,
    shelf: Arc<dyn Shelf>,
}

impl quic::Session for ChannelSession {
    fn answer(&self, request: &[u8]) -> Option<quic::Replies> {
        let one = |reply: Vec<u8>| -> quic::Replies { Box::new(std::iter::once(Bytes::from(reply))) };
        match Request::decode(request).ok()? {
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
                if asker.is_some_and(|asker| !self.peer.is(&asker)) {
                    return None;
                }
                Some(one(ProbeReply { standing: self.shelf.probe(asker) }.encode()))
            }
        }
    }
}
