//! Symbols of unfinished blocks: source symbols at their place in the data file, repair symbols in slots of
//! the side file, whose number is bounded per block (K of them decode it) and for the whole store.

use std::collections::BTreeMap;
use std::sync::MutexGuard;
use std::sync::atomic::Ordering;

use fixedbitset::FixedBitSet;
use nackcast_common::files::How;
use nackcast_common::ids::ObjectId;
use nackcast_common::mutation::{Mutation, planted};

use super::map::{OpenBlock, SLOTS_MAX};
use super::record::ExtendSlots;
use super::{Part, PartError, PartStore, REPAIR, State, name};
use crate::disk::lock;

/// The bytes of an unfinished block, as far as they are there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HeldSymbols {
    /// K symbols, one after the other; zero where not held and behind the block's end.
    pub bytes: Vec<u8>,
    /// Which of them are held.
    pub source: FixedBitSet,
    /// Repair symbols by ESI.
    pub repair: Vec<(u16, Vec<u8>)>,
}

/// What became of symbols that were to be written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Kept {
    /// Source symbols now at their place.
    pub source: usize,
    /// Repair symbols now in the side file.
    pub repair: usize,
    /// Not kept: held already, of a verified block, or beyond the bound of the side file.
    pub dropped: usize,
}

impl PartStore {
    /// Writes symbols of a block that is not finished: source symbols to their place, repair symbols to the
    /// side file as far as its bound allows. Nothing is verified.
    ///
    /// # Errors
    /// When there is no such object, block or ESI, a symbol is not of the symbol size (the last source symbol
    /// may come without its padding), or the file system refuses.
    pub fn write_symbols<'a>(
        &self,
        id: ObjectId,
        block: u32,
        symbols: impl IntoIterator<Item = (u16, &'a [u8])>,
    ) -> Result<Kept, PartError> {
        let part = self.part(id)?;
        let source_count = part.layout.source_symbols(block);
        let symbol_size = usize::from(part.layout.geometry().symbol_size());
        let (mut source, mut repair) = (BTreeMap::new(), BTreeMap::new());
        for (esi, bytes) in symbols {
            let least = if esi < source_count { part.layout.symbol_range(block, esi).len() } else { symbol_size };
            if esi >= part.layout.esi_end(block) || !(least..=symbol_size).contains(&bytes.len()) {
                return Err(PartError::Misfit { id, block });
            }
            let kind = if esi < source_count { &mut source } else { &mut repair };
            kind.insert(esi, &bytes[..least]);
        }
        let all = source.len() + repair.len();
        let mut state = lock(&part.state);
        if state.map.verified.contains(block) {
            return Ok(Kept { dropped: all, ..Kept::default() });
        }
        let mut kept = Kept::default();
        kept.source = self.write_source(&part, &mut state, block, source)?;
        kept.repair = self.write_repair(&part, &mut state, block, repair)?;
        kept.dropped = all - kept.source - kept.repair;
        Ok(kept)
    }

    fn write_source(
        &self,
        part: &Part,
        state: &mut State,
        block: u32,
        mut symbols: BTreeMap<u16, &[u8]>,
    ) -> Result<usize, PartError> {
        if let Some(held) = state.map.open.get(&block) {
            symbols.retain(|esi, _| !held.source.contains((*esi).into()));
        }
        if symbols.is_empty() {
            return Ok(0);
        }
        let file = self.open_data(part, How::Write)?;
        let start = part.layout.block_offset(block);
        for (esi, run) in runs(&symbols) {
            let offset = start + part.layout.symbol_range(block, esi).start as u64;
            file.write_all_at(&run, offset).map_err(|cause| self.fail_data(part, &file, cause))?;
        }
        let held = state.open_block(part, block);
        held.source.extend(symbols.keys().map(|esi| usize::from(*esi)));
        state.changed = true;
        Ok(symbols.len())
    }

    fn write_repair(
        &self,
        part: &Part,
        state: &mut State,
        block: u32,
        mut symbols: BTreeMap<u16, &[u8]>,
    ) -> Result<usize, PartError> {
        let held = state.map.open.get(&block).map_or(0, |held| {
            symbols.retain(|esi, _| !held.repair.contains_key(esi));
            held.repair.len()
        });
        // More than K of them can be of no use.
        let room = usize::from(part.layout.source_symbols(block)).saturating_sub(held);
        if symbols.is_empty() || room == 0 {
            return Ok(0);
        }
        let side_name = name(part.id, REPAIR);
        let symbol = u64::from(part.layout.geometry().symbol_size());
        let fail = |cause| self.fail("write", &side_name, symbol, cause);
        let directory = self.target.part_directory()?;
        let file = directory.open(side_name.as_bytes(), How::WriteOrMake).map_err(fail)?;
        if state.pinned.is_clear() && state.map.slots().next().is_none() {
            self.sides_made.store(true, Ordering::Relaxed);
        }
        let mut written = 0;
        for ((esi, bytes), slot) in symbols.into_iter().take(room).zip(state.free_slots()) {
            if !self.reserve_repair(symbol) {
                break;
            }
            if let Err(cause) = file.write_all_at(bytes, u64::from(slot) * symbol) {
                self.repair_bytes.fetch_sub(symbol, Ordering::Relaxed);
                return Err(fail(cause).into());
            }
            state.open_block(part, block).repair.insert(esi, slot);
            state.changed = true;
            written += 1;
        }
        Ok(written)
    }

    fn reserve_repair(&self, bytes: u64) -> bool {
        let room = |used: u64| used.checked_add(bytes).filter(|sum| *sum <= self.repair_bytes_max);
        self.repair_bytes.fetch_update(Ordering::Relaxed, Ordering::Relaxed, room).is_ok()
    }

    /// The symbols of an unfinished block.
    ///
    /// # Errors
    /// When there is no such object or block, or the file system refuses.
    pub fn load_symbols(&self, id: ObjectId, block: u32) -> Result<HeldSymbols, PartError> {
        let part = self.part(id)?;
        let count = usize::from(part.layout.source_symbols(block));
        if count == 0 {
            return Err(PartError::Misfit { id, block });
        }
        let state = lock(&part.state);
        let symbol = usize::from(part.layout.geometry().symbol_size());
        let mut bytes = vec![0; count * symbol];
        let Some(open) = state.map.open.get(&block) else {
            return Ok(HeldSymbols { bytes, source: FixedBitSet::with_capacity(count), repair: Vec::new() });
        };
        if !open.source.is_clear() {
            let file = self.open_data(&part, How::Read)?;
            let data = &mut bytes[..part.layout.block_len(block) as usize];
            file.read_exact_at(data, part.layout.block_offset(block))
                .map_err(|cause| self.fail_data(&part, &file, cause))?;
            for esi in open.source.zeroes().filter_map(|esi| u16::try_from(esi).ok()) {
                data[part.layout.symbol_range(block, esi)].fill(0);
            }
        }
        let repair = self.read_repair(&part, open)?;
        Ok(HeldSymbols { bytes, source: open.source.clone(), repair })
    }

    fn read_repair(&self, part: &Part, open: &OpenBlock) -> Result<Vec<(u16, Vec<u8>)>, PartError> {
        if open.repair.is_empty() {
            return Ok(Vec::new());
        }
        let side_name = name(part.id, REPAIR);
        let fail = |cause| self.fail("read", &side_name, 0, cause);
        let file = self.target.part_directory()?.open(side_name.as_bytes(), How::Read).map_err(fail)?;
        let symbol = part.layout.geometry().symbol_size();
        let mut symbols = Vec::with_capacity(open.repair.len());
        for (esi, slot) in &open.repair {
            let mut bytes = vec![0; symbol.into()];
            file.read_exact_at(&mut bytes, u64::from(*slot) * u64::from(symbol)).map_err(fail)?;
            symbols.push((*esi, bytes));
        }
        Ok(symbols)
    }

    /// Drops the symbols of an unfinished block, since together they made a wrong one.
    ///
    /// # Errors
    /// When there is no such object.
    pub fn discard_symbols(&self, id: ObjectId, block: u32) -> Result<(), PartError> {
        let part = self.part(id)?;
        let mut state = lock(&part.state);
        self.forget_symbols(&part, &mut state, block);
        Ok(())
    }

    pub(super) fn forget_symbols(&self, part: &Part, state: &mut MutexGuard<'_, State>, block: u32) {
        if let Some(open) = state.map.open.remove(&block) {
            let bytes = open.repair.len() as u64 * u64::from(part.layout.geometry().symbol_size());
            self.repair_bytes.fetch_sub(bytes, Ordering::Relaxed);
            state.changed = true;
        }
    }
}

impl State {
    fn open_block(&mut self, part: &Part, block: u32) -> &mut OpenBlock {
        self.map.open.entry(block).or_insert_with(|| OpenBlock {
            source: FixedBitSet::with_capacity(part.layout.source_symbols(block).into()),
            repair: BTreeMap::new(),
        })
    }

    /// Slots that neither this map nor the one on disk names.
    fn free_slots(&self) -> impl Iterator<Item = u32> + use<> {
        let reused = planted(Mutation::SideFileReused);
        let mut taken = if reused { FixedBitSet::new() } else { self.pinned.clone() };
        taken.extend_slots(&self.map);
        (0..SLOTS_MAX).filter(move |slot| !taken.contains(*slot as usize))
    }
}

/// Symbols that lie side by side, joined: (first ESI, bytes).
fn runs(symbols: &BTreeMap<u16, &[u8]>) -> Vec<(u16, Vec<u8>)> {
    let mut runs: Vec<(u16, Vec<u8>)> = Vec::new();
    let mut next = None;
    for (esi, bytes) in symbols {
        match runs.last_mut() {
            Some((_, run)) if next == Some(*esi) => run.extend_from_slice(bytes),
            _ => runs.push((*esi, bytes.to_vec())),
        }
        next = esi.checked_add(1);
    }
    runs
}
