//! How many repair symbols a block gets unasked, with its first symbols.
//!
//! - What blocks needed after their first pass tells what the next ones will need: with ten thousand receivers somebody
//!   always lacks eight symbols of a block. Sent at once they spare the receivers the wait, and the sender all NACKs but
//!   those of the few that lack more.
//! - What nearly every one of the last blocks needed is sent, the tenth that needed least aside. So little is sent that
//!   nobody needs, and a small group, or one that loses the same symbols, is sent next to nothing unasked.
//! - Of a block of which nothing was asked it is not known how much less it needed: it counts as one symbol less.
//! - Until some blocks are known it is what independent loss would ask, by the group's size and the loss that it reports.
//!   Receivers whose reports hardly differ lose the same symbols: then it begins with nothing.

use std::collections::VecDeque;

/// Blocks that are remembered...
const BLOCKS_MAX: usize = 32;
/// ...and how many must be known to count.
const BLOCKS_MIN: usize = 4;
/// One block in so many may need less than what is sent unasked.
const ASIDE: usize = 10;
/// Of a block's source symbols, no more than this are sent unasked.
const SHARE_MAX: f64 = 0.34;
/// Symbols that the beginning is below what independent loss would ask.
const CAUTION: f64 = 1.0;
/// Receivers that measured independent loss over so many symbols differ by what chance makes of it.
const MEASURED: f64 = 4.0 * 512.0 * 7.0;
/// Symbols asked of one block that count: one receiver with a bad link shall not raise it at once.
const COUNTED_MAX: u32 = 32;

/// Loss that receivers report, as shares.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Loss {
    pub(super) mean: f64,
    pub(super) variance: f64,
}

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

    /// Begins, for `receivers` that report this loss, and blocks of `k` source symbols.
    pub(super) fn begin(&mut self, k: u16, receivers: u32, loss: Loss) {
        self.begun = true;
        let k = f64::from(k.max(1));
        let chance = loss.mean * (1.0 - loss.mean);
        if loss.variance < chance / MEASURED {
            self.share = 0.0;
            return;
        }
        let deviation = (k * chance).sqrt();
        let share = (k * loss.mean + deviation * deviations_of_worst(receivers) - CAUTION) / k;
        self.share = share.clamp(0.0, SHARE_MAX);
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

/// How far above the mean, in standard deviations, the worst of `n` is (the largest of `n` normal variables).
fn deviations_of_worst(n: u32) -> f64 {
    if n < 2 {
        return 0.0;
    }
    let twice = 2.0 * f64::from(n).ln();
    let root = twice.sqrt();
    ((twice / 2.0).ln() + (4.0 * std::f64::consts::PI).ln()).mul_add(-0.5 / root, root).max(0.0)
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
    fn it_begins_near_what_independent_loss_asks() {
        let begun = |receivers, mean: f64| {
            let mut foresight = Foresight::default();
            foresight.begin(188, receivers, Loss { mean, variance: mean / 512.0 });
            foresight.symbols(188)
        };
        assert!((5..=9).contains(&begun(10_000, 0.01)), "{}", begun(10_000, 0.01));
        assert!(begun(10, 0.01) <= 3);
        assert_eq!((begun(1, 0.005), begun(10_000, 0.0)), (0, 0));
        assert!((17..=23).contains(&begun(10_000, 0.05)), "{}", begun(10_000, 0.05));
    }

    #[test]
    fn receivers_that_report_the_same_loss_get_nothing_at_first() {
        let mut foresight = Foresight::default();
        foresight.begin(188, 1_000, Loss { mean: 0.03, variance: 0.0 });
        assert_eq!(foresight.symbols(188), 0);
    }

    #[test]
    fn a_few_blocks_are_enough_to_learn() {
        let mut foresight = Foresight::default();
        for _ in 0..4 {
            foresight.learn(188, 0, 9);
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
