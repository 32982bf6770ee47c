//! What people are told of a channel: progress while it runs, troubles with the content, the summary at the end.

use std::collections::BTreeSet;

use nackcast_common::clock::{Time, micros};

use crate::config::Once;
use crate::engine::Snapshot;
use crate::report::{ChannelProgress, ChannelSummary};

/// Lines about content that the summary keeps.
const TROUBLES_MAX: usize = 1000;

/// One thing that did not go well with the content.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Trouble {
    /// For people.
    pub line: String,
    /// Something that belongs to the dataset was not sent as it is.
    pub is_failure: bool,
}

#[derive(Debug)]
pub(super) struct Tally {
    name: String,
    once: Option<Once>,
    troubles: BTreeSet<Trouble>,
    meter: Meter,
    /// Complete receivers and all of them, as they were logged last.
    logged: (u32, u32),
}

impl Tally {
    pub(super) const fn new(name: String, once: Option<Once>) -> Self {
        Self { name, once, troubles: BTreeSet::new(), meter: Meter { before: None, rate_bps: 0 }, logged: (0, 0) }
    }

    pub(super) fn name(&self) -> &str {
        &self.name
    }

    pub(super) const fn is_once(&self) -> bool {
        self.once.is_some()
    }

    pub(super) fn note(&mut self, trouble: Trouble) {
        if self.troubles.len() < TROUBLES_MAX {
            self.troubles.insert(trouble);
        }
    }

    /// Whoever sends once wants everything sent; a service goes on.
    pub(super) fn is_success(&self) -> bool {
        !self.is_once() || self.failures() == 0
    }

    fn failures(&self) -> usize {
        self.troubles.iter().filter(|trouble| trouble.is_failure).count()
    }

    pub(super) fn progress(
        &mut self,
        now: Time,
        snapshot: &Snapshot,
        role: Option<&'static str>,
        is_published: bool,
    ) -> ChannelProgress {
        let receivers = (snapshot.receivers_complete, snapshot.receivers);
        if is_published && receivers != self.logged {
            tracing::info!(channel = self.name, "receivers complete: {} of {}", receivers.0, receivers.1);
            self.logged = receivers;
        }
        ChannelProgress {
            name: self.name.clone(),
            generation: snapshot.generation.0,
            objects: snapshot.objects,
            objects_done: snapshot.objects_passed,
            bytes: snapshot.bytes,
            bytes_done: snapshot.bytes_passed,
            wire_bytes: snapshot.sent_bytes,
            repair_bytes: snapshot.repair_bytes,
            rate_bps: self.meter.rate(now, snapshot.sent_bytes),
            receivers: snapshot.receivers.into(),
            receivers_complete: snapshot.receivers_complete.into(),
            jobs: snapshot.jobs as u64,
            pool: snapshot.pool as u64,
            rate_limit_bps: snapshot.rate_limit_bps,
            nacks: snapshot.nacks,
            loss_ppm: snapshot.loss_ppm,
            unicast_wanted: snapshot.exhausted,
            grtt_us: micros(snapshot.grtt),
            nack_window_us: micros(snapshot.nack_window),
            state: self.activity(snapshot, role, is_published).to_owned(),
            note: match self.failures() {
                0 => None,
                1 => Some("1 problem with the content".to_owned()),
                count => Some(format!("{count} problems with the content")),
            },
            ..ChannelProgress::default()
        }
    }

    fn activity(&self, snapshot: &Snapshot, role: Option<&'static str>, is_published: bool) -> &'static str {
        let expected = self.once.and_then(|once| once.expect).unwrap_or(0);
        if let Some(role) = role {
            role
        } else if !is_published {
            "hashing"
        } else if snapshot.jobs > 0 {
            "sending"
        } else if snapshot.receivers < expected && snapshot.objects_passed < snapshot.objects {
            "waiting"
        } else if snapshot.objects_passed < snapshot.objects || snapshot.pool > 0 {
            "sending"
        } else {
            "idle"
        }
    }

    pub(super) fn summary(&self, snapshot: &Snapshot) -> ChannelSummary {
        ChannelSummary {
            name: self.name.clone(),
            generation: snapshot.generation.0,
            objects: snapshot.objects,
            bytes: snapshot.bytes,
            sent_bytes: snapshot.sent_bytes,
            repair_bytes: snapshot.repair_bytes,
            receivers: snapshot.receivers.into(),
            receivers_complete: snapshot.receivers_complete.into(),
            unicast_bytes: 0,
            problems: self.troubles.iter().map(|trouble| trouble.line.clone()).collect(),
        }
    }
}

/// Rate from counters.
#[derive(Debug, Default)]
struct Meter {
    before: Option<(Time, u64)>,
    rate_bps: u64,
}

impl Meter {
    fn rate(&mut self, now: Time, bytes: u64) -> u64 {
        let (since, counted) = self.before.unwrap_or((now, bytes));
        let micros = u64::try_from(now.since(since).as_micros()).unwrap_or(u64::MAX);
        if micros >= 100_000 {
            let latest = bytes.saturating_sub(counted).saturating_mul(8_000_000) / micros;
            self.rate_bps = u64::midpoint(self.rate_bps, latest);
            self.before = Some((now, bytes));
        } else if self.before.is_none() {
            self.before = Some((now, bytes));
        }
        self.rate_bps
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rate_is_what_was_sent_lately() {
        let mut meter = Meter::default();
        assert_eq!(meter.rate(Time(0), 1000), 0);
        assert_eq!(meter.rate(Time(50), 9000), 0, "too soon to tell");
        let mut bytes = 1000;
        for half_second in 1..=20 {
            bytes += 62_500;
            meter.rate(Time(half_second * 500_000), bytes);
        }
        assert!((990_000..=1_000_000).contains(&meter.rate(Time(10_000_050), bytes)));
    }
}
