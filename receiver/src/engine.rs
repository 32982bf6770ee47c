//! The receiver's decisions, without sockets, files, clock or random source of its own (its backoff is seeded).
//!
//! # Contract
//! - Inputs, each with `now`, which never goes back: [`ReceiverEngine::handle_advertisement`],
//!   [`ReceiverEngine::handle_digest`], [`ReceiverEngine::handle_symbol`], [`ReceiverEngine::handle_answer`]
//!   (all opened, parsed and, where signed, verified), [`ReceiverEngine::handle_wants`],
//!   [`ReceiverEngine::handle_done`], [`ReceiverEngine::handle_timeout`].
//! - `handle_symbol` answers what to do with the bytes; they never enter the engine.
//! - After each input (or a bounded batch of symbols) drain [`ReceiverEngine::poll_work`],
//!   [`ReceiverEngine::poll_transmit`], [`ReceiverEngine::poll_event`]; then sleep until
//!   [`ReceiverEngine::poll_deadline`].
//! - The same inputs give the same outputs. Memory is bounded: slots for open blocks, a bitmap for each block
//!   that is open, ranges for the rest.

mod backoff;
pub mod event;
mod manifest;
mod nacks;
mod object;
mod runs;
mod sessions;
mod slots;

use std::collections::{BTreeMap, VecDeque};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use nackcast_common::clock::{Deadline, Time};
use nackcast_common::ids::{Digest, Generation, ObjectId, ObjectIndex, SessionId};
use nackcast_common::manifest::{Chaining, Manifest, ObjectRecord};
use nackcast_common::ranges::RangeSet;
use nackcast_proto::manifest::Root;
use nackcast_proto::wire::symbol::SymbolId;
use nackcast_proto::wire::{Advertisement, DigestBody, ManifestRef, NackAnswer, Promise};
use rand::SeedableRng;
use rand::rngs::StdRng;

pub use event::{
    Admission, BlockOutcome, Done, EngineConfig, Event, Ignored, InstallOutcome, Slot, Snapshot, Transmit, Want, Wants,
    Work,
};
use manifest::Acquisition;
use nacks::Cycle;
use object::{Class, Reception, Taken};
use sessions::{Heard, Sessions};
use slots::Slots;

/// Open blocks older than this go to disk at each checkpoint.
const CHECKPOINT: Duration = Duration::from_millis(500);
/// After something could not be kept (disk full), nothing is asked for so long.
const BLOCKED: Duration = Duration::from_secs(2);
/// A dataset that is not whole although nothing is wanted (somebody changes it, or stands in the way) is looked
/// at again after so long.
const FINISH_RETRY: Duration = Duration::from_secs(5);
/// What is heard of the end of a pass counts only when stragglers have arrived.
const STRAGGLERS: Duration = Duration::from_millis(4);

/// The receiver's engine, one for each channel.
#[derive(Debug)]
pub struct ReceiverEngine {
    config: EngineConfig,
    rng: StdRng,
    sessions: Sessions,
    acquisition: Acquisition,
    /// The manifest that the dataset follows, when it has been compared with it.
    held: Option<Held>,
    receptions: BTreeMap<ObjectId, Reception>,
    /// Table objects of which nothing is held and which are wanted.
    missing: RangeSet,
    slots: Slots,
    cycle: Cycle,
    checkpoint_at: Option<Time>,
    blocked_until: Time,
    /// A dataset that was not whole is not looked at again before.
    finish_at: Time,
    /// A checkpoint is under way.
    checkpointing: bool,
    finishing: bool,
    complete: bool,
    /// News of the end of passes, to be believed at a time.
    settling: VecDeque<(Time, SessionId)>,
    work: VecDeque<Work>,
    transmits: VecDeque<Transmit>,
    events: VecDeque<Event>,
    counters: Counters,
}

/// The manifest in force.
#[derive(Debug)]
struct Held {
    manifest: Arc<Manifest>,
    hash: Digest,
    wanted: u64,
    wanted_bytes: u64,
    installed: u64,
    installed_bytes: u64,
}

#[derive(Debug, Default)]
struct Counters {
    symbols: u64,
    repair_symbols: u64,
    unneeded: u64,
    nacks: u64,
    nack_bytes: u64,
}

impl ReceiverEngine {
    /// An engine that knows nothing yet, or remembers an earlier run's manifest.
    #[must_use]
    pub fn new(config: EngineConfig) -> Self {
        Self {
            rng: StdRng::seed_from_u64(config.seed),
            sessions: Sessions::default(),
            acquisition: Acquisition::new(config.remembered),
            held: None,
            receptions: BTreeMap::new(),
            missing: RangeSet::new(),
            slots: Slots::new(config.slots),
            cycle: Cycle::new(),
            checkpoint_at: None,
            blocked_until: Time::ZERO,
            finish_at: Time::ZERO,
            checkpointing: false,
            finishing: false,
            complete: false,
            settling: VecDeque::new(),
            work: VecDeque::new(),
            transmits: VecDeque::new(),
            events: VecDeque::new(),
            counters: Counters::default(),
            config,
        }
    }

    /// A verified advertisement.
    pub fn handle_advertisement(&mut self, now: Time, from: SocketAddr, advertisement: &Advertisement) {
        let id = advertisement.session;
        let (heard, replaced) = self.sessions.on_advertisement(now, from, advertisement);
        if heard == Heard::Old {
            return;
        }
        for _ in replaced {
            self.void_promises();
        }
        if heard == Heard::First {
            self.events.push_back(Event::SenderHeard(id, from));
            // A new sender is greeted.
            self.cycle.report();
        }
        self.settling.push_back((now + STRAGGLERS.max(advertisement.grtt.min(STRAGGLERS * 10)), id));
        self.follow_manifest(advertisement);
        self.cycle.look();
        self.advance(now);
    }

    fn void_promises(&mut self) {
        for reception in self.receptions.values_mut() {
            reception.void_promises();
        }
        self.cycle.void();
    }

    fn follow_manifest(&mut self, advertisement: &Advertisement) {
        let Some(reference) = advertisement.manifest else { return };
        match self.acquisition.offer(reference, advertisement.generation) {
            manifest::Offer::Ours => {}
            manifest::Offer::Older => self.say(Event::OlderGeneration(advertisement.generation)),
            manifest::Offer::Fork => self.say(Event::TwoManifests(advertisement.generation)),
            manifest::Offer::New { root, layout } => {
                self.drop_manifest_receptions();
                self.receptions.insert(root, Reception::new(layout, Class::Manifest, RangeSet::new()));
                self.acquire();
            }
        }
    }

    fn say(&mut self, event: Event) {
        if self.cycle.say_once(&event) {
            self.events.push_back(event);
        }
    }

    fn drop_manifest_receptions(&mut self) {
        let old: Vec<_> =
            self.receptions.iter().filter(|(_, r)| r.class == Class::Manifest).map(|(id, _)| *id).collect();
        for id in old {
            self.drop_reception(id);
        }
    }

    fn drop_reception(&mut self, id: ObjectId) {
        if let Some(reception) = self.receptions.remove(&id) {
            for (block, slot) in reception.slots() {
                self.slots.forget(id, block);
                // A block that is being loaded gives its slot back when the load is over.
                if reception.loading_into(block).is_some() {
                    continue;
                }
                self.work.push_back(Work::Discard { slot });
                self.slots.give_back(slot);
            }
        }
    }

    /// The root was verified by the driver: its parts are wanted, except those at hand.
    pub fn handle_root(&mut self, now: Time, hash: Digest, root: &Root, at_hand: impl Fn(&Digest) -> bool) {
        let wanted = self.acquisition.on_root(hash, root, at_hand);
        for (id, layout) in wanted {
            self.receptions.entry(id).or_insert_with(|| {
                let mut reception = Reception::new(layout, Class::Manifest, RangeSet::new());
                reception.pass_over = true;
                reception
            });
        }
        self.cycle.look();
        self.acquire();
        self.advance(now);
    }

    /// Orders the manifest's assembly when everything of it is here.
    fn acquire(&mut self) {
        let confirmed = self.config.remembered.is_some()
            || self.held.is_some()
            || self.sessions.chosen().is_some_and(|(_, s)| s.confirmed);
        let waiting = self.receptions.values().any(|r| r.class == Class::Manifest && !r.is_done());
        if let Some(reference) = self.acquisition.ready(confirmed, waiting) {
            self.drop_manifest_receptions();
            self.work.push_back(Work::Assemble(reference));
        }
        self.cycle.look();
    }

    /// A verified Digest of a known session.
    pub fn handle_digest(&mut self, now: Time, digest: &DigestBody) {
        if !self.sessions.get_mut(digest.session).is_some_and(|s| s.on_digest(digest.sequence)) {
            return;
        }
        let until = now + digest.lapse;
        for promise in &digest.promises {
            match promise {
                Promise::Whole(id) => {
                    if let Some(reception) = self.receptions.get_mut(id) {
                        reception.whole_until = until;
                    } else if let Some(index) = self.index_of(*id) {
                        self.cycle.promise_missing(index, until);
                    }
                }
                Promise::Blocks(id, blocks) => {
                    if let Some(reception) = self.receptions.get_mut(id) {
                        for (block, count) in blocks {
                            reception.on_promise(*block, *count, until);
                        }
                    }
                }
            }
        }
        self.advance(now);
    }

    fn index_of(&self, id: ObjectId) -> Option<ObjectIndex> {
        self.held.as_ref()?.manifest.index_of(id)
    }

    /// A symbol that opened. The caller keeps its bytes as it is told.
    pub fn handle_symbol(&mut self, now: Time, session: SessionId, packet: u64, symbol: SymbolId) -> Admission {
        let admission = self.admit(now, session, packet, symbol);
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

    fn admit(&mut self, now: Time, session: SessionId, packet: u64, symbol: SymbolId) -> Admission {
        let Some(row) = self.sessions.get_mut(session) else { return Admission::Ignore(Ignored::UnknownSession) };
        if !row.on_packet(packet) {
            return Admission::Ignore(Ignored::OutOfRange);
        }
        let SymbolId { object, block, esi } = symbol;
        if !self.receptions.contains_key(&object) && !self.begin_reception(object) {
            return Admission::Ignore(Ignored::NotWanted);
        }
        let Some(reception) = self.receptions.get_mut(&object) else { return Admission::Ignore(Ignored::NotWanted) };
        if esi < reception.layout.source_symbols(block) && reception.on_progress(now, block) {
            self.cycle.look();
        }
        if now < self.blocked_until {
            return Admission::Ignore(Ignored::NoMemory);
        }
        let mut taken = reception.on_symbol(now, session, block, esi, None);
        if taken == Taken::NeedsSlot {
            let Some(slot) = self.slots.take(object, block) else { return Admission::Ignore(Ignored::NoMemory) };
            taken = reception.on_symbol(now, session, block, esi, Some(slot));
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

    /// A wanted object of which nothing was held gets its first symbol.
    fn begin_reception(&mut self, id: ObjectId) -> bool {
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
    fn awaited(&self, record: &ObjectRecord) -> Option<ObjectId> {
        let Chaining::Object(chaining) = &record.chaining else { return None };
        let index = self.index_of(*chaining)?;
        let pending = self.missing.contains(index.0) || self.receptions.contains_key(chaining);
        pending.then_some(*chaining)
    }

    fn can_verify(&self, id: ObjectId) -> bool {
        match self.receptions.get(&id).map(|r| r.class) {
            Some(Class::Manifest) => true,
            Some(Class::Table { awaits, .. }) => awaits.is_none_or(|a| {
                let missing = self.index_of(a).is_some_and(|index| self.missing.contains(index.0));
                !missing && !self.receptions.contains_key(&a)
            }),
            None => false,
        }
    }

    fn complete_block(&mut self, object: ObjectId, block: u32) {
        if !self.can_verify(object) {
            return;
        }
        if let Some(slot) = self.receptions.get_mut(&object).and_then(|r| r.take_block(block)) {
            self.slots.forget(object, block);
            self.work.push_back(Work::Complete { object, block, slot });
        }
    }

    /// Memory runs low: the block that was longest without a symbol goes to disk.
    fn spill(&mut self) {
        while let Some((object, block)) = self.slots.to_spill() {
            self.slots.forget(object, block);
            if let Some(slot) = self.receptions.get_mut(&object).and_then(|r| r.begin_spill(block)) {
                self.work.push_back(Work::Spill { object, block, slot });
                return;
            }
        }
    }

    /// An answer of a known session; `signed` when its signature was checked.
    pub fn handle_answer(&mut self, now: Time, answer: &NackAnswer, signed: bool) {
        let Some(session) = self.sessions.get_mut(answer.session) else { return };
        if signed && self.cycle.is_our_nonce(answer.nonce) {
            session.confirmed = true;
            self.acquire();
        }
        let until = now + answer.wait;
        let table = self.held.as_ref().map(|h| Arc::clone(&h.manifest));
        let here = |id: &ObjectId| self.receptions.contains_key(id);
        let events = self.cycle.on_answer(now, answer, table.as_deref(), &here);
        self.events.extend(events);
        for reception in self.receptions.values_mut() {
            reception.on_answer(now, until);
        }
        self.advance(now);
    }

    /// The dataset was compared with a manifest (new, or the same after a scan).
    pub fn handle_wants(&mut self, now: Time, wants: Wants) {
        let Wants { manifest, hash, objects } = wants;
        let keep: std::collections::BTreeSet<_> =
            objects.iter().filter_map(|w| manifest.object(w.index)).map(|o| o.id).collect();
        let dropped: Vec<_> = self
            .receptions
            .iter()
            .filter(|(id, r)| !keep.contains(*id) && r.class != Class::Manifest)
            .map(|(id, _)| *id)
            .collect();
        for id in dropped {
            self.drop_reception(id);
        }
        self.missing = RangeSet::new();
        let size = |w: &Want| manifest.object(w.index).map_or(0, |o| o.layout.size());
        let wanted_bytes = objects.iter().map(size).sum();
        let held = Held {
            manifest: Arc::clone(&manifest),
            hash,
            wanted: objects.len() as u64,
            wanted_bytes,
            installed: 0,
            installed_bytes: 0,
        };
        self.acquisition.hold(manifest.head().generation, hash);
        self.held = Some(held);
        self.complete = false;
        self.finishing = false;
        self.cycle.new_manifest();
        for want in objects {
            self.want(now, &manifest, want);
        }
        // Chaining objects are known now: see again who waits for whom, and what is complete already.
        let ids: Vec<_> = self.receptions.keys().copied().collect();
        for id in ids {
            let record = self.index_of(id).and_then(|index| manifest.object(index));
            let awaits = record.and_then(|r| self.awaited(r));
            if let Some(reception) = self.receptions.get_mut(&id)
                && let Class::Table { awaits: before, .. } = &mut reception.class
            {
                *before = awaits;
            }
            self.resume(id);
        }
        self.cycle.look();
        self.advance(now);
    }

    fn want(&mut self, now: Time, manifest: &Manifest, want: Want) {
        let Some(record) = manifest.object(want.index) else { return };
        if let Some(reception) = self.receptions.get_mut(&record.id) {
            // It goes on under the new manifest; its place in the table may be another.
            reception.class = Class::Table { index: want.index, awaits: None };
            return;
        }
        if want.done.is_empty() && want.held.is_empty() {
            self.missing.insert(want.index.0..want.index.0 + 1);
            return;
        }
        let class = Class::Table { index: want.index, awaits: None };
        let mut reception = Reception::new(record.layout, class, want.done);
        reception.pass_over = true;
        for (block, held) in want.held {
            reception.restore(now, block, held);
        }
        self.receptions.insert(record.id, reception);
    }

    /// Blocks that have all they need are verified; an object that has all blocks is installed.
    fn resume(&mut self, id: ObjectId) {
        if !self.can_verify(id) {
            return;
        }
        let Some(reception) = self.receptions.get_mut(&id) else { return };
        for (block, slot) in reception.take_complete() {
            self.slots.forget(id, block);
            self.work.push_back(Work::Complete { object: id, block, slot });
        }
        for block in reception.complete_on_disk() {
            let Some(slot) = self.slots.take(id, block) else { break };
            reception.begin_load(block, slot);
            self.work.push_back(Work::Load { object: id, block, slot });
        }
        self.install_if_done(id);
    }

    fn install_if_done(&mut self, id: ObjectId) {
        if let Some(reception) = self.receptions.get_mut(&id)
            && reception.is_done()
            && !reception.installing
            && matches!(reception.class, Class::Table { .. })
        {
            reception.installing = true;
            self.work.push_back(Work::Install { object: id });
        }
    }

    /// A work order's result.
    pub fn handle_done(&mut self, now: Time, done: Done) {
        match done {
            Done::Complete { object, block, slot, outcome } => {
                self.slots.give_back(slot);
                self.on_block(now, object, block, outcome);
            }
            Done::Spill { object, block, slot, held } => {
                self.slots.give_back(slot);
                if held.is_none() {
                    self.blocked_until = now + BLOCKED;
                }
                if let Some(reception) = self.receptions.get_mut(&object) {
                    reception.on_spilled(now, block, held);
                }
                self.spill();
            }
            Done::Load { object, block, slot, held } => self.on_loaded(object, block, slot, held),
            Done::ManifestRefused { hash } => self.acquisition.refuse(hash),
            Done::Install { object, outcome } => self.on_installed(now, object, outcome),
            Done::Finish { whole } => self.on_finished(now, whole),
            Done::Checkpoint => self.checkpointing = false,
        }
        self.advance(now);
    }

    fn on_block(&mut self, now: Time, object: ObjectId, block: u32, outcome: BlockOutcome) {
        let Some(reception) = self.receptions.get_mut(&object) else { return };
        match outcome {
            BlockOutcome::Sound => reception.on_sound(block),
            BlockOutcome::Unsound => {
                reception.on_lost(block, true);
                self.events.push_back(Event::BlockUnsound(object, block));
            }
            BlockOutcome::NotKept => {
                reception.on_lost(block, false);
                self.blocked_until = now + BLOCKED;
            }
        }
        let done = reception.is_done();
        match reception.class {
            Class::Manifest if done => self.acquire(),
            Class::Manifest => {}
            Class::Table { .. } => self.install_if_done(object),
        }
        self.cycle.look();
    }

    fn on_loaded(&mut self, object: ObjectId, block: u32, slot: Slot, held: fixedbitset::FixedBitSet) {
        match self.receptions.get_mut(&object) {
            Some(reception) if reception.loading_into(block) == Some(slot) => {
                if reception.on_loaded(block, held) {
                    self.complete_block(object, block);
                }
            }
            // No longer wanted.
            Some(_) | None => {
                self.work.push_back(Work::Discard { slot });
                self.slots.give_back(slot);
            }
        }
    }

    fn on_installed(&mut self, now: Time, object: ObjectId, outcome: InstallOutcome) {
        match outcome {
            InstallOutcome::Installed | InstallOutcome::Refused => {
                let size = self.receptions.remove(&object).map_or(0, |r| r.layout.size());
                if let Some(held) = &mut self.held {
                    held.installed += u64::from(size > 0);
                    held.installed_bytes += size;
                }
                // Whoever waited for these chaining values can be verified now.
                let waiting: Vec<_> = self
                    .receptions
                    .iter()
                    .filter(|(_, r)| matches!(r.class, Class::Table { awaits: Some(a), .. } if a == object))
                    .map(|(id, _)| *id)
                    .collect();
                for id in waiting {
                    self.resume(id);
                }
            }
            InstallOutcome::Full | InstallOutcome::Later => {
                if outcome == InstallOutcome::Full {
                    self.blocked_until = now + BLOCKED;
                }
                if let Some(reception) = self.receptions.get_mut(&object) {
                    reception.installing = false;
                    reception.retry_at = now + FINISH_RETRY;
                }
            }
            InstallOutcome::Refetch => {
                if let Some(reception) = self.receptions.get_mut(&object) {
                    reception.reset();
                }
            }
        }
    }

    fn on_finished(&mut self, now: Time, whole: bool) {
        self.finishing = false;
        if whole {
            self.complete = true;
            if let Some(held) = &self.held {
                self.events.push_back(Event::Complete(held.manifest.head().generation));
            }
            self.cycle.report();
        } else {
            self.finish_at = now + FINISH_RETRY;
        }
    }

    /// A deadline passed.
    pub fn handle_timeout(&mut self, now: Time) {
        self.advance(now);
    }

    /// Moves every machine as far as it goes.
    fn advance(&mut self, now: Time) {
        for lost in self.sessions.expire(now) {
            self.events.push_back(Event::SenderLost(lost));
            self.void_promises();
        }
        self.settle(now);
        if !self.checkpointing && self.checkpoint_at.is_some_and(|at| now >= at) {
            self.checkpoint(now);
        }
        if now >= self.blocked_until {
            self.unblock(now);
        }
        self.nack(now);
    }

    /// What advertisements said of finished passes is believed when stragglers have arrived.
    fn settle(&mut self, now: Time) {
        while let Some((at, id)) = self.settling.front().copied() {
            if at > now {
                break;
            }
            self.settling.pop_front();
            let Some(session) = self.sessions.get_mut(id) else { continue };
            let (finished, packets) = (session.advertisement.finished.clone(), session.advertisement.data_packets);
            if self.settling.iter().all(|(_, other)| *other != id) {
                session.settle(packets);
            }
            for pass in finished {
                match self.receptions.get_mut(&pass.object) {
                    Some(reception) if reception.finished_serial < pass.serial => {
                        reception.on_pass_over(pass.serial);
                        self.cycle.look();
                    }
                    Some(_) => {}
                    None => {
                        if let Some(index) = self.index_of(pass.object) {
                            self.cycle.missing_pass_over(index, pass.serial);
                        }
                    }
                }
            }
        }
    }

    fn checkpoint(&mut self, now: Time) {
        let since = now.before(CHECKPOINT / 2);
        let table = self.receptions.iter().filter(|(_, r)| r.class != Class::Manifest);
        let blocks: Vec<_> = table
            .flat_map(|(id, r)| r.open_in_memory_since(since).into_iter().map(|(block, slot)| (*id, block, slot)))
            .collect();
        let in_memory = self.receptions.values().any(|r| r.open_blocks() > 0);
        self.checkpoint_at = in_memory.then(|| now + CHECKPOINT);
        self.checkpointing = true;
        self.work.push_back(Work::Checkpoint { blocks });
    }

    /// What could not go on (no slot, no disk space) is tried again.
    fn unblock(&mut self, now: Time) {
        if self.held.is_none() {
            return;
        }
        let all_installed = self.missing.is_empty() && self.receptions.values().all(|r| r.class == Class::Manifest);
        if all_installed && !self.finishing && !self.complete && now >= self.finish_at {
            self.finishing = true;
            self.work.push_back(Work::Finish);
            return;
        }
        let stuck: Vec<_> = self
            .receptions
            .iter()
            .filter(|(_, r)| r.class != Class::Manifest)
            .filter(|(_, r)| (r.is_done() && !r.installing && now >= r.retry_at) || !r.complete_on_disk().is_empty())
            .map(|(id, _)| *id)
            .collect();
        for id in stuck {
            self.resume(id);
        }
    }

    /// The next work order.
    pub fn poll_work(&mut self) -> Option<Work> {
        self.work.pop_front()
    }

    /// The next NACK to send.
    pub fn poll_transmit(&mut self) -> Option<Transmit> {
        self.transmits.pop_front()
    }

    /// The next event.
    pub fn poll_event(&mut self) -> Option<Event> {
        self.events.pop_front()
    }

    /// When to call [`Self::handle_timeout`], if nothing else comes first.
    #[must_use]
    pub fn poll_deadline(&self) -> Option<Deadline> {
        let at = |at: Option<Time>, why| at.map(|at| Deadline { at, why });
        [
            at(self.sessions.next_loss(), "sender silent"),
            at(self.settling.front().map(|(at, _)| *at), "stragglers"),
            at(self.checkpoint_at.filter(|_| !self.checkpointing), "checkpoint"),
            at(self.stuck_until(), "blocked"),
            // Without a sender there is nobody to ask.
            at(self.sessions.chosen().and_then(|_| self.cycle.deadline()), "NACK"),
        ]
        .into_iter()
        .fold(None, Deadline::earlier)
    }

    /// When something that could not go on is tried again.
    fn stuck_until(&self) -> Option<Time> {
        if self.held.is_none() || self.complete || self.finishing {
            return None;
        }
        let table = self.receptions.values().filter(|r| r.class != Class::Manifest);
        let install = table.filter(|r| r.is_done() && !r.installing).map(|r| r.retry_at.max(self.blocked_until)).min();
        let all_installed = self.missing.is_empty() && self.receptions.values().all(|r| r.class == Class::Manifest);
        let finish = all_installed.then_some(self.finish_at.max(self.blocked_until));
        install.into_iter().chain(finish).min()
    }

    /// The session's last advertisement, to verify what it signs.
    #[must_use]
    pub fn advertisement(&self, session: SessionId) -> Option<&Advertisement> {
        self.sessions.get(session).map(|s| &s.advertisement)
    }

    /// A sender took note of the last report.
    #[must_use]
    pub const fn has_reported(&self) -> bool {
        self.cycle.has_reported()
    }

    /// No sender that is heard offers a newer manifest than the one that is held.
    #[must_use]
    pub fn is_current(&self) -> bool {
        let Some((_, session)) = self.sessions.chosen() else { return true };
        let advertisement = &session.advertisement;
        advertisement
            .manifest
            .is_none_or(|reference| !self.acquisition.would_follow(&reference, advertisement.generation))
    }

    /// Whether a manifest that is advertised would be followed.
    #[must_use]
    pub fn would_follow(&self, reference: &ManifestRef, generation: Generation) -> bool {
        self.acquisition.would_follow(reference, generation)
    }

    /// Every open block with a slot, to be put on disk before the process ends.
    #[must_use]
    pub fn open_in_memory(&self) -> Vec<(ObjectId, u32, Slot)> {
        let table = self.receptions.iter().filter(|(_, r)| r.class != Class::Manifest);
        table
            .flat_map(|(id, r)| r.open_in_memory_since(Time::NEVER).into_iter().map(|(block, slot)| (*id, block, slot)))
            .collect()
    }

    /// The dataset is whole and verified.
    #[must_use]
    pub const fn is_complete(&self) -> bool {
        self.complete
    }

    /// Counters and state, for displays.
    #[must_use]
    pub fn snapshot(&self) -> Snapshot {
        let held = self.held.as_ref();
        let table = || self.receptions.values().filter(|r| r.class != Class::Manifest);
        let partial: u64 = table().map(Reception::bytes_done).sum();
        Snapshot {
            generation: held.map_or(Generation(0), |h| h.manifest.head().generation),
            has_manifest: held.is_some(),
            objects: held.map_or(0, |h| h.wanted),
            objects_done: held.map_or(0, |h| h.installed),
            bytes: held.map_or(0, |h| h.wanted_bytes),
            bytes_done: held.map_or(0, |h| h.installed_bytes) + partial,
            symbols: self.counters.symbols,
            repair_symbols: self.counters.repair_symbols,
            unneeded: self.counters.unneeded,
            nacks: self.counters.nacks,
            nack_bytes: self.counters.nack_bytes,
            loss_ppm: self.sessions.chosen().map_or(0, |(_, s)| s.loss_ppm()),
            unicast_wanted: self.cycle.unicast_wanted(),
            open_blocks: table().map(|r| r.open_blocks() as u64).sum(),
            complete: self.complete,
            senders: u32::try_from(self.sessions.len()).unwrap_or(u32::MAX),
        }
    }
}
