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

impl ReceiverEngine {
    /// A run of symbols of which those at the places `lost` (ascending, from 0) did not arrive. The first symbol
    /// of the run has packet number `first_packet`; `esis` are all source symbols, or all repair symbols.
    #[expect(clippy::too_many_arguments, reason = "a run is what it says")]
    pub fn handle_run(
        &mut self,
        now: Time,
        session: SessionId,
        first_packet: u64,
        object: ObjectId,
        block: u32,
        esis: Range<u16>,
        lost: &[u16],
    ) {
        let count = esis.end.saturating_sub(esis.start);
        let mut next = 0;
        for gap in lost.iter().copied().chain(std::iter::once(count)) {
            if next < gap {
                let piece = esis.start + next..esis.start + gap;
                self.handle_piece(now, session, first_packet + u64::from(next), object, block, piece);
            }
            next = gap + 1;
        }
    }

    /// A run of which every symbol arrived.
    fn handle_piece(
        &mut self,
        now: Time,
        session: SessionId,
        first_packet: u64,
        object: ObjectId,
        block: u32,
        mut esis: Range<u16>,
    ) {
        let mut packet = first_packet;
        while !esis.is_empty() && !self.take_rest(now, session, packet, object, block, esis.clone()) {
            // One that is not simple.
            self.handle_symbol(now, session, packet, SymbolId { object, block, esi: esis.start });
            (packet, esis.start) = (packet + 1, esis.start + 1);
        }
    }

    /// What is left of a piece, if that is simple.
    fn take_rest(
        &mut self,
        now: Time,
        session: SessionId,
        first_packet: u64,
        object: ObjectId,
        block: u32,
        esis: Range<u16>,
    ) -> bool {
        let packets = first_packet..first_packet + u64::from(esis.end - esis.start);
        let is_known = self.receptions.contains_key(&object);
        if now < self.blocked_until || self.slots.to_spill().is_some() || (!is_known && self.is_missing(object)) {
            return false;
        }
        let Some(row) = self.sessions.get_mut(session).filter(|row| row.takes(packets.end - 1)) else { return false };
        let Some(reception) = self.receptions.get_mut(&object) else {
            row.on_packets(packets.clone());
            self.counters.unneeded += packets.end - packets.start;
            return true;
        };
        let Some(rest) = reception.on_symbols(session, block, esis.clone()) else { return false };
        row.on_packets(packets);
        let k = reception.layout.source_symbols(block);
        if esis.start < k && reception.on_progress(now, block) {
            self.cycle.look();
        }
        self.counters.symbols += rest.kept;
        self.counters.repair_symbols += if esis.start >= k { rest.kept } else { 0 };
        self.counters.unneeded += u64::from(esis.end - esis.start) - rest.kept;
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
