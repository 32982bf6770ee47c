//! Whose memory it is: the program that runs the model may count what each side holds.

/// One side.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(usize)]
pub enum Owner {
    /// The model itself.
    Model = 0,
    /// The sender: its engine, and the manifest that it serves.
    Sender = 1,
    /// All receivers.
    Receivers = 2,
}

/// Told who works now; says how many bytes somebody holds.
#[derive(Clone, Copy, Debug)]
pub struct Meter {
    /// From now on this one allocates; returns the one before.
    pub switch: fn(Owner) -> Owner,
    /// Bytes that it holds.
    pub held: fn(Owner) -> u64,
}

impl Meter {
    /// Counts nothing.
    pub const NONE: Self = Self { switch: |_| Owner::Model, held: |_| 0 };

    /// What `work` allocates is this one's.
    pub(super) fn count<R>(&self, owner: Owner, work: impl FnOnce() -> R) -> R {
        let before = (self.switch)(owner);
        let result = work();
        (self.switch)(before);
        result
    }
}
