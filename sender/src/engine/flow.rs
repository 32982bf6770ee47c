//! Flow control without a rate limit: what was sent and not read yet must fit what receivers' sockets hold.
//!
//! A fast sender overruns receivers that share its machine, or are slower than the link: what their sockets drop has
//! to be sent again. With a rate limit the admin has chosen; with `max` receivers tell how far they have read
//! ([`nackcast_proto::wire::Reading`]), about four times in what their socket holds, and the sender waits for the slowest.
//!
//! | receiver | on | to |
//! |---|---|---|
//! | unknown | it tells how far it read | waited for |
//! | waited for | it is complete, or the session is another one | unknown |
//! | waited for | the sender stands still because of it for [`PATIENCE`], and it read next to nothing | left behind |
//! | left behind | it has caught up by half | waited for |
//!
//! Who is left behind asks again later. Only small groups are waited for ([`READERS_MAX`]): a larger one always has
//! somebody who is slow.

use std::collections::BTreeMap;
use std::time::Duration;

use nackcast_common::clock::Time;
use nackcast_common::ids::RunId;

/// Receivers that are waited for at most.
pub(super) const READERS_MAX: usize = 64;
/// How long the sender stands still for one receiver, at least; and in round-trip times.
const PATIENCE: Duration = Duration::from_millis(250);
const PATIENCE_GRTTS: u32 = 3;
const PATIENCE_MAX: Duration = Duration::from_secs(1);
/// Who tells nothing for so long makes room for others.
const FORGOTTEN: Duration = Duration::from_secs(10);
/// Less than this part of its window in that time is next to nothing.
const SLOWEST: u64 = 16;
/// One in so many may be left, at least one.
const LEFT_ONE_IN: usize = 10;
/// Fewer packets are not worth a call of the system.
const ROOM_LEAST: u64 = 16;

#[derive(Debug)]
struct Reader {
    /// Next packet number that it expects.
    heard: u64,
    /// Packets that its socket holds.
    window: u64,
    left: bool,
    heard_at: Time,
}

impl Reader {
    fn room(&self, sent: u64) -> u64 {
        if self.left { u64::MAX } else { (self.heard + self.window).saturating_sub(sent) }
    }
}

/// The receivers that are waited for.
#[derive(Debug, Default)]
pub(super) struct Flow {
    readers: BTreeMap<RunId, Reader>,
    /// Who holds the sender up, since when, and how far it had read then.
    held_up: Option<(RunId, Time, u64)>,
}

impl Flow {
    /// A receiver tells something; `sent` packets were used so far.
    pub(super) fn on_reading(&mut self, now: Time, run: RunId, heard: u64, window: u32, sent: u64) {
        if window == 0 {
            self.forget(run);
            return;
        }
        let (heard, window) = (heard.min(sent), u64::from(window).max(ROOM_LEAST * 2));
        if self.readers.len() >= READERS_MAX && !self.readers.contains_key(&run) {
            self.readers.retain(|_, reader| now.since(reader.heard_at) < FORGOTTEN);
        }
        if let Some(reader) = self.readers.get_mut(&run) {
            reader.heard_at = now;
            // They may overtake each other on the way.
            (reader.heard, reader.window) = (reader.heard.max(heard), window);
            reader.left &= sent - reader.heard > window / 2;
        } else if self.readers.len() < READERS_MAX {
            self.readers.insert(run, Reader { heard, window, left: sent - heard > window, heard_at: now });
        }
    }

    /// A receiver is complete: nothing waits for it.
    pub(super) fn forget(&mut self, run: RunId) {
        self.readers.remove(&run);
    }

    /// Packet numbers begin anew.
    pub(super) fn reset(&mut self) {
        *self = Self::default();
    }

    /// How many receivers are waited for, and at most.
    pub(super) fn bound(&self) -> (usize, usize) {
        (self.readers.len(), READERS_MAX)
    }

    /// Packets that may be sent now. `leaves`: one reader in ten, at least one, need not be waited for.
    pub(super) fn room(&mut self, now: Time, sent: u64, grtt: Duration, leaves: bool) -> u64 {
        loop {
            let slowest = self.slowest(sent, leaves);
            let Some((room, run)) = slowest.filter(|(room, _)| *room < ROOM_LEAST) else {
                self.held_up = None;
                return slowest.map_or(u64::MAX, |(room, _)| room);
            };
            let Some(reader) = self.readers.get_mut(&run) else { return room };
            let (_, since, heard) = *self.held_up.get_or_insert((run, now, reader.heard));
            if now < since + patience(grtt) {
                return 0;
            }
            self.held_up = None;
            // Another one may have held it up before: each has its time.
            reader.left = reader.heard < heard + (reader.window / SLOWEST).max(ROOM_LEAST);
        }
    }

    /// Who has least room, but for those that are left.
    fn slowest(&self, sent: u64, leaves: bool) -> Option<(u64, RunId)> {
        let rooms = self.readers.iter().map(|(run, reader)| (reader.room(sent), *run));
        if !leaves || self.readers.len() < 2 {
            return rooms.min();
        }
        let mut rooms: Vec<_> = rooms.collect();
        rooms.sort_unstable();
        rooms.get((rooms.len() / LEFT_ONE_IN).max(1)).copied()
    }

    /// When [`Self::room`] may say something else although nobody told anything.
    pub(super) fn deadline(&self, grtt: Duration) -> Option<Time> {
        self.held_up.map(|(_, since, _)| since + patience(grtt))
    }
}

fn patience(grtt: Duration) -> Duration {
    PATIENCE.max(grtt * PATIENCE_GRTTS).min(PATIENCE_MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    const GRTT: Duration = Duration::from_millis(1);

    fn at(ms: u64) -> Time {
        Time(ms * 1000)
    }

    fn tell(flow: &mut Flow, run: u64, heard: u64, sent: u64) {
        flow.on_reading(at(0), RunId(run), heard, 1000, sent);
    }

    #[test]
    fn what_is_not_read_yet_fits_the_smallest_socket() {
        let mut flow = Flow::default();
        assert_eq!(flow.room(at(0), 5000, GRTT, false), u64::MAX, "nobody told anything");
        tell(&mut flow, 1, 100, 100);
        tell(&mut flow, 2, 40, 100);
        assert_eq!(flow.room(at(0), 100, GRTT, false), 940);
        assert_eq!(flow.room(at(0), 1035, GRTT, false), 0);
        tell(&mut flow, 2, 1035, 1035);
        assert_eq!(flow.room(at(1), 1035, GRTT, false), 65, "now the other one");
        tell(&mut flow, 1, 900, 1035);
        tell(&mut flow, 1, 800, 1035);
        assert_eq!(flow.room(at(1), 1035, GRTT, false), 865, "the older one came later");
    }

    #[test]
    fn who_reads_nothing_is_left_behind_until_it_has_caught_up() {
        let mut flow = Flow::default();
        tell(&mut flow, 1, 0, 0);
        tell(&mut flow, 2, 0, 0);
        assert_eq!(flow.room(at(0), 1000, GRTT, false), 0);
        tell(&mut flow, 2, 1000, 1000);
        assert_eq!(flow.room(at(249), 1000, GRTT, false), 0);
        assert_eq!(flow.deadline(GRTT), Some(at(250)));
        assert_eq!(flow.room(at(250), 1000, GRTT, false), 1000);
        assert_eq!(flow.deadline(GRTT), None);
        tell(&mut flow, 2, 1900, 1900);
        tell(&mut flow, 1, 1300, 1900);
        assert_eq!(flow.room(at(300), 1900, GRTT, false), 1000);
        tell(&mut flow, 1, 1500, 1900);
        assert_eq!(flow.room(at(300), 1900, GRTT, false), 600);
    }

    #[test]
    fn one_in_ten_may_be_left() {
        let mut flow = Flow::default();
        tell(&mut flow, 1, 0, 0);
        assert_eq!(flow.room(at(0), 1000, GRTT, true), 0, "there is nobody else");
        tell(&mut flow, 2, 500, 1000);
        assert_eq!(flow.room(at(1), 1000, GRTT, true), 500);
        assert_eq!(flow.room(at(1), 1000, GRTT, false), 0);
    }

    #[test]
    fn who_is_slow_is_waited_for() {
        let mut flow = Flow::default();
        let (mut sent, mut waited) = (0, 0);
        for step in 0..100 {
            tell(&mut flow, 1, step * 10, sent);
            let room = flow.room(at(step * 10), sent, GRTT, false);
            assert!(room < u64::MAX);
            sent += room;
            waited += u64::from(room == 0);
        }
        assert!(sent <= 990 + 1000 && waited > 10, "{sent} {waited}");
    }

    #[test]
    fn who_is_complete_is_not_waited_for_and_forged_numbers_do_no_harm() {
        let mut flow = Flow::default();
        tell(&mut flow, 1, u64::MAX, 10);
        assert_eq!(flow.room(at(0), 10, GRTT, false), 1000);
        flow.forget(RunId(1));
        assert_eq!(flow.room(at(0), 10, GRTT, false), u64::MAX);
        for run in 0..1000 {
            tell(&mut flow, run, 0, 10);
        }
        assert_eq!(flow.bound(), (READERS_MAX, READERS_MAX));
    }
}
