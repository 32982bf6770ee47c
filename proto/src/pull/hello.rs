//! Who is at the other end of a connection.
//!
//! TLS says that the peer has the key of an identity, and any identity may connect. What counts is said in the first
//! message of each side, and holds for this connection only, since it is made over the TLS exporter:
//! - a proof that the side holds the channel's epoch secret: an outsider gets nothing, a ticket holder may pull;
//! - at a sender also its certificate, signed by the publisher, and a signature of the certified key.
//!
//! Who has no secret yet says only that it wants to join. It is answered by a sender, which proves to be one and
//! nothing more: whoever joins must know that before it believes what it is given.

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
    /// Of an epoch that is over.
    #[error("epoch {theirs} is over, it is {ours} now: who was not taken off the channel gets its secret by joining")]
    Over {
        /// What was said.
        theirs: Epoch,
        /// What is in force.
        ours: Epoch,
    },
    /// It wants to join, or says that it lets others join, and is no sender.
    #[error("only a sender of the channel lets others join")]
    NoSender,
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

/// What a hello is about; it is not checked yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Subject {
    /// The channel.
    pub channel: ChannelId,
    /// The epoch whose secret is proved; none: the client wants to join.
    pub epoch: Option<Epoch>,
}

impl Subject {
    /// Reads it.
    ///
    /// # Errors
    /// When it does not parse.
    pub fn of(hello: &[u8]) -> Result<Self, HelloError> {
        let (channel, message) = parse(hello)?;
        Ok(Self { channel, epoch: (!message.join).then_some(Epoch(message.epoch)) })
    }
}

/// What a client says that wants to join.
#[must_use]
pub fn join_hello(channel: ChannelId) -> Vec<u8> {
    pb::Hello { channel: channel.0.to_vec().into(), join: true, ..pb::Hello::default() }.encode_to_vec()
}

/// Checks the answer to [`join_hello`]: gives the key of the certified sender at the other end.
///
/// # Errors
/// When no sender of the channel is there.
pub fn check_introduction(
    channel: ChannelId,
    publisher: &VerifyingKey,
    binding: &[u8; 32],
    hello: &[u8],
) -> Result<VerifyingKey, HelloError> {
    let (named, message) = parse(hello)?;
    if named != channel {
        return Err(HelloError::Channel(named));
    }
    let claim = message.sender.ok_or(HelloError::NoSender)?;
    Ok(check_sender(channel, publisher, Side::Server, binding, &claim)?)
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
        pb::Hello {
            channel: self.channel.0.to_vec().into(),
            epoch: self.epoch.0,
            proof: self.secret.prove(self.channel, side, binding).0.to_vec().into(),
            sender: self.sender.as_ref().map(|right| prove_sender(self.channel, right, side, binding)),
            join: false,
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
        let check = |claim| check_sender(self.channel, &self.publisher, side, binding, &claim);
        let sender = message.sender.map(check).transpose()?;
        Ok(Peer { channel, sender })
    }
}

/// What a sender says to a client that wants to join.
pub(crate) fn introduction(channel: ChannelId, right: &(SenderCertificate, SigningKey), binding: &[u8; 32]) -> Vec<u8> {
    let sender = Some(prove_sender(channel, right, Side::Server, binding));
    pb::Hello { channel: channel.0.to_vec().into(), sender, ..pb::Hello::default() }.encode_to_vec()
}

fn prove_sender(
    channel: ChannelId,
    (certificate, key): &(SenderCertificate, SigningKey),
    side: Side,
    binding: &[u8; 32],
) -> pb::SenderProof {
    pb::SenderProof {
        certificate: Some(certificate.to_pb(channel)),
        signature: key.sign(DOMAIN, &signed_bytes(side, binding)).0.to_vec().into(),
    }
}

fn check_sender(
    channel: ChannelId,
    publisher: &VerifyingKey,
    side: Side,
    binding: &[u8; 32],
    claim: &pb::SenderProof,
) -> Result<VerifyingKey, WireError> {
    let certificate = claim.certificate.as_ref().ok_or(WireError::Field("certificate"))?;
    let certificate = SenderCertificate::from_pb(certificate)?;
    certificate.verify(publisher, channel)?;
    let signature = Signature::from_slice(&claim.signature).ok_or(WireError::Field("signature"))?;
    let key = certificate.sender_key;
    key.verify(DOMAIN, &signed_bytes(side, binding), &signature).map_err(|_| WireError::Signature("hello"))?;
    Ok(key)
}
