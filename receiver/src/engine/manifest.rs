//! Which manifest to follow, and how far it is here.
//!
//! | state | on | to |
//! |---|---|---|
//! | following (or nothing) | a newer generation is advertised | wanting its root |
//! | wanting root | root received and verified | wanting parts |
//! | wanting parts | all parts here, and the sender is confirmed live | assembling |
//! | assembling | compared with the dataset | following |
//! | assembling | refused | nothing new; that hash is ignored from now on |
//! | assembling, or following what a former run left | its bytes are gone | nothing: it is wanted again |
//!
//! A lower generation from a live sender is no replay: ours is kept and objects are asked by id. Of two manifests
//! of one generation ours is kept.

use std::collections::BTreeSet;

use nackcast_common::geometry::Layout;
use nackcast_common::ids::{Digest, Generation, ObjectId};
use nackcast_proto::manifest::Root;
use nackcast_proto::wire::ManifestRef;

/// Refused manifests that are remembered.
const REFUSED_MAX: usize = 64;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Idle,
    Root(ManifestRef, Generation),
    Parts(ManifestRef, Generation),
    Assembling(ManifestRef, Generation),
}

/// What an advertised manifest is to us.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Offer {
    /// The one that we follow or already fetch (or one that we refused).
    Ours,
    /// Older than ours.
    Older,
    /// Another of our generation.
    Fork,
    /// Its root is wanted: an object of one block.
    New { root: ObjectId, layout: Layout },
}

#[derive(Debug)]
pub(super) struct Acquisition {
    state: State,
    held: Option<(Generation, Digest)>,
    refused: BTreeSet<Digest>,
}

impl Acquisition {
    pub(super) const fn new(remembered: Option<(Generation, Digest)>) -> Self {
        Self { state: State::Idle, held: remembered, refused: BTreeSet::new() }
    }

    /// Whether [`Self::offer`] would want this one, or wants it already.
    pub(super) fn would_follow(&self, reference: &ManifestRef, generation: Generation) -> bool {
        if self.refused.contains(&reference.hash) {
            return false;
        }
        let newer_than_held = self.held.is_none_or(|(ours, hash)| hash != reference.hash && generation > ours);
        newer_than_held
            && match self.state {
                State::Idle => true,
                State::Root(current, at) | State::Parts(current, at) | State::Assembling(current, at) => {
                    current.hash == reference.hash || generation > at
                }
            }
    }

    /// A live sender advertises this manifest.
    pub(super) fn offer(&mut self, reference: ManifestRef, generation: Generation) -> Offer {
        if self.refused.contains(&reference.hash) {
            return Offer::Ours;
        }
        if let Some((ours, hash)) = self.held {
            if hash == reference.hash {
                return Offer::Ours;
            }
            match generation.cmp(&ours) {
                std::cmp::Ordering::Less => return Offer::Older,
                std::cmp::Ordering::Equal => return Offer::Fork,
                std::cmp::Ordering::Greater => {}
            }
        }
        match self.state {
            State::Root(current, at) | State::Parts(current, at) | State::Assembling(current, at)
                if current.hash == reference.hash || at >= generation =>
            {
                return Offer::Ours;
            }
            _ => {}
        }
        let length = u64::from(reference.length);
        let Ok(layout) = reference.geometry.object(length) else { return Offer::Ours };
        self.state = State::Root(reference, generation);
        Offer::New { root: reference.geometry.object_id(&reference.hash, length), layout }
    }

    /// The root was verified; returns its parts that are not at hand.
    pub(super) fn on_root(
        &mut self,
        hash: Digest,
        root: &Root,
        at_hand: impl Fn(&Digest) -> bool,
    ) -> Vec<(ObjectId, Layout)> {
        let State::Root(reference, generation) = self.state else { return Vec::new() };
        if reference.hash != hash {
            return Vec::new();
        }
        self.state = State::Parts(reference, generation);
        let geometry = reference.geometry;
        let missing = root.parts().filter(|(digest, _)| !at_hand(digest));
        missing
            .filter_map(|(digest, length)| {
                let layout = geometry.object(length.into()).ok()?;
                Some((geometry.object_id(&digest, length.into()), layout))
            })
            .collect()
    }

    /// The manifest to assemble now, once.
    pub(super) fn ready(&mut self, confirmed: bool, waiting: bool) -> Option<ManifestRef> {
        let State::Parts(reference, generation) = self.state else { return None };
        if !confirmed || waiting {
            return None;
        }
        self.state = State::Assembling(reference, generation);
        Some(reference)
    }

    /// The dataset follows this manifest now.
    pub(super) fn hold(&mut self, generation: Generation, hash: Digest) {
        self.held = Some((generation, hash));
        if let State::Root(r, _) | State::Parts(r, _) | State::Assembling(r, _) = self.state
            && r.hash == hash
        {
            self.state = State::Idle;
        }
    }

    /// The manifest is not acceptable.
    pub(super) fn refuse(&mut self, hash: Digest) {
        if self.refused.len() >= REFUSED_MAX {
            self.refused.pop_first();
        }
        self.refused.insert(hash);
        self.state = State::Idle;
    }

    /// What was being put together, or was remembered, is not here: whatever is advertised next is wanted again.
    pub(super) fn lose(&mut self, holds_another: bool) {
        self.state = State::Idle;
        if !holds_another {
            self.held = None;
        }
    }

    /// No manifest is being fetched.
    pub(super) fn is_idle(&self) -> bool {
        self.state == State::Idle
    }

    /// The generation followed.
    pub(super) fn held(&self) -> Option<(Generation, Digest)> {
        self.held
    }
}
