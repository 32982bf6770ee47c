//! The receiver's side of the file system: the target directory, partial objects, install, scan, seed.
//!
//! Everything here blocks and knows no task: the workers call it. It reaches the disk only through
//! [`nackcast_common::files`], so that it runs on a simulated one too.
//!
//! - Nothing that a manifest says, and nothing that stands in the target, leads a write outside it
//!   ([`target`]).
//! - What a partial object's map claims is durable ([`part`]).
//! - A final name only ever shows a whole file whose bytes were checked ([`install`]).

pub mod facts;
pub mod install;
mod parallel;
pub mod part;
pub mod scan;
pub mod seed;
pub mod target;
#[cfg(test)]
mod testing;

use nackcast_common::files::Errno;

/// Why the file system refused. Paths are written so that they fit one line of a log.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DiskError {
    /// No space, or the quota is used up. Nothing was lost; the work can be tried again.
    #[error("no space left for {path}, which needs {needed} bytes more: free some space and it goes on ({cause})")]
    Full {
        /// What was being written.
        path: String,
        /// Bytes still to be stored for it.
        needed: u64,
        /// What the system said.
        cause: Errno,
    },
    /// A symbolic link stands where a directory of the dataset should, or the path leaves the target.
    #[error("{path} passes through a symbolic link: nothing was written, remove the link")]
    Outside {
        /// The path that was not followed.
        path: String,
    },
    /// Another process holds the target.
    #[error("{path} is in use by another nackcast: stop that one or choose another directory")]
    InUse {
        /// The target directory.
        path: String,
    },
    /// The system took bytes and then did not store them. It says so once: what was written since the last
    /// record cannot be relied on.
    #[error("the disk did not store {path} ({cause}): what was lost is fetched again; look after the disk")]
    Lost {
        /// What was being made durable.
        path: String,
        /// What the system said.
        cause: Errno,
    },
    /// Anything else.
    #[error("cannot {action} {path}: {cause}")]
    Io {
        /// What was tried.
        action: &'static str,
        /// On what.
        path: String,
        /// What the system said.
        cause: Errno,
    },
}

impl DiskError {
    /// What the system said, if it said anything.
    #[must_use]
    pub const fn cause(&self) -> Option<Errno> {
        match self {
            Self::Full { cause, .. } | Self::Lost { cause, .. } | Self::Io { cause, .. } => Some(*cause),
            Self::Outside { .. } | Self::InUse { .. } => None,
        }
    }

    /// Whether we may not or cannot reach the file: that says nothing of what is in it.
    const fn is_of_node(&self) -> bool {
        matches!(
            self,
            Self::Io {
                cause: Errno::ACCESS | Errno::PERM | Errno::ROFS | Errno::MFILE | Errno::NFILE | Errno::NOMEM,
                ..
            }
        )
    }

    /// Whether it goes away when space is freed.
    #[must_use]
    pub const fn is_full(&self) -> bool {
        matches!(self, Self::Full { .. })
    }
}

/// A lock whose data stays usable when a thread that held it panicked: every holder leaves it whole.
fn lock<T>(mutex: &std::sync::Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}
