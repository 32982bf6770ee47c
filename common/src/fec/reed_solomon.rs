//! FEC scheme 1: Reed-Solomon over GF(2^16) as reed-solomon-simd 3 computes it, low rate.
//!
//! The wire promise: repair symbol `i` of a block is what `LowRateEncoder` with a recovery count of 256 gives at
//! `i`. The low-rate code is prefix-stable (fewer recovery symbols are the first of more), so an encoder asks only
//! for as many as it needs; the crate's default encoder switches to a high-rate code by the counts and is not.

use std::ops::Range;

use fixedbitset::FixedBitSet;
use reed_solomon_simd::Error;
use reed_solomon_simd::engine::DefaultEngine;
use reed_solomon_simd::rate::{LowRateDecoder, LowRateEncoder, RateDecoder as _, RateEncoder as _};

use super::FecError;
use crate::geometry::REPAIR_SYMBOLS;

mod few;

const CHECKED: &str = "the caller checked counts and sizes";

#[derive(Default)]
pub(super) struct Encoder {
    inner: Option<LowRateEncoder<DefaultEngine>>,
}

impl Encoder {
    /// The caller has checked that `block` has `k` symbols and that `repair` is neither empty nor too long.
    pub(super) fn encode(&mut self, block: &[u8], k: u16, symbol_size: u16, repair: Range<u16>) -> Vec<u8> {
        let size = usize::from(symbol_size);
        let encoder = self
            .begin(usize::from(k), usize::from(repair.end), size)
            .expect("symbols are even-sized and K is at most 32,768, by the geometry");
        let whole = block.chunks_exact(size);
        let tail = whole.remainder();
        for symbol in whole {
            encoder.add_original_shard(symbol).expect(CHECKED);
        }
        if !tail.is_empty() {
            let mut padded = vec![0; size];
            padded[..tail.len()].copy_from_slice(tail);
            encoder.add_original_shard(&padded).expect(CHECKED);
        }
        let result = encoder.encode().expect(CHECKED);
        let mut symbols = Vec::with_capacity(repair.len() * size);
        for index in repair {
            symbols.extend_from_slice(result.recovery(usize::from(index)).expect(CHECKED));
        }
        symbols
    }

    fn begin(&mut self, k: usize, count: usize, size: usize) -> Result<&mut LowRateEncoder<DefaultEngine>, Error> {
        if let Some(encoder) = &mut self.inner {
            encoder.reset(k, count, size)?;
        } else {
            self.inner = Some(LowRateEncoder::new(k, count, size, DefaultEngine::new(), None)?);
        }
        Ok(self.inner.as_mut().expect("made above"))
    }
}

/// Restores by either of two ways, whichever costs less; both give the same.
#[derive(Default)]
pub(super) struct Decoder {
    many: Option<LowRateDecoder<DefaultEngine>>,
    few: few::Decoder,
}

impl Decoder {
    /// The caller has checked lengths, and that `repair` holds as many distinct symbols as are missing.
    pub(super) fn decode(
        &mut self,
        k: u16,
        symbol_size: u16,
        block: &mut [u8],
        have_source: &FixedBitSet,
        repair: &[(u16, &[u8])],
    ) -> Result<(), FecError> {
        if repair.len() <= few::MOST {
            return self.few.decode(k, symbol_size, block, have_source, repair);
        }
        let size = usize::from(symbol_size);
        let decoder = self.begin(k, symbol_size)?;
        for (esi, symbol) in block.chunks_exact(size).enumerate().filter(|(esi, _)| have_source.contains(*esi)) {
            decoder.add_original_shard(esi, symbol).expect(CHECKED);
        }
        for (index, symbol) in repair {
            decoder.add_recovery_shard(usize::from(*index), symbol).expect(CHECKED);
        }
        let result = decoder.decode().expect(CHECKED);
        for (esi, symbol) in result.restored_original_iter() {
            block[esi * size..][..size].copy_from_slice(symbol);
        }
        Ok(())
    }

    fn begin(&mut self, k: u16, symbol_size: u16) -> Result<&mut LowRateDecoder<DefaultEngine>, FecError> {
        let (count, size) = (usize::from(REPAIR_SYMBOLS), usize::from(symbol_size));
        let refused = |_| FecError::Geometry { k, symbol_size };
        if let Some(decoder) = &mut self.many {
            decoder.reset(usize::from(k), count, size).map_err(refused)?;
        } else {
            let fresh = LowRateDecoder::new(usize::from(k), count, size, DefaultEngine::new(), None);
            self.many = Some(fresh.map_err(refused)?);
        }
        Ok(self.many.as_mut().expect("made above"))
    }
}
