//! Faults planted on purpose, to see that the simulator finds them.
//!
//! Each is a place in the code where somebody could have made a mistake. Without the feature `mutations`, which only
//! tests switch on, [`planted`] is `false` at compile time and nothing of this is in the program. With it, a test
//! plants one mutation in its own thread with `plant`.

/// A mistake that somebody could have made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mutation {
    /// The map of a partial object calls the block after a verified one verified too.
    BitmapOffByOne,
    /// Files get their final names before their bytes are durable.
    InstallBeforeSync,
    /// A partial object's map is stored before its data is durable.
    MapBeforeData,
    /// Places of the side file that the map on disk names are given to other symbols.
    SideFileReused,
    /// A block is kept without being checked.
    BlockNotChecked,
    /// A promise never lapses.
    PromiseForEver,
    /// The NACK window only grows.
    WindowNeverReset,
    /// A receiver asks again before the window is over.
    WindowIgnored,
    /// Packet numbers of control datagrams begin again.
    NonceRestarts,
    /// A session's roll keeps its id.
    RollKeepsSession,
    /// An object that is asked for while another is sent counts as queued, and is in no queue.
    PoolLosesObject,
    /// The pass counter stands still.
    PassNotCounted,
    /// Repair always begins at the same symbol.
    RepairRepeats,
    /// A block's slot is not given back after it was put on disk.
    SlotLeaks,
    /// A file that is moved within the dataset is believed to be what it was.
    StampNotChecked,
    /// A sender that fell silent is waited for.
    SilenceNotSeen,
    /// A standby sender takes over without asking whether the primary serves.
    ProbeSkipped,
    /// A sender that yields stands by at once, and goes on sending.
    DrainForgotten,
    /// A network alert is raised at the first NACK that is disregarded.
    AlertAtFirstNack,
    /// A primary that comes back begins at once, while a backup serves.
    HoldOffIgnored,
    /// A receiver pulls as soon as it hears no sender.
    PullsAtOnce,
    /// When no passes are left for one object, all are pulled.
    PermitForAll,
    /// What a sender promised again is pulled all the same.
    PermitStays,
    /// A pulled block is kept without being checked.
    PulledNotChecked,
    /// A source that gave a wrong block is asked again.
    SourceNotDropped,
}

impl Mutation {
    /// All of them.
    pub const ALL: [Self; 25] = [
        Self::BitmapOffByOne,
        Self::InstallBeforeSync,
        Self::MapBeforeData,
        Self::SideFileReused,
        Self::BlockNotChecked,
        Self::PromiseForEver,
        Self::WindowNeverReset,
        Self::WindowIgnored,
        Self::NonceRestarts,
        Self::RollKeepsSession,
        Self::PoolLosesObject,
        Self::PassNotCounted,
        Self::RepairRepeats,
        Self::SlotLeaks,
        Self::StampNotChecked,
        Self::SilenceNotSeen,
        Self::ProbeSkipped,
        Self::DrainForgotten,
        Self::AlertAtFirstNack,
        Self::HoldOffIgnored,
        Self::PullsAtOnce,
        Self::PermitForAll,
        Self::PermitStays,
        Self::PulledNotChecked,
        Self::SourceNotDropped,
    ];
}

/// Whether this thread has the mutation planted.
#[cfg(not(feature = "mutations"))]
#[inline(always)]
#[must_use]
pub const fn planted(_mutation: Mutation) -> bool {
    false
}

#[cfg(feature = "mutations")]
mod switch {
    use std::cell::Cell;

    use super::Mutation;

    thread_local! {
        static PLANTED: Cell<Option<Mutation>> = const { Cell::new(None) };
    }

    /// Whether this thread has the mutation planted.
    #[must_use]
    pub fn planted(mutation: Mutation) -> bool {
        PLANTED.get() == Some(mutation)
    }

    /// Plants a mutation in this thread, or takes it out.
    pub fn plant(mutation: Option<Mutation>) {
        PLANTED.set(mutation);
    }
}

#[cfg(feature = "mutations")]
pub use switch::{plant, planted};
