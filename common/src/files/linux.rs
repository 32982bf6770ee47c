//! The system's own files, by their system calls.

use std::any::Any;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::Path;
use std::sync::Arc;

use rustix::fs::{
    AtFlags, CWD, Dir, FallocateFlags, FlockOperation, Mode, OFlags, RenameFlags, ResolveFlags, StatxFlags,
    StatxTimestamp, Timespec, Timestamps,
};
use rustix::io::Errno;
use rustix::path::Arg;

use super::{Facts, Files, Handle, How, Kind, Opened};
use crate::manifest::Mtime;

/// Nothing outside, no symbolic link, no link of `/proc`.
const RESOLVE: ResolveFlags = ResolveFlags::BENEATH.union(ResolveFlags::NO_SYMLINKS).union(ResolveFlags::NO_MAGICLINKS);
const DIRECTORY: OFlags = OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::CLOEXEC);
/// For a file; never waits for the other end of a pipe.
const FILE: OFlags = OFlags::NOFOLLOW.union(OFlags::NONBLOCK).union(OFlags::CLOEXEC);
/// A rename somewhere may make `openat2` ask for another try.
const TRIES_MAX: u32 = 64;

/// The files of this machine.
#[must_use]
pub fn linux() -> Arc<dyn Files> {
    Arc::new(Linux)
}

#[derive(Debug)]
struct Linux;

impl Files for Linux {
    fn open_directory(&self, path: &Path) -> Result<Handle, Errno> {
        let fd = rustix::fs::open(path, DIRECTORY, Mode::empty())?;
        Ok(Arc::new(Descriptor { fd, place: false }))
    }

    fn make_directory(&self, path: &Path, mode: u32) -> Result<(), Errno> {
        rustix::fs::mkdir(path, Mode::from_raw_mode(mode))
    }

    fn user(&self) -> u32 {
        rustix::process::geteuid().as_raw()
    }

    fn parallel(&self) -> bool {
        true
    }
}

#[derive(Debug)]
struct Descriptor {
    fd: OwnedFd,
    /// Opened without any right: the system then takes changes by a path only.
    place: bool,
}

impl Descriptor {
    /// Two handles meet in one call: the other must be of this file system too.
    fn same(other: &dyn Opened) -> Result<&Self, Errno> {
        (other as &dyn Any).downcast_ref().ok_or(Errno::XDEV)
    }

    fn through(&self) -> String {
        format!("/proc/self/fd/{}", self.fd.as_raw_fd())
    }
}

impl Opened for Descriptor {
    fn open(&self, path: &[u8], how: How) -> Result<Handle, Errno> {
        let flags = match how {
            How::Directory => DIRECTORY,
            How::Read => FILE | OFlags::RDONLY,
            How::Write => FILE | OFlags::WRONLY,
            How::WriteOrMake => FILE | OFlags::WRONLY | OFlags::CREATE,
            How::Make => FILE | OFlags::RDWR | OFlags::CREATE | OFlags::EXCL,
            How::Place => OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC,
        };
        let made = matches!(how, How::WriteOrMake | How::Make);
        let mode = if made { Mode::RUSR | Mode::WUSR } else { Mode::empty() };
        for _ in 0..TRIES_MAX {
            match rustix::fs::openat2(&self.fd, path, flags, mode, RESOLVE) {
                Ok(fd) => return Ok(Arc::new(Self { fd, place: how == How::Place })),
                Err(Errno::AGAIN | Errno::INTR) => {}
                Err(cause) => return Err(cause),
            }
        }
        Err(Errno::AGAIN)
    }

    fn names(&self) -> Result<Vec<Box<[u8]>>, Errno> {
        let mut names = Vec::new();
        for entry in Dir::read_from(&self.fd)? {
            let entry = entry?;
            let name = entry.file_name();
            if name != c"." && name != c".." {
                names.push(name.to_bytes().into());
            }
        }
        Ok(names)
    }

    fn facts(&self) -> Result<Facts, Errno> {
        facts(&self.fd, c"", AtFlags::EMPTY_PATH)
    }

    fn facts_at(&self, name: &[u8]) -> Result<Facts, Errno> {
        facts(&self.fd, name, AtFlags::SYMLINK_NOFOLLOW)
    }

    fn make_directory(&self, name: &[u8], mode: u32) -> Result<(), Errno> {
        rustix::fs::mkdirat(&self.fd, name, Mode::from_raw_mode(mode))
    }

    fn make_symlink(&self, name: &[u8], to: &[u8]) -> Result<(), Errno> {
        rustix::fs::symlinkat(to, &self.fd, name)
    }

    fn read_symlink(&self, name: &[u8]) -> Result<Vec<u8>, Errno> {
        rustix::fs::readlinkat(&self.fd, name, Vec::new()).map(std::ffi::CString::into_bytes)
    }

    fn set_time_at(&self, name: &[u8], mtime: Mtime) -> Result<(), Errno> {
        rustix::fs::utimensat(&self.fd, name, &timestamps(mtime), AtFlags::SYMLINK_NOFOLLOW)
    }

    fn rename(&self, name: &[u8], to: &dyn Opened, new_name: &[u8]) -> Result<(), Errno> {
        rustix::fs::renameat(&self.fd, name, &Self::same(to)?.fd, new_name)
    }

    fn rename_new(&self, name: &[u8], to: &dyn Opened, new_name: &[u8]) -> Result<(), Errno> {
        let there = Self::same(to)?;
        match rustix::fs::renameat_with(&self.fd, name, &there.fd, new_name, RenameFlags::NOREPLACE) {
            // Some file systems cannot do this in one step.
            Err(Errno::INVAL | Errno::NOSYS) => match there.facts_at(new_name) {
                Ok(_) => Err(Errno::EXIST),
                Err(Errno::NOENT) => self.rename(name, to, new_name),
                Err(cause) => Err(cause),
            },
            done => done,
        }
    }

    fn remove(&self, name: &[u8]) -> Result<(), Errno> {
        rustix::fs::unlinkat(&self.fd, name, AtFlags::empty())
    }

    fn remove_directory(&self, name: &[u8]) -> Result<(), Errno> {
        rustix::fs::unlinkat(&self.fd, name, AtFlags::REMOVEDIR)
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> Result<usize, Errno> {
        rustix::io::pread(&self.fd, buffer, offset)
    }

    fn write_at(&self, bytes: &[u8], offset: u64) -> Result<usize, Errno> {
        rustix::io::pwrite(&self.fd, bytes, offset)
    }

    fn set_len(&self, len: u64) -> Result<(), Errno> {
        rustix::fs::ftruncate(&self.fd, len)
    }

    fn punch_hole(&self, offset: u64, len: u64) -> Result<(), Errno> {
        rustix::fs::fallocate(&self.fd, FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE, offset, len)
    }

    fn share(&self, from: &dyn Opened) -> Result<(), Errno> {
        rustix::fs::ioctl_ficlone(&self.fd, &Self::same(from)?.fd)
    }

    fn set_mode(&self, mode: u32) -> Result<(), Errno> {
        let mode = Mode::from_raw_mode(mode);
        if self.place { rustix::fs::chmod(self.through(), mode) } else { rustix::fs::fchmod(&self.fd, mode) }
    }

    fn set_time(&self, mtime: Mtime) -> Result<(), Errno> {
        if self.place {
            return rustix::fs::utimensat(CWD, self.through(), &timestamps(mtime), AtFlags::empty());
        }
        rustix::fs::futimens(&self.fd, &timestamps(mtime))
    }

    fn sync(&self) -> Result<(), Errno> {
        rustix::fs::fsync(&self.fd)
    }

    fn sync_data(&self) -> Result<(), Errno> {
        rustix::fs::fdatasync(&self.fd)
    }

    fn sync_file_system(&self) -> Result<(), Errno> {
        rustix::fs::syncfs(&self.fd)
    }

    fn lock(&self) -> Result<(), Errno> {
        rustix::fs::flock(&self.fd, FlockOperation::NonBlockingLockExclusive)
    }

    fn free_bytes(&self) -> Result<u64, Errno> {
        let s = rustix::fs::fstatvfs(&self.fd)?;
        Ok(s.f_bavail.saturating_mul(s.f_frsize))
    }
}

fn facts(directory: &OwnedFd, name: impl Arg, flags: AtFlags) -> Result<Facts, Errno> {
    let s = rustix::fs::statx(directory, name, flags, StatxFlags::BASIC_STATS)?;
    let kind = match s.stx_mode & 0o170_000 {
        0o100_000 => Kind::File,
        0o040_000 => Kind::Directory,
        0o120_000 => Kind::Symlink,
        _ => Kind::Other,
    };
    Ok(Facts {
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

fn time(at: StatxTimestamp) -> Mtime {
    Mtime { seconds: at.tv_sec, nanos: at.tv_nsec }
}

/// A modification time as the system takes it.
fn timestamps(mtime: Mtime) -> Timestamps {
    Timestamps {
        last_access: Timespec { tv_sec: 0, tv_nsec: rustix::fs::UTIME_OMIT },
        last_modification: Timespec { tv_sec: mtime.seconds, tv_nsec: mtime.nanos.into() },
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn nothing_leads_out_however_it_is_opened() {
        let (inside, outside) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        std::fs::write(outside.path().join("file"), b"x").unwrap();
        symlink(outside.path(), inside.path().join("out")).unwrap();
        let directory = linux().open_directory(inside.path()).unwrap();
        for how in [How::Directory, How::Read, How::Write, How::WriteOrMake, How::Make, How::Place] {
            assert_eq!(directory.open(b"out/file", how).unwrap_err(), Errno::LOOP, "{how:?}");
            assert_eq!(directory.open(b"../x", how).unwrap_err(), Errno::XDEV, "{how:?}");
            assert_eq!(directory.open(b"/etc/passwd", how).unwrap_err(), Errno::XDEV, "{how:?}");
        }
        assert_eq!(directory.open(b"out", How::Read).unwrap_err(), Errno::LOOP);
        assert_eq!(directory.open(b"out", How::Place).unwrap().facts().unwrap().kind, Kind::Symlink);
    }

    #[test]
    fn bytes_come_back_and_the_end_is_told() {
        let temporary = tempfile::tempdir().unwrap();
        let directory = linux().open_directory(temporary.path()).unwrap();
        let file = directory.open(b"a", How::Make).unwrap();
        file.write_all_at(b"hello", 3).unwrap();
        assert_eq!(file.read_to_end(100).unwrap(), b"\0\0\0hello");
        assert_eq!(file.read_to_end(4).unwrap(), b"\0\0\0h");
        let mut buffer = [0; 6];
        assert_eq!(file.read_exact_at(&mut buffer, 3).unwrap_err(), Errno::NODATA);
        assert_eq!(directory.open(b"a", How::Make).unwrap_err(), Errno::EXIST);
    }

    #[test]
    fn directories_are_made_as_deep_as_needed() {
        let temporary = tempfile::tempdir().unwrap();
        let path = temporary.path().join("a/b/c");
        super::super::make_directories(&*linux(), &path).unwrap();
        super::super::make_directories(&*linux(), &path).unwrap();
        assert!(path.is_dir());
    }
}
