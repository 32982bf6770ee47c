//! Long hash lists, kept in files of the cache directory instead of in memory.
//!
//! A list stays open while a [`super::Content`] serves it, so that its file may be removed as soon as the
//! newest generation does without it.

use std::collections::HashSet;
use std::ffi::OsString;
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use nackcast_common::ids::{ChannelId, Digest, ObjectId};

use super::cache::replace;
use super::content::ObjectSource;

/// Up to this many bytes a list stays in memory.
const IN_MEMORY_MAX: usize = 1 << 20;

/// The lists of one channel.
#[derive(Debug)]
pub(super) struct Spill {
    directory: PathBuf,
    prefix: String,
    used: Mutex<HashSet<OsString>>,
}

impl Spill {
    pub(super) fn new(directory: &Path, channel: ChannelId) -> Self {
        let prefix = format!("list-{channel}-");
        Self { directory: directory.to_owned(), prefix, used: Mutex::default() }
    }

    /// Keeps a list, in memory or on disk by its length.
    pub(super) fn keep(&self, id: ObjectId, digest: &Digest, bytes: &[u8]) -> io::Result<ObjectSource> {
        if bytes.len() <= IN_MEMORY_MAX {
            return Ok(ObjectSource::Memory(bytes.into()));
        }
        let name = format!("{}{id}", self.prefix);
        let path = self.directory.join(&name);
        self.used.lock().unwrap_or_else(PoisonError::into_inner).insert(name.into());
        if !fs::read(&path).is_ok_and(|stored| Digest::of(&stored) == *digest) {
            replace(&path, bytes)?;
        }
        let file = Arc::new(File::open(&path)?);
        Ok(ObjectSource::Spilled { path, file })
    }

    /// Removes the lists that were not kept since [`Self::new`].
    pub(super) fn remove_others(&self) {
        let used = self.used.lock().unwrap_or_else(PoisonError::into_inner);
        let listed = fs::read_dir(&self.directory).into_iter().flatten().flatten();
        for item in listed {
            let name = item.file_name();
            let ours = name.to_str().is_some_and(|n| n.starts_with(&self.prefix));
            if !ours || used.contains(&name) {
                continue;
            }
            if let Err(error) = fs::remove_file(item.path()) {
                tracing::warn!(file = %item.path().display(), %error, "a hash list of no more use stays");
            }
        }
    }
}
