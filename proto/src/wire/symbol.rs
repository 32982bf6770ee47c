//! A symbol's body: object id (8 bytes), block (4), ESI (2), then the symbol.
//!
//! All symbols of an object are of one size, so that a batch of them is one GSO send.

use nackcast_common::ids::ObjectId;

use super::WireError;
use super::header::{self, read_u64};
use super::limits::TAG_LEN;

/// Bytes before the symbol.
pub const PREFIX_LEN: usize = 14;
/// Length of a datagram that carries a symbol of `symbol_size` bytes.
#[must_use]
pub const fn datagram_len(symbol_size: u16) -> usize {
    header::LEN + PREFIX_LEN + symbol_size as usize + TAG_LEN
}

/// Which symbol a datagram carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SymbolId {
    /// The object.
    pub object: ObjectId,
    /// The block in it.
    pub block: u32,
    /// The encoding symbol in the block.
    pub esi: u16,
}

impl SymbolId {
    /// Writes the prefix.
    pub fn write(&self, out: &mut [u8; PREFIX_LEN]) {
        out[..8].copy_from_slice(&self.object.0.to_be_bytes());
        out[8..12].copy_from_slice(&self.block.to_be_bytes());
        out[12..14].copy_from_slice(&self.esi.to_be_bytes());
    }

    /// Splits an opened body into the symbol's name and its bytes.
    ///
    /// # Errors
    /// When the body is shorter than the prefix.
    pub fn read(body: &[u8]) -> Result<(Self, &[u8]), WireError> {
        let short = || WireError::Short(body.len());
        let object = read_u64(body, 0).ok_or_else(short)?;
        let block = *body.get(8..).and_then(|b| b.first_chunk::<4>()).ok_or_else(short)?;
        let esi = *body.get(12..).and_then(|b| b.first_chunk::<2>()).ok_or_else(short)?;
        let symbol = body.get(PREFIX_LEN..).ok_or_else(short)?;
        let id = Self { object: ObjectId(object), block: u32::from_be_bytes(block), esi: u16::from_be_bytes(esi) };
        Ok((id, symbol))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn round_trips_and_never_panics(object: u64, block: u32, esi: u16, symbol in prop::collection::vec(any::<u8>(), 0..40)) {
            let id = SymbolId { object: ObjectId(object), block, esi };
            let mut body = vec![0; PREFIX_LEN];
            id.write(body.first_chunk_mut().unwrap());
            body.extend(&symbol);
            prop_assert_eq!(SymbolId::read(&body), Ok((id, &symbol[..])));
            for cut in 0..PREFIX_LEN {
                prop_assert!(SymbolId::read(&body[..cut]).is_err());
            }
        }
    }
}
