//! What the former generation holds: which contents are old, and which packs may stay.

use std::collections::HashMap;

use nackcast_common::geometry::Geometry;
use nackcast_common::ids::{Digest, Generation, ObjectIndex};
use nackcast_common::manifest::{Chaining, Content, EntryKind, Manifest, ObjectKind, ObjectRecord};

/// The former generation, seen from the next.
#[derive(Debug, Default)]
pub(super) struct Former {
    generation: Generation,
    since: HashMap<Digest, Generation>,
    packs: Vec<FormerPack>,
}

/// A pack of the former generation.
#[derive(Debug)]
pub(super) struct FormerPack {
    pub(super) record: ObjectRecord,
    /// Every content in it.
    pub(super) slices: Vec<Slice>,
    /// Those that follow each other without a gap from its begin to its end.
    pub(super) tiles: Vec<Slice>,
}

/// A content in a pack.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Slice {
    pub(super) offset: u64,
    pub(super) size: u64,
    pub(super) digest: Digest,
}

impl Former {
    /// Reads a manifest. Packs of another geometry cannot stay, but their contents are old all the same.
    pub(super) fn of(manifest: Option<&Manifest>, geometry: Geometry) -> Self {
        let Some(manifest) = manifest else { return Self::default() };
        let mut since = HashMap::new();
        let mut slices: HashMap<ObjectIndex, Vec<Slice>> = HashMap::new();
        for entry in manifest.entries() {
            let EntryKind::File { size, digest, content } = entry.kind else { continue };
            let object = match content {
                Content::Empty => continue,
                Content::Object(object) => object,
                Content::Slice { pack, offset } => {
                    slices.entry(pack).or_default().push(Slice { offset, size, digest });
                    pack
                }
            };
            if let Some(record) = manifest.object(object) {
                since.entry(digest).or_insert(record.since);
            }
        }
        let packs = (0_u32..).zip(manifest.objects()).filter_map(|(index, record)| {
            let listed = matches!(record.chaining, Chaining::Object(_));
            let fitting = record.kind == ObjectKind::Pack && record.layout.geometry() == geometry && !listed;
            let slices = slices.remove(&ObjectIndex(index)).filter(|_| fitting)?;
            FormerPack::new(record.clone(), slices)
        });
        Self { packs: packs.collect(), generation: manifest.head().generation, since }
    }

    /// Its number; 0 when there is none.
    pub(super) const fn generation(&self) -> Generation {
        self.generation
    }

    /// Since when a content is known.
    pub(super) fn since(&self, digest: &Digest) -> Option<Generation> {
        self.since.get(digest).copied()
    }

    /// The packs that could be built again from files.
    pub(super) fn into_packs(self) -> Vec<FormerPack> {
        self.packs
    }
}

impl FormerPack {
    /// None when its bytes cannot be had from its slices.
    fn new(record: ObjectRecord, mut slices: Vec<Slice>) -> Option<Self> {
        slices.sort_unstable_by_key(|s| (s.offset, s.size, s.digest));
        slices.dedup();
        let mut tiles: Vec<Slice> = Vec::new();
        let mut at = 0;
        while at < record.layout.size() {
            // Of several that begin here any will do: each is part of a sequence that reaches the end.
            let next = slices.binary_search_by_key(&at, |s| s.offset).ok()?;
            at += slices[next].size;
            tiles.push(slices[next]);
        }
        (at == record.layout.size()).then_some(Self { record, slices, tiles })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tiles(size: u64, slices: &[(u64, u64)]) -> Option<usize> {
        let slices =
            slices.iter().map(|&(offset, size)| Slice { offset, size, digest: Digest::of(&size.to_be_bytes()) });
        let layout = Geometry::default().object(size).unwrap();
        let digest = Digest::of(b"");
        let record = ObjectRecord {
            id: layout.geometry().object_id(&digest, size),
            digest,
            layout,
            kind: ObjectKind::Pack,
            since: Generation(1),
            chaining: Chaining::Digest,
        };
        FormerPack::new(record, slices.collect()).map(|p| p.tiles.len())
    }

    #[test]
    fn a_pack_is_known_when_its_slices_cover_it() {
        assert_eq!(tiles(30, &[(10, 20), (0, 10), (0, 10)]), Some(2));
        assert_eq!(tiles(30, &[(0, 10), (20, 10)]), None, "a gap");
        assert_eq!(tiles(30, &[(0, 10)]), None, "no end");
        assert_eq!(tiles(30, &[(0, 10), (5, 25)]), None, "an overlap");
        assert!(tiles(30, &[(0, 30), (0, 10), (10, 20)]).is_some(), "two packs of the same bytes");
    }
}
