//! Hashes files: whole, or block by block against chaining values; both with all cores.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::sync::atomic::Ordering;

use nackcast_common::geometry::Layout;
use nackcast_common::hash::{chaining_value, merge};
use nackcast_common::ids::Digest;
use nackcast_common::manifest::ChainingValue;
use nackcast_common::ranges::RangeSet;
use rayon::prelude::*;
use rustix::io::Errno;

use super::Progress;
use crate::disk::errno;

/// Files are hashed in subtrees of this many bytes.
const SUBTREE: u64 = 1 << 20;

/// The digest of the first `size` bytes. A file that was cut meanwhile gets the digest of nothing it holds.
pub(super) fn digest(file: &File, size: u64, progress: &Progress) -> Result<Digest, Errno> {
    if size <= SUBTREE {
        let mut buffer = Vec::new();
        read(file, &mut buffer, 0, size, progress)?;
        return Ok(Digest::of(&buffer));
    }
    let subtree = |buffer: &mut Vec<u8>, index: u64| {
        let offset = index * SUBTREE;
        read(file, buffer, offset, SUBTREE.min(size - offset), progress)?;
        Ok(chaining_value(buffer, offset))
    };
    let values: Result<Vec<_>, Errno> =
        (0..size.div_ceil(SUBTREE)).into_par_iter().map_init(Vec::new, subtree).collect();
    Ok(merge(&values?))
}

/// The blocks that have their chaining values; a block that the file does not have whole is not sound.
pub(super) fn sound_blocks(
    file: &File,
    layout: &Layout,
    values: &[ChainingValue],
    progress: &Progress,
) -> Result<RangeSet, Errno> {
    let check = |buffer: &mut Vec<u8>, (block, value): (u32, &ChainingValue)| {
        let offset = layout.block_offset(block);
        match read(file, buffer, offset, layout.block_len(block).into(), progress) {
            Ok(()) => Ok((chaining_value(buffer, offset) == *value).then_some(block)),
            Err(Errno::NODATA) => Ok(None),
            // One unreadable sector must not cost the other blocks.
            Err(Errno::IO) => Ok(None),
            Err(cause) => Err(cause),
        }
    };
    let blocks = (0..layout.block_count()).into_par_iter().zip(values);
    let sound: Result<Vec<_>, Errno> = blocks.map_init(Vec::new, check).collect();
    Ok(sound?.into_iter().flatten().collect())
}

/// Fills the buffer; `NODATA` when the file ends before.
fn read(file: &File, buffer: &mut Vec<u8>, offset: u64, length: u64, progress: &Progress) -> Result<(), Errno> {
    if progress.cancelled() {
        return Err(Errno::CANCELED);
    }
    buffer.resize(usize::try_from(length).map_err(|_| Errno::FBIG)?, 0);
    file.read_exact_at(buffer, offset).map_err(|e| match e.kind() {
        std::io::ErrorKind::UnexpectedEof => Errno::NODATA,
        _ => errno(&e),
    })?;
    progress.bytes.fetch_add(length, Ordering::Relaxed);
    Ok(())
}
