//! Fills a partial object from a local file that probably has much of it: a damaged installed file, or a
//! former version. Every block is checked before it is taken, so the file may be anything.

use nackcast_common::files::Handle;
use nackcast_common::geometry::Layout;
use nackcast_common::hash::chaining_value;
use nackcast_common::ids::{Digest, ObjectId};
use nackcast_common::manifest::ChainingValue;
use nackcast_common::ranges::RangeSet;

use super::parallel::map_all;
use super::part::{PartError, PartStore};

/// By what a block is checked.
#[derive(Clone, Copy, Debug)]
pub enum BlockCheck<'a> {
    /// The object has one block, and this is its digest.
    Digest(&'a Digest),
    /// One value for each block.
    Chaining(&'a [ChainingValue]),
}

impl BlockCheck<'_> {
    /// Whether `bytes` are that block of the object.
    #[must_use]
    pub fn holds(&self, layout: &Layout, block: u32, bytes: &[u8]) -> bool {
        if bytes.len() != layout.block_len(block) as usize {
            return false;
        }
        match self {
            Self::Digest(digest) => layout.block_count() == 1 && Digest::of(bytes) == **digest,
            Self::Chaining(values) => {
                let value = values.get(block as usize);
                layout.block_count() > 1
                    && value.is_some_and(|v| *v == chaining_value(bytes, layout.block_offset(block)))
            }
        }
    }
}

/// Takes the sound blocks of `local` into the partial object, which is made when missing; gives all blocks
/// that it then has. What cannot be read is as good as damaged.
///
/// # Errors
/// When the partial object cannot be written.
pub fn seed(
    store: &PartStore,
    id: ObjectId,
    layout: Layout,
    check: BlockCheck<'_>,
    local: &Handle,
) -> Result<RangeSet, PartError> {
    let held = store.create(layout, id)?.verified;
    let wanted: Vec<_> = (0..layout.block_count()).filter(|block| !held.contains(*block)).collect();
    let take = |buffer: &mut Vec<u8>, at: usize| {
        let block = wanted[at];
        buffer.resize(layout.block_len(block) as usize, 0);
        let read = local.read_exact_at(buffer, layout.block_offset(block));
        if read.is_ok() && check.holds(&layout, block, buffer) { store.write_block(id, block, buffer) } else { Ok(()) }
    };
    map_all::<_, _, Result<(), PartError>>(store.parallel(), wanted.len(), Vec::new, take)?;
    Ok(store.state(id).map(|state| state.verified).unwrap_or_default())
}
