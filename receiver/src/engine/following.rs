//! Following manifests: what a sender offers is fetched, put together and compared; what the comparison wants
//! is received.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use nackcast_common::clock::Time;
use nackcast_common::ids::{Digest, Generation, ObjectId};
use nackcast_common::manifest::Manifest;
use nackcast_common::ranges::RangeSet;
use nackcast_proto::manifest::Root;
use nackcast_proto::wire::{Advertisement, ManifestRef};

use super::event::{Event, Want, Wants, Work};
use super::manifest::Offer;
use super::object::{Class, Reception};
use super::sessions::Heard;
use super::{Held, ReceiverEngine};

/// What is heard of the end of a pass counts only when stragglers have arrived.
const STRAGGLERS: Duration = Duration::from_millis(4);

impl ReceiverEngine {
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

    fn follow_manifest(&mut self, advertisement: &Advertisement) {
        if let Some(reference) = advertisement.manifest {
            self.follow_offer(reference, advertisement.generation);
        }
    }

    /// Somebody has this manifest.
    pub(super) fn follow_offer(&mut self, reference: ManifestRef, generation: Generation) {
        match self.acquisition.offer(reference, generation) {
            Offer::Ours => {}
            Offer::Older => self.say(Event::OlderGeneration(generation)),
            Offer::Fork => self.say(Event::TwoManifests(generation)),
            Offer::New { root, layout } => {
                self.drop_manifest_receptions();
                self.receptions.insert(root, Reception::new(layout, Class::Manifest, RangeSet::new()));
                self.acquire();
            }
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

    /// The root was verified by the node: its parts are wanted, except those at hand.
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

    /// Somebody live has the manifest that is offered, or it is newer than one that somebody live had.
    pub(super) fn is_confirmed(&self) -> bool {
        self.config.remembered.is_some()
            || self.held.is_some()
            || self.pull.vouched
            || self.sessions.chosen().is_some_and(|(_, s)| s.confirmed)
    }

    /// Orders the manifest's assembly when everything of it is here.
    pub(super) fn acquire(&mut self) {
        let waiting = self.receptions.values().any(|r| r.class == Class::Manifest && !r.is_done());
        if let Some(reference) = self.acquisition.ready(self.is_confirmed(), waiting) {
            self.drop_manifest_receptions();
            self.work.push_back(Work::Assemble(reference));
        }
        self.cycle.look();
    }

    /// The dataset was compared with a manifest (new, or the same after a scan).
    pub fn handle_wants(&mut self, now: Time, wants: Wants) {
        let Wants { manifest, hash, objects } = wants;
        let keep: BTreeSet<_> = objects.iter().filter_map(|w| manifest.object(w.index)).map(|o| o.id).collect();
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
            oldest: manifest.objects().iter().map(|o| o.since).min().unwrap_or_default(),
            objects: manifest.objects().len() as u64,
            bytes: manifest.objects().iter().map(|o| o.layout.size()).sum(),
            wanted: objects.len() as u64,
            wanted_bytes,
            installed: 0,
            installed_bytes: 0,
        };
        let is_new = self.held.as_ref().is_none_or(|before| before.hash != hash);
        self.acquisition.hold(manifest.head().generation, hash);
        self.held = Some(held);
        self.complete = false;
        self.finishing = false;
        if is_new && self.sessions.len() > 0 {
            // A sender offered it: that earlier NACKs had no answer says nothing of what it brings.
            self.sessions.choice.on_answer(false);
        }
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
}
