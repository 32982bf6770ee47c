//! The end of a dataset: directories, what left it, and what of ours stands in a new manifest's way.

use std::collections::BTreeSet;

use nackcast_common::files::{Errno, Kind};
use nackcast_common::ids::Digest;
use nackcast_common::manifest::{EntryKind, Manifest};
use nackcast_common::path::DatasetPath;
use nackcast_proto::manifest::ManifestCodecError;

use super::{CompareError, Dataset, Report, plan};
use crate::disk::DiskError;
use crate::disk::facts::FileStamp;
use crate::disk::install::Kept;
use crate::disk::scan::Depth;

impl Dataset {
    /// Everything is installed: directories, prune, and a last quick look.
    pub(super) fn finish(&mut self) -> bool {
        let Some((_, manifest)) = self.manifest.clone() else { return false };
        if !self.wanted.is_empty() {
            // A scan found more to fetch after this was ordered, or something was installed in part.
            self.scan(Depth::Quick, None);
            return false;
        }
        let pruned = !self.settings.prune || self.prune(&manifest);
        let settled = match self.installer.finish_directories(&manifest) {
            Ok(failed) => {
                let settled = failed.iter().all(is_hopeless);
                failed.into_iter().for_each(|error| self.trouble(&error));
                settled
            }
            Err(error) => {
                self.trouble(&error);
                return false;
            }
        };
        let whole = match self.look(&manifest, Depth::Quick) {
            Ok(comparison) => {
                let whole = pruned && settled && plan::is_whole(&manifest, &comparison);
                if !whole {
                    let left = plan::differing(&manifest, &comparison).take(3).collect::<Vec<_>>();
                    self.tell(Report::Trouble(format!("not whole yet: {}", left.join(", "))));
                }
                whole
            }
            Err(error) => {
                self.trouble(&error);
                false
            }
        };
        if whole {
            self.clean_up();
        } else {
            self.scan(Depth::Quick, None);
        }
        whole
    }

    /// Removes what left the dataset; false when that may go better another time.
    fn prune(&mut self, manifest: &Manifest) -> bool {
        match self.try_prune(manifest) {
            Ok(settled) => settled,
            Err(error) => {
                self.trouble(&error);
                false
            }
        }
    }

    fn try_prune(&mut self, manifest: &Manifest) -> Result<bool, CompareError> {
        let left = self.record.paths()?.into_iter().filter(|p| manifest.entry(p.as_bytes()).is_none());
        let (left, foreign): (Vec<_>, Vec<_>) = left.partition(|path| self.is_still_ours(path));
        for path in &foreign {
            self.tell(Report::Trouble(format!("{path} left the dataset, but was changed here: it stays")));
        }
        self.record.forget(&foreign)?;
        if left.is_empty() {
            return Ok(true);
        }
        let kept = self.remove(&left, manifest)?;
        for (path, why) in &kept {
            self.tell(Report::Trouble(format!("{path} left the dataset but was not removed: {why}")));
        }
        let transient = |why: &Kept| matches!(why, Kept::Failed(error) if !is_hopeless(error));
        Ok(!kept.iter().any(|(_, why)| transient(why)))
    }

    /// Removes what is ours, and forgets what is gone; gives what is not, and why.
    fn remove(&mut self, paths: &[DatasetPath], manifest: &Manifest) -> Result<Vec<(DatasetPath, Kept)>, CompareError> {
        // A power cut may lose the removal and keep the new change time: the file must be ours then as well.
        let stamped: Vec<_> = paths.iter().filter(|path| self.record.stamp(path).is_some()).collect();
        if !stamped.is_empty() {
            self.record.doubt(stamped.into_iter())?;
            self.record.flush()?;
        }
        let kept = self.installer.prune(paths, manifest)?.kept;
        let stays: BTreeSet<_> = kept.iter().map(|(path, _)| path.as_bytes()).collect();
        let gone: Vec<_> = paths.iter().filter(|path| !stays.contains(path.as_bytes())).cloned().collect();
        self.record.forget(&gone)?;
        Ok(kept)
    }

    /// What stands there is what we put there: not another file, nor one that somebody wrote to since.
    pub(super) fn is_still_ours(&self, path: &DatasetPath) -> bool {
        let Ok(Some(facts)) = self.target.facts(path) else { return true };
        match self.record.stamp(path) {
            // Whoever writes to a file, or puts another one there, changes these two. Size and time may be other ones
            // on a disk that lost what it said to be durable.
            Some(stamp) => {
                let now = FileStamp::of(&facts, &Digest::default());
                facts.kind == Kind::File && (now.ctime, now.inode) == (stamp.ctime, stamp.inode)
            }
            None if self.record.is_claimed(path) => true,
            None if self.record.is_symlink(path) => facts.kind == Kind::Symlink,
            None => facts.kind == Kind::Directory,
        }
    }

    /// What we put where the manifest now wants something of another kind goes first: a file where a directory
    /// shall be, and what is in a directory where a file or link shall be.
    pub(super) fn clear_the_way(&mut self, manifest: &Manifest) -> Result<(), CompareError> {
        let mut files = Vec::new();
        let mut inside = Vec::new();
        for path in self.record.paths()? {
            let blocked = |above: &[u8]| manifest.entry(above).is_some_and(|e| e.kind != EntryKind::Directory);
            let becomes_directory = match manifest.entry(path.as_bytes()) {
                Some(entry) => entry.kind == EntryKind::Directory,
                None => manifest.has_below(path.as_bytes()),
            };
            let stands = self.target.facts(&path).ok().flatten().map(|f| f.kind);
            if path.ancestors().any(blocked) {
                inside.push(path);
            } else if becomes_directory && matches!(stands, Some(Kind::File | Kind::Symlink)) {
                files.push(path);
            }
        }
        files.retain(|path| self.is_still_ours(path));
        inside.retain(|path| self.is_still_ours(path));
        if !inside.is_empty() {
            self.remove(&inside, manifest)?;
        }
        if !files.is_empty() {
            // The manifest has these names, as directories: nothing of it is in the way yet.
            let nothing =
                Manifest::new(manifest.head().clone(), Vec::new(), Vec::new()).map_err(ManifestCodecError::from)?;
            self.remove(&files, &nothing)?;
        }
        Ok(())
    }

    fn clean_up(&mut self) {
        let cleaned = self.parts.retain(|_| false).and_then(|_| self.target.remove_part_directory());
        if let Err(error) = cleaned {
            self.trouble(&error);
        }
        if let Err(error) = self.record.flush() {
            self.trouble(&error);
        }
    }
}

/// What we have no right to will not change by trying again.
pub(super) const fn is_forbidden(cause: Errno) -> bool {
    matches!(cause, Errno::PERM | Errno::ACCESS)
}

fn is_hopeless(error: &DiskError) -> bool {
    error.cause().is_some_and(is_forbidden)
}
