//! Who is at the other end of a connection.
//!
//! TLS says that the peer has the key of an identity, and any identity may connect. What counts is said in the first
//! message of each side, and holds for this connection only, since it is made over the TLS exporter:
//! - a proof that the side holds the channel's epoch secret: an outsider gets nothing, a ticket holder may pull;
//! - at a sender also its certificate, signed by the publisher, and a signature of the certified key.

use nackcast_common::ids::{ChannelId, Epoch};
use nackcast_common::keys::{EpochSecret, Proof, Side, Signature, SigningKey, VerifyingKey};
use prost::Message;

use super::HELLO_LEN_MAX;
use crate::pb;
use crate::wire::{SenderCertificate, Standing, WireError};

const DOMAIN: &str = "quic hello";

/// Why a hello was refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum HelloError {
    /// It does not parse, or its certificate does not verify.
    #[error(transparent)]
    Wire(#[from] WireError),
    /// Of a channel that is not served here.
    #[error("channel {0} is not known here")]
    Channel(ChannelId),
    /// Of an epoch whose secret is not held here.
    #[error("epoch {theirs} is not ours ({ours}): one of the two needs a new ticket or key file")]
    Epoch {
        /// What was said.
        theirs: Epoch,
        /// What is held.
        ours: Epoch,
    },
    /// The other side does not hold the epoch secret.
    #[error("the other side has no ticket of this channel")]
    Proof,
}

/// What a node is to a channel: it has a ticket, and perhaps the right to send.
#[derive(Clone, Debug)]
pub struct Member {
    /// The channel.
    pub channel: ChannelId,
    /// Which epoch the secret is of.
    pub epoch: Epoch,
    /// Proves that the node belongs to the channel.
    pub secret: EpochSecret,
    /// Who certifies senders.
    pub publisher: VerifyingKey,
    /// The node's right to send.
    pub sender: Option<(SenderCertificate, SigningKey)>,
}

/// A peer that proved what it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Peer {
    /// Of this channel.
    pub channel: ChannelId,
    /// The key that the publisher certified, at a sender.
    pub sender: Option<VerifyingKey>,
}

impl Peer {
    /// Whether this is said of the sender that the peer proved to be.
    #[must_use]
    pub fn is(&self, standing: &Standing) -> bool {
        self.channel == standing.channel && self.sender == Some(standing.certificate.sender_key)
    }
}

/// Which channel a hello is about; it is not checked yet.
///
/// # Errors
/// When it does not parse.
pub fn channel_of(hello: &[u8]) -> Result<ChannelId, HelloError> {
    Ok(parse(hello)?.0)
}

fn parse(hello: &[u8]) -> Result<(ChannelId, pb::Hello), WireError> {
    if hello.len() > HELLO_LEN_MAX {
        return Err(WireError::Field("hello"));
    }
    let message = pb::Hello::decode(hello)?;
    let channel = ChannelId::from_slice(&message.channel).ok_or(WireError::Field("channel"))?;
    Ok((channel, message))
}

fn signed_bytes(side: Side, binding: &[u8; 32]) -> [u8; 33] {
    let mut bytes = [side as u8; 33];
    bytes[1..].copy_from_slice(binding);
    bytes
}

impl Member {
    /// What `side` says first on the connection with this binding.
    #[must_use]
    pub fn hello(&self, side: Side, binding: &[u8; 32]) -> Vec<u8> {
        let sender = self.sender.as_ref().map(|(certificate, key)| pb::SenderProof {
            certificate: Some(certificate.to_pb(self.channel)),
            signature: key.sign(DOMAIN, &signed_bytes(side, binding)).0.to_vec().into(),
        });
        pb::Hello {
            channel: self.channel.0.to_vec().into(),
            epoch: self.epoch.0,
            proof: self.secret.prove(self.channel, side, binding).0.to_vec().into(),
            sender,
        }
        .encode_to_vec()
    }

    /// Checks what the other side, which is `side`, said.
    ///
    /// # Errors
    /// When it does not belong to the channel, or claims to be a sender and is none.
    pub fn check(&self, side: Side, binding: &[u8; 32], hello: &[u8]) -> Result<Peer, HelloError> {
        let (channel, message) = parse(hello)?;
        if channel != self.channel {
            return Err(HelloError::Channel(channel));
        }
        if message.epoch != self.epoch.0 {
            return Err(HelloError::Epoch { theirs: Epoch(message.epoch), ours: self.epoch });
        }
        let proof = Proof::from_slice(&message.proof).ok_or(HelloError::Proof)?;
        if proof != self.secret.prove(self.channel, side, binding) {
            return Err(HelloError::Proof);
        }
        let sender = message.sender.map(|claim| self.check_sender(side, binding, &claim)).transpose()?;
        Ok(Peer { channel, sender })
    }

    fn check_sender(&self, side: Side, binding: &[u8; 32], claim: &pb::SenderProof) -> Result<VerifyingKey, WireError> {
        let certificate = claim.certificate.as_ref().ok_or(WireError::Field("certificate"))?;
        let certificate = SenderCertificate::from_pb(certificate)?;
        certificate.verify(&self.publisher, self.channel)?;
        let signature = Signature::from_slice(&claim.signature).ok_or(WireError::Field("signature"))?;
        let key = certificate.sender_key;
        key.verify(DOMAIN, &signed_bytes(side, binding), &signature).map_err(|_| WireError::Signature("hello"))?;
        Ok(key)
    }
}
