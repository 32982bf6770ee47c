//! Forward error correction: repair symbols of a block, and a block back from any K of its symbols.
//!
//! - A repair symbol depends only on the block's bytes, the geometry and its index, so the symbols of two senders
//!   combine. The promise stands at the scheme's module, `fec/reed_solomon.rs`.
//! - [`Encoder`] and [`Decoder`] keep their work memory between blocks; keep one per thread.
//! - What comes from the network (which symbols, of what length) is answered with a [`FecError`], never a panic.

use std::fmt;
use std::ops::Range;

use fixedbitset::FixedBitSet;

use crate::geometry::{FecScheme, REPAIR_SYMBOLS};

mod reed_solomon;

/// Why a block was not restored. Its content is as it was.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FecError {
    /// More symbols must be received first.
    #[error("the block needs {need} symbols and only {have} are here")]
    NotEnough {
        /// Distinct symbols at hand.
        have: usize,
        /// K.
        need: usize,
    },
    /// No block has this repair symbol.
    #[error("repair symbol {0} is beyond the code's last, {last}", last = REPAIR_SYMBOLS - 1)]
    RepairIndex(u16),
    /// A repair symbol of another geometry.
    #[error("repair symbol {index} has {len} bytes and not {symbol_size}")]
    SymbolLength {
        /// Its repair index.
        index: u16,
        /// Its length.
        len: usize,
        /// What the geometry says.
        symbol_size: u16,
    },
    /// The block buffer does not hold K whole symbols.
    #[error("a block of {k} symbols of {symbol_size} bytes does not fit a buffer of {len} bytes")]
    BlockLength {
        /// Source symbols.
        k: u16,
        /// Bytes in each.
        symbol_size: u16,
        /// The buffer's length.
        len: usize,
    },
    /// The code cannot work with these numbers (no checked geometry has them).
    #[error("the code cannot work with {k} symbols of {symbol_size} bytes")]
    Geometry {
        /// Source symbols.
        k: u16,
        /// Bytes in each.
        symbol_size: u16,
    },
}

/// Makes repair symbols.
#[derive(Default)]
pub struct Encoder {
    reed_solomon: reed_solomon::Encoder,
}

impl Encoder {
    /// Without work memory yet.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// The repair symbols of the given indices (0 is ESI K), one after the other.
    ///
    /// `block` is cut at `symbol_size`; its last symbol is zero-padded.
    ///
    /// # Panics
    /// When `block` is not one of `k` symbols, or `repair` ends beyond [`REPAIR_SYMBOLS`]: both come from a
    /// checked [`crate::geometry::Layout`].
    #[must_use]
    pub fn encode(&mut self, scheme: FecScheme, block: &[u8], k: u16, symbol_size: u16, repair: Range<u16>) -> Vec<u8> {
        assert!(
            k > 0 && block.len().div_ceil(usize::from(symbol_size)) == usize::from(k),
            "a block of {} bytes has not {k} symbols of {symbol_size} bytes",
            block.len()
        );
        assert!(repair.end <= REPAIR_SYMBOLS, "repair symbols end at {REPAIR_SYMBOLS}, {} asked", repair.end);
        if repair.is_empty() {
            return Vec::new();
        }
        match scheme {
            FecScheme::ReedSolomonLow => self.reed_solomon.encode(block, k, symbol_size, repair),
        }
    }
}

impl fmt::Debug for Encoder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Encoder")
    }
}

/// Restores missing source symbols.
#[derive(Default)]
pub struct Decoder {
    reed_solomon: reed_solomon::Decoder,
}

impl Decoder {
    /// Without work memory yet.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Restores the source symbols of `block` that `have_source` does not name, in place.
    ///
    /// `block` is `k * symbol_size` bytes; the source symbols at hand stand in their places, the last one
    /// zero-padded. `repair` are pairs of repair index (0 is ESI K) and symbol, in any order; one index twice
    /// counts once, the first.
    ///
    /// # Errors
    /// When symbols are too few or malformed; `block` is then unchanged.
    pub fn decode(
        &mut self,
        scheme: FecScheme,
        k: u16,
        symbol_size: u16,
        block: &mut [u8],
        have_source: &FixedBitSet,
        repair: &[(u16, &[u8])],
    ) -> Result<(), FecError> {
        if block.len() != usize::from(k) * usize::from(symbol_size) {
            return Err(FecError::BlockLength { k, symbol_size, len: block.len() });
        }
        if k == 0 || symbol_size == 0 {
            return Err(FecError::Geometry { k, symbol_size });
        }
        let missing = (0..usize::from(k)).filter(|&esi| !have_source.contains(esi)).count();
        if missing == 0 {
            return Ok(());
        }
        let chosen = choose(repair, symbol_size, missing)?;
        if chosen.len() < missing {
            return Err(FecError::NotEnough { have: usize::from(k) - missing + chosen.len(), need: usize::from(k) });
        }
        match scheme {
            FecScheme::ReedSolomonLow => self.reed_solomon.decode(k, symbol_size, block, have_source, &chosen),
        }
    }
}

impl fmt::Debug for Decoder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Decoder")
    }
}

/// The first `wanted` distinct repair symbols, all checked: more than are missing would only cost time.
fn choose<'a>(repair: &[(u16, &'a [u8])], symbol_size: u16, wanted: usize) -> Result<Vec<(u16, &'a [u8])>, FecError> {
    let mut seen = FixedBitSet::with_capacity(usize::from(REPAIR_SYMBOLS));
    let mut chosen = Vec::with_capacity(wanted.min(usize::from(REPAIR_SYMBOLS)));
    for &(index, symbol) in repair {
        if index >= REPAIR_SYMBOLS {
            return Err(FecError::RepairIndex(index));
        }
        if symbol.len() != usize::from(symbol_size) {
            return Err(FecError::SymbolLength { index, len: symbol.len(), symbol_size });
        }
        if chosen.len() < wanted && !seen.put(usize::from(index)) {
            chosen.push((index, symbol));
        }
    }
    Ok(chosen)
}

#[cfg(test)]
mod tests;
