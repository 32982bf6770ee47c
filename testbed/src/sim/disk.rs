//! A model of a disk with a file system: slow, full, torn by a power cut, lying about sync, or rotting.
//!
//! - Below the disk code instead of the system ([`Files`]), so that the receiver's own code runs on it.
//! - A running system sees what it wrote; a power cut ([`Disk::crash`]) leaves what was synced, and of all else,
//!   page by page and name by name, whatever the seed chooses. No order of metadata is assumed.
//! - The same calls, seeds and faults give the same disk. Time is set by the caller ([`Disk::set_time`]); to charge
//!   for the work, the caller asks what was done ([`Disk::counts`]).
//! - Processes are the handles they hold: dropping them all is a kill. Names are those of one owner, whose rights
//!   count unless the disk is made privileged.

mod crash;
mod faults;
mod handle;
mod inodes;
mod look;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Component, Path};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use nackcast_common::files::{Errno, Files, Handle, How, Opened};
use nackcast_common::manifest::Mtime;

use self::faults::Dice;
pub use self::faults::Faults;
use self::handle::Open;
use self::inodes::{Content, Errors, Inode, PAGE};
pub use self::look::{Shown, Stands};

/// The root directory.
const ROOT: u64 = 1;
/// Who owns everything.
const USER: u32 = 1000;

/// With what a disk is made.
#[derive(Clone, Copy, Debug)]
pub struct Settings {
    /// Of all choices that the disk makes.
    pub seed: u64,
    /// Bytes; each inode takes a page, and each page of a file that is not a hole.
    pub capacity: u64,
    /// Whether modes count for nothing, as for root.
    pub privileged: bool,
}

/// What was done since the disk was made or booted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// All calls.
    pub calls: u64,
    /// Calls that wait until something is durable.
    pub syncs: u64,
    /// Bytes read.
    pub read: u64,
    /// Bytes written to memory.
    pub written: u64,
    /// Bytes that syncs wrote to the disk.
    pub stored: u64,
    /// Times that pages could not be written back.
    pub lost: u64,
    /// Reads of files that lost pages, before anybody was told: they may have given what was there before.
    pub doubtful: u64,
}

/// A disk; clones share it.
#[derive(Clone, Debug)]
pub struct Disk(Arc<Mutex<State>>);

#[derive(Clone, Debug)]
struct State {
    settings: Settings,
    inodes: BTreeMap<u64, Inode>,
    next_inode: u64,
    next_handle: u64,
    /// Pages in use.
    used: u64,
    time: Mtime,
    dice: Dice,
    faults: Faults,
    /// Calls until the power goes.
    left: Option<u64>,
    errors: Errors,
    /// Which handle has locked an inode.
    locks: BTreeMap<u64, u64>,
    counts: Counts,
}

impl Disk {
    /// An empty disk without faults.
    #[must_use]
    pub fn new(settings: Settings) -> Self {
        let mut root = Inode::directory(0o755, Mtime::default());
        root.links = 1;
        Self::of(State {
            settings,
            inodes: BTreeMap::from([(ROOT, root)]),
            next_inode: ROOT + 1,
            next_handle: 0,
            used: 1,
            time: Mtime::default(),
            dice: Dice::new(settings.seed),
            faults: Faults::default(),
            left: None,
            errors: Errors::default(),
            locks: BTreeMap::new(),
            counts: Counts::default(),
        })
    }

    fn of(state: State) -> Self {
        Self(Arc::new(Mutex::new(state)))
    }

    /// For the code that is to run on it.
    #[must_use]
    pub fn files(&self) -> Arc<dyn Files> {
        Arc::new(self.clone())
    }

    /// What goes wrong from now on.
    pub fn set_faults(&self, faults: Faults) {
        self.state().faults = faults;
    }

    /// Another size: a disk runs full, or somebody makes room. What is stored stays.
    pub fn set_capacity(&self, bytes: u64) {
        self.state().settings.capacity = bytes;
    }

    /// The time that changes are stamped with.
    pub fn set_time(&self, time: Mtime) {
        self.state().time = time;
    }

    /// The power goes after so many more calls: all later ones fail and change nothing. None: it stays.
    pub fn stop_after(&self, calls: Option<u64>) {
        self.state().left = calls;
    }

    /// Whether the power went.
    #[must_use]
    pub fn stopped(&self) -> bool {
        self.state().left == Some(0)
    }

    /// What was done so far.
    #[must_use]
    pub fn counts(&self) -> Counts {
        self.state().counts
    }

    /// Bytes in use.
    #[must_use]
    pub fn used(&self) -> u64 {
        self.state().used * PAGE
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Files for Disk {
    fn open_directory(&self, path: &Path) -> Result<Handle, Errno> {
        let root = Open::new(self, &mut self.state(), ROOT, How::Directory);
        root.open(&relative(path), How::Directory)
    }

    fn make_directory(&self, path: &Path, mode: u32) -> Result<(), Errno> {
        let (Some(above), Some(name)) = (path.parent(), path.file_name()) else { return Err(Errno::EXIST) };
        self.open_directory(above)?.make_directory(name.as_encoded_bytes(), mode)
    }

    fn user(&self) -> u32 {
        USER
    }

    fn parallel(&self) -> bool {
        false
    }
}

/// A path as seen from the root, which is where every process works.
fn relative(path: &Path) -> Vec<u8> {
    let parts: Vec<_> = path
        .components()
        .filter_map(|part| match part {
            Component::Normal(name) => Some(name.as_encoded_bytes()),
            Component::ParentDir => Some(&b".."[..]),
            Component::CurDir | Component::RootDir | Component::Prefix(_) => None,
        })
        .collect();
    if parts.is_empty() { b".".to_vec() } else { parts.join(&b'/') }
}

impl State {
    /// At the begin of every call.
    fn call(&mut self) -> Result<(), Errno> {
        match &mut self.left {
            Some(0) => return Err(Errno::IO),
            Some(left) => *left -= 1,
            None => {}
        }
        self.counts.calls += 1;
        Ok(())
    }

    /// At the begin of every call that changes something.
    fn change(&mut self) -> Result<(), Errno> {
        self.call()?;
        if self.dice.falls(self.faults.write_error) { Err(Errno::IO) } else { Ok(()) }
    }

    fn inode(&self, number: u64) -> Result<&Inode, Errno> {
        self.inodes.get(&number).ok_or(Errno::IO)
    }

    fn inode_mut(&mut self, number: u64) -> Result<&mut Inode, Errno> {
        self.inodes.get_mut(&number).ok_or(Errno::IO)
    }

    /// Whether the owner has these rights (4 read, 2 write, 1 search).
    fn may(&self, number: u64, rights: u32) -> Result<(), Errno> {
        let mode = self.inode(number)?.now.mode >> 6;
        if self.settings.privileged || mode & rights == rights { Ok(()) } else { Err(Errno::ACCESS) }
    }

    /// The inode of a name in a directory.
    fn child(&self, directory: u64, name: &[u8]) -> Result<u64, Errno> {
        let Content::Directory { now, .. } = &self.inode(directory)?.content else { return Err(Errno::NOTDIR) };
        self.may(directory, 1)?;
        now.get(name).copied().ok_or(Errno::NOENT)
    }

    /// Gives a name to an inode, or takes it away.
    fn set_name(&mut self, directory: u64, name: &[u8], child: Option<u64>) -> Result<(), Errno> {
        self.may(directory, 3)?;
        let time = self.time;
        let inode = self.inode_mut(directory)?;
        if inode.links == 0 {
            return Err(Errno::NOENT);
        }
        inode.now.mtime = time;
        inode.ctime = time;
        let Content::Directory { now, dirty, .. } = &mut inode.content else { return Err(Errno::NOTDIR) };
        let before = match child {
            Some(child) => now.insert(name.into(), child),
            None => now.remove(name),
        };
        dirty.insert(name.into());
        for (number, more) in before.map(|n| (n, false)).into_iter().chain(child.map(|n| (n, true))) {
            let inode = self.inode_mut(number)?;
            inode.ctime = time;
            inode.links = if more { inode.links + 1 } else { inode.links.saturating_sub(1) };
            self.drop_unused(number);
        }
        self.maybe_write_back(directory);
        Ok(())
    }

    /// A new inode without a name.
    fn add(&mut self, mut inode: Inode) -> Result<u64, Errno> {
        if self.used >= self.settings.capacity / PAGE {
            return Err(Errno::NOSPC);
        }
        inode.links = 0;
        let number = self.next_inode;
        self.next_inode += 1;
        self.used += inode.pages();
        self.inodes.insert(number, inode);
        Ok(number)
    }

    /// What has no name and is not open takes no space any more. A power cut may bring back a name of it.
    fn drop_unused(&mut self, number: u64) {
        if let Some(inode) = self.inodes.get_mut(&number)
            && inode.links == 0
            && inode.opens == 0
            && !inode.gone
        {
            inode.gone = true;
            self.used -= inode.pages();
        }
    }

    /// Forgets what no power cut can bring back.
    fn forget_gone(&mut self) {
        let named: BTreeSet<_> = self
            .inodes
            .values()
            .filter_map(
                |inode| if let Content::Directory { durable, .. } = &inode.content { Some(durable) } else { None },
            )
            .flat_map(|durable| durable.values().copied())
            .collect();
        self.inodes.retain(|number, inode| !inode.gone || named.contains(number));
    }

    /// Changes a file's bytes.
    fn edit(&mut self, number: u64, edit: impl FnOnce(&mut inodes::Bytes) -> Vec<u64>) -> Result<(), Errno> {
        let time = self.time;
        let inode = self.inode_mut(number)?;
        let before = inode.pages();
        let Content::File { now, dirty, .. } = &mut inode.content else { return Err(Errno::INVAL) };
        dirty.extend(edit(now));
        inode.now.mtime = time;
        inode.ctime = time;
        let after = inode.pages();
        self.used = self.used + after - before;
        self.maybe_write_back(number);
        Ok(())
    }
}
