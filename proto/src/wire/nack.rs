//! NACKs and their answers.
//!
//! A NACK is sealed under the receiver's run and echoes the last advertisement of the sender it goes to, so
//! that a replay is stale and worthless. An answer names the NACK, and so it is worthless a second time, and to
//! any other receiver. Each datagram is useful alone; demands merge by maximum at the sender.

use std::time::Duration;

use nackcast_common::ids::{ChannelId, Generation, ObjectId, RunId, SessionId};
use nackcast_common::keys::{SigningKey, VerifyingKey};
use nackcast_common::ranges::RangeSet;
use prost::Message;

use super::counts::{self, BlockCount};
use super::limits::{BODY_LEN_MAX, IDS_MAX, SHORT_MAX, WAIT_MAX};
use super::{WireError, index_set, require};
use crate::pb;

/// Domain of a signed answer.
const DOMAIN: &str = "nack answer";
/// What a NACK takes beside its demands.
const NACK_OVERHEAD: usize = 173;
/// What an answer takes beside its lists, signature included.
const ANSWER_OVERHEAD: usize = 202;
/// What one object of a `short` list takes beside its blocks.
const SHORT_OVERHEAD: usize = 15;

/// Blocks of an object that lack symbols.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ShortObject {
    /// The object.
    pub object: ObjectId,
    /// Its short blocks.
    pub blocks: Vec<BlockCount>,
}

/// A parsed NACK, or a report when it demands nothing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Nack {
    /// The channel.
    pub channel: ChannelId,
    /// The session whose advertisement is echoed.
    pub session: SessionId,
    /// Sequence of that advertisement.
    pub sequence: u64,
    /// Its time.
    pub time: u64,
    /// From hearing it to sending this.
    pub hold: Duration,
    /// [`nackcast_common::ids::Digest::prefix`] of the manifest that `missing` speaks of; 0: none held.
    pub manifest: u64,
    /// Its generation.
    pub generation: Generation,
    /// Loss on the data group, in millionths.
    pub loss_ppm: u32,
    /// Milliseconds since a primary was heard; `u32::MAX`: never.
    pub primary_age: u32,
    /// Answered signed when not 0.
    pub nonce: u64,
    /// Next packet number expected on the session's data group.
    pub heard: u64,
    /// Objects of which nothing is held, by place in that manifest.
    pub missing: RangeSet,
    /// Objects of which nothing is held, by id.
    pub missing_ids: Vec<ObjectId>,
    /// Blocks that lack symbols.
    pub short: Vec<ShortObject>,
    /// Objects missing in all.
    pub objects_missing: u64,
    /// Bytes missing in all.
    pub bytes_missing: u64,
    /// The whole dataset is installed and verified.
    pub complete: bool,
    /// It only tells what the receiver has read, and is not answered.
    pub reading: Option<Reading>,
    /// The receiver ends as it was told: nobody is to miss it.
    pub leaves: bool,
}

/// What a receiver has read of a session's data group, up to [`Nack::heard`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Reading {
    /// Packets that its socket holds; 0: it is not to be waited for.
    pub window: u32,
    /// Next packet number expected, a reading ago: those below it have arrived by now, if they ever will.
    pub up_to: u64,
    /// Packets below it that came, in all.
    pub received: u64,
    /// Packets that came since the last reading.
    pub count: u64,
    /// Their mean time, in microseconds of the receiver's clock.
    pub arrival: u64,
    /// Their mean packet number, in sixteenths.
    pub number: u64,
}

/// What a sender says of an object that was asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum NackStatus {
    /// In the pool: wait.
    #[default]
    Queued,
    /// In a running job: wait.
    Sending,
    /// No passes left: pull.
    Unicast,
    /// Not here, or changed here.
    Unknown,
    /// The sender no longer has the manifest that the NACK speaks of: ask by id.
    OtherGeneration,
    /// A backup, while the primary serves.
    PrimaryAlive,
    /// A report was taken.
    Noted,
}

/// A NACK to this session only asks whether it is heard: any sender of the channel answers, and keeps nothing of it.
pub const ECHO_SESSION: SessionId = SessionId(0);

/// A parsed answer.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NackAnswer {
    /// The channel.
    pub channel: ChannelId,
    /// The answering session.
    pub session: SessionId,
    /// The receiver's run that sealed the NACK.
    pub run: RunId,
    /// Packet number of the NACK.
    pub nack: u64,
    /// Its nonce.
    pub nonce: u64,
    /// Of everything that is not listed below.
    pub status: NackStatus,
    /// After which to ask again.
    pub wait: Duration,
    /// Objects without passes left.
    pub unicast: RangeSet,
    /// Objects that are not here.
    pub unknown: RangeSet,
    /// The same, for NACKs that named ids.
    pub unicast_ids: Vec<ObjectId>,
    /// The same, for NACKs that named ids.
    pub unknown_ids: Vec<ObjectId>,
    /// The sender's wall clock, in milliseconds since 1970; 0: it does not say.
    pub wall_ms: u64,
}

impl Nack {
    /// Takes from the demands what one datagram holds, in their order; what does not fit stays.
    /// `missing` and the short blocks of `short` are drained as they are taken.
    #[must_use]
    pub fn fill(
        mut self,
        missing_ids: &mut Vec<ObjectId>,
        short: &mut Vec<ShortObject>,
        missing: &mut RangeSet,
    ) -> Self {
        let mut room = BODY_LEN_MAX - NACK_OVERHEAD;
        let ids = missing_ids.len().min(IDS_MAX).min(room / 9);
        self.missing_ids = missing_ids.drain(..ids).collect();
        room -= ids * 9;
        let mut emptied = 0;
        for object in short.iter_mut().take(SHORT_MAX) {
            let Some(space) = room.checked_sub(SHORT_OVERHEAD) else { break };
            let (bytes, fits) = counts::encode(&object.blocks, space);
            if fits == 0 {
                break;
            }
            room -= bytes.len() + SHORT_OVERHEAD;
            let blocks: Vec<_> = object.blocks.drain(..fits).collect();
            self.short.push(ShortObject { object: object.object, blocks });
            if !object.blocks.is_empty() {
                break;
            }
            emptied += 1;
        }
        short.drain(..emptied);
        if let (Some(set), rest) = index_set::encode(missing, room) {
            // What was just encoded always decodes.
            self.missing = index_set::decode(std::slice::from_ref(&set)).unwrap_or_default();
            match rest {
                Some(rest) => missing.remove(0..rest),
                None => *missing = RangeSet::new(),
            }
        }
        self
    }

    /// Encodes the body.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let short = self
            .short
            .iter()
            .map(|s| pb::ShortObject { object: s.object.0, blocks: counts::encode(&s.blocks, BODY_LEN_MAX).0.into() });
        pb::Nack {
            channel: self.channel.0.to_vec().into(),
            session: self.session.0,
            sequence: self.sequence,
            time: self.time,
            hold: nackcast_common::clock::micros(self.hold),
            manifest: self.manifest,
            generation: self.generation.0,
            loss_ppm: self.loss_ppm,
            primary_age: self.primary_age,
            nonce: self.nonce,
            heard: self.heard,
            missing: index_set::encode(&self.missing, usize::MAX / 16).0.into_iter().collect(),
            missing_ids: self.missing_ids.iter().map(|id| id.0).collect(),
            short: short.collect(),
            objects_missing: self.objects_missing,
            bytes_missing: self.bytes_missing,
            complete: self.complete,
            reading: self.reading.map(Reading::to_pb),
            leaves: self.leaves,
        }
        .encode_to_vec()
    }

    /// Parses a body.
    ///
    /// # Errors
    /// When it does not parse or a field is out of range.
    pub fn decode(body: &[u8]) -> Result<Self, WireError> {
        let m = pb::Nack::decode(body)?;
        require(m.short.len() <= SHORT_MAX, "short")?;
        require(m.missing_ids.len() <= IDS_MAX, "missing_ids")?;
        require(m.loss_ppm <= 1_000_000, "loss_ppm")?;
        let short = m
            .short
            .iter()
            .map(|s| Ok(ShortObject { object: ObjectId(s.object), blocks: counts::decode(&s.blocks)? }))
            .collect::<Result<_, WireError>>()?;
        Ok(Self {
            channel: ChannelId::from_slice(&m.channel).ok_or(WireError::Field("channel"))?,
            session: SessionId(m.session),
            sequence: m.sequence,
            time: m.time,
            hold: Duration::from_micros(m.hold),
            manifest: m.manifest,
            generation: Generation(m.generation),
            loss_ppm: m.loss_ppm,
            primary_age: m.primary_age,
            nonce: m.nonce,
            heard: m.heard,
            missing: index_set::decode(&m.missing)?,
            missing_ids: m.missing_ids.into_iter().map(ObjectId).collect(),
            short,
            objects_missing: m.objects_missing,
            bytes_missing: m.bytes_missing,
            complete: m.complete,
            reading: m.reading.as_ref().map(Reading::from_pb),
            leaves: m.leaves,
        })
    }

    /// Whether it asks for anything.
    #[must_use]
    pub const fn is_report(&self) -> bool {
        self.missing.is_empty() && self.missing_ids.is_empty() && self.short.is_empty()
    }
}

impl Reading {
    const fn to_pb(self) -> pb::Reading {
        let Self { window, up_to, received, count, arrival, number } = self;
        pb::Reading { window, up_to, received, count, arrival, number }
    }

    const fn from_pb(m: &pb::Reading) -> Self {
        let pb::Reading { window, up_to, received, count, arrival, number } = *m;
        Self { window, up_to, received, count, arrival, number }
    }
}

impl NackStatus {
    const fn to_pb(self) -> pb::NackStatus {
        match self {
            Self::Queued => pb::NackStatus::Queued,
            Self::Sending => pb::NackStatus::Sending,
            Self::Unicast => pb::NackStatus::Unicast,
            Self::Unknown => pb::NackStatus::Unknown,
            Self::OtherGeneration => pb::NackStatus::OtherGeneration,
            Self::PrimaryAlive => pb::NackStatus::PrimaryAlive,
            Self::Noted => pb::NackStatus::Noted,
        }
    }

    fn from_pb(value: i32) -> Result<Self, WireError> {
        Ok(match pb::NackStatus::try_from(value) {
            Ok(pb::NackStatus::Queued) => Self::Queued,
            Ok(pb::NackStatus::Sending) => Self::Sending,
            Ok(pb::NackStatus::Unicast) => Self::Unicast,
            Ok(pb::NackStatus::Unknown) => Self::Unknown,
            Ok(pb::NackStatus::OtherGeneration) => Self::OtherGeneration,
            Ok(pb::NackStatus::PrimaryAlive) => Self::PrimaryAlive,
            Ok(pb::NackStatus::Noted) => Self::Noted,
            Ok(pb::NackStatus::Unspecified) | Err(_) => return Err(WireError::Field("status")),
        })
    }
}

impl NackAnswer {
    /// Encodes the body, signed when `key` is given. Lists are cut to what one datagram holds: what is not
    /// listed then reads as `status`, and the receiver asks again.
    #[must_use]
    pub fn encode(&self, key: Option<&SigningKey>) -> Vec<u8> {
        let room = (BODY_LEN_MAX - ANSWER_OVERHEAD) / 2;
        let ids = |ids: &[ObjectId]| ids.iter().take(room / 18).map(|id| id.0).collect::<Vec<_>>();
        let (unicast_ids, unknown_ids) = (ids(&self.unicast_ids), ids(&self.unknown_ids));
        let message = pb::NackAnswer {
            channel: self.channel.0.to_vec().into(),
            session: self.session.0,
            run: self.run.0,
            nack: self.nack,
            nonce: self.nonce,
            status: self.status.to_pb().into(),
            wait: u32::try_from(self.wait.as_millis()).unwrap_or(u32::MAX),
            unicast: index_set::encode(&self.unicast, room - unicast_ids.len() * 9).0.into_iter().collect(),
            unknown: index_set::encode(&self.unknown, room - unknown_ids.len() * 9).0.into_iter().collect(),
            unicast_ids,
            unknown_ids,
            wall_ms: self.wall_ms,
        };
        let payload = message.encode_to_vec();
        match key {
            Some(key) => super::digest::sign(DOMAIN, key, payload),
            None => pb::Signed { payload: payload.into(), signature: Vec::new().into() }.encode_to_vec(),
        }
    }

    /// Parses a body; with `sender`, an unsigned or wrongly signed answer is refused.
    ///
    /// # Errors
    /// When it does not parse, a field is out of range, or the wanted signature does not verify.
    pub fn decode(body: &[u8], sender: Option<&VerifyingKey>) -> Result<Self, WireError> {
        let signed = pb::Signed::decode(body)?;
        if let Some(sender) = sender {
            super::digest::verify(DOMAIN, sender, &signed)?;
        }
        let m = pb::NackAnswer::decode(signed.payload)?;
        require(m.unicast_ids.len() <= IDS_MAX && m.unknown_ids.len() <= IDS_MAX, "ids")?;
        let wait = Duration::from_millis(m.wait.into());
        Ok(Self {
            channel: ChannelId::from_slice(&m.channel).ok_or(WireError::Field("channel"))?,
            session: SessionId(m.session),
            run: RunId(m.run),
            nack: m.nack,
            nonce: m.nonce,
            status: NackStatus::from_pb(m.status)?,
            wait: wait.min(WAIT_MAX),
            unicast: index_set::decode(&m.unicast)?,
            unknown: index_set::decode(&m.unknown)?,
            unicast_ids: m.unicast_ids.into_iter().map(ObjectId).collect(),
            unknown_ids: m.unknown_ids.into_iter().map(ObjectId).collect(),
            wall_ms: m.wall_ms,
        })
    }
}
