//! What a sender gives to a receiver that joins: the secrets of epochs, or why there are none.
//!
//! The reply travels in TLS, to an identity that TLS verified, from a sender that proved to be one.

use nackcast_common::epochs::HELD_MAX;
use nackcast_common::ids::Epoch;
use nackcast_common::keys::EpochSecret;
use prost::Message;

use crate::pb;
use crate::wire::{WireError, require};

/// Longest reply.
pub const REPLY_LEN_MAX: usize = 256;
/// Secrets in one reply at most, and in what a receiver keeps.
const SECRETS_MAX: usize = HELD_MAX;

/// Why nothing is given.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, thiserror::Error)]
pub enum JoinRefusal {
    /// The identity is not on the channel's list.
    #[error("this node's key is not on the channel's list")]
    NotListed,
    /// The channel's tickets hold the secret.
    #[error("the channel's tickets hold its secret, and this one is of an earlier epoch or of none")]
    ByTicket,
    /// This sender's list is older than the channel's epoch.
    #[error("this sender's list of receivers is older than the channel's epoch: another sender must be asked")]
    OldList,
    /// No sender.
    #[error("this node lets nobody in")]
    NotHere,
}

/// The reply.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Joined {
    /// Secrets, at least one.
    Secrets(Vec<(Epoch, EpochSecret)>),
    /// None.
    Refused(JoinRefusal),
}

impl Joined {
    /// As it goes on the stream.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut reply = pb::JoinReply::default();
        match self {
            Self::Secrets(secrets) => {
                let secret = |(epoch, secret): &(Epoch, EpochSecret)| pb::EpochSecret {
                    epoch: epoch.0,
                    secret: secret.0.to_vec().into(),
                };
                reply.secrets = secrets.iter().map(secret).collect();
            }
            Self::Refused(why) => reply.refusal = why.to_pb().into(),
        }
        reply.encode_to_vec()
    }

    /// Parses a reply.
    ///
    /// # Errors
    /// When it does not parse, or is neither yes nor no.
    pub fn decode(bytes: &[u8]) -> Result<Self, WireError> {
        require(bytes.len() <= REPLY_LEN_MAX, "reply")?;
        let reply = pb::JoinReply::decode(bytes)?;
        require(reply.secrets.len() <= SECRETS_MAX, "secrets")?;
        if reply.secrets.is_empty() {
            return Ok(Self::Refused(JoinRefusal::from_pb(reply.refusal).ok_or(WireError::Field("refusal"))?));
        }
        let secret = |given: &pb::EpochSecret| {
            let secret = EpochSecret::from_slice(&given.secret).ok_or(WireError::Field("secret"))?;
            Ok((Epoch(given.epoch), secret))
        };
        Ok(Self::Secrets(reply.secrets.iter().map(secret).collect::<Result<_, WireError>>()?))
    }
}

impl JoinRefusal {
    const fn to_pb(self) -> pb::JoinRefusal {
        match self {
            Self::NotListed => pb::JoinRefusal::NotListed,
            Self::ByTicket => pb::JoinRefusal::ByTicket,
            Self::OldList => pb::JoinRefusal::OldList,
            Self::NotHere => pb::JoinRefusal::NotHere,
        }
    }

    fn from_pb(number: i32) -> Option<Self> {
        match pb::JoinRefusal::try_from(number).ok()? {
            pb::JoinRefusal::Unspecified => None,
            pb::JoinRefusal::NotListed => Some(Self::NotListed),
            pb::JoinRefusal::ByTicket => Some(Self::ByTicket),
            pb::JoinRefusal::OldList => Some(Self::OldList),
            pb::JoinRefusal::NotHere => Some(Self::NotHere),
        }
    }
}
