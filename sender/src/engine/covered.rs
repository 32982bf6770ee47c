//! Which objects of the table are queued whole already, so that another NACK for them changes nothing.
//!
//! Receivers that joined late ask for everything, in runs of thousands. With this such a NACK is merged by runs;
//! looking at each of its objects would take the sender longer than sending some of them.
//!
//! A demand with more loss would add repair symbols. So the set is kept for a few classes of loss, and a demand of a
//! higher class than the one before is merged object by object, once.

use std::ops::Range;

use nackcast_common::ranges::RangeSet;

/// Where one class ends and the next begins, in millionths.
const CLASS_ENDS: [u32; 3] = [0, 10_000, 50_000];

/// Queued objects by their places in the table.
#[derive(Debug, Default)]
pub(super) struct Covered {
    /// At each class: what is queued for a demand of this class.
    classes: [RangeSet; CLASS_ENDS.len() + 1],
}

fn class(loss_ppm: u32) -> usize {
    CLASS_ENDS.iter().filter(|end| loss_ppm > **end).count()
}

impl Covered {
    /// The object is queued whole, for receivers with this loss.
    pub(super) fn insert(&mut self, index: u32, loss_ppm: u32) {
        for set in &mut self.classes[..=class(loss_ppm)] {
            set.insert(index..index + 1);
        }
    }

    /// It no longer is.
    pub(super) fn remove(&mut self, index: u32) {
        for set in &mut self.classes {
            set.remove(index..index + 1);
        }
    }

    /// What of `range` is not queued whole for receivers with this loss.
    pub(super) fn gaps(&self, range: Range<u32>, loss_ppm: u32) -> impl Iterator<Item = Range<u32>> + '_ {
        self.classes[class(loss_ppm)].gaps(range)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_queued_serves_demands_with_as_little_loss() {
        let mut covered = Covered::default();
        for index in 10..20 {
            covered.insert(index, 5_000);
        }
        covered.remove(15);
        let gaps = |loss| covered.gaps(5..25, loss).collect::<Vec<_>>();
        assert_eq!(gaps(0), [5..10, 15..16, 20..25]);
        assert_eq!(gaps(9_000), [5..10, 15..16, 20..25]);
        assert_eq!(gaps(11_000), vec![Range { start: 5, end: 25 }]);
        covered.insert(12, 1_000_000);
        assert_eq!(covered.gaps(5..25, 60_000).collect::<Vec<_>>(), [5..12, 13..25]);
    }
}
