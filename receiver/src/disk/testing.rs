//! Small datasets for the tests of this module: a manifest, and the bytes that belong to it.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, UNIX_EPOCH};

use nackcast_common::files::linux;
use nackcast_common::geometry::Geometry;
use nackcast_common::hash::chaining_value;
use nackcast_common::ids::{ChannelId, Digest, Epoch, Generation, ObjectId, ObjectIndex};
use nackcast_common::manifest::{
    Chaining, ChainingValue, Content, Entry, EntryKind, Head, INLINE_CHAINING_MAX, Manifest, Mtime, ObjectKind,
    ObjectRecord,
};
use nackcast_common::path::DatasetPath;
use tempfile::TempDir;

use super::install::{Installer, Policy, Source};
use super::part::PartStore;
use super::target::TargetDir;

pub(super) const BLOCK: usize = 1024;
pub(super) const MTIME: Mtime = Mtime { seconds: 1_234_567_890, nanos: 123_456_789 };

pub(super) fn geometry() -> Geometry {
    Geometry::new(100, 1024, 1).unwrap()
}

/// Sets a file's modification time.
pub(super) fn set_mtime(file: &std::fs::File, mtime: Mtime) {
    let whole = Duration::from_secs(mtime.seconds.unsigned_abs());
    let seconds = if mtime.seconds < 0 { UNIX_EPOCH - whole } else { UNIX_EPOCH + whole };
    file.set_modified(seconds + Duration::from_nanos(mtime.nanos.into())).unwrap();
}

pub(super) fn path(bytes: impl AsRef<[u8]>) -> DatasetPath {
    DatasetPath::new(bytes.as_ref()).unwrap()
}

/// Entries, and the bytes of objects. Files of up to one block that are added with `slice` share one pack.
#[derive(Default)]
pub(super) struct Dataset {
    pub(super) entries: Vec<Entry>,
    objects: Vec<ObjectRecord>,
    bytes: BTreeMap<ObjectId, Vec<u8>>,
    pack: Vec<u8>,
    slices: Vec<(usize, u64)>,
}

impl Dataset {
    pub(super) fn directory(mut self, at: impl AsRef<[u8]>, mode: u32) -> Self {
        self.entries.push(Entry { path: path(at), kind: EntryKind::Directory, mode, mtime: MTIME });
        self
    }

    pub(super) fn symlink(mut self, at: impl AsRef<[u8]>, to: &[u8]) -> Self {
        let kind = EntryKind::Symlink { target: to.into() };
        self.entries.push(Entry { path: path(at), kind, mode: 0o777, mtime: MTIME });
        self
    }

    pub(super) fn file(mut self, at: impl AsRef<[u8]>, bytes: &[u8], mode: u32) -> Self {
        let digest = Digest::of(bytes);
        let size = bytes.len() as u64;
        let content =
            if bytes.is_empty() { Content::Empty } else { Content::Object(self.object(bytes, ObjectKind::File)) };
        let kind = EntryKind::File { size, digest, content };
        self.entries.push(Entry { path: path(at), kind, mode, mtime: MTIME });
        self
    }

    pub(super) fn slice(mut self, at: impl AsRef<[u8]>, bytes: &[u8], mode: u32) -> Self {
        let offset = self.pack.len() as u64;
        self.pack.extend_from_slice(bytes);
        self.slices.push((self.entries.len(), offset));
        let (size, digest) = (bytes.len() as u64, Digest::of(bytes));
        let content = Content::Slice { pack: ObjectIndex(0), offset };
        let kind = EntryKind::File { size, digest, content };
        self.entries.push(Entry { path: path(at), kind, mode, mtime: MTIME });
        self
    }

    fn object(&mut self, bytes: &[u8], kind: ObjectKind) -> ObjectIndex {
        let digest = Digest::of(bytes);
        let layout = geometry().object(bytes.len() as u64).unwrap();
        let id = geometry().object_id(&digest, layout.size());
        let values = chaining_values(bytes);
        let chaining = match layout.block_count() {
            1 => Chaining::Digest,
            ..=INLINE_CHAINING_MAX => Chaining::Inline(values),
            _ => {
                let index = self.object(&values.concat(), ObjectKind::Chaining);
                Chaining::Object(self.objects[index.as_usize()].id)
            }
        };
        if let Some(at) = self.objects.iter().position(|o| o.id == id) {
            return ObjectIndex(u32::try_from(at).unwrap());
        }
        self.bytes.insert(id, bytes.to_vec());
        self.objects.push(ObjectRecord { id, digest, layout, kind, since: Generation(1), chaining });
        ObjectIndex(u32::try_from(self.objects.len() - 1).unwrap())
    }

    pub(super) fn build(mut self) -> Built {
        if !self.pack.is_empty() {
            let bytes = std::mem::take(&mut self.pack);
            let index = self.object(&bytes, ObjectKind::Pack);
            for (at, offset) in std::mem::take(&mut self.slices) {
                if let EntryKind::File { content, .. } = &mut self.entries[at].kind {
                    *content = Content::Slice { pack: index, offset };
                }
            }
        }
        self.entries.sort_by(|a, b| a.path.cmp(&b.path));
        let head = Head {
            channel: ChannelId([7; 16]),
            generation: Generation(1),
            parent: None,
            epoch: Epoch(0),
            geometry: geometry(),
        };
        let manifest = Manifest::new(head, self.objects, self.entries).unwrap();
        Built { manifest, bytes: self.bytes }
    }
}

pub(super) fn chaining_values(bytes: &[u8]) -> Arc<[ChainingValue]> {
    bytes.chunks(BLOCK).zip((0..).step_by(BLOCK)).map(|(b, offset)| chaining_value(b, offset)).collect()
}

pub(super) struct Built {
    pub(super) manifest: Manifest,
    bytes: BTreeMap<ObjectId, Vec<u8>>,
}

impl Built {
    pub(super) fn entry(&self, at: impl AsRef<[u8]>) -> &Entry {
        self.manifest.entry(at.as_ref()).unwrap()
    }

    /// Puts the object's bytes into the store, as if they had been received.
    pub(super) fn receive(&self, store: &PartStore, index: ObjectIndex) -> ObjectId {
        let object = self.manifest.object(index).unwrap();
        store.create(object.layout, object.id).unwrap();
        for (block, bytes) in (0..).zip(self.bytes[&object.id].chunks(BLOCK)) {
            store.write_block(object.id, block, bytes).unwrap();
        }
        object.id
    }

    /// Stages every entry of the manifest from freshly received objects.
    pub(super) fn stage_all(&self, store: &PartStore, installer: &mut Installer) {
        let mut left = self.manifest.members();
        for entry in self.manifest.entries() {
            let EntryKind::File { content, .. } = entry.kind else {
                installer.stage(entry, Source::Nothing).unwrap();
                continue;
            };
            match content {
                Content::Empty => installer.stage(entry, Source::Nothing).unwrap(),
                Content::Slice { pack, offset } => {
                    let pack = store.finish(self.receive(store, pack)).unwrap();
                    installer.stage(entry, Source::Slice { pack: &pack, offset }).unwrap();
                }
                Content::Object(index) => {
                    let object = store.finish(self.receive(store, index)).unwrap();
                    let others = left.get_mut(&index).unwrap();
                    others.pop();
                    let last = others.is_empty();
                    let source = if last { Source::Object(&object) } else { Source::CopyOf(&object) };
                    installer.stage(entry, source).unwrap();
                }
            }
        }
    }
}

/// A target with a store.
pub(super) struct Place {
    pub(super) directory: TempDir,
    pub(super) target: Arc<TargetDir>,
    pub(super) store: PartStore,
}

impl Place {
    pub(super) fn new() -> Self {
        Self::at(tempfile::tempdir().unwrap())
    }

    /// On a file system in memory, where there is one.
    pub(super) fn in_memory() -> Self {
        Self::at(tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap())
    }

    fn at(directory: TempDir) -> Self {
        let target = TargetDir::open(linux(), directory.path()).unwrap();
        let (store, _) = PartStore::open(&target).unwrap();
        Self { directory, target, store }
    }

    pub(super) fn path(&self) -> &Path {
        self.directory.path()
    }

    pub(super) fn installer(&self, policy: Policy) -> Installer {
        Installer::new(Arc::clone(&self.target), policy)
    }

    /// Installs the whole dataset and clears up; fails when anything does.
    pub(super) fn install(&self, built: &Built, policy: Policy) {
        let mut installer = self.installer(policy);
        built.stage_all(&self.store, &mut installer);
        for outcome in installer.commit().unwrap() {
            outcome.result.unwrap();
        }
        assert_eq!(installer.finish_directories(&built.manifest).unwrap(), []);
        self.store.retain(|_| false).unwrap();
        assert!(self.target.remove_part_directory().unwrap());
    }
}
