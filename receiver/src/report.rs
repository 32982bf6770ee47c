//! What a receiving node tells while it runs and when it ends, as plain values for displays and, as JSON, for scripts:
//! names of fields are a contract.

pub use nackcast_common::report::{ChannelProgress, Progress};
use serde::{Deserialize, Serialize};

/// State of a channel that hears no sender.
pub const WAITING: &str = "waiting for a sender";

/// How a node ended.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Summary {
    /// Every dataset is whole and verified. A node that was told to end before is no failure, but this is false.
    pub success: bool,
    /// One row for each channel.
    pub channels: Vec<ReceivedChannel>,
}

/// One channel of it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReceivedChannel {
    /// The channel's name.
    pub name: String,
    /// The directory; parts that are not UTF-8 are replaced.
    pub into: String,
    /// Generation of the manifest that was followed.
    pub generation: u64,
    /// Files of the dataset.
    pub files: u64,
    /// Bytes of them.
    pub bytes: u64,
    /// Bytes of datagrams that were kept.
    pub received_bytes: u64,
    /// Of these, repair symbols.
    pub repair_bytes: u64,
    /// Blocks that were pulled by unicast.
    pub pulled_bytes: u64,
    /// Who gave them.
    pub pull_sources: Vec<String>,
    /// Blocks that were given to other receivers.
    pub unicast_bytes: u64,
    /// The dataset is whole and verified.
    pub complete: bool,
    /// Objects that the sender had no passes left for.
    pub unicast_wanted: u64,
    /// Lines for people.
    pub problems: Vec<String>,
}
