//! What the scenario's publisher makes, as files.

use std::fs::{self, File};
use std::io;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::Path;
use std::time::{Duration, UNIX_EPOCH};

use nackcast_common::manifest::{Entry, EntryKind};

use super::RealError;
use crate::sim::content::Edition;

/// Writes a generation into an empty directory.
pub(super) fn write(edition: &Edition, root: &Path) -> Result<(), RealError> {
    for entry in edition.manifest.entries() {
        let path = root.join(entry.path.as_path());
        put(edition, entry, &path).map_err(|source| RealError::Write { path, source })?;
    }
    Ok(())
}

fn put(edition: &Edition, entry: &Entry, path: &Path) -> io::Result<()> {
    match &entry.kind {
        EntryKind::Directory => return fs::create_dir_all(path),
        EntryKind::Symlink { target } => return symlink(std::ffi::OsStr::from_bytes(target), path),
        EntryKind::File { .. } => {}
    }
    let bytes = edition.bytes_of(entry).ok_or_else(|| io::Error::other("its object is missing"))?;
    fs::write(path, &bytes)?;
    let file = File::open(path)?;
    let since = Duration::from_secs(entry.mtime.seconds.unsigned_abs());
    file.set_modified(UNIX_EPOCH + since)?;
    file.set_permissions(fs::Permissions::from_mode(entry.mode))
}
