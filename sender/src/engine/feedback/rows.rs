//! The table about single receivers: its memory is taken at once, so that a sender's does not grow with its group.
//!
//! - A group of up to [`RECEIVERS_MAX`] has a row each. A larger one is known by a sample of one in 2^`level`, chosen by
//!   run id, from which sizes are scaled up; and by the worst of the others, those that lack most bytes, for whom
//!   [`WORST_MAX`] rows are kept free. The worst are for people: no size is scaled up from them.
//! - What one NACK costs is bounded by the table, not by the group.

use std::collections::BTreeSet;

use nackcast_common::ids::RunId;

use super::{RECEIVERS_MAX, Row};

/// Rows for the worst beside a sample: a quarter of all.
pub(super) const WORST_MAX: usize = RECEIVERS_MAX / 4;

/// Rows, in the order of their runs.
#[derive(Debug)]
pub(super) struct Rows {
    sample: Vec<(RunId, Row)>,
    /// One in 2^`level` of the receivers is in the sample.
    level: u32,
    worst: Vec<(RunId, Row)>,
    /// By what they lack: who makes room.
    by_lack: BTreeSet<(u64, RunId)>,
}

fn place(rows: &[(RunId, Row)], run: RunId) -> Result<usize, usize> {
    rows.binary_search_by_key(&run, |(run, _)| *run)
}

/// One in 2^`level` of the receivers is in the sample.
const fn is_sampled(level: u32, run: RunId) -> bool {
    // Run ids are random; a round of multiplication spreads those that are not.
    (run.0.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32).trailing_zeros() >= level
}

impl Rows {
    /// One more than are kept: it is added before others go.
    pub(super) fn new() -> Self {
        Self {
            sample: Vec::with_capacity(RECEIVERS_MAX + 1),
            level: 0,
            worst: Vec::with_capacity(WORST_MAX + 1),
            by_lack: BTreeSet::new(),
        }
    }

    /// One row of the sample stands for 2^`level` receivers.
    pub(super) const fn level(&self) -> u32 {
        self.level
    }

    /// Whether the receiver's row is, or would be, one of the sample.
    pub(super) const fn is_sampled(&self, run: RunId) -> bool {
        is_sampled(self.level, run)
    }

    pub(super) fn get_mut(&mut self, run: RunId) -> Option<&mut Row> {
        let rows = if self.is_sampled(run) { &mut self.sample } else { &mut self.worst };
        let at = place(rows, run).ok()?;
        rows.get_mut(at).map(|(_, row)| row)
    }

    /// Adds a row that is not there: to the sample, or to the worst where it is one of them.
    pub(super) fn insert(&mut self, run: RunId, row: Row) {
        if !self.is_sampled(run) {
            self.insert_worst(run, row);
        } else if let Err(at) = place(&self.sample, run) {
            self.sample.insert(at, (run, row));
        }
    }

    fn insert_worst(&mut self, run: RunId, row: Row) {
        let lack = row.bytes_missing;
        let least = self.by_lack.first().map_or(0, |(lack, _)| *lack);
        if lack == 0 || self.worst.len() >= WORST_MAX && lack <= least {
            return;
        }
        if let Err(at) = place(&self.worst, run) {
            self.worst.insert(at, (run, row));
            self.by_lack.insert((lack, run));
        }
        if self.worst.len() > WORST_MAX
            && let Some((_, least)) = self.by_lack.pop_first()
            && let Ok(at) = place(&self.worst, least)
        {
            self.worst.remove(at);
        }
    }

    /// A receiver lacks so many bytes now. One of the worst that lacks nothing any more is none of them.
    pub(super) fn set_lack(&mut self, run: RunId, bytes: u64) {
        let Some(row) = self.get_mut(run) else { return };
        let before = std::mem::replace(&mut row.bytes_missing, bytes);
        if self.is_sampled(run) || before == bytes {
            return;
        }
        self.by_lack.remove(&(before, run));
        if bytes > 0 {
            self.by_lack.insert((bytes, run));
        } else if let Ok(at) = place(&self.worst, run) {
            self.worst.remove(at);
        }
    }

    /// Makes room in the sample: forgets whom `keep` does not name, then takes a smaller one.
    /// True when rows went.
    pub(super) fn bound(&mut self, keep: impl Fn(&Row) -> bool) -> bool {
        let is_over = self.sample.len() > self.room();
        while self.sample.len() > self.room() {
            let before = self.sample.len();
            self.sample.retain(|(_, row)| keep(row));
            if self.sample.len() < before {
                continue;
            }
            self.level += 1;
            let level = self.level;
            let others: Vec<_> = self.sample.extract_if(.., |(run, _)| !is_sampled(level, *run)).collect();
            others.into_iter().for_each(|(run, row)| self.insert_worst(run, row));
        }
        is_over
    }

    /// While all receivers have a row, no other is one of the worst.
    const fn room(&self) -> usize {
        if self.level == 0 { RECEIVERS_MAX } else { RECEIVERS_MAX - WORST_MAX }
    }

    /// Forgets those of the worst that `keep` does not name.
    pub(super) fn retain_worst(&mut self, keep: impl Fn(&Row) -> bool) {
        let by_lack = &mut self.by_lack;
        self.worst.retain(|(run, row)| keep(row) || !by_lack.remove(&(row.bytes_missing, *run)));
    }

    /// All rows.
    pub(super) const fn len(&self) -> usize {
        self.sample.len() + self.worst.len()
    }

    /// Rows from which sizes are scaled up.
    pub(super) const fn sample_len(&self) -> usize {
        self.sample.len()
    }

    /// All rows.
    pub(super) fn iter(&self) -> impl Iterator<Item = (RunId, &Row)> {
        self.sample.iter().chain(&self.worst).map(|(run, row)| (*run, row))
    }

    /// Rows from which sizes are scaled up.
    pub(super) fn sample(&self) -> impl Iterator<Item = &Row> {
        self.sample.iter().map(|(_, row)| row)
    }

    /// All rows.
    pub(super) fn values_mut(&mut self) -> impl Iterator<Item = &mut Row> {
        self.sample.iter_mut().chain(&mut self.worst).map(|(_, row)| row)
    }
}
