//! Compares what stands in the target with a manifest.
//!
//! - The tree is walked level by level, each directory opened from the target with no symbolic link
//!   followed; names are examined relative to their directory, in parallel.
//! - Quick: a file is taken for sound when its stamp still holds; otherwise, with the right size, it is hashed
//!   (so equal files of an existing directory are adopted). Deep: every file is hashed, and of large objects
//!   the sound blocks are named, so that only damaged ones are fetched.
//! - Nothing is changed.

mod hashing;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use nackcast_common::files::{Errno, Facts, How, Kind, Opened};
use nackcast_common::geometry::Layout;
use nackcast_common::ids::{Digest, ObjectIndex};
use nackcast_common::manifest::{Chaining, ChainingValue, Content, Entry, EntryKind, Manifest, ObjectRecord};
use nackcast_common::path::{DatasetPath, PART_DIRECTORY};
use nackcast_common::ranges::RangeSet;

use self::hashing::Hashing;
use super::DiskError;
use super::facts::FileStamp;
use super::parallel::map_all;
use super::target::TargetDir;

/// Names that one task examines.
const CHUNK: usize = 512;

/// How thoroughly to look.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Depth {
    /// By size, times and inode.
    Quick,
    /// By content.
    Deep,
}

/// Finds the stamp under which an entry was last verified.
pub type KnownStamps<'a> = dyn Fn(&DatasetPath) -> Option<FileStamp> + Sync + 'a;
/// Finds the chaining values of an object whose manifest does not carry them.
pub type ChainingValues<'a> = dyn Fn(&ObjectRecord) -> Option<Arc<[ChainingValue]>> + Sync + 'a;

/// What a scan is to do.
#[expect(missing_debug_implementations, reason = "functions have nothing to show")]
#[derive(Clone, Copy)]
pub struct Options<'a> {
    /// How thoroughly.
    pub depth: Depth,
    /// Which bits of a mode are compared.
    pub mode_mask: u32,
    /// Stamps of files that we installed or verified.
    pub known: &'a KnownStamps<'a>,
    /// Chaining values that are objects of their own.
    pub chaining: &'a ChainingValues<'a>,
    /// Chaining values that are objects of their own, and are not at hand, are made from files that are sound: whoever
    /// gives blocks to others needs them.
    pub make_chaining: bool,
    /// Counters, and the way to end early.
    pub progress: &'a Progress,
}

/// How far a scan is; shared with whoever shows it.
#[derive(Debug, Default)]
pub struct Progress {
    /// Names examined.
    pub names: AtomicU64,
    /// Bytes hashed.
    pub bytes: AtomicU64,
    /// Set to end the scan early.
    pub cancel: AtomicBool,
}

impl Progress {
    fn cancelled(&self) -> bool {
        self.cancel.load(Ordering::Relaxed)
    }
}

/// How an entry stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Status {
    /// As the manifest says.
    Same,
    /// Only mode or modification time differ: nothing needs to be fetched.
    MetadataDiffers,
    /// Nothing is there.
    Missing,
    /// Something else is there.
    Differs(Difference),
    /// It could not be looked at.
    Unreadable(Errno),
}

/// What is different.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Difference {
    /// It is of another kind.
    Kind(Kind),
    /// The file is shorter or longer.
    Size(u64),
    /// The file has other bytes.
    Content,
    /// The link says something else.
    LinkTarget,
}

/// Something that the manifest does not have.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Extra {
    /// Relative to the target. A directory stands for all in it.
    pub path: Vec<u8>,
    /// What it is.
    pub kind: Kind,
    /// Entries of the manifest lie below it, so it is in their way.
    pub in_the_way: bool,
}

/// What a scan found.
#[derive(Debug, Default)]
pub struct Comparison {
    /// For each entry of the manifest, in its order.
    pub entries: Vec<Status>,
    /// What the manifest does not have, by path.
    pub extra: Vec<Extra>,
    /// Files found sound whose stamp is not the known one (to be stored), or whose metadata need fixing: index
    /// of the entry and stamp.
    pub stamps: Vec<(usize, FileStamp)>,
    /// Sound blocks of objects whose file is damaged or cut, where chaining values were at hand (deep only).
    pub sound_blocks: BTreeMap<ObjectIndex, RangeSet>,
    /// Chaining values that were made, by the object that they are of.
    pub chaining: BTreeMap<ObjectIndex, Arc<[ChainingValue]>>,
}

impl Comparison {
    /// Whether the dataset stands as the manifest says.
    #[must_use]
    pub fn is_complete(&self) -> bool {
        self.entries.iter().all(|s| *s == Status::Same)
    }
}

/// Why there is no comparison.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ScanError {
    /// The target itself cannot be read.
    #[error(transparent)]
    Disk(#[from] DiskError),
    /// It was ended early.
    #[error("the scan was ended before it was done")]
    Cancelled,
}

/// Compares the target with the manifest.
///
/// # Errors
/// When the target itself cannot be read, or the scan was cancelled. What else cannot be read is a status.
pub fn scan(target: &TargetDir, manifest: &Manifest, options: Options<'_>) -> Result<Comparison, ScanError> {
    target.open_directory(b"").map_err(|cause| target.fail("read", b"", 0, cause))?;
    let scan = Scan { target, manifest, options };
    let mut found = Found::default();
    let mut level = vec![Vec::new()];
    while !level.is_empty() {
        let next = scan.all(level.len(), |at| scan.directory(&level[at]));
        if options.progress.cancelled() {
            return Err(ScanError::Cancelled);
        }
        found = found.and(Found { below: Vec::new(), ..next });
        level = next.below;
    }
    Ok(scan.conclude(found))
}

struct Scan<'a> {
    target: &'a TargetDir,
    manifest: &'a Manifest,
    options: Options<'a>,
}

/// What part of a scan found.
#[derive(Default)]
struct Found {
    entries: Vec<Verdict>,
    extra: Vec<Extra>,
    /// Directories still to be read.
    below: Vec<Vec<u8>>,
    unreadable: Vec<(Vec<u8>, Errno)>,
}

struct Verdict {
    index: usize,
    status: Status,
    stamp: Option<FileStamp>,
    sound: Option<(ObjectIndex, RangeSet)>,
    chaining: Option<(ObjectIndex, Arc<[ChainingValue]>)>,
}

impl Verdict {
    const fn of(index: usize, status: Status) -> Self {
        Self { index, status, stamp: None, sound: None, chaining: None }
    }
}

impl Found {
    fn and(mut self, other: Self) -> Self {
        self.entries.extend(other.entries);
        self.extra.extend(other.extra);
        self.below.extend(other.below);
        self.unreadable.extend(other.unreadable);
        self
    }
}

impl Scan<'_> {
    /// What pieces of the work found, in their order.
    fn all(&self, count: usize, work: impl Fn(usize) -> Found + Sync + Send) -> Found {
        let found: Vec<_> = map_all(self.parallel(), count, || (), |(), at| work(at));
        found.into_iter().fold(Found::default(), Found::and)
    }

    fn parallel(&self) -> bool {
        self.target.files().parallel()
    }

    fn directory(&self, path: &[u8]) -> Found {
        let read = || {
            let open = self.target.open_directory(path)?;
            let mut names = open.names()?;
            names.retain(|name| !path.is_empty() || **name != *PART_DIRECTORY.as_bytes());
            Ok((open, names))
        };
        let (open, names) = match read() {
            Ok(read) => read,
            // It went away since it was seen: what should be in it is missing.
            Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => return Found::default(),
            Err(cause) => return Found { unreadable: vec![(path.to_vec(), cause)], ..Found::default() },
        };
        let chunks: Vec<_> = names.chunks(CHUNK).collect();
        let examine = |at: usize| {
            let names = chunks[at];
            let mut found = Found::default();
            let mut whole = path.to_vec();
            if !path.is_empty() {
                whole.push(b'/');
            }
            let start = whole.len();
            for name in names.iter().take_while(|_| !self.options.progress.cancelled()) {
                whole.truncate(start);
                whole.extend_from_slice(name);
                self.name(&*open, name, &whole, &mut found);
            }
            self.options.progress.names.fetch_add(names.len() as u64, Ordering::Relaxed);
            found
        };
        self.all(chunks.len(), examine)
    }

    fn name(&self, open: &dyn Opened, name: &[u8], path: &[u8], found: &mut Found) {
        let entries = self.manifest.entries();
        let at = entries.binary_search_by(|e| e.path.as_bytes().cmp(path));
        let facts = match open.facts_at(name) {
            Ok(facts) => facts,
            Err(Errno::NOENT) => return,
            Err(cause) => {
                if let Ok(index) = at {
                    found.entries.push(Verdict::of(index, Status::Unreadable(cause)));
                }
                return;
            }
        };
        let Ok(index) = at else {
            let needed = has_entries_below(entries, path);
            if needed && facts.kind == Kind::Directory {
                found.below.push(path.to_vec());
            } else {
                found.extra.push(Extra { path: path.to_vec(), kind: facts.kind, in_the_way: needed });
            }
            return;
        };
        let entry = &entries[index];
        if facts.kind == Kind::Directory && entry.kind == EntryKind::Directory {
            found.below.push(path.to_vec());
        }
        found.entries.push(self.entry(open, name, index, entry, &facts));
    }

    fn entry(&self, open: &dyn Opened, name: &[u8], index: usize, entry: &Entry, facts: &Facts) -> Verdict {
        let mode_same = facts.mode & 0o7777 == entry.mode & self.options.mode_mask;
        let time_same = facts.mtime == entry.mtime;
        let sound = |same: bool| if same { Status::Same } else { Status::MetadataDiffers };
        match (&entry.kind, facts.kind) {
            (EntryKind::Directory, Kind::Directory) => Verdict::of(index, sound(mode_same && time_same)),
            (EntryKind::Symlink { target }, Kind::Symlink) => {
                let status = match open.read_symlink(name) {
                    Ok(says) if *says == **target => sound(time_same),
                    Ok(_) => Status::Differs(Difference::LinkTarget),
                    Err(cause) => Status::Unreadable(cause),
                };
                Verdict::of(index, status)
            }
            (EntryKind::File { size, digest, content }, Kind::File) => {
                let file = Wanted { index, path: &entry.path, size: *size, digest, content: *content };
                let same = mode_same && time_same;
                self.file(open, name, &file, facts, same)
            }
            (_, other) => Verdict::of(index, Status::Differs(Difference::Kind(other))),
        }
    }

    fn file(&self, open: &dyn Opened, name: &[u8], wanted: &Wanted<'_>, facts: &Facts, same: bool) -> Verdict {
        let metadata = if same { Status::Same } else { Status::MetadataDiffers };
        let deep = self.options.depth == Depth::Deep;
        if !deep {
            if facts.size != wanted.size {
                return Verdict::of(wanted.index, Status::Differs(Difference::Size(facts.size)));
            }
            if let Some(stamp) = (self.options.known)(wanted.path).filter(|s| s.holds(facts, wanted.digest))
                && self.unchained(wanted).is_none()
            {
                let stamp = (!same).then_some(stamp);
                return Verdict { stamp, ..Verdict::of(wanted.index, metadata) };
            }
        }
        match self.content(open, name, wanted, facts) {
            Ok(Read::Right(stamp, chaining)) => {
                let changed = stamp.filter(|stamp| !same || (self.options.known)(wanted.path).as_ref() != Some(stamp));
                Verdict { stamp: changed, chaining, ..Verdict::of(wanted.index, metadata) }
            }
            Ok(Read::Wrong(sound)) => {
                let size_differs = facts.size != wanted.size;
                let difference = if size_differs { Difference::Size(facts.size) } else { Difference::Content };
                Verdict { sound, ..Verdict::of(wanted.index, Status::Differs(difference)) }
            }
            Err(cause) => Verdict::of(wanted.index, Status::Unreadable(cause)),
        }
    }

    /// Reads the file.
    fn content(&self, open: &dyn Opened, name: &[u8], wanted: &Wanted<'_>, facts: &Facts) -> Result<Read, Errno> {
        let file = open.open(name, How::Read)?;
        let before = file.facts()?;
        if before.kind != Kind::File || before.inode != facts.inode {
            return Err(Errno::AGAIN);
        }
        let stamp =
            || Ok(Some(FileStamp::of(&file.facts()?, wanted.digest)).filter(|s| s.holds(&before, wanted.digest)));
        let hashing = Hashing { file: &file, parallel: self.parallel(), progress: self.options.progress };
        let deep = self.options.depth == Depth::Deep;
        if deep && let Some((index, object, values)) = self.by_blocks(wanted) {
            let sound = hashing.sound_blocks(&object.layout, &values)?;
            let right = before.size == wanted.size && sound.count() == u64::from(object.layout.block_count());
            return if right { Ok(Read::Right(stamp()?, None)) } else { Ok(Read::Wrong(Some((index, sound)))) };
        }
        if before.size != wanted.size {
            return Ok(Read::Wrong(None));
        }
        let (digest, chaining) = match self.unchained(wanted) {
            Some((index, layout)) => {
                let values = hashing.values(layout)?;
                (nackcast_common::hash::merge(&values), Some((index, values.into())))
            }
            None => (hashing.digest(wanted.size)?, None),
        };
        if digest == *wanted.digest { Ok(Read::Right(stamp()?, chaining)) } else { Ok(Read::Wrong(None)) }
    }

    /// The file's object, if its chaining values are to be made.
    fn unchained(&self, wanted: &Wanted<'_>) -> Option<(ObjectIndex, &Layout)> {
        let Content::Object(index) = wanted.content else { return None };
        let object = self.manifest.object(index).filter(|_| self.options.make_chaining)?;
        let is_unchained = matches!(object.chaining, Chaining::Object(_)) && (self.options.chaining)(object).is_none();
        is_unchained.then_some((index, &object.layout))
    }

    /// The object and its chaining values, if the file is one of several blocks.
    fn by_blocks(&self, wanted: &Wanted<'_>) -> Option<(ObjectIndex, &ObjectRecord, Arc<[ChainingValue]>)> {
        let Content::Object(index) = wanted.content else { return None };
        let object = self.manifest.object(index)?;
        let values = match &object.chaining {
            Chaining::Digest => return None,
            Chaining::Inline(values) => Arc::clone(values),
            Chaining::Object(_) => (self.options.chaining)(object)?,
        };
        let fits = values.len() == object.layout.block_count() as usize;
        (fits && nackcast_common::hash::merge(&values) == object.digest).then_some((index, object, values))
    }

    fn conclude(&self, found: Found) -> Comparison {
        let entries = self.manifest.entries();
        let mut comparison = Comparison { entries: vec![Status::Missing; entries.len()], ..Comparison::default() };
        for (path, cause) in found.unreadable {
            let mut below = path;
            if !below.is_empty() {
                below.push(b'/');
            }
            let start = entries.partition_point(|e| e.path.as_bytes() < below.as_slice());
            for (entry, status) in entries.iter().zip(&mut comparison.entries).skip(start) {
                if !entry.path.as_bytes().starts_with(&below) {
                    break;
                }
                *status = Status::Unreadable(cause);
            }
        }
        for verdict in found.entries {
            comparison.entries[verdict.index] = verdict.status;
            comparison.stamps.extend(verdict.stamp.map(|stamp| (verdict.index, stamp)));
            comparison.chaining.extend(verdict.chaining);
            if let Some((object, sound)) = verdict.sound {
                // Several entries may share the object: what one of them has can be taken from there.
                comparison.sound_blocks.entry(object).or_default().union(&sound);
            }
        }
        comparison.stamps.sort_by_key(|(index, _)| *index);
        comparison.extra = found.extra;
        comparison.extra.sort();
        comparison
    }
}

/// A file of the manifest.
struct Wanted<'a> {
    index: usize,
    path: &'a DatasetPath,
    size: u64,
    digest: &'a Digest,
    content: Content,
}

/// What reading a file showed.
enum Read {
    /// The right bytes; the stamp, if the file did not change meanwhile, and chaining values that were made.
    Right(Option<FileStamp>, Option<(ObjectIndex, Arc<[ChainingValue]>)>),
    /// Other bytes; of large objects, the sound blocks.
    Wrong(Option<(ObjectIndex, RangeSet)>),
}

/// Whether the manifest has anything below a directory.
fn has_entries_below(entries: &[Entry], path: &[u8]) -> bool {
    let below = |e: &Entry| e.path.as_bytes().strip_prefix(path).is_some_and(|rest| rest.first() == Some(&b'/'));
    // What lies below sorts behind `path/`, but other names (`path-1`) may stand between.
    let at = entries.partition_point(|e| {
        let (head, rest) = e.path.as_bytes().split_at(path.len().min(e.path.as_bytes().len()));
        (head, rest) < (path, b"/")
    });
    entries.get(at).is_some_and(below)
}

#[cfg(test)]
mod tests;
