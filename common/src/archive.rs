//! Signed manifests on disk: files named by the hash of their bytes, and a pointer to the root in force.
//!
//! - Everything is renamed into place after its bytes are durable, the pointer last: a reader finds the last
//!   generation or the one before, whole.
//! - What is read back is checked against its name, so a damaged file is a missing one.

use std::collections::BTreeSet;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::files::{Errno, Files, Handle, How, make_directories};
use crate::ids::Digest;

const CURRENT: &str = "current";
/// More new files than this are made durable by one sync of the whole file system.
const SYNC_SINGLY_MAX: usize = 32;

/// Why something stored could not be had, or something could not be stored.
#[derive(Debug, thiserror::Error)]
pub enum ArchiveError {
    /// The file system refused, or the file is missing.
    #[error("{}: {source}", path.display())]
    Io {
        /// Which file.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// The bytes are not those that the name promises.
    #[error("{} is not what its name says", .0.display())]
    Damaged(PathBuf),
}

/// A directory of manifest roots and parts.
#[derive(Clone, Debug)]
pub struct Archive {
    files: Arc<dyn Files>,
    directory: PathBuf,
}

impl Archive {
    /// In this directory, which is made when something is saved.
    #[must_use]
    pub const fn new(files: Arc<dyn Files>, directory: PathBuf) -> Self {
        Self { files, directory }
    }

    /// Where it is.
    #[must_use]
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// The root in force; none before the first was saved.
    ///
    /// # Errors
    /// When it cannot be read or is damaged.
    pub fn current(&self) -> Result<Option<(Digest, Vec<u8>)>, ArchiveError> {
        let name = match self.read(CURRENT) {
            Ok(name) => name,
            Err(Errno::NOENT) => return Ok(None),
            Err(cause) => return Err(self.fail(CURRENT, cause)),
        };
        let digest = std::str::from_utf8(&name).ok().and_then(|name| parse(name.trim()));
        let digest = digest.ok_or_else(|| ArchiveError::Damaged(self.directory.join(CURRENT)))?;
        Ok(Some((digest, self.get(&digest)?)))
    }

    /// The bytes with this hash.
    ///
    /// # Errors
    /// When they are missing, cannot be read, or are damaged.
    pub fn get(&self, digest: &Digest) -> Result<Vec<u8>, ArchiveError> {
        let name = digest.to_string();
        match self.read(&name) {
            Ok(bytes) if Digest::of(&bytes) == *digest => Ok(bytes),
            Ok(_) => Err(ArchiveError::Damaged(self.directory.join(name))),
            Err(cause) => Err(self.fail(&name, cause)),
        }
    }

    /// Puts a root and its parts in force, durably; what they do not need is removed.
    ///
    /// # Errors
    /// When something cannot be written; then the root before stays in force.
    pub fn save<'a>(
        &self,
        root: (Digest, &'a [u8]),
        parts: impl IntoIterator<Item = (Digest, &'a [u8])>,
    ) -> Result<(), ArchiveError> {
        let fail = |cause: Errno| ArchiveError::Io { path: self.directory.clone(), source: cause.into() };
        self.try_save(root, parts).map_err(fail)
    }

    fn try_save<'a>(
        &self,
        root: (Digest, &'a [u8]),
        parts: impl IntoIterator<Item = (Digest, &'a [u8])>,
    ) -> Result<(), Errno> {
        make_directories(&*self.files, &self.directory)?;
        let directory = self.open()?;
        let mut needed = BTreeSet::new();
        let mut new = Vec::new();
        for (digest, bytes) in std::iter::once(root).chain(parts) {
            let name = digest.to_string();
            // A file of this name was whole when it was renamed there; whether it is sound is seen when it is read.
            let known = directory.facts_at(name.as_bytes()).is_ok_and(|f| f.size == bytes.len() as u64);
            if needed.insert(name.clone()) && !known {
                new.push((name, bytes));
            }
        }
        write_all(&directory, &new)?;
        write_all(&directory, &[(CURRENT.to_owned(), root.0.to_string().as_bytes())])?;
        remove_others(&directory, &needed);
        Ok(())
    }

    /// Removes everything, so that nothing damaged passes for a part that is there already.
    pub fn forget(&self) {
        match self.open() {
            Ok(directory) => {
                // Without the pointer, what a crash leaves of the rest is not believed.
                remove(&directory, CURRENT.as_bytes());
                for name in directory.names().into_iter().flatten() {
                    remove(&directory, &name);
                }
            }
            Err(Errno::NOENT) => {}
            Err(cause) => {
                tracing::debug!(path = %self.directory.display(), %cause, "a useless manifest stays");
            }
        }
    }

    fn open(&self) -> Result<Handle, Errno> {
        self.files.open_directory(&self.directory)
    }

    fn read(&self, name: &str) -> Result<Vec<u8>, Errno> {
        self.open()?.open(name.as_bytes(), How::Read)?.read_to_end(u64::MAX)
    }

    fn fail(&self, name: &str, cause: Errno) -> ArchiveError {
        ArchiveError::Io { path: self.directory.join(name), source: cause.into() }
    }
}

/// First the bytes are durable, then the names.
fn write_all(directory: &Handle, files: &[(String, &[u8])]) -> Result<(), Errno> {
    let temporary = |name: &str| format!("{name}.new").into_bytes();
    let singly = files.len() <= SYNC_SINGLY_MAX;
    for (name, bytes) in files {
        let file = directory.open(&temporary(name), How::WriteOrMake)?;
        // A crash may have left one.
        file.set_len(0)?;
        file.write_all_at(bytes, 0)?;
        if singly {
            file.sync()?;
        }
    }
    if !singly {
        directory.sync_file_system()?;
    }
    for (name, _) in files {
        directory.rename(&temporary(name), &**directory, name.as_bytes())?;
    }
    directory.sync()
}

/// Harmless when it fails: they only take room.
fn remove_others(directory: &Handle, needed: &BTreeSet<String>) {
    for name in directory.names().into_iter().flatten() {
        let kept = std::str::from_utf8(&name).is_ok_and(|name| name == CURRENT || needed.contains(name));
        if !kept {
            remove(directory, &name);
        }
    }
}

fn remove(directory: &Handle, name: &[u8]) {
    match directory.remove(name) {
        Ok(()) | Err(Errno::NOENT) => {}
        Err(cause) => tracing::debug!(name = %name.escape_ascii(), %cause, "an old part of a manifest stays"),
    }
}

fn parse(hex: &str) -> Option<Digest> {
    if hex.len() != 64 || !hex.is_ascii() {
        return None;
    }
    let mut digest = [0; 32];
    for (byte, at) in digest.iter_mut().zip((0..64).step_by(2)) {
        *byte = u8::from_str_radix(hex.get(at..at + 2)?, 16).ok()?;
    }
    Some(Digest(digest))
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn the_last_saved_is_in_force_and_damage_is_noticed() {
        let directory = tempfile::tempdir().unwrap();
        let archive = Archive::new(crate::files::linux(), directory.path().join("manifest"));
        assert!(archive.current().unwrap().is_none());
        let (a, b, p) = (Digest::of(b"a"), Digest::of(b"b"), Digest::of(b"part"));
        archive.save((a, b"a"), [(p, &b"part"[..])]).unwrap();
        archive.save((b, b"b"), [(p, &b"part"[..])]).unwrap();
        assert_eq!(archive.current().unwrap(), Some((b, b"b".to_vec())));
        assert!(matches!(archive.get(&a), Err(ArchiveError::Io { .. })), "what is not needed is removed");
        assert_eq!(archive.get(&p).unwrap(), b"part".to_vec());
        fs::write(archive.directory().join(p.to_string()), b"pert").unwrap();
        assert!(matches!(archive.get(&p), Err(ArchiveError::Damaged(_))));
        fs::write(archive.directory().join(CURRENT), b"../../etc/passwd").unwrap();
        assert!(matches!(archive.current(), Err(ArchiveError::Damaged(_))));
        archive.forget();
        assert!(archive.current().unwrap().is_none());
    }
}
