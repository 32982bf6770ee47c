//! When packets were sent: one note for each run of them, the last few thousand.

use std::collections::VecDeque;

use nackcast_common::clock::Time;

/// Notes kept: at a run a millisecond, four seconds.
const NOTES_MAX: usize = 4096;
/// Runs that follow each other more closely share a note.
const CLOSE_MICROS: u64 = 1000;

#[derive(Debug, Default)]
pub(super) struct SentLog {
    /// First packet number, and when.
    notes: VecDeque<(u64, Time)>,
    /// One after the last packet.
    end: u64,
    ended: Time,
}

impl SentLog {
    pub(super) fn on_sent(&mut self, now: Time, first: u64, count: u64) {
        (self.end, self.ended) = (first + count, now);
        if self.notes.back().is_some_and(|(_, at)| now.0 < at.0 + CLOSE_MICROS) {
            return;
        }
        if self.notes.len() == NOTES_MAX {
            self.notes.pop_front();
        }
        self.notes.push_back((first, now));
    }

    /// When packet `number` (which need not be whole) was sent, in microseconds; between two notes it is taken that
    /// packets follow each other evenly.
    pub(super) fn sent_at(&self, number: f64) -> Option<f64> {
        let after = self.notes.partition_point(|(first, _)| (*first as f64) <= number);
        let (first, at) = *self.notes.get(after.checked_sub(1)?)?;
        let (end, ended) = self.notes.get(after).copied().unwrap_or((self.end, self.ended));
        if number > self.end as f64 {
            return None;
        }
        let part = (number - first as f64) / ((end - first).max(1) as f64);
        Some(at.0 as f64 + part * (ended.0 - at.0) as f64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn between_two_notes_packets_are_even_and_what_is_too_old_is_not_known() {
        let mut log = SentLog::default();
        log.on_sent(Time(1000), 0, 10);
        log.on_sent(Time(1500), 10, 10);
        log.on_sent(Time(3000), 20, 10);
        assert_eq!(log.sent_at(0.0), Some(1000.0));
        assert_eq!(log.sent_at(10.0), Some(2000.0));
        assert_eq!(log.sent_at(20.0), Some(3000.0));
        assert_eq!(log.sent_at(31.0), None);
        for step in 1..=NOTES_MAX as u64 {
            log.on_sent(Time(3000 + step * 1000), 20 + step * 10, 10);
        }
        assert_eq!(log.notes.len(), NOTES_MAX);
        assert_eq!(log.sent_at(5.0), None);
        assert_eq!(log.sent_at(35.0), Some(4500.0));
    }
}
