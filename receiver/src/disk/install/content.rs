//! Copies bytes into a new file and checks their digest on the way.

use nackcast_common::files::{Errno, Opened};
use nackcast_common::ids::Digest;

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
pub(super) fn copy_whole(from: &dyn Opened, to: &dyn Opened, size: u64, digest: &Digest) -> Result<(), CopyError> {
    if size >= REFLINK_MIN && to.share(from).is_ok() {
        // The file may have grown since it was examined.
        to.set_len(size).map_err(CopyError::Disk)?;
        return copy(to, 0, None, size, digest);
    }
    copy_slice(from, 0, to, size, digest)
}

/// `size` bytes from `offset`.
pub(super) fn copy_slice(
    from: &dyn Opened,
    offset: u64,
    to: &dyn Opened,
    size: u64,
    digest: &Digest,
) -> Result<(), CopyError> {
    to.set_len(size).map_err(CopyError::Disk)?;
    copy(from, offset, Some(to), size, digest)
}

/// Reads and hashes, and writes what was read to `to`, which is as long as it must be and full of zeros.
fn copy(from: &dyn Opened, offset: u64, to: Option<&dyn Opened>, size: u64, digest: &Digest) -> Result<(), CopyError> {
    let mut hasher = blake3::Hasher::new();
    let chunk = usize::try_from(size).unwrap_or(CHUNK).min(CHUNK);
    let mut buffer = vec![0; chunk];
    let mut at = 0;
    while at < size {
        let length = usize::try_from(size - at).unwrap_or(chunk).min(chunk);
        let bytes = &mut buffer[..length];
        from.read_exact_at(bytes, offset + at).map_err(|cause| match cause {
            Errno::NODATA => CopyError::WrongBytes,
            _ => CopyError::Disk(cause),
        })?;
        hasher.update(bytes);
        if let Some(to) = to {
            write_data(to, bytes, at).map_err(CopyError::Disk)?;
        }
        at += length as u64;
    }
    if *hasher.finalize().as_bytes() == digest.0 { Ok(()) } else { Err(CopyError::WrongBytes) }
}

fn write_data(to: &dyn Opened, bytes: &[u8], at: u64) -> Result<(), Errno> {
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
