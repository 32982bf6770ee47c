//! What the engine knows of its receivers and objects, for people.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::time::Duration;

use nackcast_common::alerts::NAMES_MAX;
use nackcast_common::clock::Time;
use nackcast_common::control::{ObjectRow, ReceiverRow};
use nackcast_common::ids::ObjectId;

use super::SenderEngine;
use super::feedback::Row;

/// A receiver that is silent for longer was taken away: it is not missed any more.
const MISSED_MAX: Duration = Duration::from_secs(24 * 3600);

/// Receivers that need a look. Lists are of at most [`NAMES_MAX`] addresses, the worst first; numbers are scaled up where the table is
/// a sample.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Audience {
    /// Heard, and silent for too long, although it did not say that it ends.
    pub silent: (Vec<String>, u64),
    /// Heard, and not complete with what is served.
    pub lagging: (Vec<String>, u64),
    /// Since when more NACKs come than the NACK window should let through.
    pub flooded_since: Option<Time>,
    /// Some of the objects that were asked for when they had no pass left.
    pub exhausted: Vec<ObjectId>,
}

impl SenderEngine {
    /// Receivers that need a look.
    #[must_use]
    pub fn audience(&self, now: Time) -> Audience {
        let serving = self.serving().map(|hash| hash.prefix());
        // A receiver that restarted has another run, and mostly the same address.
        let heard: BTreeSet<(IpAddr, Time)> = self
            .feedback
            .each()
            .filter(|(_, row)| row.is_counted())
            .map(|(_, r)| (r.address.ip(), r.first_heard))
            .collect();
        let came_back = |row: &Row| {
            let ip = row.address.ip();
            heard.range((ip, row.last_heard)..=(ip, Time::NEVER)).next().is_some()
        };
        // Whoever is heard by another sender is not missed by this one, nor who ended as it was told.
        let is_ours = |row: &Row| self.serves_since.is_some_and(|since| row.last_heard >= since);
        let is_missed = |row: &Row| !row.left && is_ours(row) && now.since(row.last_heard) < MISSED_MAX;
        let is_silent = |row: &Row| !row.is_counted() && is_missed(row) && !came_back(row);
        let is_lagging = |row: &Row| row.is_counted() && !row.left && serving.is_some() && row.complete != serving;
        Audience {
            silent: self.named(is_silent),
            lagging: self.named(is_lagging),
            flooded_since: self.feedback.flooded_since(),
            exhausted: self.schedule.exhausted().take(NAMES_MAX).collect(),
        }
    }

    fn named(&self, which: impl Fn(&Row) -> bool) -> (Vec<String>, u64) {
        let mut rows: Vec<_> = self.feedback.each().map(|(_, row)| row).filter(|row| which(row)).collect();
        rows.sort_by_key(|row| std::cmp::Reverse(row.bytes_missing));
        let names = rows.iter().take(NAMES_MAX).map(|row| row.address.to_string()).collect();
        (names, self.feedback.about(which))
    }

    /// Receivers, those that lack most first.
    #[must_use]
    pub fn receivers(&self, now: Time, limit: usize) -> Vec<ReceiverRow> {
        let serving = self.serving().map(|hash| hash.prefix());
        let mut rows: Vec<_> = self.feedback.each().collect();
        rows.sort_by_key(|(run, row)| {
            let is_complete = serving.is_some() && row.complete == serving;
            (is_complete, row.is_counted(), std::cmp::Reverse((row.bytes_missing, row.loss_ppm)), *run)
        });
        let row = |(run, row): (nackcast_common::ids::RunId, &Row)| ReceiverRow {
            run: run.0,
            address: row.address.to_string(),
            generation: row.generation.0,
            complete: serving.is_some() && row.complete == serving,
            silent: !row.is_counted(),
            heard_ms: u64::try_from(now.since(row.last_heard).as_millis()).unwrap_or(u64::MAX),
            loss_ppm: row.loss_ppm,
            objects_missing: row.objects_missing,
            bytes_missing: row.bytes_missing,
        };
        rows.into_iter().take(limit).map(row).collect()
    }

    /// Objects behind `after`, in order of ids; paths are not known here.
    #[must_use]
    pub fn objects(&self, after: Option<ObjectId>, busy: bool, limit: usize) -> Vec<ObjectRow> {
        let rows = self.schedule.rows(after).filter(|(_, _, state)| !busy || *state != "idle");
        let row = |(id, object, state): (ObjectId, &super::Object, &str)| ObjectRow {
            id: id.0,
            path: String::new(),
            bytes: object.layout.size(),
            state: state.to_owned(),
            passes: object.passes,
            bytes_done: object.layout.size(),
        };
        rows.take(limit).map(row).collect()
    }
}
