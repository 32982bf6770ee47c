//! The store on disk, over sled 0.34, and the rules that make it safe enough.
//!
//! - sled's own flush writes but does not fsync: [`SledStore::flush`] syncs the `db` file after it, through a second
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

use super::{Change, Pair, SCHEMA_VERSION, StoreError, Warning, io_error};

const CACHE_BYTES: u64 = 16 << 20;
/// How long a lock may be held by a process (or a store of this process) that is just ending.
const LOCK_TRIES: u32 = 20;
const LOCK_PAUSE: Duration = Duration::from_millis(50);
/// In the default tree, which holds nothing else.
const SCHEMA_KEY: &[u8] = b"schema version";

#[derive(Clone)]
pub(super) struct SledStore {
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

impl SledStore {
    pub(super) fn open(dir: &Path) -> Result<(Self, Option<Warning>), StoreError> {
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

    pub(super) fn tree(&self, name: &'static str) -> Result<SledTable, StoreError> {
        let tree = self.db.open_tree(name).map_err(|e| running(&self.dir, "open a table of", e))?;
        Ok(SledTable { tree, dir: Arc::clone(&self.dir) })
    }

    pub(super) fn flush(&self) -> Result<(), StoreError> {
        self.db.flush().map_err(|e| running(&self.dir, "write", e))?;
        self.file.sync_data().map_err(io_error("sync", &self.dir))
    }

    /// Pretends that another version wrote it.
    #[cfg(test)]
    pub(super) fn set_version(&self, version: u32) {
        self.db.insert(SCHEMA_KEY, &version.to_be_bytes()).unwrap();
        self.flush().unwrap();
    }
}

impl fmt::Debug for SledStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SledStore").field("dir", &self.dir).finish_non_exhaustive()
    }
}

#[derive(Clone)]
pub(super) struct SledTable {
    tree: sled::Tree,
    dir: Arc<Path>,
}

impl SledTable {
    pub(super) fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
        let value = self.tree.get(key).map_err(|e| running(&self.dir, "read", e))?;
        Ok(value.map(|value| value.to_vec()))
    }

    pub(super) fn pairs(&self, prefix: &[u8]) -> impl Iterator<Item = Pair> + Send + use<> {
        let dir = Arc::clone(&self.dir);
        self.tree.scan_prefix(prefix).map(move |pair| match pair {
            Ok((key, value)) => Ok((key.to_vec(), value.to_vec())),
            Err(error) => Err(running(&dir, "read", error)),
        })
    }

    pub(super) fn apply(&self, mut changes: Vec<Change>) -> Result<(), StoreError> {
        let done = if changes.len() == 1
            && let Some((key, value)) = changes.pop()
        {
            match value {
                Some(value) => self.tree.insert(key, value).map(drop),
                None => self.tree.remove(key).map(drop),
            }
        } else {
            let mut batch = sled::Batch::default();
            for (key, value) in changes {
                match value {
                    Some(value) => batch.insert(key, value),
                    None => batch.remove(key),
                }
            }
            self.tree.apply_batch(batch)
        };
        done.map_err(|e| running(&self.dir, "write", e))
    }

    pub(super) fn clear(&self) -> Result<(), StoreError> {
        self.tree.clear().map_err(|e| running(&self.dir, "write", e))
    }
}

impl fmt::Debug for SledTable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SledTable").field("name", &String::from_utf8_lossy(&self.tree.name())).finish_non_exhaustive()
    }
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
