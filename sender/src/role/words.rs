//! States as logs name them: one word each.

use std::fmt;

use super::State;

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Waiting => "waiting",
            Self::Asking => "asking",
            Self::Penalty { .. } => "penalty",
            Self::HoldingOff { .. } => "holding-off",
            Self::Standby => "standby",
            Self::Probing => "probing",
            Self::Active => "active",
            Self::Draining { .. } => "draining",
            Self::Paused => "paused",
            Self::Blind => "blind",
            Self::Drained => "drained",
        })
    }
}
