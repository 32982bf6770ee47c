//! Hashes a file: whole, or block by block against chaining values; both with all cores.

use std::sync::atomic::Ordering;

use nackcast_common::files::{Errno, Handle};
use nackcast_common::geometry::Layout;
use nackcast_common::hash::{chaining_value, merge};
use nackcast_common::ids::Digest;
use nackcast_common::manifest::ChainingValue;
use nackcast_common::ranges::RangeSet;

use super::Progress;
use crate::disk::parallel::map_all;

/// Files are hashed in subtrees of this many bytes.
const SUBTREE: u64 = 1 << 20;

/// One file that is being hashed.
pub(super) struct Hashing<'a> {
    pub(super) file: &'a Handle,
    pub(super) parallel: bool,
    pub(super) progress: &'a Progress,
}

impl Hashing<'_> {
    /// The digest of the first `size` bytes. A file that was cut meanwhile gets the digest of nothing it holds.
    pub(super) fn digest(&self, size: u64) -> Result<Digest, Errno> {
        if size <= SUBTREE {
            let mut buffer = Vec::new();
            self.read(&mut buffer, 0, size)?;
            return Ok(Digest::of(&buffer));
        }
        let subtree = |buffer: &mut Vec<u8>, index: usize| {
            let offset = index as u64 * SUBTREE;
            self.read(buffer, offset, SUBTREE.min(size - offset))?;
            Ok(chaining_value(buffer, offset))
        };
        let count = usize::try_from(size.div_ceil(SUBTREE)).map_err(|_| Errno::FBIG)?;
        let values: Result<Vec<_>, Errno> = map_all(self.parallel, count, Vec::new, subtree);
        Ok(merge(&values?))
    }

    /// The chaining values of an object's blocks, which the file must have whole.
    pub(super) fn values(&self, layout: &Layout) -> Result<Vec<ChainingValue>, Errno> {
        let value = |buffer: &mut Vec<u8>, at: usize| {
            let block = u32::try_from(at).map_err(|_| Errno::FBIG)?;
            self.read(buffer, layout.block_offset(block), layout.block_len(block).into())?;
            Ok(chaining_value(buffer, layout.block_offset(block)))
        };
        map_all(self.parallel, layout.block_count() as usize, Vec::new, value)
    }

    /// The blocks that have their chaining values; a block that the file does not have whole is not sound.
    pub(super) fn sound_blocks(&self, layout: &Layout, values: &[ChainingValue]) -> Result<RangeSet, Errno> {
        let blocks: Vec<_> = (0..layout.block_count()).zip(values).collect();
        let check = |buffer: &mut Vec<u8>, at: usize| {
            let (block, value) = blocks[at];
            let offset = layout.block_offset(block);
            match self.read(buffer, offset, layout.block_len(block).into()) {
                Ok(()) => Ok((chaining_value(buffer, offset) == *value).then_some(block)),
                Err(Errno::NODATA) => Ok(None),
                // One unreadable sector must not cost the other blocks.
                Err(Errno::IO) => Ok(None),
                Err(cause) => Err(cause),
            }
        };
        let sound: Result<Vec<_>, Errno> = map_all(self.parallel, blocks.len(), Vec::new, check);
        Ok(sound?.into_iter().flatten().collect())
    }

    /// Fills the buffer; `NODATA` when the file ends before.
    fn read(&self, buffer: &mut Vec<u8>, offset: u64, length: u64) -> Result<(), Errno> {
        if self.progress.cancelled() {
            return Err(Errno::CANCELED);
        }
        buffer.resize(usize::try_from(length).map_err(|_| Errno::FBIG)?, 0);
        self.file.read_exact_at(buffer, offset)?;
        self.progress.bytes.fetch_add(length, Ordering::Relaxed);
        Ok(())
    }
}
