//! Compares two trees by what a receiver must reproduce: names, kinds, bytes, modes and times.

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use walkdir::WalkDir;

use crate::failure::one_line;

/// One path's content.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Kind {
    Directory,
    Symlink(PathBuf),
    File(blake3::Hash),
    Other,
}

/// What is compared of one path; modes as receivers keep them by default.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Fingerprint {
    kind: Kind,
    mode: u32,
    modified: (i64, i64),
}

/// All paths below a directory.
pub(super) type Tree = BTreeMap<PathBuf, Fingerprint>;

/// Reads a whole tree.
pub(super) fn tree(root: &Path) -> io::Result<Tree> {
    let mut tree = Tree::new();
    for entry in WalkDir::new(root).min_depth(1) {
        let entry = entry?;
        let meta = entry.metadata()?;
        let kind = if meta.is_dir() {
            Kind::Directory
        } else if meta.is_symlink() {
            Kind::Symlink(std::fs::read_link(entry.path())?)
        } else if meta.is_file() {
            let mut hasher = blake3::Hasher::new();
            Kind::File(hasher.update_reader(File::open(entry.path())?)?.finalize())
        } else {
            Kind::Other
        };
        let mode = if meta.is_symlink() { 0 } else { meta.mode() & 0o777 };
        let relative = entry.path().strip_prefix(root).unwrap_or(entry.path()).to_owned();
        tree.insert(relative, Fingerprint { kind, mode, modified: (meta.mtime(), meta.mtime_nsec()) });
    }
    Ok(tree)
}

/// The first path that differs, and how; none when the trees are the same.
pub(super) fn first_difference(source: &Tree, target: &Tree) -> Option<String> {
    let say = |path: &Path, what: &str| Some(format!("{}: {what}", one_line(&path.to_string_lossy())));
    for (path, wanted) in source {
        match target.get(path) {
            None => return say(path, "missing"),
            Some(found) if found.kind != wanted.kind => return say(path, "content differs"),
            Some(found) if found.mode != wanted.mode => return say(path, "mode differs"),
            Some(found) if found.modified != wanted.modified => return say(path, "modification time differs"),
            Some(_) => {}
        }
    }
    let extra = target.keys().find(|path| !source.contains_key(*path));
    extra.and_then(|path| say(path, "not in the source"))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;
    use std::time::{Duration, UNIX_EPOCH};

    use super::*;

    fn make(root: &Path) {
        std::fs::write(root.join("file"), "hello").unwrap();
        std::os::unix::fs::symlink("file", root.join("link")).unwrap();
        for name in ["file", "link"] {
            let times = rustix::fs::Timestamps {
                last_access: rustix::fs::Timespec { tv_sec: 1, tv_nsec: 2 },
                last_modification: rustix::fs::Timespec { tv_sec: 3, tv_nsec: 4 },
            };
            let flags = rustix::fs::AtFlags::SYMLINK_NOFOLLOW;
            rustix::fs::utimensat(rustix::fs::CWD, root.join(name), &times, flags).unwrap();
        }
    }

    #[test]
    fn every_kind_of_difference_is_seen() {
        let (a, b) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        make(a.path());
        make(b.path());
        let source = tree(a.path()).unwrap();
        let difference = || first_difference(&source, &tree(b.path()).unwrap());
        let file = b.path().join("file");
        let touch = |at: u64| {
            let when = UNIX_EPOCH + Duration::from_secs(at);
            File::options().write(true).open(&file).unwrap().set_modified(when).unwrap();
        };
        assert_eq!(difference(), None);
        touch(9);
        assert_eq!(difference().as_deref(), Some("file: modification time differs"));
        std::fs::set_permissions(&file, PermissionsExt::from_mode(0o600)).unwrap();
        assert_eq!(difference().as_deref(), Some("file: mode differs"));
        std::fs::write(&file, "hellO").unwrap();
        assert_eq!(difference().as_deref(), Some("file: content differs"));
        std::fs::remove_file(&file).unwrap();
        assert_eq!(difference().as_deref(), Some("file: missing"));
        assert_eq!(first_difference(&Tree::new(), &source).as_deref(), Some("file: not in the source"));
    }
}
