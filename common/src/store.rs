//! The state store: small facts that a node keeps across restarts (pass counts, start numbers, who installed what).
//!
//! - Only this module knows sled. What stands here must be small (values below 4 KiB) and must be rebuildable from a
//!   scan of the content: a damaged store is moved aside and begun anew, with a [`Warning`].
//! - Damage in the middle of its file is silent: sled keeps what stands before it. So a fact that is not here may
//!   have been here; never conclude from its absence what would be dangerous if it were wrong.
//! - What was put is safe against a kill of the process; against a power loss only after [`Store::flush`] returned.
//! - Everything blocks: an async caller goes through `spawn_blocking` for `open` and `flush`.

use std::io;
use std::path::{Path, PathBuf};

mod sled_store;

pub use sled_store::{Batch, Store, Table};

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

/// An error of the file system at `dir`.
fn io_error(action: &'static str, dir: &Path) -> impl FnOnce(io::Error) -> StoreError {
    let dir = dir.to_path_buf();
    move |source| StoreError::Io { action, dir, source }
}

#[cfg(test)]
mod tests;
