//! Packs: files smaller than a block, one after the other in objects of at most eight blocks.
//!
//! - A pack holds contents of one priority, in the order in which they were pushed.
//! - Old contents (which receivers may hold) and new ones are never pushed to the same packer.

use nackcast_common::geometry::Geometry;
use nackcast_common::ids::{Digest, Generation};
use nackcast_common::manifest::INLINE_CHAINING_MAX;
use nackcast_common::path::DatasetPath;

use super::hashing::{Sums, read_start, short_read};
use super::problem::ProblemKind;
use super::root::Root;
use super::walk::io_kind;

/// One content that goes in a pack.
#[derive(Debug)]
pub(super) struct Part {
    /// A file that has it.
    pub(super) path: DatasetPath,
    pub(super) size: u64,
    pub(super) digest: Digest,
    pub(super) priority: i32,
    /// The generation in which it was new.
    pub(super) since: Generation,
    /// Its bytes, when they were just read.
    pub(super) bytes: Option<Vec<u8>>,
}

/// A part that could not be read as it was hashed.
pub(super) type LostPart = (Part, ProblemKind);

/// What goes into a pack, not hashed yet.
#[derive(Debug)]
pub(super) struct Draft(pub(super) Vec<Part>);

/// A pack.
#[derive(Debug)]
pub(super) struct Pack {
    /// They follow each other without a gap.
    pub(super) parts: Vec<Part>,
    /// Every content that lies in it, and where: the parts, and contents of other packs of the same bytes.
    pub(super) slices: Vec<(Digest, u64)>,
    pub(super) sums: Sums,
    pub(super) since: Generation,
}

/// Most bytes in a pack: its chaining values shall stand in the manifest.
pub(super) fn capacity(geometry: Geometry) -> u64 {
    u64::from(geometry.block_size()) * u64::from(INLINE_CHAINING_MAX)
}

/// Fills packs, one after the other.
#[derive(Debug)]
pub(super) struct Packer {
    capacity: u64,
    open: Vec<Part>,
    open_bytes: u64,
    full: Vec<Draft>,
}

impl Packer {
    pub(super) const fn new(capacity: u64) -> Self {
        Self { capacity, open: Vec::new(), open_bytes: 0, full: Vec::new() }
    }

    pub(super) fn push(&mut self, part: Part) {
        let fits = self.open_bytes + part.size <= self.capacity;
        let fitting = self.open.last().is_none_or(|last| fits && last.priority == part.priority);
        if !fitting {
            self.close();
        }
        self.open_bytes += part.size;
        self.open.push(part);
    }

    fn close(&mut self) {
        self.open_bytes = 0;
        if !self.open.is_empty() {
            self.full.push(Draft(std::mem::take(&mut self.open)));
        }
    }

    /// The packs that nothing will be added to.
    pub(super) fn take_full(&mut self) -> Vec<Draft> {
        std::mem::take(&mut self.full)
    }

    /// What is left.
    pub(super) fn finish(mut self) -> Vec<Draft> {
        self.close();
        self.full
    }
}

impl Draft {
    /// Hashes the pack, reading what is not in memory; parts that cannot be read any more are left out.
    pub(super) fn hash(
        self,
        root: &Root,
        geometry: Geometry,
        on_read: &(dyn Fn(u64) + Sync),
    ) -> (Option<Pack>, Vec<LostPart>) {
        let size: u64 = self.0.iter().map(|part| part.size).sum();
        let mut whole = Vec::with_capacity(usize::try_from(size).unwrap_or_default());
        let (mut parts, mut slices, mut lost) = (Vec::new(), Vec::new(), Vec::new());
        for mut part in self.0 {
            let bytes = match part.bytes.take() {
                Some(bytes) => Ok(bytes),
                None => read_part(root, &part, on_read),
            };
            match bytes {
                Ok(bytes) => {
                    slices.push((part.digest, whole.len() as u64));
                    whole.extend_from_slice(&bytes);
                    parts.push(part);
                }
                Err(what) => lost.push((part, what)),
            }
        }
        let since = parts.iter().map(|p| p.since).max();
        let pack = since.map(|since| Pack { sums: Sums::of(&whole, geometry), parts, slices, since });
        (pack, lost)
    }
}

impl Pack {
    pub(super) fn size(&self) -> u64 {
        self.parts.iter().map(|p| p.size).sum()
    }

    /// Its parts in two halves, as drafts.
    pub(super) fn split(mut self) -> [Draft; 2] {
        let tail = self.parts.split_off(self.parts.len() / 2);
        [Draft(self.parts), Draft(tail)]
    }
}

fn read_part(root: &Root, part: &Part, on_read: &(dyn Fn(u64) + Sync)) -> Result<Vec<u8>, ProblemKind> {
    let file = root.open_file(&part.path).map_err(io_kind)?;
    let bytes = read_start(&file, part.size).map_err(short_read)?;
    on_read(part.size);
    if Digest::of(&bytes) == part.digest { Ok(bytes) } else { Err(ProblemKind::Changed) }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn part(name: &str, bytes: &[u8], priority: i32) -> Part {
        Part {
            path: DatasetPath::new(name.as_bytes()).unwrap(),
            size: bytes.len() as u64,
            digest: Digest::of(bytes),
            priority,
            since: Generation(1),
            bytes: None,
        }
    }

    #[test]
    fn a_pack_is_full_at_its_capacity_and_has_one_priority() {
        let mut packer = Packer::new(10);
        for (size, priority) in [(4, 2), (6, 2), (1, 2), (1, 1), (9, 1), (10, 1)] {
            packer.push(part("a", &vec![0; size], priority));
        }
        let sizes: Vec<u64> = packer.finish().iter().map(|d| d.0.iter().map(|p| p.size).sum()).collect();
        assert_eq!(sizes, [10, 1, 10, 10]);
    }

    #[test]
    fn parts_that_changed_or_vanished_are_left_out_of_their_pack() {
        let directory = tempfile::TempDir::new().unwrap();
        let root = Root::open(directory.path()).unwrap();
        for (name, bytes) in [("a", &b"aaa"[..]), ("changed", b"new"), ("short", b""), ("z", b"zzz")] {
            fs::write(directory.path().join(name), bytes).unwrap();
        }
        let parts = vec![
            part("a", b"aaa", 0),
            part("changed", b"old", 0),
            part("gone", b"g", 0),
            part("short", b"s", 0),
            part("z", b"zzz", 0),
        ];
        let (pack, lost) = Draft(parts).hash(&root, Geometry::default(), &|_| {});
        let pack = pack.unwrap();
        assert_eq!(pack.sums.digest, Digest::of(b"aaazzz"));
        assert_eq!(pack.slices, [(Digest::of(b"aaa"), 0), (Digest::of(b"zzz"), 3)]);
        let why: Vec<_> = lost.iter().map(|(part, what)| (part.path.to_string(), what.to_string())).collect();
        let changed = "changed while it was hashed; left out until the next scan".to_owned();
        let vanished = "vanished while it was scanned".to_owned();
        let expected = [("changed", &changed), ("gone", &vanished), ("short", &changed)];
        assert_eq!(why, expected.map(|(name, what)| (name.to_owned(), what.clone())));
    }
}
