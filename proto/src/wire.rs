//! Datagrams: a 20-byte header, a sealed body, a 16-byte tag (`docs/src/protocol.md`, Datagrams).
//!
//! | type | group or address | sealed by | signed |
//! |---|---|---|---|
//! | [`Advertisement`] | advertisement group | sender | yes |
//! | [`DigestBody`] | advertisement group | sender | yes |
//! | [`symbol`] | data group | sender | no: checked against the manifest |
//! | [`Nack`] | sender's NACK port | receiver | no |
//! | [`NackAnswer`] | the NACK's source | sender | when the NACK had a nonce |
//! | [`Probe`] | a sender's NACK port, and back | sender | yes |

pub mod advertisement;
pub mod bits;
pub mod counts;
pub mod digest;
pub mod header;
pub mod index_set;
pub mod limits;
pub mod nack;
pub mod probe;
pub mod symbol;

pub use advertisement::{
    Advertisement, FinishedPass, ManifestRef, NextEpoch, Role, SenderCertificate, SenderState, report_spread,
};
pub use digest::{DigestBody, Promise, PromiseList};
pub use header::{DatagramType, Header};
pub use nack::{ECHO_SESSION, Nack, NackAnswer, NackStatus, Reading, ShortObject};
pub use probe::{Probe, ProbeKind, Standing};

/// Why bytes are no message.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum WireError {
    /// Shorter than the message must be.
    #[error("datagram of {0} bytes is too short")]
    Short(usize),
    /// A version, type or flow that this build does not speak.
    #[error("datagram header is not ours, or of another version")]
    Header,
    /// Not valid protobuf.
    #[error("message does not parse: {0}")]
    Protobuf(String),
    /// A field is missing or out of its range.
    #[error("field {0} is missing or out of range")]
    Field(&'static str),
    /// A signature does not verify.
    #[error("the signature of the {0} does not verify")]
    Signature(&'static str),
}

impl From<prost::DecodeError> for WireError {
    fn from(error: prost::DecodeError) -> Self {
        Self::Protobuf(error.to_string())
    }
}

/// Nothing, or the error that names the field.
pub(crate) fn require(holds: bool, field: &'static str) -> Result<(), WireError> {
    if holds { Ok(()) } else { Err(WireError::Field(field)) }
}
