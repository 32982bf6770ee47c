//! Signed manifests on disk: files named by the hash of their bytes, and a pointer to the root in force.
//!
//! - The pointer is renamed into place after everything that it needs is durable: a reader finds the last
//!   generation or the one before, whole.
//! - What is read back is checked against its name, so a damaged file is a missing one.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

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
    directory: PathBuf,
}

impl Archive {
    /// In this directory, which is made when something is saved.
    #[must_use]
    pub const fn new(directory: PathBuf) -> Self {
        Self { directory }
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
        let path = self.directory.join(CURRENT);
        let name = match fs::read_to_string(&path) {
            Ok(name) => name,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(source) => return Err(ArchiveError::Io { path, source }),
        };
        let digest = parse(name.trim()).ok_or(ArchiveError::Damaged(path))?;
        Ok(Some((digest, self.get(&digest)?)))
    }

    /// The bytes with this hash.
    ///
    /// # Errors
    /// When they are missing, cannot be read, or are damaged.
    pub fn get(&self, digest: &Digest) -> Result<Vec<u8>, ArchiveError> {
        let path = self.directory.join(digest.to_string());
        match fs::read(&path) {
            Ok(bytes) if Digest::of(&bytes) == *digest => Ok(bytes),
            Ok(_) => Err(ArchiveError::Damaged(path)),
            Err(source) => Err(ArchiveError::Io { path, source }),
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
        let fail = |source| ArchiveError::Io { path: self.directory.clone(), source };
        fs::create_dir_all(&self.directory).map_err(fail)?;
        let mut needed = BTreeSet::new();
        let mut new = Vec::new();
        for (digest, bytes) in std::iter::once(root).chain(parts) {
            let name = digest.to_string();
            // A file of this name was whole when it was renamed there; whether it is sound is seen when it is read.
            let known = fs::metadata(self.directory.join(&name)).is_ok_and(|m| m.len() == bytes.len() as u64);
            if needed.insert(name.clone()) && !known {
                new.push((name, bytes));
            }
        }
        self.write_all(&new).map_err(fail)?;
        self.write(CURRENT, root.0.to_string().as_bytes(), true).map_err(fail)?;
        self.sync().map_err(fail)?;
        self.remove_others(&needed);
        Ok(())
    }

    /// Removes everything, so that nothing damaged passes for a part that is there already.
    pub fn forget(&self) {
        if let Err(error) = fs::remove_dir_all(&self.directory) {
            tracing::debug!(path = %self.directory.display(), %error, "a useless manifest stays");
        }
    }

    fn write_all(&self, files: &[(String, &[u8])]) -> io::Result<()> {
        let singly = files.len() <= SYNC_SINGLY_MAX;
        for (name, bytes) in files {
            self.write(name, bytes, singly)?;
        }
        if !singly {
            rustix::fs::syncfs(File::open(&self.directory)?)?;
        }
        self.sync()
    }

    fn write(&self, name: &str, bytes: &[u8], sync: bool) -> io::Result<()> {
        let temporary = self.directory.join(format!("{name}.new"));
        let mut file = File::create(&temporary)?;
        file.write_all(bytes)?;
        if sync {
            file.sync_all()?;
        }
        fs::rename(temporary, self.directory.join(name))
    }

    fn sync(&self) -> io::Result<()> {
        File::open(&self.directory)?.sync_all()
    }

    /// Harmless when it fails: they only take room.
    fn remove_others(&self, needed: &BTreeSet<String>) {
        for entry in fs::read_dir(&self.directory).into_iter().flatten().flatten() {
            let name = entry.file_name();
            let kept = name.to_str().is_some_and(|name| name == CURRENT || needed.contains(name));
            if !kept && let Err(error) = fs::remove_file(entry.path()) {
                tracing::debug!(path = %entry.path().display(), %error, "an old part of a manifest stays");
            }
        }
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
    use super::*;

    #[test]
    fn the_last_saved_is_in_force_and_damage_is_noticed() {
        let directory = tempfile::tempdir().unwrap();
        let archive = Archive::new(directory.path().join("manifest"));
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
