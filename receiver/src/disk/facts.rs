//! What the file system says about one name, and the stamp by which an unchanged file is known again.

use std::os::fd::AsFd;

use nackcast_common::ids::Digest;
use nackcast_common::manifest::Mtime;
use rustix::fs::{AtFlags, StatxFlags, StatxTimestamp, Timespec, Timestamps};
use rustix::io::Errno;
use rustix::path::Arg;

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

/// One name, not followed when it is a symbolic link.
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

impl Facts {
    /// Of a name in a directory.
    pub(super) fn at(directory: impl AsFd, name: impl Arg) -> Result<Self, Errno> {
        Self::ask(directory, name, AtFlags::SYMLINK_NOFOLLOW)
    }

    /// Of an open file.
    pub(super) fn of(file: impl AsFd) -> Result<Self, Errno> {
        Self::ask(file, c"", AtFlags::EMPTY_PATH)
    }

    fn ask(directory: impl AsFd, name: impl Arg, flags: AtFlags) -> Result<Self, Errno> {
        let s = rustix::fs::statx(directory, name, flags, StatxFlags::BASIC_STATS)?;
        let kind = match s.stx_mode & 0o170_000 {
            0o100_000 => Kind::File,
            0o040_000 => Kind::Directory,
            0o120_000 => Kind::Symlink,
            _ => Kind::Other,
        };
        Ok(Self {
            kind,
            mode: u32::from(s.stx_mode & 0o7777),
            size: s.stx_size,
            stored: s.stx_blocks.saturating_mul(512),
            mtime: time(s.stx_mtime),
            ctime: time(s.stx_ctime),
            inode: s.stx_ino,
            links: s.stx_nlink,
            owner: s.stx_uid,
        })
    }

    /// The stamp of a file whose bytes were just seen to have `digest`.
    #[must_use]
    pub fn stamp(&self, digest: &Digest) -> FileStamp {
        FileStamp { size: self.size, mtime: self.mtime, ctime: self.ctime, inode: self.inode, content: digest.prefix() }
    }
}

fn time(at: StatxTimestamp) -> Mtime {
    Mtime { seconds: at.tv_sec, nanos: at.tv_nsec }
}

/// A modification time as the system takes it; the access time stays.
pub(super) fn timestamps(mtime: Mtime) -> Timestamps {
    Timestamps {
        last_access: Timespec { tv_sec: 0, tv_nsec: rustix::fs::UTIME_OMIT },
        last_modification: Timespec { tv_sec: mtime.seconds, tv_nsec: mtime.nanos.into() },
    }
}

/// What a file looked like when its bytes were last verified. As long as all of it still holds, the file
/// is taken to have that content: a write changes the change time, which no user can set back.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct FileStamp {
    /// Bytes.
    pub size: u64,
    /// Modification time.
    pub mtime: Mtime,
    /// Change time.
    pub ctime: Mtime,
    /// Inode.
    pub inode: u64,
    /// First bytes of the digest that was verified, so that a stamp of a former generation is not
    /// taken for one of this.
    pub content: u64,
}

/// Bytes of a stored stamp.
pub const STAMP_LEN: usize = 48;

impl FileStamp {
    /// Whether a file that looks like `facts` still is the one of the stamp, with the content `digest`.
    #[must_use]
    pub fn holds(&self, facts: &Facts, digest: &Digest) -> bool {
        facts.kind == Kind::File && facts.stamp(digest) == *self
    }

    /// For the state store: size, mtime, ctime, inode, content, all big-endian.
    #[must_use]
    pub fn to_bytes(&self) -> [u8; STAMP_LEN] {
        let mut bytes = [0; STAMP_LEN];
        bytes[..8].copy_from_slice(&self.size.to_be_bytes());
        bytes[8..16].copy_from_slice(&self.mtime.seconds.to_be_bytes());
        bytes[16..20].copy_from_slice(&self.mtime.nanos.to_be_bytes());
        bytes[20..28].copy_from_slice(&self.ctime.seconds.to_be_bytes());
        bytes[28..32].copy_from_slice(&self.ctime.nanos.to_be_bytes());
        bytes[32..40].copy_from_slice(&self.inode.to_be_bytes());
        bytes[40..].copy_from_slice(&self.content.to_be_bytes());
        bytes
    }

    /// From the state store.
    #[must_use]
    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let bytes: &[u8; STAMP_LEN] = bytes.try_into().ok()?;
        let eight = |at: usize| Some(u64::from_be_bytes(bytes.get(at..at + 8)?.try_into().ok()?));
        let four = |at: usize| Some(u32::from_be_bytes(bytes.get(at..at + 4)?.try_into().ok()?));
        let time = |at: usize| Some(Mtime { seconds: eight(at)?.cast_signed(), nanos: four(at + 8)? });
        Some(Self { size: eight(0)?, mtime: time(8)?, ctime: time(20)?, inode: eight(32)?, content: eight(40)? })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn stamps_survive_the_store(size: u64, seconds: i64, nanos: u32, inode: u64, content: u64) {
            let mtime = Mtime { seconds, nanos };
            let ctime = Mtime { seconds: seconds.wrapping_add(1), nanos: nanos / 2 };
            let stamp = FileStamp { size, mtime, ctime, inode, content };
            prop_assert_eq!(FileStamp::from_bytes(&stamp.to_bytes()), Some(stamp));
        }

        #[test]
        fn bytes_of_another_length_are_no_stamp(bytes in prop::collection::vec(any::<u8>(), 0..100)) {
            prop_assert_eq!(FileStamp::from_bytes(&bytes).is_some(), bytes.len() == STAMP_LEN);
        }
    }
}
