//! The dataset's directory, and the only way to reach what lies in it.
//!
//! - What lies below is opened with [`Opened::open`](nackcast_common::files::Opened::open): a path that leaves the
//!   target or passes through a symbolic link is refused, whatever races. Only the last component is named by
//!   the other calls, which do not follow it.
//! - `.nackcast.part/` holds everything partial and every temporary; it is 0700, on the same file system,
//!   made when first needed and removed when empty.

use std::collections::HashMap;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use nackcast_common::files::{Errno, Facts, Files, Handle, How, Kind};
use nackcast_common::path::{DatasetPath, PART_DIRECTORY};

use super::{DiskError, lock};

/// Open parent directories that a batch keeps.
const PARENTS_MAX: usize = 256;
/// Temporaries begin with this.
pub(super) const TEMPORARY_PREFIX: &str = "new.";

/// A dataset's directory.
#[derive(Debug)]
pub struct TargetDir {
    files: Arc<dyn Files>,
    root: Handle,
    path: PathBuf,
    part: Mutex<Option<Handle>>,
    temporaries: AtomicU64,
}

impl TargetDir {
    /// Opens the directory, and makes it (but not the one above) when it is missing.
    ///
    /// # Errors
    /// When it cannot be made or opened.
    pub fn open(files: Arc<dyn Files>, path: &Path) -> Result<Arc<Self>, DiskError> {
        let shown = || path.as_os_str().as_bytes().escape_ascii().to_string();
        let io = |action| move |cause| DiskError::Io { action, path: shown(), cause };
        let root = match files.open_directory(path) {
            Err(Errno::NOENT) => {
                files.make_directory(path, 0o755).map_err(io("make directory"))?;
                let made = files.open_directory(path).map_err(io("open directory"))?;
                // Its own name lies in a directory that we may not be allowed to open.
                made.sync_file_system().map_err(io("make directory"))?;
                made
            }
            other => other.map_err(io("open directory"))?,
        };
        let (part, temporaries) = (Mutex::new(None), AtomicU64::new(0));
        Ok(Arc::new(Self { files, root, path: path.to_owned(), part, temporaries }))
    }

    /// Where it was opened.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The directory itself.
    pub(super) const fn root(&self) -> &Handle {
        &self.root
    }

    /// The file system it is on.
    pub(crate) const fn files(&self) -> &Arc<dyn Files> {
        &self.files
    }

    /// Keeps other processes from receiving into the same directory, until this handle is dropped.
    ///
    /// # Errors
    /// When another one does.
    pub fn lock(&self) -> Result<(), DiskError> {
        match self.root.lock() {
            Ok(()) => Ok(()),
            Err(Errno::WOULDBLOCK) => Err(DiskError::InUse { path: self.show(b"") }),
            Err(cause) => Err(self.fail("lock", b"", 0, cause)),
        }
    }

    /// Bytes that may still be written here by an ordinary user.
    ///
    /// # Errors
    /// When the file system does not say.
    pub fn free_bytes(&self) -> Result<u64, DiskError> {
        self.root.free_bytes().map_err(|cause| self.fail("ask the free space of", b"", 0, cause))
    }

    /// Opens a regular file of the dataset for reading.
    ///
    /// # Errors
    /// When there is none, or it cannot be read.
    pub fn open_file(&self, path: &DatasetPath) -> Result<Handle, DiskError> {
        let bytes = path.as_bytes();
        let fail = |cause| self.fail("open", bytes, 0, cause);
        let file = self.root.open(bytes, How::Read).map_err(fail)?;
        match file.facts().map_err(fail)?.kind {
            Kind::File => Ok(file),
            Kind::Directory => Err(fail(Errno::ISDIR)),
            Kind::Symlink | Kind::Other => Err(fail(Errno::INVAL)),
        }
    }

    /// What stands at a path; none when nothing does.
    ///
    /// # Errors
    /// When that cannot be known.
    pub fn facts(&self, path: &DatasetPath) -> Result<Option<Facts>, DiskError> {
        let (parent, name) = split(path.as_bytes());
        let facts = self.open_directory(parent).and_then(|directory| directory.facts_at(name));
        match facts {
            Ok(facts) => Ok(Some(facts)),
            Err(Errno::NOENT | Errno::NOTDIR) => Ok(None),
            Err(cause) => Err(self.fail("examine", path.as_bytes(), 0, cause)),
        }
    }

    /// Removes `.nackcast.part` if nothing is in it; says whether it is gone. Only while nothing is received.
    ///
    /// # Errors
    /// When the file system refuses.
    pub fn remove_part_directory(&self) -> Result<bool, DiskError> {
        let mut part = lock(&self.part);
        match self.root.remove_directory(PART_DIRECTORY.as_bytes()) {
            Ok(()) | Err(Errno::NOENT) => {
                *part = None;
                Ok(true)
            }
            Err(Errno::NOTEMPTY | Errno::EXIST) => Ok(false),
            Err(cause) => Err(self.fail("remove", PART_DIRECTORY.as_bytes(), 0, cause)),
        }
    }

    /// The directory for everything partial, if there is one.
    pub(super) fn existing_part_directory(&self) -> Result<Option<Handle>, DiskError> {
        match self.open_part_directory(false) {
            Ok(directory) => Ok(Some(directory)),
            Err(Errno::NOENT) => Ok(None),
            Err(cause) => Err(self.fail("open", PART_DIRECTORY.as_bytes(), 0, cause)),
        }
    }

    /// The directory for everything partial, made when missing.
    pub(super) fn part_directory(&self) -> Result<Handle, DiskError> {
        let fail = |cause| self.fail("make", PART_DIRECTORY.as_bytes(), 4096, cause);
        self.open_part_directory(true).map_err(fail)
    }

    fn open_part_directory(&self, make: bool) -> Result<Handle, Errno> {
        let mut part = lock(&self.part);
        // Somebody may have removed it under us; a directory without a name takes no files.
        if let Some(open) = part.as_ref()
            && open.facts().is_ok_and(|f| f.links > 0)
        {
            return Ok(Arc::clone(open));
        }
        if make {
            match self.root.make_directory(PART_DIRECTORY.as_bytes(), 0o700) {
                Ok(()) | Err(Errno::EXIST) => {}
                Err(cause) => return Err(cause),
            }
        }
        let open = self.root.open(PART_DIRECTORY.as_bytes(), How::Directory)?;
        // Whether we made it or a run that was killed: what is durable in it must not go with it.
        self.root.sync()?;
        *part = Some(Arc::clone(&open));
        Ok(open)
    }

    /// A name in the part directory that nobody uses.
    pub(super) fn temporary_name(&self) -> String {
        format!("{TEMPORARY_PREFIX}{}", self.temporaries.fetch_add(1, Ordering::Relaxed))
    }

    /// Removes a temporary that is not needed any more. What stays is removed at the next start.
    pub(super) fn discard_temporary(&self, name: &str) {
        let removed = self.open_part_directory(false);
        if let Err(cause) = removed.and_then(|part| part.remove(name.as_bytes())) {
            tracing::debug!(name, %cause, "a temporary file stays until the next start");
        }
    }

    /// Opens a directory; the empty path is the target itself.
    pub(super) fn open_directory(&self, path: &[u8]) -> Result<Handle, Errno> {
        self.root.open(if path.is_empty() { b"." } else { path }, How::Directory)
    }

    /// A path of the dataset as people read it: with the target's, on one line.
    pub(super) fn show(&self, path: &[u8]) -> String {
        let whole = self.path.join(Path::new(std::ffi::OsStr::from_bytes(path)));
        let mut shown = String::new();
        for chunk in whole.as_os_str().as_bytes().utf8_chunks() {
            for c in chunk.valid().chars() {
                if c.is_control() { shown.extend(c.escape_default()) } else { shown.push(c) }
            }
            shown.push_str(&chunk.invalid().escape_ascii().to_string());
        }
        shown
    }

    /// The error for what the system did not store.
    pub(super) fn lost(&self, path: &[u8], cause: Errno) -> DiskError {
        match cause {
            // With delayed allocation, it may find out so late.
            Errno::NOSPC | Errno::DQUOT => DiskError::Full { path: self.show(path), needed: 0, cause },
            _ => DiskError::Lost { path: self.show(path), cause },
        }
    }

    /// The error for what the system said; `needed` is what the file still takes.
    pub(super) fn fail(&self, action: &'static str, path: &[u8], needed: u64, cause: Errno) -> DiskError {
        let path = self.show(path);
        match cause {
            Errno::NOSPC | Errno::DQUOT => DiskError::Full { path, needed, cause },
            Errno::LOOP => DiskError::Outside { path },
            _ => DiskError::Io { action, path, cause },
        }
    }
}

/// A path's directory (empty at the top) and its last component.
pub(super) fn split(path: &[u8]) -> (&[u8], &[u8]) {
    match path.iter().rposition(|b| *b == b'/') {
        Some(at) => (&path[..at], &path[at + 1..]),
        None => (b"", path),
    }
}

/// Open parent directories of one batch. Not kept longer: a directory that was moved out of the target
/// meanwhile must not be written to by its old handle.
#[derive(Debug, Default)]
pub(super) struct Parents {
    open: HashMap<Box<[u8]>, Handle>,
}

impl Parents {
    /// The handle of a directory.
    pub(super) fn open(&mut self, target: &TargetDir, directory: &[u8]) -> Result<Handle, Errno> {
        if let Some(open) = self.open.get(directory) {
            return Ok(Arc::clone(open));
        }
        let open = target.open_directory(directory)?;
        if self.open.len() >= PARENTS_MAX {
            self.open.clear();
        }
        self.open.insert(directory.into(), Arc::clone(&open));
        Ok(open)
    }

    pub(super) fn forget(&mut self, directory: &[u8]) {
        self.open.remove(directory);
    }

    pub(super) fn clear(&mut self) {
        self.open.clear();
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt, symlink};

    use nackcast_common::files::linux;

    use super::*;

    #[test]
    fn makes_one_level_and_no_more() {
        let temporary = tempfile::tempdir().unwrap();
        let target = TargetDir::open(linux(), &temporary.path().join("a")).unwrap();
        assert!(target.free_bytes().unwrap() > 0);
        let error = TargetDir::open(linux(), &temporary.path().join("b/c")).unwrap_err();
        assert!(error.to_string().contains("b/c"), "{error}");
    }

    #[test]
    fn one_process_receives_into_a_directory() {
        let temporary = tempfile::tempdir().unwrap();
        let first = TargetDir::open(linux(), temporary.path()).unwrap();
        let second = TargetDir::open(linux(), temporary.path()).unwrap();
        first.lock().unwrap();
        assert!(matches!(second.lock(), Err(DiskError::InUse { .. })));
        drop(first);
        second.lock().unwrap();
    }

    #[test]
    fn no_path_passes_through_a_symbolic_link() {
        let temporary = tempfile::tempdir().unwrap();
        let outside = tempfile::tempdir().unwrap();
        std::fs::write(outside.path().join("file"), b"x").unwrap();
        std::fs::create_dir(temporary.path().join("real")).unwrap();
        symlink(outside.path(), temporary.path().join("out")).unwrap();
        symlink("real", temporary.path().join("in")).unwrap();
        let target = TargetDir::open(linux(), temporary.path()).unwrap();
        for bad in [&b"out/file"[..], b"out", b"in"] {
            let path = DatasetPath::new(bad).unwrap();
            assert!(matches!(target.open_file(&path), Err(DiskError::Outside { .. })), "{path}");
        }
        assert_eq!(target.open_directory(b"../x").unwrap_err(), Errno::XDEV);
        assert_eq!(target.open_directory(b"/etc").unwrap_err(), Errno::XDEV);
    }

    #[test]
    fn the_part_directory_is_private_and_comes_and_goes() {
        let temporary = tempfile::tempdir().unwrap();
        let target = TargetDir::open(linux(), temporary.path()).unwrap();
        assert!(target.existing_part_directory().unwrap().is_none());
        target.part_directory().unwrap();
        let path = temporary.path().join(PART_DIRECTORY);
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o700);
        std::fs::remove_dir(&path).unwrap();
        target.part_directory().unwrap();
        assert!(path.exists(), "a directory that somebody removed is made again");
        std::fs::write(path.join("x"), b"").unwrap();
        assert!(!target.remove_part_directory().unwrap());
        std::fs::remove_file(path.join("x")).unwrap();
        assert!(target.remove_part_directory().unwrap());
        assert!(!path.exists());
    }

    #[test]
    fn a_part_directory_that_is_a_link_is_refused() {
        let temporary = tempfile::tempdir().unwrap();
        let outside = tempfile::tempdir().unwrap();
        symlink(outside.path(), temporary.path().join(PART_DIRECTORY)).unwrap();
        let target = TargetDir::open(linux(), temporary.path()).unwrap();
        assert!(matches!(target.part_directory(), Err(DiskError::Outside { .. })));
    }
}
