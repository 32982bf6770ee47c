//! A block that lacks few symbols, restored at little more than the cost of encoding it.
//!
//! The library's decoder works on the whole field, whatever is missing. But what repair symbols say beyond the source
//! symbols at hand is a small system of linear equations, one for each missing symbol, and its matrix is known.
//!
//! - In the low-rate code a block is a polynomial of degree below n (K, rounded up to a power of two), which is s_i
//!   at the point i, and repair symbol j is its value at the point n + j; points are elements of the field, counted
//!   in Cantor's basis. By Lagrange's formula, repair symbol j takes s_i times V(n + j) / ((n + j) - i), where V
//!   vanishes at all points below n. In that basis V(n + j) is the element (n + j) >> log2 n, and its derivative is 1.
//! - So the equations' matrix is Cauchy's, but for one factor a row, and has an inverse in closed form.
//! - Their right side is the repair symbol, less the same made from the source symbols at hand: one encoding.

use fixedbitset::FixedBitSet;
use reed_solomon_simd::engine::tables::{ExpLog, get_exp_log};
use reed_solomon_simd::engine::{DefaultEngine, Engine as _, GF_MODULUS, utils};
use reed_solomon_simd::rate::RateEncoder as _;

use super::{CHECKED, Encoder};
use crate::fec::FecError;

/// Up to so many missing symbols this way is the faster one (`cargo bench --bench stages`).
pub(super) const MOST: usize = 48;
/// The library keeps symbols in such pieces: low bytes of 32 elements, then the high ones.
type Piece = [u8; 64];

pub(super) struct Decoder {
    engine: DefaultEngine,
    encoder: Encoder,
    /// Right sides, one after the other; what is restored; and what is added to it.
    sides: Vec<Piece>,
    sum: Vec<Piece>,
    term: Vec<Piece>,
}

impl Default for Decoder {
    fn default() -> Self {
        Self {
            engine: DefaultEngine::new(),
            encoder: Encoder::default(),
            sides: Vec::new(),
            sum: Vec::new(),
            term: Vec::new(),
        }
    }
}

impl Decoder {
    /// As the decoder for many.
    pub(super) fn decode(
        &mut self,
        k: u16,
        symbol_size: u16,
        block: &mut [u8],
        have_source: &FixedBitSet,
        repair: &[(u16, &[u8])],
    ) -> Result<(), FecError> {
        let size = usize::from(symbol_size);
        let pieces = size.div_ceil(size_of::<Piece>());
        let missing: Vec<usize> = (0..usize::from(k)).filter(|esi| !have_source.contains(*esi)).collect();
        let count = repair.iter().map(|(index, _)| usize::from(*index) + 1).max().unwrap_or(0);
        let begun = self.encoder.begin(usize::from(k), count, size);
        let encoder = begun.map_err(|_| FecError::Geometry { k, symbol_size })?;
        let nothing = vec![0; size];
        for (esi, symbol) in block.chunks_exact(size).enumerate() {
            encoder.add_original_shard(if have_source.contains(esi) { symbol } else { &nothing }).expect(CHECKED);
        }
        let made = encoder.encode().expect(CHECKED);
        self.sides.clear();
        self.sides.resize(repair.len() * pieces, [0; 64]);
        for ((index, symbol), side) in repair.iter().zip(self.sides.chunks_exact_mut(pieces)) {
            lay_difference(side, symbol, made.recovery(usize::from(*index)).expect(CHECKED));
        }
        let points = repair.iter().map(|(index, _)| usize::from(k).next_power_of_two() + usize::from(*index)).collect();
        let system = System::new(usize::from(k), points, missing);
        self.term.resize(pieces, [0; 64]);
        for (column, esi) in system.columns.iter().enumerate() {
            self.sum.clear();
            self.sum.resize(pieces, [0; 64]);
            for (row, side) in self.sides.chunks_exact(pieces).enumerate() {
                self.term.copy_from_slice(side);
                self.engine.mul(&mut self.term, system.inverse(column, row));
                utils::xor(&mut self.sum, &self.term);
            }
            take(&self.sum, &mut block[esi * size..][..size]);
        }
        Ok(())
    }
}

/// The equations' matrix, in logarithms.
struct System {
    field: &'static ExpLog,
    /// Points of repair symbols.
    rows: Vec<usize>,
    /// Missing source symbols.
    columns: Vec<usize>,
    /// What the inverse has in each row, and in each column.
    of_row: Vec<i64>,
    of_column: Vec<i64>,
}

impl System {
    /// As many rows as columns; all points are distinct.
    fn new(k: usize, rows: Vec<usize>, columns: Vec<usize>) -> Self {
        let field = get_exp_log();
        let bits = k.next_power_of_two().trailing_zeros();
        // Addition in the field, and subtraction, is the exclusive or.
        let log = |difference: usize| i64::from(field.log[difference]);
        let apart = |from: usize, others: &[usize]| -> i64 {
            others.iter().filter(|other| **other != from).map(|other| log(from ^ other)).sum()
        };
        let of_row = rows.iter().map(|x| apart(*x, &columns) - apart(*x, &rows) - log(x >> bits)).collect();
        let of_column = columns.iter().map(|y| apart(*y, &rows) - apart(*y, &columns)).collect();
        Self { field, rows, columns, of_row, of_column }
    }

    /// The logarithm of an element of the inverse.
    fn inverse(&self, column: usize, row: usize) -> u16 {
        let apart = i64::from(self.field.log[self.rows[row] ^ self.columns[column]]);
        let log = (self.of_row[row] + self.of_column[column] - apart).rem_euclid(i64::from(GF_MODULUS));
        u16::try_from(log).expect("less than the modulus")
    }
}

/// The difference of two symbols, as the library keeps them: its last piece has the low and the high bytes apart.
fn lay_difference(to: &mut [Piece], a: &[u8], b: &[u8]) {
    let bytes = to.as_flattened_mut();
    for ((to, a), b) in bytes.iter_mut().zip(a).zip(b) {
        *to = a ^ b;
    }
    let tail = a.len() % size_of::<Piece>();
    if tail > 0 {
        let last = &mut bytes[a.len() - tail..];
        last.copy_within(tail / 2..tail, 32);
        last[tail / 2..32].fill(0);
        last[32 + tail / 2..].fill(0);
    }
}

/// The reverse of it.
fn take(from: &[Piece], symbol: &mut [u8]) {
    let bytes = from.as_flattened();
    let tail = symbol.len() % size_of::<Piece>();
    let whole = symbol.len() - tail;
    symbol[..whole].copy_from_slice(&bytes[..whole]);
    if tail > 0 {
        let (low, high) = symbol[whole..].split_at_mut(tail / 2);
        low.copy_from_slice(&bytes[whole..][..low.len()]);
        high.copy_from_slice(&bytes[whole + 32..][..high.len()]);
    }
}
