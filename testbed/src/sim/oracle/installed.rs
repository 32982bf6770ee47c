//! No wrong byte is ever installed: whatever stands under a final name is what some generation has there.

use std::collections::{BTreeMap, BTreeSet};

use nackcast_common::ids::Digest;
use nackcast_common::manifest::{EntryKind, Manifest, Mtime};

use super::Verdict;
use crate::sim::disk::{Disk, Shown, Stands};

/// The oracle, which knows every generation.
#[derive(Debug, Default)]
pub struct Installed {
    allowed: BTreeMap<Vec<u8>, BTreeSet<Digest>>,
    links: BTreeMap<Vec<u8>, BTreeSet<Vec<u8>>>,
    /// Receiver and path: the file that somebody else changed there.
    foreign: BTreeMap<(u32, Vec<u8>), u64>,
    /// Receiver and path: the version of the file that was looked at last.
    seen: BTreeMap<(u32, Vec<u8>), (u64, Mtime)>,
}

impl Installed {
    /// A generation was published.
    pub fn learn(&mut self, manifest: &Manifest) {
        for entry in manifest.entries() {
            let path = entry.path.as_bytes().to_vec();
            match &entry.kind {
                EntryKind::File { digest, .. } => {
                    self.allowed.entry(path).or_default().insert(*digest);
                }
                EntryKind::Symlink { target } => {
                    self.links.entry(path).or_default().insert(target.to_vec());
                }
                EntryKind::Directory => {}
            }
        }
    }

    /// Somebody else changed the file there. It may stay, but nowhere else may it be put.
    pub fn on_edit(&mut self, receiver: u32, path: Vec<u8>, inode: u64) {
        self.foreign.insert((receiver, path), inode);
    }

    /// A look at everything under final names on a receiver's disk, which never rotted and never lied.
    ///
    /// # Errors
    /// When something stands there that no generation has.
    pub fn look(&mut self, receiver: u32, disk: &Disk, shown: &[Shown]) -> Verdict {
        for one in shown {
            match &one.stands {
                Stands::File { inode, ctime } => {
                    let key = (receiver, one.path.clone());
                    let is_foreign = self.foreign.get(&key) == Some(inode);
                    if is_foreign || self.seen.get(&key) == Some(&(*inode, *ctime)) {
                        continue;
                    }
                    let Some(digest) = disk.digest(*inode) else { continue };
                    if !self.allowed.get(&one.path).is_some_and(|allowed| allowed.contains(&digest)) {
                        let path = one.path.escape_ascii();
                        return Err(format!("receiver {receiver} has a file {path} with bytes of no generation"));
                    }
                    self.seen.insert(key, (*inode, *ctime));
                }
                Stands::Symlink(to) => {
                    if !self.links.get(&one.path).is_some_and(|allowed| allowed.contains(to)) {
                        let path = one.path.escape_ascii();
                        return Err(format!("receiver {receiver} has a symbolic link {path} of no generation"));
                    }
                }
                Stands::Directory => {}
            }
        }
        Ok(())
    }
}
