//! Probes: what senders ask each other on the NACK port, and what they answer.
//!
//! Both are signed by a sender that the publisher certified, each under a domain of its own, and sealed like NACKs and
//! their answers. A question proves nothing but who asked at some time: it may be a recording. An answer is fresh
//! when it repeats a nonce that was just drawn.

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

impl Probe {
    /// Signs and encodes the body.
    #[must_use]
    pub fn encode(&self, kind: ProbeKind, key: &SigningKey) -> Vec<u8> {
        let Standing { channel, session, start_number, certificate, role, rank, state, .. } = self.standing;
        let standing = pb::Standing {
            channel: channel.0.to_vec().into(),
            session: session.0,
            start_number: start_number.0,
            certificate: Some(certificate.to_pb(channel)),
            role: role.to_pb().into(),
            rank,
            state: state.to_pb().into(),
            can_read: self.standing.can_read,
            can_send: self.standing.can_send,
            sequence: self.standing.sequence,
            time: self.standing.time,
        };
        let message = pb::Probe { nonce: self.nonce, standing: Some(standing) };
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
        let m = message.standing.ok_or(WireError::Field("standing"))?;
        require(message.nonce != 0, "nonce")?;
        require(m.channel.as_ref() == channel.0, "channel")?;
        let certificate = SenderCertificate::from_pb(&m.certificate.ok_or(WireError::Field("certificate"))?)?;
        let standing = Standing {
            channel,
            session: SessionId(m.session),
            start_number: StartNumber(m.start_number),
            certificate,
            role: Role::from_pb(m.role).ok_or(WireError::Field("role"))?,
            rank: m.rank,
            state: SenderState::from_pb(m.state).ok_or(WireError::Field("state"))?,
            can_read: m.can_read,
            can_send: m.can_send,
            sequence: m.sequence,
            time: m.time,
        };
        certificate.verify(publisher, channel)?;
        super::digest::verify(kind.domain(), &certificate.sender_key, &signed)?;
        Ok(Self { nonce: message.nonce, standing })
    }
}
