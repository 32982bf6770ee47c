//! Every queue and table keeps to its bound.

use super::Verdict;

/// One thing that is bounded.
#[derive(Clone, Copy, Debug)]
pub struct Bounded {
    /// What it is.
    pub name: &'static str,
    /// How many there are.
    pub len: usize,
    /// How many there may be.
    pub most: usize,
}

impl Bounded {
    /// A look at it.
    ///
    /// # Errors
    /// When there is more of it than there may be.
    pub fn look(self) -> Verdict {
        let Self { name, len, most } = self;
        if len > most { Err(format!("{name}: {len} where {most} are allowed")) } else { Ok(()) }
    }
}
