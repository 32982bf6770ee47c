//! Paths of a dataset: relative, as bytes, safe to join to a target directory *as text*.
//!
//! A [`DatasetPath`] has no empty, `.` or `..` component, no NUL, and is bounded in length, so it cannot
//! name anything outside the directory it is joined to. That no symlink leads out is the installer's job
//! (`openat2` with `RESOLVE_BENEATH`): text cannot promise it.

use std::borrow::Borrow;
use std::ffi::OsStr;
use std::fmt;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

/// Longest path, as Linux has it.
pub const PATH_LEN_MAX: usize = 4095;
/// Longest component, as every Linux file system has it.
pub const COMPONENT_LEN_MAX: usize = 255;
/// The directory in a target that holds partial objects; never scanned, never sent.
pub const PART_DIRECTORY: &str = ".nackcast.part";

/// A path relative to the dataset's directory.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct DatasetPath(Box<[u8]>);

/// Why bytes are no dataset path.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PathError {
    /// No bytes, or more than [`PATH_LEN_MAX`].
    #[error("a path of {0} bytes is empty or too long")]
    Length(usize),
    /// A component is empty, `.`, `..`, too long, or holds a NUL.
    #[error("path {0:?} has a component that may not be in a dataset")]
    Component(String),
    /// The path begins with our own directory for partial objects.
    #[error("path {0:?} lies in {PART_DIRECTORY}, which nackcast keeps for itself")]
    Reserved(String),
}

impl DatasetPath {
    /// Checks the bytes.
    ///
    /// # Errors
    /// When the path could leave the directory it is joined to, or is not storable on Linux.
    pub fn new(bytes: &[u8]) -> Result<Self, PathError> {
        if bytes.is_empty() || bytes.len() > PATH_LEN_MAX {
            return Err(PathError::Length(bytes.len()));
        }
        let mut components = bytes.split(|b| *b == b'/');
        if bytes.split(|b| *b == b'/').next() == Some(PART_DIRECTORY.as_bytes()) {
            return Err(PathError::Reserved(show(bytes)));
        }
        let sound = components
            .all(|c| !c.is_empty() && c != b"." && c != b".." && c.len() <= COMPONENT_LEN_MAX && !c.contains(&0));
        if sound { Ok(Self(bytes.into())) } else { Err(PathError::Component(show(bytes))) }
    }

    /// The bytes.
    #[must_use]
    pub const fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// As a relative [`Path`].
    #[must_use]
    pub fn as_path(&self) -> &Path {
        Path::new(OsStr::from_bytes(&self.0))
    }

    /// The directory it lies in; none at the top.
    #[must_use]
    pub fn parent(&self) -> Option<Self> {
        let at = self.0.iter().rposition(|b| *b == b'/')?;
        Some(Self(self.0[..at].into()))
    }

    /// Every directory above it, the nearest first, as bytes.
    pub fn ancestors(&self) -> impl Iterator<Item = &[u8]> + '_ {
        self.0.iter().enumerate().rev().filter(|(_, b)| **b == b'/').map(|(at, _)| &self.0[..at])
    }
}

fn show(bytes: &[u8]) -> String {
    bytes.escape_ascii().to_string()
}

impl Borrow<[u8]> for DatasetPath {
    fn borrow(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Display for DatasetPath {
    /// UTF-8 as it is, everything that could upset a terminal or a log escaped.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for chunk in self.0.utf8_chunks() {
            for c in chunk.valid().chars() {
                if c.is_control() || c == '\\' { write!(f, "{}", c.escape_default())? } else { write!(f, "{c}")? }
            }
            write!(f, "{}", chunk.invalid().escape_ascii())?;
        }
        Ok(())
    }
}

impl fmt::Debug for DatasetPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "\"{self}\"")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn carries_every_name_that_linux_allows() {
        let long = [b'x'; 255];
        for good in [&b"a"[..], b"a/b", b"new\nline", b"\xff\xfe", b"...", b" ", b"-rf", &long, b"a/.nackcast.part"] {
            assert_eq!(DatasetPath::new(good).unwrap().as_bytes(), good);
        }
    }

    #[test]
    fn refuses_every_way_out() {
        let long = [b'x'; 256];
        for bad in [
            &b""[..],
            b"/",
            b"/etc/passwd",
            b"..",
            b"../x",
            b"a/../../x",
            b"a/..",
            b".",
            b"./a",
            b"a//b",
            b"a/",
            b"a\0b",
            &long,
            &[b'a'; 5000],
            b".nackcast.part",
            b".nackcast.part/x",
        ] {
            assert!(DatasetPath::new(bad).is_err(), "{}", bad.escape_ascii());
        }
    }

    #[test]
    fn shows_strange_names_on_one_line() {
        assert_eq!(DatasetPath::new(b"\xc3\xa9 a\n\xff").unwrap().to_string(), "é a\\n\\xff");
    }

    #[test]
    fn names_the_directories_above() {
        let path = DatasetPath::new(b"a/b/c").unwrap();
        assert_eq!(path.ancestors().collect::<Vec<_>>(), [&b"a/b"[..], b"a"]);
        assert_eq!(path.parent().unwrap().as_bytes(), b"a/b");
        assert!(DatasetPath::new(b"a").unwrap().parent().is_none());
    }
}
