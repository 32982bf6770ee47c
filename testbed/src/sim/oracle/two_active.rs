//! No two senders that can hear each other both send for longer than the stated overlap.

use std::collections::BTreeMap;
use std::time::Duration;

use nackcast_common::clock::Time;

use super::Verdict;

/// For cables, inboxes and the moment between two looks.
const AIR: Duration = Duration::from_millis(500);

/// The oracle.
#[derive(Debug)]
pub struct TwoActive {
    overlap: Duration,
    since: BTreeMap<(usize, usize), Time>,
}

impl TwoActive {
    /// With the overlap that senders promise.
    #[must_use]
    pub const fn new(overlap: Duration) -> Self {
        Self { overlap, since: BTreeMap::new() }
    }

    /// Whether these two both send now, and each reaches the other.
    ///
    /// # Errors
    /// When that has been so for too long.
    pub fn look(&mut self, now: Time, pair: (usize, usize), both: bool) -> Verdict {
        if !both {
            self.since.remove(&pair);
            return Ok(());
        }
        let since = *self.since.entry(pair).or_insert(now);
        if now.since(since) <= self.overlap + AIR {
            return Ok(());
        }
        Err(format!(
            "senders {} and {} hear each other and both send since {} ms; {} ms are promised",
            pair.0,
            pair.1,
            now.since(since).as_millis(),
            self.overlap.as_millis()
        ))
    }
}
