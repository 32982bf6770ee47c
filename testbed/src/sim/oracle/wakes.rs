//! No deadline stays in the past: a node is not woken again and again for nothing.

use std::collections::BTreeMap;

use nackcast_common::clock::Time;

use super::Verdict;

/// Deadlines in a second, at most: everything that a node waits for is milliseconds away.
const MOST: u32 = 5_000;
const SECOND: u64 = 1_000_000;

/// The oracle.
#[derive(Debug, Default)]
pub struct Wakes {
    /// Which second it is for each receiver, and how often it was woken in it.
    seen: BTreeMap<u32, (u64, u32)>,
}

impl Wakes {
    /// A deadline of a receiver passed, and which.
    ///
    /// # Errors
    /// When that happens all the time.
    pub fn on_wake(&mut self, now: Time, receiver: u32, why: &str) -> Verdict {
        let (second, count) = self.seen.entry(receiver).or_default();
        if *second != now.0 / SECOND {
            (*second, *count) = (now.0 / SECOND, 0);
        }
        *count += 1;
        if *count > MOST {
            return Err(format!(
                "receiver {receiver} is woken more than {MOST} times in a second, the last time: {why}"
            ));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_deadline_in_the_past_is_found() {
        let mut wakes = Wakes::default();
        assert!((0..20_000).all(|n| wakes.on_wake(Time(n * 300), 0, "NACK").is_ok()));
        assert!((0..20_000).any(|n| wakes.on_wake(Time(n), 1, "NACK").is_err()));
    }
}
