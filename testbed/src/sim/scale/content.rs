//! A dataset without bytes: a manifest as the library would make it, with hashes that fit together.

use std::sync::Arc;

use anyhow::{Context, Result};
use nackcast_common::geometry::{Geometry, Layout};
use nackcast_common::hash::merge;
use nackcast_common::ids::{ChannelId, Digest, Epoch, Generation, ObjectId, ObjectIndex};
use nackcast_common::keys::SigningKey;
use nackcast_common::manifest::{
    Chaining, ChainingValue, Content as Place, Entry, EntryKind, Head, INLINE_CHAINING_MAX, Manifest, Mtime,
    ObjectKind, ObjectRecord,
};
use nackcast_common::path::DatasetPath;
use nackcast_proto::manifest::{EncodedManifest, Root, decode_root, encode};
use nackcast_sender::engine::Publication;
use rand::rngs::Xoshiro256PlusPlus;
use rand::{RngExt, SeedableRng};

const GENERATION: Generation = Generation(1);

/// The dataset, published.
#[derive(Debug)]
pub struct Content {
    /// What it holds.
    pub manifest: Arc<Manifest>,
    /// Its root, parsed.
    pub root: Root,
    /// The same as it is sent.
    pub encoded: EncodedManifest,
    parts: Vec<(ObjectId, Layout)>,
}

impl Content {
    /// `files` files, `bytes` in all: those smaller than a block in packs, in the order of their paths.
    ///
    /// # Errors
    /// When no manifest can list it.
    pub fn new(channel: ChannelId, publisher: &SigningKey, bytes: u64, files: u32, seed: u64) -> Result<Self> {
        let geometry = Geometry::default();
        let mut cutter = Cutter { geometry, objects: Vec::new(), entries: Vec::new(), pack: Vec::new() };
        let mut random = Xoshiro256PlusPlus::seed_from_u64(seed);
        let mean = bytes / u64::from(files.max(1));
        for number in 0..files {
            // Half to one and a half of the mean.
            let size = if files == 1 { mean } else { mean / 2 + random.random_range(0..=mean) };
            cutter.file(number, size)?;
        }
        cutter.close_pack()?;
        let head = Head { channel, generation: GENERATION, parent: None, epoch: Epoch(1), geometry };
        let manifest = Manifest::new(head, cutter.objects, cutter.entries)?;
        let encoded = encode(&manifest, publisher)?;
        let root = decode_root(&encoded.root.bytes, &publisher.verifying_key(), channel)?;
        let all = std::iter::once(&encoded.root).chain(&encoded.parts);
        let part = |bytes: u64, digest: &Digest| Ok((geometry.object_id(digest, bytes), geometry.object(bytes)?));
        let parts = all.map(|p| part(p.bytes.len() as u64, &p.digest)).collect::<Result<_>>()?;
        Ok(Self { manifest: Arc::new(manifest), root, encoded, parts })
    }

    /// For a sender that has it all.
    #[must_use]
    pub fn publication(&self) -> Publication {
        Publication {
            reference: self.encoded.reference,
            manifest: Arc::clone(&self.manifest),
            parts: self.parts.clone(),
            fresh: true,
            passes: Vec::new(),
        }
    }

    /// The manifest's root as an object.
    pub(super) fn root_object(&self) -> Option<ObjectId> {
        self.parts.first().map(|(id, _)| *id)
    }

    pub(super) fn is_manifest(&self, object: ObjectId) -> bool {
        self.parts.iter().any(|(id, _)| *id == object)
    }

    pub(super) fn manifest_bytes(&self) -> u64 {
        self.parts.iter().map(|(_, layout)| layout.size()).sum()
    }
}

struct Cutter {
    geometry: Geometry,
    objects: Vec<ObjectRecord>,
    entries: Vec<Entry>,
    /// Places in `entries` of the pack's members, and their sizes.
    pack: Vec<(usize, u64)>,
}

impl Cutter {
    fn file(&mut self, number: u32, size: u64) -> Result<()> {
        let small = size < u64::from(self.geometry.block_size());
        let capacity = u64::from(self.geometry.block_size()) * u64::from(INLINE_CHAINING_MAX);
        let packed: u64 = self.pack.iter().map(|(_, size)| size).sum();
        if small && packed + size > capacity {
            self.close_pack()?;
        }
        let (digest, content) = if small {
            self.pack.push((self.entries.len(), size));
            // Its place is known when the pack is closed.
            (Digest::of(&number.to_be_bytes()), Place::Empty)
        } else {
            let (index, digest) = self.object(size, ObjectKind::File)?;
            (digest, Place::Object(index))
        };
        self.entries.push(Entry {
            path: DatasetPath::new(
                format!("{:03}/{:03}/file-{number:08}.bin", number / 10_000, number / 100 % 100).as_bytes(),
            )?,
            kind: EntryKind::File { size, digest, content },
            mode: 0o644,
            mtime: Mtime { seconds: 1_700_000_000 + i64::from(number), nanos: 0 },
        });
        Ok(())
    }

    fn close_pack(&mut self) -> Result<()> {
        let members = std::mem::take(&mut self.pack);
        let size = members.iter().map(|(_, size)| size).sum();
        if size == 0 {
            return Ok(());
        }
        let (pack, _) = self.object(size, ObjectKind::Pack)?;
        let mut begin = 0;
        for (at, size) in members {
            if let EntryKind::File { content, .. } = &mut self.entries[at].kind {
                *content = Place::Slice { pack, offset: begin };
            }
            begin += size;
        }
        Ok(())
    }

    fn object(&mut self, size: u64, kind: ObjectKind) -> Result<(ObjectIndex, Digest)> {
        let layout = self.geometry.object(size)?;
        let number = self.objects.len();
        let value = |block: u32| -> ChainingValue { Digest::of(format!("{number} {block}").as_bytes()).0 };
        let values: Vec<_> = (0..layout.block_count()).map(value).collect();
        let (digest, chaining) = match u64::from(layout.block_count()) {
            0 | 1 => (Digest::of(format!("object {number}").as_bytes()), Chaining::Digest),
            n if n <= u64::from(INLINE_CHAINING_MAX) => (merge(&values), Chaining::Inline(values.into())),
            _ => {
                let bytes = values.concat();
                let digest = Digest::of(&bytes);
                let id = self.geometry.object_id(&digest, bytes.len() as u64);
                let layout = self.geometry.object(bytes.len() as u64)?;
                let kind = ObjectKind::Chaining;
                self.objects.push(ObjectRecord {
                    id,
                    digest,
                    layout,
                    kind,
                    since: GENERATION,
                    chaining: Chaining::Digest,
                });
                (merge(&values), Chaining::Object(id))
            }
        };
        let id = self.geometry.object_id(&digest, size);
        let index = ObjectIndex(u32::try_from(self.objects.len()).context("too many objects")?);
        self.objects.push(ObjectRecord { id, digest, layout, kind, since: GENERATION, chaining });
        Ok((index, digest))
    }
}
