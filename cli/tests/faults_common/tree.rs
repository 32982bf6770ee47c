//! What a directory holds: for the comparison of two, and to see whether a file was touched.

use std::collections::BTreeMap;
use std::fs::File;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use walkdir::WalkDir;

/// What receivers must reproduce of a path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Directory,
    Symlink(PathBuf),
    File(blake3::Hash),
}

/// One path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Found {
    pub(crate) kind: Kind,
    mode: u32,
    modified: (i64, i64),
    /// Differs after any change of the file, its name or its metadata.
    pub(crate) identity: (u64, i64, i64),
}

pub(crate) type Tree = BTreeMap<PathBuf, Found>;

/// Reads a whole tree, without what receivers keep for themselves.
pub(crate) fn of(root: &Path) -> Tree {
    let ours = |name: &std::ffi::OsStr| name != ".nackcast.part";
    let entries = WalkDir::new(root).min_depth(1).into_iter().filter_entry(|entry| ours(entry.file_name()));
    let found = |entry: walkdir::DirEntry| {
        let meta = entry.metadata().unwrap();
        let kind = if meta.is_dir() {
            Kind::Directory
        } else if meta.is_symlink() {
            Kind::Symlink(std::fs::read_link(entry.path()).unwrap())
        } else {
            let mut hasher = blake3::Hasher::new();
            Kind::File(hasher.update_reader(File::open(entry.path()).unwrap()).unwrap().finalize())
        };
        let mode = if meta.is_symlink() { 0 } else { meta.mode() & 0o777 };
        let identity = (meta.ino(), meta.ctime(), meta.ctime_nsec());
        let path = entry.path().strip_prefix(root).unwrap().to_owned();
        (path, Found { kind, mode, modified: (meta.mtime(), meta.mtime_nsec()), identity })
    };
    entries.map(|entry| found(entry.unwrap())).collect()
}

/// Names, kinds, bytes, modes and times are the same.
pub(crate) fn assert_same(source: &Tree, target: &Tree, whose: &str) {
    assert_subset(source, target, whose);
    let extra: Vec<_> = target.keys().filter(|path| !source.contains_key(*path)).collect();
    assert!(extra.is_empty(), "{whose} has what is not in the source: {extra:?}");
}

/// All of `source` is in `target`.
pub(crate) fn assert_subset(source: &Tree, target: &Tree, whose: &str) {
    for (path, wanted) in source {
        let found = target.get(path).unwrap_or_else(|| panic!("{whose} lacks {}", path.display()));
        let look = |found: &Found| (found.kind.clone(), found.mode, found.modified);
        assert_eq!(look(found), look(wanted), "{whose}: {}", path.display());
    }
}

/// Every file of `before` but those named is the same file still: inode, times and all. Directories may have been
/// touched, since their entries were.
pub(crate) fn assert_untouched(before: &Tree, after: &Tree, but: &[&str]) {
    for (path, was) in before.iter().filter(|(path, _)| !but.iter().any(|name| *path == Path::new(name))) {
        if was.kind != Kind::Directory {
            assert_eq!(after.get(path), Some(was), "{} was touched", path.display());
        }
    }
}
