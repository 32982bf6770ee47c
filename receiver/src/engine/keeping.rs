//! Whether this machine keeps what it receives; while it does not, nothing is asked for and nothing is taken.
//!
//! | state | on | to |
//! |---|---|---|
//! | keeping | something could not be kept (no space, no right, no more files) | waiting |
//! | waiting | time is up | looking: is there room for a block? |
//! | looking | there is | keeping |
//! | looking | there is not | waiting, for [`LOOK_EVERY`] |
//!
//! A look costs nobody else anything. The network is asked again only after one that went well, and each time later
//! ([`PAUSE`], twice that, up to [`PAUSE_MAX`]) as long as that does not help: a disk that takes a little and then
//! nothing must not make the sender send all again and again.

use std::time::Duration;

use nackcast_common::clock::Time;

/// The first wait...
const PAUSE: Duration = Duration::from_secs(2);
/// ...and the longest. What went well for so long begins anew.
const PAUSE_MAX: Duration = Duration::from_secs(16);
/// Between two looks.
const LOOK_EVERY: Duration = Duration::from_secs(2);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Keeping,
    Waiting { until: Time },
    Looking,
}

#[derive(Debug)]
pub(super) struct Keeping {
    state: State,
    pause: Duration,
    /// The last time that it went on.
    since: Time,
}

impl Keeping {
    pub(super) const fn new() -> Self {
        Self { state: State::Keeping, pause: Duration::ZERO, since: Time::ZERO }
    }

    /// Something could not be kept. What was ordered before that, and fails too, is the same trouble.
    pub(super) fn refused(&mut self, now: Time) {
        if self.state != State::Keeping {
            return;
        }
        let again = !self.pause.is_zero() && now < self.since + PAUSE_MAX;
        self.pause = if again { (self.pause * 2).min(PAUSE_MAX) } else { PAUSE };
        self.state = State::Waiting { until: now + self.pause };
    }

    /// Whether to look for room now, once.
    pub(super) fn look(&mut self, now: Time) -> bool {
        let due = matches!(self.state, State::Waiting { until } if now >= until);
        if due {
            self.state = State::Looking;
        }
        due
    }

    /// What the look found.
    pub(super) fn looked(&mut self, now: Time, is_there: bool) {
        if self.state != State::Looking {
            return;
        }
        if is_there {
            (self.state, self.since) = (State::Keeping, now);
        } else {
            self.state = State::Waiting { until: now + LOOK_EVERY };
        }
    }

    pub(super) fn is_stopped(&self) -> bool {
        self.state != State::Keeping
    }

    /// When [`Self::look`] is due.
    pub(super) const fn deadline(&self) -> Option<Time> {
        match self.state {
            State::Waiting { until } => Some(until),
            State::Keeping | State::Looking => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use nackcast_common::ranges::RangeSet;
    use nackcast_proto::wire::Nack;
    use nackcast_proto::wire::symbol::SymbolId;

    use super::*;
    use crate::engine::testing::{OBJECTS, Rig};
    use crate::engine::{BlockOutcome, InstallOutcome};
    use crate::testing::SESSION;

    /// A sender that sends everything whenever it is asked; how often it did in that time.
    fn sent_again(rig: &mut Rig, now: &mut Time, time: Duration) -> usize {
        let (end, mut packet, mut sent) = (*now + time, now.0 * 1000, 0);
        while *now < end {
            let already = rig.sent.len();
            rig.advertise(*now, packet);
            rig.engine.handle_timeout(*now);
            rig.drain(*now);
            let asks = |nack: &Nack| !nack.missing_ids.is_empty() || !nack.short.is_empty();
            if rig.sent.iter().skip(already).any(|sent| asks(&sent.nack)) {
                sent += 1;
                for index in 0..OBJECTS {
                    let (object, layout) = (rig.object(index).id, rig.object(index).layout);
                    for block in 0..layout.block_count() {
                        for esi in 0..layout.source_symbols(block) {
                            rig.engine.handle_symbol(*now, *now, SESSION, packet, SymbolId { object, block, esi });
                            packet += 1;
                        }
                    }
                }
                rig.drain(*now);
            }
            *now += Duration::from_millis(100);
        }
        sent
    }

    #[test]
    fn the_network_is_not_asked_for_what_a_full_disk_cannot_keep() {
        let (mut rig, mut now) = (Rig::new(64), Time(1));
        (rig.outcome, rig.has_room) = (BlockOutcome::NotKept, false);
        assert_eq!(sent_again(&mut rig, &mut now, Duration::from_secs(600)), 1);
        (rig.outcome, rig.has_room) = (BlockOutcome::Sound, true);
        assert_eq!(sent_again(&mut rig, &mut now, Duration::from_secs(60)), 1, "room is noticed");
        assert!(rig.engine.is_complete());
    }

    #[test]
    fn a_disk_that_refuses_though_there_is_room_is_tried_ever_more_rarely() {
        let (mut rig, mut now) = (Rig::new(64), Time(1));
        rig.outcome = BlockOutcome::NotKept;
        let sent = sent_again(&mut rig, &mut now, Duration::from_secs(600));
        assert!((10..45).contains(&sent), "{sent} times in ten minutes");
    }

    #[test]
    fn what_the_disk_loses_before_it_is_installed_is_fetched_ever_more_rarely() {
        let (mut rig, mut now) = (Rig::new(64), Time(1));
        rig.installed = InstallOutcome::Refetch { left: RangeSet::new() };
        let sent = sent_again(&mut rig, &mut now, Duration::from_secs(600));
        assert!((10..45).contains(&sent), "{sent} times in ten minutes");
    }

    /// Refuses, waits and looks; how long the network was left alone.
    fn refuse(keeping: &mut Keeping, now: &mut Time) -> Duration {
        let began = *now;
        keeping.refused(*now);
        *now = keeping.deadline().unwrap();
        assert!(keeping.look(*now) && !keeping.look(*now));
        keeping.looked(*now, true);
        assert!(!keeping.is_stopped());
        now.since(began)
    }

    #[test]
    fn each_wait_is_longer_until_it_went_well_for_a_while() {
        let (mut keeping, mut now) = (Keeping::new(), Time(1));
        let waits: Vec<_> = (0..5).map(|_| refuse(&mut keeping, &mut now).as_secs()).collect();
        assert_eq!(waits, [2, 4, 8, 16, 16]);
        now += PAUSE_MAX;
        assert_eq!(refuse(&mut keeping, &mut now), PAUSE);
    }

    #[test]
    fn without_room_it_only_looks() {
        let (mut keeping, mut now) = (Keeping::new(), Time(1));
        keeping.refused(now);
        for _ in 0..100 {
            now = keeping.deadline().unwrap();
            // The same trouble, told late.
            keeping.refused(now);
            assert!(keeping.look(now));
            keeping.looked(now, false);
            assert!(keeping.is_stopped());
            assert_eq!(keeping.deadline(), Some(now + LOOK_EVERY));
        }
    }
}
