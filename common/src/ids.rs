//! Names of things: newtypes, so that a session is never taken for an object or an index for an id.

use std::fmt;

/// Makes a newtype over an unsigned integer that prints as the integer (or as hex).
macro_rules! number {
    ($(#[$doc:meta])* $name:ident($inner:ty), $format:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(pub $inner);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, $format, self.0)
            }
        }
    };
}

number!(
    /// One run of one sender: drawn at random when it starts, so no two runs share keys and packet numbers.
    SessionId(u64), "{:016x}");
number!(
    /// One run of one receiver: the session under which it seals its NACKs.
    RunId(u64), "{:016x}");
number!(
    /// An object's name: derived from its digest and geometry (see [`crate::geometry::Geometry::object_id`]).
    ObjectId(u64), "{:016x}");
number!(
    /// Place of an object in a manifest's object table, which is also the order of the first pass.
    ObjectIndex(u32), "{}");
number!(
    /// Version of a channel's manifest.
    Generation(u64), "{}");
number!(
    /// Which epoch secret seals a datagram; only grows.
    Epoch(u32), "{}");
number!(
    /// Orders the sessions of a channel's senders; grows at every start, even when the clock went back.
    StartNumber(u64), "{}");

impl Epoch {
    /// What a datagram's header tells of it.
    #[must_use]
    pub const fn low(self) -> u8 {
        self.0.to_le_bytes()[0]
    }
}

impl ObjectIndex {
    /// The index as a place in a slice.
    #[must_use]
    pub const fn as_usize(self) -> usize {
        self.0 as usize
    }
}

/// A BLAKE3 output: of a whole file (what `b3sum` prints), of a manifest part, or of a manifest root.
#[derive(Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Digest(pub [u8; 32]);

impl Digest {
    /// The digest of `bytes`.
    #[must_use]
    pub fn of(bytes: &[u8]) -> Self {
        Self(*blake3::hash(bytes).as_bytes())
    }

    /// From a wire field.
    #[must_use]
    pub fn from_slice(bytes: &[u8]) -> Option<Self> {
        Some(Self(bytes.try_into().ok()?))
    }

    /// The first eight bytes, to say *which* manifest or file in a message that is not a proof.
    #[must_use]
    pub fn prefix(&self) -> u64 {
        let mut first = [0; 8];
        first.copy_from_slice(&self.0[..8]);
        u64::from_be_bytes(first)
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Digest({self})")
    }
}

/// A channel's identity, drawn at random by `channel new`.
#[derive(Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ChannelId(pub [u8; 16]);

impl ChannelId {
    /// From a wire field.
    #[must_use]
    pub fn from_slice(bytes: &[u8]) -> Option<Self> {
        Some(Self(bytes.try_into().ok()?))
    }
}

impl fmt::Display for ChannelId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for ChannelId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ChannelId({self})")
    }
}
