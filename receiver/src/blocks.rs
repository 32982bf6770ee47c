//! The block thread: restores, verifies and keeps blocks, in the order in which it is told.
//!
//! It never decides anything: its orders come from the engine, through the driver, and its results go back.

use std::collections::HashMap;
use std::sync::Arc;

use fixedbitset::FixedBitSet;
use nackcast_common::fec::Decoder;
use nackcast_common::geometry::Layout;
use nackcast_common::hash::chaining_value;
use nackcast_common::ids::{Digest, ObjectId};
use nackcast_common::manifest::ChainingValue;
use tokio::sync::mpsc;

use crate::arena::Buffer;
use crate::disk::DiskError;
use crate::disk::part::{HeldSymbols, PartError, PartStore};
use crate::engine::{BlockOutcome, Slot};

/// How a block is checked.
#[derive(Clone, Debug)]
pub(crate) enum Check {
    /// The object is this one block.
    Digest(Digest),
    /// One value for each block.
    Chaining(Arc<[ChainingValue]>),
}

/// Where a sound block goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Keep {
    /// The manifest's own: back to the driver.
    Memory,
    /// To the object's partial file.
    Disk,
}

/// An order.
#[derive(Debug)]
pub(crate) enum Order {
    Complete { object: ObjectId, layout: Layout, block: u32, slot: Slot, buffer: Buffer, check: Check, keep: Keep },
    Spill { object: ObjectId, layout: Layout, block: u32, slot: Slot, buffer: Buffer },
    Load { object: ObjectId, block: u32, slot: Slot },
    Checkpoint { blocks: Vec<(ObjectId, Layout, u32, Buffer)> },
}

/// A result.
#[derive(Debug)]
pub(crate) enum Report {
    Complete {
        object: ObjectId,
        block: u32,
        slot: Slot,
        buffer: Buffer,
        outcome: BlockOutcome,
        /// The bytes, for [`Keep::Memory`].
        bytes: Option<Vec<u8>>,
    },
    Spill {
        object: ObjectId,
        block: u32,
        slot: Slot,
        buffer: Buffer,
        held: Option<FixedBitSet>,
    },
    Load {
        object: ObjectId,
        block: u32,
        slot: Slot,
        held: Option<HeldSymbols>,
    },
    Checkpoint {
        buffers: Vec<Buffer>,
    },
    /// The disk refused; shown to people.
    Trouble(DiskError),
}

/// The thread's state.
#[derive(Debug)]
pub(crate) struct Blocks {
    parts: Arc<PartStore>,
    reports: mpsc::UnboundedSender<Report>,
    decoder: Decoder,
    /// Objects written since the last checkpoint.
    dirty: HashMap<ObjectId, ()>,
}

impl Blocks {
    pub(crate) fn new(parts: Arc<PartStore>, reports: mpsc::UnboundedSender<Report>) -> Self {
        Self { parts, reports, decoder: Decoder::new(), dirty: HashMap::new() }
    }

    /// Works until nobody gives orders any more.
    pub(crate) fn run(mut self, orders: &std::sync::mpsc::Receiver<Order>) {
        while let Ok(order) = orders.recv() {
            let report = match order {
                Order::Complete { object, layout, block, slot, mut buffer, check, keep } => {
                    let (outcome, bytes) = self.complete(object, layout, block, &mut buffer, &check, keep);
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
            };
            if self.reports.send(report).is_err() {
                return;
            }
        }
        // The last orders were given: what is known now shall survive.
        self.sync();
    }

    fn complete(
        &mut self,
        object: ObjectId,
        layout: Layout,
        block: u32,
        buffer: &mut Buffer,
        check: &Check,
        keep: Keep,
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
        if !sound {
            if let Err(error) = self.parts.discard_symbols(object, block)
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
                self.dirty.insert(object, ());
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
                self.dirty.insert(object, ());
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

    fn sync(&mut self) {
        let dirty: Vec<_> = self.dirty.drain().map(|(id, ())| id).collect();
        if let Err(error) = self.parts.sync(&dirty) {
            self.trouble(error);
        }
    }

    fn trouble(&self, error: PartError) {
        let PartError::Disk(error) = error else {
            tracing::debug!(%error, "partial object");
            return;
        };
        if self.reports.send(Report::Trouble(error)).is_err() {
            tracing::debug!("nobody listens any more");
        }
    }
}
