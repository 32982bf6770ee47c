//! The walk: every path below the root, with what stands there.
//!
//! - Names are bytes; order is that of a manifest (by the bytes of the whole path).
//! - An unreadable directory is a problem, and the rest goes on.

use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use globset::GlobSet;
use nackcast_common::path::{DatasetPath, PART_DIRECTORY};
use rayon::prelude::*;
use rustix::fs::FileType;
use walkdir::{DirEntry, WalkDir};

use super::problem::{Problem, ProblemKind};
use super::root::{Root, Stamp, is_gone};

/// What stands at a path.
#[derive(Debug)]
pub(super) enum FoundKind {
    Directory,
    Symlink { target: Box<[u8]> },
    File,
}

/// One path.
#[derive(Debug)]
pub(super) struct Found {
    pub(super) path: DatasetPath,
    pub(super) kind: FoundKind,
    pub(super) mode: u32,
    pub(super) stamp: Stamp,
}

/// Lists everything below the root, sorted by path.
pub(super) fn walk(root: &Root, exclude: &GlobSet) -> (Vec<Found>, Vec<Problem>) {
    let mut problems = Vec::new();
    let mut listed = Vec::new();
    let wanted = |entry: &DirEntry| {
        let path = relative(root, entry.path());
        let ours = entry.depth() == 1 && entry.file_name() == PART_DIRECTORY && entry.file_type().is_dir();
        entry.depth() == 0 || !(ours || exclude.is_match(path))
    };
    for item in WalkDir::new(root.path()).min_depth(1).into_iter().filter_entry(wanted) {
        match item {
            Ok(entry) => listed.push(entry),
            Err(error) => problems.push(walk_problem(root, error)),
        }
    }
    let looked: Vec<_> = listed.into_par_iter().map(|entry| look(root, &entry)).collect();
    let mut found = Vec::with_capacity(looked.len());
    for result in looked {
        match result {
            Ok(item) => found.push(item),
            Err(problem) => problems.push(problem),
        }
    }
    found.par_sort_unstable_by(|a, b| a.path.cmp(&b.path));
    // A directory that changes while it is read may list a name twice.
    found.dedup_by(|a, b| a.path == b.path);
    (found, problems)
}

fn relative<'a>(root: &Root, path: &'a Path) -> &'a Path {
    path.strip_prefix(root.path()).unwrap_or(path)
}

fn walk_problem(root: &Root, error: walkdir::Error) -> Problem {
    let path = error.path().map(|p| relative(root, p).to_owned()).unwrap_or_default();
    // Without following links there are no loops, so there is always an I/O error within.
    let source = error.into_io_error().unwrap_or_else(|| std::io::Error::other("the walk stopped"));
    Problem { path, what: io_kind(source) }
}

pub(super) fn io_kind(error: std::io::Error) -> ProblemKind {
    if is_gone(&error) { ProblemKind::Vanished } else { ProblemKind::Unreadable(error) }
}

fn look(root: &Root, entry: &DirEntry) -> Result<Found, Problem> {
    let relative = relative(root, entry.path());
    let problem = |what| Problem::new(relative, what);
    if entry.depth() == 1 && entry.file_name() == PART_DIRECTORY {
        return Err(problem(ProblemKind::Reserved));
    }
    let path = DatasetPath::new(relative.as_os_str().as_bytes()).map_err(|e| problem(ProblemKind::Path(e)))?;
    let stat = root.stat(&path).map_err(|e| problem(io_kind(e)))?;
    let listed = entry.file_type();
    let kind = match FileType::from_raw_mode(stat.st_mode) {
        FileType::Directory if listed.is_dir() => FoundKind::Directory,
        FileType::RegularFile if listed.is_file() => FoundKind::File,
        FileType::Symlink if listed.is_symlink() => {
            let target = std::fs::read_link(entry.path()).map_err(|e| problem(io_kind(e)))?;
            FoundKind::Symlink { target: target.as_os_str().as_bytes().into() }
        }
        FileType::Directory | FileType::RegularFile | FileType::Symlink => return Err(problem(ProblemKind::Changed)),
        _ => return Err(problem(ProblemKind::SpecialFile)),
    };
    Ok(Found { path, kind, mode: stat.st_mode & 0o7777, stamp: Stamp::of(&stat) })
}
