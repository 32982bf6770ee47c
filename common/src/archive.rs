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
const SYNC_SINGLY_MAX: usize = 16;

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

    /// The root in force; none before the first was saved, or when it is damaged.
    ///
    /// # Errors
    /// When the directory cannot be read.
    pub fn current(&self) -> io::Result<Option<(Digest, Vec<u8>)>> {
        let name = match fs::read_to_string(self.directory.join(CURRENT)) {
            Ok(name) => name,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error),
        };
        let Some(digest) = parse(name.trim()) else { return Ok(None) };
        Ok(self.get(&digest)?.map(|bytes| (digest, bytes)))
    }

    /// The bytes with this hash; none when they are missing or damaged.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub fn get(&self, digest: &Digest) -> io::Result<Option<Vec<u8>>> {
        match fs::read(self.directory.join(digest.to_string())) {
            Ok(bytes) if Digest::of(&bytes) == *digest => Ok(Some(bytes)),
            Ok(_) => Ok(None),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Puts a root and its parts in force; what they do not need is removed.
    ///
    /// # Errors
    /// When something cannot be written; then the root before stays in force.
    pub fn save<'a>(
        &self,
        root: (Digest, &'a [u8]),
        parts: impl IntoIterator<Item = (Digest, &'a [u8])>,
    ) -> io::Result<()> {
        fs::create_dir_all(&self.directory)?;
        let mut needed = BTreeSet::new();
        let mut written = Vec::new();
        for (digest, bytes) in std::iter::once(root).chain(parts) {
            let name = digest.to_string();
            let path = self.directory.join(&name);
            let whole = fs::metadata(&path).is_ok_and(|m| m.len() == bytes.len() as u64);
            if needed.insert(name) && !whole {
                let mut file = File::create(&path)?;
                file.write_all(bytes)?;
                written.push(file);
            }
        }
        let directory = File::open(&self.directory)?;
        if written.len() > SYNC_SINGLY_MAX {
            rustix::fs::syncfs(&directory)?;
        } else {
            written.iter().try_for_each(File::sync_data)?;
        }
        let temporary = self.directory.join("current.new");
        let mut pointer = File::create(&temporary)?;
        pointer.write_all(root.0.to_string().as_bytes())?;
        pointer.sync_data()?;
        fs::rename(&temporary, self.directory.join(CURRENT))?;
        directory.sync_all()?;
        self.remove_others(&needed)
    }

    fn remove_others(&self, needed: &BTreeSet<String>) -> io::Result<()> {
        for entry in fs::read_dir(&self.directory)? {
            let entry = entry?;
            let name = entry.file_name();
            let ours = name.to_str().is_some_and(|n| parse(n).is_some() && !needed.contains(n));
            if ours {
                fs::remove_file(entry.path())?;
            }
        }
        Ok(())
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
        assert_eq!(archive.get(&a).unwrap(), None, "what is not needed is removed");
        assert_eq!(archive.get(&p).unwrap(), Some(b"part".to_vec()));
        fs::write(archive.directory().join(p.to_string()), b"pert").unwrap();
        assert_eq!(archive.get(&p).unwrap(), None);
        fs::write(archive.directory().join(CURRENT), b"../../etc/passwd").unwrap();
        assert!(archive.current().unwrap().is_none());
    }
}
