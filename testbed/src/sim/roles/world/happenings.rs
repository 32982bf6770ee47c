//! What happens to a cast, and how all of it ends at the heal.

use std::sync::Arc;
use std::time::Duration;

use nackcast_common::control::Steer;

use super::{Event, TO_1970, World};
use crate::sim::roles::cast::Turn;
use crate::sim::trace::Kind;

impl World {
    pub(super) fn happens(&mut self, turn: Turn) {
        let now = self.now;
        self.trace.add(now, Kind::Happening, u32::MAX, self.story.len() as u64);
        self.tell(format_args!("{turn:?}"));
        let later = |ms: u64| now + Duration::from_millis(ms);
        self.alert.on_fault();
        match turn {
            Turn::Cut { from, to, both, for_ms } => {
                self.wires.cut(from, to, later(for_ms));
                if both {
                    self.wires.cut(to, from, later(for_ms));
                }
            }
            Turn::Kill(number, for_ms) => {
                self.senders[number].kill();
                self.busy_until[number] = now;
                self.queue.push(later(for_ms), Event::SenderUp(number, self.senders[number].life));
            }
            Turn::Freeze(number, for_ms) => {
                self.senders[number].pause(true);
                self.queue.push(later(for_ms), Event::Resume(number, self.senders[number].life));
            }
            Turn::Steer(number, steer) => {
                self.senders[number].steer(now, steer);
                self.settle_sender(number);
            }
            Turn::Blind(number, for_ms) => self.senders[number].blind_until = later(for_ms),
            Turn::Epoch(number) => self.senders[number].wall_error = TO_1970,
            Turn::Lose => {
                self.lost = true;
                for number in 0..self.senders.len() {
                    self.senders[number].kill();
                    self.busy_until[number] = now;
                }
            }
            Turn::Spoil(..) | Turn::Mute(..) | Turn::Bar(..) | Turn::BreakPulls => self.disturb_pulls(turn),
            Turn::Publish(for_ms) => {
                let edition = Arc::new(self.publisher.publish());
                self.learn(Arc::clone(&edition));
                self.senders[0].publish(now, edition);
                self.settle_sender(0);
                for number in 1..self.senders.len() {
                    self.queue.push(later(for_ms), Event::Follows(number, self.editions.len() - 1));
                }
            }
        }
    }

    pub(super) fn heal(&mut self) {
        self.healed = true;
        self.tell(format_args!("heal"));
        self.wires.heal();
        self.heal_pulls();
        let can_be_given = self.editions.last().is_some_and(|edition| edition.is_in_files());
        let is_held = can_be_given && (0..self.receivers.len()).any(|number| self.is_complete(number));
        self.lost &= self.cast.pull.peers && is_held;
        for number in 0..self.senders.len() {
            self.senders[number].blind_until = self.now;
            if !self.senders[number].is_up() && !self.lost {
                self.senders[number].start(self.now);
            }
            self.senders[number].pause(false);
            self.senders[number].steer(self.now, Steer::Resume);
            self.senders[number].wake(self.now);
            self.settle_sender(number);
        }
    }
}
