//! BLAKE3 by blocks: each block's chaining value on its own, and their merge to the digest of the whole.
//!
//! An object's digest is plain BLAKE3 (what `b3sum` prints). A block is a whole subtree of its hash tree,
//! since blocks are powers of two of at least one chunk; so a block can be checked alone, and the digest
//! comes from the blocks' values without reading a byte twice.

use blake3::hazmat::{HasherExt, Mode, merge_subtrees_non_root, merge_subtrees_root};

use crate::ids::Digest;
use crate::manifest::ChainingValue;

/// The chaining value of a block that begins at `offset` of an object of more than one block.
#[must_use]
pub fn chaining_value(block: &[u8], offset: u64) -> ChainingValue {
    let mut hasher = blake3::Hasher::new();
    hasher.set_input_offset(offset);
    hasher.update(block);
    hasher.finalize_non_root()
}

/// The digest of an object of at least two blocks, from their chaining values.
///
/// # Panics
/// With fewer than two values: an object of one block has its digest directly.
#[must_use]
pub fn merge(values: &[ChainingValue]) -> Digest {
    assert!(values.len() >= 2, "an object of one block has no chaining values");
    let (left, right) = values.split_at(left_len(values.len()));
    Digest(*merge_subtrees_root(&subtree(left), &subtree(right), Mode::Hash).as_bytes())
}

fn subtree(values: &[ChainingValue]) -> ChainingValue {
    if let [only] = values {
        return *only;
    }
    let (left, right) = values.split_at(left_len(values.len()));
    merge_subtrees_non_root(&subtree(left), &subtree(right), Mode::Hash)
}

/// BLAKE3's left subtree is the largest power of two that leaves something to the right.
const fn left_len(len: usize) -> usize {
    len.next_power_of_two() / 2
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_merge_to_what_b3sum_prints() {
        let data: Vec<u8> = (0..70_000_u32).map(|i| (i.wrapping_mul(i) >> 7) as u8).collect();
        for block in [1024_usize, 4096, 16_384] {
            for size in [block + 1, 2 * block - 1, 2 * block, 2 * block + 1, 3 * block, 4 * block + 17] {
                let bytes = &data[..size];
                let values: Vec<_> =
                    bytes.chunks(block).zip(0_u64..).map(|(b, i)| chaining_value(b, i * block as u64)).collect();
                assert_eq!(merge(&values), Digest::of(bytes), "size {size} block {block}");
            }
        }
    }
}
