//! The file system as the disk code uses it: one trait for a file system, one for what is open in it.
//!
//! - [`linux()`] is the only implementation in production; the simulator has a model that is slow, full, torn
//!   by a crash or lying. Each method is one system call, with the flags that this project always wants.
//! - **Nothing leads out.** [`Opened::open`] is the only way to what lies below a directory: no path leaves
//!   it, and no symbolic link is passed through, whatever races. All other methods take a single name and
//!   do not follow it.
//! - Errors are the system's own numbers; who calls says what they mean.

use std::any::Any;
use std::fmt;
use std::path::Path;
use std::sync::Arc;

pub use rustix::io::Errno;

use crate::manifest::Mtime;

mod linux;

pub use linux::linux;

/// An open file or directory; dropping the last clone closes it.
pub type Handle = Arc<dyn Opened>;

/// A file system.
pub trait Files: fmt::Debug + Send + Sync {
    /// Opens a directory that the operator named; links in its path are followed.
    ///
    /// # Errors
    /// When there is none, or it may not be read.
    fn open_directory(&self, path: &Path) -> Result<Handle, Errno>;

    /// Makes a directory that the operator named, but none above it.
    ///
    /// # Errors
    /// When it exists, or cannot be made.
    fn make_directory(&self, path: &Path, mode: u32) -> Result<(), Errno>;

    /// The user that we are, to be compared with [`Facts::owner`].
    fn user(&self) -> u32;

    /// Whether several threads may share long work; otherwise all is done in order by the caller's thread.
    fn parallel(&self) -> bool;
}

/// For what something is opened. What is at the name is never followed, nor waited for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum How {
    /// A directory, to reach what is in it.
    Directory,
    /// A file, to be read.
    Read,
    /// A file, to be written.
    Write,
    /// A file, to be written; made (0600) when missing.
    WriteOrMake,
    /// A file (0600) that does not exist yet, to be written and read.
    Make,
    /// Whatever it is, to learn and set its mode and time: needs no right to read it.
    Place,
}

/// What is open. Methods with a `name` are for directories, those with an `offset` for files.
#[expect(clippy::missing_errors_doc, reason = "each gives what the system said, and that alone")]
pub trait Opened: Any + fmt::Debug + Send + Sync {
    /// Opens what lies at a relative path below; `.` is the directory itself. `LOOP` when a symbolic link is
    /// on the way, `XDEV` when the path leaves the directory.
    fn open(&self, path: &[u8], how: How) -> Result<Handle, Errno>;
    /// The names in a directory, without `.` and `..`.
    fn names(&self) -> Result<Vec<Box<[u8]>>, Errno>;
    /// What is open here.
    fn facts(&self) -> Result<Facts, Errno>;
    /// What stands at a name; of a symbolic link itself.
    fn facts_at(&self, name: &[u8]) -> Result<Facts, Errno>;
    /// Makes a directory.
    fn make_directory(&self, name: &[u8], mode: u32) -> Result<(), Errno>;
    /// Makes a symbolic link that says `to`.
    fn make_symlink(&self, name: &[u8], to: &[u8]) -> Result<(), Errno>;
    /// What a symbolic link says.
    fn read_symlink(&self, name: &[u8]) -> Result<Vec<u8>, Errno>;
    /// Sets the modification time of a name, also of a symbolic link.
    fn set_time_at(&self, name: &[u8], mtime: Mtime) -> Result<(), Errno>;
    /// Gives what is at a name another name, in one step; a file or link that has it is replaced.
    fn rename(&self, name: &[u8], to: &dyn Opened, new_name: &[u8]) -> Result<(), Errno>;
    /// The same where nothing has the new name; `EXIST` when something does.
    fn rename_new(&self, name: &[u8], to: &dyn Opened, new_name: &[u8]) -> Result<(), Errno>;
    /// Removes a file or link.
    fn remove(&self, name: &[u8]) -> Result<(), Errno>;
    /// Removes an empty directory.
    fn remove_directory(&self, name: &[u8]) -> Result<(), Errno>;

    /// Reads; gives how many bytes, 0 at the end.
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> Result<usize, Errno>;
    /// Writes; gives how many bytes.
    fn write_at(&self, bytes: &[u8], offset: u64) -> Result<usize, Errno>;
    /// Cuts a file, or makes it longer by a hole.
    fn set_len(&self, len: u64) -> Result<(), Errno>;
    /// Makes a range read as zeros and takes its space back; the length stays.
    fn punch_hole(&self, offset: u64, len: u64) -> Result<(), Errno>;
    /// Makes this file share all bytes of another, where the file system can.
    fn share(&self, from: &dyn Opened) -> Result<(), Errno>;

    /// Sets the permission bits.
    fn set_mode(&self, mode: u32) -> Result<(), Errno>;
    /// Sets the modification time; the access time stays.
    fn set_time(&self, mtime: Mtime) -> Result<(), Errno>;
    /// Makes durable: of a file bytes and metadata, of a directory its names.
    fn sync(&self) -> Result<(), Errno>;
    /// Makes a file's bytes durable, with its length.
    fn sync_data(&self) -> Result<(), Errno>;
    /// Makes all of the file system durable.
    fn sync_file_system(&self) -> Result<(), Errno>;
    /// Keeps other handles from doing the same until this one is closed; `WOULDBLOCK` when one did.
    fn lock(&self) -> Result<(), Errno>;
    /// Bytes that an ordinary user may still write to the file system.
    fn free_bytes(&self) -> Result<u64, Errno>;
}

#[expect(clippy::missing_errors_doc, reason = "as of the trait")]
impl dyn Opened {
    /// Fills the buffer; `NODATA` when the file ends before.
    pub fn read_exact_at(&self, mut buffer: &mut [u8], mut offset: u64) -> Result<(), Errno> {
        while !buffer.is_empty() {
            match self.read_at(buffer, offset) {
                Ok(0) => return Err(Errno::NODATA),
                Ok(count) => {
                    buffer = buffer.get_mut(count..).unwrap_or_default();
                    offset += count as u64;
                }
                Err(Errno::INTR) => {}
                Err(cause) => return Err(cause),
            }
        }
        Ok(())
    }

    /// Writes all bytes.
    pub fn write_all_at(&self, mut bytes: &[u8], mut offset: u64) -> Result<(), Errno> {
        while !bytes.is_empty() {
            match self.write_at(bytes, offset) {
                Ok(0) => return Err(Errno::IO),
                Ok(count) => {
                    bytes = bytes.get(count..).unwrap_or_default();
                    offset += count as u64;
                }
                Err(Errno::INTR) => {}
                Err(cause) => return Err(cause),
            }
        }
        Ok(())
    }

    /// All bytes of a file, at most `limit`.
    pub fn read_to_end(&self, limit: u64) -> Result<Vec<u8>, Errno> {
        // One byte of room shows the end without another growth.
        let expected = self.facts()?.size.min(limit).saturating_add(1);
        let mut bytes = vec![0; usize::try_from(expected).map_err(|_| Errno::FBIG)?];
        let mut len = 0;
        loop {
            if len == bytes.len() {
                if len as u64 >= limit {
                    break;
                }
                bytes.resize(len * 2, 0);
            }
            match self.read_at(&mut bytes[len..], len as u64) {
                Ok(0) => break,
                Ok(count) => len += count,
                Err(Errno::INTR) => {}
                Err(cause) => return Err(cause),
            }
        }
        bytes.truncate(len.min(usize::try_from(limit).unwrap_or(usize::MAX)));
        Ok(bytes)
    }
}

/// Makes a directory, with all above it, when it is missing; durably.
///
/// # Errors
/// When one of them cannot be made.
pub fn make_directories(files: &dyn Files, path: &Path) -> Result<(), Errno> {
    const MODE: u32 = 0o777;
    let made = match (files.make_directory(path, MODE), path.parent()) {
        (Err(Errno::NOENT), Some(above)) => {
            make_directories(files, above)?;
            files.make_directory(path, MODE)
        }
        (made, _) => made,
    };
    match made {
        Ok(()) => {
            let above = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
            files.open_directory(above)?.sync()
        }
        Err(Errno::EXIST) => Ok(()),
        Err(cause) => Err(cause),
    }
}

/// What kind of thing stands at a name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    /// A regular file.
    File,
    /// A directory.
    Directory,
    /// A symbolic link.
    Symlink,
    /// A pipe, a socket, a device: never part of a dataset.
    Other,
}

/// What the file system says about one name, not followed when it is a symbolic link.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Facts {
    /// What it is.
    pub kind: Kind,
    /// Permission bits.
    pub mode: u32,
    /// Bytes.
    pub size: u64,
    /// Bytes that the file system stores for it.
    pub stored: u64,
    /// Modification time.
    pub mtime: Mtime,
    /// Change time.
    pub ctime: Mtime,
    /// Inode.
    pub inode: u64,
    /// Hard links.
    pub links: u32,
    /// Owner.
    pub owner: u32,
}
