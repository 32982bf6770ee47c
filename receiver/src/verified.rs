//! Verified files of a channel, for whoever serves them while the receiver goes on.
//!
//! A file is given out by its open descriptor, and only when that very file is one of the manifest in force and looks
//! as it did when its bytes were verified ([`FileStamp`]). What is replaced meanwhile stays what it was for whoever
//! has it open.

use std::sync::{Arc, Mutex, PoisonError};

use nackcast_common::files::Handle;
use nackcast_common::ids::Digest;
use nackcast_common::manifest::{EntryKind, Manifest, Mtime};
use nackcast_common::path::DatasetPath;
use nackcast_common::store::Table;

use crate::disk::facts::FileStamp;
use crate::disk::target::TargetDir;

/// The files of one channel. Clones share it.
#[derive(Clone, Debug)]
pub struct VerifiedFiles {
    target: Arc<TargetDir>,
    stamps: Table,
    manifest: Arc<Mutex<Option<Arc<Manifest>>>>,
}

/// A file that was verified.
#[derive(Debug)]
pub struct Verified {
    /// Its bytes.
    pub file: Handle,
    /// How many.
    pub size: u64,
    /// Their hash.
    pub digest: Digest,
    /// When it was modified, as the manifest says.
    pub mtime: Mtime,
}

/// Why there is none.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotServed {
    /// The manifest has no such file.
    #[error("the dataset has no such file")]
    Unknown,
    /// It is of the dataset, and is not here, or not known to be sound.
    #[error("the file is not here yet, or not verified")]
    NotVerified,
}

impl VerifiedFiles {
    pub(crate) fn new(target: Arc<TargetDir>, stamps: Table) -> Self {
        Self { target, stamps, manifest: Arc::default() }
    }

    /// Another manifest is in force.
    pub(crate) fn set(&self, manifest: &Arc<Manifest>) {
        *self.manifest.lock().unwrap_or_else(PoisonError::into_inner) = Some(Arc::clone(manifest));
    }

    /// Opens a file. Blocks for the disk.
    ///
    /// # Errors
    /// When it is not of the dataset, not here, or not what was verified.
    pub fn open(&self, path: &str) -> Result<Verified, NotServed> {
        let manifest = self.manifest.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let path = DatasetPath::new(path.as_bytes()).map_err(|_| NotServed::Unknown)?;
        let manifest = manifest.ok_or(NotServed::NotVerified)?;
        let entry = manifest.entry(path.as_bytes()).ok_or(NotServed::Unknown)?;
        let EntryKind::File { size, digest, .. } = &entry.kind else { return Err(NotServed::Unknown) };
        let file = self.target.open_file(&path).map_err(|_| NotServed::NotVerified)?;
        let stamp = self.stamps.get(path.as_bytes()).ok().flatten();
        let stamp = stamp.and_then(|bytes| FileStamp::from_bytes(&bytes)).ok_or(NotServed::NotVerified)?;
        let facts = file.facts().map_err(|_| NotServed::NotVerified)?;
        if !stamp.holds(&facts, digest) {
            return Err(NotServed::NotVerified);
        }
        Ok(Verified { file, size: *size, digest: *digest, mtime: entry.mtime })
    }
}

#[cfg(test)]
mod tests {
    use nackcast_common::geometry::Geometry;
    use nackcast_common::ids::{ChannelId, Epoch, Generation};
    use nackcast_common::manifest::{Content, Entry, Head};
    use nackcast_common::store::MemoryStore;

    use super::*;

    #[test]
    fn only_what_was_verified_and_is_of_the_manifest_is_given_out() {
        let home = tempfile::tempdir().unwrap();
        let target = TargetDir::open(nackcast_common::files::linux(), home.path()).unwrap();
        let stamps = MemoryStore::new().store().tree("stamps").unwrap();
        let files = VerifiedFiles::new(Arc::clone(&target), stamps.clone());
        assert_eq!(files.open("a").unwrap_err(), NotServed::NotVerified, "no manifest yet");
        let digest = Digest::of(b"");
        let entry = |name: &str| Entry {
            path: DatasetPath::new(name.as_bytes()).unwrap(),
            kind: EntryKind::File { size: 0, digest, content: Content::Empty },
            mode: 0o644,
            mtime: Mtime::default(),
        };
        let head = Head {
            channel: ChannelId([1; 16]),
            generation: Generation(1),
            parent: None,
            epoch: Epoch(1),
            geometry: Geometry::default(),
        };
        files.set(&Arc::new(Manifest::new(head, Vec::new(), vec![entry("a")]).unwrap()));
        for name in ["a", "b"] {
            std::fs::write(home.path().join(name), b"").unwrap();
        }
        assert_eq!(files.open("a").unwrap_err(), NotServed::NotVerified, "nobody looked at it");
        let facts = target.facts(&DatasetPath::new(b"a").unwrap()).unwrap().unwrap();
        stamps.put(b"a", &FileStamp::of(&facts, &digest).to_bytes()).unwrap();
        assert_eq!(files.open("a").unwrap().digest, digest);
        for path in ["b", "../a", "/a", "a/../a", ""] {
            assert_eq!(files.open(path).unwrap_err(), NotServed::Unknown, "{path}");
        }
        std::fs::write(home.path().join("a"), b"x").unwrap();
        assert_eq!(files.open("a").unwrap_err(), NotServed::NotVerified, "it was written to");
        std::fs::remove_file(home.path().join("a")).unwrap();
        std::os::unix::fs::symlink("b", home.path().join("a")).unwrap();
        assert_eq!(files.open("a").unwrap_err(), NotServed::NotVerified, "a link is not followed");
    }
}
