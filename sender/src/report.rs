//! What a sender tells while it runs and when it ends, as plain values for displays.

/// What the node does now.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Progress {
    /// In the order of the configuration.
    pub channels: Vec<ChannelProgress>,
}

/// What one channel does now.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ChannelProgress {
    /// The channel's name.
    pub name: String,
    /// Generation served; 0: none yet.
    pub generation: u64,
    /// Objects of the generation.
    pub objects: u64,
    /// Of these, behind their first pass.
    pub objects_done: u64,
    /// Bytes of objects.
    pub bytes: u64,
    /// Of these, behind their first pass.
    pub bytes_done: u64,
    /// Sent to the data group, our headers included.
    pub wire_bytes: u64,
    /// How much of that was repair.
    pub repair_bytes: u64,
    /// Bits per second on the data group, measured over the last moments.
    pub rate_bps: u64,
    /// Receivers heard lately.
    pub receivers: u64,
    /// Of these, complete with this generation.
    pub receivers_complete: u64,
    /// One word: `hashing`, `waiting`, `sending`, `idle`, `draining`.
    pub state: String,
    /// What else is worth knowing.
    pub note: Option<String>,
}

/// How a sender ended.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Summary {
    /// Everything was sent, nothing was left out, and as many receivers as expected reported complete.
    pub success: bool,
    /// In the order of the configuration.
    pub channels: Vec<ChannelSummary>,
}

/// How one channel ended.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
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
    /// Receivers heard lately.
    pub receivers: u64,
    /// Of these, complete with the last generation.
    pub receivers_complete: u64,
    /// What was left out, changed or vanished, one line each.
    pub problems: Vec<String>,
}
