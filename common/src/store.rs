//! The state store: small facts that a node keeps across restarts (pass counts, start numbers, who installed what).
//! On disk, or in memory for the simulator ([`MemoryStore`]), which keeps the same promises.
//!
//! - Only this module knows sled. What stands here must be small (values below 4 KiB) and must be rebuildable from a
//!   scan of the content: a damaged store is moved aside and begun anew, with a [`Warning`].
//! - Damage in the middle of its file is silent: sled keeps what stands before it. So a fact that is not here may
//!   have been here; never conclude from its absence what would be dangerous if it were wrong.
//! - What was put is safe against a kill of the process; against a power loss only after [`Store::flush`] returned.
//! - Everything blocks: an async caller goes through `spawn_blocking` for `open` and `flush`.

use std::io;
use std::path::{Path, PathBuf};

mod memory;
mod sled_store;

use memory::MemoryTable;
use sled_store::{SledStore, SledTable};

pub use memory::MemoryStore;

/// Version of the store's content. A store of a newer version is refused, so that an older program never
/// damages what it does not understand.
pub const SCHEMA_VERSION: u32 = 1;
/// Values must be shorter: the engine puts longer ones into files of their own, which it never syncs.
pub const VALUE_LEN_MAX: usize = 4096;

/// Something the user should know, though the store works.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Warning {
    /// The store was damaged.
    #[error("the state in {from} is damaged ({reason}): moved to {to} and begun anew; it is rebuilt from a scan",
        from = from.display(), to = to.display())]
    MovedAside {
        /// Where it was.
        from: PathBuf,
        /// Where it is now, for an investigation; may be deleted.
        to: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
}

/// Why the store cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// Another process has it open.
    #[error("the state in {dir} is in use by another nackcast: stop it, or choose another directory with --state",
        dir = .0.display())]
    Locked(PathBuf),
    /// A newer program wrote it.
    #[error("the state in {dir} is of version {found} and this nackcast knows up to {SCHEMA_VERSION}: update nackcast, \
         or choose another directory with --state", dir = dir.display())]
    NewerVersion {
        /// Where it is.
        dir: PathBuf,
        /// Its version.
        found: u32,
    },
    /// The file system refuses.
    #[error("cannot {action} the state in {dir}: {source}", dir = dir.display())]
    Io {
        /// What was tried.
        action: &'static str,
        /// Where it is.
        dir: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// The store broke while it was open.
    #[error("the state in {dir} is damaged ({reason}): restart nackcast, which begins it anew", dir = dir.display())]
    Damaged {
        /// Where it is.
        dir: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// The caller's mistake: a value that does not belong here.
    #[error("a value of {0} bytes is too long for the state store, which takes less than {VALUE_LEN_MAX}")]
    ValueTooLong(usize),
}

/// A key and its value.
type Pair = Result<(Vec<u8>, Vec<u8>), StoreError>;
/// A key and its new value; none: the key goes.
type Change = (Vec<u8>, Option<Vec<u8>>);

/// An open store. Clones share it; the last one dropped closes it.
#[derive(Clone, Debug)]
pub struct Store(Backend);

#[derive(Clone, Debug)]
enum Backend {
    Sled(SledStore),
    Memory(MemoryStore),
}

impl Store {
    /// Opens the store in `dir`, made if need be. A damaged one is moved aside to `dir.damaged-N`, and a new one
    /// is begun.
    ///
    /// # Errors
    /// When another process has it, a newer version wrote it, or the file system refuses.
    pub fn open(dir: &Path) -> Result<(Self, Option<Warning>), StoreError> {
        let (store, warning) = SledStore::open(dir)?;
        Ok((Self(Backend::Sled(store)), warning))
    }

    /// The table of this name, empty at first.
    ///
    /// # Errors
    /// When the store is damaged or the file system refuses.
    pub fn tree(&self, name: &'static str) -> Result<Table, StoreError> {
        Ok(match &self.0 {
            Backend::Sled(store) => Table(TableBackend::Sled(store.tree(name)?)),
            Backend::Memory(store) => Table(TableBackend::Memory(store.table(name))),
        })
    }

    /// Makes durable, even against a power loss, what all tables hold. Blocks for the disk.
    ///
    /// # Errors
    /// When the file system refuses; nothing put since the last flush may be relied on then.
    pub fn flush(&self) -> Result<(), StoreError> {
        match &self.0 {
            Backend::Sled(store) => store.flush(),
            Backend::Memory(store) => {
                store.flush();
                Ok(())
            }
        }
    }
}

/// One ordered map of bytes to bytes. Clones share it.
#[derive(Clone, Debug)]
pub struct Table(TableBackend);

#[derive(Clone, Debug)]
enum TableBackend {
    Sled(SledTable),
    Memory(MemoryTable),
}

impl Table {
    /// The value of `key`.
    ///
    /// # Errors
    /// When the store is damaged or the file system refuses; so in all methods.
    pub fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
        match &self.0 {
            TableBackend::Sled(table) => table.get(key),
            TableBackend::Memory(table) => Ok(table.get(key)),
        }
    }

    /// Sets the value of `key`.
    ///
    /// # Errors
    /// See [`Self::get`]; and when the value has [`VALUE_LEN_MAX`] bytes or more.
    pub fn put(&self, key: &[u8], value: &[u8]) -> Result<(), StoreError> {
        let mut batch = Batch::new();
        batch.put(key, value);
        self.apply(batch)
    }

    /// Forgets `key`.
    ///
    /// # Errors
    /// See [`Self::get`].
    pub fn remove(&self, key: &[u8]) -> Result<(), StoreError> {
        let mut batch = Batch::new();
        batch.remove(key);
        self.apply(batch)
    }

    /// All pairs, in order of keys.
    pub fn iter(&self) -> impl Iterator<Item = Result<(Vec<u8>, Vec<u8>), StoreError>> + use<> {
        self.iter_prefix(b"")
    }

    /// The pairs whose key begins with `prefix`, in order of keys.
    pub fn iter_prefix(&self, prefix: &[u8]) -> impl Iterator<Item = Result<(Vec<u8>, Vec<u8>), StoreError>> + use<> {
        let pairs: Box<dyn Iterator<Item = Pair> + Send> = match &self.0 {
            TableBackend::Sled(table) => Box::new(table.pairs(prefix)),
            TableBackend::Memory(table) => Box::new(table.pairs(prefix).into_iter().map(Ok)),
        };
        pairs
    }

    /// Does all of a batch, or nothing of it.
    ///
    /// # Errors
    /// See [`Self::put`].
    pub fn apply(&self, batch: Batch) -> Result<(), StoreError> {
        if let Some(len) = batch.too_long {
            return Err(StoreError::ValueTooLong(len));
        }
        match &self.0 {
            TableBackend::Sled(table) => table.apply(batch.changes),
            TableBackend::Memory(table) => {
                table.apply(batch.changes);
                Ok(())
            }
        }
    }

    /// Forgets everything.
    ///
    /// # Errors
    /// See [`Self::get`].
    pub fn clear(&self) -> Result<(), StoreError> {
        match &self.0 {
            TableBackend::Sled(table) => table.clear(),
            TableBackend::Memory(table) => {
                table.clear();
                Ok(())
            }
        }
    }
}

/// Changes to one table that belong together.
#[derive(Debug, Default)]
pub struct Batch {
    changes: Vec<Change>,
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
        if value.len() < VALUE_LEN_MAX {
            self.changes.push((key.to_vec(), Some(value.to_vec())));
        } else {
            self.too_long = Some(value.len());
        }
    }

    /// Will forget `key`.
    pub fn remove(&mut self, key: &[u8]) {
        self.changes.push((key.to_vec(), None));
    }
}

/// An error of the file system at `dir`.
fn io_error(action: &'static str, dir: &Path) -> impl FnOnce(io::Error) -> StoreError {
    let dir = dir.to_path_buf();
    move |source| StoreError::Io { action, dir, source }
}

#[cfg(test)]
mod tests;
