//! What a sender tells while it runs and when it ends, as plain values for displays and, as JSON, for scripts: names
//! of fields are a contract.

pub use nackcast_common::report::{ChannelProgress, Progress};
use serde::{Deserialize, Serialize};

/// How a sender ended.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Summary {
    /// Everything was sent, nothing was left out, and as many receivers as expected reported complete.
    pub success: bool,
    /// In the order of the configuration.
    pub channels: Vec<ChannelSummary>,
}

/// How one channel ended.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChannelSummary {
    /// The channel's name.
    pub name: String,
    /// Last generation served; 0: none.
    pub generation: u64,
    /// Objects of it.
    pub objects: u64,
    /// Bytes of objects.
    pub bytes: u64,
    /// Sent to the data group, our headers included.
    pub sent_bytes: u64,
    /// How much of that was repair.
    pub repair_bytes: u64,
    /// Blocks given out by unicast.
    pub unicast_bytes: u64,
    /// Receivers heard lately.
    pub receivers: u64,
    /// Of these, complete with the last generation.
    pub receivers_complete: u64,
    /// What was left out, changed or vanished, one line each.
    pub problems: Vec<String>,
}
