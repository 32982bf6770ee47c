//! How many repair symbols a block gets unasked, with its first symbols.
//!
//! - What blocks needed after their first pass tells what the next ones will need: with ten thousand receivers somebody
//!   always lacks eight symbols of a block. Sent at once they spare the receivers the wait, and the sender all NACKs but
//!   those of the few that lack more.
//! - What nearly every one of the last blocks needed is sent, the tenth that needed least aside. So little is sent that
//!   nobody needs, and a small group, or one that loses the same symbols, is sent next to nothing unasked.
//! - Of a block of which nothing was asked it is not known how much less it needed: it counts as one symbol less.
//! - Until some blocks are known it is what the mean receiver loses: that somebody needs whether receivers lose the same
//!   symbols or each its own.

use std::collections::VecDeque;

/// Blocks that are remembered...
const BLOCKS_MAX: usize = 32;
/// ...and how many must be known to count.
const BLOCKS_MIN: usize = 4;
/// One block in so many may need less than what is sent unasked.
const ASIDE: usize = 10;
/// Of a block's source symbols, no more than this are sent unasked.
const SHARE_MAX: f64 = 0.34;
/// Symbols asked of one block that count: one receiver with a bad link shall not raise it at once.
const COUNTED_MAX: u32 = 32;

/// What the last blocks needed, as shares of their source symbols.
#[derive(Debug, Default)]
pub(super) struct Foresight {
    needs: VecDeque<f64>,
    /// What is sent unasked.
    share: f64,
    /// Source symbols of the longest block seen: much shorter ones tell nothing about it.
    longest: u16,
    begun: bool,
}

impl Foresight {
    /// Symbols for a block of `k` source symbols.
    pub(super) fn symbols(&self, k: u16) -> u16 {
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "at most a third of k")]
        let count = self.share.mul_add(f64::from(k), 1e-6) as u16;
        count
    }

    /// Nothing was foreseen or learnt yet.
    pub(super) const fn is_new(&self) -> bool {
        !self.begun
    }

    /// Begins, for receivers with this mean loss.
    pub(super) fn begin(&mut self, loss_ppm: u32) {
        self.begun = true;
        self.share = (f64::from(loss_ppm) / 1e6).min(SHARE_MAX);
    }

    /// After its first pass, with `unasked` symbols beside, a block of `k` source symbols was asked for so many more.
    pub(super) fn learn(&mut self, k: u16, unasked: u16, asked: u32) {
        self.longest = self.longest.max(k);
        if k == 0 || k < self.longest / 2 {
            return;
        }
        self.begun = true;
        let asked = u16::try_from(asked.min(COUNTED_MAX)).unwrap_or(u16::MAX);
        let need = if asked == 0 { unasked.saturating_sub(1) } else { unasked.saturating_add(asked) };
        if self.needs.len() == BLOCKS_MAX {
            self.needs.pop_front();
        }
        self.needs.push_back(f64::from(need) / f64::from(k));
        if self.needs.len() >= BLOCKS_MIN {
            let mut sorted: Vec<_> = self.needs.iter().copied().collect();
            sorted.sort_unstable_by(f64::total_cmp);
            self.share = sorted[sorted.len() / ASIDE].min(SHARE_MAX);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Blocks that need one of `needs` in turn, whatever was sent unasked counts.
    fn settled(needs: &[u16]) -> f64 {
        let mut foresight = Foresight::default();
        let mut sum = 0.0;
        for round in 0..2_000_usize {
            let unasked = foresight.symbols(188);
            foresight.learn(188, unasked, needs[round % needs.len()].saturating_sub(unasked).into());
            sum += if round >= 1_000 { f64::from(unasked) } else { 0.0 };
        }
        sum / 1_000.0
    }

    #[test]
    fn a_large_group_gets_nearly_what_each_block_needs() {
        let unasked = settled(&[8, 9, 9, 10, 9, 8, 10, 11, 9, 9]);
        assert!((7.0..9.0).contains(&unasked), "{unasked}");
    }

    #[test]
    fn a_small_group_gets_next_to_nothing_unasked() {
        let unasked = settled(&[1, 2, 0, 4, 2, 1, 3, 0, 2, 5]);
        assert!(unasked < 1.0, "{unasked}");
        assert!(settled(&[0]) < 0.1);
    }

    #[test]
    fn it_begins_with_what_any_receiver_needs() {
        let begun = |loss_ppm| {
            let mut foresight = Foresight::default();
            foresight.begin(loss_ppm);
            foresight.symbols(188)
        };
        assert_eq!([0, 5_000, 10_000, 50_000, 1_000_000].map(begun), [0, 0, 1, 9, 63]);
    }

    #[test]
    fn a_few_blocks_are_enough_to_learn() {
        let mut foresight = Foresight::default();
        foresight.begin(10_000);
        for _ in 0..4 {
            foresight.learn(188, 1, 8);
        }
        assert_eq!(foresight.symbols(188), 9);
        // The receivers that needed it have left.
        for _ in 0..16 {
            let unasked = foresight.symbols(188);
            foresight.learn(188, unasked, 0);
        }
        assert!(foresight.symbols(188) <= 5, "{}", foresight.symbols(188));
    }

    #[test]
    fn short_blocks_tell_nothing_about_long_ones() {
        let mut foresight = Foresight::default();
        for _ in 0..32 {
            foresight.learn(188, 0, 9);
            foresight.learn(20, 0, 0);
        }
        assert_eq!(foresight.symbols(188), 9);
    }

    #[test]
    fn what_comes_late_does_not_raise_it_beyond_what_was_needed() {
        let mut foresight = Foresight::default();
        // A hundred blocks went out before the first was over.
        for _ in 0..1000 {
            foresight.learn(188, 0, 9);
        }
        assert!(foresight.symbols(188) <= 9);
    }

    #[test]
    fn no_group_gets_more_than_a_third() {
        let mut foresight = Foresight::default();
        for _ in 0..1_000 {
            let unasked = foresight.symbols(188);
            foresight.learn(188, unasked, u32::MAX);
        }
        assert!(foresight.symbols(188) < 188 * 35 / 100);
        assert_eq!(foresight.symbols(1), 0);
    }
}
