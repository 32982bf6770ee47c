//! Block counts: ascending blocks, each with a number of symbols: what a receiver is short of, or what a sender promises.
//!
//! Two Rice codes a block (the gap to the block before, and the count less one), both parameters in front:
//! at 0.1 % loss about one byte a block.

use super::WireError;
use super::bits::{BitReader, BitWriter, rice_len, rice_parameter};
use super::limits::BLOCKS_MAX;

/// The number of blocks and the two parameters.
const HEAD_BITS: u64 = 16 + 5 + 5;

/// A block and a number of symbols, at least one.
pub type BlockCount = (u32, u16);

fn gaps(blocks: &[BlockCount]) -> impl Iterator<Item = (u32, u32)> + '_ {
    let mut next = 0;
    blocks.iter().map(move |(block, count)| {
        let gap = block - next;
        next = block + 1;
        (gap, u32::from(*count) - 1)
    })
}

/// Encodes as many of the ascending `blocks` as fit into `room` bytes; says how many.
///
/// # Panics
/// When blocks are not ascending or a count is zero: the caller's own error.
#[must_use]
pub fn encode(blocks: &[BlockCount], room: usize) -> (Vec<u8>, usize) {
    let blocks = &blocks[..blocks.len().min(BLOCKS_MAX)];
    let total = |values: &dyn Fn((u32, u32)) -> u32| gaps(blocks).map(|g| u64::from(values(g))).sum::<u64>();
    let number = blocks.len() as u64;
    let gap_k = rice_parameter(total(&|g| g.0), number);
    let count_k = rice_parameter(total(&|g| g.1), number);
    let mut bits = HEAD_BITS;
    let fits = gaps(blocks)
        .take_while(|(gap, count)| {
            bits += rice_len(*gap, gap_k) + rice_len(*count, count_k);
            bits <= (room as u64) * 8
        })
        .count();
    if fits == 0 {
        return (Vec::new(), 0);
    }
    let mut writer = BitWriter::new();
    writer.write(u32::try_from(fits).unwrap_or(0), 16);
    writer.write(gap_k, 5);
    writer.write(count_k, 5);
    for (gap, count) in gaps(blocks).take(fits) {
        writer.write_rice(gap, gap_k);
        writer.write_rice(count, count_k);
    }
    (writer.into_bytes(), fits)
}

/// Decodes; blocks ascend and counts are at least one.
///
/// # Errors
/// When the bytes end too early, a number overflows, or there are more blocks than a message may have.
pub fn decode(bytes: &[u8]) -> Result<Vec<BlockCount>, WireError> {
    let bad = || WireError::Field("blocks");
    if bytes.is_empty() {
        return Ok(Vec::new());
    }
    let mut reader = BitReader::new(bytes);
    let number = reader.read(16).ok_or_else(bad)? as usize;
    let (gap_k, count_k) = (reader.read(5).ok_or_else(bad)?, reader.read(5).ok_or_else(bad)?);
    if number == 0 || number > BLOCKS_MAX {
        return Err(bad());
    }
    let mut blocks = Vec::with_capacity(number.min(bytes.len() * 4));
    let mut next = 0_u32;
    for _ in 0..number {
        let block = reader.read_rice(gap_k).and_then(|gap| next.checked_add(gap)).ok_or_else(bad)?;
        let count = reader.read_rice(count_k).and_then(|c| u16::try_from(c.checked_add(1)?).ok()).ok_or_else(bad)?;
        next = block.checked_add(1).ok_or_else(bad)?;
        blocks.push((block, count));
    }
    Ok(blocks)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn what_fits_comes_back(map in prop::collection::btree_map(0_u32..100_000, 1_u16..400, 0..300), room in 0_usize..600) {
            let blocks: Vec<_> = map.into_iter().collect();
            let (bytes, number) = encode(&blocks, room);
            prop_assert!(bytes.len() <= room);
            prop_assert_eq!(decode(&bytes).unwrap(), &blocks[..number]);
        }

        #[test]
        fn whatever_decodes_is_ascending(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            if let Ok(blocks) = decode(&bytes) {
                prop_assert!(blocks.windows(2).all(|w| w[0].0 < w[1].0));
                prop_assert!(blocks.iter().all(|b| b.1 > 0));
            }
        }
    }

    #[test]
    fn a_block_costs_about_a_byte_at_low_loss() {
        // Every sixth block lacks one symbol: what 0.1 % loss does to blocks of 188.
        let blocks: BTreeMap<u32, u16> = (0..500).map(|i| (i * 6, 1)).collect();
        let blocks: Vec<_> = blocks.into_iter().collect();
        let (bytes, number) = encode(&blocks, 1400);
        assert_eq!(number, 500);
        assert!(bytes.len() <= 500, "{} bytes", bytes.len());
    }
}
