//! What stands on the disk, as an onlooker sees it: no call is counted and no fault strikes.

use nackcast_common::ids::Digest;
use nackcast_common::manifest::Mtime;

use super::inodes::{Bytes, Content};
use super::{Disk, ROOT, State};

/// Something that stands below a directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Shown {
    /// Relative to the directory.
    pub path: Vec<u8>,
    /// Permission bits.
    pub mode: u32,
    /// Modification time.
    pub mtime: Mtime,
    /// What it is.
    pub stands: Stands,
}

/// What stands at a path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Stands {
    /// A file: which, and when it changed last, as the disk counts.
    File {
        /// Its inode.
        inode: u64,
        /// When it changed.
        ctime: Mtime,
    },
    /// A symbolic link, and what it says.
    Symlink(Vec<u8>),
    /// A directory.
    Directory,
}

impl Disk {
    /// Everything below a directory, but nothing below names that begin with `hidden`.
    #[must_use]
    pub fn shown(&self, directory: &[u8], hidden: &[u8]) -> Vec<Shown> {
        let state = self.state();
        let mut all = Vec::new();
        if let Some(number) = state.find(directory) {
            state.show(number, &mut Vec::new(), hidden, &mut all);
        }
        all
    }

    /// BLAKE3 of a file as a running system reads it.
    #[must_use]
    pub fn digest(&self, inode: u64) -> Option<Digest> {
        self.state().bytes(inode).map(|bytes| Digest::of(&whole(bytes)))
    }

    /// A file's bytes as a running system reads them.
    #[must_use]
    pub fn bytes_at(&self, path: &[u8]) -> Option<Vec<u8>> {
        let state = self.state();
        state.bytes(state.find(path)?).map(whole)
    }

    /// Whether something of a file could not be written back, and nobody was told.
    #[must_use]
    pub fn has_untold_loss(&self, path: &[u8]) -> bool {
        let state = self.state();
        state.find(path).and_then(|number| state.inodes.get(&number)).is_some_and(|inode| inode.errors.is_untold())
    }
}

fn whole(bytes: &Bytes) -> Vec<u8> {
    let mut buffer = vec![0; usize::try_from(bytes.len).unwrap_or(0)];
    bytes.read(&mut buffer, 0);
    buffer
}

impl State {
    pub(super) fn find(&self, path: &[u8]) -> Option<u64> {
        let mut at = ROOT;
        for name in path.split(|byte| *byte == b'/').filter(|name| !name.is_empty()) {
            let Content::Directory { now, .. } = &self.inodes.get(&at)?.content else { return None };
            at = *now.get(name)?;
        }
        Some(at)
    }

    pub(super) fn bytes(&self, inode: u64) -> Option<&Bytes> {
        match &self.inodes.get(&inode)?.content {
            Content::File { now, .. } => Some(now),
            Content::Directory { .. } | Content::Symlink(_) => None,
        }
    }

    fn show(&self, directory: u64, path: &mut Vec<u8>, hidden: &[u8], all: &mut Vec<Shown>) {
        let Some(Content::Directory { now, .. }) = self.inodes.get(&directory).map(|inode| &inode.content) else {
            return;
        };
        for (name, number) in now.iter().filter(|(name, _)| !name.starts_with(hidden)) {
            let Some(inode) = self.inodes.get(number) else { continue };
            let before = path.len();
            if before > 0 {
                path.push(b'/');
            }
            path.extend_from_slice(name);
            let stands = match &inode.content {
                Content::File { .. } => Stands::File { inode: *number, ctime: inode.ctime },
                Content::Directory { .. } => Stands::Directory,
                Content::Symlink(to) => Stands::Symlink(to.clone()),
            };
            all.push(Shown { path: path.clone(), mode: inode.now.mode, mtime: inode.now.mtime, stands });
            self.show(*number, path, hidden, all);
            path.truncate(before);
        }
    }
}
