//! What is over: the first pass, a session's packet numbers, a drain, and with `once` the work itself.

use std::time::Duration;

use nackcast_common::clock::Time;
use nackcast_proto::wire::SenderState;

use super::job::Phase;
use super::{Event, SenderEngine};

/// An expected receiver that is not complete may be silent for so long (it writes, or it says that it is there
/// only now and then) before it is given up.
const EXPECTED_PATIENCE: Duration = Duration::from_secs(10);
/// Packet numbers of a session; far below what one key may seal.
const SESSION_PACKETS_MAX: u64 = 1 << 31;

impl SenderEngine {
    pub(super) fn report(&mut self, now: Time) {
        if self.is_yielding && self.nothing_is_open() && !self.said.drained {
            self.said.drained = true;
            self.events.push_back(Event::Drained);
        }
        if self.data_packets > SESSION_PACKETS_MAX && !self.said.session_ending {
            self.said.session_ending = true;
            self.events.push_back(Event::SessionEnding);
        }
        let Some((_, manifest)) = &self.manifest else { return };
        let may_all = self.manifest_sent_at.is_some();
        if may_all && self.schedule.first_pass_over() && !self.said.first_pass_over {
            self.said.first_pass_over = true;
            self.events.push_back(Event::FirstPassOver(manifest.head().generation));
        }
        self.said.all_came =
            self.said.all_came || self.feedback.group_size() >= self.expected() || self.is_as_expected();
        if self.finished_at().is_some_and(|at| now >= at) && !self.said.finished {
            self.said.finished = true;
            self.events.push_back(Event::Finished);
        }
    }

    /// `once`, or draining: when it is over if nothing more is asked.
    pub(super) fn finished_at(&self) -> Option<Time> {
        if self.state == SenderState::Paused {
            return None;
        }
        if self.state == SenderState::Draining {
            return (!self.is_yielding && self.nothing_is_open()).then_some(Time::ZERO);
        }
        let once = self.config.once?;
        // All may have been sent by an earlier run: whom it expects it waits for all the same.
        let idle = self.said.all_came && self.said.first_pass_over && self.schedule.is_idle();
        let patience = if self.is_as_expected() { Duration::ZERO } else { EXPECTED_PATIENCE };
        let quiet = once.linger.max(self.feedback.window() * 2 + self.feedback.grtt()).max(patience);
        let since = self.manifest_sent_at?.max(self.last_demand).max(self.last_incomplete).max(self.last_symbol);
        idle.then_some(since + quiet)
    }

    /// Every job has sent what it had.
    fn nothing_is_open(&self) -> bool {
        self.schedule.jobs.iter().all(|j| matches!(j.phase, Phase::Closing { .. }))
    }

    /// Receivers that reported this manifest complete, those included that left since then.
    fn complete_ever(&self) -> u32 {
        self.manifest.as_ref().map_or(0, |(reference, _)| self.feedback.complete_ever(reference.hash.prefix()))
    }

    /// How many receivers `once` expects.
    pub(super) fn expected(&self) -> u32 {
        self.config.once.and_then(|once| once.expect).unwrap_or(0)
    }

    /// As many receivers as `once` expects reported complete.
    #[must_use]
    pub fn is_as_expected(&self) -> bool {
        // To count is the dearest: it comes last.
        let expected = self.expected();
        expected == 0 || self.complete_ever() >= expected
    }
}
