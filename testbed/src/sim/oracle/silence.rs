//! Nobody waits for what does not come: a receiver that lacks something, and hears its sender, asks again within
//! a stated time, whatever was promised or answered.

use std::collections::BTreeMap;
use std::time::Duration;

use nackcast_common::clock::Time;

use super::Verdict;

/// The longest that a promise or a refusal may keep a receiver silent, with the window after it.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// The oracle.
#[derive(Debug, Default)]
pub struct Silence {
    quiet_since: BTreeMap<u32, Time>,
}

impl Silence {
    /// The receiver asked for something, or got something new, or lacks nothing, or cannot hear.
    pub fn on_life(&mut self, now: Time, receiver: u32) {
        self.quiet_since.insert(receiver, now);
    }

    /// A look at a receiver that lacks something and could ask.
    ///
    /// # Errors
    /// When it has been silent for too long.
    pub fn look(&mut self, now: Time, receiver: u32) -> Verdict {
        let since = *self.quiet_since.entry(receiver).or_insert(now);
        if now.since(since) > PATIENCE {
            return Err(format!(
                "receiver {receiver} lacks something, hears its sender, and neither asked nor got anything for {:?}",
                now.since(since)
            ));
        }
        Ok(())
    }
}
