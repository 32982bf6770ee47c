//! No object gets more than `max_passes` passes in a round, and a round ends only in silence.

use std::collections::BTreeMap;
use std::time::Duration;

use nackcast_common::clock::Time;
use nackcast_common::ids::ObjectId;

use super::Verdict;

/// The oracle.
#[derive(Debug)]
pub struct Passes {
    max_passes: u32,
    round_quiet: Duration,
    last: BTreeMap<ObjectId, (Time, u32)>,
}

impl Passes {
    /// With the sender's numbers.
    #[must_use]
    pub const fn new(max_passes: u32, round_quiet: Duration) -> Self {
        Self { max_passes, round_quiet, last: BTreeMap::new() }
    }

    /// The sender stored that a pass begins.
    ///
    /// # Errors
    /// When it is one too many, or the count does not follow the one before.
    pub fn on_pass(&mut self, now: Time, object: ObjectId, count: u32) -> Verdict {
        let before = self.last.insert(object, (now, count));
        if count > self.max_passes {
            return Err(format!("pass {count} of object {object} in one round; {} are allowed", self.max_passes));
        }
        match before {
            None if count != 1 => Err(format!("the first pass of object {object} is counted as {count}")),
            // A round that ended in silence begins again at 1.
            Some((at, last)) if count != last + 1 && (count != 1 || now.since(at) < self.round_quiet) => {
                let after = now.since(at);
                Err(format!("pass {count} of object {object} follows pass {last} after {after:?}, within one round"))
            }
            None | Some(_) => Ok(()),
        }
    }
}
