//! What goes wrong on a disk, and how often.

use std::sync::Arc;

use rand::rngs::Xoshiro256PlusPlus;
use rand::{Rng, RngExt, SeedableRng};

use super::inodes::Content;
use super::{Disk, Stands};

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
    /// Somebody changes a byte of some files below a directory, none of them below names that begin with `hidden`, and
    /// puts their modification times back if `keep_time`. Gives path and inode of each.
    pub fn edit_by_hand(
        &self,
        rng: &mut impl Rng,
        (directory, hidden): (&[u8], &[u8]),
        count: usize,
        keep_time: bool,
    ) -> Vec<(Vec<u8>, u64)> {
        let mut files: Vec<_> = self
            .shown(directory, hidden)
            .into_iter()
            .filter_map(|one| if let Stands::File { inode, .. } = one.stands { Some((one.path, inode)) } else { None })
            .collect();
        let mut state = self.state();
        files.retain(|(_, inode)| state.bytes(*inode).is_some_and(|bytes| bytes.len > 0));
        let mut edited = Vec::new();
        for _ in 0..count.min(files.len()) {
            let (path, inode) = files.swap_remove(rng.random_range(0..files.len()));
            let Ok(before) = state.inode(inode).map(|inode| inode.now.mtime) else { continue };
            let changed = state.edit(inode, |bytes| {
                let (mut byte, at) = ([0], rng.random_range(0..bytes.len));
                bytes.read(&mut byte, at);
                bytes.write(&[byte[0] ^ 1], at)
            });
            if keep_time && let Ok(inode) = state.inode_mut(inode) {
                inode.now.mtime = before;
            }
            if changed.is_ok() {
                edited.push((path, inode));
            }
        }
        edited
    }

    /// Somebody removes a file, if it is the one that stands at this path.
    pub fn remove_by_hand(&self, path: &[u8], inode: u64) {
        let Some(cut) = path.iter().rposition(|byte| *byte == b'/') else { return };
        let mut state = self.state();
        if let Some(directory) = state.find(&path[..cut])
            && state.find(path) == Some(inode)
        {
            // Where the owner may not, it stays.
            state.set_name(directory, &path[cut + 1..], None).unwrap_or_default();
        }
    }

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
