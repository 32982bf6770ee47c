//! Progress: what became of work orders, and what follows from it. Blocks make objects, objects are installed,
//! and when nothing is wanted any more the dataset is looked at as a whole.

use std::time::Duration;

use fixedbitset::FixedBitSet;
use nackcast_common::clock::Time;
use nackcast_common::ids::ObjectId;
use nackcast_common::mutation::{Mutation, planted};

use super::event::{BlockOutcome, Done, Event, InstallOutcome, Slot, Work};
use super::object::{Class, Reception};
use super::{CHECKPOINT, ReceiverEngine};

/// A dataset that is not whole although nothing is wanted (somebody changes it, or stands in the way) is looked
/// at again after so long.
const FINISH_RETRY: Duration = Duration::from_secs(5);

impl ReceiverEngine {
    /// A work order's result.
    pub fn handle_done(&mut self, now: Time, done: Done) {
        match done {
            Done::Complete { object, block, slot, outcome } => {
                self.slots.give_back(slot);
                self.on_block(now, object, block, outcome);
            }
            Done::Spill { object, block, slot, held } => {
                if !planted(Mutation::SlotLeaks) {
                    self.slots.give_back(slot);
                }
                if held.is_none() {
                    self.keeping.refused(now);
                }
                if let Some(reception) = self.receptions.get_mut(&object) {
                    reception.on_spilled(now, block, held);
                }
                self.spill();
            }
            Done::Load { object, block, slot, held } => self.on_loaded(object, block, slot, held),
            Done::ManifestRefused { hash } => self.acquisition.refuse(hash),
            Done::ManifestLost => self.acquisition.lose(self.held.is_some()),
            Done::Install { object, outcome } => self.on_installed(now, object, outcome),
            Done::Finish { whole } => self.on_finished(now, whole),
            Done::Checkpoint => self.checkpointing = false,
            Done::Room { is_there } => {
                self.keeping.looked(now, is_there);
            }
        }
        // Whatever was lost is asked for, also while no advertisement comes that would make us look.
        self.cycle.look();
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
                self.keeping.refused(now);
            }
        }
        self.on_progress_of(object);
    }

    fn on_loaded(&mut self, object: ObjectId, block: u32, slot: Slot, held: FixedBitSet) {
        match self.receptions.get_mut(&object) {
            Some(reception) if reception.loading_into(block) == Some(slot) => {
                let enough = reception.on_loaded(block, held);
                // It was passed over when memory ran low meanwhile. What has enough and cannot be verified yet gets no
                // further symbol: it would hold its slot for ever.
                self.slots.touch(object, block);
                if enough {
                    self.complete_block(object, block);
                }
                self.spill();
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
                self.cycle.done_with(object);
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
                    self.keeping.refused(now);
                }
                if let Some(reception) = self.receptions.get_mut(&object) {
                    reception.installing = false;
                    reception.retry_at = now + FINISH_RETRY;
                }
            }
            InstallOutcome::Refetch { left } => {
                if let Some(reception) = self.receptions.get_mut(&object) {
                    reception.refetch(now, left);
                }
            }
        }
    }

    /// Nothing of the dataset is wanted any more.
    fn all_installed(&self) -> bool {
        self.missing.is_empty() && self.receptions.values().all(|r| r.class == Class::Manifest)
    }

    fn on_finished(&mut self, now: Time, whole: bool) {
        self.finishing = false;
        // What a scan found after it was ordered, it did not know of.
        if whole && self.all_installed() {
            self.complete = true;
            if let Some(held) = &self.held {
                self.events.push_back(Event::Complete(held.manifest.head().generation));
            }
            self.cycle.report();
        } else {
            self.finish_at = now + FINISH_RETRY;
        }
    }

    /// Blocks that have all they need are verified; an object that has all blocks is installed.
    pub(super) fn resume(&mut self, id: ObjectId) {
        if !self.can_verify(id) {
            return;
        }
        let Some(reception) = self.receptions.get_mut(&id) else { return };
        for (block, slot) in reception.take_complete() {
            self.slots.forget(id, block);
            self.work.push_back(Work::Complete { object: id, block, slot });
        }
        let on_disk: Vec<_> = reception.complete_on_disk().collect();
        for block in on_disk {
            let Some(slot) = self.slots.take(id, block) else { break };
            reception.begin_load(block, slot);
            self.work.push_back(Work::Load { object: id, block, slot });
        }
        self.install_if_done(id);
    }

    pub(super) fn install_if_done(&mut self, id: ObjectId) {
        if let Some(reception) = self.receptions.get_mut(&id)
            && reception.is_done()
            && !reception.installing
            && matches!(reception.class, Class::Table { .. })
        {
            reception.installing = true;
            self.work.push_back(Work::Install { object: id });
        }
    }

    /// What could not go on (no slot, no disk space) is tried again.
    pub(super) fn unblock(&mut self, now: Time) {
        if self.held.is_none() {
            return;
        }
        if self.all_installed() && !self.finishing && !self.complete && now >= self.finish_at {
            self.finishing = true;
            self.work.push_back(Work::Finish);
            return;
        }
        let stuck: Vec<_> = self
            .receptions
            .iter()
            .filter(|(_, r)| r.class != Class::Manifest)
            .filter(|(id, r)| {
                (now >= r.retry_at && self.waits_to_install(**id, r)) || r.complete_on_disk().next().is_some()
            })
            .map(|(id, _)| *id)
            .collect();
        for id in stuck {
            self.resume(id);
        }
    }

    /// Whose block hashes are being fetched anew goes on when these are there.
    fn waits_to_install(&self, id: ObjectId, reception: &Reception) -> bool {
        !reception.installing && reception.is_done() && self.can_verify(id)
    }

    /// When something that could not go on is tried again.
    pub(super) fn stuck_until(&self) -> Option<Time> {
        if self.held.is_none() || self.complete || self.finishing || self.keeping.is_stopped() {
            return None;
        }
        let table = self.receptions.iter().filter(|(_, r)| r.class != Class::Manifest);
        let install = table.filter(|(id, r)| self.waits_to_install(**id, r)).map(|(_, r)| r.retry_at).min();
        let finish = self.all_installed().then_some(self.finish_at);
        install.into_iter().chain(finish).min()
    }

    pub(super) fn checkpoint(&mut self, now: Time) {
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

    /// Every open block with a slot, to be put on disk before the process ends.
    #[must_use]
    pub fn open_in_memory(&self) -> Vec<(ObjectId, u32, Slot)> {
        let table = self.receptions.iter().filter(|(_, r)| r.class != Class::Manifest);
        table
            .flat_map(|(id, r)| r.open_in_memory_since(Time::NEVER).into_iter().map(|(block, slot)| (*id, block, slot)))
            .collect()
    }
}
