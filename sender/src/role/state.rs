//! What a sender does, and what others are told of it.

use nackcast_common::clock::Time;
use nackcast_proto::wire::SenderState;

/// What a sender does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// There is no content yet.
    Waiting,
    /// A primary at its start asks whether a backup is active.
    Asking,
    /// A primary whose last returns failed leaves the channel to the backup for a while.
    Penalty {
        /// Until then.
        until: Time,
    },
    /// A primary lets a backup finish.
    HoldingOff {
        /// Until then.
        until: Time,
    },
    /// It waits until it is needed.
    Standby,
    /// A NACK came: it asks whether another sender serves.
    Probing,
    /// It sends.
    Active,
    /// It finishes the blocks that it sends.
    Draining {
        /// At most until then.
        until: Time,
        /// By command: it stays so.
        for_good: bool,
    },
    /// Stopped by command.
    Paused,
    /// Its disk or its network fails.
    Blind,
    /// Ended by command.
    Drained,
}

impl State {
    /// What others are told.
    #[must_use]
    pub const fn told(self) -> SenderState {
        match self {
            Self::Waiting | Self::Asking | Self::HoldingOff { .. } => SenderState::Starting,
            Self::Standby | Self::Probing => SenderState::Standby,
            Self::Active => SenderState::Active,
            Self::Draining { .. } => SenderState::Draining,
            Self::Penalty { .. } | Self::Paused | Self::Blind | Self::Drained => SenderState::Paused,
        }
    }
}
