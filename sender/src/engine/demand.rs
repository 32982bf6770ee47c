//! What receivers want of one object: demands merge by maximum, so no state per receiver is kept.

use std::collections::BTreeMap;

use nackcast_common::ranges::RangeSet;

/// Symbols wanted of one block.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct BlockDemand {
    /// The largest deficit, scaled by its receiver's loss.
    largest: u16,
    /// All deficits together, to know what most receivers need.
    sum: u32,
    /// How many asked.
    asks: u32,
}

impl BlockDemand {
    /// Another receiver's deficit.
    pub(super) fn merge(&mut self, deficit: u16) {
        self.largest = self.largest.max(deficit);
        self.sum = self.sum.saturating_add(deficit.into());
        self.asks = self.asks.saturating_add(1);
    }

    /// The largest deficit.
    pub(super) const fn largest(&self) -> u16 {
        self.largest
    }

    /// What the mean receiver needs (sent first), and the rest of the largest deficit (sent last).
    pub(super) fn split(&self) -> (u16, u16) {
        let mean = u16::try_from(self.sum.div_ceil(self.asks.max(1))).unwrap_or(u16::MAX);
        let first = mean.min(self.largest);
        (first, self.largest - first)
    }
}

/// Symbols wanted of one object.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Demand {
    /// Blocks of which some receiver has nothing: all source symbols.
    pub(super) whole: RangeSet,
    /// Blocks of which receivers have something.
    pub(super) short: BTreeMap<u32, BlockDemand>,
    /// Largest loss among those who asked, in millionths.
    pub(super) loss_ppm: u32,
}

impl Demand {
    /// Nothing is wanted.
    pub(super) fn is_empty(&self) -> bool {
        self.whole.is_empty() && self.short.is_empty()
    }

    /// Of each short block more is sent, the more often the object was passed without success: receivers may lose more
    /// than they reported, and after the last pass only unicast is left.
    pub(super) fn insist(&mut self, pass: u32) {
        let tries = pass.saturating_sub(2).min(100);
        let more = u16::try_from(tries * (tries + 1) / 2).unwrap_or(u16::MAX);
        for demand in self.short.values_mut() {
            demand.largest = demand.largest.saturating_add(more);
        }
    }

    /// Adds what another demand wants.
    pub(super) fn merge(&mut self, other: Self) {
        self.whole.union(&other.whole);
        self.loss_ppm = self.loss_ppm.max(other.loss_ppm);
        for (block, demand) in other.short {
            let mine = self.short.entry(block).or_default();
            mine.largest = mine.largest.max(demand.largest);
            mine.sum = mine.sum.saturating_add(demand.sum);
            mine.asks = mine.asks.saturating_add(demand.asks);
        }
    }
}

/// So many symbols are sent for `count` to arrive at a receiver with this loss: to the nearest, since a symbol too
/// few is asked for once more by one receiver, and a symbol too many is sent to all. Loss above one half is left to
/// later rounds: one receiver must not make the group wait.
pub(super) fn scale(count: u16, loss_ppm: u32) -> u16 {
    let arriving = u64::from(1_000_000 - loss_ppm.min(500_000));
    u16::try_from((u64::from(count) * 1_000_000 + arriving / 2) / arriving).unwrap_or(u16::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn most_receivers_are_served_first_and_the_worst_in_full() {
        let mut demand = BlockDemand::default();
        for deficit in [2, 2, 2, 10] {
            demand.merge(deficit);
        }
        assert_eq!(demand.split(), (4, 6));
        assert_eq!(demand.largest(), 10);
    }

    #[test]
    fn passes_without_success_send_more() {
        let after = |pass| {
            let mut demand = Demand::default();
            demand.short.entry(0).or_default().merge(1);
            demand.insist(pass);
            demand.short[&0].largest()
        };
        assert_eq!([1, 2, 3, 4, 5].map(after), [1, 1, 2, 4, 7]);
        assert!((1..=16).map(after).sum::<u16>() > 256, "a round of passes goes through all repair symbols");
    }

    #[test]
    fn repairs_are_scaled_by_loss_within_reason() {
        assert_eq!(scale(10, 0), 10);
        assert_eq!(scale(10, 50_000), 11);
        assert_eq!(scale(10, 900_000), 20);
        assert_eq!(scale(1, 10_000), 1);
        assert_eq!(scale(60, 10_000), 61);
    }
}
