//! Sealing of datagrams: AES-256-GCM in place, the packet number as nonce, the header as associated data.
//!
//! - A sealed datagram is `header ‖ ciphertext ‖ 16-byte tag`; nothing is allocated on either way.
//! - A nonce is never used twice under one key: [`PacketNumbers`] hands every number out once, and a session
//!   (with its keys) is new at every start.

use std::fmt;
use std::ops::Range;

use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey};

use crate::mutation::{Mutation, planted};

/// Bytes of the authentication tag at the end of every datagram.
pub const TAG_LEN: usize = 16;

/// A session rolls to a new id from this packet number on: half of the 2^32 packets that one key may seal, so
/// that batches in flight while it rolls stay far from the limit.
pub const ROLL_AT: u64 = 1 << 31;

/// Why a datagram was not opened. The caller counts it and drops it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum OpenError {
    /// It has no room for header and tag.
    #[error("a datagram of {0} bytes is too short")]
    TooShort(usize),
    /// Another key sealed it, or it was changed on the way.
    #[error("the datagram is not authentic: it was damaged, or sealed with another key")]
    NotAuthentic,
}

/// The key of one flow (see [`crate::keys::Flow`]) of one session.
pub struct FlowKey {
    key: LessSafeKey,
}

impl FlowKey {
    /// From derived bytes (see [`crate::keys::EpochSecret::flow_key`]).
    ///
    /// # Panics
    /// Never: AES-256 takes every key of 32 bytes.
    #[must_use]
    pub fn new(key: &[u8; 32]) -> Self {
        let key = UnboundKey::new(&AES_256_GCM, key).expect("AES-256 takes every key of 32 bytes");
        Self { key: LessSafeKey::new(key) }
    }

    /// Seals `datagram` = header, plaintext, room for the tag.
    ///
    /// # Panics
    /// When the datagram has no room for header and tag: the caller laid it out wrongly.
    pub fn seal_in_place(&self, packet_number: u64, header_len: usize, datagram: &mut [u8]) {
        assert!(datagram.len() >= header_len + TAG_LEN, "a datagram needs room for header and tag");
        let (header, rest) = datagram.split_at_mut(header_len);
        let (body, room) = rest.split_at_mut(rest.len() - TAG_LEN);
        let tag = self
            .key
            .seal_in_place_separate_tag(nonce(packet_number), Aad::from(&*header), body)
            .expect("a datagram is far below AES-GCM's limit");
        room.copy_from_slice(tag.as_ref());
    }

    /// Opens a sealed datagram and gives its plaintext. On an error the content of `datagram` is lost.
    ///
    /// # Errors
    /// When it is too short, or not authentic.
    pub fn open_in_place<'a>(
        &self,
        packet_number: u64,
        header_len: usize,
        datagram: &'a mut [u8],
    ) -> Result<&'a mut [u8], OpenError> {
        if datagram.len() < header_len.saturating_add(TAG_LEN) {
            return Err(OpenError::TooShort(datagram.len()));
        }
        let (header, sealed) = datagram.split_at_mut(header_len);
        self.key.open_in_place(nonce(packet_number), Aad::from(&*header), sealed).map_err(|_| OpenError::NotAuthentic)
    }
}

impl fmt::Debug for FlowKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("FlowKey(..)")
    }
}

/// Four zero bytes and the packet number.
fn nonce(packet_number: u64) -> Nonce {
    let mut bytes = [0; 12];
    bytes[4..].copy_from_slice(&packet_number.to_be_bytes());
    Nonce::assume_unique_for_key(bytes)
}

/// Hands out a flow's packet numbers, each once. Not `Clone`: a copy would hand them out again.
#[derive(Debug, Default)]
pub struct PacketNumbers {
    next: u64,
}

impl PacketNumbers {
    /// Begins at zero, for a new session.
    #[must_use]
    pub const fn new() -> Self {
        Self { next: 0 }
    }

    /// The next `count` numbers.
    ///
    /// # Panics
    /// When the numbers are used up, 2^63 packets after the session should have rolled.
    #[must_use]
    pub fn take(&mut self, count: u32) -> Range<u64> {
        if planted(Mutation::NonceRestarts) && self.next > 20 {
            self.next = 0;
        }
        let start = self.next;
        self.next = start.checked_add(u64::from(count)).expect("a session rolls long before its numbers are used up");
        start..self.next
    }

    /// The number that comes next.
    #[must_use]
    pub const fn next(&self) -> u64 {
        self.next
    }

    /// Whether the session must roll to a new id (and so to new keys).
    #[must_use]
    pub const fn must_roll(&self) -> bool {
        self.next >= ROLL_AT
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn sealed(number: u64, header: &[u8], body: &[u8]) -> Vec<u8> {
        let mut datagram = [header, body, &[0; TAG_LEN]].concat();
        FlowKey::new(&[3; 32]).seal_in_place(number, header.len(), &mut datagram);
        datagram
    }

    proptest! {
        #[test]
        fn what_was_sealed_opens_and_nothing_else_does(
            number: u64,
            header in proptest::collection::vec(any::<u8>(), 0..30),
            body in proptest::collection::vec(any::<u8>(), 0..200),
            flip: prop::sample::Index,
        ) {
            let key = FlowKey::new(&[3; 32]);
            let datagram = sealed(number, &header, &body);
            prop_assert_eq!(datagram.len(), header.len() + body.len() + TAG_LEN);
            let plain = key.open_in_place(number, header.len(), &mut datagram.clone()).map(|plain| plain.to_vec());
            prop_assert_eq!(plain, Ok(body));
            prop_assert!(key.open_in_place(number ^ 1, header.len(), &mut datagram.clone()).is_err());
            prop_assert!(FlowKey::new(&[4; 32]).open_in_place(number, header.len(), &mut datagram.clone()).is_err());
            let mut bent = datagram;
            let at = flip.index(bent.len());
            bent[at] ^= 0x40;
            prop_assert_eq!(key.open_in_place(number, header.len(), &mut bent), Err(OpenError::NotAuthentic));
        }
    }

    #[test]
    fn a_short_datagram_is_an_error_and_not_a_panic() {
        let key = FlowKey::new(&[3; 32]);
        for len in 0..20 + TAG_LEN {
            assert_eq!(key.open_in_place(0, 20, &mut vec![0; len]), Err(OpenError::TooShort(len)));
        }
        assert_eq!(key.open_in_place(0, usize::MAX, &mut [0; 40]), Err(OpenError::TooShort(40)));
        assert_eq!(sealed(0, b"", b"").len(), TAG_LEN);
    }

    #[test]
    fn packet_numbers_come_once_and_the_session_rolls_in_time() {
        let mut numbers = PacketNumbers::new();
        assert_eq!(numbers.take(64), 0..64);
        assert_eq!(numbers.take(0), 64..64);
        assert_eq!(numbers.take(1), 64..65);
        assert!(!numbers.must_roll());
        numbers.next = ROLL_AT - 1;
        assert!(!numbers.must_roll());
        assert_eq!(numbers.take(64), ROLL_AT - 1..ROLL_AT + 63);
        assert!(numbers.must_roll());
    }
}
