//! A bad block that was pulled is never taken, and whoever gave it is dropped and reported.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use nackcast_common::geometry::Layout;
use nackcast_common::ids::ObjectId;
use nackcast_receiver::engine::BlockOutcome;

use super::Verdict;
use crate::sim::unicast::Place;

/// The oracle, which knows the true bytes of all objects.
#[derive(Debug, Default)]
pub struct FalseSource {
    truth: BTreeMap<ObjectId, (Layout, Bytes)>,
    /// Blocks that were given to a receiver: by whom, and whether they are true.
    given: BTreeMap<(u32, ObjectId, u32), (Place, bool)>,
    /// Who must not be asked any more.
    dropped: BTreeMap<u32, BTreeSet<Place>>,
}

impl FalseSource {
    /// These objects exist.
    pub fn learn(&mut self, objects: impl Iterator<Item = (ObjectId, Layout, Bytes)>) {
        self.truth.extend(objects.map(|(id, layout, bytes)| (id, (layout, bytes))));
    }

    /// The size of an object's blocks.
    #[must_use]
    pub fn block_size(&self, object: ObjectId) -> u32 {
        self.truth.get(&object).map_or(0, |(layout, _)| layout.geometry().block_size())
    }

    /// The receiver's process is a new one: it knows of nobody's falseness.
    pub fn on_start(&mut self, receiver: u32) {
        self.given.retain(|(of, ..), _| *of != receiver);
        self.dropped.remove(&receiver);
    }

    /// A receiver asks somebody.
    ///
    /// # Errors
    /// When that one gave it a bad block.
    pub fn on_order(&self, receiver: u32, source: Place) -> Verdict {
        if self.dropped.get(&receiver).is_some_and(|dropped| dropped.contains(&source)) {
            return Err(format!("receiver {receiver} asks {source:?} again, which gave it a bad block"));
        }
        Ok(())
    }

    /// A receiver is given a block.
    pub fn on_block(&mut self, receiver: u32, source: Place, object: ObjectId, block: u32, data: &Bytes) {
        let Some((layout, truth)) = self.truth.get(&object) else { return };
        let from = usize::try_from(layout.block_offset(block)).unwrap_or(usize::MAX);
        let is_true = truth.get(from..from.saturating_add(layout.block_len(block) as usize)) == Some(data);
        self.given.insert((receiver, object, block), (source, is_true));
    }

    /// It has looked at it.
    ///
    /// # Errors
    /// When it took a bad one for sound, or a sound one for bad.
    pub fn on_checked(&mut self, receiver: u32, object: ObjectId, block: u32, outcome: BlockOutcome) -> Verdict {
        let Some((source, is_true)) = self.given.remove(&(receiver, object, block)) else { return Ok(()) };
        match (is_true, outcome) {
            (false, BlockOutcome::Sound) => Err(format!(
                "receiver {receiver} took block {block} of object {object}, which {source:?} gave it wrong"
            )),
            (true, BlockOutcome::Unsound) => Err(format!(
                "receiver {receiver} refused block {block} of object {object}, which {source:?} gave it right"
            )),
            (false, BlockOutcome::Unsound) => {
                self.dropped.entry(receiver).or_default().insert(source);
                Ok(())
            }
            (_, BlockOutcome::NotKept) | (true, BlockOutcome::Sound) => Ok(()),
        }
    }

    /// Whom a receiver must have dropped.
    pub fn dropped(&self, receiver: u32) -> impl Iterator<Item = Place> + '_ {
        self.dropped.get(&receiver).into_iter().flatten().copied()
    }

    /// A look at a receiver, which tells people of these sources.
    ///
    /// # Errors
    /// When it is silent about one.
    pub fn look(&self, receiver: u32, is_told: impl Fn(Place) -> bool) -> Verdict {
        match self.dropped(receiver).find(|place| !is_told(*place)) {
            Some(place) => Err(format!("receiver {receiver} tells nobody that {place:?} gave it a bad block")),
            None => Ok(()),
        }
    }
}
