//! What a scan could not take along, and why.

use std::fmt;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use nackcast_common::path::{DatasetPath, PART_DIRECTORY, PathError};

/// One path that is not in the new generation, or not as it is on disk now.
#[derive(Debug)]
pub struct Problem {
    /// Relative to the channel's directory.
    pub path: PathBuf,
    /// Why.
    pub what: ProblemKind,
}

/// Why a path was left out.
#[derive(Debug, thiserror::Error)]
pub enum ProblemKind {
    /// Somebody writes to it; the next scan tries again.
    #[error("changed while it was hashed; left out until the next scan")]
    Changed,
    /// It was listed and then gone.
    #[error("vanished while it was scanned")]
    Vanished,
    /// No permission, or the disk fails.
    #[error("cannot be read: {0}; left out")]
    Unreadable(#[source] io::Error),
    /// A socket, pipe or device.
    #[error("is not a file, directory or symlink; left out")]
    SpecialFile,
    /// It has the name of our own directory.
    #[error("has the name {PART_DIRECTORY}, which nackcast keeps for itself; left out, rename it")]
    Reserved,
    /// The path is too long for a manifest.
    #[error("cannot be listed: {0}; left out")]
    Path(#[source] PathError),
    /// No object may be that large.
    #[error("has {0} bytes, more than an object may have; left out")]
    TooLarge(u64),
    /// Its bytes are those of an object that means something else.
    #[error("holds exactly the hash list of another file; left out, alter or remove it")]
    Clash,
}

impl Problem {
    pub(super) fn new(path: &Path, what: ProblemKind) -> Self {
        Self { path: path.to_owned(), what }
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let bytes = self.path.as_os_str().as_bytes();
        match DatasetPath::new(bytes) {
            Ok(path) => write!(f, "{path}")?,
            Err(_) => write!(f, "{}", bytes.escape_ascii())?,
        }
        write!(f, " {}", self.what)
    }
}
