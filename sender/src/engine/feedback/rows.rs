//! The table about single receivers: its memory is taken at once, so that a sender's does not grow with its group.

use nackcast_common::ids::RunId;

use super::{RECEIVERS_MAX, Row};

/// Rows, in the order of their runs.
#[derive(Debug)]
pub(super) struct Rows(Vec<(RunId, Row)>);

impl Rows {
    /// One more than are kept: it is added before others go.
    pub(super) fn new() -> Self {
        Self(Vec::with_capacity(RECEIVERS_MAX + 1))
    }

    fn place(&self, run: RunId) -> Result<usize, usize> {
        self.0.binary_search_by_key(&run, |(run, _)| *run)
    }

    pub(super) fn get_mut(&mut self, run: RunId) -> Option<&mut Row> {
        let at = self.place(run).ok()?;
        self.0.get_mut(at).map(|(_, row)| row)
    }

    pub(super) fn insert(&mut self, run: RunId, row: Row) {
        match self.place(run) {
            Ok(at) => self.0[at].1 = row,
            Err(at) => self.0.insert(at, (run, row)),
        }
    }

    pub(super) fn retain(&mut self, keep: impl Fn(RunId, &Row) -> bool) {
        self.0.retain(|(run, row)| keep(*run, row));
    }

    pub(super) const fn len(&self) -> usize {
        self.0.len()
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (RunId, &Row)> {
        self.0.iter().map(|(run, row)| (*run, row))
    }

    pub(super) fn values(&self) -> impl Iterator<Item = &Row> {
        self.0.iter().map(|(_, row)| row)
    }

    pub(super) fn values_mut(&mut self) -> impl Iterator<Item = &mut Row> {
        self.0.iter_mut().map(|(_, row)| row)
    }
}
