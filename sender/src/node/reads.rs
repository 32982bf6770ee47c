//! Blocks that are being read: a disk that hangs gives no error, its calls never return.
//!
//! | the disk | on | to |
//! |---|---|---|
//! | answers | nothing that was ordered came for [`HANGS_AFTER`] | hangs |
//! | hangs | no order is older than that | answers |
//!
//! A slow disk with a long queue answers all the time, and does not hang.

use std::collections::BTreeMap;
use std::time::Duration;

use nackcast_common::clock::Time;

use super::blocks::BlockId;

/// A block is at most a few MiB: no disk that works takes so long.
const HANGS_AFTER: Duration = Duration::from_secs(3);
/// A disk that still hangs is told of again after so long.
const TOLD_EVERY: Duration = Duration::from_secs(60);

/// What is under way.
#[derive(Debug, Default)]
pub(super) struct Reads {
    /// By ticket: in the order in which they were ordered.
    orders: BTreeMap<u64, (Time, BlockId)>,
    /// When the last one came back.
    came_at: Time,
    /// Since when, and what did not come.
    hangs: Option<(Time, BlockId)>,
    /// How often it hung, and was told of.
    times: u64,
}

impl Reads {
    pub(super) fn ordered(&mut self, now: Time, ticket: u64, id: BlockId) {
        self.orders.insert(ticket, (now, id));
    }

    pub(super) fn came(&mut self, now: Time, ticket: u64) {
        self.orders.remove(&ticket);
        self.came_at = now;
    }

    /// When it hangs if nothing comes.
    pub(super) fn hangs_at(&self) -> Option<Time> {
        let (ordered_at, _) = self.orders.values().next()?;
        self.hangs.is_none().then(|| (*ordered_at).max(self.came_at) + HANGS_AFTER)
    }

    /// Looks at the clock; true when that changed whether it hangs.
    pub(super) fn look(&mut self, now: Time) -> bool {
        if let Some((since, _)) = self.hangs {
            let is_over = self.orders.values().next().is_none_or(|(at, _)| now.since(*at) < HANGS_AFTER);
            if is_over {
                self.times += told(now, since);
                self.hangs = None;
            }
            return is_over;
        }
        let oldest = self.orders.values().next().map(|(_, id)| *id);
        self.hangs = oldest.filter(|_| self.hangs_at().is_some_and(|at| now >= at)).map(|id| (now, id));
        self.hangs.is_some()
    }

    pub(super) const fn hangs(&self) -> bool {
        self.hangs.is_some()
    }

    /// How often it hung so far (more while it does), and what to say of it now.
    pub(super) fn trouble(&self, now: Time) -> (u64, Option<String>) {
        let Some((since, (object, block))) = self.hangs else { return (self.times, None) };
        let text = format!("the disk does not answer: block {block} of object {object} was ordered, and did not come");
        (self.times + told(now, since), Some(text))
    }
}

fn told(now: Time, since: Time) -> u64 {
    1 + now.since(since).as_secs() / TOLD_EVERY.as_secs()
}

#[cfg(test)]
mod tests {
    use nackcast_common::ids::ObjectId;

    use super::*;

    fn at(seconds: u64) -> Time {
        Time::ZERO + Duration::from_secs(seconds)
    }

    #[test]
    fn a_disk_hangs_when_nothing_comes_and_until_all_that_hung_has_come() {
        let mut reads = Reads::default();
        assert_eq!((reads.hangs_at(), reads.look(at(100))), (None, false), "nothing was ordered");
        for ticket in 1..=3 {
            reads.ordered(at(100), ticket, (ObjectId(ticket), 0));
        }
        // Slow, and yet it answers.
        reads.came(at(102), 1);
        assert_eq!((reads.hangs_at(), reads.look(at(104))), (Some(at(105)), false));
        assert!(reads.look(at(105)) && reads.hangs());
        let (times, text) = reads.trouble(at(106));
        assert!(times == 1 && text.as_ref().is_some_and(|text| text.contains("block 0 of object")), "{text:?}");
        assert_eq!(reads.trouble(at(105 + 61)).0, 2, "it is told of again");
        // Others are read meanwhile: one file may be on another disk.
        reads.ordered(at(170), 4, (ObjectId(4), 0));
        reads.came(at(170), 4);
        reads.came(at(171), 2);
        assert!(!reads.look(at(171)) && reads.hangs(), "one is still out");
        reads.came(at(172), 3);
        assert!(reads.look(at(172)) && !reads.hangs());
        assert_eq!(reads.trouble(at(500)), (2, None), "what happened stays counted");
    }
}
