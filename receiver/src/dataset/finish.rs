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
use crate::disk::scan::{Comparison, Depth};

/// Names shown of what is not done.
const SHOWN_MAX: usize = 3;

impl Dataset {
    /// Everything is installed: says whether the dataset is whole, and if it is not, what is wanted. In this order:
    /// wants of a dataset that nobody called unfinished would ask for the end again.
    pub(super) fn finish(&mut self) {
        let Some((hash, manifest)) = self.manifest.clone() else { return self.tell(Report::Finished { whole: false }) };
        if !self.wanted.is_empty() {
            // A scan found more to fetch after this was ordered, or something was installed in part.
            self.tell(Report::Finished { whole: false });
            return self.scan(Depth::Quick, None);
        }
        let ended = self.end(&manifest);
        self.tell(Report::Finished { whole: matches!(ended, Ok(None)) });
        match ended {
            Ok(None) => {
                self.blocked.clear();
                self.clean_up();
            }
            Ok(Some(comparison)) => {
                // The look that found it says what is wanted, too.
                let compared = self.settle(hash, manifest, comparison, Depth::Quick);
                self.tell_compared(compared.map(Some), None);
            }
            Err(error) => self.trouble(&error),
        }
    }

    /// Directories, prune, and a last quick look; gives what that saw if the dataset is not whole.
    fn end(&mut self, manifest: &Manifest) -> Result<Option<Comparison>, CompareError> {
        // What is not done, and may go better another time.
        let outside: Vec<_> =
            self.record.paths()?.into_iter().filter(|path| manifest.entry(path.as_bytes()).is_none()).collect();
        let mut left = if self.settings.prune { self.prune(manifest, &outside) } else { Vec::new() };
        self.forget_marks(&outside)?;
        for error in self.installer.finish_directories(manifest)? {
            if !is_hopeless(&error) {
                left.push(error.to_string());
            }
            self.trouble(&error);
        }
        let comparison = self.look(manifest, Depth::Quick)?;
        left.extend(plan::differing(manifest, &comparison));
        if left.is_empty() {
            return Ok(None);
        }
        let more = left.len().saturating_sub(SHOWN_MAX);
        left.truncate(SHOWN_MAX);
        if more > 0 {
            left.push(format!("and {more} more"));
        }
        self.tell(Report::Trouble(format!("not whole yet: {}", left.join("; "))));
        Ok(Some(comparison))
    }

    fn stands(&self, path: &DatasetPath) -> bool {
        !matches!(self.target.facts(path), Ok(None))
    }

    /// Marks of paths that left the dataset, and at which nothing stands, say nothing about what comes there later.
    fn forget_marks(&self, outside: &[DatasetPath]) -> Result<(), CompareError> {
        let is_mark = |path: &DatasetPath| self.record.was_vacant(path) || self.record.is_claimed(path);
        let stale: Vec<_> = outside.iter().filter(|path| is_mark(path) && !self.stands(path)).cloned().collect();
        Ok(self.record.forget(&stale)?)
    }

    /// Removes what left the dataset; gives what could not be removed and may go another time, each a line.
    fn prune(&mut self, manifest: &Manifest, outside: &[DatasetPath]) -> Vec<String> {
        self.try_prune(manifest, outside).unwrap_or_else(|error| {
            self.trouble(&error);
            vec![error.to_string()]
        })
    }

    fn try_prune(&mut self, manifest: &Manifest, outside: &[DatasetPath]) -> Result<Vec<String>, CompareError> {
        let (mut left, mut foreign, mut unknown) = (Vec::new(), Vec::new(), Vec::new());
        for path in outside.iter().cloned() {
            match self.is_still_ours(&path) {
                // What a run found missing and nobody installed since may be anybody's. To leave it costs little.
                Ok(true) if self.record.was_vacant(&path) && self.stands(&path) => foreign.push(path),
                Ok(true) => left.push(path),
                // Below a link that somebody put there is nothing of ours.
                Ok(false) | Err(DiskError::Outside { .. }) => foreign.push(path),
                Err(error) => unknown.push(error),
            }
        }
        let mut transient: Vec<_> = unknown.iter().filter(|e| !is_hopeless(e)).map(ToString::to_string).collect();
        unknown.iter().for_each(|error| self.trouble(error));
        for path in &foreign {
            self.tell(Report::Trouble(format!("{path} left the dataset, but was changed here: it stays")));
        }
        self.record.disown(&foreign)?;
        if left.is_empty() {
            return Ok(transient);
        }
        let kept = self.remove(&left, manifest)?;
        for (path, why) in &kept {
            self.tell(Report::Trouble(format!("{path} left the dataset but was not removed: {why}")));
        }
        let may_go = |why: &Kept| match why {
            Kept::Failed(error) if !is_hopeless(error) => Some(error.to_string()),
            Kept::Failed(_) | Kept::Wanted | Kept::NotEmpty | Kept::NotOurs => None,
        };
        transient.extend(kept.iter().filter_map(|(_, why)| may_go(why)));
        Ok(transient)
    }

    /// Removes what is ours, and forgets what is gone; gives what is not, and why.
    fn remove(&mut self, paths: &[DatasetPath], manifest: &Manifest) -> Result<Vec<(DatasetPath, Kept)>, CompareError> {
        let suspended = self.suspend(paths.iter())?;
        let pruned = self.installer.prune(paths, manifest);
        self.resume(suspended)?;
        let kept = pruned?.kept;
        let stays: BTreeSet<_> = kept.iter().map(|(path, _)| path.as_bytes()).collect();
        let gone: Vec<_> = paths.iter().filter(|path| !stays.contains(path.as_bytes())).cloned().collect();
        self.record.forget(&gone)?;
        Ok(kept)
    }

    /// What stands there is what we put there: not another file, nor one that somebody wrote to since.
    ///
    /// # Errors
    /// When that cannot be known.
    pub(super) fn is_still_ours(&self, path: &DatasetPath) -> Result<bool, DiskError> {
        let Some(facts) = self.target.facts(path)? else { return Ok(true) };
        Ok(match self.record.stamp(path) {
            // Whoever writes to a file, or puts another one there, changes these two. Size and time may be other ones
            // on a disk that lost what it said to be durable.
            Some(stamp) => {
                let now = FileStamp::of(&facts, &Digest::default());
                facts.kind == Kind::File && (now.ctime, now.inode) == (stamp.ctime, stamp.inode)
            }
            None if self.record.is_vacant(path) => false,
            None if self.record.is_claimed(path) => true,
            None if self.record.is_symlink(path) => facts.kind == Kind::Symlink,
            None => facts.kind == Kind::Directory,
        })
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
        files.retain(|path| self.is_still_ours(path).is_ok_and(|ours| ours));
        inside.retain(|path| self.is_still_ours(path).is_ok_and(|ours| ours));
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
