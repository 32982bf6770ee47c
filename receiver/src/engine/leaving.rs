//! A receiver that ends as it was told says so, so that nobody misses it.
//!
//! - With `once` the report that the dataset is whole says it, too: it costs no datagram of its own.
//! - Else one report does, which is not spread and is repeated until it is answered. Nothing else is asked any more.
//! - It goes to the sender that is asked, since that one knows the receiver.

use nackcast_common::clock::Time;

use super::ReceiverEngine;

impl ReceiverEngine {
    /// The node ends.
    pub fn leave(&mut self, now: Time) {
        self.leaving = true;
        self.cycle.report();
        self.handle_timeout(now);
    }

    /// The sender knows, or there is none.
    #[must_use]
    pub fn has_left(&self) -> bool {
        self.leaving && (self.cycle.has_reported() || self.sessions.chosen().is_none())
    }

    /// What a NACK says of it.
    pub(super) const fn leaves(&self) -> bool {
        self.leaving || self.config.once && self.complete
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use nackcast_proto::wire::{NackAnswer, NackStatus};

    use super::*;
    use crate::engine::testing::Rig;
    use crate::testing::{CHANNEL, SESSION};

    #[test]
    fn whoever_ends_says_so_until_it_is_answered_and_asks_no_more() {
        let mut rig = Rig::new(64);
        let mut now = Time(1);
        rig.advertise(now, 0);
        rig.sent.clear();
        rig.engine.leave(now);
        rig.drain(now);
        assert!(!rig.engine.has_left());
        for _ in 0..40 {
            now += Duration::from_millis(25);
            rig.engine.handle_timeout(now);
            rig.drain(now);
        }
        // Everything is missing, and yet nothing is asked for.
        assert!(rig.sent.len() > 1 && rig.sent.iter().all(|sent| sent.nack.leaves && sent.nack.is_report()));
        let Some(last) = rig.sent.last() else { return };
        let answer = NackAnswer {
            channel: CHANNEL,
            session: SESSION,
            nack: last.packet,
            nonce: last.nack.nonce,
            status: NackStatus::Noted,
            ..NackAnswer::default()
        };
        rig.engine.handle_answer(now, &answer, true);
        assert!(rig.engine.has_left());
    }

    #[test]
    fn whoever_hears_no_sender_has_left_at_once() {
        let mut rig = Rig::new(64);
        rig.engine.leave(Time(1));
        assert!(rig.engine.has_left());
    }
}
