//! The manifest: what a receiver of the channel must hold, and the objects that carry it.
//!
//! A [`Manifest`] is checked as a whole when made: paths are sorted and distinct, nothing lies below a file
//! or a symlink, every file's bytes lie inside an object of the table, every object's chaining values are at
//! hand or are an object of the table. Its bytes and its signature are `proto`'s.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use crate::geometry::{Geometry, Layout};
use crate::ids::{ChannelId, Digest, Epoch, Generation, ObjectId, ObjectIndex};
use crate::path::DatasetPath;

/// Up to this many blocks, an object's chaining values stand in the manifest.
pub const INLINE_CHAINING_MAX: u32 = 8;
/// Most entries and most objects a manifest may have.
pub const TABLE_LEN_MAX: usize = 20_000_000;

/// A BLAKE3 chaining value of one block (a non-root subtree).
pub type ChainingValue = [u8; 32];

/// What an object is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ObjectKind {
    /// One file's bytes.
    File,
    /// Files smaller than a block, one after the other.
    Pack,
    /// The chaining values of another object.
    Chaining,
}

/// How the blocks of an object are checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Chaining {
    /// One block: by the digest itself.
    Digest,
    /// By these values, one for each block; they merge to the digest.
    Inline(Arc<[ChainingValue]>),
    /// By the bytes of this object of the table.
    Object(ObjectId),
}

/// One object of the table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ObjectRecord {
    /// Derived from digest, size and geometry.
    pub id: ObjectId,
    /// Plain BLAKE3 of its bytes.
    pub digest: Digest,
    /// Its size and cut.
    pub layout: Layout,
    /// What it is for.
    pub kind: ObjectKind,
    /// The generation in which its *content* was new: only then it gets an unrequested first pass.
    pub since: Generation,
    /// How its blocks are checked.
    pub chaining: Chaining,
}

/// Modification time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Mtime {
    /// Seconds since 1970; may be negative.
    pub seconds: i64,
    /// Nanoseconds, below 10^9.
    pub nanos: u32,
}

/// Where a file's bytes are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Content {
    /// There are none.
    Empty,
    /// The whole of an object.
    Object(ObjectIndex),
    /// A slice of a pack.
    Slice {
        /// The pack.
        pack: ObjectIndex,
        /// Where the slice begins.
        offset: u64,
    },
}

/// What an entry is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum EntryKind {
    /// A directory. Directories that are not listed but have entries below them are made with default mode.
    Directory,
    /// A symbolic link.
    Symlink {
        /// What it says; never followed by us.
        target: Box<[u8]>,
    },
    /// A regular file.
    File {
        /// Bytes in it.
        size: u64,
        /// Plain BLAKE3 of them.
        digest: Digest,
        /// Where they are.
        content: Content,
    },
}

/// One path of the dataset.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Relative to the dataset's directory.
    pub path: DatasetPath,
    /// What stands there.
    pub kind: EntryKind,
    /// Permission bits, 0 to 0o7777.
    pub mode: u32,
    /// Modification time.
    pub mtime: Mtime,
}

/// The head of a manifest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Head {
    /// The channel.
    pub channel: ChannelId,
    /// Version.
    pub generation: Generation,
    /// Hash of the manifest root before it; none in the first.
    pub parent: Option<Digest>,
    /// Which epoch secret to use.
    pub epoch: Epoch,
    /// The geometry of manifest parts and chaining objects, and the default of others.
    pub geometry: Geometry,
}

/// Why tables are no manifest.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ManifestError {
    /// Entries are not in ascending order of path, or one stands twice.
    #[error("entries are not in order at {0}")]
    Order(DatasetPath),
    /// An entry lies below one that is no directory.
    #[error("{0} lies below an entry that is not a directory")]
    BelowNonDirectory(DatasetPath),
    /// An entry's bytes lie outside its object, or the object is of the wrong kind, size or digest.
    #[error("{0} names bytes that its object does not have")]
    Content(DatasetPath),
    /// A number is out of its range.
    #[error("{0} has a mode, time or symlink target out of range")]
    Metadata(DatasetPath),
    /// An object's id is not the one that its digest and geometry give, or it stands twice.
    #[error("object {0} is listed twice or under a wrong id")]
    ObjectId(ObjectId),
    /// An object's chaining values are missing, of a wrong number, or do not merge to its digest.
    #[error("object {0} has no sound chaining values")]
    Chaining(ObjectId),
    /// More rows than a manifest may have.
    #[error("a table of {0} rows is too long")]
    TooLong(usize),
}

/// A checked manifest.
#[derive(Debug, PartialEq, Eq)]
pub struct Manifest {
    head: Head,
    objects: Vec<ObjectRecord>,
    by_id: HashMap<ObjectId, ObjectIndex>,
    entries: Vec<Entry>,
}

impl Manifest {
    /// Checks the tables. `objects` stand in the order of the first pass, a chaining object before its owner.
    ///
    /// # Errors
    /// When a receiver that followed it could write outside its directory or could not verify a file.
    pub fn new(head: Head, objects: Vec<ObjectRecord>, entries: Vec<Entry>) -> Result<Self, ManifestError> {
        for table in [objects.len(), entries.len()] {
            if table > TABLE_LEN_MAX {
                return Err(ManifestError::TooLong(table));
            }
        }
        let mut by_id = HashMap::with_capacity(objects.len());
        for (index, object) in (0_u32..).zip(&objects) {
            check_object(object, &by_id, &objects)?;
            if by_id.insert(object.id, ObjectIndex(index)).is_some() {
                return Err(ManifestError::ObjectId(object.id));
            }
        }
        check_entries(&entries, &objects)?;
        Ok(Self { head, objects, by_id, entries })
    }

    /// The head.
    #[must_use]
    pub const fn head(&self) -> &Head {
        &self.head
    }

    /// The object table, in the order of the first pass.
    #[must_use]
    pub fn objects(&self) -> &[ObjectRecord] {
        &self.objects
    }

    /// One object.
    #[must_use]
    pub fn object(&self, index: ObjectIndex) -> Option<&ObjectRecord> {
        self.objects.get(index.as_usize())
    }

    /// Where an object stands.
    #[must_use]
    pub fn index_of(&self, id: ObjectId) -> Option<ObjectIndex> {
        self.by_id.get(&id).copied()
    }

    /// The entries, by path.
    #[must_use]
    pub fn entries(&self) -> &[Entry] {
        &self.entries
    }

    /// The entry of a path.
    #[must_use]
    pub fn entry(&self, path: &[u8]) -> Option<&Entry> {
        let at = self.entries.binary_search_by(|e| e.path.as_bytes().cmp(path)).ok()?;
        self.entries.get(at)
    }

    /// Whether entries lie below this path.
    #[must_use]
    pub fn has_below(&self, path: &[u8]) -> bool {
        let prefix = [path, b"/"].concat();
        let at = self.entries.partition_point(|e| e.path.as_bytes() < &prefix[..]);
        self.entries.get(at).is_some_and(|e| e.path.as_bytes().starts_with(&prefix))
    }

    /// Bytes of all files together.
    #[must_use]
    pub fn file_bytes(&self) -> u64 {
        let sizes = self.entries.iter().map(|e| match e.kind {
            EntryKind::File { size, .. } => size,
            EntryKind::Directory | EntryKind::Symlink { .. } => 0,
        });
        sizes.fold(0, u64::saturating_add)
    }

    /// Which entries have their bytes in which object.
    #[must_use]
    pub fn members(&self) -> BTreeMap<ObjectIndex, Vec<usize>> {
        let mut members: BTreeMap<ObjectIndex, Vec<usize>> = BTreeMap::new();
        for (at, entry) in self.entries.iter().enumerate() {
            if let EntryKind::File { content: Content::Object(object) | Content::Slice { pack: object, .. }, .. } =
                entry.kind
            {
                members.entry(object).or_default().push(at);
            }
        }
        members
    }
}

fn check_object(
    object: &ObjectRecord,
    before: &HashMap<ObjectId, ObjectIndex>,
    objects: &[ObjectRecord],
) -> Result<(), ManifestError> {
    let (id, layout) = (object.id, object.layout);
    if layout.size() == 0 || layout.geometry().object_id(&object.digest, layout.size()) != id {
        return Err(ManifestError::ObjectId(id));
    }
    let blocks = layout.block_count();
    let sound = match &object.chaining {
        Chaining::Digest => blocks == 1,
        Chaining::Inline(values) => {
            blocks > 1
                && blocks <= INLINE_CHAINING_MAX
                && values.len() == blocks as usize
                && crate::hash::merge(values) == object.digest
        }
        Chaining::Object(chaining) => {
            let owner = before.get(chaining).and_then(|at| objects.get(at.as_usize()));
            blocks > INLINE_CHAINING_MAX
                && owner.is_some_and(|o| o.kind == ObjectKind::Chaining && o.layout.size() == u64::from(blocks) * 32)
        }
    };
    if sound { Ok(()) } else { Err(ManifestError::Chaining(id)) }
}

fn check_entries(entries: &[Entry], objects: &[ObjectRecord]) -> Result<(), ManifestError> {
    if let Some(pair) = entries.windows(2).find(|w| w[0].path >= w[1].path) {
        return Err(ManifestError::Order(pair[1].path.clone()));
    }
    let at = |path: &[u8]| entries.binary_search_by(|e| e.path.as_bytes().cmp(path)).ok().map(|at| &entries[at]);
    let mut last_parent: Option<&[u8]> = None;
    for entry in entries {
        if !sound_metadata(entry) {
            return Err(ManifestError::Metadata(entry.path.clone()));
        }
        if !sound_content(entry, objects) {
            return Err(ManifestError::Content(entry.path.clone()));
        }
        // Neighbours mostly share their directory: check it once.
        let parent = entry.path.ancestors().next();
        if parent.is_some() && parent != last_parent {
            let blocked = |above: &[u8]| at(above).is_some_and(|e| e.kind != EntryKind::Directory);
            if entry.path.ancestors().any(blocked) {
                return Err(ManifestError::BelowNonDirectory(entry.path.clone()));
            }
            last_parent = parent;
        }
    }
    Ok(())
}

fn sound_metadata(entry: &Entry) -> bool {
    let target = match &entry.kind {
        EntryKind::Symlink { target } => !target.is_empty() && target.len() <= 4095 && !target.contains(&0),
        EntryKind::Directory | EntryKind::File { .. } => true,
    };
    target && entry.mode <= 0o7777 && entry.mtime.nanos < 1_000_000_000
}

fn sound_content(entry: &Entry, objects: &[ObjectRecord]) -> bool {
    let EntryKind::File { size, digest, content } = &entry.kind else { return true };
    match content {
        Content::Empty => *size == 0 && *digest == Digest::of(b""),
        Content::Object(index) => objects.get(index.as_usize()).is_some_and(|o| {
            o.kind == ObjectKind::File && o.layout.size() == *size && o.digest == *digest && *size > 0
        }),
        Content::Slice { pack, offset } => objects.get(pack.as_usize()).is_some_and(|o| {
            let end = offset.checked_add(*size);
            o.kind == ObjectKind::Pack && *size > 0 && end.is_some_and(|end| end <= o.layout.size())
        }),
    }
}
