//! Block work: restores, verifies and keeps blocks, in the order in which it is told.
//!
//! [`Blocks`] never decides anything: its orders come from [`crate::node::ReceiverNode`], and its reports go back
//! there. It has no thread of its own: the daemon runs it on one, a simulator calls it.

use std::collections::{BTreeSet, VecDeque};
use std::sync::Arc;

use fixedbitset::FixedBitSet;
use nackcast_common::archive::Archive;
use nackcast_common::fec::Decoder;
use nackcast_common::geometry::Layout;
use nackcast_common::hash::chaining_value;
use nackcast_common::ids::{Digest, ObjectId};
use nackcast_common::manifest::ChainingValue;
use nackcast_common::mutation::{Mutation, planted};

pub use crate::arena::Buffer;
use crate::disk::DiskError;
use crate::disk::part::{HeldSymbols, PartError, PartStore};
use crate::engine::{BlockOutcome, Slot};

/// How a block is checked.
#[derive(Clone, Debug)]
pub enum Check {
    /// The object is this one block.
    Digest(Digest),
    /// One value for each block.
    Chaining(Arc<[ChainingValue]>),
}

/// Where a sound block goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Keep {
    /// The manifest's own: back to the node.
    Memory,
    /// To the object's partial file.
    Disk,
}

/// An order, answered by the [`Report`] of the same name.
#[derive(Debug)]
pub enum Order {
    /// Restore a block from its symbols, check and keep it.
    Complete {
        /// The object.
        object: ObjectId,
        /// Its size and cut.
        layout: Layout,
        /// The block.
        block: u32,
        /// Where its symbols were; none: it was pulled whole.
        slot: Option<Slot>,
        /// Its symbols.
        buffer: Buffer,
        /// How it is checked.
        check: Check,
        /// Where it goes.
        keep: Keep,
    },
    /// Put a block's symbols on disk: its memory is wanted.
    Spill {
        /// The object.
        object: ObjectId,
        /// Its size and cut.
        layout: Layout,
        /// The block.
        block: u32,
        /// Where its symbols were.
        slot: Slot,
        /// Its symbols.
        buffer: Buffer,
    },
    /// Bring a block's symbols from disk.
    Load {
        /// The object.
        object: ObjectId,
        /// The block.
        block: u32,
        /// Where its symbols go.
        slot: Slot,
    },
    /// Put copies of open blocks on disk, and record what is durable.
    Checkpoint {
        /// The blocks.
        blocks: Vec<(ObjectId, Layout, u32, Buffer)>,
    },
    /// Say whether the disk takes a block.
    Room,
    /// Say which parts of a manifest are on disk from an earlier one.
    LookUp {
        /// Hash of the manifest's root.
        hash: Digest,
        /// Its parts.
        parts: Vec<Digest>,
    },
}

/// The result of an [`Order`].
#[derive(Debug)]
pub enum Report {
    /// Of [`Order::Complete`].
    Complete {
        /// The object.
        object: ObjectId,
        /// The block.
        block: u32,
        /// Where its symbols were; none: it was pulled whole.
        slot: Option<Slot>,
        /// The buffer, to be used again.
        buffer: Buffer,
        /// How it came out.
        outcome: BlockOutcome,
        /// The bytes, for [`Keep::Memory`].
        bytes: Option<Vec<u8>>,
    },
    /// Of [`Order::Spill`].
    Spill {
        /// The object.
        object: ObjectId,
        /// The block.
        block: u32,
        /// Where its symbols were.
        slot: Slot,
        /// The buffer, to be used again.
        buffer: Buffer,
        /// ESIs that are on disk now; none when they could not be kept.
        held: Option<FixedBitSet>,
    },
    /// Of [`Order::Load`].
    Load {
        /// The object.
        object: ObjectId,
        /// The block.
        block: u32,
        /// Where its symbols go.
        slot: Slot,
        /// The symbols; none when they could not be read.
        held: Option<HeldSymbols>,
    },
    /// Of [`Order::Checkpoint`].
    Checkpoint {
        /// The buffers, to be used again.
        buffers: Vec<Buffer>,
    },
    /// Of [`Order::Room`].
    Room {
        /// It does.
        is_there: bool,
    },
    /// Of [`Order::LookUp`].
    LookUp {
        /// Hash of the manifest's root.
        hash: Digest,
        /// Parts that are here and sound.
        here: BTreeSet<Digest>,
    },
    /// The disk refused; shown to people.
    Trouble(DiskError),
}

/// The worker. After each [`Self::handle`], and after [`Self::sync`], take its reports.
#[derive(Debug)]
pub struct Blocks {
    parts: Arc<PartStore>,
    archive: Archive,
    reports: VecDeque<Report>,
    decoder: Decoder,
    /// Objects written since the last checkpoint.
    dirty: BTreeSet<ObjectId>,
}

impl Blocks {
    /// A worker on these partial objects; the archive is only read.
    #[must_use]
    pub fn new(parts: Arc<PartStore>, archive: Archive) -> Self {
        Self { parts, archive, reports: VecDeque::new(), decoder: Decoder::new(), dirty: BTreeSet::new() }
    }

    /// Carries out an order.
    pub fn handle(&mut self, order: Order) {
        let report = match order {
            Order::Complete { object, layout, block, slot, mut buffer, check, keep } => {
                let how = (&check, keep, slot.is_none());
                let (outcome, bytes) = self.complete(object, layout, block, &mut buffer, how);
                Report::Complete { object, block, slot, buffer, outcome, bytes }
            }
            Order::Spill { object, layout, block, slot, buffer } => {
                let held = self.write(object, layout, block, &buffer);
                Report::Spill { object, block, slot, buffer, held }
            }
            Order::Load { object, block, slot } => {
                let held = self.parts.load_symbols(object, block).map_err(|e| self.trouble(e)).ok();
                Report::Load { object, block, slot, held }
            }
            Order::Checkpoint { blocks } => Report::Checkpoint { buffers: self.checkpoint(blocks) },
            Order::Room => {
                let tried = self.parts.try_room();
                // People were told by what was refused.
                tracing::debug!(?tried, "looked for room");
                Report::Room { is_there: tried.is_ok() }
            }
            Order::LookUp { hash, parts } => {
                let here = parts.into_iter().filter(|part| self.archive.get(part).is_ok()).collect();
                Report::LookUp { hash, here }
            }
        };
        self.reports.push_back(report);
    }

    /// The next report.
    pub fn poll_report(&mut self) -> Option<Report> {
        self.reports.pop_front()
    }

    /// Makes durable, and records, what was written since the last checkpoint: for the end of a run.
    pub fn sync(&mut self) {
        let dirty: Vec<_> = std::mem::take(&mut self.dirty).into_iter().collect();
        if let Err(error) = self.parts.sync(&dirty) {
            self.trouble(error);
        }
    }

    fn complete(
        &mut self,
        object: ObjectId,
        layout: Layout,
        block: u32,
        buffer: &mut Buffer,
        (check, keep, pulled): (&Check, Keep, bool),
    ) -> (BlockOutcome, Option<Vec<u8>>) {
        if !self.restore(layout, block, buffer) {
            return (BlockOutcome::Unsound, None);
        }
        let bytes = buffer.source.get(..layout.block_len(block) as usize).unwrap_or_default();
        let sound = match check {
            Check::Digest(digest) => Digest::of(bytes) == *digest,
            Check::Chaining(values) => {
                let value = values.get(block as usize);
                value.is_some_and(|v| *v == chaining_value(bytes, layout.block_offset(block)))
            }
        };
        let unchecked = if pulled { Mutation::PulledNotChecked } else { Mutation::BlockNotChecked };
        if !sound && !planted(unchecked) {
            // What was pulled says nothing about symbols that are on disk.
            if !pulled
                && let Err(error) = self.parts.discard_symbols(object, block)
                && !matches!(error, PartError::Unknown(_))
            {
                self.trouble(error);
            }
            return (BlockOutcome::Unsound, None);
        }
        if keep == Keep::Memory {
            return (BlockOutcome::Sound, Some(bytes.to_vec()));
        }
        let written = self.parts.create(layout, object).and_then(|_| self.parts.write_block(object, block, bytes));
        match written {
            Ok(()) => {
                self.dirty.insert(object);
                (BlockOutcome::Sound, None)
            }
            Err(error) => {
                self.trouble(error);
                (BlockOutcome::NotKept, None)
            }
        }
    }

    /// Restores the missing source symbols; false when the symbols at hand do not suffice.
    fn restore(&mut self, layout: Layout, block: u32, buffer: &mut Buffer) -> bool {
        let k = layout.source_symbols(block);
        let symbol_size = layout.geometry().symbol_size();
        if buffer.have.count_ones(..) >= usize::from(k) {
            return true;
        }
        let (esis, repair) = (std::mem::take(&mut buffer.repair_esis), std::mem::take(&mut buffer.repair));
        let repairs: Vec<_> =
            esis.iter().map(|esi| esi.saturating_sub(k)).zip(repair.chunks_exact(symbol_size.into())).collect();
        let scheme = layout.geometry().fec();
        let restored = self.decoder.decode(scheme, k, symbol_size, &mut buffer.source, &buffer.have, &repairs);
        (buffer.repair_esis, buffer.repair) = (esis, repair);
        restored.is_ok()
    }

    /// Puts a block's symbols on disk; says which are there then.
    fn write(&mut self, object: ObjectId, layout: Layout, block: u32, buffer: &Buffer) -> Option<FixedBitSet> {
        let written = self.parts.create(layout, object).and_then(|_| {
            self.parts.write_symbols(object, block, buffer.symbols())?;
            Ok(self.parts.state(object))
        });
        match written {
            Ok(state) => {
                self.dirty.insert(object);
                let open = state.and_then(|s| s.open.get(&block).cloned()).unwrap_or_default();
                let mut held = FixedBitSet::with_capacity(layout.esi_end(block).into());
                open.source.ones().for_each(|esi| held.insert(esi));
                open.repair.iter().for_each(|esi| held.insert((*esi).into()));
                Some(held)
            }
            Err(error) => {
                self.trouble(error);
                None
            }
        }
    }

    fn checkpoint(&mut self, blocks: Vec<(ObjectId, Layout, u32, Buffer)>) -> Vec<Buffer> {
        let mut buffers = Vec::with_capacity(blocks.len());
        for (object, layout, block, buffer) in blocks {
            self.write(object, layout, block, &buffer);
            buffers.push(buffer);
        }
        self.sync();
        buffers
    }

    fn trouble(&mut self, error: PartError) {
        match error {
            PartError::Disk(error) => self.reports.push_back(Report::Trouble(error)),
            error => tracing::debug!(%error, "partial object"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::disk::target::TargetDir;

    #[test]
    fn only_sound_parts_are_found_again() {
        let home = tempfile::tempdir().unwrap();
        let target = TargetDir::open(nackcast_common::files::linux(), home.path()).unwrap();
        let archive = Archive::new(nackcast_common::files::linux(), home.path().join("manifest"));
        let [root, sound, damaged, absent] = ["root", "sound", "damaged", "absent"].map(|s| Digest::of(s.as_bytes()));
        archive.save((root, b"root"), [(sound, &b"sound"[..]), (damaged, &b"damaged"[..])]).unwrap();
        std::fs::write(archive.directory().join(damaged.to_string()), b"damagEd").unwrap();
        let mut blocks = Blocks::new(Arc::new(PartStore::open(&target).unwrap().0), archive);
        blocks.handle(Order::LookUp { hash: root, parts: vec![sound, damaged, absent] });
        let Some(Report::LookUp { hash, here }) = blocks.poll_report() else { panic!("no report") };
        assert_eq!((hash, here), (root, BTreeSet::from([sound])));
    }
}
