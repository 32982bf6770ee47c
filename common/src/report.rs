//! What a running node tells about itself: the same rows for senders and receivers.
//!
//! Names of fields are a contract with scripts: `--progress-json` prints them.

use serde::{Deserialize, Serialize};

use crate::alerts::Finding;

/// What a node does now.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Progress {
    /// One row for each channel, in the order of the configuration.
    pub channels: Vec<ChannelProgress>,
}

/// What one channel does now. "Done" is sent once at a sender, and installed or verified at a receiver.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct ChannelProgress {
    /// The channel's name.
    pub name: String,
    /// Generation served or followed; 0: none yet.
    pub generation: u64,
    /// Objects of the generation that are sent or wanted.
    pub objects: u64,
    /// Of these, done.
    pub objects_done: u64,
    /// Bytes of these objects.
    pub bytes: u64,
    /// Of these, done.
    pub bytes_done: u64,
    /// Sent or received on the data group, headers included.
    pub wire_bytes: u64,
    /// How much of that was repair.
    pub repair_bytes: u64,
    /// Bits per second on the data group, with what is pulled by unicast, measured over the last moments.
    pub rate_bps: u64,
    /// Blocks given out by unicast, to whoever pulled them.
    pub unicast_bytes: u64,
    /// Blocks that were pulled by unicast; known to a receiver only.
    pub pulled_bytes: u64,
    /// Who gave them.
    pub pull_sources: Vec<String>,
    /// Receivers heard lately; known to a sender only.
    pub receivers: u64,
    /// Of these, complete with this generation.
    pub receivers_complete: u64,
    /// Jobs that run; known to a sender only, as are the next two.
    pub jobs: u64,
    /// Objects that wait for a job.
    pub pool: u64,
    /// Bits per second at most; 0: no limit.
    pub rate_limit_bps: u64,
    /// NACK datagrams taken, or sent.
    pub nacks: u64,
    /// Loss on the data group in millionths: a receiver's own, a sender's mean over its receivers.
    pub loss_ppm: u32,
    /// Objects that multicast no longer brings.
    pub unicast_wanted: u64,
    /// Senders heard; known to a receiver only.
    pub senders: u64,
    /// Group round-trip time and NACK window, in microseconds.
    pub grtt_us: u64,
    /// See `grtt_us`.
    pub nack_window_us: u64,
    /// What a sender is for: `primary` or `backup`; empty at a receiver.
    pub sender_role: String,
    /// What its role does: `active` serves, `standby` waits, and so on; empty at a receiver.
    pub role_state: String,
    /// Where the sender that serves takes NACKs; known to who receives.
    pub served_by: String,
    /// What it does, in a word or two.
    pub state: String,
    /// What else is worth knowing, or the last trouble; for people.
    pub note: Option<String>,
    /// Generations that became complete lately, the last one last; known to who receives. It is for the node itself.
    #[serde(skip)]
    pub completed: Vec<u64>,
    /// What is wrong now.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub findings: Vec<Finding>,
}
