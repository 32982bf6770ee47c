//! Bits in and out of bytes, most significant first, with Rice codes on top (a quotient in unary, then `k` bits).

/// Writes bits.
#[derive(Debug, Default)]
pub struct BitWriter {
    bytes: Vec<u8>,
    used: usize,
}

/// Reads bits; `None` at the end.
#[derive(Debug)]
pub struct BitReader<'a> {
    bytes: &'a [u8],
    at: usize,
}

/// Longest unary quotient: no sane encoder makes one, and it bounds a hostile one.
const QUOTIENT_MAX: u32 = 1 << 16;

/// Bits that `value` takes in a Rice code of parameter `k`.
#[must_use]
pub const fn rice_len(value: u32, k: u32) -> u64 {
    (value >> k) as u64 + 1 + k as u64
}

/// Bits that `value`, at least one, takes in an Elias gamma code.
#[must_use]
pub const fn gamma_len(value: u32) -> u64 {
    (2 * (u32::BITS - value.leading_zeros())).saturating_sub(1) as u64
}

/// The parameter that is best for values of this mean: about log2(mean * ln 2).
#[must_use]
pub fn rice_parameter(sum: u64, count: u64) -> u32 {
    let target = sum.saturating_mul(69) / count.max(1) / 100;
    (u64::BITS - target.leading_zeros()).saturating_sub(u32::from(target > 0)).min(30)
}

impl BitWriter {
    /// Nothing written yet.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Bits so far.
    #[must_use]
    pub const fn len_bits(&self) -> usize {
        self.used
    }

    /// The bytes, the last padded with zeros.
    #[must_use]
    pub fn into_bytes(self) -> Vec<u8> {
        self.bytes
    }

    fn push(&mut self, bit: bool) {
        if self.used.is_multiple_of(8) {
            self.bytes.push(0);
        }
        if let Some(last) = self.bytes.last_mut()
            && bit
        {
            *last |= 0x80 >> (self.used % 8);
        }
        self.used += 1;
    }

    /// Writes the low `count` bits of `value`.
    pub fn write(&mut self, value: u32, count: u32) {
        for shift in (0..count).rev() {
            self.push((value >> shift) & 1 == 1);
        }
    }

    /// Writes an Elias gamma code of a value of at least one.
    pub fn write_gamma(&mut self, value: u32) {
        let len = u32::BITS - value.leading_zeros();
        self.write(0, len.saturating_sub(1));
        self.write(value, len);
    }

    /// Writes a Rice code.
    pub fn write_rice(&mut self, value: u32, k: u32) {
        for _ in 0..(value >> k) {
            self.push(true);
        }
        self.push(false);
        self.write(value, k);
    }
}

impl<'a> BitReader<'a> {
    /// From the first bit.
    #[must_use]
    pub const fn new(bytes: &'a [u8]) -> Self {
        Self { bytes, at: 0 }
    }

    fn pull(&mut self) -> Option<bool> {
        let byte = self.bytes.get(self.at / 8)?;
        let bit = byte & (0x80 >> (self.at % 8)) != 0;
        self.at += 1;
        Some(bit)
    }

    /// Reads `count` bits.
    pub fn read(&mut self, count: u32) -> Option<u32> {
        (0..count).try_fold(0_u32, |value, _| Some((value << 1) | u32::from(self.pull()?)))
    }

    /// Reads an Elias gamma code.
    pub fn read_gamma(&mut self) -> Option<u32> {
        let mut zeros = 0;
        while !self.pull()? {
            zeros += 1;
            if zeros > 31 {
                return None;
            }
        }
        (0..zeros).try_fold(1_u32, |value, _| Some((value << 1) | u32::from(self.pull()?)))
    }

    /// Reads a Rice code; `None` too where it is longer or larger than any encoder makes it.
    pub fn read_rice(&mut self, k: u32) -> Option<u32> {
        let mut quotient = 0_u32;
        while self.pull()? {
            quotient += 1;
            if quotient > QUOTIENT_MAX {
                return None;
            }
        }
        let high = quotient.checked_mul(1_u32.checked_shl(k)?)?;
        high.checked_add(self.read(k)?)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn rice_codes_round_trip(values in prop::collection::vec(0_u32..5000, 0..200), k in 1_u32..13) {
            let mut writer = BitWriter::new();
            let mut bits = 0;
            for value in &values {
                writer.write_rice(*value, k);
                bits += rice_len(*value, k);
            }
            prop_assert_eq!(writer.len_bits() as u64, bits);
            let bytes = writer.into_bytes();
            let mut reader = BitReader::new(&bytes);
            for value in &values {
                prop_assert_eq!(reader.read_rice(k), Some(*value));
            }
        }

        #[test]
        fn gamma_codes_round_trip(values in prop::collection::vec(1_u32.., 0..50)) {
            let mut writer = BitWriter::new();
            for value in &values {
                let before = writer.len_bits();
                writer.write_gamma(*value);
                prop_assert_eq!((writer.len_bits() - before) as u64, gamma_len(*value));
            }
            let bytes = writer.into_bytes();
            let mut reader = BitReader::new(&bytes);
            for value in &values {
                prop_assert_eq!(reader.read_gamma(), Some(*value));
            }
        }

        #[test]
        fn the_reader_ends(bytes in prop::collection::vec(any::<u8>(), 0..600), k in 0_u32..40) {
            let mut reader = BitReader::new(&bytes);
            let mut read = 0;
            while reader.read_rice(k).is_some() {
                read += 1;
            }
            prop_assert!(read <= bytes.len() * 8);
        }
    }
}
