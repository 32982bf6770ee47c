//! What goes into the sender engine and what comes out.

use std::net::SocketAddr;
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use nackcast_common::geometry::Layout;
use nackcast_common::ids::{ChannelId, Digest, Epoch, Generation, ObjectId, SessionId, StartNumber};
use nackcast_common::manifest::Manifest;
use nackcast_common::units::RateLimit;

use super::congestion::RateBounds;
use nackcast_proto::wire::{Advertisement, DigestBody, ManifestRef, NackAnswer, Role, SenderCertificate, SenderState};

use crate::config::{Once, ScheduleConfig};

/// What an engine is made with.
#[derive(Clone, Debug)]
pub struct EngineConfig {
    /// The channel.
    pub channel: ChannelId,
    /// This run.
    pub session: SessionId,
    /// Order among runs.
    pub start_number: StartNumber,
    /// Which epoch secret seals.
    pub epoch: Epoch,
    /// What this sender is for.
    pub role: Role,
    /// Who signs its advertisements.
    pub certificate: SenderCertificate,
    /// Where symbols go.
    pub data_group: SocketAddr,
    /// Where NACKs arrive.
    pub nack_port: u16,
    /// Where QUIC is served; 0: nowhere.
    pub quic_port: u16,
    /// How fast to send.
    pub rate: RateLimit,
    /// What congestion control may choose.
    pub auto: RateBounds,
    /// The scheduler's numbers.
    pub schedule: ScheduleConfig,
    /// When to end.
    pub once: Option<Once>,
}

/// A manifest to serve.
#[derive(Clone, Debug)]
pub struct Publication {
    /// What advertisements name.
    pub reference: ManifestRef,
    /// The manifest.
    pub manifest: Arc<Manifest>,
    /// The root and its parts, as objects.
    pub parts: Vec<(ObjectId, Layout)>,
    /// New while this sender runs: its new objects get a first pass. A manifest found at the start is not.
    pub fresh: bool,
    /// Passes of the current round that an earlier run counted.
    pub passes: Vec<(ObjectId, u32)>,
}

/// What an admin or the driver tells the engine.
#[derive(Clone, Debug)]
pub enum Command {
    /// Serve this manifest from now on.
    Publish(Box<Publication>),
    /// Go on under a new session: the old one's packet numbers run out, or an epoch begins.
    Roll(SessionId, StartNumber, Epoch),
    /// Another rate.
    SetRate(RateLimit),
    /// Finish running jobs, start none.
    Drain,
    /// What the sender's role wants. Active: all as usual. Draining: blocks under way are finished, then
    /// [`Event::Drained`]. Every other state: no content is sent, and what was asked for is forgotten.
    Become(SenderState),
    /// The bytes of these objects are not here (yet): the answer is `unknown`. The next publication asks anew.
    Lacks(Vec<ObjectId>),
    /// Begin a new round for these objects, with a pass to everybody; those that are not here are left out.
    Resend(Vec<ObjectId>),
}

/// Order to the driver, answered by a [`Done`] where one is named.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Work {
    /// Read and verify a block, and make its repair symbols if asked: answered by [`Done::Prepared`].
    Prepare {
        /// The object.
        object: ObjectId,
        /// The block.
        block: u32,
        /// Repair symbols will be sent.
        repair: bool,
    },
    /// One preparation of the block is no longer needed.
    Release {
        /// The object.
        object: ObjectId,
        /// The block.
        block: u32,
    },
    /// Store that the object's pass `count` of the round begins: answered by [`Done::PassRecorded`].
    RecordPass {
        /// The object.
        object: ObjectId,
        /// Passes of the round, with the one that begins.
        count: u32,
    },
}

/// Result of a [`Work`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Done {
    /// The block can be sent, or its bytes are not what the manifest says (or cannot be read).
    Prepared {
        /// The object.
        object: ObjectId,
        /// The block.
        block: u32,
        /// Whether its symbols are at hand.
        sound: bool,
    },
    /// The count is durable.
    PassRecorded {
        /// The object.
        object: ObjectId,
    },
}

/// A datagram, or a run of them, to send now.
#[derive(Clone, Debug, PartialEq)]
pub enum Transmit {
    /// To sign and send to the advertisement group.
    Advertisement(Box<Advertisement>),
    /// To sign and send to the advertisement group.
    Digest(DigestBody),
    /// To send to a receiver, signed when it has a nonce.
    Answer(SocketAddr, NackAnswer),
    /// Consecutive symbols of a prepared block, to the data group, under consecutive packet numbers.
    Symbols(SymbolRun),
}

/// Consecutive symbols of a block.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SymbolRun {
    /// The object.
    pub object: ObjectId,
    /// The block.
    pub block: u32,
    /// Source or repair symbols; never both.
    pub esis: Range<u16>,
    /// Packet number of the first.
    pub first_packet: u64,
}

/// What the engine reports.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// An object's bytes are no longer what the manifest says: rescan.
    ObjectChanged(ObjectId),
    /// The first pass of everything new in this generation is over.
    FirstPassOver(Generation),
    /// The session's packet numbers run out: answer with [`Command::Roll`].
    SessionEnding,
    /// `once`: nothing more is asked for.
    Finished,
    /// [`Command::Become`] draining: no block is under way any more.
    Drained,
    /// A receiver was heard for the first time.
    ReceiverHeard,
    /// A receiver reported the manifest with this hash complete.
    ReceiverComplete(Digest),
}

/// Counters and state, for displays.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Snapshot {
    /// Generation served.
    pub generation: Generation,
    /// Objects of the table.
    pub objects: u64,
    /// Of these, not waiting for their first pass.
    pub objects_passed: u64,
    /// Bytes of objects.
    pub bytes: u64,
    /// Of these, behind the first pass.
    pub bytes_passed: u64,
    /// Bytes of datagrams given to the data group.
    pub sent_bytes: u64,
    /// Of these, not of a first pass.
    pub repair_bytes: u64,
    /// Receivers heard lately.
    pub receivers: u32,
    /// Of these, complete with this manifest.
    pub receivers_complete: u32,
    /// NACK datagrams taken.
    pub nacks: u64,
    /// Objects in the pool and jobs in the list.
    pub pool: usize,
    /// Jobs running.
    pub jobs: usize,
    /// Group round-trip time.
    pub grtt: Duration,
    /// The current NACK window.
    pub nack_window: Duration,
    /// Bits per second at most; 0: no limit.
    pub rate_limit_bps: u64,
    /// What the sender does.
    pub state: Option<SenderState>,
    /// Mean loss of the receivers that are heard, in millionths.
    pub loss_ppm: u32,
    /// Objects that were asked for when they had no pass left.
    pub exhausted: u64,
}
