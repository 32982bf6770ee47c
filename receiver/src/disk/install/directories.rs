//! The installer's directories: made when missing, opened when we own them and may not write, and given
//! their final mode and time at the end.

use nackcast_common::files::{Errno, Handle, How, Kind, Opened};
use nackcast_common::manifest::{Entry, EntryKind, Manifest};

use super::{Conflict, InstallError, Installer, Obstacles, set_metadata};
use crate::disk::DiskError;
use crate::disk::target::split;

/// Directories that no entry lists.
const DEFAULT_MODE: u32 = 0o755;
/// What we need of a directory while we install into it.
const WORK_MODE: u32 = 0o700;
/// Deepest tree of somebody else's that is removed.
const REMOVED_DEPTH_MAX: usize = 512;

impl Installer {
    /// The handle of a directory, which is made, with all above it, when it is missing.
    pub(super) fn ensure(&mut self, directory: &[u8]) -> Result<Handle, InstallError> {
        match self.parents.open(&self.target, directory) {
            Ok(open) => return Ok(open),
            Err(Errno::NOENT) => return self.make(directory),
            Err(Errno::ACCESS) if self.unlock(directory)? => {}
            Err(Errno::LOOP | Errno::NOTDIR) => self.clear_above(directory)?,
            Err(cause) => return Err(self.target.fail("open directory", directory, 0, cause).into()),
        }
        match self.parents.open(&self.target, directory) {
            Ok(open) => Ok(open),
            Err(Errno::NOENT) => self.make(directory),
            Err(cause) => Err(self.target.fail("open directory", directory, 0, cause).into()),
        }
    }

    fn make(&mut self, directory: &[u8]) -> Result<Handle, InstallError> {
        let (above, name) = split(directory);
        if name.is_empty() {
            return Err(self.target.fail("open directory", directory, 0, Errno::NOENT).into());
        }
        let parent = self.ensure(above)?;
        let mut made = parent.make_directory(name, DEFAULT_MODE);
        if matches!(made, Err(Errno::ACCESS | Errno::PERM)) && self.unlock(above)? {
            made = parent.make_directory(name, DEFAULT_MODE);
        }
        self.touched.insert(above.into());
        let fail = |cause| self.target.fail("make directory", directory, 4096, cause);
        match made {
            Ok(()) => {
                let open = self.parents.open(&self.target, directory).map_err(fail)?;
                // The umask took some bits.
                open.set_mode(DEFAULT_MODE).map_err(fail)?;
                Ok(open)
            }
            Err(Errno::EXIST) => Ok(self.parents.open(&self.target, directory).map_err(fail)?),
            Err(cause) => Err(fail(cause).into()),
        }
    }

    /// Gives us the rights to work in a directory that we own; says whether anything was to be changed.
    pub(super) fn unlock(&mut self, directory: &[u8]) -> Result<bool, DiskError> {
        let mut changed = false;
        for path in prefixes(directory) {
            let unlock = || {
                let open = self.target.root().open(path, How::Place)?;
                let facts = open.facts()?;
                if facts.kind != Kind::Directory {
                    return Err(Errno::NOTDIR);
                }
                let ours = facts.owner == self.target.files().user();
                if !ours || facts.mode & WORK_MODE == WORK_MODE {
                    return Ok(None);
                }
                open.set_mode(facts.mode | WORK_MODE)?;
                Ok(Some(facts.mode))
            };
            match unlock() {
                Ok(Some(mode)) => {
                    self.unlocked.entry(path.into()).or_insert(mode);
                    changed = true;
                }
                Ok(None) => {}
                Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => break,
                Err(cause) => return Err(self.target.fail("open directory", path, 0, cause)),
            }
        }
        Ok(changed)
    }

    /// Something above stands where a directory must be.
    fn clear_above(&mut self, directory: &[u8]) -> Result<(), InstallError> {
        for path in prefixes(directory) {
            let (above, name) = split(path);
            let parent = self.ensure(above)?;
            match parent.facts_at(name) {
                Ok(facts) if facts.kind != Kind::Directory => {
                    return self.remove_obstacle(&parent, name, path, Kind::Directory);
                }
                Ok(_) => {}
                Err(Errno::NOENT) => return Ok(()),
                Err(cause) => return Err(self.target.fail("examine", path, 0, cause).into()),
            }
        }
        Ok(())
    }

    /// Removes what stands in the way of an entry, as far as the policy allows.
    pub(super) fn remove_obstacle(
        &mut self,
        parent: &Handle,
        name: &[u8],
        path: &[u8],
        wanted: Kind,
    ) -> Result<(), InstallError> {
        let fail = |cause| self.target.fail("remove", path, 0, cause);
        let found = match parent.facts_at(name) {
            Ok(facts) => facts.kind,
            Err(Errno::NOENT) => return Ok(()),
            Err(cause) => return Err(fail(cause).into()),
        };
        let conflict = || Conflict { path: self.target.show(path), found, wanted };
        if found != Kind::Directory {
            return match self.policy.obstacles {
                Obstacles::Keep => Err(conflict().into()),
                Obstacles::Remove => Ok(parent.remove(name).map_err(fail)?),
            };
        }
        match (parent.remove_directory(name), self.policy.obstacles) {
            (Ok(()) | Err(Errno::NOENT), _) => Ok(()),
            (Err(Errno::NOTEMPTY | Errno::EXIST), Obstacles::Keep) => Err(conflict().into()),
            (Err(Errno::NOTEMPTY | Errno::EXIST), Obstacles::Remove) => {
                Ok(remove_tree(&**parent, name, REMOVED_DEPTH_MAX).map_err(fail)?)
            }
            (Err(cause), _) => Err(fail(cause).into()),
        }
    }

    /// Gives every directory of the manifest its mode and time, and those that were opened for the work and
    /// are not listed their former mode. To be called when all else is installed and pruned. Says which ones
    /// could not be set.
    ///
    /// # Errors
    /// When the file system did not store it.
    pub fn finish_directories(&mut self, manifest: &Manifest) -> Result<Vec<DiskError>, DiskError> {
        self.parents.clear();
        let mut failed = Vec::new();
        let mut changed = false;
        // A directory sorts before what is in it, so this goes from the leaves to the root.
        for entry in manifest.entries().iter().rev().filter(|e| e.kind == EntryKind::Directory) {
            match self.finish_directory(entry) {
                Ok(done) => changed |= done,
                Err(cause) => {
                    failed.push(self.target.fail("set mode and time of", entry.path.as_bytes(), 0, cause));
                }
            }
            self.unlocked.remove(entry.path.as_bytes());
        }
        for (path, mode) in std::mem::take(&mut self.unlocked).into_iter().rev() {
            let restore = || self.target.open_directory(&path)?.set_mode(mode);
            match restore() {
                Ok(()) => changed = true,
                Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => {}
                Err(cause) => failed.push(self.target.fail("set mode of", &path, 0, cause)),
            }
        }
        if changed {
            self.flush_all()?;
        }
        self.parents.clear();
        Ok(failed)
    }

    fn finish_directory(&mut self, entry: &Entry) -> Result<bool, Errno> {
        let path = entry.path.as_bytes();
        let mode = entry.mode & self.policy.mode_mask;
        let (above, name) = split(path);
        let facts = self.parents.open(&self.target, above).and_then(|parent| parent.facts_at(name));
        if facts.is_ok_and(|f| f.kind == Kind::Directory && f.mode == mode && f.mtime == entry.mtime) {
            return Ok(false);
        }
        let open = match self.target.open_directory(path) {
            Err(Errno::ACCESS) => {
                self.unlock(path).map_err(|e| e.cause().unwrap_or(Errno::ACCESS))?;
                self.target.open_directory(path)?
            }
            other => other?,
        };
        set_metadata(&*open, mode, entry.mtime)?;
        Ok(true)
    }
}

/// A path and all above it, from the top.
fn prefixes(path: &[u8]) -> impl Iterator<Item = &[u8]> {
    let slashes = path.iter().enumerate().filter(|(_, b)| **b == b'/').map(|(at, _)| &path[..at]);
    slashes.chain((!path.is_empty()).then_some(path))
}

/// Removes a directory and all in it; follows nothing.
fn remove_tree(parent: &dyn Opened, name: &[u8], depth: usize) -> Result<(), Errno> {
    if depth == 0 {
        return Err(Errno::NAMETOOLONG);
    }
    let open = parent.open(name, How::Directory)?;
    for inner in open.names()? {
        match open.remove(&inner) {
            Ok(()) | Err(Errno::NOENT) => {}
            Err(Errno::ISDIR | Errno::PERM) => remove_tree(&*open, &inner, depth - 1)?,
            Err(cause) => return Err(cause),
        }
    }
    parent.remove_directory(name)
}
