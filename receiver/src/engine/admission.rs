//! Admission: which symbols are kept, and where; blocks that have enough are ordered to be completed.

use nackcast_common::clock::Time;
use nackcast_common::ids::{ObjectId, SessionId};
use nackcast_common::manifest::{Chaining, ObjectRecord};
use nackcast_common::ranges::RangeSet;
use nackcast_proto::wire::symbol::SymbolId;

use super::event::{Admission, Ignored, Work};
use super::object::{Class, Reception, Taken};
use super::{CHECKPOINT, ReceiverEngine};

impl ReceiverEngine {
    /// A symbol that opened, of a packet that came at `arrived` and was read now. The caller keeps its bytes as it is told.
    pub fn handle_symbol(
        &mut self,
        now: Time,
        arrived: Time,
        session: SessionId,
        packet: u64,
        symbol: SymbolId,
    ) -> Admission {
        let admission = self.admit((now, arrived), session, packet, symbol);
        match admission {
            Admission::Keep(_) => {
                self.counters.symbols += 1;
                let repair = self.receptions.get(&symbol.object).map(|r| r.layout.source_symbols(symbol.block));
                self.counters.repair_symbols += u64::from(repair.is_some_and(|k| symbol.esi >= k));
            }
            Admission::Ignore(_) => self.counters.unneeded += 1,
        }
        admission
    }

    fn admit(&mut self, (now, arrived): (Time, Time), session: SessionId, packet: u64, symbol: SymbolId) -> Admission {
        let Some(row) = self.sessions.get_mut(session) else { return Admission::Ignore(Ignored::UnknownSession) };
        if !row.on_packet(packet) {
            return Admission::Ignore(Ignored::OutOfRange);
        }
        self.readings.on_packets(now, arrived, session, row, packet..packet + 1);
        let SymbolId { object, block, esi } = symbol;
        if !self.receptions.contains_key(&object) && !self.begin_reception(object) {
            return Admission::Ignore(Ignored::NotWanted);
        }
        let Some(reception) = self.receptions.get_mut(&object) else { return Admission::Ignore(Ignored::NotWanted) };
        if esi < reception.layout.source_symbols(block) && reception.on_progress(now, block) {
            self.cycle.look();
        }
        if self.keeping.is_stopped() {
            return Admission::Ignore(Ignored::NoMemory);
        }
        // Not the next one heard: that may be one that never sends the rest of the block.
        if reception.is_restarted(block) && self.sessions.chosen().is_none_or(|(asked, _)| asked != session) {
            return Admission::Ignore(Ignored::OtherSession);
        }
        let mut taken = reception.on_symbol(now, block, esi, None);
        if taken == Taken::NeedsSlot {
            let Some(slot) = self.slots.take(object, block) else { return Admission::Ignore(Ignored::NoMemory) };
            taken = reception.on_symbol(now, block, esi, Some(slot));
            match taken {
                Taken::Kept { .. } if reception.loading_into(block).is_some() => {
                    self.work.push_back(Work::Load { object, block, slot });
                }
                Taken::Kept { .. } => {}
                Taken::No(_) | Taken::NeedsSlot => {
                    self.slots.forget(object, block);
                    self.slots.give_back(slot);
                }
            }
        }
        reception.on_packet(session, packet, block, esi);
        let Taken::Kept { slot, enough } = taken else {
            let why = if let Taken::No(why) = taken { why } else { Ignored::NoMemory };
            return Admission::Ignore(why);
        };
        self.slots.touch(object, block);
        self.checkpoint_at.get_or_insert(now + CHECKPOINT);
        if enough {
            self.complete_block(object, block);
        }
        self.spill();
        Admission::Keep(slot)
    }

    /// A wanted object of which nothing was held gets its first symbol, or is pulled.
    pub(super) fn begin_reception(&mut self, id: ObjectId) -> bool {
        let Some(held) = &self.held else { return false };
        let Some(index) = held.manifest.index_of(id).filter(|index| self.missing.contains(index.0)) else {
            return false;
        };
        let Some(record) = held.manifest.object(index) else { return false };
        let class = Class::Table { index, awaits: self.awaited(record) };
        self.missing.remove(index.0..index.0 + 1);
        self.receptions.insert(id, Reception::new(record.layout, class, RangeSet::new()));
        true
    }

    /// The chaining object that must be verified before blocks of this one can be.
    pub(super) fn awaited(&self, record: &ObjectRecord) -> Option<ObjectId> {
        let Chaining::Object(chaining) = &record.chaining else { return None };
        let index = self.index_of(*chaining)?;
        let pending = self.missing.contains(index.0) || self.receptions.contains_key(chaining);
        pending.then_some(*chaining)
    }

    pub(super) fn can_verify(&self, id: ObjectId) -> bool {
        match self.receptions.get(&id).map(|r| r.class) {
            Some(Class::Manifest) => true,
            Some(Class::Table { awaits, .. }) => awaits.is_none_or(|a| {
                let missing = self.index_of(a).is_some_and(|index| self.missing.contains(index.0));
                !missing && !self.receptions.contains_key(&a)
            }),
            None => false,
        }
    }

    pub(super) fn complete_block(&mut self, object: ObjectId, block: u32) {
        if !self.can_verify(object) {
            return;
        }
        if let Some(slot) = self.receptions.get_mut(&object).and_then(|r| r.take_block(block)) {
            self.slots.forget(object, block);
            self.work.push_back(Work::Complete { object, block, slot });
        }
    }

    /// Memory runs low: the block that was longest without a symbol goes to disk.
    pub(super) fn spill(&mut self) {
        while let Some((object, block)) = self.slots.to_spill() {
            self.slots.forget(object, block);
            if let Some(slot) = self.receptions.get_mut(&object).and_then(|r| r.begin_spill(block)) {
                self.work.push_back(Work::Spill { object, block, slot });
                return;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use nackcast_common::keys::SigningKey;
    use nackcast_proto::wire::{Advertisement, Role, SenderCertificate, SenderState};

    use super::*;
    use crate::engine::BlockOutcome;
    use crate::engine::testing::Rig;
    use crate::testing::{CHANNEL, SESSION, advertisement, publisher};

    #[test]
    fn a_block_that_was_wrong_comes_from_the_sender_that_is_asked() {
        let (mut rig, now) = (Rig::new(64), Time(1));
        rig.advertise(now, 0);
        let standby = SessionId(78);
        let key = SigningKey::from_seed([3; 32]).verifying_key();
        let backup = Advertisement {
            session: standby,
            role: Role::Backup,
            state: SenderState::Standby,
            certificate: SenderCertificate::issue(&publisher(), CHANNEL, key),
            ..advertisement(now, 1, 0)
        };
        rig.engine.handle_advertisement(now, "10.0.0.2:7600".parse().unwrap(), &backup);
        let (object, k) = (rig.object(0).id, rig.object(0).layout.source_symbols(0));
        let symbol = |esi| SymbolId { object, block: 0, esi };
        let all = |rig: &mut Rig, first_packet: u64| {
            let admitted: Vec<_> = (0..k)
                .map(|esi| rig.engine.handle_symbol(now, now, SESSION, first_packet + u64::from(esi), symbol(esi)))
                .collect();
            rig.drain(now);
            admitted
        };
        rig.outcome = BlockOutcome::Unsound;
        all(&mut rig, 0);
        rig.outcome = BlockOutcome::Sound;
        // One that only knows the keys of the channel speaks for a sender that sends nothing.
        let later = now + Duration::from_millis(1);
        let forged = rig.engine.handle_symbol(later, later, standby, 0, symbol(0));
        assert_eq!(forged, Admission::Ignore(Ignored::OtherSession));
        let admitted = all(&mut rig, 100);
        assert!(admitted.iter().all(|one| matches!(one, Admission::Keep(_))), "{admitted:?}");
    }
}
