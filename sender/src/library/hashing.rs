//! Hashing one file: its digest, and the chaining value of each of its blocks.
//!
//! - A result belongs to one state of the file: that which the walk saw, if it is the same after reading, else the
//!   one of a second try.
//! - Large files are hashed by all threads at once, in segments that fit a processor's cache.

use std::cell::RefCell;
use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use nackcast_common::clock::Clock;
use nackcast_common::geometry::Geometry;
use nackcast_common::hash;
use nackcast_common::ids::Digest;
use nackcast_common::manifest::ChainingValue;
use nackcast_common::path::DatasetPath;
use rayon::prelude::*;
use rustix::fs::FileType;

use super::problem::ProblemKind;
use super::root::{Root, Stamp};
use super::walk::io_kind;

/// How much one thread reads at a time.
const SEGMENT_BYTES: u64 = 1 << 20;

/// What hashing a file gave.
#[derive(Debug)]
pub(super) struct Hashed {
    pub(super) stamp: Stamp,
    pub(super) mode: u32,
    pub(super) sums: Sums,
    /// The file itself, when it is smaller than a block: its pack wants it next.
    pub(super) bytes: Option<Vec<u8>>,
    /// Wall clock before the first byte was read.
    pub(super) started_ms: u64,
}

/// A digest, and the chaining values when there is more than one block.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Sums {
    pub(super) digest: Digest,
    pub(super) chaining: Option<Arc<[ChainingValue]>>,
}

impl Sums {
    /// Of bytes in memory.
    pub(super) fn of(bytes: &[u8], geometry: Geometry) -> Self {
        let block = geometry.block_size() as usize;
        if bytes.len() <= block {
            return Self { digest: Digest::of(bytes), chaining: None };
        }
        let offsets = (0_u64..).step_by(block);
        Self::merged(bytes.chunks(block).zip(offsets).map(|(b, at)| hash::chaining_value(b, at)).collect())
    }

    fn merged(values: Vec<ChainingValue>) -> Self {
        Self { digest: hash::merge(&values), chaining: Some(values.into()) }
    }
}

/// Hashes a file that had this stamp a moment ago; `on_read` hears how many bytes were read, before the file is
/// checked for changes.
pub(super) fn hash_file(
    root: &Root,
    path: &DatasetPath,
    stamp: &Stamp,
    geometry: Geometry,
    on_read: &(dyn Fn(u64) + Sync),
) -> Result<Hashed, ProblemKind> {
    match hash_once(root, path, stamp, geometry, on_read) {
        Err(ProblemKind::Changed) => {
            let stat = root.stat(path).map_err(io_kind)?;
            if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
                return Err(ProblemKind::Changed);
            }
            hash_once(root, path, &Stamp::of(&stat), geometry, on_read)
        }
        answer => answer,
    }
}

fn hash_once(
    root: &Root,
    path: &DatasetPath,
    stamp: &Stamp,
    geometry: Geometry,
    on_read: &(dyn Fn(u64) + Sync),
) -> Result<Hashed, ProblemKind> {
    let started_ms = Clock::wall_ms();
    geometry.object(stamp.size).map_err(|_| ProblemKind::TooLarge(stamp.size))?;
    let file = root.open_file(path).map_err(io_kind)?;
    let small = stamp.size < u64::from(geometry.block_size());
    let (sums, bytes) = if small {
        let bytes = read_start(&file, stamp.size).map_err(short_read)?;
        on_read(stamp.size);
        (Sums { digest: Digest::of(&bytes), chaining: None }, Some(bytes))
    } else {
        (hash_large(&file, stamp.size, geometry, on_read).map_err(short_read)?, None)
    };
    let after = rustix::fs::fstat(&file).map_err(|e| io_kind(e.into()))?;
    // Another file may take the name while a large one is read; a small one is read before that is worth a call.
    if Stamp::of(&after) != *stamp || !(small || root.still_names(path, stamp)) {
        return Err(ProblemKind::Changed);
    }
    Ok(Hashed { stamp: *stamp, mode: after.st_mode & 0o7777, sums, bytes, started_ms })
}

/// A file that ends early was cut since it was stat'ed.
pub(super) fn short_read(error: io::Error) -> ProblemKind {
    if error.kind() == io::ErrorKind::UnexpectedEof { ProblemKind::Changed } else { io_kind(error) }
}

fn hash_large(file: &File, size: u64, geometry: Geometry, on_read: &(dyn Fn(u64) + Sync)) -> io::Result<Sums> {
    let block = u64::from(geometry.block_size());
    if size <= block {
        let digest = with_buffer(|buffer| {
            read_range(file, 0, size, buffer)?;
            Ok::<_, io::Error>(Digest::of(buffer))
        })?;
        on_read(size);
        return Ok(Sums { digest, chaining: None });
    }
    let segment = SEGMENT_BYTES.max(block);
    let parts: Vec<Vec<ChainingValue>> = (0..size.div_ceil(segment))
        .into_par_iter()
        .map(|number| {
            let start = number * segment;
            let length = segment.min(size - start);
            let values = with_buffer(|buffer| {
                read_range(file, start, length, buffer)?;
                let blocks = buffer.chunks(geometry.block_size() as usize);
                Ok(blocks.zip(0_u64..).map(|(b, i)| hash::chaining_value(b, start + i * block)).collect())
            });
            on_read(length);
            values
        })
        .collect::<io::Result<_>>()?;
    Ok(Sums::merged(parts.concat()))
}

/// The first bytes of a file, in memory that nobody filled with zeros before.
pub(super) fn read_start(file: &File, length: u64) -> io::Result<Vec<u8>> {
    let wanted = usize::try_from(length).map_err(io::Error::other)?;
    let mut bytes = Vec::with_capacity(wanted);
    file.take(length).read_to_end(&mut bytes)?;
    if bytes.len() == wanted { Ok(bytes) } else { Err(io::ErrorKind::UnexpectedEof.into()) }
}

/// Fills `buffer` with exactly the bytes of the range.
pub(super) fn read_range(file: &File, offset: u64, length: u64, buffer: &mut Vec<u8>) -> io::Result<()> {
    let length = usize::try_from(length).map_err(io::Error::other)?;
    buffer.resize(length, 0);
    file.read_exact_at(buffer, offset)
}

/// Lends this thread's buffer. `work` must not run other parallel work: it would ask for the buffer again.
fn with_buffer<T>(work: impl FnOnce(&mut Vec<u8>) -> T) -> T {
    thread_local! {
        static BUFFER: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
    }
    BUFFER.with_borrow_mut(work)
}
