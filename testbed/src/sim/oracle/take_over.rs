//! Nobody takes the channel from a sender that serves and can be asked.
//!
//! A backup becomes active only when no other sender serves; a primary that comes back begins only when no other one
//! sends, or it held off as long as it must.

use std::collections::BTreeMap;
use std::time::Duration;

use nackcast_common::clock::Time;
use nackcast_sender::role::{PROBE_TIMEOUT, PROBE_TRIES, State};

use super::Verdict;

/// An inquiry, with cables and inboxes.
const INQUIRY: Duration = Duration::from_millis(400).saturating_add(PROBE_TIMEOUT.saturating_mul(PROBE_TRIES));

/// What one sender can find out of another by asking.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Seen {
    /// It answers NACKs.
    pub serves: bool,
    /// It sends, or finishes what it sends.
    pub sends: bool,
}

/// The oracle.
#[derive(Debug, Default)]
pub struct TakeOver {
    /// By who could ask and who would answer: since when each is so.
    serves: BTreeMap<(usize, usize), Time>,
    sends: BTreeMap<(usize, usize), Time>,
}

impl TakeOver {
    /// How it is between the two now.
    pub fn look(&mut self, now: Time, pair: (usize, usize), seen: Seen) {
        for (table, is_so) in [(&mut self.serves, seen.serves), (&mut self.sends, seen.sends)] {
            if is_so {
                table.entry(pair).or_insert(now);
            } else {
                table.remove(&pair);
            }
        }
    }

    /// A sender becomes active.
    ///
    /// # Errors
    /// When another one served, or sent, and could be asked.
    pub fn on_active(&self, now: Time, sender: usize, from: State) -> Verdict {
        let table = match from {
            State::HoldingOff { until } if now >= until => return Ok(()),
            State::Asking | State::HoldingOff { .. } => &self.sends,
            _ => &self.serves,
        };
        let long = |((asks, _), since): &(&(usize, usize), &Time)| *asks == sender && now.since(**since) >= INQUIRY;
        match table.iter().find(long) {
            Some(((_, other), since)) => Err(format!(
                "sender {sender} became active out of {from:?}, while sender {other} was there since {} ms",
                now.since(*since).as_millis()
            )),
            None => Ok(()),
        }
    }
}
