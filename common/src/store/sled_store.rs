//! The store over sled 0.34, and the rules that make it safe enough.
//!
//! - sled's own flush writes but does not fsync: [`Store::flush`] syncs the `db` file after it, through a second
//!   descriptor. Its periodic flusher is off.
//! - sled holds its lock for a moment after the last handle was dropped, so a lock is tried for a while.
//! - Its cache is 1 GiB by default and here is small.

use std::fmt;
use std::fs::{self, DirBuilder, File};
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use super::{SCHEMA_VERSION, StoreError, VALUE_LEN_MAX, Warning, io_error};

const CACHE_BYTES: u64 = 16 << 20;
/// How long a lock may be held by a process (or a store of this process) that is just ending.
const LOCK_TRIES: u32 = 20;
const LOCK_PAUSE: Duration = Duration::from_millis(50);
/// In the default tree, which holds nothing else.
const SCHEMA_KEY: &[u8] = b"schema version";

/// An open store. Clones share it; the last one dropped closes it.
#[derive(Clone)]
pub struct Store {
    db: sled::Db,
    /// The file that sled writes and does not sync.
    file: Arc<File>,
    dir: Arc<Path>,
}

/// Why an attempt to open failed.
enum Failure {
    /// The store itself is unusable.
    Damaged(String),
    /// Anything that a new store would meet as well.
    Refused(StoreError),
}

impl Store {
    /// Opens the store in `dir`, made if need be. A damaged one is moved aside to `dir.damaged-N`, and a new one
    /// is begun.
    ///
    /// # Errors
    /// When another process has it, a newer version wrote it, or the file system refuses.
    pub fn open(dir: &Path) -> Result<(Self, Option<Warning>), StoreError> {
        let reason = match Self::try_open(dir) {
            Ok(store) => return Ok((store, None)),
            Err(Failure::Refused(error)) => return Err(error),
            Err(Failure::Damaged(reason)) => reason,
        };
        let to = move_aside(dir).map_err(io_error("move aside", dir))?;
        let warning = Warning::MovedAside { from: dir.to_path_buf(), to, reason };
        match Self::try_open(dir) {
            Ok(store) => Ok((store, Some(warning))),
            Err(Failure::Refused(error)) => Err(error),
            Err(Failure::Damaged(reason)) => Err(StoreError::Damaged { dir: dir.to_path_buf(), reason }),
        }
    }

    fn try_open(dir: &Path) -> Result<Self, Failure> {
        let refused = |error| Failure::Refused(io_error("open", dir)(error));
        DirBuilder::new().recursive(true).mode(0o700).create(dir).map_err(refused)?;
        let had_content = fs::metadata(dir.join("db")).is_ok_and(|db| db.len() > 0);
        let db = open_locked(dir)?;
        let file = File::options().write(true).open(dir.join("db")).map_err(refused)?;
        let store = Self { db, file: Arc::new(file), dir: dir.into() };
        store.check_version(had_content)?;
        Ok(store)
    }

    fn check_version(&self, had_content: bool) -> Result<(), Failure> {
        let stored = self.db.get(SCHEMA_KEY).map_err(|e| sort(&self.dir, "read", e))?;
        let Some(stored) = stored else {
            // sled takes a file that it cannot read for an empty one. The version is written first of all.
            if had_content {
                return Err(Failure::Damaged("its content cannot be read".to_owned()));
            }
            self.db.insert(SCHEMA_KEY, &SCHEMA_VERSION.to_be_bytes()).map_err(|e| sort(&self.dir, "write", e))?;
            self.flush().map_err(Failure::Refused)?;
            // The entries of a new store's files.
            let synced = File::open(&self.dir).and_then(|dir| dir.sync_all());
            return synced.map_err(|e| Failure::Refused(io_error("sync", &self.dir)(e)));
        };
        let Ok(bytes) = <[u8; 4]>::try_from(stored.as_ref()) else {
            return Err(Failure::Damaged("its version is no number".to_owned()));
        };
        match u32::from_be_bytes(bytes) {
            found if found > SCHEMA_VERSION => {
                Err(Failure::Refused(StoreError::NewerVersion { dir: self.dir.to_path_buf(), found }))
            }
            _ => Ok(()),
        }
    }

    /// The table of this name, empty at first.
    ///
    /// # Errors
    /// When the store is damaged or the file system refuses.
    pub fn tree(&self, name: &'static str) -> Result<Table, StoreError> {
        let tree = self.db.open_tree(name).map_err(|e| running(&self.dir, "open a table of", e))?;
        Ok(Table { tree, dir: Arc::clone(&self.dir) })
    }

    /// Makes durable, even against a power loss, what all tables hold. Blocks for the disk.
    ///
    /// # Errors
    /// When the file system refuses; nothing put since the last flush may be relied on then.
    pub fn flush(&self) -> Result<(), StoreError> {
        self.db.flush().map_err(|e| running(&self.dir, "write", e))?;
        self.file.sync_data().map_err(io_error("sync", &self.dir))
    }

    /// Pretends that another version wrote it.
    #[cfg(test)]
    pub(super) fn set_version(&self, version: u32) {
        self.db.insert(SCHEMA_KEY, &version.to_be_bytes()).unwrap();
        self.flush().unwrap();
    }

    /// Where it is.
    #[must_use]
    pub fn dir(&self) -> &Path {
        &self.dir
    }
}

impl fmt::Debug for Store {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Store").field("dir", &self.dir).finish_non_exhaustive()
    }
}

/// One ordered map of bytes to bytes. Clones share it.
#[derive(Clone)]
pub struct Table {
    tree: sled::Tree,
    dir: Arc<Path>,
}

impl Table {
    /// The value of `key`.
    ///
    /// # Errors
    /// When the store is damaged or the file system refuses; so in all methods.
    pub fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
        let value = self.tree.get(key).map_err(|e| running(&self.dir, "read", e))?;
        Ok(value.map(|value| value.to_vec()))
    }

    /// Sets the value of `key`.
    ///
    /// # Errors
    /// See [`Self::get`]; and when the value has [`VALUE_LEN_MAX`] bytes or more.
    pub fn put(&self, key: &[u8], value: &[u8]) -> Result<(), StoreError> {
        check_len(value)?;
        self.tree.insert(key, value).map_err(|e| running(&self.dir, "write", e))?;
        Ok(())
    }

    /// Forgets `key`.
    ///
    /// # Errors
    /// See [`Self::get`].
    pub fn remove(&self, key: &[u8]) -> Result<(), StoreError> {
        self.tree.remove(key).map_err(|e| running(&self.dir, "write", e))?;
        Ok(())
    }

    /// All pairs, in order of keys.
    pub fn iter(&self) -> impl Iterator<Item = Result<(Vec<u8>, Vec<u8>), StoreError>> + use<> {
        pairs(self.tree.iter(), Arc::clone(&self.dir))
    }

    /// The pairs whose key begins with `prefix`, in order of keys.
    pub fn iter_prefix(&self, prefix: &[u8]) -> impl Iterator<Item = Result<(Vec<u8>, Vec<u8>), StoreError>> + use<> {
        pairs(self.tree.scan_prefix(prefix), Arc::clone(&self.dir))
    }

    /// Does all of a batch, or nothing of it.
    ///
    /// # Errors
    /// See [`Self::put`].
    pub fn apply(&self, batch: Batch) -> Result<(), StoreError> {
        if let Some(len) = batch.too_long {
            return Err(StoreError::ValueTooLong(len));
        }
        self.tree.apply_batch(batch.inner).map_err(|e| running(&self.dir, "write", e))
    }

    /// Forgets everything.
    ///
    /// # Errors
    /// See [`Self::get`].
    pub fn clear(&self) -> Result<(), StoreError> {
        self.tree.clear().map_err(|e| running(&self.dir, "write", e))
    }
}

impl fmt::Debug for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Table").field("name", &String::from_utf8_lossy(&self.tree.name())).finish_non_exhaustive()
    }
}

/// Changes to one table that belong together.
#[derive(Default)]
pub struct Batch {
    inner: sled::Batch,
    /// Length of a value that `apply` will refuse.
    too_long: Option<usize>,
}

impl Batch {
    /// Without changes.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Will set the value of `key`.
    pub fn put(&mut self, key: &[u8], value: &[u8]) {
        match check_len(value) {
            Ok(()) => self.inner.insert(key, value),
            Err(_) => self.too_long = Some(value.len()),
        }
    }

    /// Will forget `key`.
    pub fn remove(&mut self, key: &[u8]) {
        self.inner.remove(key);
    }
}

impl fmt::Debug for Batch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Batch")
    }
}

const fn check_len(value: &[u8]) -> Result<(), StoreError> {
    if value.len() < VALUE_LEN_MAX { Ok(()) } else { Err(StoreError::ValueTooLong(value.len())) }
}

fn pairs(inner: sled::Iter, dir: Arc<Path>) -> impl Iterator<Item = Result<(Vec<u8>, Vec<u8>), StoreError>> {
    inner.map(move |pair| match pair {
        Ok((key, value)) => Ok((key.to_vec(), value.to_vec())),
        Err(error) => Err(running(&dir, "read", error)),
    })
}

/// Opens sled, waiting a little for a holder that is just ending.
fn open_locked(dir: &Path) -> Result<sled::Db, Failure> {
    let config = sled::Config::new().path(dir).cache_capacity(CACHE_BYTES).flush_every_ms(None);
    let mut tries = LOCK_TRIES;
    loop {
        match config.open() {
            Ok(db) => return Ok(db),
            Err(error) if !is_locked(&error) => return Err(sort(dir, "open", error)),
            Err(_) if tries == 0 => return Err(Failure::Refused(StoreError::Locked(dir.to_path_buf()))),
            Err(_) => tries -= 1,
        }
        pause();
    }
}

#[expect(clippy::disallowed_methods, reason = "a lock of another process has no event to wait for with a limit")]
fn pause() {
    std::thread::sleep(LOCK_PAUSE);
}

/// sled gives its own error for a lock that is taken, with no kind to know it by.
fn is_locked(error: &sled::Error) -> bool {
    matches!(error, sled::Error::Io(e) if e.to_string().contains("could not acquire lock"))
}

/// Whether the store is damaged, or the file system refused.
fn sort(dir: &Path, action: &'static str, error: sled::Error) -> Failure {
    use io::ErrorKind as Kind;
    match error {
        // What the system itself said, also where sled made a copy of the error without its number.
        sled::Error::Io(source)
            if source.raw_os_error().is_some()
                || matches!(
                    source.kind(),
                    Kind::PermissionDenied
                        | Kind::StorageFull
                        | Kind::QuotaExceeded
                        | Kind::ReadOnlyFilesystem
                        | Kind::NotADirectory
                        | Kind::OutOfMemory
                ) =>
        {
            Failure::Refused(io_error(action, dir)(source))
        }
        other => Failure::Damaged(other.to_string()),
    }
}

/// The same for a store that is open.
fn running(dir: &Path, action: &'static str, error: sled::Error) -> StoreError {
    match sort(dir, action, error) {
        Failure::Refused(error) => error,
        Failure::Damaged(reason) => StoreError::Damaged { dir: dir.to_path_buf(), reason },
    }
}

/// Renames `dir` to the first free `dir.damaged-N`.
fn move_aside(dir: &Path) -> io::Result<PathBuf> {
    for number in 1_u32.. {
        let mut name = dir.as_os_str().to_owned();
        name.push(format!(".damaged-{number}"));
        let to = PathBuf::from(name);
        if !to.try_exists()? {
            fs::rename(dir, &to)?;
            return Ok(to);
        }
    }
    unreachable!("a directory does not hold four billion damaged stores")
}
