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

/// The oracle; it remembers how near each bound was come to.
#[derive(Debug, Default)]
pub struct Bounds {
    /// The highest that each was seen.
    pub highest: std::collections::BTreeMap<&'static str, usize>,
}

impl Bounds {
    /// A look at something bounded.
    ///
    /// # Errors
    /// When there is more of it than there may be.
    pub fn look(&mut self, of: Bounded) -> Verdict {
        let highest = self.highest.entry(of.name).or_insert(0);
        *highest = of.len.max(*highest);
        if of.len > of.most { Err(format!("{}: {} where {} are allowed", of.name, of.len, of.most)) } else { Ok(()) }
    }
}
