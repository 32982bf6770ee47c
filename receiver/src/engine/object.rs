//! One object's reception.
//!
//! | block state | on | to |
//! |---|---|---|
//! | empty | symbol | open |
//! | open | K symbols, and the chaining values are at hand | verifying |
//! | open | memory is wanted | spilling, then open on disk |
//! | open on disk | symbol | loading, then open |
//! | verifying | sound | done |
//! | verifying | unsound | empty, and only symbols of the session that is asked count from now on |
//! | verifying, spilling | could not be kept | empty |
//!
//! | object state | on | to |
//! |---|---|---|
//! | unknown | symbol, or blocks found on disk | partial |
//! | partial | all blocks done | verified |
//! | verified | installed | (forgotten) |

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::time::Duration;

use fixedbitset::FixedBitSet;
use nackcast_common::clock::Time;
use nackcast_common::geometry::Layout;
use nackcast_common::ids::{ObjectId, ObjectIndex, SessionId};
use nackcast_common::ranges::RangeSet;

use super::event::{Ignored, Slot};

/// A block that came by unicast lets hope for more for so long.
const PULLED_LATELY: Duration = Duration::from_secs(10);

/// What was lost after it was here is asked for again after so long, when it was lost before.
const REFETCH: Duration = Duration::from_secs(2);
const REFETCH_MAX: Duration = Duration::from_secs(16);

/// What an object is to the engine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Class {
    /// Manifest root or part: blocks are checked by the digest, and kept in memory.
    Manifest,
    /// Object of the table. Its blocks cannot be checked before `awaits` is verified.
    Table { index: ObjectIndex, awaits: Option<ObjectId> },
}

/// Where an open block's symbols are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    Memory(Slot),
    /// Being brought from disk; symbols that arrive meanwhile are kept beside.
    Loading(Slot),
    Disk,
    /// Being put on disk, or being verified: symbols that arrive now are not needed or come again.
    Busy,
}

#[derive(Clone, Debug)]
struct Open {
    place: Place,
    held: FixedBitSet,
    count: u16,
    since: Time,
    /// The last symbol of it that the session sent: in which packet, and which.
    newest: Option<(SessionId, u64, u16)>,
}

impl Open {
    const fn new(now: Time, place: Place, held: FixedBitSet, count: u16) -> Self {
        Self { place, held, count, since: now, newest: None }
    }

    /// Whether this packet was sent after all that were heard of the block.
    fn is_newer(&self, session: SessionId, packet: u64) -> bool {
        self.newest.is_none_or(|(of, last, _)| of != session || last < packet)
    }

    /// Symbols that are held already and come before `deficit` new ones, as far as the last one tells: repair goes
    /// round, and source symbols that repair end with the block's last. (Another session may have sent them.)
    fn held_ahead(&self, k: u16, deficit: u16) -> u16 {
        let Some((_, _, last)) = self.newest else { return 0 };
        let end = u16::try_from(self.held.len()).unwrap_or(u16::MAX);
        let (rest, round) = if last < k { (last + 1..k, 0..0) } else { (last + 1..end, k..last) };
        let mut new = 0;
        let before = |esi: &u16| {
            new += u16::from(!self.held.contains((*esi).into()));
            new < deficit
        };
        let ahead = rest.chain(round).take_while(before).filter(|esi| self.held.contains((*esi).into()));
        u16::try_from(ahead.count()).unwrap_or(u16::MAX)
    }
}

/// What was asked or promised of a block that is not done.
#[derive(Clone, Copy, Debug, Default)]
struct Ask {
    quiet_until: Time,
    promised: u16,
    promised_until: Time,
}

/// One object being received.
#[derive(Debug)]
pub(super) struct Reception {
    pub(super) layout: Layout,
    pub(super) class: Class,
    /// Blocks that are here and sound, or not wanted.
    done: RangeSet,
    open: BTreeMap<u32, Open>,
    asks: BTreeMap<u32, Ask>,
    /// Blocks whose symbols were wrong once: only those of the session that is asked count.
    restarted: BTreeSet<u32>,
    /// Blocks below have passed in the running pass, as far as symbols show.
    cursor: u32,
    /// The last pass heard of is over: everything may be asked.
    pub(super) pass_over: bool,
    /// Serial of the last finished pass taken into account.
    pub(super) finished_serial: u64,
    /// All of it is promised until then.
    pub(super) whole_until: Time,
    pub(super) installing: bool,
    /// Nothing more is done for it before: its installation failed, or its bytes were lost more than once.
    pub(super) retry_at: Time,
    /// When a block of it came by unicast, last.
    pub(super) pulled_at: Option<Time>,
    /// What is lost next is asked for so much later.
    refetch_after: Duration,
    last_symbol: Time,
}

/// What a symbol did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Taken {
    /// Not needed.
    No(Ignored),
    /// Its block needs a slot: call again with one. `load`: the block's other symbols are on disk.
    NeedsSlot,
    /// Kept; the block has enough now if `enough`.
    Kept { slot: Slot, enough: bool },
}

/// What the rest of a run did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Rest {
    /// Symbols that were kept.
    pub(super) kept: u64,
    /// The block has enough now, for the first time.
    pub(super) enough: bool,
}

impl Reception {
    pub(super) fn new(layout: Layout, class: Class, done: RangeSet) -> Self {
        Self {
            layout,
            class,
            done,
            open: BTreeMap::new(),
            asks: BTreeMap::new(),
            restarted: BTreeSet::new(),
            cursor: 0,
            pass_over: false,
            finished_serial: 0,
            whole_until: Time::ZERO,
            installing: false,
            retry_at: Time::ZERO,
            pulled_at: None,
            refetch_after: Duration::ZERO,
            last_symbol: Time::ZERO,
        }
    }

    /// Symbols of a block that an earlier run left on disk.
    pub(super) fn restore(&mut self, now: Time, block: u32, held: FixedBitSet) {
        if block < self.layout.block_count() && !self.done.contains(block) {
            let count = u16::try_from(held.count_ones(..)).unwrap_or(u16::MAX);
            self.open.insert(block, Open::new(now, Place::Disk, held, count));
        }
    }

    /// It comes by unicast: blocks arrive now and then. Of sources that give none, however many there are, nothing is
    /// hoped for.
    pub(super) fn is_being_pulled(&self, now: Time) -> bool {
        self.pulled_at.is_some_and(|at| now.since(at) < PULLED_LATELY)
    }

    /// Every block is done.
    pub(super) fn is_done(&self) -> bool {
        let all = 0..self.layout.block_count();
        all.is_empty() || self.done.ranges().next() == Some(all)
    }

    /// Nothing of it is held.
    pub(super) fn is_untouched(&self) -> bool {
        self.done.is_empty() && self.open.is_empty()
    }

    /// The block is here and sound.
    pub(super) fn is_block_done(&self, block: u32) -> bool {
        self.done.contains(block)
    }

    /// Runs of blocks that are not here.
    pub(super) fn gaps(&self) -> impl Iterator<Item = Range<u32>> + '_ {
        self.gaps_to(self.layout.block_count())
    }

    fn gaps_to(&self, end: u32) -> impl Iterator<Item = Range<u32>> + '_ {
        let mut next = 0;
        let gaps = self.done.ranges().chain(std::iter::once(end..end)).map(move |done| {
            let gap = next..done.start.min(end);
            next = done.end;
            gap
        });
        gaps.filter(|gap| !gap.is_empty())
    }

    pub(super) fn open_blocks(&self) -> usize {
        self.open.len()
    }

    /// Bytes of blocks that are done.
    pub(super) fn bytes_done(&self) -> u64 {
        let last = self.layout.block_count().saturating_sub(1);
        let full = self.done.count() * u64::from(self.layout.geometry().block_size());
        if self.done.contains(last) {
            full - u64::from(self.layout.geometry().block_size()) + u64::from(self.layout.block_len(last))
        } else {
            full
        }
    }

    /// Symbols of the block were wrong once.
    pub(super) fn is_restarted(&self, block: u32) -> bool {
        self.restarted.contains(&block)
    }

    /// A symbol arrived. `slot` is one for its block when the last answer was [`Taken::NeedsSlot`].
    pub(super) fn on_symbol(&mut self, now: Time, block: u32, esi: u16, slot: Option<Slot>) -> Taken {
        let k = self.layout.source_symbols(block);
        if esi >= self.layout.esi_end(block) {
            return Taken::No(Ignored::OutOfRange);
        }
        if self.done.contains(block) {
            return Taken::No(Ignored::Duplicate);
        }
        let bits = usize::from(self.layout.esi_end(block));
        let fresh = || Open::new(now, Place::Disk, FixedBitSet::with_capacity(bits), 0);
        let is_new = !self.open.contains_key(&block);
        if is_new && slot.is_none() {
            return Taken::NeedsSlot;
        }
        let open = self.open.entry(block).or_insert_with(fresh);
        if open.held.contains(esi.into()) || open.count >= k && open.place != Place::Disk {
            return Taken::No(Ignored::Duplicate);
        }
        let at = match (open.place, slot) {
            (Place::Memory(at) | Place::Loading(at), _) => at,
            (Place::Busy, _) => return Taken::No(Ignored::Duplicate),
            (Place::Disk, None) => return Taken::NeedsSlot,
            (Place::Disk, Some(at)) => {
                open.place = if is_new { Place::Memory(at) } else { Place::Loading(at) };
                at
            }
        };
        open.held.insert(esi.into());
        open.count += 1;
        if let Some(ask) = self.asks.get_mut(&block) {
            ask.promised = ask.promised.saturating_sub(1);
        }
        let enough = open.count >= k && matches!(open.place, Place::Memory(_));
        Taken::Kept { slot: at, enough }
    }

    /// In which packet a symbol came, after [`Self::on_symbol`] took it or knew it already.
    pub(super) fn on_packet(&mut self, session: SessionId, packet: u64, block: u32, esi: u16) {
        if let Some(open) = self.open.get_mut(&block)
            && open.place != Place::Busy
            && open.is_newer(session, packet)
        {
            open.newest = Some((session, packet, esi));
        }
    }

    /// Symbols `esis` arrived, all source or all repair, of a block that is in memory or needs none; nothing is done
    /// (none returned) where it is not that simple. The same as [`Self::on_symbol`] and
    /// [`Self::on_packet`] for each.
    pub(super) fn on_symbols(
        &mut self,
        session: SessionId,
        first_packet: u64,
        block: u32,
        esis: Range<u16>,
    ) -> Option<Rest> {
        let k = self.layout.source_symbols(block);
        let mixed = esis.start < k && esis.end > k;
        if esis.end > self.layout.esi_end(block) || mixed {
            return None;
        }
        let unneeded = Some(Rest { kept: 0, enough: false });
        if self.done.contains(block) {
            return unneeded;
        }
        if self.is_restarted(block) {
            return None;
        }
        let open = self.open.get_mut(&block)?;
        match open.place {
            Place::Memory(_) => {}
            Place::Busy => return unneeded,
            Place::Loading(_) | Place::Disk => return None,
        }
        if !open.is_newer(session, first_packet) {
            return None;
        }
        let last = esis.end.saturating_sub(1);
        open.newest = Some((session, first_packet + u64::from(last - esis.start), last));
        let before = open.count;
        let (start, end) = (usize::from(esis.start), usize::from(esis.end));
        if open.held.count_ones(start..end) == 0 && usize::from(k.saturating_sub(before)) >= end - start {
            open.held.insert_range(start..end);
            open.count += esis.end - esis.start;
        } else {
            for esi in start..end {
                if open.count < k && !open.held.put(esi) {
                    open.count += 1;
                }
            }
        }
        let kept = open.count - before;
        if let Some(ask) = self.asks.get_mut(&block) {
            ask.promised = ask.promised.saturating_sub(kept);
        }
        Some(Rest { kept: kept.into(), enough: kept > 0 && open.count >= k })
    }

    /// Which ESIs of an open block are held.
    pub(super) fn held(&self, block: u32) -> Option<&FixedBitSet> {
        self.open.get(&block).map(|open| &open.held)
    }

    /// The slot into which the block's symbols are being brought from disk.
    pub(super) fn loading_into(&self, block: u32) -> Option<Slot> {
        match self.open.get(&block)?.place {
            Place::Loading(slot) => Some(slot),
            Place::Memory(_) | Place::Disk | Place::Busy => None,
        }
    }

    /// No symbol came for so long that the pass must be over, although its end was not heard.
    pub(super) fn on_stall(&mut self, now: Time, patience: Duration) {
        if !self.pass_over && now >= self.last_symbol + patience {
            self.pass_over = true;
        }
    }

    /// When [`Self::on_stall`] would change something.
    pub(super) fn stalls_at(&self, patience: Duration) -> Option<Time> {
        (!self.pass_over).then(|| self.last_symbol + patience)
    }

    /// Symbols of a later block of the same pass arrived: blocks below may be asked. True when that is news.
    pub(super) fn on_progress(&mut self, now: Time, block: u32) -> bool {
        self.last_symbol = now;
        let news = block > self.cursor;
        self.cursor = self.cursor.max(block);
        self.pass_over = self.pass_over && !news;
        news
    }

    /// Everything that was sent of it has arrived if it ever will: ask for what is short, promises are void.
    pub(super) fn on_pass_over(&mut self, serial: u64) {
        self.finished_serial = serial;
        self.pass_over = true;
        self.cursor = 0;
        self.asks.clear();
        self.whole_until = Time::ZERO;
    }

    /// Blocks in memory that have all they need and could be verified now; each is marked busy.
    pub(super) fn take_complete(&mut self) -> Vec<(u32, Slot)> {
        let layout = self.layout;
        let mut complete = Vec::new();
        for (block, open) in &mut self.open {
            if let Place::Memory(slot) = open.place
                && open.count >= layout.source_symbols(*block)
            {
                open.place = Place::Busy;
                complete.push((*block, slot));
            }
        }
        complete
    }

    /// Takes one block for verification.
    pub(super) fn take_block(&mut self, block: u32) -> Option<Slot> {
        let open = self.open.get_mut(&block)?;
        let Place::Memory(slot) = open.place else { return None };
        open.place = Place::Busy;
        Some(slot)
    }

    /// Blocks on disk that have all they need.
    pub(super) fn complete_on_disk(&self) -> impl Iterator<Item = u32> + '_ {
        let enough = |(block, open): &(&u32, &Open)| {
            open.place == Place::Disk && open.count >= self.layout.source_symbols(**block)
        };
        self.open.iter().filter(enough).map(|(block, _)| *block)
    }

    /// Begins to bring a block from disk.
    pub(super) fn begin_load(&mut self, block: u32, slot: Slot) {
        if let Some(open) = self.open.get_mut(&block) {
            open.place = Place::Loading(slot);
        }
    }

    /// A block came from disk; true when it has enough.
    pub(super) fn on_loaded(&mut self, block: u32, held: FixedBitSet) -> bool {
        let k = self.layout.source_symbols(block);
        let Some(open) = self.open.get_mut(&block) else { return false };
        if let Place::Loading(slot) = open.place {
            open.place = Place::Memory(slot);
            open.count = u16::try_from(held.count_ones(..)).unwrap_or(u16::MAX);
            open.held = held;
        }
        open.count >= k
    }

    /// A block goes to disk.
    pub(super) fn begin_spill(&mut self, block: u32) -> Option<Slot> {
        self.take_block(block)
    }

    /// A block is on disk, or was lost.
    pub(super) fn on_spilled(&mut self, now: Time, block: u32, held: Option<FixedBitSet>) {
        match held {
            // It may have been pulled meanwhile.
            Some(held) if held.count_ones(..) > 0 && !self.done.contains(block) => {
                let count = u16::try_from(held.count_ones(..)).unwrap_or(u16::MAX);
                let newest = self.open.get(&block).and_then(|open| open.newest);
                self.open.insert(block, Open { newest, ..Open::new(now, Place::Disk, held, count) });
            }
            Some(_) | None => {
                self.open.remove(&block);
            }
        }
    }

    /// A block is sound and kept.
    pub(super) fn on_sound(&mut self, block: u32) {
        self.open.remove(&block);
        self.asks.remove(&block);
        self.restarted.remove(&block);
        self.done.insert(block..block + 1);
        if self.is_done() {
            // An empty map keeps the room of eleven blocks; a manifest has hundreds of parts that are done.
            (self.open, self.asks, self.restarted) = (BTreeMap::new(), BTreeMap::new(), BTreeSet::new());
        }
    }

    /// A block must be received again; after wrong bytes, from the session that is asked only.
    pub(super) fn on_lost(&mut self, block: u32, wrong: bool) {
        if self.done.contains(block) {
            // It was pulled meanwhile.
            return;
        }
        self.open.remove(&block);
        self.asks.remove(&block);
        if wrong {
            self.restarted.insert(block);
        }
    }

    /// All but the blocks that are left is to be received again: at once, and when that was not enough, each time
    /// later. A disk that loses what it took must not make the sender send it over and over.
    pub(super) fn refetch(&mut self, now: Time, left: RangeSet) {
        self.retry_at = now + self.refetch_after;
        self.refetch_after = (self.refetch_after * 2).clamp(REFETCH, REFETCH_MAX);
        self.done = left;
        self.open.clear();
        self.asks.clear();
        self.installing = false;
        self.pass_over = true;
    }

    /// Slots in use, to give them back when the object is no longer wanted.
    pub(super) fn slots(&self) -> Vec<(u32, Slot)> {
        let slot = |(block, open): (&u32, &Open)| match open.place {
            Place::Memory(slot) | Place::Loading(slot) => Some((*block, slot)),
            Place::Disk | Place::Busy => None,
        };
        self.open.iter().filter_map(slot).collect()
    }

    /// Blocks in memory that have been open since before `since`: worth a checkpoint.
    pub(super) fn open_in_memory_since(&self, since: Time) -> Vec<(u32, Slot)> {
        let slot = |(block, open): (&u32, &Open)| match open.place {
            Place::Memory(slot) if open.since <= since => Some((*block, slot)),
            Place::Memory(_) | Place::Loading(_) | Place::Disk | Place::Busy => None,
        };
        self.open.iter().filter_map(slot).collect()
    }

    /// A Digest promised symbols of a block.
    pub(super) fn on_promise(&mut self, block: u32, count: u16, until: Time) {
        if block < self.layout.block_count() && !self.done.contains(block) {
            let ask = self.asks.entry(block).or_default();
            ask.promised = ask.promised.max(count);
            ask.promised_until = until;
        }
    }

    /// A sender went silent: nothing that it promised or was asked will come.
    pub(super) fn void_promises(&mut self) {
        self.asks.clear();
        self.whole_until = Time::ZERO;
        self.pass_over = true;
        // Serials are of a session.
        self.finished_serial = 0;
        // Another one begins elsewhere.
        self.open.values_mut().for_each(|open| open.newest = None);
    }

    /// What to ask now: blocks that are short, not covered, and not asked lately. And when to look again.
    pub(super) fn short_blocks(&self, now: Time) -> (Vec<(u32, u16)>, Option<Time>) {
        let end = if self.pass_over { self.layout.block_count() } else { self.cursor };
        let quiet_until = self.whole_until.max(self.retry_at);
        if now < quiet_until {
            return (Vec::new(), Some(quiet_until));
        }
        let mut short = Vec::new();
        let mut look_again: Option<Time> = None;
        for block in self.gaps_to(end).flatten() {
            let k = self.layout.source_symbols(block);
            let open = self.open.get(&block);
            let deficit = k.saturating_sub(open.map_or(0, |o| o.count));
            if deficit == 0 || open.is_some_and(|o| o.place == Place::Busy) {
                continue;
            }
            let ask = self.asks.get(&block).copied().unwrap_or_default();
            let wanted = deficit.saturating_add(open.map_or(0, |o| o.held_ahead(k, deficit))).min(k);
            let covered_until = if ask.promised >= wanted { ask.promised_until } else { Time::ZERO };
            let quiet_until = ask.quiet_until.max(covered_until);
            if now < quiet_until {
                look_again = Some(look_again.map_or(quiet_until, |at| at.min(quiet_until)));
            } else {
                short.push((block, wanted));
            }
        }
        (short, look_again)
    }

    /// Blocks were asked for: not again before `until`.
    pub(super) fn on_asked(&mut self, blocks: impl IntoIterator<Item = u32>, until: Time) {
        for block in blocks {
            self.asks.entry(block).or_default().quiet_until = until;
        }
    }

    /// The sender took the last asks: everything asked is quiet at least until then.
    pub(super) fn on_answer(&mut self, now: Time, until: Time) {
        for ask in self.asks.values_mut() {
            if ask.quiet_until > now {
                ask.quiet_until = ask.quiet_until.max(until);
            }
        }
    }
}

#[cfg(test)]
mod tests;
