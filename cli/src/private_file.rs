//! Files that hold secrets, as a command sees them: never overwritten by chance, complaints when others may read them.

use std::fs::File;
use std::io::ErrorKind;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use nackcast_common::private_file;
use zeroize::Zeroizing;

use crate::failure::{Failure, OrFail};

/// Nothing that we read whole is larger; guards against `--channel /dev/zero=DIR`.
const LEN_MAX: u64 = 1 << 24;

/// Writes a file that must not exist yet, durably.
pub(crate) fn create(path: &Path, contents: &str) -> Result<(), Failure> {
    match private_file::create(path, contents.as_bytes()) {
        Err(error) if error.kind() == ErrorKind::AlreadyExists => Err(Failure::usage(format_args!(
            "{} exists already and is never overwritten: choose another file name, or move it away first",
            path.display()
        ))),
        created => created.or_usage(format_args!("{} cannot be made", path.display())),
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
