//! The 20-byte header of every datagram, which is the AEAD's additional data.
//!
//! ```text
//!  0                   1                   2                   3
//!  0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1
//! +-+-+-----------+---------------+---------------+---------------+
//! |0|0|  version  |     type      |     flow      | epoch (low 8) |
//! +-+-+-----------+---------------+---------------+---------------+
//! |                         session (64 bits)                     |
//! +---------------------------------------------------------------+
//! |                      packet number (64 bits)                  |
//! +---------------------------------------------------------------+
//! ```
//! The two high bits are 0 (QUIC sets one), so that one port could carry both.

use nackcast_common::keys::Flow;
use nackcast_common::seal::FlowKey;

use super::WireError;
use super::limits::TAG_LEN;

/// Length of the header.
pub const LEN: usize = 20;

/// What a datagram carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum DatagramType {
    /// Signed, on the advertisement group.
    Advertisement = 1,
    /// Signed promises of repair, on the advertisement group.
    Digest = 2,
    /// An encoding symbol, on the data group.
    Symbol = 3,
    /// A packet of a live stream, on the data group.
    StreamSymbol = 4,
    /// A receiver's demands, to a sender's NACK port.
    Nack = 5,
    /// The answer, to the NACK's source.
    NackAnswer = 6,
    /// A sender's question to another one, to its NACK port.
    Probe = 7,
    /// The answer, to the question's source.
    ProbeAnswer = 8,
}

/// A parsed header. Nothing in it is to be believed before the datagram opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// What the datagram carries.
    pub datagram_type: DatagramType,
    /// Which key and which packet numbers.
    pub flow: Flow,
    /// Low 8 bits of the epoch.
    pub epoch_low: u8,
    /// Session of a sender, or run of a receiver.
    pub session: u64,
    /// Nonce and loss estimator, nothing else.
    pub packet_number: u64,
}

impl DatagramType {
    const fn from_u8(value: u8) -> Option<Self> {
        Some(match value {
            1 => Self::Advertisement,
            2 => Self::Digest,
            3 => Self::Symbol,
            4 => Self::StreamSymbol,
            5 => Self::Nack,
            6 => Self::NackAnswer,
            7 => Self::Probe,
            8 => Self::ProbeAnswer,
            _ => return None,
        })
    }

    /// The flow on which datagrams of this type travel.
    #[must_use]
    pub const fn flow(self) -> Flow {
        match self {
            Self::Advertisement | Self::Digest => Flow::Advertisement,
            Self::Symbol | Self::StreamSymbol => Flow::Data,
            Self::Nack | Self::Probe => Flow::ToSender,
            Self::NackAnswer | Self::ProbeAnswer => Flow::ToReceiver,
        }
    }
}

impl Header {
    /// Writes the header to the front of a datagram.
    pub fn write(&self, out: &mut [u8; LEN]) {
        out[0] = crate::WIRE_VERSION;
        out[1] = self.datagram_type as u8;
        out[2] = self.flow as u8;
        out[3] = self.epoch_low;
        out[4..12].copy_from_slice(&self.session.to_be_bytes());
        out[12..20].copy_from_slice(&self.packet_number.to_be_bytes());
    }

    /// Makes `out` a datagram of this header and body, sealed. (Symbols are sealed where they are built.)
    pub fn seal(&self, key: &FlowKey, body: &[u8], out: &mut Vec<u8>) {
        let mut front = [0; LEN];
        self.write(&mut front);
        out.clear();
        out.reserve(LEN + body.len() + TAG_LEN);
        out.extend_from_slice(&front);
        out.extend_from_slice(body);
        out.resize(LEN + body.len() + TAG_LEN, 0);
        key.seal_in_place(self.packet_number, LEN, out);
    }

    /// Reads the header of a datagram that is long enough for a tag too.
    ///
    /// # Errors
    /// When the datagram is too short or its version, type or flow is not ours.
    pub fn read(datagram: &[u8]) -> Result<Self, WireError> {
        if datagram.len() < LEN + TAG_LEN {
            return Err(WireError::Short(datagram.len()));
        }
        let (Some(head), Some(session), Some(number)) =
            (datagram.first_chunk::<4>(), read_u64(datagram, 4), read_u64(datagram, 12))
        else {
            return Err(WireError::Short(datagram.len()));
        };
        if head[0] != crate::WIRE_VERSION {
            return Err(WireError::Header);
        }
        let datagram_type = DatagramType::from_u8(head[1]).ok_or(WireError::Header)?;
        let flow = Flow::from_u8(head[2]).ok_or(WireError::Header)?;
        if flow != datagram_type.flow() {
            return Err(WireError::Header);
        }
        Ok(Self { datagram_type, flow, epoch_low: head[3], session, packet_number: number })
    }
}

/// A big-endian integer at `at`.
pub(crate) fn read_u64(bytes: &[u8], at: usize) -> Option<u64> {
    Some(u64::from_be_bytes(*bytes.get(at..)?.first_chunk()?))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn refuses_other_versions_types_and_flows() {
        let header = Header {
            datagram_type: DatagramType::Symbol,
            flow: Flow::Data,
            epoch_low: 7,
            session: 1,
            packet_number: 2,
        };
        let mut bytes = [0; LEN + TAG_LEN];
        header.write(bytes.first_chunk_mut().unwrap());
        assert_eq!(Header::read(&bytes), Ok(header));
        for (at, value) in [(0, 0x40), (0, 0xc1), (0, 2), (1, 0), (1, 9), (2, 0), (2, 9)] {
            let mut bad = bytes;
            bad[at] = value;
            assert_eq!(Header::read(&bad), Err(WireError::Header), "byte {at} = {value}");
        }
        assert_eq!(Header::read(&bytes[..LEN + TAG_LEN - 1]), Err(WireError::Short(35)));
    }

    proptest! {
        #[test]
        fn never_panics(bytes in prop::collection::vec(any::<u8>(), 0..60)) {
            drop(Header::read(&bytes));
        }
    }
}
