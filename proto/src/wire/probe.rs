//! Probes: what senders ask each other on the NACK port, and what they answer.
//!
//! Both are signed by a sender that the publisher certified, each under a domain of its own, and sealed like NACKs and
//! their answers. A question proves nothing but who asked at some time: it may be a recording. An answer is fresh
//! when it repeats a nonce that was just drawn. On QUIC ([`crate::pull`]) a [`Standing`] travels bare: the connection
//! proves who says it, and when.

use nackcast_common::ids::{ChannelId, SessionId, StartNumber};
use nackcast_common::keys::{SigningKey, VerifyingKey};
use prost::Message;

use super::{Role, SenderCertificate, SenderState, WireError, require};
use crate::pb;

/// What a sender says of itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Standing {
    /// The channel.
    pub channel: ChannelId,
    /// Its run.
    pub session: SessionId,
    /// Order among runs.
    pub start_number: StartNumber,
    /// Who signs.
    pub certificate: SenderCertificate,
    /// What it is for.
    pub role: Role,
    /// Order among senders of one role: the best has 0.
    pub rank: u32,
    /// What it does.
    pub state: SenderState,
    /// It has a manifest, and can read its content.
    pub can_read: bool,
    /// Its multicast leaves the node.
    pub can_send: bool,
    /// Sequence of its last advertisement, to be echoed by a NACK that is forwarded.
    pub sequence: u64,
    /// Its clock, now.
    pub time: u64,
}

/// A question or an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Probe {
    /// Drawn by whoever asks, repeated by the answer; never 0.
    pub nonce: u64,
    /// Of whoever signs.
    pub standing: Standing,
}

/// Which of the two.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ProbeKind {
    /// Who are you, and what do you do?
    Question,
    /// This.
    Answer,
}

impl ProbeKind {
    const fn domain(self) -> &'static str {
        match self {
            Self::Question => "probe",
            Self::Answer => "probe answer",
        }
    }
}

impl Standing {
    pub(crate) fn to_pb(self) -> pb::Standing {
        pb::Standing {
            channel: self.channel.0.to_vec().into(),
            session: self.session.0,
            start_number: self.start_number.0,
            certificate: Some(self.certificate.to_pb(self.channel)),
            role: self.role.to_pb().into(),
            rank: self.rank,
            state: self.state.to_pb().into(),
            can_read: self.can_read,
            can_send: self.can_send,
            sequence: self.sequence,
            time: self.time,
        }
    }

    /// Parses; whose certificate it is, and whether anybody signed, is not looked at.
    pub(crate) fn from_pb(message: pb::Standing) -> Result<Self, WireError> {
        Ok(Self {
            channel: ChannelId::from_slice(&message.channel).ok_or(WireError::Field("channel"))?,
            session: SessionId(message.session),
            start_number: StartNumber(message.start_number),
            certificate: SenderCertificate::from_pb(&message.certificate.ok_or(WireError::Field("certificate"))?)?,
            role: Role::from_pb(message.role).ok_or(WireError::Field("role"))?,
            rank: message.rank,
            state: SenderState::from_pb(message.state).ok_or(WireError::Field("state"))?,
            can_read: message.can_read,
            can_send: message.can_send,
            sequence: message.sequence,
            time: message.time,
        })
    }
}

impl Probe {
    /// Signs and encodes the body.
    #[must_use]
    pub fn encode(&self, kind: ProbeKind, key: &SigningKey) -> Vec<u8> {
        let message = pb::Probe { nonce: self.nonce, standing: Some(self.standing.to_pb()) };
        super::digest::sign(kind.domain(), key, message.encode_to_vec())
    }

    /// Parses a body and verifies certificate and signature.
    ///
    /// # Errors
    /// When it does not parse, a field is out of range, or a signature does not verify.
    pub fn decode(
        body: &[u8],
        kind: ProbeKind,
        publisher: &VerifyingKey,
        channel: ChannelId,
    ) -> Result<Self, WireError> {
        let signed = pb::Signed::decode(body)?;
        let message = pb::Probe::decode(signed.payload.clone())?;
        require(message.nonce != 0, "nonce")?;
        let standing = Standing::from_pb(message.standing.ok_or(WireError::Field("standing"))?)?;
        require(standing.channel == channel, "channel")?;
        let certificate = standing.certificate;
        certificate.verify(publisher, channel)?;
        super::digest::verify(kind.domain(), &certificate.sender_key, &signed)?;
        Ok(Self { nonce: message.nonce, standing })
    }
}
