//! Puts checked content under its final names.
//!
//! - Every file and symbolic link is made whole under a temporary name in `.nackcast.part`, with mode and
//!   modification time, made durable, and then renamed: a final name never shows a part of a file.
//! - Bytes that are copied are hashed on the way; a wrong digest leaves the final name as it was.
//! - A batch is staged entry by entry and then committed: one flush of the file system for many files, and
//!   one of each directory that changed.
//! - Directories get their final mode and time at the very end ([`Installer::finish_directories`]), since
//!   installing changes them. One that we own but may not write to is opened for the time between.

mod content;
mod directories;
mod prune;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use nackcast_common::files::{Errno, Handle, How, Kind, Opened};
use nackcast_common::ids::Digest;
use nackcast_common::manifest::{Entry, EntryKind, Mtime};
use nackcast_common::mutation::{Mutation, planted};
use nackcast_common::path::{DatasetPath, PART_DIRECTORY};

use super::DiskError;
use super::facts::FileStamp;
use super::part::{Finished, data_name};
use super::target::{Parents, TEMPORARY_PREFIX, TargetDir, split};

pub use self::prune::{Kept, Pruned, Removal};

/// Permission bits that are set unless more is asked for.
pub const MODE_MASK: u32 = 0o777;
/// So many staged files are flushed one by one; more by one `syncfs`.
const FLUSH_EACH_MAX: usize = 8;
/// How often a rename is tried, each time with another obstacle out of the way.
const TRIES_MAX: u32 = 4;

/// What an installer may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Policy {
    /// Which bits of a mode are set.
    pub mode_mask: u32,
    /// What becomes of something of another kind in the way of an entry.
    pub obstacles: Obstacles,
}

/// What becomes of something of another kind in the way of an entry. (A file or link where a file or link
/// must be is simply replaced.)
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Obstacles {
    /// It stays, and the entry is a [`Conflict`]; only an empty directory is removed.
    Keep,
    /// It is removed, a directory with all in it.
    Remove,
}

impl Default for Policy {
    fn default() -> Self {
        Self { mode_mask: MODE_MASK, obstacles: Obstacles::Keep }
    }
}

/// Where an entry's bytes come from.
#[derive(Clone, Copy, Debug)]
pub enum Source<'a> {
    /// A directory, a symbolic link, an empty file.
    Nothing,
    /// A complete object, whose data file is taken.
    Object(&'a Finished),
    /// A complete object that another entry needs too.
    CopyOf(&'a Finished),
    /// A slice of a complete pack.
    Slice {
        /// The pack.
        pack: &'a Finished,
        /// Where the slice begins.
        offset: u64,
    },
    /// A file of the dataset. Stage all of these before the commit that may replace one of them.
    Local {
        /// Where the same bytes are.
        from: &'a DatasetPath,
        /// The stamp under which they were verified, if `from` leaves the dataset: it is then renamed as
        /// long as the stamp holds.
        leaving: Option<FileStamp>,
    },
}

/// Something stands where an entry must be.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{path} is a {} where the dataset has a {}: move it away or allow overwriting", shown(*.found), shown(*.wanted))]
pub struct Conflict {
    /// Where.
    pub path: String,
    /// What stands there.
    pub found: Kind,
    /// What should.
    pub wanted: Kind,
}

const fn shown(kind: Kind) -> &'static str {
    match kind {
        Kind::File => "file",
        Kind::Directory => "directory",
        Kind::Symlink => "symbolic link",
        Kind::Other => "device, pipe or socket",
    }
}

/// Why an entry was not installed; its final name is as it was.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InstallError {
    /// The file system refused.
    #[error(transparent)]
    Disk(#[from] DiskError),
    /// Something that may not be replaced is in the way.
    #[error(transparent)]
    Conflict(#[from] Conflict),
    /// The bytes were not those of the manifest: fetch them again.
    #[error("the bytes for {path} are not those of the manifest: nothing was installed")]
    WrongBytes {
        /// The entry.
        path: String,
    },
    /// Nothing stood there when the entry was asked for, and now something does.
    #[error(
        "{path} was put there by somebody else while it was on its way: it stays; move it away, or give --overwrite"
    )]
    Taken {
        /// The entry.
        path: String,
    },
    /// Another program put something at the name while we did.
    #[error("another program changed {path} while it was installed: scan again")]
    Interfered {
        /// The entry.
        path: String,
    },
    /// The source cannot be that of the entry: a fault of the caller.
    #[error("{path} cannot come from there")]
    Misfit {
        /// The entry.
        path: String,
    },
}

/// What became of one staged entry.
#[derive(Debug)]
pub struct Outcome {
    /// The entry.
    pub path: DatasetPath,
    /// It has its final name, whatever came after.
    pub placed: bool,
    /// The stamp of a file; none for a symbolic link.
    pub result: Result<Option<FileStamp>, InstallError>,
}

/// Why a batch was not made durable.
#[derive(Debug, thiserror::Error)]
#[error("{cause}")]
pub struct CommitError {
    /// What the file system said.
    pub cause: DiskError,
    /// What has its final name all the same.
    pub placed: Vec<DatasetPath>,
}

/// Installs entries of one target, batch by batch.
#[derive(Debug)]
pub struct Installer {
    target: Arc<TargetDir>,
    policy: Policy,
    parents: Parents,
    staged: Vec<Staged>,
    /// Open files of a small batch, to be flushed one by one.
    handles: Vec<Handle>,
    /// Directories whose names changed.
    touched: BTreeSet<Box<[u8]>>,
    /// Directories that were flushed by us. The names in others may come from a run that was killed before it
    /// made them durable.
    flushed: BTreeSet<Box<[u8]>>,
    /// Flushing the whole file system failed once, and tells of a loss only once: each file is asked when it is
    /// staged.
    flush_each: bool,
    /// Directories that we opened for writing, with the mode that they had.
    unlocked: BTreeMap<Box<[u8]>, u32>,
    removal: Arc<Removal>,
}

#[derive(Debug)]
struct Staged {
    path: DatasetPath,
    digest: Option<Digest>,
    from: Origin,
    inode: u64,
    /// Only where nothing has its name.
    vacant: bool,
}

#[derive(Debug)]
enum Origin {
    /// A temporary, or an object's data file, in the part directory.
    Part(String),
    /// A path that leaves the dataset.
    Dataset(DatasetPath),
}

impl Installer {
    /// For one target.
    #[must_use]
    pub fn new(target: Arc<TargetDir>, policy: Policy) -> Self {
        Self {
            target,
            policy,
            parents: Parents::default(),
            staged: Vec::new(),
            handles: Vec::new(),
            touched: BTreeSet::new(),
            flushed: BTreeSet::new(),
            flush_each: false,
            unlocked: BTreeMap::new(),
            removal: Arc::default(),
        }
    }

    /// How far [`Installer::prune`] is.
    #[must_use]
    pub fn removal(&self) -> Arc<Removal> {
        Arc::clone(&self.removal)
    }

    /// How many entries wait for [`Installer::commit`].
    #[must_use]
    pub const fn staged(&self) -> usize {
        self.staged.len()
    }

    /// Makes an entry ready under a temporary name. Directories are made at once.
    ///
    /// # Errors
    /// When the bytes are wrong or the file system refuses.
    pub fn stage(&mut self, entry: &Entry, source: Source<'_>) -> Result<(), InstallError> {
        match &entry.kind {
            EntryKind::Directory => self.ensure(entry.path.as_bytes()).map(drop),
            EntryKind::Symlink { target } => self.stage_symlink(entry, target),
            EntryKind::File { size, digest, .. } => self.stage_file(entry, *size, digest, source),
        }
    }

    /// The same for an entry where nothing stands: it replaces nothing.
    ///
    /// # Errors
    /// As [`Installer::stage`].
    pub fn stage_vacant(&mut self, entry: &Entry, source: Source<'_>) -> Result<(), InstallError> {
        let before = self.staged.len();
        self.stage(entry, source)?;
        self.staged.iter_mut().skip(before).for_each(|staged| staged.vacant = true);
        Ok(())
    }

    fn stage_symlink(&mut self, entry: &Entry, to: &[u8]) -> Result<(), InstallError> {
        let part = self.target.part_directory()?;
        let temporary = self.target.temporary_name();
        let make = || {
            part.make_symlink(temporary.as_bytes(), to)?;
            part.set_time_at(temporary.as_bytes(), entry.mtime)?;
            part.facts_at(temporary.as_bytes())
        };
        let facts = make().map_err(|cause| {
            self.target.discard_temporary(&temporary);
            self.fail("make", &entry.path, 4096, cause)
        })?;
        let from = Origin::Part(temporary);
        self.staged.push(Staged { path: entry.path.clone(), digest: None, from, inode: facts.inode, vacant: false });
        Ok(())
    }

    fn stage_file(
        &mut self,
        entry: &Entry,
        size: u64,
        digest: &Digest,
        source: Source<'_>,
    ) -> Result<(), InstallError> {
        let misfit = || InstallError::Misfit { path: entry.path.to_string() };
        let (from, file) = match source {
            Source::Nothing if size != 0 => return Err(misfit()),
            Source::Object(o) | Source::CopyOf(o) if o.layout.size() != size => return Err(misfit()),
            Source::Nothing => self.fill(entry, |_| Ok(()))?,
            Source::Object(object) => (Origin::Part(data_name(object.id)), Arc::clone(&object.file)),
            Source::CopyOf(object) => self.fill(entry, |to| content::copy_whole(&*object.file, to, size, digest))?,
            Source::Slice { pack, offset } => {
                self.fill(entry, |to| content::copy_slice(&*pack.file, offset, to, size, digest))?
            }
            Source::Local { from, leaving } => self.take_local(entry, size, digest, from, leaving)?,
        };
        let set = || {
            set_metadata(&*file, entry.mode & self.policy.mode_mask, entry.mtime)?;
            file.facts()
        };
        let facts = set().map_err(|cause| {
            self.discard(&from);
            self.fail("set mode and time of", &entry.path, 0, cause)
        })?;
        if self.flush_each
            && let Err(cause) = file.sync()
        {
            self.discard(&from);
            return Err(self.target.lost(entry.path.as_bytes(), cause).into());
        }
        self.staged.push(Staged {
            path: entry.path.clone(),
            digest: Some(*digest),
            from,
            inode: facts.inode,
            vacant: false,
        });
        if self.handles.len() <= FLUSH_EACH_MAX {
            self.handles.push(file);
        }
        Ok(())
    }

    fn take_local(
        &self,
        entry: &Entry,
        size: u64,
        digest: &Digest,
        from: &DatasetPath,
        leaving: Option<FileStamp>,
    ) -> Result<(Origin, Handle), InstallError> {
        let file = self.target.open_file(from)?;
        let facts = file.facts().map_err(|cause| self.fail("examine", from, 0, cause))?;
        // A file with another name elsewhere is not ours alone: its mode and time must stay.
        let holds = |stamp: FileStamp| stamp.holds(&facts, digest) || planted(Mutation::StampNotChecked);
        let may_move = leaving.is_some_and(holds) && facts.links == 1;
        if may_move {
            return Ok((Origin::Dataset(from.clone()), file));
        }
        if facts.size != size {
            return Err(InstallError::WrongBytes { path: entry.path.to_string() });
        }
        self.fill(entry, |to| content::copy_whole(&*file, to, size, digest))
    }

    /// A new temporary with what `write` puts there.
    fn fill(
        &self,
        entry: &Entry,
        write: impl FnOnce(&dyn Opened) -> Result<(), content::CopyError>,
    ) -> Result<(Origin, Handle), InstallError> {
        let part = self.target.part_directory()?;
        let temporary = self.target.temporary_name();
        let needed = match entry.kind {
            EntryKind::File { size, .. } => size.max(4096),
            EntryKind::Directory | EntryKind::Symlink { .. } => 4096,
        };
        let file = part
            .open(temporary.as_bytes(), How::Make)
            .map_err(|cause| self.fail("make", &entry.path, needed, cause))?;
        if let Err(error) = write(&*file) {
            self.discard(&Origin::Part(temporary));
            return Err(match error {
                content::CopyError::WrongBytes => InstallError::WrongBytes { path: entry.path.to_string() },
                content::CopyError::Disk(cause) => self.fail("write", &entry.path, needed, cause).into(),
            });
        }
        Ok((Origin::Part(temporary), file))
    }

    /// Removes a temporary that is not needed; an object's own data stays with its store.
    fn discard(&self, from: &Origin) {
        if let Origin::Part(name) = from
            && name.starts_with(TEMPORARY_PREFIX)
        {
            self.target.discard_temporary(name);
        }
    }

    /// Where the commit is going to put something.
    pub fn replaced(&self) -> impl Iterator<Item = &DatasetPath> {
        self.staged.iter().map(|staged| &staged.path)
    }

    /// Makes what was staged durable, gives it its final names, and makes these durable.
    ///
    /// # Errors
    /// When the file system did not store it; then nothing, or not durably, was installed. The objects that
    /// were given may have lost bytes ([`PartStore::distrust`](super::part::PartStore::distrust)), and the
    /// entries must be staged again. What is wrong with one entry alone stands in its [`Outcome`].
    pub fn commit(&mut self) -> Result<Vec<Outcome>, CommitError> {
        self.parents.clear();
        let staged = std::mem::take(&mut self.staged);
        if !planted(Mutation::InstallBeforeSync)
            && let Err(error) = self.flush()
        {
            staged.iter().for_each(|s| self.discard(&s.from));
            return Err(CommitError { cause: error, placed: Vec::new() });
        }
        let mut outcomes = Vec::with_capacity(staged.len());
        for one in staged {
            let (placed, result) = match self.place(&one) {
                Ok(parent) => (true, self.examine(&one, &parent)),
                Err(error) => {
                    self.discard(&one.from);
                    (false, Err(error))
                }
            };
            outcomes.push(Outcome { path: one.path, placed, result });
        }
        let flushed = self.flush_directories();
        self.parents.clear();
        match flushed {
            Ok(()) => Ok(outcomes),
            Err(cause) => {
                let placed = outcomes.into_iter().filter(|o| o.placed).map(|o| o.path).collect();
                Err(CommitError { cause, placed })
            }
        }
    }

    fn flush(&mut self) -> Result<(), DiskError> {
        let handles = std::mem::take(&mut self.handles);
        if handles.len() > FLUSH_EACH_MAX {
            return self.flush_all();
        }
        let flushed = handles.iter().try_for_each(|file| file.sync());
        flushed.map_err(|cause| self.target.lost(PART_DIRECTORY.as_bytes(), cause))
    }

    fn flush_all(&mut self) -> Result<(), DiskError> {
        self.target.root().sync_file_system().map_err(|cause| {
            self.flush_each = true;
            self.target.lost(b"", cause)
        })
    }

    fn flush_directories(&mut self) -> Result<(), DiskError> {
        // What could not be flushed stays to be flushed with the next batch.
        while let Some(directory) = self.touched.first().cloned() {
            match self.parents.open(&self.target, &directory).and_then(|open| open.sync()) {
                // Removed meanwhile, with all that was in it.
                Ok(()) | Err(Errno::NOENT | Errno::NOTDIR) => {}
                Err(cause) => return Err(self.target.lost(&directory, cause)),
            }
            self.touched.remove(&directory);
            self.flushed.insert(directory);
        }
        Ok(())
    }

    /// A name in a directory is to be made durable, with those that lead to it.
    fn touch(&mut self, directory: &[u8]) {
        self.touched.insert(directory.into());
        let mut left = directory;
        while !left.is_empty() {
            left = split(left).0;
            if !self.flushed.contains(left) {
                self.touched.insert(left.into());
            }
        }
    }

    /// Gives what is staged its final name; gives the directory.
    fn place(&mut self, staged: &Staged) -> Result<Handle, InstallError> {
        let (directory, name) = split(staged.path.as_bytes());
        let (from, from_name) = match &staged.from {
            Origin::Part(name) => {
                // A power cut may leave both names. Taking the old one away at the next start would change the file's
                // change time, and it would no longer be the one that we installed.
                self.touched.insert(PART_DIRECTORY.as_bytes().into());
                (self.target.part_directory()?, name.as_bytes())
            }
            Origin::Dataset(path) => {
                let (directory, name) = split(path.as_bytes());
                self.touched.insert(directory.into());
                (self.ensure(directory)?, name)
            }
        };
        let mut tries = 0;
        let parent = loop {
            let parent = self.ensure(directory)?;
            tries += 1;
            let renamed = match staged.vacant {
                true => from.rename_new(from_name, &*parent, name),
                false => from.rename(from_name, &*parent, name),
            };
            match renamed {
                Ok(()) => break parent,
                Err(Errno::EXIST) if staged.vacant => {
                    return Err(InstallError::Taken { path: staged.path.to_string() });
                }
                Err(cause) if tries >= TRIES_MAX => return Err(self.fail("install", &staged.path, 0, cause).into()),
                Err(cause) => self.clear_way(staged, &parent, cause)?,
            }
        };
        self.touch(directory);
        Ok(parent)
    }

    /// The stamp of what was placed.
    fn examine(&self, staged: &Staged, parent: &Handle) -> Result<Option<FileStamp>, InstallError> {
        let (_, name) = split(staged.path.as_bytes());
        let facts = parent.facts_at(name).map_err(|cause| self.fail("examine", &staged.path, 0, cause))?;
        if facts.inode != staged.inode {
            return Err(InstallError::Interfered { path: staged.path.to_string() });
        }
        Ok(staged.digest.map(|digest| FileStamp::of(&facts, &digest)))
    }

    /// Does what can be done about a failed rename, or says why nothing can.
    fn clear_way(&mut self, staged: &Staged, parent: &Handle, cause: Errno) -> Result<(), InstallError> {
        let (directory, name) = split(staged.path.as_bytes());
        let wanted = if staged.digest.is_some() { Kind::File } else { Kind::Symlink };
        let mut done = match cause {
            Errno::ISDIR | Errno::NOTEMPTY | Errno::EXIST => {
                return self.remove_obstacle(parent, name, staged.path.as_bytes(), wanted);
            }
            Errno::NOENT => {
                // The directory was removed under its handle, or the source is gone and the next try fails too.
                self.parents.forget(directory);
                true
            }
            Errno::ACCESS | Errno::PERM => self.unlock(directory)?,
            _ => false,
        };
        if let (Errno::ACCESS | Errno::PERM, Origin::Dataset(from)) = (cause, &staged.from) {
            done |= self.unlock(split(from.as_bytes()).0)?;
        }
        if done { Ok(()) } else { Err(self.fail("install", &staged.path, 0, cause).into()) }
    }

    /// Sets mode and time of a file or link whose content is right. `seen` is the stamp under which the
    /// content was found right. A file that has another name too is replaced by a copy.
    ///
    /// # Errors
    /// When it changed since, or the file system refuses.
    pub fn fix_metadata(&mut self, entry: &Entry, seen: Option<&FileStamp>) -> Result<Option<FileStamp>, InstallError> {
        let path = entry.path.as_bytes();
        let (directory, name) = split(path);
        let parent = self.ensure(directory)?;
        let fail = |cause| self.target.fail("set mode and time of", path, 0, cause);
        let EntryKind::File { digest, .. } = &entry.kind else {
            if matches!(entry.kind, EntryKind::Symlink { .. }) {
                parent.set_time_at(name, entry.mtime).map_err(fail)?;
            }
            return Ok(None);
        };
        let file = parent.open(name, How::Place).map_err(fail)?;
        let facts = file.facts().map_err(fail)?;
        if !seen.is_some_and(|stamp| stamp.holds(&facts, digest)) {
            return Err(InstallError::Interfered { path: entry.path.to_string() });
        }
        if facts.links > 1 {
            return self.install_copy(entry, digest);
        }
        set_metadata(&*file, entry.mode & self.policy.mode_mask, entry.mtime).map_err(fail)?;
        let facts = file.facts().map_err(fail)?;
        Ok(Some(FileStamp::of(&facts, digest)))
    }

    /// Replaces a file by a copy of itself, outside of any batch.
    fn install_copy(&mut self, entry: &Entry, digest: &Digest) -> Result<Option<FileStamp>, InstallError> {
        let fail = |cause| self.target.fail("set mode and time of", entry.path.as_bytes(), 0, cause);
        let size = self.target.facts(&entry.path)?.map_or(0, |f| f.size);
        let (from, file) = self.take_local(entry, size, digest, &entry.path, None)?;
        let set = || {
            set_metadata(&*file, entry.mode & self.policy.mode_mask, entry.mtime)?;
            file.sync()?;
            file.facts()
        };
        let inode = set().map_err(fail)?.inode;
        let copy = Staged { path: entry.path.clone(), digest: Some(*digest), from, inode, vacant: false };
        let parent = self.place(&copy)?;
        self.examine(&copy, &parent)
    }

    fn fail(&self, action: &'static str, path: &DatasetPath, needed: u64, cause: Errno) -> DiskError {
        self.target.fail(action, path.as_bytes(), needed, cause)
    }
}

impl Drop for Installer {
    /// What was staged and not committed goes.
    fn drop(&mut self) {
        self.staged.iter().for_each(|s| self.discard(&s.from));
    }
}

fn set_metadata(file: &dyn Opened, mode: u32, mtime: Mtime) -> Result<(), Errno> {
    file.set_time(mtime)?;
    file.set_mode(mode)
}

#[cfg(test)]
mod tests;
