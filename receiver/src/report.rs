//! What a receiving node tells while it runs and when it ends.

/// What a node does now.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Progress {
    /// One row for each channel.
    pub channels: Vec<ChannelProgress>,
}

/// One channel of it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ChannelProgress {
    /// The channel's name.
    pub name: String,
    /// Generation of the manifest that is followed.
    pub generation: u64,
    /// Objects that were wanted.
    pub objects: u64,
    /// Of these, installed.
    pub objects_done: u64,
    /// Bytes of wanted objects.
    pub bytes: u64,
    /// Of these, here and verified.
    pub bytes_done: u64,
    /// Bytes of datagrams that were kept.
    pub wire_bytes: u64,
    /// Of these, repair symbols.
    pub repair_bytes: u64,
    /// Receiving rate, in bits per second.
    pub rate_bps: u64,
    /// What it does, in a word or two.
    pub state: String,
    /// The last trouble, for people.
    pub note: Option<String>,
}

/// How a node ended.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Summary {
    /// One row for each channel.
    pub channels: Vec<ReceivedChannel>,
    /// Every dataset is whole and verified, or the node ran until it was told to end.
    pub success: bool,
}

/// One channel of it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ReceivedChannel {
    /// The channel's name.
    pub name: String,
    /// The directory.
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
    /// The dataset is whole and verified.
    pub complete: bool,
    /// Objects that the sender had no passes left for.
    pub unicast_wanted: u64,
    /// Lines for people.
    pub problems: Vec<String>,
}
