//! What goes wrong on a disk, and how often.

use std::sync::Arc;

use rand::rngs::Xoshiro256PlusPlus;
use rand::{Rng, RngExt, SeedableRng};

use super::Disk;
use super::inodes::Content;

/// Probabilities of faults, each for one call.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Faults {
    /// A read fails (`EIO`).
    pub read_error: f64,
    /// A call that changes something fails (`EIO`), and changes nothing.
    pub write_error: f64,
    /// A dirty page cannot be written back: it is dropped, and the next sync of the file, and of the file
    /// system, is told `EIO` once. What was dropped may still be seen until a power cut, or be gone at once.
    pub write_back_error: f64,
    /// A sync returns success and does nothing.
    pub lying_sync: f64,
    /// After a change, some piece of what changed is written back by itself.
    pub write_back: f64,
}

/// The model's own choices, the same for the same seed.
#[derive(Clone, Debug)]
pub(super) struct Dice(Xoshiro256PlusPlus);

impl Dice {
    pub(super) fn new(seed: u64) -> Self {
        Self(Xoshiro256PlusPlus::seed_from_u64(seed))
    }

    pub(super) fn falls(&mut self, probability: f64) -> bool {
        // Nothing is drawn for what never happens: turning one fault on does not move the others.
        probability > 0.0 && self.0.random_bool(probability.min(1.0))
    }

    pub(super) fn coin(&mut self) -> bool {
        self.0.random()
    }

    /// One of a count that is not 0.
    pub(super) fn below(&mut self, count: usize) -> usize {
        self.0.random_range(0..count)
    }
}

impl Disk {
    /// Flips bits of stored pages at rest. Gives inode and offset of each.
    pub fn rot(&self, rng: &mut impl Rng, count: usize) -> Vec<(u64, u64)> {
        let mut state = self.state();
        let mut stored = Vec::new();
        for (number, inode) in &state.inodes {
            if let Content::File { now, .. } = &inode.content {
                stored.extend(now.pages.keys().map(|page| (*number, *page)));
            }
        }
        if stored.is_empty() {
            return Vec::new();
        }
        let mut flipped = Vec::with_capacity(count);
        for _ in 0..count {
            let (number, page) = stored[rng.random_range(0..stored.len())];
            let (byte, bit) = (rng.random_range(0..4096_usize), rng.random_range(0..8_u32));
            if let Some(inode) = state.inodes.get_mut(&number)
                && let Content::File { now, durable, .. } = &mut inode.content
            {
                for version in [now, durable] {
                    if let Some(bytes) = version.pages.get_mut(&page) {
                        Arc::make_mut(bytes)[byte] ^= 1 << bit;
                    }
                }
            }
            flipped.push((number, page * super::inodes::PAGE + byte as u64));
        }
        flipped
    }
}
