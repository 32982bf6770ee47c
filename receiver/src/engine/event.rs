//! What goes into the receiver engine and what comes out.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use fixedbitset::FixedBitSet;
use nackcast_common::ids::{ChannelId, Digest, Generation, ObjectId, ObjectIndex, SessionId};
use nackcast_common::manifest::Manifest;
use nackcast_common::ranges::RangeSet;
use nackcast_proto::wire::{ManifestRef, Nack};

use super::pull::SourceId;

/// What an engine is made with.
#[derive(Clone, Debug)]
pub struct EngineConfig {
    /// The channel.
    pub channel: ChannelId,
    /// Seeds the backoff.
    pub seed: u64,
    /// Wait for a NACK's answer.
    pub nack_retry: Duration,
    /// NACK datagrams in a window.
    pub nack_budget: usize,
    /// Blocks held in memory.
    pub slots: u32,
    /// A manifest of an earlier run is at hand: its generation and hash.
    pub remembered: Option<(Generation, Digest)>,
    /// The node ends when the dataset is whole.
    pub once: bool,
}

/// The dataset as the scan found it: what is wanted, and what of that is here already.
#[derive(Clone, Debug)]
pub struct Wants {
    /// The manifest.
    pub manifest: Arc<Manifest>,
    /// Hash of its root.
    pub hash: Digest,
    /// Objects of which blocks are wanted.
    pub objects: Vec<Want>,
}

/// One wanted object.
#[derive(Clone, Debug)]
pub struct Want {
    /// Its place in the manifest.
    pub index: ObjectIndex,
    /// Blocks that are here and sound.
    pub done: RangeSet,
    /// Blocks of which symbols are on disk: source and repair by ESI.
    pub held: Vec<(u32, FixedBitSet)>,
}

/// Where the node keeps an open block's symbols in memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Slot(pub u32);

/// Order to the node, answered by the [`Done`] of the same name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Work {
    /// The slot has K symbols or more: restore, verify, and keep the block. Frees the slot.
    Complete {
        /// The object.
        object: ObjectId,
        /// The block.
        block: u32,
        /// Where its symbols are.
        slot: Slot,
    },
    /// Memory is wanted for another block: put the slot's symbols on disk. Frees the slot.
    Spill {
        /// The object.
        object: ObjectId,
        /// The block.
        block: u32,
        /// Where its symbols are.
        slot: Slot,
    },
    /// Bring a block's symbols from disk into the slot, beside those that arrive meanwhile.
    Load {
        /// The object.
        object: ObjectId,
        /// The block.
        block: u32,
        /// Where its symbols go.
        slot: Slot,
    },
    /// The slot's symbols are worthless. Not answered: the slot is free at once.
    Discard {
        /// The slot.
        slot: Slot,
    },
    /// Root and parts are here: put the manifest together and compare the dataset with it. Answered by
    /// [`super::ReceiverEngine::handle_wants`] or [`Done::ManifestRefused`].
    Assemble(ManifestRef),
    /// Every wanted block of the object is here: install its files.
    Install {
        /// The object.
        object: ObjectId,
    },
    /// Put open blocks' symbols on disk, and record what is durable.
    Checkpoint {
        /// Blocks that are open for a while, with their slots.
        blocks: Vec<(ObjectId, u32, Slot)>,
    },
    /// Something could not be kept: say whether the disk takes a block again.
    Room,
    /// Everything wanted is installed: finish directories, prune, and say whether the dataset is whole.
    Finish,
}

/// How a block came out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BlockOutcome {
    /// Verified and kept.
    Sound,
    /// The symbols do not give the block that the manifest names.
    Unsound,
    /// It could not be kept: the disk is full or broken. The symbols are lost.
    NotKept,
}

/// Result of a [`Work`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Done {
    /// Of [`Work::Complete`].
    Complete {
        /// The object.
        object: ObjectId,
        /// The block.
        block: u32,
        /// The slot, free again.
        slot: Slot,
        /// How it came out.
        outcome: BlockOutcome,
    },
    /// Of [`Work::Spill`].
    Spill {
        /// The object.
        object: ObjectId,
        /// The block.
        block: u32,
        /// The slot, free again.
        slot: Slot,
        /// ESIs that are on disk now; none when they could not be kept.
        held: Option<FixedBitSet>,
    },
    /// Of [`Work::Load`].
    Load {
        /// The object.
        object: ObjectId,
        /// The block.
        block: u32,
        /// The slot.
        slot: Slot,
        /// ESIs that the slot holds now.
        held: FixedBitSet,
    },
    /// Of [`Work::Assemble`]: the manifest does not parse or is not the publisher's.
    ManifestRefused {
        /// Its hash.
        hash: Digest,
    },
    /// Of [`Work::Assemble`], or instead of the remembered manifest's wants: bytes that were here are gone, and it
    /// must be fetched again.
    ManifestLost,
    /// Of [`Work::Install`]; `again` when its data was lost and it must be fetched once more.
    Install {
        /// The object.
        object: ObjectId,
        /// What became of it.
        outcome: InstallOutcome,
    },
    /// Of [`Work::Checkpoint`].
    Checkpoint,
    /// Of [`Work::Room`].
    Room {
        /// There is.
        is_there: bool,
    },
    /// Of [`Work::Finish`]: whether the dataset is whole and verified.
    Finish {
        /// It is.
        whole: bool,
    },
}

/// What became of an installation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum InstallOutcome {
    /// Its files are in place.
    Installed,
    /// The disk is full: nothing more is received for a while.
    Full,
    /// For now this object cannot be installed: try again later.
    Later,
    /// Its data is not what the manifest says, or was lost by the disk: fetch it again.
    Refetch {
        /// Blocks that are still here and sound.
        left: RangeSet,
    },
    /// Something stands in the way that only a person can remove.
    Refused,
}

/// What to do with a symbol's bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Admission {
    /// Copy them into the slot, at this ESI.
    Keep(Slot),
    /// Not needed.
    Ignore(Ignored),
}

/// Why a symbol was not needed, for counters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Ignored {
    /// No verified advertisement of the session.
    UnknownSession,
    /// The object is complete, or not (yet) in the dataset.
    NotWanted,
    /// This symbol, or enough others, are here.
    Duplicate,
    /// Block or ESI do not exist.
    OutOfRange,
    /// No memory was free.
    NoMemory,
    /// The block is being restarted with symbols of one session only.
    OtherSession,
}

/// A NACK to send.
#[derive(Clone, Debug, PartialEq)]
pub struct Transmit {
    /// The sender's NACK address.
    pub to: SocketAddr,
    /// Its packet number: the answer names it.
    pub packet: u64,
    /// The NACK.
    pub nack: Nack,
}

/// What the engine reports.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// A sender was heard for the first time.
    SenderHeard(SessionId, SocketAddr),
    /// A sender fell silent.
    SenderLost(SessionId),
    /// Symbols do not give the block that the manifest names; it is fetched again.
    BlockUnsound(ObjectId, u32),
    /// Two manifests of one generation exist; ours is kept.
    TwoManifests(Generation),
    /// The sender's manifest is older than ours; objects are asked by id.
    OlderGeneration(Generation),
    /// Objects that the sender has no passes left for.
    UnicastWanted(u64),
    /// Objects that the sender does not have.
    Unknown(u64),
    /// A source of unicast gave a wrong block of this object: it is not asked any more.
    SourceDropped(SourceId, ObjectId),
    /// The dataset is whole and verified.
    Complete(Generation),
    /// No sender answered in several cycles of NACKs.
    NoSenderAnswers,
}

/// Counters and state, for displays.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Snapshot {
    /// Generation held.
    pub generation: Generation,
    /// A manifest is held.
    pub has_manifest: bool,
    /// Objects of the manifest.
    pub objects: u64,
    /// Of these, installed or here already.
    pub objects_done: u64,
    /// Bytes of its objects.
    pub bytes: u64,
    /// Of these, here: whole objects, and sound blocks of others.
    pub bytes_done: u64,
    /// Symbols kept.
    pub symbols: u64,
    /// Of these, repair symbols.
    pub repair_symbols: u64,
    /// Symbols that were not needed.
    pub unneeded: u64,
    /// NACK datagrams sent.
    pub nacks: u64,
    /// Bytes of their bodies.
    pub nack_bytes: u64,
    /// Loss on the data group, in millionths.
    pub loss_ppm: u32,
    /// Objects that wait for unicast.
    pub unicast_wanted: u64,
    /// Something is being pulled by unicast.
    pub pulling: bool,
    /// Open blocks, in memory and on disk.
    pub open_blocks: u64,
    /// The dataset is whole.
    pub complete: bool,
    /// All is installed; directories are put right, and what left the dataset is removed.
    pub finishing: bool,
    /// Senders heard.
    pub senders: u32,
    /// None of them answers, and something is lacking.
    pub unanswered: bool,
    /// Where the one that serves takes NACKs.
    pub served_by: Option<SocketAddr>,
}
