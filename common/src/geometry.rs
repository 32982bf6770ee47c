//! Objects, source blocks, encoding symbols: the arithmetic between them, and an object's id.
//!
//! An object of `size` bytes is cut into blocks of `block_size`, a block into source symbols of
//! `symbol_size`; the last block and its last symbol may be short (the symbol is zero-padded on the wire).
//! A [`Geometry`] is checked when made, so no later division can fail (RFC 5052's object and block
//! information, in one small type).

use std::ops::Range;

use crate::ids::{Digest, ObjectId};

/// Smallest block: one BLAKE3 chunk.
pub const BLOCK_SIZE_MIN: u32 = 1024;
/// Largest block; a receiver holds a few of them in memory.
pub const BLOCK_SIZE_MAX: u32 = 16 << 20;
/// Smallest symbol.
pub const SYMBOL_SIZE_MIN: u16 = 16;
/// Largest symbol: a datagram of 9,000 bytes less all headers.
pub const SYMBOL_SIZE_MAX: u16 = 8900;
/// Most source symbols a block may have, so that ESIs of source and repair fit 16 bits.
pub const SOURCE_SYMBOLS_MAX: u32 = 32_768;
/// How many repair symbols every block has, whatever its K: ESIs K to K + 255.
pub const REPAIR_SYMBOLS: u16 = 256;
/// Largest object: its block numbers fit 32 bits at the smallest block.
pub const OBJECT_SIZE_MAX: u64 = 1 << 42;

/// Which erasure code makes the repair symbols.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum FecScheme {
    /// Reed-Solomon over GF(2^16), low rate, as reed-solomon-simd 3 computes it. On the wire: 1.
    ReedSolomonLow,
}

impl FecScheme {
    /// The number on the wire.
    #[must_use]
    pub const fn id(self) -> u8 {
        match self {
            Self::ReedSolomonLow => 1,
        }
    }

    /// From the number on the wire.
    #[must_use]
    pub const fn from_id(id: u8) -> Option<Self> {
        match id {
            1 => Some(Self::ReedSolomonLow),
            _ => None,
        }
    }
}

/// How objects are cut and coded. Every sender of the object must use the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Geometry {
    symbol_size: u16,
    block_size: u32,
    fec: FecScheme,
}

/// Why a geometry or an object's size was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum GeometryError {
    /// Symbols must be even-sized for the code and fit a datagram.
    #[error("symbol size {0} is not even or not between {SYMBOL_SIZE_MIN} and {SYMBOL_SIZE_MAX}")]
    SymbolSize(u32),
    /// Blocks must be whole BLAKE3 subtrees.
    #[error("block size {0} is not a power of two between {BLOCK_SIZE_MIN} and {BLOCK_SIZE_MAX}")]
    BlockSize(u32),
    /// ESIs would not fit 16 bits.
    #[error("a block of {block_size} bytes has too many symbols of {symbol_size} bytes")]
    TooManySymbols {
        /// The block size.
        block_size: u32,
        /// The symbol size.
        symbol_size: u16,
    },
    /// This version does not know the code.
    #[error("FEC scheme {0} is not known: update nackcast")]
    Fec(u32),
    /// The object is larger than any object may be.
    #[error("an object of {0} bytes is too large")]
    ObjectSize(u64),
}

impl Default for Geometry {
    /// 1,400-byte symbols (1,498 bytes on IPv6) in blocks of 256 KiB.
    fn default() -> Self {
        Self { symbol_size: 1400, block_size: 256 << 10, fec: FecScheme::ReedSolomonLow }
    }
}

impl Geometry {
    /// Checks the three numbers.
    ///
    /// # Errors
    /// When a receiver could not work with them; see [`GeometryError`].
    pub fn new(symbol_size: u32, block_size: u32, fec: u32) -> Result<Self, GeometryError> {
        let symbol = u16::try_from(symbol_size).map_err(|_| GeometryError::SymbolSize(symbol_size))?;
        if symbol % 2 != 0 || !(SYMBOL_SIZE_MIN..=SYMBOL_SIZE_MAX).contains(&symbol) {
            return Err(GeometryError::SymbolSize(symbol_size));
        }
        if !block_size.is_power_of_two() || !(BLOCK_SIZE_MIN..=BLOCK_SIZE_MAX).contains(&block_size) {
            return Err(GeometryError::BlockSize(block_size));
        }
        if block_size.div_ceil(symbol_size) > SOURCE_SYMBOLS_MAX {
            return Err(GeometryError::TooManySymbols { block_size, symbol_size: symbol });
        }
        let scheme = u8::try_from(fec).ok().and_then(FecScheme::from_id).ok_or(GeometryError::Fec(fec))?;
        Ok(Self { symbol_size: symbol, block_size, fec: scheme })
    }

    /// Bytes in an encoding symbol.
    #[must_use]
    pub const fn symbol_size(&self) -> u16 {
        self.symbol_size
    }

    /// Bytes in a block that is not the last.
    #[must_use]
    pub const fn block_size(&self) -> u32 {
        self.block_size
    }

    /// The erasure code.
    #[must_use]
    pub const fn fec(&self) -> FecScheme {
        self.fec
    }

    /// The id of an object of this geometry: the first 8 bytes of
    /// `BLAKE3(digest ‖ size u64 ‖ symbol size u32 ‖ block size u32 ‖ FEC id u8)`, integers big-endian.
    #[must_use]
    pub fn object_id(&self, digest: &Digest, size: u64) -> ObjectId {
        let mut hasher = blake3::Hasher::new();
        hasher
            .update(&digest.0)
            .update(&size.to_be_bytes())
            .update(&u32::from(self.symbol_size).to_be_bytes())
            .update(&self.block_size.to_be_bytes())
            .update(&[self.fec.id()]);
        ObjectId(Digest(*hasher.finalize().as_bytes()).prefix())
    }

    /// This geometry, for an object of `size` bytes.
    ///
    /// # Errors
    /// When no object may be that large.
    pub fn object(self, size: u64) -> Result<Layout, GeometryError> {
        let blocks = size.div_ceil(u64::from(self.block_size));
        match u32::try_from(blocks) {
            Ok(_) if size <= OBJECT_SIZE_MAX => Ok(Layout { geometry: self, size }),
            _ => Err(GeometryError::ObjectSize(size)),
        }
    }
}

/// One object's cut: its blocks and their symbols.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Layout {
    geometry: Geometry,
    size: u64,
}

impl Layout {
    /// Bytes in the object.
    #[must_use]
    pub const fn size(&self) -> u64 {
        self.size
    }

    /// How it is cut.
    #[must_use]
    pub const fn geometry(&self) -> Geometry {
        self.geometry
    }

    /// Number of blocks; an empty object has none.
    #[must_use]
    pub const fn block_count(&self) -> u32 {
        // `Geometry::object` made sure that it fits.
        #[expect(clippy::cast_possible_truncation, reason = "checked in Geometry::object")]
        let count = self.size.div_ceil(self.geometry.block_size as u64) as u32;
        count
    }

    /// Where a block begins in the object.
    #[must_use]
    pub const fn block_offset(&self, block: u32) -> u64 {
        block as u64 * self.geometry.block_size as u64
    }

    /// Bytes in a block; zero past the end.
    #[must_use]
    pub fn block_len(&self, block: u32) -> u32 {
        let left = self.size.saturating_sub(self.block_offset(block));
        u32::try_from(left).unwrap_or(u32::MAX).min(self.geometry.block_size)
    }

    /// K: source symbols in a block; zero past the end.
    #[must_use]
    pub fn source_symbols(&self, block: u32) -> u16 {
        let count = self.block_len(block).div_ceil(u32::from(self.geometry.symbol_size));
        // At most SOURCE_SYMBOLS_MAX, by the geometry.
        u16::try_from(count).unwrap_or(u16::MAX)
    }

    /// Source symbols in the whole object.
    #[must_use]
    pub fn source_symbols_total(&self) -> u64 {
        let blocks = self.block_count();
        match blocks.checked_sub(1) {
            None => 0,
            Some(last) => u64::from(last) * u64::from(self.source_symbols(0)) + u64::from(self.source_symbols(last)),
        }
    }

    /// One past the largest ESI of a block.
    #[must_use]
    pub fn esi_end(&self, block: u32) -> u16 {
        match self.source_symbols(block) {
            0 => 0,
            k => k + REPAIR_SYMBOLS,
        }
    }

    /// The bytes of the block that source symbol `esi` carries (without padding).
    #[must_use]
    pub fn symbol_range(&self, block: u32, esi: u16) -> Range<usize> {
        let size = usize::from(self.geometry.symbol_size);
        let length = self.block_len(block) as usize;
        let start = (usize::from(esi) * size).min(length);
        start..(start + size).min(length)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn layout(size: u64) -> Layout {
        Geometry::default().object(size).unwrap()
    }

    #[test]
    fn interesting_sizes() {
        let block = 262_144_u64;
        // (size, blocks, K of the first block, K of the last block, bytes in the last block)
        for (size, blocks, first, last, last_len) in [
            (0, 0, 0, 0, 0),
            (1, 1, 1, 1, 1),
            (1399, 1, 1, 1, 1399),
            (1400, 1, 1, 1, 1400),
            (1401, 1, 2, 2, 1401),
            (block - 1, 1, 188, 188, 262_143),
            (block, 1, 188, 188, 262_144),
            (block + 1, 2, 188, 1, 1),
            (8 * block, 8, 188, 188, 262_144),
        ] {
            let l = layout(size);
            let tail = l.block_count().saturating_sub(1);
            assert_eq!(
                (l.block_count(), l.source_symbols(0), l.source_symbols(tail), l.block_len(tail)),
                (blocks, first, last, last_len),
                "size {size}"
            );
            assert_eq!(l.block_len(blocks), 0);
            assert_eq!(l.source_symbols(blocks), 0);
        }
    }

    #[test]
    fn refuses_what_no_receiver_could_use() {
        assert_eq!(Geometry::new(0, 1024, 1), Err(GeometryError::SymbolSize(0)));
        assert_eq!(Geometry::new(1401, 1 << 18, 1), Err(GeometryError::SymbolSize(1401)));
        assert_eq!(Geometry::new(65_536, 1 << 18, 1), Err(GeometryError::SymbolSize(65_536)));
        assert_eq!(Geometry::new(1400, 0, 1), Err(GeometryError::BlockSize(0)));
        assert_eq!(Geometry::new(1400, 3000, 1), Err(GeometryError::BlockSize(3000)));
        assert!(matches!(Geometry::new(16, 16 << 20, 1), Err(GeometryError::TooManySymbols { .. })));
        assert_eq!(Geometry::new(1400, 1 << 18, 9), Err(GeometryError::Fec(9)));
        assert!(Geometry::default().object(u64::MAX).is_err());
    }

    proptest! {
        #[test]
        fn symbols_tile_the_object(size in 0_u64..3_000_000, symbol in 8_u32..1000, block in 10_u32..18) {
            let l = Geometry::new(symbol * 2, 1 << block, 1).unwrap().object(size).unwrap();
            let mut at = 0;
            let mut symbols = 0_u64;
            for b in 0..l.block_count() {
                prop_assert_eq!(l.block_offset(b), at);
                let mut inside = 0;
                for esi in 0..l.source_symbols(b) {
                    let range = l.symbol_range(b, esi);
                    prop_assert_eq!(range.start, inside);
                    prop_assert!(!range.is_empty());
                    inside = range.end;
                    symbols += 1;
                }
                prop_assert_eq!(inside, l.block_len(b) as usize);
                at += inside as u64;
            }
            prop_assert_eq!(at, size);
            prop_assert_eq!(symbols, l.source_symbols_total());
        }
    }
}
