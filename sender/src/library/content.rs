//! The content of one generation: its manifest, and where the bytes of each object come from.
//!
//! - A block is given out only when its bytes are those that the manifest promises.
//! - May be read by several threads at once. Descriptors of large files are kept open, at most
//!   [`OPEN_FILES_MAX`]; a file replaced by a rename is still served from the old descriptor.

use std::fmt;
use std::fs::File;
use std::io;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use nackcast_common::hash;
use nackcast_common::ids::{Digest, ObjectIndex};
use nackcast_common::manifest::{Chaining, ChainingValue, EntryKind, Manifest, ObjectRecord};
use nackcast_common::path::DatasetPath;

use super::hashing::read_range;
use super::root::{Root, is_gone};

/// How many descriptors are kept.
const OPEN_FILES_MAX: usize = 64;

/// Where an object's bytes are.
#[derive(Debug)]
pub(super) enum ObjectSource {
    /// In one file.
    File(DatasetPath),
    /// In these files, one after the other.
    Pack(Vec<Member>),
    /// In memory (a short list of chaining values).
    Memory(Arc<[u8]>),
    /// In a file of the cache directory (a long one).
    Spilled { path: PathBuf, file: Arc<File> },
    /// Not here (yet).
    Absent,
}

/// One file of a pack.
#[derive(Debug)]
pub(super) struct Member {
    pub(super) path: DatasetPath,
    pub(super) offset: u64,
    pub(super) size: u64,
    pub(super) digest: Digest,
}

/// Why a block cannot be sent.
#[derive(Debug, thiserror::Error)]
pub enum BlockError {
    /// The file is gone or has other bytes than when it was hashed: scan again.
    #[error("{path} changed since it was hashed: scan again")]
    Changed {
        /// Which file.
        path: DatasetPath,
    },
    /// The file cannot be read.
    #[error("{path} cannot be read: {source}")]
    Io {
        /// Which file.
        path: DatasetPath,
        /// What the system says.
        #[source]
        source: io::Error,
    },
    /// Our own list of hashes is damaged or unreadable.
    #[error("the hash list {} is damaged: scan again to make it anew", path.display())]
    HashList {
        /// Which file of the cache directory.
        path: PathBuf,
    },
    /// The bytes are not in this directory.
    #[error("object {0} is not here yet")]
    Absent(ObjectIndex),
    /// The manifest has no such block.
    #[error("object {0} has no block {1}")]
    NoSuchBlock(ObjectIndex, u32),
}

/// What a generation consists of.
pub struct Content {
    manifest: Arc<Manifest>,
    sources: Vec<ObjectSource>,
    root: Arc<Root>,
    /// Large files, the last used one in front.
    open: Mutex<Vec<(ObjectIndex, Arc<File>)>>,
}

impl fmt::Debug for Content {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Content").field("head", self.manifest.head()).finish_non_exhaustive()
    }
}

impl Content {
    /// `sources` stand in the order of the manifest's objects.
    pub(super) fn new(manifest: Arc<Manifest>, sources: Vec<ObjectSource>, root: Arc<Root>) -> Self {
        assert_eq!(manifest.objects().len(), sources.len(), "every object has a source");
        Self { manifest, sources, root, open: Mutex::new(Vec::new()) }
    }

    /// The listing.
    #[must_use]
    pub const fn manifest(&self) -> &Arc<Manifest> {
        &self.manifest
    }

    /// A file that an object's bytes come from, for messages; the first one of a pack, none for hash lists.
    #[must_use]
    pub fn path_of(&self, object: ObjectIndex) -> Option<&DatasetPath> {
        match self.sources.get(object.as_usize())? {
            ObjectSource::File(path) => Some(path),
            ObjectSource::Pack(members) => members.first().map(|m| &m.path),
            ObjectSource::Memory(_) | ObjectSource::Spilled { .. } | ObjectSource::Absent => None,
        }
    }

    /// Files that are gone or were written to since they were hashed, by their metadata. What was sent of them is
    /// right all the same; this is for whoever must know that the directory is another one by now.
    #[must_use]
    pub fn changed_files(&self) -> Vec<BlockError> {
        let files = self.manifest.entries().iter().filter(|entry| match entry.kind {
            EntryKind::File { size, .. } => !self.root.still_has(&entry.path, size, entry.mtime),
            EntryKind::Directory | EntryKind::Symlink { .. } => false,
        });
        files.map(|entry| BlockError::Changed { path: entry.path.clone() }).collect()
    }

    /// Reads a block into `buffer` (which then has exactly its bytes) and verifies it.
    ///
    /// # Errors
    /// When the bytes are not there any more, or are not those of the manifest; `buffer` is then undefined.
    pub fn read_block(&self, object: ObjectIndex, block: u32, buffer: &mut Vec<u8>) -> Result<(), BlockError> {
        let missing = || BlockError::NoSuchBlock(object, block);
        let record = self.manifest.object(object).filter(|o| block < o.layout.block_count()).ok_or_else(missing)?;
        let source = self.sources.get(object.as_usize()).ok_or_else(missing)?;
        let span = Span { start: record.layout.block_offset(block), length: record.layout.block_len(block) as usize };
        self.read(object, source, span, buffer)?;
        if self.is_sound(record, block, buffer)? {
            return Ok(());
        }
        Err(self.culprit(object, source, span))
    }

    fn read(
        &self,
        object: ObjectIndex,
        source: &ObjectSource,
        span: Span,
        buffer: &mut Vec<u8>,
    ) -> Result<(), BlockError> {
        match source {
            ObjectSource::File(path) => {
                let file = self.open_kept(object, path)?;
                read_range(&file, span.start, span.length as u64, buffer).map_err(|e| read_error(path, e))
            }
            ObjectSource::Pack(members) => self.read_pack(members, span, buffer),
            ObjectSource::Memory(bytes) => {
                buffer.clear();
                let range = usize::try_from(span.start).ok().and_then(|s| bytes.get(s..s + span.length));
                buffer.extend_from_slice(range.unwrap_or_default());
                Ok(())
            }
            ObjectSource::Spilled { path, file } => read_range(file, span.start, span.length as u64, buffer)
                .map_err(|_| BlockError::HashList { path: path.clone() }),
            ObjectSource::Absent => Err(BlockError::Absent(object)),
        }
    }

    fn read_pack(&self, members: &[Member], span: Span, buffer: &mut Vec<u8>) -> Result<(), BlockError> {
        buffer.clear();
        let mut piece = Vec::new();
        for member in span.members(members) {
            let start = span.start.max(member.offset);
            let end = span.end().min(member.offset + member.size);
            let file = self.root.open_file(&member.path).map_err(|e| read_error(&member.path, e))?;
            read_range(&file, start - member.offset, end - start, &mut piece)
                .map_err(|e| read_error(&member.path, e))?;
            buffer.extend_from_slice(&piece);
        }
        Ok(())
    }

    fn open_kept(&self, object: ObjectIndex, path: &DatasetPath) -> Result<Arc<File>, BlockError> {
        if let Some(file) = self.with_open(|open| {
            let at = open.iter().position(|(known, _)| *known == object)?;
            open[..=at].rotate_right(1);
            open.first().map(|(_, file)| Arc::clone(file))
        }) {
            return Ok(file);
        }
        let file = Arc::new(self.root.open_file(path).map_err(|e| read_error(path, e))?);
        self.with_open(|open| {
            open.insert(0, (object, Arc::clone(&file)));
            open.truncate(OPEN_FILES_MAX);
        });
        Ok(file)
    }

    fn with_open<T>(&self, work: impl FnOnce(&mut Vec<(ObjectIndex, Arc<File>)>) -> T) -> T {
        // A panic elsewhere leaves the list valid: it is only a cache.
        work(&mut self.open.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn is_sound(&self, record: &ObjectRecord, block: u32, bytes: &[u8]) -> Result<bool, BlockError> {
        if bytes.len() != record.layout.block_len(block) as usize {
            return Ok(false);
        }
        let promised = match &record.chaining {
            Chaining::Digest => return Ok(Digest::of(bytes) == record.digest),
            Chaining::Inline(values) => values.get(block as usize).copied(),
            Chaining::Object(_) => self.listed_value(record, block)?,
        };
        Ok(promised == Some(hash::chaining_value(bytes, record.layout.block_offset(block))))
    }

    /// The chaining value of a block, from the object that lists it.
    fn listed_value(&self, record: &ObjectRecord, block: u32) -> Result<Option<ChainingValue>, BlockError> {
        let Some((index, list)) = self.list_of(record) else { return Ok(None) };
        let span = Span { start: u64::from(block) * 32, length: 32 };
        let mut value = Vec::with_capacity(32);
        self.read(index, list, span, &mut value)?;
        Ok(value.try_into().ok())
    }

    fn list_of(&self, record: &ObjectRecord) -> Option<(ObjectIndex, &ObjectSource)> {
        let Chaining::Object(id) = &record.chaining else { return None };
        let index = self.manifest.index_of(*id)?;
        Some((index, self.sources.get(index.as_usize())?))
    }

    /// Names who is to blame for a block that does not verify.
    fn culprit(&self, object: ObjectIndex, source: &ObjectSource, span: Span) -> BlockError {
        match source {
            ObjectSource::File(path) => {
                self.with_open(|open| open.retain(|(known, _)| *known != object));
                self.damaged_list(object, span).unwrap_or_else(|| BlockError::Changed { path: path.clone() })
            }
            ObjectSource::Pack(members) => self.changed_member(members, span),
            ObjectSource::Memory(_) => BlockError::HashList { path: PathBuf::from("(memory)") },
            ObjectSource::Spilled { path, .. } => BlockError::HashList { path: path.clone() },
            ObjectSource::Absent => BlockError::Absent(object),
        }
    }

    /// Whether the object's own hash list, when it lies on disk, is what does not verify.
    fn damaged_list(&self, object: ObjectIndex, span: Span) -> Option<BlockError> {
        let record = self.manifest.object(object)?;
        let (index, list) = self.list_of(record)?;
        let ObjectSource::Spilled { .. } = list else { return None };
        let layout = self.manifest.object(index)?.layout;
        let value = span.start / u64::from(record.layout.geometry().block_size()) * 32;
        let block = u32::try_from(value / u64::from(layout.geometry().block_size())).ok()?;
        self.read_block(index, block, &mut Vec::new()).err()
    }

    fn changed_member(&self, members: &[Member], span: Span) -> BlockError {
        let touched = span.members(members);
        let mut bytes = Vec::new();
        for member in touched {
            let read = self.root.open_file(&member.path).and_then(|f| read_range(&f, 0, member.size, &mut bytes));
            match read {
                Err(error) => return read_error(&member.path, error),
                Ok(()) if Digest::of(&bytes) != member.digest => {
                    return BlockError::Changed { path: member.path.clone() };
                }
                Ok(()) => {}
            }
        }
        // It changed and changed back: the next attempt will tell.
        let path = touched.first().map(|member| member.path.clone());
        path.map_or_else(|| unreachable!("a block of a pack has a member"), |path| BlockError::Changed { path })
    }
}

/// A run of an object's bytes.
#[derive(Clone, Copy)]
struct Span {
    start: u64,
    length: usize,
}

impl Span {
    const fn end(self) -> u64 {
        self.start + self.length as u64
    }

    /// The members that it touches.
    fn members(self, members: &[Member]) -> &[Member] {
        let first = members.partition_point(|m| m.offset + m.size <= self.start);
        let end = members.partition_point(|m| m.offset < self.end());
        &members[first..end]
    }
}

fn read_error(path: &DatasetPath, source: io::Error) -> BlockError {
    let path = path.clone();
    if is_gone(&source) || source.kind() == io::ErrorKind::UnexpectedEof {
        return BlockError::Changed { path };
    }
    BlockError::Io { path, source }
}
