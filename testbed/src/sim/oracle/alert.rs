//! No network alert without its reason: two NACKs within a minute, and a network in which something went wrong.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use nackcast_common::clock::Time;

use super::Verdict;

const WITHIN: Duration = Duration::from_secs(60);
const ENOUGH: usize = 2;

/// The oracle.
#[derive(Debug, Default)]
pub struct Alert {
    nacks: BTreeMap<usize, VecDeque<Time>>,
    had_faults: bool,
}

impl Alert {
    /// A datagram was lost, or a node failed: from now on an alert may be right.
    pub const fn on_fault(&mut self) {
        self.had_faults = true;
    }

    /// A sender read a NACK that asks for something.
    pub fn on_nack(&mut self, now: Time, sender: usize) {
        let nacks = self.nacks.entry(sender).or_default();
        nacks.push_back(now);
        if nacks.len() > ENOUGH {
            nacks.pop_front();
        }
    }

    /// A sender says that some receivers reach only it.
    ///
    /// # Errors
    /// When too few asked it, or the network is sound.
    pub fn on_alert(&self, now: Time, sender: usize) -> Verdict {
        if !self.had_faults {
            return Err(format!("sender {sender} raised a network alert, and nothing is wrong with the network"));
        }
        let heard = self.nacks.get(&sender).into_iter().flatten().filter(|at| now.since(**at) < WITHIN).count();
        if heard < ENOUGH {
            return Err(format!("sender {sender} raised a network alert after {heard} NACK"));
        }
        Ok(())
    }
}
