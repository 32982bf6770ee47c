//! How many repair symbols a block gets unasked, with its first symbols.
//!
//! - What was asked for after earlier first passes tells what will be asked for after the next: with ten thousand
//!   receivers somebody always lacks eight symbols of a block. Sent at once they spare the receivers the wait, and the
//!   sender all NACKs but those of the few that lack more.
//! - It is a running estimate of what nearly every block needs: one that was asked for nothing lowers it by much more
//!   than one that was asked raises it. So little is sent that nobody needs, and a small group, of which each block
//!   loses something else, is sent next to nothing unasked.

/// A symbol asked for raises the estimate by this.
const RAISE: f64 = 0.02;
/// A block that was asked for nothing lowers it by this.
const LOWER: f64 = 0.16;
/// Of a block's source symbols, no more than this are sent unasked.
const SHARE_MAX: f64 = 0.34;
/// Symbols of one block that count: one receiver with a bad link shall not raise it at once.
const COUNTED_MAX: u32 = 32;

/// The estimate, as a share of a block's source symbols.
#[derive(Debug, Default)]
pub(super) struct Foresight {
    share: f64,
}

impl Foresight {
    /// Symbols for a block of `k` source symbols.
    pub(super) fn symbols(&self, k: u16) -> u16 {
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "at most a third of k")]
        let count = (self.share * f64::from(k)) as u16;
        count
    }

    /// A block of `k` source symbols was asked for so many more after its first pass.
    pub(super) fn learn(&mut self, k: u16, asked: u32) {
        if k == 0 {
            return;
        }
        let step = if asked == 0 { -LOWER } else { RAISE * f64::from(asked.min(COUNTED_MAX)) };
        // A short block tells less.
        let full = f64::from(k).max(100.0);
        self.share = (self.share + step / full).clamp(0.0, SHARE_MAX);
    }
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
            foresight.learn(188, needs[round % needs.len()].saturating_sub(unasked).into());
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
    fn no_group_gets_more_than_a_third() {
        let mut foresight = Foresight::default();
        for _ in 0..100_000 {
            foresight.learn(188, u32::MAX);
        }
        assert!(foresight.symbols(188) < 188 * 35 / 100);
        assert_eq!(foresight.symbols(1), 0);
    }
}
