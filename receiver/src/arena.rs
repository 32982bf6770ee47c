//! Memory for the symbols of open blocks: one buffer for each slot of the engine.
//!
//! Buffers are reused. The node fills them; a buffer that is restored, spilled or copied moves to the block
//! worker and comes back with the report, so nobody waits for a lock.

use fixedbitset::FixedBitSet;
use nackcast_common::geometry::Layout;

use crate::disk::part::HeldSymbols;
use crate::engine::Slot;

/// The symbols of one open block.
#[derive(Clone, Debug, Default)]
pub struct Buffer {
    /// K source symbols at their places.
    pub(crate) source: Vec<u8>,
    pub(crate) have: FixedBitSet,
    /// ESIs and bytes of repair symbols, in order of arrival.
    pub(crate) repair_esis: Vec<u16>,
    pub(crate) repair: Vec<u8>,
    symbol_size: usize,
    k: u16,
}

/// All slots.
#[derive(Debug, Default)]
pub(crate) struct Arena {
    slots: Vec<Option<Buffer>>,
    spare: Vec<Buffer>,
}

impl Buffer {
    /// Makes it empty, for symbols of this block; its memory stays.
    pub fn begin(&mut self, layout: Layout, block: u32) {
        self.k = layout.source_symbols(block);
        self.symbol_size = layout.geometry().symbol_size().into();
        self.source.resize(usize::from(self.k) * self.symbol_size, 0);
        self.have.clear();
        self.have.grow(self.k.into());
        self.repair_esis.clear();
        self.repair.clear();
    }

    /// All source symbols of a block, from its bytes.
    pub(crate) fn whole(layout: Layout, block: u32, bytes: &[u8]) -> Self {
        let mut buffer = Self::default();
        buffer.begin(layout, block);
        for (to, from) in buffer.source.iter_mut().zip(bytes) {
            *to = *from;
        }
        buffer.have.insert_range(..);
        buffer
    }

    /// Keeps a symbol; one of another size, or that is here, is left out.
    pub fn put(&mut self, esi: u16, symbol: &[u8]) {
        let at = usize::from(esi);
        if symbol.len() != self.symbol_size {
            return;
        }
        if esi < self.k {
            self.source[at * self.symbol_size..(at + 1) * self.symbol_size].copy_from_slice(symbol);
            self.have.insert(at);
        } else if !self.repair_esis.contains(&esi) {
            self.repair_esis.push(esi);
            self.repair.extend_from_slice(symbol);
        }
    }

    /// Every symbol that is here, with its ESI.
    pub(crate) fn symbols(&self) -> impl Iterator<Item = (u16, &[u8])> + '_ {
        let source = self.have.ones().filter(|at| *at < usize::from(self.k)).filter_map(|at| {
            let bytes = self.source.get(at * self.symbol_size..(at + 1) * self.symbol_size)?;
            Some((u16::try_from(at).ok()?, bytes))
        });
        source.chain(self.repairs())
    }

    /// The repair symbols, with their ESIs.
    pub(crate) fn repairs(&self) -> impl Iterator<Item = (u16, &[u8])> + '_ {
        self.repair_esis.iter().copied().zip(self.repair.chunks_exact(self.symbol_size.max(1)))
    }

    /// Which ESIs are here.
    pub(crate) fn esis(&self, layout: Layout, block: u32) -> FixedBitSet {
        let mut esis = FixedBitSet::with_capacity(layout.esi_end(block).into());
        self.symbols().for_each(|(esi, _)| esis.insert(esi.into()));
        esis
    }
}

impl Arena {
    pub(crate) fn new(slots: u32) -> Self {
        Self { slots: (0..slots).map(|_| None).collect(), spare: Vec::new() }
    }

    /// Keeps a symbol's bytes, beginning the slot's block if nothing of it is here.
    pub(crate) fn put(&mut self, slot: Slot, layout: Layout, block: u32, esi: u16, symbol: &[u8]) {
        let Some(place) = self.slots.get_mut(slot.0 as usize) else { return };
        let spare = &mut self.spare;
        let buffer = place.get_or_insert_with(|| {
            let mut buffer = spare.pop().unwrap_or_default();
            buffer.begin(layout, block);
            buffer
        });
        buffer.put(esi, symbol);
    }

    /// Adds symbols that were on disk; returns all that the slot holds now.
    pub(crate) fn load(&mut self, slot: Slot, layout: Layout, block: u32, held: &HeldSymbols) -> FixedBitSet {
        let size = usize::from(layout.geometry().symbol_size());
        for esi in held.source.ones() {
            if let (Some(bytes), Ok(esi)) = (held.bytes.get(esi * size..(esi + 1) * size), u16::try_from(esi)) {
                self.put(slot, layout, block, esi, bytes);
            }
        }
        for (esi, bytes) in &held.repair {
            self.put(slot, layout, block, *esi, bytes);
        }
        match self.slots.get(slot.0 as usize) {
            Some(Some(buffer)) => buffer.esis(layout, block),
            Some(None) | None => FixedBitSet::with_capacity(layout.esi_end(block).into()),
        }
    }

    /// Takes a slot's buffer; it comes back through [`Self::give_back`].
    pub(crate) fn take(&mut self, slot: Slot) -> Buffer {
        self.slots.get_mut(slot.0 as usize).and_then(Option::take).unwrap_or_default()
    }

    /// A copy, for a checkpoint.
    pub(crate) fn copy(&self, slot: Slot) -> Option<Buffer> {
        self.slots.get(slot.0 as usize)?.clone()
    }

    /// A buffer that is no longer needed.
    pub(crate) fn give_back(&mut self, buffer: Buffer) {
        if self.spare.len() < self.slots.len() {
            self.spare.push(buffer);
        }
    }

    /// Forgets a slot's symbols.
    pub(crate) fn discard(&mut self, slot: Slot) {
        let buffer = self.take(slot);
        self.give_back(buffer);
    }
}
