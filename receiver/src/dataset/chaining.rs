//! Block hashes of large objects: verified against their owners, kept for the next start.

use std::collections::BTreeMap;
use std::sync::Arc;

use nackcast_common::ids::{Digest, ObjectId};
use nackcast_common::manifest::{Chaining, ChainingValue, INLINE_CHAINING_MAX, Manifest, ObjectKind, ObjectRecord};

use super::{Dataset, Report};
use crate::disk::install::InstallError;
use crate::disk::part::PartError;
use crate::disk::scan::Comparison;

impl Dataset {
    /// Chaining values must merge to their owners' digests; they are kept for the next start.
    pub(super) fn keep_chaining(&mut self, manifest: &Manifest, record: &ObjectRecord) -> Result<(), InstallError> {
        let wrong = || InstallError::WrongBytes { path: format!("block hashes {}", record.id) };
        let mut bytes = Vec::new();
        for block in 0..record.layout.block_count() {
            match self.parts.read_block(record.id, block) {
                Ok(block) => bytes.extend(block),
                Err(PartError::Disk(error)) => return Err(error.into()),
                Err(_) => return Err(wrong()),
            }
        }
        let values: Arc<[ChainingValue]> =
            bytes.chunks_exact(32).filter_map(|c| ChainingValue::try_from(c).ok()).collect();
        let owners = manifest.objects().iter().filter(|o| o.chaining == Chaining::Object(record.id));
        for owner in owners {
            if values.len() < INLINE_CHAINING_MAX as usize || nackcast_common::hash::merge(&values) != owner.digest {
                return Err(wrong());
            }
        }
        self.hold_chaining(record.id, &bytes, values);
        Ok(())
    }

    /// Of files that were here already a scan made the values: nobody needs to send them, and they can be given to others.
    pub(super) fn keep_made_chaining(&mut self, manifest: &Manifest, comparison: &mut Comparison) {
        for (owner, values) in std::mem::take(&mut comparison.chaining) {
            let Some(Chaining::Object(id)) = manifest.object(owner).map(|owner| &owner.chaining) else { continue };
            let list = manifest.index_of(*id).and_then(|index| manifest.object(index));
            let bytes = values.concat();
            if list.is_some_and(|list| Digest::of(&bytes) == list.digest) {
                self.hold_chaining(*id, &bytes, values);
            }
        }
    }

    fn hold_chaining(&mut self, id: ObjectId, bytes: &[u8], values: Arc<[ChainingValue]>) {
        if let Err(error) = self.record.keep_chaining(id, bytes) {
            tracing::warn!(%error, "block hashes are not kept for the next start");
        }
        self.tell(Report::Chaining(id, Arc::clone(&values)));
        self.chaining.insert(id, values);
    }

    pub(super) fn load_chaining(&mut self) {
        let Some((_, manifest)) = &self.manifest else { return };
        let mut loaded = BTreeMap::new();
        for record in manifest.objects().iter().filter(|o| o.kind == ObjectKind::Chaining) {
            if let Some(values) = self.chaining.remove(&record.id) {
                loaded.insert(record.id, values);
            } else if let Some(bytes) = self.record.chaining(record.id)
                && Digest::of(&bytes) == record.digest
            {
                let values = bytes.chunks_exact(32).filter_map(|c| ChainingValue::try_from(c).ok());
                loaded.insert(record.id, values.collect());
            }
        }
        self.record.retain_chaining(|id| loaded.contains_key(&id));
        for (id, values) in &loaded {
            self.tell(Report::Chaining(*id, Arc::clone(values)));
        }
        self.chaining = loaded;
    }

    /// The values by which blocks of an object are checked, as far as they are here.
    pub(super) fn values(&self, record: &ObjectRecord) -> Option<Arc<[ChainingValue]>> {
        match &record.chaining {
            Chaining::Digest => None,
            Chaining::Inline(values) => Some(Arc::clone(values)),
            Chaining::Object(id) => self.chaining.get(id).cloned(),
        }
    }
}
