//! The directory of a channel, held open during a scan and as long as its content is served.
//!
//! - Files are opened relative to the directory's descriptor and never through a symlink, so that neither a
//!   deep path nor a directory that somebody swaps for a link leads elsewhere.
//! - When the root is a link to a release and the link moves on, content of the former scan is still served.

use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use nackcast_common::manifest::Mtime;
use nackcast_common::path::DatasetPath;
use rustix::fs::{AtFlags, Mode, OFlags, ResolveFlags, Stat};
use rustix::io::Errno;

/// An open directory, and where it really is.
#[derive(Debug)]
pub(super) struct Root {
    directory: OwnedFd,
    path: PathBuf,
}

/// What must be the same for a file to count as unchanged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Stamp {
    pub(super) size: u64,
    pub(super) mtime: Mtime,
    pub(super) ctime: Mtime,
    pub(super) inode: u64,
    pub(super) device: u64,
}

impl Stamp {
    pub(super) fn of(stat: &Stat) -> Self {
        let nanos = |nanos: u64| i64::try_from(nanos).unwrap_or(-1);
        Self {
            size: u64::try_from(stat.st_size).unwrap_or_default(),
            mtime: time(stat.st_mtime, nanos(stat.st_mtime_nsec)),
            ctime: time(stat.st_ctime, nanos(stat.st_ctime_nsec)),
            inode: stat.st_ino,
            device: stat.st_dev,
        }
    }

    /// The later of the two times, in milliseconds since 1970.
    pub(super) fn touched_ms(&self) -> i64 {
        let ms = |t: Mtime| t.seconds.saturating_mul(1000).saturating_add(i64::from(t.nanos / 1_000_000));
        ms(self.mtime).max(ms(self.ctime))
    }
}

fn time(seconds: i64, nanos: i64) -> Mtime {
    // Some network file systems report nanoseconds out of range; a manifest may not.
    let nanos = u32::try_from(nanos).ok().filter(|n| *n < 1_000_000_000).unwrap_or(0);
    Mtime { seconds, nanos }
}

impl Root {
    /// Opens the directory; a symlink given as the root is followed, once.
    pub(super) fn open(path: &Path) -> io::Result<Self> {
        let path = path.canonicalize()?;
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let directory = rustix::fs::open(&path, flags, Mode::empty())?;
        Ok(Self { directory, path })
    }

    /// Where it is, with no symlink in it.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Opens a file for reading. A pipe or device that took its place cannot block us.
    pub(super) fn open_file(&self, path: &DatasetPath) -> io::Result<File> {
        let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOCTTY;
        let inside = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
        let opened = match rustix::fs::openat2(&self.directory, path.as_path(), flags, Mode::empty(), inside) {
            // Kernels before 5.6 and some sandboxes do not have it.
            Err(Errno::NOSYS) => rustix::fs::openat(&self.directory, path.as_path(), flags, Mode::empty()),
            answer => answer,
        };
        Ok(File::from(opened?))
    }

    /// What stands at the path itself, also when it is a symlink.
    pub(super) fn stat(&self, path: &DatasetPath) -> io::Result<Stat> {
        Ok(rustix::fs::statat(&self.directory, path.as_path(), AtFlags::SYMLINK_NOFOLLOW)?)
    }

    /// Whether the path still names the file with this stamp.
    pub(super) fn still_names(&self, path: &DatasetPath, stamp: &Stamp) -> bool {
        self.stat(path).is_ok_and(|s| s.st_ino == stamp.inode && s.st_dev == stamp.device)
    }

    /// Whether the path names a file of this size and modification time.
    pub(super) fn still_has(&self, path: &DatasetPath, size: u64, mtime: Mtime) -> bool {
        let stamp = self.stat(path).map(|found| Stamp::of(&found));
        stamp.is_ok_and(|found| (found.size, found.mtime) == (size, mtime))
    }
}

/// Whether an error says that the file is gone (or that something else stands in its place).
pub(super) fn is_gone(error: &io::Error) -> bool {
    let gone = [Errno::NOENT, Errno::NOTDIR, Errno::LOOP, Errno::STALE, Errno::NXIO];
    Errno::from_io_error(error).is_some_and(|e| gone.contains(&e))
}
