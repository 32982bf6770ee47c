//! What is remembered of a dataset between runs: stamps of verified files, block hashes, whose directory it is.
//!
//! Nothing here that a scan could not find again; a lost record costs reading, never content.

use std::path::PathBuf;
use std::sync::Arc;

use nackcast_common::files::{Errno, Files, How, make_directories};
use nackcast_common::ids::ObjectId;
use nackcast_common::path::DatasetPath;
use nackcast_common::store::{Batch, Store, StoreError, Table};

use crate::disk::facts::FileStamp;

/// Marks a symbolic link, and a directory.
const SYMLINK: &[u8] = b"-";
const DIRECTORY: &[u8] = b"d";
/// Marks a path at which what stands is ours, but of no known content: it rotted, or it was vacant in an earlier run.
const CLAIMED: &[u8] = b"?";
/// Begins the mark of a path at which nothing stood when a run, whose number follows, last looked. In that run whatever
/// stands there and is not our installation is somebody else's. After it nobody knows: we may have put it there just
/// before the power went.
const VACANT: u8 = b'v';
/// Paths in one batch of the store.
const BATCH: usize = 4096;

/// The record of one dataset.
#[derive(Debug)]
pub struct Record {
    store: Store,
    stamps: Table,
    /// This run's mark of a vacant path.
    vacant: [u8; 9],
    files: Arc<dyn Files>,
    chaining: PathBuf,
}

impl Record {
    /// In an open store; block hashes go to files in `chaining`.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub fn new(store: Store, files: Arc<dyn Files>, chaining: PathBuf) -> Result<Self, StoreError> {
        let stamps = store.tree("stamps")?;
        let runs = store.tree("dataset")?;
        let before = runs.get(b"runs")?.and_then(|row| row.try_into().ok()).map_or(0, u64::from_be_bytes);
        // Not flushed by itself: no mark of this run is durable before it.
        let run = before.wrapping_add(1).to_be_bytes();
        runs.put(b"runs", &run)?;
        let mut vacant = [VACANT; 9];
        vacant[1..].copy_from_slice(&run);
        Ok(Self { store, stamps, vacant, files, chaining })
    }

    /// The stamps as they are kept, for whoever only reads.
    pub(crate) fn table(&self) -> Table {
        self.stamps.clone()
    }

    /// The stamp under which a file was last verified.
    pub(crate) fn stamp(&self, path: &DatasetPath) -> Option<FileStamp> {
        FileStamp::from_bytes(&self.stamps.get(path.as_bytes()).ok()??)
    }

    /// Whether we installed, verified or made what stood at this path.
    pub(crate) fn knows(&self, path: &DatasetPath) -> bool {
        self.stamps.get(path.as_bytes()).is_ok_and(|row| row.is_some_and(|row| row != self.vacant))
    }

    /// Nothing stood there when this run last looked.
    pub(crate) fn is_vacant(&self, path: &DatasetPath) -> bool {
        self.has_mark(path, &self.vacant)
    }

    /// Every path that we installed, verified or made.
    pub(crate) fn paths(&self) -> Result<Vec<DatasetPath>, StoreError> {
        let rows = self.stamps.iter().map(|row| row.map(|(path, _)| DatasetPath::new(&path).ok()));
        rows.filter_map(Result::transpose).collect()
    }

    /// Every stamp.
    pub(crate) fn stamps(&self) -> Result<Vec<(DatasetPath, FileStamp)>, StoreError> {
        let row =
            |(path, stamp): (Vec<u8>, Vec<u8>)| Some((DatasetPath::new(&path).ok()?, FileStamp::from_bytes(&stamp)?));
        self.stamps.iter().map(|r| r.map(row)).filter_map(Result::transpose).collect()
    }

    pub(crate) fn put_stamps(&self, stamps: &[(DatasetPath, Option<FileStamp>)]) -> Result<(), StoreError> {
        self.change(stamps, |batch, (path, stamp)| match stamp {
            Some(stamp) => batch.put(path.as_bytes(), &stamp.to_bytes()),
            None => batch.put(path.as_bytes(), SYMLINK),
        })
    }

    /// Directories that we made.
    pub(crate) fn put_directories(&self, paths: &[DatasetPath]) -> Result<(), StoreError> {
        self.change(paths, |batch, path| batch.put(path.as_bytes(), DIRECTORY))
    }

    /// Nothing stands at these paths now, and we are going to put something there. Durable when this returns, so that
    /// after a power cut our own files are not taken for somebody else's.
    pub(crate) fn claim<'a>(&self, paths: impl Iterator<Item = &'a DatasetPath>) -> Result<(), StoreError> {
        let new: Vec<_> = paths.filter(|path| !self.is_vacant(path)).collect();
        self.change(&new, |batch, path| batch.put(path.as_bytes(), &self.vacant))?;
        if new.is_empty() { Ok(()) } else { self.store.flush() }
    }

    /// These are ours, but no stamp says any more that they are sound: they are not what they were, though nobody wrote
    /// to them, or are about to change.
    pub(crate) fn doubt<'a>(&self, paths: impl Iterator<Item = &'a DatasetPath>) -> Result<(), StoreError> {
        self.change(&paths.collect::<Vec<_>>(), |batch, path| batch.put(path.as_bytes(), CLAIMED))
    }

    /// What is kept of a file or link at a path, if that says more than that it is ours, or was vacant.
    pub(crate) fn known_row(&self, path: &DatasetPath) -> Option<Vec<u8>> {
        self.stamps.get(path.as_bytes()).ok()?.filter(|row| row != CLAIMED && row != DIRECTORY && *row != self.vacant)
    }

    /// Rows of [`Self::known_row`] are put back.
    pub(crate) fn put_rows<'a>(
        &self,
        rows: impl Iterator<Item = (&'a DatasetPath, &'a [u8])>,
    ) -> Result<(), StoreError> {
        self.change(&rows.collect::<Vec<_>>(), |batch, (path, row)| batch.put(path.as_bytes(), row))
    }

    /// What stands there is taken for ours, whatever it is.
    pub(crate) fn is_claimed(&self, path: &DatasetPath) -> bool {
        self.has_mark(path, CLAIMED) || (self.was_vacant(path) && !self.is_vacant(path))
    }

    /// Nothing stood there when this run, or an earlier one, last looked.
    pub(crate) fn was_vacant(&self, path: &DatasetPath) -> bool {
        let is_mark = |row: Vec<u8>| row.len() == self.vacant.len() && row[0] == VACANT;
        self.stamps.get(path.as_bytes()).is_ok_and(|row| row.is_some_and(is_mark))
    }

    /// We made a symbolic link there.
    pub(crate) fn is_symlink(&self, path: &DatasetPath) -> bool {
        self.has_mark(path, SYMLINK)
    }

    fn has_mark(&self, path: &DatasetPath, mark: &[u8]) -> bool {
        self.stamps.get(path.as_bytes()).is_ok_and(|row| row.as_deref() == Some(mark))
    }

    pub(crate) fn forget(&self, paths: &[DatasetPath]) -> Result<(), StoreError> {
        self.change(paths, |batch, path| batch.remove(path.as_bytes()))
    }

    /// What stands there is somebody else's. Durable when this returns: no mark of an earlier run may come back.
    pub(crate) fn disown(&self, paths: &[DatasetPath]) -> Result<(), StoreError> {
        let known: Vec<_> = paths.iter().filter(|path| self.knows(path) || self.is_vacant(path)).cloned().collect();
        self.forget(&known)?;
        if known.is_empty() { Ok(()) } else { self.store.flush() }
    }

    /// Changes the table, some thousand rows at a time.
    fn change<T>(&self, rows: &[T], change: impl Fn(&mut Batch, &T)) -> Result<(), StoreError> {
        for chunk in rows.chunks(BATCH) {
            let mut batch = Batch::new();
            chunk.iter().for_each(|row| change(&mut batch, row));
            self.stamps.apply(batch)?;
        }
        Ok(())
    }

    pub(crate) fn flush(&self) -> Result<(), StoreError> {
        self.store.flush()
    }

    /// The directory was compared once: what is in it under the dataset's names is ours.
    pub(crate) fn is_ours(&self) -> Result<bool, StoreError> {
        Ok(self.store.tree("dataset")?.get(b"ours")?.is_some())
    }

    pub(crate) fn make_ours(&self) -> Result<(), StoreError> {
        self.store.tree("dataset")?.put(b"ours", b"1")?;
        self.store.flush()
    }

    /// Block hashes that an earlier run verified.
    pub(crate) fn chaining(&self, id: ObjectId) -> Option<Vec<u8>> {
        let directory = self.files.open_directory(&self.chaining).ok()?;
        directory.open(id.to_string().as_bytes(), How::Read).ok()?.read_to_end(u64::MAX).ok()
    }

    /// Not made durable: whoever reads them checks them.
    pub(crate) fn keep_chaining(&self, id: ObjectId, bytes: &[u8]) -> Result<(), Errno> {
        make_directories(&*self.files, &self.chaining)?;
        let directory = self.files.open_directory(&self.chaining)?;
        let temporary = directory.open(b"new", How::WriteOrMake)?;
        temporary.set_len(0)?;
        temporary.write_all_at(bytes, 0)?;
        directory.rename(b"new", &*directory, id.to_string().as_bytes())
    }

    pub(crate) fn retain_chaining(&self, wanted: impl Fn(ObjectId) -> bool) {
        let Ok(directory) = self.files.open_directory(&self.chaining) else { return };
        for name in directory.names().into_iter().flatten() {
            let id = std::str::from_utf8(&name).ok().and_then(|name| u64::from_str_radix(name, 16).ok());
            if id.is_some_and(|id| !wanted(ObjectId(id)))
                && let Err(cause) = directory.remove(&name)
            {
                tracing::debug!(%cause, "old block hashes stay");
            }
        }
    }
}
