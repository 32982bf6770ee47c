//! When content may follow a new manifest: what comes before a receiver has it and compared its directory is lost on
//! it, and repeated for it.

use std::time::Duration;

use nackcast_common::clock::Time;
use nackcast_proto::wire::report_spread;

use super::SenderEngine;
use super::schedule::FirstPassMay;

/// Receivers that are known get so long to report the manifest before content follows (what comes before they
/// compared their directories with it is lost on them), and longer the more entries there are to compare.
const MANIFEST_SETTLE: Duration = Duration::from_secs(2);
/// If no receiver is known, content follows after so long.
const MANIFEST_SETTLE_ALONE: Duration = Duration::from_millis(500);
/// A first report that was lost is repeated by then.
const REPORTED_AGAIN: Duration = Duration::from_millis(300);
/// Entries that a slow receiver compares in a second.
const ENTRIES_PER_SECOND: u64 = 20_000;
/// Advertisements go out for so long before a first pass, so that receivers that wait are heard...
const HELLO: Duration = Duration::from_millis(300);
/// ...and for so long before each new manifest.
const ANNOUNCE: Duration = Duration::from_millis(100);

impl SenderEngine {
    pub(super) fn first_pass_may(&self, now: Time) -> FirstPassMay {
        if self.content_begun {
            return FirstPassMay::All;
        }
        let expected = self.expected();
        let is_hidden = self.feedback.group_size() < expected || now < self.published_at + ANNOUNCE;
        if is_hidden || (expected == 0 && now < self.announced_at()) {
            return FirstPassMay::Nothing;
        }
        let known = self.feedback.group_size();
        let prefix = self.manifest.as_ref().map_or(0, |(reference, _)| reference.hash.prefix());
        // To count is the dearest: it comes last.
        let all_hold = known > 0 && now >= self.heard_all_at() && self.feedback.holding(prefix) >= known;
        match self.manifest_sent_at {
            Some(at) if all_hold || now >= at + self.settle() => FirstPassMay::All,
            Some(_) | None => FirstPassMay::Manifest,
        }
    }

    /// The manifest was advertised often enough.
    pub(super) fn announced_at(&self) -> Time {
        self.started.map_or(Time::NEVER, |started| started + HELLO).max(self.published_at + ANNOUNCE)
    }

    /// Of a large group more is heard until nobody new was for as long as its reports are spread, and while one was
    /// probably lost, until it was repeated: whoever gets the manifest after content began asks for all that it missed.
    pub(super) fn heard_all_at(&self) -> Time {
        let spread = report_spread(self.feedback.group_size(), self.advertised_rate());
        let again = if self.feedback.is_one_unheard() { REPORTED_AGAIN } else { Duration::ZERO };
        self.feedback.last_new() + spread.max(again)
    }

    /// Before the first content: what the group will need.
    pub(super) fn foresee(&mut self) {
        let Some((reference, manifest)) = &self.manifest else { return };
        let loss = self.feedback.loss_of_holders(reference.hash.prefix());
        let full = manifest.objects().iter().map(|o| o.layout.source_symbols(0)).max().unwrap_or(0);
        self.foresight.begin(full, self.feedback.group_size(), loss);
    }

    /// How long receivers get to take the manifest.
    pub(super) fn settle(&self) -> Duration {
        if self.feedback.group_size() == 0 {
            return MANIFEST_SETTLE_ALONE;
        }
        let entries = self.manifest.as_ref().map_or(0, |(_, m)| m.entries().len() as u64);
        let comparing = Duration::from_millis(entries * 1000 / ENTRIES_PER_SECOND).min(MANIFEST_SETTLE * 5);
        // Each says first that it is there, and then that it has it; some of that is lost.
        let reports = report_spread(self.feedback.group_size(), self.advertised_rate()) * 4;
        (MANIFEST_SETTLE + comparing).max(self.feedback.window() * 4).max(reports)
    }
}
