//! What may be pulled by unicast, and when: the last resort, never earlier.
//!
//! An object may be pulled
//! - when a sender answered that it has no passes left for it (`unicast`), until a sender answers otherwise;
//! - where configured, when a sender answered that it does not have it (`unknown`), until one answers otherwise;
//! - when no sender answered for [`CYCLES_MAX`] cycles of NACKs, or none was heard for as long: everything, until one is
//!   heard again, or answers.
//!
//! A pulled block is verified and kept by the same orders as one that was multicast; whichever comes first counts.

use std::time::Duration;

use nackcast_common::clock::Time;
use nackcast_common::ids::{Generation, ObjectId, ObjectIndex};
use nackcast_common::mutation::{Mutation, planted};
use nackcast_proto::wire::ManifestRef;

use super::ReceiverEngine;
use super::choice::CYCLES_MAX;
use super::event::{BlockOutcome, Event, Work};
use super::object::{Class, Reception};
use super::pull::{PullEnd, PullOrder, PullWhen, RequestId, SourceId};

/// Tries in a cycle: two to the primary, two to a backup.
const CYCLE_TRIES: u32 = 4;
/// Objects looked at in one search for something to pull.
const SEARCH_MAX: usize = 256;
/// Objects of which nothing is held are begun only while no more than this are partial.
const PARTIAL_MAX: usize = 4096;
/// A search that found nothing goes on after so long.
const SEARCH_AGAIN: Duration = Duration::from_millis(20);

impl ReceiverEngine {
    /// Allows pulling, with at most so many bytes under way.
    pub fn allow_pull(&mut self, when: PullWhen, bytes_max: u64) {
        self.pull.set_up(when, bytes_max);
    }

    /// Somebody who may have blocks; one that is known already is not added again.
    pub fn add_source(&mut self, source: SourceId) {
        self.pull.add_source(source);
    }

    /// A source was reached: others that are not are not waited for.
    pub fn handle_reached(&mut self, now: Time, source: SourceId) {
        self.pull.on_reached(source);
        self.advance(now);
    }

    /// The next order about unicast.
    pub fn poll_pull(&mut self) -> Option<PullOrder> {
        self.pull.poll()
    }

    /// Sound bytes that each source gave.
    pub fn pulled(&self) -> impl Iterator<Item = (SourceId, u64)> + '_ {
        self.pull.pulled()
    }

    /// A block arrived. Some, when it is wanted: the object it is of; it is to be verified, and what came of that told
    /// by [`Self::handle_checked`].
    pub fn handle_pulled(&mut self, now: Time, request: RequestId, block: u32) -> Option<ObjectId> {
        let (object, _) = self.pull.on_block(now, request, block)?;
        let wanted = self.receptions.get(&object).is_some_and(|r| !r.is_block_done(block)) && self.can_verify(object);
        if !wanted {
            self.pull.on_checked(object, block, None);
        } else if let Some(reception) = self.receptions.get_mut(&object) {
            reception.pulled_at = Some(now);
        }
        wanted.then_some(object)
    }

    /// A pulled block was verified, and kept if it was sound.
    pub fn handle_checked(&mut self, now: Time, object: ObjectId, block: u32, outcome: BlockOutcome) {
        let sound = match outcome {
            BlockOutcome::Sound => Some(true),
            BlockOutcome::Unsound => Some(false),
            BlockOutcome::NotKept => None,
        };
        let source = self.pull.on_checked(object, block, sound);
        match outcome {
            BlockOutcome::Sound => self.on_pulled_sound(object, block),
            BlockOutcome::Unsound => self.events.extend(source.map(|source| Event::SourceDropped(source, object))),
            BlockOutcome::NotKept => self.keeping.refused(now),
        }
        self.advance(now);
    }

    fn on_pulled_sound(&mut self, object: ObjectId, block: u32) {
        let Some(reception) = self.receptions.get_mut(&object) else { return };
        // Symbols of it that were multicast are not needed any more. A slot that is being loaded comes back by itself.
        if reception.loading_into(block).is_none()
            && let Some(slot) = reception.take_block(block)
        {
            self.slots.give_back(slot);
            self.work.push_back(Work::Discard { slot });
        }
        self.slots.forget(object, block);
        reception.on_sound(block);
        self.on_progress_of(object);
    }

    /// A request is over.
    pub fn handle_pull_over(&mut self, now: Time, request: RequestId, end: PullEnd) {
        self.pull.on_over(now, request, end);
        self.advance(now);
    }

    /// A source has this manifest, and its root is signed by the publisher. True when it is followed.
    pub fn handle_offer(&mut self, now: Time, reference: ManifestRef, generation: Generation) -> bool {
        let follows = self.is_alone(now) && self.acquisition.would_follow(&reference, generation);
        if follows {
            self.pull.vouched = true;
            self.pull.manifest_came();
            self.follow_offer(reference, generation);
            // It may be here already, and have waited for somebody to vouch for it.
            self.acquire();
        }
        self.advance(now);
        follows
    }

    /// How long nobody must answer before a cycle counts.
    fn cycle_patience(&self) -> Duration {
        let (window, grtt) = self
            .sessions
            .chosen()
            .map_or((Duration::ZERO, Duration::ZERO), |(_, s)| (s.advertisement.nack_window, s.advertisement.grtt));
        (self.config.nack_retry * CYCLE_TRIES).max((window + grtt) * 2)
    }

    /// Since when nobody is heard, and until when that is no reason to pull.
    fn alone_at(&self) -> Option<Time> {
        let since = self.alone_since.filter(|_| self.sessions.len() == 0)?;
        let cycles = if planted(Mutation::PullsAtOnce) { 0 } else { CYCLES_MAX };
        Some(since + self.cycle_patience() * cycles)
    }

    /// No sender answers.
    fn is_alone(&self, now: Time) -> bool {
        self.sessions.choice.is_unanswered() || self.hears_nobody(now)
    }

    fn hears_nobody(&self, now: Time) -> bool {
        self.alone_at().is_some_and(|at| now >= at)
    }

    fn may_pull(&self, alone: bool, id: ObjectId) -> bool {
        let for_all = planted(Mutation::PermitForAll) && self.cycle.has_permits();
        alone || for_all || self.cycle.is_permitted(id, self.pull.when == PullWhen::Unknown)
    }

    /// Orders what is to be pulled now.
    pub(super) fn pull(&mut self, now: Time) {
        if self.sessions.len() > 0 {
            self.alone_since = None;
        } else {
            self.alone_since.get_or_insert(now);
        }
        self.pull.look_at = None;
        if !self.pull.is_possible() {
            return;
        }
        self.pull.expire(now);
        let alone = self.is_alone(now);
        // A newer one than ours, too: it may be that the last sender told others only.
        let wants_manifest = alone && (self.acquisition.is_idle() || !self.is_confirmed());
        let (receptions, cycle) = (&self.receptions, &self.cycle);
        let with_unknown = self.pull.when == PullWhen::Unknown;
        let wanted =
            |id| receptions.get(&id).is_some_and(|r| !r.is_done()) && (alone || cycle.is_permitted(id, with_unknown));
        self.pull.keep(wanted, wants_manifest);
        if wants_manifest {
            self.pull.ask_manifest(now, self.held.is_some());
        }
        if self.lacks_something(now) && !self.keeping.is_stopped() {
            while self.pull.has_room() && self.pull.usable(now, None).is_some() && self.pull_one(now, alone) {}
        }
        self.plan_next_look(now, alone, wants_manifest);
    }

    /// When to look again, if nothing happens.
    fn plan_next_look(&mut self, now: Time, alone: bool, wants_manifest: bool) {
        let stall = self.pull.stalls_at();
        let lonely = self.alone_at().filter(|_| !alone);
        // Sources back off, or lack what is wanted.
        let waits = alone && !self.nothing_wanted() || self.cycle.has_permits();
        let usable = self.pull.next_usable(now).filter(|_| waits);
        let manifest = self.pull.next_manifest(now).filter(|_| wants_manifest);
        self.pull.look_at = [self.pull.look_at, stall, lonely, usable, manifest].into_iter().flatten().min();
    }

    /// Of the dataset; or of a manifest that it is to follow next, of which only others that hold it can give: whoever
    /// advertises a new one was not asked yet.
    fn lacks_something(&self, now: Time) -> bool {
        !self.complete || !self.acquisition.is_idle() && self.hears_nobody(now)
    }

    fn nothing_wanted(&self) -> bool {
        self.held.is_some() && self.missing.is_empty() && self.receptions.values().all(Reception::is_done)
    }

    /// Finds something to ask for; false when there is nothing.
    fn pull_one(&mut self, now: Time, alone: bool) -> bool {
        let ids = self.candidates(alone);
        for id in &ids {
            let known = self.receptions.contains_key(id) || self.begin_reception(*id);
            if !known || !self.may_pull(alone, *id) || !self.can_verify(*id) {
                continue;
            }
            let (Some(source), Some(reception)) = (self.pull.usable(now, Some(*id)), self.receptions.get(id)) else {
                continue;
            };
            if self.pull.fetch(now, source, *id, reception.layout, reception.gaps()) {
                self.pull.cursor = *id;
                return true;
            }
        }
        if ids.len() >= SEARCH_MAX {
            // What is further on is looked at soon.
            self.pull.cursor = ids.last().map_or(ObjectId(0), |id| ObjectId(id.0.wrapping_add(1)));
            self.pull.look_at = Some(now + SEARCH_AGAIN);
        }
        false
    }

    /// Objects of which something may be missing, some of them in turn; those of which nothing is held last.
    fn candidates(&self, alone: bool) -> Vec<ObjectId> {
        let from = self.pull.cursor;
        if !alone && !planted(Mutation::PermitForAll) {
            return self.cycle.permits(from, SEARCH_MAX);
        }
        let partial = self.receptions.range(from..).chain(self.receptions.range(..from));
        let mut ids: Vec<_> = partial.filter(|(_, r)| !r.is_done()).map(|(id, _)| *id).take(SEARCH_MAX).collect();
        if self.receptions.len() <= PARTIAL_MAX
            && let Some(held) = &self.held
        {
            let room = SEARCH_MAX - ids.len();
            let missing = self.missing.iter().take(room).filter_map(|index| held.manifest.object(ObjectIndex(index)));
            ids.extend(missing.map(|object| object.id));
        }
        ids
    }

    /// An object got a block: what follows from that.
    pub(super) fn on_progress_of(&mut self, object: ObjectId) {
        let Some(reception) = self.receptions.get(&object) else { return };
        match reception.class {
            Class::Manifest if reception.is_done() => self.acquire(),
            Class::Manifest => {}
            Class::Table { .. } => self.install_if_done(object),
        }
        self.cycle.look();
    }
}
