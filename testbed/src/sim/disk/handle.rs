//! What a process holds of the disk, and its calls.

use std::any::Any;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use nackcast_common::files::{Errno, Facts, Handle, How, Kind, Opened};
use nackcast_common::manifest::Mtime;

use super::crash::Extent;
use super::inodes::{Content, Inode, PAGE};
use super::{Disk, State, USER};

/// Longest name.
const NAME_MAX: usize = 255;

/// An open file or directory.
pub(super) struct Open {
    disk: Disk,
    id: u64,
    inode: u64,
    how: How,
    /// Failures of writing back that it was told, of the file and of the file system.
    seen: AtomicU64,
    seen_of_all: AtomicU64,
}

impl Open {
    pub(super) fn new(disk: &Disk, state: &mut State, inode: u64, how: How) -> Self {
        let mut seen = 0;
        if let Some(inode) = state.inodes.get_mut(&inode) {
            inode.opens += 1;
            seen = inode.errors.seen_at_open();
        }
        let id = state.next_handle;
        state.next_handle += 1;
        let seen_of_all = AtomicU64::new(state.errors.seen_at_open());
        Self { disk: disk.clone(), id, inode, how, seen: AtomicU64::new(seen), seen_of_all }
    }

    /// Two handles meet in one call: the other must be of this disk too.
    fn same<'a>(&self, other: &'a dyn Opened) -> Result<&'a Self, Errno> {
        let other: &Self = (other as &dyn Any).downcast_ref().ok_or(Errno::XDEV)?;
        if Arc::ptr_eq(&self.disk.0, &other.disk.0) { Ok(other) } else { Err(Errno::XDEV) }
    }

    fn need(&self, any_of: &[How]) -> Result<(), Errno> {
        if any_of.contains(&self.how) { Ok(()) } else { Err(Errno::BADF) }
    }

    /// Removes a name after `check` said that its inode may go.
    fn unlink(&self, name: &[u8], check: impl Fn(&Inode) -> Result<(), Errno>) -> Result<(), Errno> {
        let mut state = self.disk.state();
        state.change()?;
        let child = state.child(self.inode, name)?;
        check(state.inode(child)?)?;
        state.set_name(self.inode, name, None)
    }

    /// A new inode under a new name.
    fn make(&self, state: &mut State, directory: u64, name: &[u8], inode: Inode) -> Result<u64, Errno> {
        if name.is_empty() || name.contains(&b'/') {
            return Err(Errno::INVAL);
        }
        if name.len() > NAME_MAX {
            return Err(Errno::NAMETOOLONG);
        }
        match state.child(directory, name) {
            Err(Errno::NOENT) => {}
            Ok(_) => return Err(Errno::EXIST),
            Err(cause) => return Err(cause),
        }
        state.may(directory, 3)?;
        let number = state.add(inode)?;
        let named = state.set_name(directory, name, Some(number));
        state.drop_unused(number);
        named.map(|()| number)
    }

    /// The directory that a path leads to, and its last name.
    fn walk<'a>(&self, state: &State, path: &'a [u8]) -> Result<(u64, &'a [u8]), Errno> {
        if path.first() == Some(&b'/') {
            return Err(Errno::XDEV);
        }
        let (above, name) = match path.iter().rposition(|b| *b == b'/') {
            Some(at) => (&path[..at], &path[at + 1..]),
            None => (&b""[..], path),
        };
        let mut directory = self.inode;
        for part in above.split(|b| *b == b'/').filter(|part| !part.is_empty() && *part != b".") {
            if part == b".." {
                return Err(Errno::XDEV);
            }
            directory = state.child(directory, part)?;
            match state.inode(directory)?.kind() {
                Kind::Directory => {}
                Kind::Symlink => return Err(Errno::LOOP),
                Kind::File | Kind::Other => return Err(Errno::NOTDIR),
            }
        }
        if name == b".." { Err(Errno::XDEV) } else { Ok((directory, name)) }
    }

    fn write_with(&self, edit: impl FnOnce(&mut super::inodes::Bytes) -> Vec<u64>) -> Result<(), Errno> {
        let mut state = self.disk.state();
        state.change()?;
        self.need(&[How::Write, How::WriteOrMake, How::Make])?;
        state.edit(self.inode, edit)
    }

    fn set_attributes(&self, mode: Option<u32>, mtime: Option<Mtime>) -> Result<(), Errno> {
        let mut state = self.disk.state();
        state.change()?;
        set_attributes(&mut state, self.inode, mode, mtime)
    }

    fn sync_one(&self, extent: Extent) -> Result<(), Errno> {
        let mut state = self.disk.state();
        state.call()?;
        if self.how == How::Place {
            return Err(Errno::BADF);
        }
        state.counts.syncs += 1;
        let faults = state.faults;
        if state.dice.falls(faults.lying_sync) {
            return Ok(());
        }
        // Of a directory nothing is dropped: its names stay to be written.
        let directory = state.inode(self.inode)?.kind() == Kind::Directory;
        if directory && state.dice.falls(faults.write_back_error) {
            return Err(Errno::IO);
        }
        state.write_back(self.inode, extent);
        if directory {
            state.forget_gone();
        }
        let mut seen = self.seen.load(Ordering::Relaxed);
        let failed = state.inode_mut(self.inode)?.errors.tell(&mut seen);
        self.seen.store(seen, Ordering::Relaxed);
        if failed { Err(Errno::IO) } else { Ok(()) }
    }
}

fn set_attributes(state: &mut State, inode: u64, mode: Option<u32>, mtime: Option<Mtime>) -> Result<(), Errno> {
    let time = state.time;
    let found = state.inode_mut(inode)?;
    found.now.mode = mode.unwrap_or(found.now.mode);
    found.now.mtime = mtime.unwrap_or(found.now.mtime);
    found.ctime = time;
    state.maybe_write_back(inode);
    Ok(())
}

fn facts(state: &State, number: u64) -> Result<Facts, Errno> {
    let inode = state.inode(number)?;
    let (size, stored) = match &inode.content {
        Content::File { now, .. } => (now.len, now.pages.len() as u64 * PAGE),
        Content::Directory { .. } => (PAGE, PAGE),
        Content::Symlink(to) => (to.len() as u64, 0),
    };
    Ok(Facts {
        kind: inode.kind(),
        mode: inode.now.mode,
        size,
        stored,
        mtime: inode.now.mtime,
        ctime: inode.ctime,
        inode: number,
        links: inode.links,
        owner: USER,
    })
}

impl Opened for Open {
    fn open(&self, path: &[u8], how: How) -> Result<Handle, Errno> {
        let mut state = self.disk.state();
        state.call()?;
        let (directory, name) = self.walk(&state, path)?;
        let found = if name == b"." { Ok(directory) } else { state.child(directory, name) };
        let inode = match (found, how) {
            (Ok(_), How::Make) => return Err(Errno::EXIST),
            (Err(Errno::NOENT), How::Make | How::WriteOrMake) => {
                let faults = state.faults;
                if state.dice.falls(faults.write_error) {
                    return Err(Errno::IO);
                }
                let inode = Inode::file(0o600, state.time);
                self.make(&mut state, directory, name, inode)?
            }
            (found, _) => {
                let found = found?;
                let kind = state.inode(found)?.kind();
                match (how, kind) {
                    (How::Place, _) | (How::Directory, Kind::Directory) => {}
                    (_, Kind::Symlink) => return Err(Errno::LOOP),
                    (How::Directory, _) => return Err(Errno::NOTDIR),
                    (How::Write | How::WriteOrMake, Kind::Directory) => return Err(Errno::ISDIR),
                    _ => {}
                }
                match how {
                    How::Place => {}
                    How::Directory | How::Read => state.may(found, 4)?,
                    How::Write | How::WriteOrMake | How::Make => state.may(found, 2)?,
                }
                found
            }
        };
        Ok(Arc::new(Self::new(&self.disk, &mut state, inode, how)))
    }

    fn names(&self) -> Result<Vec<Box<[u8]>>, Errno> {
        let mut state = self.disk.state();
        state.call()?;
        self.need(&[How::Directory])?;
        let faults = state.faults;
        if state.dice.falls(faults.read_error) {
            return Err(Errno::IO);
        }
        match &state.inode(self.inode)?.content {
            Content::Directory { now, .. } => Ok(now.keys().cloned().collect()),
            Content::File { .. } | Content::Symlink(_) => Err(Errno::NOTDIR),
        }
    }

    fn facts(&self) -> Result<Facts, Errno> {
        let mut state = self.disk.state();
        state.call()?;
        facts(&state, self.inode)
    }

    fn facts_at(&self, name: &[u8]) -> Result<Facts, Errno> {
        let mut state = self.disk.state();
        state.call()?;
        let child = state.child(self.inode, name)?;
        facts(&state, child)
    }

    fn make_directory(&self, name: &[u8], mode: u32) -> Result<(), Errno> {
        let mut state = self.disk.state();
        state.change()?;
        let inode = Inode::directory(mode, state.time);
        self.make(&mut state, self.inode, name, inode).map(drop)
    }

    fn make_symlink(&self, name: &[u8], to: &[u8]) -> Result<(), Errno> {
        let mut state = self.disk.state();
        state.change()?;
        let inode = Inode::new(Content::Symlink(to.to_vec()), 0o777, state.time);
        self.make(&mut state, self.inode, name, inode).map(drop)
    }

    fn read_symlink(&self, name: &[u8]) -> Result<Vec<u8>, Errno> {
        let mut state = self.disk.state();
        state.call()?;
        match &state.inode(state.child(self.inode, name)?)?.content {
            Content::Symlink(to) => Ok(to.clone()),
            Content::File { .. } | Content::Directory { .. } => Err(Errno::INVAL),
        }
    }

    fn set_time_at(&self, name: &[u8], mtime: Mtime) -> Result<(), Errno> {
        let mut state = self.disk.state();
        state.change()?;
        let child = state.child(self.inode, name)?;
        set_attributes(&mut state, child, None, Some(mtime))
    }

    fn rename(&self, name: &[u8], to: &dyn Opened, new_name: &[u8]) -> Result<(), Errno> {
        let to = self.same(to)?;
        let mut state = self.disk.state();
        state.change()?;
        let moved = state.child(self.inode, name)?;
        state.may(self.inode, 3)?;
        let directory = state.inode(moved)?.kind() == Kind::Directory;
        match state.child(to.inode, new_name) {
            Ok(there) if there == moved => return Ok(()),
            Ok(there) => match (&state.inode(there)?.content, directory) {
                (Content::Directory { .. }, false) => return Err(Errno::ISDIR),
                (Content::Directory { now, .. }, true) if !now.is_empty() => return Err(Errno::NOTEMPTY),
                (Content::File { .. } | Content::Symlink(_), true) => return Err(Errno::NOTDIR),
                _ => {}
            },
            Err(Errno::NOENT) => {}
            Err(cause) => return Err(cause),
        }
        // The new name first, so that the inode is never without one.
        state.set_name(to.inode, new_name, Some(moved))?;
        state.set_name(self.inode, name, None)
    }

    fn rename_new(&self, name: &[u8], to: &dyn Opened, new_name: &[u8]) -> Result<(), Errno> {
        match to.facts_at(new_name) {
            Ok(_) => Err(Errno::EXIST),
            Err(Errno::NOENT) => self.rename(name, to, new_name),
            Err(cause) => Err(cause),
        }
    }

    fn remove(&self, name: &[u8]) -> Result<(), Errno> {
        self.unlink(name, |inode| if inode.kind() == Kind::Directory { Err(Errno::ISDIR) } else { Ok(()) })
    }

    fn remove_directory(&self, name: &[u8]) -> Result<(), Errno> {
        self.unlink(name, |inode| match &inode.content {
            Content::Directory { now, .. } if now.is_empty() => Ok(()),
            Content::Directory { .. } => Err(Errno::NOTEMPTY),
            Content::File { .. } | Content::Symlink(_) => Err(Errno::NOTDIR),
        })
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> Result<usize, Errno> {
        let mut state = self.disk.state();
        state.call()?;
        self.need(&[How::Read, How::Make])?;
        let faults = state.faults;
        if state.dice.falls(faults.read_error) {
            return Err(Errno::IO);
        }
        let inode = state.inode(self.inode)?;
        let Content::File { now, .. } = &inode.content else { return Err(Errno::ISDIR) };
        let (count, doubtful) = (now.read(buffer, offset), inode.errors.is_untold());
        state.counts.read += count as u64;
        state.counts.doubtful += u64::from(doubtful);
        Ok(count)
    }

    fn write_at(&self, bytes: &[u8], offset: u64) -> Result<usize, Errno> {
        let mut state = self.disk.state();
        state.change()?;
        self.need(&[How::Write, How::WriteOrMake, How::Make])?;
        let free = (state.settings.capacity / PAGE).saturating_sub(state.used);
        let Content::File { now, .. } = &state.inode(self.inode)?.content else { return Err(Errno::BADF) };
        // As much as there is room for, like Linux.
        let mut count = bytes.len();
        while now.missing(offset, count) > free {
            let last = (offset + count as u64 - 1) / PAGE * PAGE;
            count = usize::try_from(last.saturating_sub(offset)).unwrap_or(0);
        }
        if count == 0 && !bytes.is_empty() {
            return Err(Errno::NOSPC);
        }
        state.counts.written += count as u64;
        state.edit(self.inode, |now| now.write(&bytes[..count], offset))?;
        Ok(count)
    }

    fn set_len(&self, len: u64) -> Result<(), Errno> {
        self.write_with(|now| now.set_len(len))
    }

    fn punch_hole(&self, offset: u64, len: u64) -> Result<(), Errno> {
        self.write_with(|now| now.punch(offset, len))
    }

    fn share(&self, from: &dyn Opened) -> Result<(), Errno> {
        // As on most file systems.
        self.same(from).and(Err(Errno::OPNOTSUPP))
    }

    fn set_mode(&self, mode: u32) -> Result<(), Errno> {
        self.set_attributes(Some(mode), None)
    }

    fn set_time(&self, mtime: Mtime) -> Result<(), Errno> {
        self.set_attributes(None, Some(mtime))
    }

    fn sync(&self) -> Result<(), Errno> {
        self.sync_one(Extent::All)
    }

    fn sync_data(&self) -> Result<(), Errno> {
        self.sync_one(Extent::Data)
    }

    fn sync_file_system(&self) -> Result<(), Errno> {
        let mut state = self.disk.state();
        state.call()?;
        state.counts.syncs += 1;
        let faults = state.faults;
        if state.dice.falls(faults.lying_sync) {
            return Ok(());
        }
        let all: Vec<_> = state.inodes.keys().copied().collect();
        all.into_iter().for_each(|number| state.write_back(number, Extent::All));
        state.forget_gone();
        let mut seen = self.seen_of_all.load(Ordering::Relaxed);
        let failed = state.errors.tell(&mut seen);
        self.seen_of_all.store(seen, Ordering::Relaxed);
        if failed { Err(Errno::IO) } else { Ok(()) }
    }

    fn lock(&self) -> Result<(), Errno> {
        let mut state = self.disk.state();
        state.call()?;
        let holder = *state.locks.entry(self.inode).or_insert(self.id);
        if holder == self.id { Ok(()) } else { Err(Errno::WOULDBLOCK) }
    }

    fn free_bytes(&self) -> Result<u64, Errno> {
        let mut state = self.disk.state();
        state.call()?;
        Ok((state.settings.capacity / PAGE).saturating_sub(state.used) * PAGE)
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        let mut state = self.disk.state();
        if let Some(inode) = state.inodes.get_mut(&self.inode) {
            inode.opens = inode.opens.saturating_sub(1);
        }
        if state.locks.get(&self.inode) == Some(&self.id) {
            state.locks.remove(&self.inode);
        }
        state.drop_unused(self.inode);
    }
}

impl fmt::Debug for Open {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Not the disk: it is large.
        f.debug_struct("Open").field("id", &self.id).field("inode", &self.inode).field("how", &self.how).finish()
    }
}
