//! Removes what left the dataset, and nothing else.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicU64, Ordering};

use nackcast_common::files::{Errno, Kind};
use nackcast_common::manifest::Manifest;
use nackcast_common::path::DatasetPath;
use nackcast_common::units::counted;

use super::Installer;
use crate::disk::DiskError;
use crate::disk::target::split;

/// What was removed and what was not.
#[derive(Debug, Default)]
pub struct Pruned {
    /// Gone, also directories that became empty.
    pub removed: Vec<Vec<u8>>,
    /// Still there, and why.
    pub kept: Vec<(DatasetPath, Kept)>,
}

/// Why a path was not pruned.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Kept {
    /// It is in the dataset.
    #[error("it is in the dataset")]
    Wanted,
    /// A directory with something in it.
    #[error("something else is in it")]
    NotEmpty,
    /// No file, link or directory: nothing that came from a dataset.
    #[error("it is no file, link or directory")]
    NotOurs,
    /// The file system refused.
    #[error(transparent)]
    Failed(DiskError),
}

/// How far the removal of what left the dataset is, for whoever looks from another thread.
#[derive(Debug, Default)]
pub struct Removal {
    looked_at: AtomicU64,
    of: AtomicU64,
}

impl Removal {
    fn begin(&self, of: usize) {
        self.looked_at.store(0, Ordering::Relaxed);
        self.of.store(of as u64, Ordering::Relaxed);
    }

    fn step(&self) {
        self.looked_at.fetch_add(1, Ordering::Relaxed);
    }

    fn end(&self) {
        self.of.store(0, Ordering::Relaxed);
    }

    /// A line for people while something is removed.
    #[must_use]
    pub fn told(&self) -> Option<String> {
        let of = self.of.load(Ordering::Relaxed);
        let looked_at = self.looked_at.load(Ordering::Relaxed).min(of);
        (of > 0).then(|| format!("removing what left the dataset: {looked_at} of {}", counted(of, "path")))
    }
}

impl Installer {
    /// Removes what left the dataset: files and links, then directories that are empty, also those above them
    /// that the manifest does not list. What the manifest has is never removed, nor anything that is in the
    /// way of removing a directory.
    ///
    /// # Errors
    /// When the changed directories could not be made durable.
    pub fn prune(&mut self, paths: &[DatasetPath], now: &Manifest) -> Result<Pruned, DiskError> {
        self.removal.begin(paths.len());
        let pruned = self.prune_all(paths, now);
        self.removal.end();
        pruned
    }

    fn prune_all(&mut self, paths: &[DatasetPath], now: &Manifest) -> Result<Pruned, DiskError> {
        self.parents.clear();
        let mut pruned = Pruned::default();
        let mut directories = BTreeSet::new();
        for path in paths {
            self.removal.step();
            if now.entry(path.as_bytes()).is_some() {
                pruned.kept.push((path.clone(), Kept::Wanted));
                continue;
            }
            match self.prune_one(path) {
                Ok(Kind::Directory) => {
                    directories.insert(path.as_bytes().to_vec());
                }
                Ok(Kind::Other) => pruned.kept.push((path.clone(), Kept::NotOurs)),
                Ok(Kind::File | Kind::Symlink) => {
                    pruned.removed.push(path.as_bytes().to_vec());
                    directories.extend(path.ancestors().map(<[u8]>::to_vec));
                }
                Err(DiskError::Io { cause: Errno::NOENT | Errno::NOTDIR, .. }) => {
                    // A run that was killed may have removed it, and not durably.
                    self.touch(split(path.as_bytes()).0);
                    directories.extend(path.ancestors().map(<[u8]>::to_vec));
                }
                Err(error) => pruned.kept.push((path.clone(), Kept::Failed(error))),
            }
        }
        let listed: BTreeSet<_> = paths.iter().map(DatasetPath::as_bytes).collect();
        self.prune_directories(&directories, &listed, now, &mut pruned);
        self.flush_directories()?;
        self.parents.clear();
        Ok(pruned)
    }

    /// Removes a file or link; of anything else only says what it is.
    fn prune_one(&mut self, path: &DatasetPath) -> Result<Kind, DiskError> {
        let (directory, name) = split(path.as_bytes());
        let remove = |this: &mut Self| {
            let parent = this.parents.open(&this.target, directory)?;
            let kind = parent.facts_at(name)?.kind;
            if matches!(kind, Kind::File | Kind::Symlink) {
                parent.remove(name)?;
                this.touched.insert(directory.into());
            }
            Ok(kind)
        };
        match remove(self) {
            Err(Errno::ACCESS | Errno::PERM) if self.unlock(directory)? => remove(self),
            other => other,
        }
        .map_err(|cause| self.fail("remove", path, 0, cause))
    }

    fn prune_directories(
        &mut self,
        directories: &BTreeSet<Vec<u8>>,
        listed: &BTreeSet<&[u8]>,
        now: &Manifest,
        pruned: &mut Pruned,
    ) {
        // A directory sorts before what is in it.
        for path in directories.iter().rev().filter(|path| now.entry(path).is_none()) {
            let (directory, name) = split(path);
            let remove = |this: &mut Self| {
                let parent = this.parents.open(&this.target, directory)?;
                parent.remove_directory(name)
            };
            let removed = match remove(self) {
                Err(Errno::ACCESS | Errno::PERM) if self.unlock(directory).is_ok_and(|done| done) => remove(self),
                other => other,
            };
            let kept = match removed {
                Ok(()) => {
                    self.parents.forget(path);
                    self.touched.insert(directory.into());
                    self.unlocked.remove(path.as_slice());
                    pruned.removed.push(path.clone());
                    continue;
                }
                Err(Errno::NOENT | Errno::NOTDIR) => continue,
                Err(Errno::NOTEMPTY | Errno::EXIST) => Kept::NotEmpty,
                Err(cause) => Kept::Failed(self.target.fail("remove", path, 0, cause)),
            };
            // Directories that were only tried because something above or below them went need no word.
            if listed.contains(path.as_slice())
                && let Ok(path) = DatasetPath::new(path)
            {
                pruned.kept.push((path, kept));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn how_far_it_is_is_told_only_while_something_is_removed() {
        let removal = Removal::default();
        assert_eq!(removal.told(), None);
        removal.begin(3);
        removal.step();
        assert_eq!(removal.told().unwrap(), "removing what left the dataset: 1 of 3 paths");
        removal.end();
        assert_eq!(removal.told(), None);
    }
}
