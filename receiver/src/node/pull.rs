//! Unicast pull at the node: sources get names, blocks that arrive go to the block worker, to be verified and kept as
//! those that were multicast.

use std::ops::Range;
use std::sync::Arc;

use nackcast_common::clock::Time;
use nackcast_common::ids::ObjectId;
use nackcast_proto::manifest::decode_root;
use nackcast_proto::pull::{Block, Offer, REPLY_OVERHEAD};

use super::ReceiverNode;
use crate::arena::Buffer;
use crate::blocks;
use crate::engine::{self, BlockOutcome, PullEnd, PullWhen, RequestId, SourceId};

/// Sources beyond this are not asked.
const SOURCES_MAX: usize = 64;

/// Order to the driver, answered by [`ReceiverNode::handle_pulled`] and such.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PullOrder {
    /// Ask for the manifest: [`ReceiverNode::handle_offered`], then [`ReceiverNode::handle_pull_over`].
    Manifest {
        /// Names the request.
        request: RequestId,
        /// Whom to ask: HOST:PORT of its QUIC.
        source: Arc<str>,
    },
    /// Ask for blocks: [`ReceiverNode::handle_pulled`] for each, then [`ReceiverNode::handle_pull_over`].
    Fetch {
        /// Names the request.
        request: RequestId,
        /// Whom to ask: HOST:PORT of its QUIC.
        source: Arc<str>,
        /// The object.
        object: ObjectId,
        /// Its blocks.
        blocks: Range<u32>,
        /// No reply may be longer.
        longest: usize,
    },
    /// Forget this request. Not answered.
    Cancel {
        /// The request.
        request: RequestId,
    },
}

/// Who may have blocks, in the order in which they became known.
#[derive(Debug, Default)]
pub(super) struct Sources {
    names: Vec<Arc<str>>,
}

impl Sources {
    fn id(&self, name: &str) -> Option<SourceId> {
        let at = self.names.iter().position(|known| **known == *name)?;
        u32::try_from(at).ok().map(SourceId)
    }

    fn name(&self, source: SourceId) -> Arc<str> {
        self.names.get(source.0 as usize).cloned().unwrap_or_default()
    }
}

impl ReceiverNode {
    /// Allows pulling from these (HOST:PORT of their QUIC), and from senders that are heard.
    pub fn allow_pull(&mut self, now: Time, when: PullWhen, sources: impl IntoIterator<Item = String>) {
        self.engine.allow_pull(when, self.config.memory / 4);
        sources.into_iter().for_each(|source| self.add_source(&source));
        // From now on nobody is heard: there is a deadline even if nothing ever happens.
        self.engine.handle_timeout(now);
        self.drain(now);
    }

    /// Somebody who may have blocks.
    pub(super) fn add_source(&mut self, name: &str) {
        let names = &mut self.sources.names;
        if names.len() < SOURCES_MAX && names.iter().all(|known| **known != *name) {
            let id = SourceId(u32::try_from(names.len()).unwrap_or(u32::MAX));
            names.push(name.into());
            self.engine.add_source(id);
        }
    }

    /// Who may be asked to let this node in, in order.
    #[must_use]
    pub fn join_sources(&self) -> Vec<Arc<str>> {
        self.sources.names.clone()
    }

    /// The next order about unicast.
    pub fn poll_pull(&mut self) -> Option<PullOrder> {
        loop {
            return Some(match self.engine.poll_pull()? {
                engine::PullOrder::Manifest { request, source } => {
                    PullOrder::Manifest { request, source: self.sources.name(source) }
                }
                engine::PullOrder::Fetch { request, source, object, blocks } => {
                    // An object that is gone since is not asked for.
                    let Some(layout) = self.layout(object) else { continue };
                    let longest = layout.geometry().block_size() as usize + REPLY_OVERHEAD;
                    PullOrder::Fetch { request, source: self.sources.name(source), object, blocks, longest }
                }
                engine::PullOrder::Cancel { request } => PullOrder::Cancel { request },
            });
        }
    }

    /// A block arrived.
    pub fn handle_pulled(&mut self, now: Time, request: RequestId, reply: &Block) {
        let block = reply.block;
        if let Some(object) = self.engine.handle_pulled(now, request, block) {
            match self.layout(object).zip(self.check(object)) {
                Some((layout, (check, keep))) if reply.data.len() == layout.block_len(block) as usize => {
                    let buffer = Buffer::whole(layout, block, &reply.data);
                    let slot = None;
                    self.order_blocks(blocks::Order::Complete { object, layout, block, slot, buffer, check, keep });
                }
                Some(_) => self.engine.handle_checked(now, object, block, BlockOutcome::Unsound),
                None => self.engine.handle_checked(now, object, block, BlockOutcome::NotKept),
            }
        }
        self.drain(now);
    }

    /// A source told which manifest it has.
    pub fn handle_offered(&mut self, now: Time, offer: &Offer) {
        let ticket = &self.config.ticket;
        match decode_root(&offer.root, &ticket.publisher, ticket.channel) {
            // Not signed: with another geometry its parts would have names that nobody knows.
            Ok(root) if root.head.geometry != offer.reference.geometry => {
                self.notes
                    .say(now, "a manifest that was offered by unicast was refused: it is said to be cut otherwise");
            }
            Ok(root) => {
                if self.engine.handle_offer(now, offer.reference, root.head.generation) {
                    self.pieces.want_root(offer.reference);
                }
            }
            Err(error) => self.notes.say(now, &format!("a manifest that was offered by unicast was refused: {error}")),
        }
        self.drain(now);
    }

    /// A source was reached, or was not, for which reason.
    pub fn handle_reached(&mut self, now: Time, source: &str, reached: Result<(), String>) {
        let Some(id) = self.sources.id(source) else { return };
        match reached {
            Ok(()) => {
                self.watch.on_source_reached(source);
                self.engine.handle_reached(now, id);
            }
            Err(why) => self.watch.on_source_silent(now, source, &why),
        }
        self.drain(now);
    }

    /// A request is over.
    pub fn handle_pull_over(&mut self, now: Time, request: RequestId, end: PullEnd) {
        self.engine.handle_pull_over(now, request, end);
        self.drain(now);
    }

    /// Bytes that were pulled and are sound, and who gave them.
    pub(super) fn pulled(&self) -> (u64, Vec<String>) {
        let given: Vec<_> = self.engine.pulled().filter(|(_, bytes)| *bytes > 0).collect();
        let names = given.iter().map(|(source, _)| self.sources.name(*source).to_string()).collect();
        (given.iter().map(|(_, bytes)| bytes).sum(), names)
    }

    pub(super) fn on_source_dropped(&mut self, now: Time, source: SourceId, object: ObjectId) {
        let name = self.sources.name(source);
        self.watch.on_false_source(&name);
        self.notes.say(now, &format!("{name} gave a wrong block of object {object}: it is not asked any more"));
    }
}
