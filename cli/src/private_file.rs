//! Files that hold secrets: made with mode 0600, never overwritten by chance, complaints when others may read them.

use std::fs::{File, OpenOptions};
use std::io::{ErrorKind, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::Path;

use zeroize::Zeroizing;

use crate::failure::{Failure, OrFail};

/// Nothing that we read whole is larger; guards against `--channel /dev/zero=DIR`.
const LEN_MAX: u64 = 1 << 24;

/// Writes a file that must not exist yet, durably.
pub(crate) fn create(path: &Path, contents: &str) -> Result<(), Failure> {
    let mut file = match OpenOptions::new().write(true).create_new(true).mode(0o600).open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == ErrorKind::AlreadyExists => {
            return Err(Failure::usage(format_args!(
                "{} exists already and is never overwritten: choose another file name, or move it away first",
                path.display()
            )));
        }
        Err(error) => return Err(error).or_usage(format_args!("{} cannot be made", path.display())),
    };
    let written = file.write_all(contents.as_bytes()).and_then(|()| file.sync_all()).and_then(|()| sync_parent(path));
    if let Err(error) = written {
        discard(path); // half a key is worse than none
        return Err(error).or_running(format_args!("{} cannot be written", path.display()));
    }
    Ok(())
}

/// Writes a file in place of one that exists, durably and in one step: whoever reads sees the old one or the new one.
pub(crate) fn replace(path: &Path, contents: &str) -> Result<(), Failure> {
    // A link stays one.
    let path = &std::fs::canonicalize(path).or_usage(format_args!("{} cannot be read", path.display()))?;
    let mut new = path.as_os_str().to_owned();
    new.push(".new");
    let new = std::path::PathBuf::from(new);
    create(&new, contents)?;
    let renamed = same_owner(path, &new).and_then(|()| std::fs::rename(&new, path)).and_then(|()| sync_parent(path));
    renamed.inspect_err(|_| discard(&new)).or_running(format_args!("{} cannot be replaced", path.display()))
}

/// What an administrator changes stays readable to the node whose file it is.
fn same_owner(path: &Path, new: &Path) -> std::io::Result<()> {
    let (before, now) = (std::fs::metadata(path)?, std::fs::metadata(new)?);
    if (before.uid(), before.gid()) == (now.uid(), now.gid()) {
        return Ok(());
    }
    std::os::unix::fs::chown(new, Some(before.uid()), Some(before.gid()))
}

/// Removes a file that this command made, after a later step failed.
pub(crate) fn discard(path: &Path) {
    if let Err(error) = std::fs::remove_file(path) {
        tracing::warn!("{} is of no use and could not be removed: {error}", path.display());
    }
}

/// Reads a file of secrets; warns when others may read it, too.
pub(crate) fn read(path: &Path, what: &str) -> Result<Zeroizing<String>, Failure> {
    use std::io::Read;
    let context = || format!("{what} {} cannot be read", path.display());
    let file = File::open(path).or_usage(context())?;
    let mode = file.metadata().or_usage(context())?.mode();
    if mode & 0o077 != 0 {
        tracing::warn!("{} can be read by others (mode {:04o}): run `chmod 600 {0}`", path.display(), mode & 0o7777);
    }
    let mut text = Zeroizing::new(String::new());
    let len = file.take(LEN_MAX + 1).read_to_string(&mut text).or_usage(context())?;
    if len as u64 > LEN_MAX {
        return Err(Failure::usage(format_args!("{what} {} is too large to be one", path.display())));
    }
    Ok(text)
}

/// Makes the new name durable.
fn sync_parent(path: &Path) -> std::io::Result<()> {
    let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    File::open(parent)?.sync_all()
}
