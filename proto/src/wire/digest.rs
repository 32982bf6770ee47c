//! The Digest: a sender's signed promises of repair. Each datagram is useful alone.
//!
//! A receiver whose need a promise covers stays silent until it lapses.

use std::time::Duration;

use nackcast_common::ids::{ChannelId, Epoch, ObjectId, SessionId};
use nackcast_common::keys::{Signature, SigningKey, VerifyingKey};
use nackcast_common::seal::TAG_LEN;
use prost::Message;

use super::advertisement::{duration_in, duration_u32};
use super::counts::{self, BlockCount};
use super::limits::{BODY_LEN_MAX, LAPSE_MAX, SHORT_MAX};
use super::{WireError, header, require};
use crate::pb;

const DOMAIN: &str = "digest";
/// What a Digest takes beside its promises: signature, channel, session, times.
const OVERHEAD: usize = 160;

/// Symbols to come.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Promise {
    /// All source symbols of the object.
    Whole(ObjectId),
    /// So many symbols of each of these blocks.
    Blocks(ObjectId, Vec<BlockCount>),
}

/// A parsed Digest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DigestBody {
    /// The channel.
    pub channel: ChannelId,
    /// The sender's run.
    pub session: SessionId,
    /// Its epoch.
    pub epoch: Epoch,
    /// Order among this session's signed datagrams.
    pub sequence: u64,
    /// The sender's clock.
    pub time: u64,
    /// How long the promises hold.
    pub lapse: Duration,
    /// The promises.
    pub promises: Vec<Promise>,
}

/// Promises that go into one datagram.
#[derive(Debug, Default)]
pub struct PromiseList {
    promises: Vec<Promise>,
    used: usize,
}

impl PromiseList {
    /// Takes a promise; gives back what of it did not fit.
    pub fn add(&mut self, promise: Promise) -> Option<Promise> {
        let room = BODY_LEN_MAX - OVERHEAD - self.used;
        if self.promises.len() >= SHORT_MAX || room <= 24 {
            return Some(promise);
        }
        match promise {
            Promise::Whole(_) => {
                self.used += 13;
                self.promises.push(promise);
                None
            }
            Promise::Blocks(object, mut blocks) => {
                let (bytes, fits) = counts::encode(&blocks, room - 16);
                if fits == 0 {
                    return Some(Promise::Blocks(object, blocks));
                }
                self.used += bytes.len() + 16;
                let rest = blocks.split_off(fits);
                self.promises.push(Promise::Blocks(object, blocks));
                (!rest.is_empty()).then_some(Promise::Blocks(object, rest))
            }
        }
    }

    /// Bytes of the sealed datagram, at most.
    #[must_use]
    pub const fn datagram_len(&self) -> usize {
        header::LEN + OVERHEAD + self.used + TAG_LEN
    }

    /// The promises.
    #[must_use]
    pub fn into_vec(self) -> Vec<Promise> {
        self.promises
    }
}

/// A signed message around `payload`.
pub(crate) fn sign(domain: &'static str, key: &SigningKey, payload: Vec<u8>) -> Vec<u8> {
    let signature = key.sign(domain, &payload);
    pb::Signed { payload: payload.into(), signature: signature.0.to_vec().into() }.encode_to_vec()
}

/// Checks a signed message.
pub(crate) fn verify(domain: &'static str, key: &VerifyingKey, signed: &pb::Signed) -> Result<(), WireError> {
    let signature = signed.signature.as_ref().try_into().map_err(|_| WireError::Field("signature"))?;
    key.verify(domain, &signed.payload, &Signature(signature)).map_err(|_| WireError::Signature(domain))
}

impl DigestBody {
    /// Signs and encodes the body.
    #[must_use]
    pub fn encode(&self, key: &SigningKey) -> Vec<u8> {
        let promises = self.promises.iter().map(|promise| match promise {
            Promise::Whole(object) => pb::Promise { object: object.0, whole: true, blocks: Vec::new().into() },
            Promise::Blocks(object, blocks) => {
                pb::Promise { object: object.0, whole: false, blocks: counts::encode(blocks, BODY_LEN_MAX).0.into() }
            }
        });
        let message = pb::DigestBody {
            channel: self.channel.0.to_vec().into(),
            session: self.session.0,
            epoch: self.epoch.0,
            sequence: self.sequence,
            time: self.time,
            lapse: duration_u32(self.lapse),
            promises: promises.collect(),
        };
        sign(DOMAIN, key, message.encode_to_vec())
    }

    /// Parses a body and verifies its signature with the key of the session's last advertisement.
    ///
    /// # Errors
    /// When it does not parse, a field is out of range, or the signature does not verify.
    pub fn decode(body: &[u8], sender: &VerifyingKey, channel: ChannelId) -> Result<Self, WireError> {
        let signed = pb::Signed::decode(body)?;
        let message = pb::DigestBody::decode(signed.payload.clone())?;
        require(ChannelId::from_slice(&message.channel) == Some(channel), "channel")?;
        require(message.promises.len() <= SHORT_MAX, "promises")?;
        verify(DOMAIN, sender, &signed)?;
        let promises = message.promises.iter().map(|p| {
            let object = ObjectId(p.object);
            Ok(if p.whole { Promise::Whole(object) } else { Promise::Blocks(object, counts::decode(&p.blocks)?) })
        });
        Ok(Self {
            channel,
            session: SessionId(message.session),
            epoch: Epoch(message.epoch),
            sequence: message.sequence,
            time: message.time,
            lapse: duration_in(message.lapse, Duration::ZERO, LAPSE_MAX, "lapse")?,
            promises: promises.collect::<Result<_, WireError>>()?,
        })
    }
}
