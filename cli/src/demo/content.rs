//! What the demo sends: a copy of real files found on this machine, thousands of small ones and some large ones,
//! and a few with the names and kinds that break careless programs.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use nackcast_common::keys::fill_random;
use nackcast_common::units::{ByteCount, counted};
use tokio_util::sync::CancellationToken;
use walkdir::WalkDir;

use crate::failure::{Failure, OrFail};

/// From here on a file is a large one.
const LARGE: u64 = 1 << 20;
/// More small files show nothing more.
const SMALL_FILES_MAX: usize = 5000;
/// How far a directory is looked through.
const LISTED_MAX: usize = 100_000;
const GENERATED_LARGE: usize = 8 << 20;
const GENERATED_SMALL_FILES: usize = 2000;

/// What was put together.
#[derive(Debug)]
pub(super) struct Content {
    pub(super) files: u64,
    pub(super) bytes: u64,
    from: Vec<PathBuf>,
}

impl Content {
    /// One line for people.
    pub(super) fn describe(&self) -> String {
        let from: Vec<String> = self.from.iter().map(|path| path.display().to_string()).collect();
        let from = if from.is_empty() { "made up".to_owned() } else { format!("from {}", from.join(", ")) };
        format!("content: {}, {}, {from}", counted(self.files, "file"), ByteCount(self.bytes))
    }
}

/// A file that could be sent.
struct Candidate {
    root: usize,
    path: PathBuf,
    size: u64,
}

/// Copies files into `into`, at most `size` bytes: of `given`, or else of what is found on any machine with Rust.
///
/// # Errors
/// When `given` or `into` cannot be used, or at a `shutdown`.
pub(super) fn gather(
    given: Option<&Path>,
    size: u64,
    into: &Path,
    shutdown: &CancellationToken,
) -> Result<Content, Failure> {
    let roots = match given {
        Some(path) => {
            std::fs::read_dir(path).or_usage(format_args!("--dir {}: it cannot be read", path.display()))?;
            vec![path.to_owned()]
        }
        None => usual_places(),
    };
    std::fs::create_dir(into).or_running(into.display())?;
    let mut content = Content { files: 0, bytes: 0, from: Vec::new() };
    let mut used = BTreeSet::new();
    for candidate in choose(list(&roots), size) {
        if shutdown.is_cancelled() {
            return Err(Failure::running("interrupted"));
        }
        let root = &roots[candidate.root];
        let name = root.file_name().unwrap_or(OsStr::new("root"));
        let relative = candidate.path.strip_prefix(root).unwrap_or(&candidate.path);
        // What cannot be read is left out: it is a demonstration, any file will do.
        if let Some(bytes) = copy(&candidate.path, &into.join(name).join(relative)) {
            content.files += 1;
            content.bytes += bytes;
            used.insert(candidate.root);
        }
    }
    content.from = used.into_iter().map(|root| roots[root].clone()).collect();
    if given.is_none() && content.bytes < size / 2 {
        make_up(into, size, &mut content).or_running("content cannot be written")?;
    }
    if given.is_none() {
        odd_files(into, &mut content).or_running("content cannot be written")?;
    }
    Ok(content)
}

/// Directories of which machines with Rust have some.
fn usual_places() -> Vec<PathBuf> {
    let home = |variable: &str, below: &str| {
        let given = std::env::var_os(variable).map(PathBuf::from);
        given.or_else(|| std::env::var_os("HOME").map(|home| PathBuf::from(home).join(below)))
    };
    let toolchains = home("RUSTUP_HOME", ".rustup").map(|path| path.join("toolchains"));
    let places = [toolchains, Some("/usr/share".into()), Some("/usr/lib".into())];
    places.into_iter().flatten().filter(|path| path.is_dir()).collect()
}

fn list(roots: &[PathBuf]) -> Vec<Candidate> {
    let mut candidates = Vec::new();
    for (root, path) in roots.iter().enumerate() {
        let walk = WalkDir::new(path).sort_by_file_name().into_iter().filter_map(Result::ok);
        let files = walk.filter(|entry| entry.file_type().is_file());
        let sized = files.filter_map(|entry| Some((entry.metadata().ok()?.len(), entry.into_path())));
        candidates.extend(sized.take(LISTED_MAX).map(|(size, path)| Candidate { root, path, size }));
    }
    candidates
}

/// Large files for at most half of the size, small ones while there is room, and then what else fits.
fn choose(mut candidates: Vec<Candidate>, size: u64) -> Vec<Candidate> {
    let total: u64 = candidates.iter().map(|candidate| candidate.size).sum();
    if total <= size && candidates.len() <= SMALL_FILES_MAX {
        return candidates;
    }
    let mut left = size;
    let mut take = |candidate: &Candidate, reserve: u64| {
        let fits = candidate.size + reserve <= left;
        left -= if fits { candidate.size } else { 0 };
        fits
    };
    let small = candidates.extract_if(.., |candidate| candidate.size < LARGE).collect::<Vec<_>>();
    candidates.sort_by_key(|candidate| std::cmp::Reverse(candidate.size));
    let mut chosen: Vec<Candidate> = candidates.extract_if(.., |candidate| take(candidate, size / 2)).collect();
    // Every n-th, so that not all come from the first directory.
    let step = small.len().div_ceil(SMALL_FILES_MAX).max(1);
    chosen.extend(small.into_iter().step_by(step).filter(|candidate| take(candidate, 0)));
    chosen.extend(candidates.into_iter().filter(|candidate| take(candidate, 0)));
    chosen
}

fn copy(from: &Path, to: &Path) -> Option<u64> {
    std::fs::create_dir_all(to.parent()?).ok()?;
    std::fs::copy(from, to).inspect_err(|error| tracing::debug!("{}: {error}", from.display())).ok()
}

/// Random bytes, where a machine has too few files.
fn make_up(into: &Path, size: u64, content: &mut Content) -> std::io::Result<()> {
    let directory = into.join("made-up");
    std::fs::create_dir(&directory)?;
    let mut write = |name: String, length: usize| {
        let mut bytes = vec![0; length];
        fill_random(&mut bytes);
        content.files += 1;
        content.bytes += length as u64;
        std::fs::write(directory.join(name), bytes).map(|()| content.bytes)
    };
    let mut bytes = 0;
    for number in 0..GENERATED_SMALL_FILES {
        bytes = write(format!("small-{number:04}"), 500 + number % 7000)?;
    }
    for number in 0.. {
        if bytes + GENERATED_LARGE as u64 > size {
            break;
        }
        bytes = write(format!("large-{number:03}"), GENERATED_LARGE)?;
    }
    Ok(())
}

/// Names and kinds that Linux allows.
fn odd_files(into: &Path, content: &mut Content) -> std::io::Result<()> {
    let directory = into.join("odd names");
    std::fs::create_dir_all(directory.join("an empty directory"))?;
    let names: [&[u8]; 4] = [b"not utf-8 \xff\xfe", b"new\nline", b" ", &[b'x'; 255]];
    for name in names {
        std::fs::write(directory.join(OsStr::from_bytes(name)), name)?;
        content.files += 1;
        content.bytes += name.len() as u64;
    }
    std::fs::write(directory.join("empty"), "")?;
    content.files += 1;
    std::os::unix::fs::symlink("empty", directory.join("symlink"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn candidates(sizes: &[u64]) -> Vec<Candidate> {
        sizes.iter().map(|&size| Candidate { root: 0, path: PathBuf::new(), size }).collect()
    }

    #[test]
    fn the_choice_is_a_mix_within_the_size() {
        let mut sizes = vec![1000; 20_000];
        sizes.extend([40 << 20, 30 << 20, 20 << 20, 10 << 20]);
        let chosen = choose(candidates(&sizes), 100 << 20);
        let total: u64 = chosen.iter().map(|candidate| candidate.size).sum();
        let small = chosen.iter().filter(|candidate| candidate.size < LARGE).count();
        assert!((80 << 20..=100 << 20).contains(&total), "{total}");
        assert_eq!(small, SMALL_FILES_MAX);
        assert_eq!(choose(candidates(&[1, 2, 3]), 100).len(), 3);
        assert_eq!(choose(candidates(&[1 << 30]), 100).len(), 0);
    }

    #[test]
    fn a_given_directory_is_copied_and_an_unreadable_one_is_named() {
        let place = tempfile::tempdir().unwrap();
        let from = place.path().join("from");
        std::fs::create_dir_all(from.join("sub")).unwrap();
        std::fs::write(from.join("sub/file"), "hello").unwrap();
        let go_on = CancellationToken::new();
        let content = gather(Some(&from), 1000, &place.path().join("into"), &go_on).unwrap();
        assert_eq!((content.files, content.bytes), (1, 5));
        assert_eq!(std::fs::read(place.path().join("into/from/sub/file")).unwrap(), b"hello");
        let failure = gather(Some(&place.path().join("none")), 1000, &place.path().join("x"), &go_on).unwrap_err();
        assert!(failure.exit_code() == 2 && failure.line().unwrap().contains("none"));
        go_on.cancel();
        let failure = gather(Some(&from), 1000, &place.path().join("y"), &go_on).unwrap_err();
        assert!(failure.line().unwrap().contains("interrupted"));
    }
}
