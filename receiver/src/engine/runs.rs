//! Symbols in runs: what a simulator of many receivers calls instead of one call for each symbol.
//!
//! - The effect is that of [`ReceiverEngine::handle_symbol`] for each symbol of the run that arrived, in order.
//! - Symbols that find a block with some memory are only bits and a count; whatever else a symbol may bring about (a
//!   reception begins, memory is short, a block comes from disk) is left to `handle_symbol`.
//! - The bytes of a run have no place to go: this is for simulations, which have none.

use std::ops::Range;

use fixedbitset::FixedBitSet;
use nackcast_common::clock::Time;
use nackcast_common::ids::{ObjectId, SessionId};
use nackcast_proto::wire::symbol::SymbolId;

use super::{CHECKPOINT, ReceiverEngine};

#[cfg(test)]
mod tests;

/// Symbols of one block, sent one after the other: all source symbols, or all repair symbols.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Run {
    /// Whose they are.
    pub session: SessionId,
    /// Packet number of the first.
    pub first_packet: u64,
    /// The object.
    pub object: ObjectId,
    /// The block.
    pub block: u32,
    /// Which symbols.
    pub esis: Range<u16>,
}

impl Run {
    const fn len(&self) -> u16 {
        self.esis.end.saturating_sub(self.esis.start)
    }

    /// Packet numbers of all of it.
    fn packets(&self) -> Range<u64> {
        self.first_packet..self.first_packet + u64::from(self.len())
    }

    /// What is at these places of it, from 0.
    fn part(&self, places: Range<u16>) -> Self {
        Self {
            first_packet: self.first_packet + u64::from(places.start),
            esis: self.esis.start + places.start..self.esis.start + places.end,
            ..*self
        }
    }
}

impl ReceiverEngine {
    /// A run of which the symbols at the places `lost` (ascending, from 0) did not arrive.
    pub fn handle_run(&mut self, now: Time, run: &Run, lost: &[u16]) {
        let mut next = 0;
        for gap in lost.iter().copied().chain(std::iter::once(run.len())) {
            if next < gap {
                self.handle_whole_run(now, run.part(next..gap));
            }
            next = gap + 1;
        }
    }

    /// A run of which every symbol arrived.
    fn handle_whole_run(&mut self, now: Time, mut run: Run) {
        while !run.esis.is_empty() && !self.take_rest(now, &run) {
            // One that is not simple.
            let symbol = SymbolId { object: run.object, block: run.block, esi: run.esis.start };
            self.handle_symbol(now, now, run.session, run.first_packet, symbol);
            run = run.part(1..run.len());
        }
    }

    /// What is left of a run, if that is simple.
    fn take_rest(&mut self, now: Time, run: &Run) -> bool {
        let Run { session, first_packet, object, block, ref esis } = *run;
        let packets = run.packets();
        let is_known = self.receptions.contains_key(&object);
        if self.keeping.is_stopped() || self.slots.to_spill().is_some() || (!is_known && self.is_missing(object)) {
            return false;
        }
        let Some(row) = self.sessions.get_mut(session).filter(|row| row.takes(packets.end - 1)) else { return false };
        let Some(reception) = self.receptions.get_mut(&object) else {
            row.on_packets(packets.clone());
            self.readings.on_packets(now, now, session, row, packets);
            self.counters.unneeded += u64::from(run.len());
            return true;
        };
        let Some(rest) = reception.on_symbols(session, first_packet, block, esis.clone()) else { return false };
        row.on_packets(packets.clone());
        self.readings.on_packets(now, now, session, row, packets);
        let k = reception.layout.source_symbols(block);
        if esis.start < k && reception.on_progress(now, block) {
            self.cycle.look();
        }
        self.counters.symbols += rest.kept;
        self.counters.repair_symbols += if esis.start >= k { rest.kept } else { 0 };
        self.counters.unneeded += u64::from(run.len()) - rest.kept;
        if rest.kept > 0 {
            self.slots.touch(object, block);
            self.checkpoint_at.get_or_insert(now + CHECKPOINT);
        }
        if rest.enough {
            self.complete_block(object, block);
        }
        true
    }

    /// Its first symbol begins its reception.
    fn is_missing(&self, object: ObjectId) -> bool {
        self.index_of(object).is_some_and(|index| self.missing.contains(index.0))
    }

    /// Which ESIs of an open block are held: what a simulator's disk answers, that keeps no symbols.
    #[must_use]
    pub fn held_symbols(&self, object: ObjectId, block: u32) -> Option<&FixedBitSet> {
        self.receptions.get(&object)?.held(block)
    }
}
