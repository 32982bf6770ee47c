//! What is published: real files of random bytes, generation by generation.
//!
//! Cut and listed as the sender's library does it: a file of a block or more is an object of its own, smaller ones
//! share packs; an unchanged file keeps its object. Every digest is real, so that whoever installs a wrong byte
//! is found out by hashing.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use bytes::Bytes;
use nackcast_common::geometry::Geometry;
use nackcast_common::hash::{chaining_value, merge};
use nackcast_common::ids::{ChannelId, Digest, Epoch, Generation, ObjectId, ObjectIndex};
use nackcast_common::keys::SigningKey;
use nackcast_common::manifest::{
    Chaining, ChainingValue, Content, Entry, EntryKind, Head, INLINE_CHAINING_MAX, Manifest, Mtime, ObjectKind,
    ObjectRecord,
};
use nackcast_common::path::DatasetPath;
use nackcast_proto::manifest::{EncodedManifest, encode};
use rand::rngs::Xoshiro256PlusPlus;
use rand::{Rng, RngExt, SeedableRng};

use super::disk::{Disk, Shown, Stands};
use super::scenario::ContentSpec;

/// Blocks of a pack at most.
const PACK_BLOCKS: u64 = 4;

/// One generation.
#[derive(Clone, Debug)]
pub struct Edition {
    /// Its manifest.
    pub manifest: Arc<Manifest>,
    /// As it is sent.
    pub encoded: EncodedManifest,
    /// Bytes of its objects.
    pub objects: BTreeMap<ObjectId, Bytes>,
}

impl Edition {
    /// A file's bytes; none for what is no file.
    #[must_use]
    pub fn bytes_of(&self, entry: &Entry) -> Option<Bytes> {
        let EntryKind::File { size, content, .. } = &entry.kind else { return None };
        let object = |index: &ObjectIndex| self.objects.get(&self.manifest.object(*index)?.id);
        match content {
            Content::Empty => Some(Bytes::new()),
            Content::Object(index) => object(index).cloned(),
            Content::Slice { pack, offset } => {
                let (from, to) = (usize::try_from(*offset).ok()?, usize::try_from(offset + size).ok()?);
                object(pack).filter(|bytes| to <= bytes.len()).map(|bytes| bytes.slice(from..to))
            }
        }
    }

    /// Whether who has all of its files has every byte of its objects: a pack may hold files that left the dataset.
    #[must_use]
    pub fn is_in_files(&self) -> bool {
        let mut shown: BTreeMap<ObjectIndex, BTreeMap<u64, u64>> = BTreeMap::new();
        for entry in self.manifest.entries() {
            if let EntryKind::File { size, content: Content::Slice { pack, offset }, .. } = entry.kind {
                shown.entry(pack).or_default().insert(offset, size);
            }
        }
        let packs = (0..).map(ObjectIndex).zip(self.manifest.objects()).filter(|(_, o)| o.kind == ObjectKind::Pack);
        let bytes = |index: &ObjectIndex| shown.get(index).map_or(0, |slices| slices.values().sum());
        packs.into_iter().all(|(index, object)| bytes(&index) == object.layout.size())
    }

    /// Whether a directory is this generation: every entry with bytes, mode and time, and nothing else if `pruned`.
    ///
    /// # Errors
    /// What differs first.
    pub fn compare(&self, disk: &Disk, shown: &[Shown], pruned: bool) -> Result<(), String> {
        let there: BTreeMap<&[u8], &Shown> = shown.iter().map(|one| (&one.path[..], one)).collect();
        for entry in self.manifest.entries() {
            let path = entry.path.as_bytes();
            let Some(found) = there.get(path) else { return Err(format!("{} is missing", entry.path)) };
            let same = match (&entry.kind, &found.stands) {
                (EntryKind::File { digest, .. }, Stands::File { inode, .. }) => disk.digest(*inode) == Some(*digest),
                (EntryKind::Symlink { target }, Stands::Symlink(to)) => target[..] == to[..],
                (EntryKind::Directory, Stands::Directory) => true,
                _ => false,
            };
            if !same {
                return Err(format!("{} is not what the manifest says", entry.path));
            }
            if !matches!(entry.kind, EntryKind::Symlink { .. })
                && (found.mode, found.mtime) != (entry.mode, entry.mtime)
            {
                return Err(format!("{} has mode {:o} and time {:?}", entry.path, found.mode, found.mtime));
            }
        }
        let extra = shown.iter().find(|one| self.manifest.entry(&one.path).is_none());
        match extra.filter(|_| pruned) {
            Some(extra) => Err(format!("{} is not in the dataset", extra.path.escape_ascii())),
            None => Ok(()),
        }
    }
}

/// Makes generations, each from the one before.
#[derive(Debug)]
pub struct Publisher {
    key: SigningKey,
    channel: ChannelId,
    geometry: Geometry,
    random: Xoshiro256PlusPlus,
    files: BTreeMap<Vec<u8>, File>,
    links: BTreeMap<Vec<u8>, Vec<u8>>,
    /// Objects of the last generation, with the digests of what is in them.
    former: Vec<Cut>,
    generation: u64,
    parent: Option<Digest>,
    spec: ContentSpec,
}

/// An object with its bytes, and the digests of what is in it, each with its place.
type Cut = (ObjectRecord, Bytes, Vec<(Digest, u64)>);

#[derive(Clone, Debug)]
struct File {
    bytes: Bytes,
    digest: Digest,
    mode: u32,
    mtime: Mtime,
}

impl Publisher {
    /// Nothing is published yet.
    ///
    /// # Panics
    /// When the block or symbol size is none; [`super::scenario::Scenario::check`] looks.
    #[must_use]
    pub fn new(key: SigningKey, channel: ChannelId, spec: &ContentSpec, seed: u64) -> Self {
        let geometry = Geometry::new(spec.symbol_size.into(), spec.block_size, 1).expect("checked sizes");
        let mut publisher = Self {
            key,
            channel,
            geometry,
            random: Xoshiro256PlusPlus::seed_from_u64(seed),
            files: BTreeMap::new(),
            links: BTreeMap::new(),
            former: Vec::new(),
            generation: 0,
            parent: None,
            spec: spec.clone(),
        };
        for nth in 0..spec.large_files {
            let size = publisher.random.random_range(1..=spec.large_bytes.max(1));
            publisher.add(format!("large/{nth}"), size);
        }
        for nth in 0..spec.small_files {
            let size = publisher.random.random_range(0..=20_000);
            let directory = publisher.random.random_range(0..4);
            publisher.add(format!("small/{directory}/{nth}"), size);
        }
        publisher.links.insert(b"link".to_vec(), b"small/0".to_vec());
        publisher
    }

    fn add(&mut self, path: String, size: u64) {
        let mut bytes = vec![0; usize::try_from(size).unwrap_or(0)];
        // Some files have holes.
        if self.random.random_range(0..8) > 0 {
            self.random.fill_bytes(&mut bytes);
        }
        self.put(path.into_bytes(), bytes.into());
    }

    fn put(&mut self, path: Vec<u8>, bytes: Bytes) {
        let digest = Digest::of(&bytes);
        let mode = if self.random.random_range(0..4) == 0 { 0o444 } else { 0o644 };
        let mtime = Mtime { seconds: self.random.random_range(0..2_000_000_000), nanos: 0 };
        self.files.insert(path, File { bytes, digest, mode, mtime });
    }

    /// The next generation.
    ///
    /// # Panics
    /// When what it makes is no manifest: a fault of this module.
    pub fn publish(&mut self) -> Edition {
        if self.generation > 0 {
            self.change();
        }
        self.generation += 1;
        self.cut();
        let places: BTreeMap<Digest, Content> = self
            .former
            .iter()
            .zip(0..)
            .flat_map(|((record, _, inside), index)| {
                inside.iter().map(move |(digest, offset)| {
                    let index = ObjectIndex(index);
                    let content = match record.kind {
                        ObjectKind::Pack => Content::Slice { pack: index, offset: *offset },
                        ObjectKind::File | ObjectKind::Chaining => Content::Object(index),
                    };
                    (*digest, content)
                })
            })
            .collect();
        let entries = self.entries(&places);
        let head = Head {
            channel: self.channel,
            generation: Generation(self.generation),
            parent: self.parent,
            epoch: Epoch(1),
            geometry: self.geometry,
        };
        let records = self.former.iter().map(|(record, ..)| record.clone()).collect();
        let manifest = Arc::new(Manifest::new(head, records, entries).expect("a sound manifest"));
        let encoded = encode(&manifest, &self.key).expect("a manifest that fits");
        self.parent = Some(encoded.reference.hash);
        let objects = self.former.iter().map(|(record, bytes, _)| (record.id, bytes.clone())).collect();
        Edition { manifest, encoded, objects }
    }

    /// Some files come, some change, some move, some go; now and then a file becomes a directory or the reverse.
    fn change(&mut self) {
        let paths: Vec<_> = self.files.keys().cloned().collect();
        for path in paths {
            match self.random.random_range(0..10) {
                0 => drop(self.files.remove(&path)),
                1 => {
                    let size = self.random.random_range(0..=self.spec.large_bytes.max(1));
                    self.files.remove(&path);
                    self.add(String::from_utf8_lossy(&path).into_owned(), size);
                }
                2 => {
                    if let Some(file) = self.files.remove(&path) {
                        self.files.insert([b"moved/", &path[..]].concat(), file);
                    }
                }
                3 => {
                    // A byte in the middle changes: blocks before and after stay.
                    if let Some(file) = self.files.remove(&path) {
                        let mut bytes = file.bytes.to_vec();
                        let middle = bytes.len() / 2;
                        if let Some(byte) = bytes.get_mut(middle) {
                            *byte ^= 1;
                        }
                        self.put(path, bytes.into());
                    }
                }
                4 if self.random.random_range(0..3) == 0 => {
                    if let Some(file) = self.files.remove(&path) {
                        self.files.insert([&path[..], b"/inside"].concat(), file);
                    }
                }
                _ => {}
            }
        }
        let size = self.random.random_range(0..=self.spec.large_bytes.max(1));
        self.add(format!("new/{}", self.generation), size);
    }

    /// Objects of all files: what was there keeps its object.
    fn cut(&mut self) {
        let wanted: BTreeMap<Digest, Bytes> =
            self.files.values().filter(|f| !f.bytes.is_empty()).map(|f| (f.digest, f.bytes.clone())).collect();
        let mut held = BTreeSet::new();
        let former = std::mem::take(&mut self.former);
        let needed: BTreeSet<ObjectId> = former
            .iter()
            .filter(|(_, _, inside)| inside.iter().any(|(digest, _)| wanted.contains_key(digest)))
            .flat_map(|(record, ..)| {
                let chaining = match &record.chaining {
                    Chaining::Object(id) => Some(*id),
                    Chaining::Digest | Chaining::Inline(_) => None,
                };
                chaining.into_iter().chain([record.id])
            })
            .collect();
        for (record, bytes, mut inside) in former {
            if needed.contains(&record.id) {
                inside.retain(|(digest, _)| wanted.contains_key(digest) && held.insert(*digest));
                self.former.push((record, bytes, inside));
            }
        }
        let mut pack = Vec::new();
        let mut inside = Vec::new();
        let block = u64::from(self.geometry.block_size());
        for (digest, bytes) in wanted {
            if held.contains(&digest) {
                continue;
            }
            if bytes.len() as u64 >= block {
                self.object(ObjectKind::File, bytes, vec![(digest, 0)]);
                continue;
            }
            if (pack.len() + bytes.len()) as u64 > PACK_BLOCKS * block {
                self.object(ObjectKind::Pack, std::mem::take(&mut pack).into(), std::mem::take(&mut inside));
            }
            inside.push((digest, pack.len() as u64));
            pack.extend_from_slice(&bytes);
        }
        if !pack.is_empty() {
            self.object(ObjectKind::Pack, pack.into(), inside);
        }
    }

    fn object(&mut self, kind: ObjectKind, bytes: Bytes, inside: Vec<(Digest, u64)>) {
        let block = self.geometry.block_size() as usize;
        let values: Vec<ChainingValue> =
            bytes.chunks(block).zip(0_u64..).map(|(b, nth)| chaining_value(b, nth * block as u64)).collect();
        let (digest, chaining) = match values.len() {
            1 => (Digest::of(&bytes), Chaining::Digest),
            n if n <= INLINE_CHAINING_MAX as usize => (merge(&values), Chaining::Inline(values.into())),
            _ => {
                let list: Bytes = values.concat().into();
                let id =
                    self.record(ObjectKind::Chaining, list.clone(), Digest::of(&list), Chaining::Digest, Vec::new());
                (merge(&values), Chaining::Object(id))
            }
        };
        self.record(kind, bytes, digest, chaining, inside);
    }

    fn record(
        &mut self,
        kind: ObjectKind,
        bytes: Bytes,
        digest: Digest,
        chaining: Chaining,
        inside: Vec<(Digest, u64)>,
    ) -> ObjectId {
        let size = bytes.len() as u64;
        let id = self.geometry.object_id(&digest, size);
        let layout = self.geometry.object(size).expect("a small object");
        if self.former.iter().all(|(record, ..)| record.id != id) {
            let record = ObjectRecord { id, digest, layout, kind, since: Generation(self.generation), chaining };
            self.former.push((record, bytes, inside));
        }
        id
    }

    fn entries(&self, places: &BTreeMap<Digest, Content>) -> Vec<Entry> {
        let path = |bytes: &[u8]| DatasetPath::new(bytes).expect("a sound path");
        let mut entries: BTreeMap<DatasetPath, Entry> = BTreeMap::new();
        for (name, file) in &self.files {
            let content = if file.bytes.is_empty() { Content::Empty } else { places[&file.digest] };
            let kind = EntryKind::File { size: file.bytes.len() as u64, digest: file.digest, content };
            entries.insert(path(name), Entry { path: path(name), kind, mode: file.mode, mtime: file.mtime });
            for above in path(name).ancestors() {
                let entry =
                    Entry { path: path(above), kind: EntryKind::Directory, mode: 0o755, mtime: Mtime::default() };
                entries.insert(path(above), entry);
            }
        }
        for (name, target) in &self.links {
            let kind = EntryKind::Symlink { target: target.clone().into() };
            entries.insert(path(name), Entry { path: path(name), kind, mode: 0o777, mtime: Mtime::default() });
        }
        entries.into_values().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn many_generations_are_sound_and_keep_what_did_not_change() {
        for seed in 0..20 {
            let spec = ContentSpec { large_bytes: 900_000, ..ContentSpec::default() };
            let key = SigningKey::from_seed([1; 32]);
            let mut publisher = Publisher::new(key, ChannelId([1; 16]), &spec, seed);
            let mut last = publisher.publish();
            for _ in 0..4 {
                let next = publisher.publish();
                let kept = next.objects.keys().filter(|id| last.objects.contains_key(id)).count();
                assert!(kept > 0, "some objects stay");
                assert_ne!(next.encoded.reference.hash, last.encoded.reference.hash);
                for (id, bytes) in &next.objects {
                    let record = next.manifest.object(next.manifest.index_of(*id).unwrap()).unwrap();
                    assert_eq!(record.digest, Digest::of(bytes));
                }
                for entry in next.manifest.entries() {
                    if let EntryKind::File { digest, .. } = &entry.kind {
                        assert_eq!(Digest::of(&next.bytes_of(entry).unwrap()), *digest);
                    }
                }
                last = next;
            }
        }
    }
}
