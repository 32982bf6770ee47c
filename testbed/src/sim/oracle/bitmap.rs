//! No bitmap claims what the disk lacks: of every block and source symbol that a receiver takes up from its disk,
//! the disk has the true bytes.

use std::collections::BTreeMap;

use bytes::Bytes;
use nackcast_common::ids::ObjectId;
use nackcast_receiver::engine::Wants;

use super::Verdict;

/// The oracle, which knows the true bytes of all objects.
#[derive(Debug, Default)]
pub struct Bitmap {
    truth: BTreeMap<ObjectId, Bytes>,
}

/// What the disk has of a partial object.
#[derive(Debug)]
pub enum Data {
    /// These bytes.
    There(Vec<u8>),
    /// Some of it could not be written back, and nobody was told.
    Lost,
    /// No file.
    Missing,
}

impl Bitmap {
    /// These objects exist.
    pub fn learn(&mut self, objects: &BTreeMap<ObjectId, Bytes>) {
        self.truth.extend(objects.iter().map(|(id, bytes)| (*id, bytes.clone())));
    }

    /// A receiver compared its disk with a manifest, and claims to have this. `data` gives the bytes of a partial
    /// object, as they are on the disk. What that lost and told nobody, no claim can know of: before it is recorded or
    /// installed, the file is synced or hashed. Single symbols are believed as they came: if a sender `may_lie`, they
    /// are not looked at.
    ///
    /// # Errors
    /// When something that is claimed is not there.
    pub fn on_claims(&self, wants: &Wants, may_lie: bool, data: impl Fn(ObjectId) -> Data) -> Verdict {
        for want in &wants.objects {
            let Some(record) = wants.manifest.object(want.index) else { continue };
            if want.done.is_empty() && want.held.is_empty() {
                continue;
            }
            let (id, layout) = (record.id, record.layout);
            let Some(truth) = self.truth.get(&id) else { continue };
            let there = match data(id) {
                Data::There(bytes) => bytes,
                Data::Lost => continue,
                Data::Missing => return Err(format!("blocks of object {id} are claimed, and it has no file")),
            };
            let same = |from: usize, to: usize| there.get(from..to).is_some_and(|bytes| bytes == &truth[from..to]);
            for block in want.done.iter() {
                let from = usize::try_from(layout.block_offset(block)).unwrap_or(usize::MAX);
                if !same(from, from + layout.block_len(block) as usize) {
                    return Err(format!("block {block} of object {id} is claimed, and the disk has other bytes"));
                }
            }
            for (block, held) in want.held.iter().filter(|_| !may_lie) {
                let from = usize::try_from(layout.block_offset(*block)).unwrap_or(usize::MAX);
                let end = from + layout.block_len(*block) as usize;
                let size = usize::from(layout.geometry().symbol_size());
                let k = usize::from(layout.source_symbols(*block));
                for esi in held.ones().filter(|esi| *esi < k) {
                    let start = from + esi * size;
                    if !same(start, (start + size).min(end)) {
                        return Err(format!("symbol {esi} of block {block} of object {id} is claimed and not there"));
                    }
                }
            }
        }
        Ok(())
    }
}
