//! The advertisement: who sends, what the manifest is, where to ask.
//!
//! Signed by the sender's key, which the publisher certified; the certificate travels along. Order comes
//! from `sequence` inside the signed bytes, never from the packet number.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use nackcast_common::clock::micros;
use nackcast_common::geometry::Geometry;
use nackcast_common::ids::{ChannelId, Digest, Epoch, Generation, ObjectId, SessionId, StartNumber};
use nackcast_common::keys::{Signature, SigningKey, VerifyingKey};
use prost::Message;

use super::limits::{FINISHED_MAX, GROUP_SIZE_MAX, GRTT_MAX, INTERVAL, NACK_WINDOW_MAX, ROOT_LEN_MAX};
use super::{WireError, require};
use crate::pb;

/// Domain of the sender's signature.
const DOMAIN: &str = "advertisement";
/// Domain of the publisher's signature under a sender's key.
const CERTIFICATE_DOMAIN: &str = "sender certificate";

/// What a sender is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Role {
    /// Publishes and sends first passes.
    Primary,
    /// Sends while no primary serves.
    Backup,
}

/// What a sender does now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SenderState {
    /// Not yet sending.
    Starting,
    /// Sending and answering NACKs.
    Active,
    /// A backup that waits.
    Standby,
    /// Stopped by command.
    Paused,
    /// Finishing its jobs.
    Draining,
}

impl fmt::Display for SenderState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Starting => "starting",
            Self::Active => "active",
            Self::Standby => "standby",
            Self::Paused => "paused",
            Self::Draining => "draining",
        })
    }
}

/// Says that the publisher lets this key send on the channel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SenderCertificate {
    /// The sender's key.
    pub sender_key: VerifyingKey,
    /// The publisher's signature over channel and key.
    pub signature: Signature,
}

/// Where a manifest root is: an object of one block with this hash.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ManifestRef {
    /// BLAKE3 of the root object.
    pub hash: Digest,
    /// Bytes in it.
    pub length: u32,
    /// How it is cut, and its parts.
    pub geometry: Geometry,
}

/// A pass that ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FinishedPass {
    /// Of which object.
    pub object: ObjectId,
    /// Which pass of this session, counted over all objects.
    pub serial: u64,
}

/// An epoch that begins soon.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NextEpoch {
    /// Which.
    pub epoch: Epoch,
    /// Time until then.
    pub within: Duration,
}

/// A parsed advertisement.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Advertisement {
    /// The channel.
    pub channel: ChannelId,
    /// The sender's run.
    pub session: SessionId,
    /// Which epoch secret it seals with.
    pub epoch: Epoch,
    /// Order among this session's signed datagrams.
    pub sequence: u64,
    /// Order among sessions.
    pub start_number: StartNumber,
    /// The sender's clock, to be echoed.
    pub time: u64,
    /// Time to the next advertisement at the latest.
    pub interval: Duration,
    /// Version of the manifest.
    pub generation: Generation,
    /// The manifest; none before the first scan ended.
    pub manifest: Option<ManifestRef>,
    /// Who signs.
    pub certificate: SenderCertificate,
    /// What the sender is for.
    pub role: Role,
    /// What it does.
    pub state: SenderState,
    /// Where its symbols go.
    pub data_group: SocketAddr,
    /// Where NACKs go, on the address that the advertisement came from.
    pub nack_port: u16,
    /// Where QUIC is served; 0: nowhere.
    pub quic_port: u16,
    /// Group round-trip time.
    pub grtt: Duration,
    /// Time over which receivers spread NACKs.
    pub nack_window: Duration,
    /// Estimated number of receivers.
    pub group_size: u32,
    /// Passes an object gets in a round.
    pub max_passes: u32,
    /// Bits per second; 0: not limited.
    pub rate_bps: u64,
    /// Objects from here on whose `since` is at least `first_pass_since` are still to come.
    pub first_pass_cursor: u32,
    /// See `first_pass_cursor`.
    pub first_pass_since: Generation,
    /// Passes that ended lately.
    pub finished: Vec<FinishedPass>,
    /// Packet numbers used so far on the data group.
    pub data_packets: u64,
    /// The manifest's own first pass is over.
    pub manifest_sent: bool,
    /// Order among senders of one role: the best has 0.
    pub rank: u32,
    /// The sender's wall clock in milliseconds since 1970, so that people hear of one that is wrong; 0: not told.
    pub wall_ms: u64,
    /// The epoch that follows, once it is announced.
    pub next_epoch: Option<NextEpoch>,
    /// Names the sender's list of receivers, for other senders; 0: it has none.
    pub list: u64,
    /// Receivers shall tell what they have read, so often; zero: they shall not.
    pub reading_every: Duration,
}

impl SenderCertificate {
    /// The publisher certifies a sender's key.
    #[must_use]
    pub fn issue(publisher: &SigningKey, channel: ChannelId, sender_key: VerifyingKey) -> Self {
        let signature = publisher.sign(CERTIFICATE_DOMAIN, &certified_bytes(channel, &sender_key));
        Self { sender_key, signature }
    }

    /// Checks that the publisher issued this certificate for the channel.
    ///
    /// # Errors
    /// When the signature does not verify.
    pub fn verify(&self, publisher: &VerifyingKey, channel: ChannelId) -> Result<(), WireError> {
        publisher
            .verify(CERTIFICATE_DOMAIN, &certified_bytes(channel, &self.sender_key), &self.signature)
            .map_err(|_| WireError::Signature("sender certificate"))
    }
}

impl SenderCertificate {
    pub(crate) fn to_pb(self, channel: ChannelId) -> pb::SenderCertificate {
        pb::SenderCertificate {
            channel: channel.0.to_vec().into(),
            sender_key: self.sender_key.0.to_vec().into(),
            signature: self.signature.0.to_vec().into(),
        }
    }

    /// Not verified yet.
    pub(crate) fn from_pb(m: &pb::SenderCertificate) -> Result<Self, WireError> {
        let sender_key = VerifyingKey::from_slice(&m.sender_key).ok_or(WireError::Field("certificate"))?;
        let signature = Signature::from_slice(&m.signature).ok_or(WireError::Field("certificate"))?;
        Ok(Self { sender_key, signature })
    }
}

fn certified_bytes(channel: ChannelId, key: &VerifyingKey) -> Vec<u8> {
    [&channel.0[..], &key.0[..]].concat()
}

/// Reports are spread over no more than this, whatever the group's size.
const REPORT_SPREAD_MAX: Duration = Duration::from_secs(120);
/// A report takes about so many bits on the wire.
const REPORT_BITS: u64 = 1_250;
/// One part in so many of the rate is for reports while receivers have something to report.
const REPORT_SHARE: u64 = 10;
/// What a sender without a limit is taken to send.
const RATE_MAX: u64 = 500_000_000;

/// Over how long the reports of a group are spread: so that they take a tenth of the sender's rate, which is what any
/// way back should carry. Both sides reckon with it.
#[must_use]
pub fn report_spread(group_size: u32, rate_bps: u64) -> Duration {
    let rate = if rate_bps == 0 { RATE_MAX } else { rate_bps };
    let micros = u64::from(group_size) * (REPORT_BITS * REPORT_SHARE * 1_000_000) / rate.max(1);
    Duration::from_micros(micros).min(REPORT_SPREAD_MAX)
}

impl Advertisement {
    /// Signs and encodes the body.
    #[must_use]
    pub fn encode(&self, key: &SigningKey) -> Vec<u8> {
        super::digest::sign(DOMAIN, key, self.to_pb().encode_to_vec())
    }

    /// Parses a body and verifies certificate and signature.
    ///
    /// # Errors
    /// When it does not parse, a field is out of range, or a signature does not verify.
    pub fn decode(body: &[u8], publisher: &VerifyingKey, channel: ChannelId) -> Result<Self, WireError> {
        let signed = pb::Signed::decode(body)?;
        let advertisement = Self::from_pb(pb::Advertisement::decode(signed.payload.clone())?)?;
        require(advertisement.channel == channel, "channel")?;
        advertisement.certificate.verify(publisher, channel)?;
        super::digest::verify(DOMAIN, &advertisement.certificate.sender_key, &signed)?;
        Ok(advertisement)
    }

    fn to_pb(&self) -> pb::Advertisement {
        let (address, data_port) = (self.data_group.ip(), self.data_group.port());
        let data_address = match address {
            IpAddr::V4(v4) => v4.octets().to_vec(),
            IpAddr::V6(v6) => v6.octets().to_vec(),
        };
        pb::Advertisement {
            channel: self.channel.0.to_vec().into(),
            session: self.session.0,
            epoch: self.epoch.0,
            sequence: self.sequence,
            start_number: self.start_number.0,
            time: self.time,
            interval: duration_u32(self.interval),
            generation: self.generation.0,
            manifest: self.manifest.map(ManifestRef::to_pb),
            certificate: Some(self.certificate.to_pb(self.channel)),
            role: self.role.to_pb().into(),
            state: self.state.to_pb().into(),
            data_address: data_address.into(),
            data_port: data_port.into(),
            nack_port: self.nack_port.into(),
            quic_port: self.quic_port.into(),
            grtt: duration_u32(self.grtt),
            nack_window: duration_u32(self.nack_window),
            group_size: self.group_size,
            max_passes: self.max_passes,
            rate_bps: self.rate_bps,
            first_pass_cursor: self.first_pass_cursor,
            first_pass_since: self.first_pass_since.0,
            finished: self.finished.iter().map(|f| pb::FinishedPass { object: f.object.0, serial: f.serial }).collect(),
            data_packets: self.data_packets,
            manifest_sent: self.manifest_sent,
            rank: self.rank,
            wall_ms: self.wall_ms,
            next_epoch: self.next_epoch.map_or(0, |next| next.epoch.0),
            next_epoch_in: self.next_epoch.map_or(0, |next| duration_u32(next.within)),
            list: self.list,
            reading_every: duration_u32(self.reading_every),
        }
    }

    fn from_pb(m: pb::Advertisement) -> Result<Self, WireError> {
        let certificate = m.certificate.ok_or(WireError::Field("certificate"))?;
        require(m.finished.len() <= FINISHED_MAX, "finished")?;
        require(m.group_size <= GROUP_SIZE_MAX, "group_size")?;
        let role = Role::from_pb(m.role).ok_or(WireError::Field("role"))?;
        let state = SenderState::from_pb(m.state).ok_or(WireError::Field("state"))?;
        Ok(Self {
            channel: ChannelId::from_slice(&m.channel).ok_or(WireError::Field("channel"))?,
            session: SessionId(m.session),
            epoch: Epoch(m.epoch),
            sequence: m.sequence,
            start_number: StartNumber(m.start_number),
            time: m.time,
            interval: duration_in(m.interval, INTERVAL.0, INTERVAL.1, "interval")?,
            generation: Generation(m.generation),
            manifest: m.manifest.map(ManifestRef::from_pb).transpose()?,
            certificate: SenderCertificate::from_pb(&certificate)?,
            role,
            state,
            data_group: SocketAddr::new(address(&m.data_address)?, port(m.data_port, "data_port")?),
            nack_port: port(m.nack_port, "nack_port")?,
            quic_port: port(m.quic_port, "quic_port")?,
            grtt: duration_in(m.grtt, Duration::ZERO, GRTT_MAX, "grtt")?,
            nack_window: duration_in(m.nack_window, Duration::ZERO, NACK_WINDOW_MAX, "nack_window")?,
            group_size: m.group_size,
            max_passes: m.max_passes,
            rate_bps: m.rate_bps,
            first_pass_cursor: m.first_pass_cursor,
            first_pass_since: Generation(m.first_pass_since),
            finished: m
                .finished
                .iter()
                .map(|f| FinishedPass { object: ObjectId(f.object), serial: f.serial })
                .collect(),
            data_packets: m.data_packets,
            manifest_sent: m.manifest_sent,
            rank: m.rank,
            wall_ms: m.wall_ms,
            next_epoch: (m.next_epoch != 0).then(|| NextEpoch {
                epoch: Epoch(m.next_epoch),
                within: Duration::from_micros(m.next_epoch_in.into()),
            }),
            list: m.list,
            reading_every: Duration::from_micros(m.reading_every.into()),
        })
    }
}

impl ManifestRef {
    pub(crate) fn to_pb(self) -> pb::ManifestRef {
        pb::ManifestRef {
            hash: self.hash.0.to_vec().into(),
            length: self.length,
            symbol_size: self.geometry.symbol_size().into(),
            block_size: self.geometry.block_size(),
            fec: self.geometry.fec().id().into(),
        }
    }

    pub(crate) fn from_pb(m: pb::ManifestRef) -> Result<Self, WireError> {
        let geometry = Geometry::new(m.symbol_size, m.block_size, m.fec).map_err(|_| WireError::Field("geometry"))?;
        require(m.length > 0 && m.length <= ROOT_LEN_MAX.min(m.block_size), "manifest length")?;
        let hash = Digest::from_slice(&m.hash).ok_or(WireError::Field("manifest hash"))?;
        Ok(Self { hash, length: m.length, geometry })
    }
}

impl Role {
    pub(crate) const fn to_pb(self) -> pb::Role {
        match self {
            Self::Primary => pb::Role::Primary,
            Self::Backup => pb::Role::Backup,
        }
    }

    pub(crate) fn from_pb(role: i32) -> Option<Self> {
        match pb::Role::try_from(role) {
            Ok(pb::Role::Primary) => Some(Self::Primary),
            Ok(pb::Role::Backup) => Some(Self::Backup),
            Ok(pb::Role::Unspecified) | Err(_) => None,
        }
    }
}

impl SenderState {
    pub(crate) const fn to_pb(self) -> pb::SenderState {
        match self {
            Self::Starting => pb::SenderState::Starting,
            Self::Active => pb::SenderState::Active,
            Self::Standby => pb::SenderState::Standby,
            Self::Paused => pb::SenderState::Paused,
            Self::Draining => pb::SenderState::Draining,
        }
    }

    pub(crate) fn from_pb(state: i32) -> Option<Self> {
        match pb::SenderState::try_from(state) {
            Ok(pb::SenderState::Starting) => Some(Self::Starting),
            Ok(pb::SenderState::Active) => Some(Self::Active),
            Ok(pb::SenderState::Standby) => Some(Self::Standby),
            Ok(pb::SenderState::Paused) => Some(Self::Paused),
            Ok(pb::SenderState::Draining) => Some(Self::Draining),
            Ok(pb::SenderState::Unspecified) | Err(_) => None,
        }
    }
}

fn address(bytes: &[u8]) -> Result<IpAddr, WireError> {
    let address = match bytes.len() {
        4 => <[u8; 4]>::try_from(bytes).map(IpAddr::from).ok(),
        16 => <[u8; 16]>::try_from(bytes).map(IpAddr::from).ok(),
        _ => None,
    };
    match address {
        Some(ip) if ip.is_multicast() => Ok(ip),
        _ => Err(WireError::Field("data_address")),
    }
}

fn port(value: u32, field: &'static str) -> Result<u16, WireError> {
    u16::try_from(value).map_err(|_| WireError::Field(field))
}

/// A duration as wire microseconds, capped.
pub(crate) fn duration_u32(duration: Duration) -> u32 {
    u32::try_from(micros(duration)).unwrap_or(u32::MAX)
}

/// Wire microseconds as a duration, checked.
pub(crate) fn duration_in(
    value: u32,
    min: Duration,
    max: Duration,
    field: &'static str,
) -> Result<Duration, WireError> {
    let duration = Duration::from_micros(value.into());
    require(duration >= min && duration <= max, field)?;
    Ok(duration)
}
