//! Files that hold secrets: for one user only, durable, replaced in one step, and changed by one at a time.
//!
//! - [`create`] makes a file that must not exist yet, [`replace`] one in place of whatever is there: whoever reads sees
//!   the old one or the new one.
//! - Whoever reads a file to write it anew holds [`lock`] from before the one until after the other.

use std::fs::{self, File, OpenOptions};
use std::io::{self, ErrorKind, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

/// Files in one directory are changed by whoever has this, until it is dropped.
#[derive(Debug)]
pub struct Lock {
    _directory: Option<File>,
}

/// Waits until nobody else changes files beside this one. It is the directory that is locked: the file itself is
/// replaced, and nothing is left behind. Where directories cannot be locked (some network file systems) it goes on
/// without.
#[must_use]
pub fn lock(path: &Path) -> Lock {
    let locked = File::open(parent(&resolved(path))).and_then(|directory| directory.lock().map(|()| directory));
    let complain = |error: &io::Error| tracing::debug!("{} is changed without a lock: {error}", path.display());
    Lock { _directory: locked.inspect_err(complain).ok() }
}

/// Writes a file that must not exist yet; durable when this returns, and not there when it fails.
///
/// # Errors
/// When it exists ([`ErrorKind::AlreadyExists`]), or cannot be written.
pub fn create(path: &Path, contents: &[u8]) -> io::Result<()> {
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
    let written = file.write_all(contents).and_then(|()| file.sync_all()).and_then(|()| sync_parent(path));
    // Half a key is worse than none.
    written.inspect_err(|_| discard(path))
}

/// Writes a file in place of what is there, durably and in one step. Hold [`lock`]: what an earlier change left behind
/// when it was cut short is taken away.
///
/// # Errors
/// When it cannot be written; then what was there stays.
pub fn replace(path: &Path, contents: &[u8]) -> io::Result<()> {
    // A link stays one.
    let path = resolved(path);
    let mut new = path.clone().into_os_string();
    new.push(".new");
    let new = PathBuf::from(new);
    match fs::remove_file(&new) {
        Err(error) if error.kind() != ErrorKind::NotFound => return Err(error),
        Ok(()) | Err(_) => {}
    }
    create(&new, contents)?;
    let replaced = same_owner(&path, &new).and_then(|()| fs::rename(&new, &path));
    replaced.inspect_err(|_| discard(&new))?;
    sync_parent(&path)
}

/// What an administrator changes stays readable to the node whose file it is.
fn same_owner(path: &Path, new: &Path) -> io::Result<()> {
    let before = match fs::metadata(path) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
        before => before?,
    };
    let now = fs::metadata(new)?;
    if (before.uid(), before.gid()) == (now.uid(), now.gid()) {
        return Ok(());
    }
    std::os::unix::fs::chown(new, Some(before.uid()), Some(before.gid()))
}

/// Removes a file that was made here, after a later step failed.
pub fn discard(path: &Path) {
    if let Err(error) = fs::remove_file(path) {
        tracing::warn!("{} is of no use and could not be removed: {error}", path.display());
    }
}

/// Where the file itself is; as it was given when it is not there yet.
fn resolved(path: &Path) -> PathBuf {
    fs::canonicalize(path).unwrap_or_else(|_| path.to_owned())
}

fn parent(path: &Path) -> &Path {
    path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

/// Makes the new name durable.
fn sync_parent(path: &Path) -> io::Result<()> {
    File::open(parent(path))?.sync_all()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn a_file_is_made_once_and_then_replaced_for_this_user_only() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("key");
        create(&path, b"1").unwrap();
        assert_eq!(create(&path, b"2").unwrap_err().kind(), ErrorKind::AlreadyExists);
        // An earlier change was cut short.
        fs::write(dir.path().join("key.new"), b"half").unwrap();
        replace(&path, b"3").unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"3");
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, 0o600);
        let link = dir.path().join("link");
        symlink(&path, &link).unwrap();
        replace(&link, b"4").unwrap();
        assert!(link.is_symlink() && fs::read(&path).unwrap() == b"4");
        replace(&dir.path().join("other"), b"5").unwrap();
        let mut names: Vec<_> = fs::read_dir(dir.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        names.sort();
        assert_eq!(names, ["key", "link", "other"]);
    }

    #[test]
    fn of_many_changes_at_once_none_is_lost() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("count");
        create(&path, b"0").unwrap();
        std::thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| {
                    for _ in 0..5 {
                        let _lock = lock(&path);
                        let count: u32 = fs::read_to_string(&path).unwrap().parse().unwrap();
                        replace(&path, (count + 1).to_string().as_bytes()).unwrap();
                    }
                });
            }
        });
        assert_eq!(fs::read_to_string(&path).unwrap(), "40");
    }
}
