//! What the sender's disk holds, for multicast and for those who pull.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use nackcast_common::geometry::Layout;
use nackcast_common::ids::ObjectId;
use nackcast_proto::pull::{Offer, Shelf};

use super::layouts;
use crate::sim::content::Edition;

/// A generation on the disk.
#[derive(Debug)]
pub(super) struct Served {
    edition: Arc<Edition>,
    parts: BTreeMap<ObjectId, (Layout, Bytes)>,
    /// Files cannot be read.
    pub(super) is_blind: bool,
}

impl Served {
    pub(super) fn of(edition: Arc<Edition>) -> Self {
        let parts = layouts(&edition).map(|(id, layout, bytes)| (id, (layout, bytes))).collect();
        Self { edition, parts, is_blind: false }
    }

    pub(super) fn edition(&self) -> Arc<Edition> {
        Arc::clone(&self.edition)
    }

    /// Of the manifest itself.
    pub(super) fn is_part(&self, object: ObjectId) -> bool {
        self.parts.contains_key(&object)
    }

    pub(super) fn read(&self, object: ObjectId, block: u32) -> Option<(Layout, Bytes)> {
        if let Some(part) = self.parts.get(&object) {
            return Some(part.clone());
        }
        let manifest = &self.edition.manifest;
        let record = manifest.object(manifest.index_of(object)?)?;
        let bytes = self.edition.objects.get(&object).filter(|_| !self.is_blind)?;
        let from = usize::try_from(record.layout.block_offset(block)).unwrap_or(usize::MAX);
        let to = from.saturating_add(record.layout.block_len(block) as usize);
        Some((record.layout, bytes.slice(from.min(bytes.len())..to.min(bytes.len()))))
    }
}

/// Gives what is there.
#[derive(Debug)]
pub(super) struct SenderShelf(pub(super) Arc<Mutex<Served>>);

impl Shelf for SenderShelf {
    fn manifest(&self) -> Option<Offer> {
        let served = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let edition = &served.edition;
        Some(Offer {
            generation: edition.manifest.head().generation,
            reference: edition.encoded.reference,
            root: edition.encoded.root.bytes.clone(),
        })
    }

    fn block(&self, object: ObjectId, block: u32) -> Option<Bytes> {
        let served = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let (layout, bytes) = served.read(object, block)?;
        (block < layout.block_count()).then_some(bytes)
    }
}
