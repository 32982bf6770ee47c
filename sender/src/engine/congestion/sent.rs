//! When packets were sent: one note for each few runs of them, the last few thousand.

use std::collections::VecDeque;
use std::ops::Range;

use nackcast_common::clock::Time;

/// Notes kept: at a run a millisecond, four seconds.
const NOTES_MAX: usize = 4096;
/// Runs that begin within so long share a note.
const CLOSE_MICROS: u64 = 1000;
/// The sender paused when nothing left for longer than this, and than so many packets take.
const PAUSE_MICROS: f64 = 10_000.0;
const PAUSES: f64 = 4.0;

#[derive(Debug)]
struct Note {
    /// First packet number, and when.
    first: u64,
    at: Time,
    /// One after the last, and when that began to leave.
    end: u64,
    ended: Time,
    /// Before it the sender had nothing to send.
    is_after_pause: bool,
}

impl Note {
    fn sent_at(&self, number: f64) -> f64 {
        let part = ((number - self.first as f64) / (self.end - self.first).max(1) as f64).clamp(0.0, 1.0);
        self.at.0 as f64 + part * (self.ended.0 - self.at.0) as f64
    }
}

#[derive(Debug, Default)]
pub(super) struct SentLog {
    notes: VecDeque<Note>,
}

impl SentLog {
    /// `spacing`: between two packets at the present rate, in microseconds.
    pub(super) fn on_sent(&mut self, now: Time, first: u64, count: u64, spacing: f64) {
        if let Some(last) = self.notes.back_mut().filter(|last| last.end == first && now.0 < last.at.0 + CLOSE_MICROS) {
            (last.end, last.ended) = (first + count, now);
            return;
        }
        if self.notes.len() == NOTES_MAX {
            self.notes.pop_front();
        }
        let idle = self.notes.back().map_or(0, |last| now.0.saturating_sub(last.ended.0));
        let is_after_pause = idle as f64 > PAUSE_MICROS + PAUSES * spacing;
        self.notes.push_back(Note { first, at: now, end: first + count, ended: now, is_after_pause });
    }

    /// When these packets were sent, as a mean in microseconds, and how far they are apart; none where the sender paused
    /// before one of them, or it is not known any more.
    pub(super) fn mean(&self, packets: Range<u64>) -> Option<(f64, f64)> {
        let from = self.notes.partition_point(|note| note.end <= packets.start);
        let (mut sum, mut count) = (0.0, 0.0);
        let mut last = None;
        for note in self.notes.iter().skip(from).take_while(|note| note.first < packets.end) {
            let part = packets.start.max(note.first)..packets.end.min(note.end);
            let middle = (part.start + part.end) as f64 / 2.0;
            let here = (part.end - part.start) as f64;
            (sum, count) = (sum + note.sent_at(middle) * here, count + here);
            if note.is_after_pause && part.start == note.first {
                return None;
            }
            last = Some(note);
        }
        let (first, last) = (self.notes.get(from)?, last?);
        let lasts = last.sent_at(packets.end as f64) - first.sent_at(packets.start as f64);
        (count == (packets.end - packets.start) as f64).then_some((sum / count, lasts / count))
    }

    /// When packet `number` (which need not be whole) was sent, in microseconds; within a note it is taken that packets
    /// follow each other evenly.
    pub(super) fn sent_at(&self, number: f64) -> Option<f64> {
        let after = self.notes.partition_point(|note| (note.first as f64) <= number);
        let note = self.notes.get(after.checked_sub(1)?)?;
        if after == self.notes.len() && number > note.end as f64 {
            return None;
        }
        Some(note.sent_at(number))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn within_a_note_packets_are_even_and_a_pause_is_none_of_it() {
        let mut log = SentLog::default();
        log.on_sent(Time(1000), 0, 10, 25.0);
        log.on_sent(Time(1500), 10, 10, 25.0);
        log.on_sent(Time(900_000), 20, 10, 25.0);
        assert_eq!(log.sent_at(0.0), Some(1000.0));
        assert_eq!(log.sent_at(10.0), Some(1250.0));
        assert_eq!(log.sent_at(19.9).map(f64::round), Some(1498.0));
        assert_eq!(log.sent_at(25.0), Some(900_000.0));
        assert_eq!(log.sent_at(31.0), None);
        assert_eq!(log.mean(0..20), Some((1250.0, 25.0)));
        assert_eq!(log.mean(5..15), Some((1250.0, 25.0)));
        assert_eq!(log.mean(10..30), None, "a pause");
        assert_eq!(log.mean(20..30), None, "a pause before them");
        assert_eq!(log.mean(21..30), Some((900_000.0, 0.0)));
        assert_eq!(log.mean(20..31), None, "31 was not sent");
        for step in 1..=NOTES_MAX as u64 {
            log.on_sent(Time(900_000 + step * 1000), 20 + step * 10, 10, 25.0);
        }
        assert_eq!(log.notes.len(), NOTES_MAX);
        assert_eq!(log.sent_at(5.0), None);
        assert_eq!(log.sent_at(35.0), Some(901_000.0));
    }
}
