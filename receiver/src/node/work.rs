//! Between the engine and the workers: what the engine orders gets its bytes, what workers report becomes facts.

use std::sync::Arc;
use std::time::Duration;

use fixedbitset::FixedBitSet;
use nackcast_common::clock::Time;
use nackcast_common::geometry::Layout;
use nackcast_common::ids::ObjectId;
use nackcast_common::manifest::Chaining;

use super::{End, Order, ReceiverNode};
use crate::blocks::{self, Check, Keep};
use crate::dataset;
use crate::engine::{BlockOutcome, Done, InstallOutcome, Slot, Work};

/// A comparison that failed is tried again after so long.
const COMPARE_RETRY: Duration = Duration::from_secs(5);

impl ReceiverNode {
    pub(super) fn order_blocks(&mut self, order: blocks::Order) {
        self.orders.push_back(Order::Blocks(order));
    }

    pub(super) fn order_dataset(&mut self, order: dataset::Order) {
        self.orders.push_back(Order::Dataset(order));
    }

    /// Size and cut of an object of the manifest, or of the manifest itself.
    pub(super) fn layout(&self, object: ObjectId) -> Option<Layout> {
        if let Some((layout, _)) = self.pieces.get(object) {
            return Some(layout);
        }
        let manifest = self.manifest.as_ref()?;
        manifest.object(manifest.index_of(object)?).map(|o| o.layout)
    }

    pub(super) fn check(&self, object: ObjectId) -> Option<(Check, Keep)> {
        if let Some((_, digest)) = self.pieces.get(object) {
            return Some((Check::Digest(digest), Keep::Memory));
        }
        let manifest = self.manifest.as_ref()?;
        let record = manifest.object(manifest.index_of(object)?)?;
        let check = match &record.chaining {
            Chaining::Digest => Check::Digest(record.digest),
            Chaining::Inline(values) => Check::Chaining(Arc::clone(values)),
            Chaining::Object(id) => Check::Chaining(Arc::clone(self.chaining.get(id)?)),
        };
        Some((check, Keep::Disk))
    }

    /// Makes orders of the engine's work.
    pub(super) fn drain_work(&mut self, now: Time) {
        while let Some(work) = self.engine.poll_work() {
            self.work(now, work);
        }
    }

    fn work(&mut self, now: Time, work: Work) {
        match work {
            Work::Complete { object, block, slot } => {
                let buffer = self.arena.take(slot);
                match self.layout(object).zip(self.check(object)) {
                    Some((layout, (check, keep))) => {
                        let slot = Some(slot);
                        self.order_blocks(blocks::Order::Complete { object, layout, block, slot, buffer, check, keep });
                    }
                    None => {
                        self.arena.give_back(buffer);
                        let outcome = BlockOutcome::NotKept;
                        self.engine.handle_done(now, Done::Complete { object, block, slot, outcome });
                    }
                }
            }
            Work::Spill { object, block, slot } => {
                let buffer = self.arena.take(slot);
                match self.layout(object) {
                    Some(layout) => self.order_blocks(blocks::Order::Spill { object, layout, block, slot, buffer }),
                    None => {
                        self.arena.give_back(buffer);
                        self.engine.handle_done(now, Done::Spill { object, block, slot, held: None });
                    }
                }
            }
            Work::Load { object, block, slot } => self.order_blocks(blocks::Order::Load { object, block, slot }),
            Work::Discard { slot } => self.arena.discard(slot),
            Work::Assemble(reference) => {
                let blobs = self.pieces.take();
                self.order_dataset(dataset::Order::Assemble { hash: reference.hash, blobs });
            }
            Work::Install { object } => self.order_dataset(dataset::Order::Install(vec![object])),
            Work::Checkpoint { blocks } => self.checkpoint(blocks),
            Work::Room => self.order_blocks(blocks::Order::Room),
            Work::Finish => self.order_dataset(dataset::Order::Finish),
        }
    }

    pub(super) fn checkpoint(&mut self, blocks: Vec<(ObjectId, u32, Slot)>) {
        let blocks = blocks
            .into_iter()
            .filter_map(|(object, block, slot)| Some((object, self.layout(object)?, block, self.arena.copy(slot)?)))
            .collect();
        self.order_blocks(blocks::Order::Checkpoint { blocks });
    }

    /// What the block worker reports.
    pub fn handle_block_report(&mut self, now: Time, report: blocks::Report) {
        match report {
            blocks::Report::Complete { object, block, slot, buffer, outcome, bytes } => {
                self.arena.give_back(buffer);
                if let Some(bytes) = bytes {
                    self.on_manifest_bytes(now, object, bytes.into());
                }
                match slot {
                    Some(slot) => self.engine.handle_done(now, Done::Complete { object, block, slot, outcome }),
                    None => {
                        if outcome == BlockOutcome::Sound {
                            self.watch.on_pulled(now);
                        }
                        self.engine.handle_checked(now, object, block, outcome);
                    }
                }
            }
            blocks::Report::Spill { object, block, slot, buffer, held } => {
                self.arena.give_back(buffer);
                self.engine.handle_done(now, Done::Spill { object, block, slot, held });
            }
            blocks::Report::Load { object, block, slot, held } => {
                let held = match (self.layout(object), held) {
                    (Some(layout), Some(symbols)) => self.arena.load(slot, layout, block, &symbols),
                    (Some(layout), None) => FixedBitSet::with_capacity(layout.esi_end(block).into()),
                    (None, _) => {
                        self.arena.discard(slot);
                        FixedBitSet::new()
                    }
                };
                self.engine.handle_done(now, Done::Load { object, block, slot, held });
            }
            blocks::Report::Checkpoint { buffers } => {
                buffers.into_iter().for_each(|b| self.arena.give_back(b));
                self.engine.handle_done(now, Done::Checkpoint);
            }
            blocks::Report::Room { is_there } => self.engine.handle_done(now, Done::Room { is_there }),
            blocks::Report::LookUp { hash, here } => self.on_looked_up(now, hash, &here),
            blocks::Report::Trouble(error) => {
                self.notes.say(now, &error.to_string());
                self.watch.on_disk(error.to_string());
            }
        }
        self.drain(now);
    }

    /// What the dataset worker reports.
    pub fn handle_dataset_report(&mut self, now: Time, report: dataset::Report) {
        match report {
            dataset::Report::Wants(wants) => {
                self.remembers = None;
                self.manifest = Some(Arc::clone(&wants.manifest));
                self.manifest_hash = Some(wants.hash);
                let generation = wants.manifest.head().generation.0;
                self.watch.on_manifest(generation, self.pulled().0, self.listening.received_bytes);
                self.engine.handle_wants(now, *wants);
            }
            dataset::Report::Refused { hash, why } => self.refuse_manifest(now, hash, &why),
            dataset::Report::Lost(why) => {
                self.remembers = None;
                self.notes.say(now, &why);
                self.engine.handle_done(now, Done::ManifestLost);
            }
            dataset::Report::Chaining(id, values) => {
                self.chaining.insert(id, values);
            }
            dataset::Report::Blocked(blocked) => self.watch.on_blocked(blocked),
            dataset::Report::Damaged { paths, count } => self.watch.on_damaged(&paths, count),
            dataset::Report::Installed { object, outcome } => {
                if outcome == InstallOutcome::Full {
                    let why = self.notes.current.clone();
                    self.watch.on_disk(why.unwrap_or_else(|| "the disk is full".to_owned()));
                }
                self.engine.handle_done(now, Done::Install { object, outcome });
            }
            dataset::Report::Finished { whole } => self.engine.handle_done(now, Done::Finish { whole }),
            dataset::Report::Trouble(line) => self.notes.say(now, &line),
            dataset::Report::NotOurs(paths) => self.ended = Some(End::NotOurs(paths)),
            dataset::Report::Failed(line) => {
                self.notes.say(now, &line);
                self.watch.on_disk(line);
                self.retry_compare = Some(now + COMPARE_RETRY);
            }
        }
        self.drain(now);
    }
}
