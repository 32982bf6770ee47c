//! Trees of files: made, found on this machine, and compared by everything that a receiver must reproduce.

use std::collections::BTreeMap;
use std::fs::{self, File, FileTimes};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use walkdir::WalkDir;

/// From here on a file is a large one.
const LARGE: u64 = 1 << 20;
/// More small files take long to compare and show nothing more.
const SMALL_FILES_MAX: usize = 5000;

/// What one path is.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Kind {
    Directory,
    Symlink(PathBuf),
    File { size: u64, hash: blake3::Hash },
    Other,
}

/// What is compared of one path.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Fingerprint {
    kind: Kind,
    /// Of the 0777 bits; none of a symlink, whose mode means nothing.
    mode: Option<u32>,
    modified: (i64, i64),
}

/// All paths below a directory.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Tree(BTreeMap<PathBuf, Fingerprint>);

impl Tree {
    /// Reads and hashes everything below `root`.
    pub(crate) fn read(root: &Path) -> Self {
        let mut tree = BTreeMap::new();
        for entry in WalkDir::new(root).min_depth(1) {
            let entry = entry.unwrap();
            let meta = entry.metadata().unwrap();
            let kind = if meta.is_dir() {
                Kind::Directory
            } else if meta.is_symlink() {
                Kind::Symlink(fs::read_link(entry.path()).unwrap())
            } else if meta.is_file() {
                let mut hasher = blake3::Hasher::new();
                hasher.update_reader(File::open(entry.path()).unwrap()).unwrap();
                Kind::File { size: meta.len(), hash: hasher.finalize() }
            } else {
                Kind::Other
            };
            let mode = (!meta.is_symlink()).then_some(meta.mode() & 0o777);
            let relative = entry.path().strip_prefix(root).unwrap().to_owned();
            tree.insert(relative, Fingerprint { kind, mode, modified: (meta.mtime(), meta.mtime_nsec()) });
        }
        Self(tree)
    }

    /// How many paths there are.
    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }

    /// Bytes of all files.
    pub(crate) fn bytes(&self) -> u64 {
        let size = |found: &Fingerprint| match found.kind {
            Kind::File { size, .. } => size,
            Kind::Directory | Kind::Symlink(_) | Kind::Other => 0,
        };
        self.0.values().map(size).sum()
    }

    /// Fails unless `root` holds exactly this tree.
    pub(crate) fn assert_at(&self, root: &Path) {
        let found = Self::read(root);
        for (path, wanted) in &self.0 {
            assert_eq!(found.0.get(path), Some(wanted), "{path:?} in {}", root.display());
        }
        let extra: Vec<_> = found.0.keys().filter(|path| !self.0.contains_key(*path)).collect();
        assert!(extra.is_empty(), "{} has more: {extra:?}", root.display());
    }
}

/// Bytes that do not repeat and cannot be compressed; the same for the same seed.
pub(crate) fn noise(seed: u64, length: usize) -> Vec<u8> {
    let mut bytes = vec![0; length];
    blake3::Hasher::new().update(&seed.to_le_bytes()).finalize_xof().fill(&mut bytes);
    bytes
}

/// Copies a tree with modes and times: a receiver's directory as it would be, without a transfer.
pub(crate) fn copy_tree(from: &Path, to: &Path) {
    for entry in WalkDir::new(from).contents_first(false) {
        let entry = entry.unwrap();
        let target = to.join(entry.path().strip_prefix(from).unwrap());
        if entry.file_type().is_dir() {
            fs::create_dir(&target).unwrap();
        } else {
            copy_one(entry.path(), &target);
        }
    }
    // Last, since every file that is made changes its directory's time.
    for entry in WalkDir::new(from).contents_first(true) {
        let entry = entry.unwrap();
        if entry.file_type().is_dir() {
            let target = to.join(entry.path().strip_prefix(from).unwrap());
            let meta = entry.metadata().unwrap();
            File::open(&target).unwrap().set_times(times(&meta)).unwrap();
            fs::set_permissions(&target, meta.permissions()).unwrap();
        }
    }
}

fn times(meta: &fs::Metadata) -> FileTimes {
    FileTimes::new().set_modified(meta.modified().unwrap())
}

/// Copies a file with mode and time, or a symlink with its time.
fn copy_one(from: &Path, to: &Path) {
    let meta = fs::symlink_metadata(from).unwrap();
    if meta.is_symlink() {
        std::os::unix::fs::symlink(fs::read_link(from).unwrap(), to).unwrap();
        let stamp = |tv_sec, tv_nsec| rustix::fs::Timespec { tv_sec, tv_nsec };
        let times = rustix::fs::Timestamps {
            last_access: stamp(meta.atime(), meta.atime_nsec()),
            last_modification: stamp(meta.mtime(), meta.mtime_nsec()),
        };
        rustix::fs::utimensat(rustix::fs::CWD, to, &times, rustix::fs::AtFlags::SYMLINK_NOFOLLOW).unwrap();
    } else {
        fs::copy(from, to).unwrap();
        File::options().write(true).open(to).and_then(|file| file.set_times(times(&meta))).unwrap();
    }
}

/// Copies about `size` bytes of the Rust toolchain and of `/usr/share` to `into`: thousands of small files and
/// symlinks for a third of it, and large files for the rest.
pub(crate) fn real_tree(into: &Path, size: u64) {
    let sysroot = Command::new("rustc").args(["--print", "sysroot"]).output().unwrap();
    let sysroot = PathBuf::from(String::from_utf8(sysroot.stdout).unwrap().trim());
    let mut left = size;
    for large in [false, true] {
        let mut budget = if large { left } else { size / 3 };
        for (root, name) in [(sysroot.as_path(), "toolchain"), (Path::new("/usr/share"), "share")] {
            let (mut files, most) = (0, if large { usize::MAX } else { SMALL_FILES_MAX / 2 });
            for entry in WalkDir::new(root).sort_by_file_name().into_iter().filter_map(Result::ok) {
                let Ok(meta) = entry.metadata() else { continue };
                let wanted = (meta.is_file() || meta.is_symlink()) && (meta.len() >= LARGE) == large;
                // What cannot be read, or went meanwhile, is no use as a source.
                let readable = meta.is_symlink() || File::open(entry.path()).is_ok();
                if !wanted || !readable || meta.len() > budget || files == most {
                    continue;
                }
                let target = into.join(name).join(entry.path().strip_prefix(root).unwrap());
                fs::create_dir_all(target.parent().unwrap()).unwrap();
                copy_one(entry.path(), &target);
                (files, budget, left) = (files + 1, budget - meta.len(), left - meta.len());
            }
        }
    }
}
