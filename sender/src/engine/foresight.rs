//! How many repair symbols a block gets unasked, with its first symbols.
//!
//! - What was asked for after earlier first passes tells what will be asked for after the next: with ten thousand
//!   receivers somebody always lacks eight symbols of a block. Sent at once they spare the receivers the wait, and the
//!   sender all NACKs but those of the few that lack more.
//! - It is a running estimate of what nearly every block needs: one that needed less lowers it by much more than one
//!   that needed more raises it. So little is sent that nobody needs, and a small group, of which each block loses
//!   something else, is sent next to nothing unasked.
//! - It begins with what independent loss would ask, by the group's size and the loss that it reports. Where receivers
//!   lose the same symbols that is too much, for the first few blocks.

/// A symbol that was lacking raises the estimate by this.
const RAISE: f64 = 0.0125;
/// A block that had enough lowers it by this.
const LOWER: f64 = 0.1;
/// Of a block's source symbols, no more than this are sent unasked.
const SHARE_MAX: f64 = 0.34;
/// Symbols of one block that count: one receiver with a bad link shall not raise it at once.
const COUNTED_MAX: f64 = 32.0;
/// Symbols that the beginning is below what independent loss would ask.
const CAUTION: f64 = 1.0;

/// The estimate, as a share of a block's source symbols.
#[derive(Debug, Default)]
pub(super) struct Foresight {
    share: f64,
    begun: bool,
}

impl Foresight {
    /// Symbols for a block of `k` source symbols.
    pub(super) fn symbols(&self, k: u16) -> u16 {
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "at most a third of k")]
        let count = (self.share * f64::from(k)) as u16;
        count
    }

    /// Nothing was foreseen or learnt yet.
    pub(super) const fn is_new(&self) -> bool {
        !self.begun
    }

    /// Begins, for `receivers` with this mean loss and blocks of `k` source symbols.
    pub(super) fn begin(&mut self, k: u16, receivers: u32, loss_ppm: u32) {
        self.begun = true;
        let (k, loss) = (f64::from(k.max(1)), f64::from(loss_ppm) / 1e6);
        let deviation = (k * loss * (1.0 - loss)).sqrt();
        let share = (k * loss + deviation * deviations_of_worst(receivers) - CAUTION) / k;
        self.share = share.clamp(0.0, SHARE_MAX);
    }

    /// After its first pass, with `unasked` symbols beside, a block of `k` source symbols was asked for so many more.
    pub(super) fn learn(&mut self, k: u16, unasked: u16, asked: u32) {
        if k == 0 {
            return;
        }
        self.begun = true;
        let foreseen = self.share * f64::from(k);
        let lacking = f64::from(unasked) + f64::from(asked) - foreseen.floor();
        let step = if asked == 0 {
            -LOWER
        } else if lacking > 0.0 {
            RAISE * lacking.min(COUNTED_MAX)
        } else {
            return;
        };
        // A short block tells less.
        self.share = (self.share + step / f64::from(k).max(100.0)).clamp(0.0, SHARE_MAX);
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
        for round in 0..20_000_usize {
            let unasked = foresight.symbols(188);
            foresight.learn(188, unasked, needs[round % needs.len()].saturating_sub(unasked).into());
            sum += if round >= 10_000 { f64::from(unasked) } else { 0.0 };
        }
        sum / 10_000.0
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
        let begun = |receivers, loss_ppm| {
            let mut foresight = Foresight::default();
            foresight.begin(188, receivers, loss_ppm);
            foresight.symbols(188)
        };
        assert!((5..=9).contains(&begun(10_000, 10_000)), "{}", begun(10_000, 10_000));
        assert!(begun(10, 10_000) <= 3);
        assert_eq!((begun(1, 5_000), begun(10_000, 0)), (0, 0));
        assert!((17..=23).contains(&begun(10_000, 50_000)), "{}", begun(10_000, 50_000));
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
        for _ in 0..100_000 {
            foresight.learn(188, 0, u32::MAX);
        }
        assert!(foresight.symbols(188) < 188 * 35 / 100);
        assert_eq!(foresight.symbols(1), 0);
    }
}
