//! Memory for open blocks: a fixed number of slots, the least recently touched given up first.
//!
//! Some slots are kept free at all times, so that a symbol of a new block finds one while a spill is under way.

use std::collections::{BTreeMap, BTreeSet};

use nackcast_common::ids::ObjectId;

use super::event::Slot;

/// Which block a slot holds.
type Key = (ObjectId, u32);

#[derive(Debug)]
pub(super) struct Slots {
    /// Given back. Slots from `begun` on were never used.
    returned: Vec<Slot>,
    begun: u32,
    count: u32,
    reserve: usize,
    touched: BTreeMap<Key, u64>,
    order: BTreeSet<(u64, Key)>,
    clock: u64,
}

impl Slots {
    pub(super) fn new(count: u32) -> Self {
        let count = count.max(4);
        Self {
            returned: Vec::new(),
            begun: 0,
            count,
            reserve: (count as usize / 8).clamp(1, 16),
            touched: BTreeMap::new(),
            order: BTreeSet::new(),
            clock: 0,
        }
    }

    /// A free slot for a block.
    pub(super) fn take(&mut self, object: ObjectId, block: u32) -> Option<Slot> {
        let fresh = Slot(self.begun);
        let slot = match self.returned.pop() {
            Some(slot) => slot,
            None if self.begun < self.count => {
                self.begun += 1;
                fresh
            }
            None => return None,
        };
        self.touch(object, block);
        Some(slot)
    }

    fn free(&self) -> usize {
        self.returned.len() + (self.count - self.begun) as usize
    }

    /// Blocks that are complete, or go to disk, hold so much that new ones may soon find none.
    pub(super) fn is_short(&self) -> bool {
        self.free() + self.touched.len() < self.count as usize / 2
    }

    /// The block got a symbol.
    pub(super) fn touch(&mut self, object: ObjectId, block: u32) {
        let key = (object, block);
        if self.order.last().is_some_and(|(_, last)| *last == key) {
            return;
        }
        self.clock += 1;
        if let Some(before) = self.touched.insert(key, self.clock) {
            self.order.remove(&(before, key));
        }
        self.order.insert((self.clock, key));
    }

    /// The block no longer competes for memory (it is complete, or being spilled); its slot is not free yet.
    pub(super) fn forget(&mut self, object: ObjectId, block: u32) {
        if let Some(before) = self.touched.remove(&(object, block)) {
            self.order.remove(&(before, (object, block)));
        }
    }

    /// The slot is free.
    pub(super) fn give_back(&mut self, slot: Slot) {
        debug_assert!(slot.0 < self.begun && !self.returned.contains(&slot), "a slot is given back once");
        self.returned.push(slot);
    }

    /// The block to spill, when memory runs low.
    pub(super) fn to_spill(&self) -> Option<Key> {
        (self.free() < self.reserve).then(|| self.order.first().map(|(_, key)| *key)).flatten()
    }
}
