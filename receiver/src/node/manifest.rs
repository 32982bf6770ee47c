//! The manifest's own pieces: the root and the parts, received and verified one by one, kept until all are here.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use nackcast_common::clock::Time;
use nackcast_common::geometry::Layout;
use nackcast_common::ids::{Digest, ObjectId};
use nackcast_proto::manifest::{Root, decode_root};
use nackcast_proto::wire::ManifestRef;

use super::ReceiverNode;
use crate::blocks;
use crate::engine::Done;

/// Bytes of manifest parts kept in memory at most, while a manifest is being received.
const BYTES_MAX: usize = 1 << 30;

/// Pieces of manifests that are wanted, and those that are here.
#[derive(Debug, Default)]
pub(super) struct Pieces {
    /// The newest root that is wanted.
    reference: Option<ManifestRef>,
    /// A verified root: which of its parts are on disk is being looked up.
    root: Option<(Digest, Root)>,
    wanted: BTreeMap<ObjectId, (Layout, Digest)>,
    here: BTreeMap<Digest, Bytes>,
}

impl Pieces {
    /// A root is wanted.
    pub(super) fn want_root(&mut self, reference: ManifestRef) {
        self.reference = Some(reference);
        self.want(&reference, reference.hash, reference.length);
    }

    fn want(&mut self, reference: &ManifestRef, digest: Digest, length: u32) {
        if let Ok(layout) = reference.geometry.object(length.into()) {
            let id = reference.geometry.object_id(&digest, length.into());
            self.wanted.insert(id, (layout, digest));
        }
    }

    /// Size and digest of a piece.
    pub(super) fn get(&self, object: ObjectId) -> Option<(Layout, Digest)> {
        self.wanted.get(&object).copied()
    }

    /// Everything that is here, for the dataset worker; nothing is wanted any more.
    pub(super) fn take(&mut self) -> BTreeMap<Digest, Bytes> {
        self.wanted.clear();
        std::mem::take(&mut self.here)
    }

    fn held_bytes(&self) -> usize {
        self.here.values().map(Bytes::len).sum()
    }
}

impl ReceiverNode {
    /// A verified piece of the manifest: the root says which parts are wanted.
    pub(super) fn on_manifest_bytes(&mut self, now: Time, object: ObjectId, bytes: Bytes) {
        let Some((_, digest)) = self.pieces.get(object) else { return };
        if self.pieces.held_bytes() + bytes.len() > BYTES_MAX {
            self.notes.say(now, "the manifest is larger than this receiver takes");
            return;
        }
        self.pieces.here.insert(digest, bytes.clone());
        let Some(reference) = self.pieces.reference.filter(|r| r.hash == digest) else { return };
        match decode_root(&bytes, &self.config.ticket.publisher, self.config.ticket.channel) {
            // Its publisher works with an old copy of its key file: who was taken off since then could read what follows.
            Ok(root) if self.manifest().is_some_and(|(_, held)| root.head.epoch < held.head().epoch) => {
                let why = format!(
                    "it is of epoch {}, before that of what is held: its publisher must run `nackcast channel rotate` \
                     until its key file is later",
                    root.head.epoch
                );
                self.refuse_manifest(now, digest, &why);
            }
            Ok(root) => {
                root.parts().for_each(|(part, length)| self.pieces.want(&reference, part, length));
                let parts = root.parts().map(|(part, _)| part).collect();
                self.pieces.root = Some((digest, root));
                self.order_blocks(blocks::Order::LookUp { hash: digest, parts });
            }
            Err(error) => self.refuse_manifest(now, digest, &error.to_string()),
        }
    }

    /// Parts of a former manifest that are on disk need not be received.
    pub(super) fn on_looked_up(&mut self, now: Time, hash: Digest, here: &BTreeSet<Digest>) {
        if let Some((_, root)) = self.pieces.root.take_if(|(digest, _)| *digest == hash) {
            self.engine.handle_root(now, hash, &root, |part| here.contains(part));
        }
    }

    pub(super) fn refuse_manifest(&mut self, now: Time, hash: Digest, why: &str) {
        self.notes.say(now, &format!("the manifest was refused: {why}"));
        self.watch.on_refused(why);
        self.engine.handle_done(now, Done::ManifestRefused { hash });
    }
}
