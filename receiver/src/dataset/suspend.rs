//! While something of ours is replaced, moved, changed or removed, the record says that whatever stands there is ours.
//!
//! A power cut may leave what was there or what came, and a disk that fails may not tell which; a stamp knows the one
//! only. The other would be somebody else's, and stay in the way of the next generation for good.

use nackcast_common::files::Facts;
use nackcast_common::manifest::Entry;
use nackcast_common::path::DatasetPath;
use nackcast_common::store::StoreError;

use super::{CompareError, Dataset};
use crate::disk::DiskError;
use crate::disk::facts::FileStamp;
use crate::disk::install::{CommitError, Outcome};

/// A path with its row of the record, and what stood there.
#[derive(Debug)]
pub(super) struct Suspended {
    path: DatasetPath,
    row: Vec<u8>,
    stood: Result<Option<Facts>, DiskError>,
}

impl Dataset {
    /// To be called before anything is done at these paths. Durable when it returns.
    pub(super) fn suspend<'a>(
        &self,
        paths: impl Iterator<Item = &'a DatasetPath>,
    ) -> Result<Vec<Suspended>, StoreError> {
        let rows = paths.filter_map(|path| Some((path, self.record.known_row(path)?)));
        let suspended: Vec<_> =
            rows.map(|(path, row)| Suspended { path: path.clone(), row, stood: self.target.facts(path) }).collect();
        if !suspended.is_empty() {
            self.record.doubt(suspended.iter().map(|one| &one.path))?;
            self.record.flush()?;
        }
        Ok(suspended)
    }

    /// What stands as it stood has its row again: if somebody writes to it now, it is no longer ours.
    pub(super) fn resume(&self, mut suspended: Vec<Suspended>) -> Result<(), StoreError> {
        suspended.retain(|one| one.stood.is_ok() && self.target.facts(&one.path) == one.stood);
        self.record.put_rows(suspended.iter().map(|one| (&one.path, &one.row[..])))
    }

    /// The same after files were moved: where nothing stands any more, what comes is somebody else's.
    pub(super) fn end_moves(&self, moved: Vec<Suspended>, durable: bool) -> Result<(), StoreError> {
        let is_gone = |one: &&Suspended| matches!(self.target.facts(&one.path), Ok(None));
        let gone: Vec<_> = moved.iter().filter(is_gone).map(|one| one.path.clone()).collect();
        self.resume(moved)?;
        if durable { self.record.forget(&gone) } else { Ok(()) }
    }

    /// Commits what is staged.
    pub(super) fn commit(&mut self) -> Result<Vec<Outcome>, DiskError> {
        // Without a record the files are as sound; only whose they are may be forgotten.
        let suspended = self.suspend(self.installer.replaced());
        let outcomes = self.installer.commit().map_err(|CommitError { cause, placed }| {
            self.doubt(&placed);
            cause
        });
        if let Err(error) = suspended.and_then(|suspended| self.resume(suspended)) {
            self.trouble(&error);
        }
        outcomes
    }

    /// Sets mode and time of files and links whose content is right, each with the stamp under which it was seen.
    pub(super) fn tidy(&mut self, entries: &[(&Entry, Option<FileStamp>)]) -> Result<(), CompareError> {
        let suspended = self.suspend(entries.iter().map(|(entry, _)| &entry.path))?;
        let mut fixed = Vec::new();
        for (entry, stamp) in entries {
            match self.installer.fix_metadata(entry, stamp.as_ref()) {
                Ok(stamp) => fixed.push((entry.path.clone(), stamp)),
                // Half done, it no longer is what its stamp says; but it is ours.
                Err(error) => {
                    self.trouble(&error);
                    self.block_path(&entry.path, &error);
                }
            }
        }
        self.resume(suspended)?;
        Ok(self.record.put_stamps(&fixed)?)
    }
}
