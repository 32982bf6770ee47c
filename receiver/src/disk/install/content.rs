//! Copies bytes into a new file and checks their digest on the way.

use std::fs::File;
use std::os::unix::fs::FileExt;

use nackcast_common::ids::Digest;
use rustix::io::Errno;

use crate::disk::errno;

const CHUNK: usize = 1 << 20;
/// Smaller files are copied faster than shared.
const REFLINK_MIN: u64 = 1 << 20;
/// A run of zeros of this length is left out of the copy.
const HOLE: usize = 64 << 10;

/// Why a copy was not made.
#[derive(Debug)]
pub(super) enum CopyError {
    /// The file system refused.
    Disk(Errno),
    /// The bytes have another digest, or are too few.
    WrongBytes,
}

/// All of a file of `size` bytes; shares its blocks where the file system can.
pub(super) fn copy_whole(from: &File, to: &File, size: u64, digest: &Digest) -> Result<(), CopyError> {
    if size >= REFLINK_MIN && rustix::fs::ioctl_ficlone(to, from).is_ok() {
        // The file may have grown since it was examined.
        rustix::fs::ftruncate(to, size).map_err(CopyError::Disk)?;
        return copy(to, 0, None, size, digest);
    }
    copy_slice(from, 0, to, size, digest)
}

/// `size` bytes from `offset`.
pub(super) fn copy_slice(from: &File, offset: u64, to: &File, size: u64, digest: &Digest) -> Result<(), CopyError> {
    rustix::fs::ftruncate(to, size).map_err(CopyError::Disk)?;
    copy(from, offset, Some(to), size, digest)
}

/// Reads and hashes, and writes what was read to `to`, which is as long as it must be and full of zeros.
fn copy(from: &File, offset: u64, to: Option<&File>, size: u64, digest: &Digest) -> Result<(), CopyError> {
    let mut hasher = blake3::Hasher::new();
    let chunk = usize::try_from(size).unwrap_or(CHUNK).min(CHUNK);
    let mut buffer = vec![0; chunk];
    let mut at = 0;
    while at < size {
        let length = usize::try_from(size - at).unwrap_or(chunk).min(chunk);
        let bytes = &mut buffer[..length];
        from.read_exact_at(bytes, offset + at).map_err(|e| match e.kind() {
            std::io::ErrorKind::UnexpectedEof => CopyError::WrongBytes,
            _ => CopyError::Disk(errno(&e)),
        })?;
        hasher.update(bytes);
        if let Some(to) = to {
            write_data(to, bytes, at).map_err(|e| CopyError::Disk(errno(&e)))?;
        }
        at += length as u64;
    }
    if *hasher.finalize().as_bytes() == digest.0 { Ok(()) } else { Err(CopyError::WrongBytes) }
}

fn write_data(to: &File, bytes: &[u8], at: u64) -> std::io::Result<()> {
    if bytes.len() < HOLE {
        return to.write_all_at(bytes, at);
    }
    for (piece, offset) in bytes.chunks(HOLE).zip((at..).step_by(HOLE)) {
        if piece.iter().any(|b| *b != 0) {
            to.write_all_at(piece, offset)?;
        }
    }
    Ok(())
}
