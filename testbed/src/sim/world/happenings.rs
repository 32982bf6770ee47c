//! What happens to nodes and cables, and how all of it ends at the heal.

use std::sync::Arc;
use std::time::Duration;

use nackcast_common::manifest::EntryKind;

use super::{Event, World};
use crate::sim::scenario::What;
use crate::sim::trace::Kind;
use crate::sim::unicast::Place;

impl World {
    pub(super) fn happens(&mut self, at: usize) {
        let what = self.scenario.happenings[at].what.clone();
        self.trace.add(self.now, Kind::Happening, what.receiver().unwrap_or(u32::MAX), at as u64);
        self.trace.line(self.now, what.receiver(), None, || format!("{what:?}"));
        let later = |ms: u64| self.now + Duration::from_millis(ms);
        match what {
            What::Cut { receivers, side, for_ms } => {
                let until = later(for_ms);
                receivers.into_iter().for_each(|receiver| self.network.cut(receiver, side, until));
            }
            What::Kill { receiver, for_ms } | What::Absent { receiver, for_ms } => {
                self.receivers[receiver as usize].kill();
                self.complete_at[receiver as usize] = None;
                self.stop(receiver, for_ms);
            }
            What::Leave { receiver } => {
                self.receivers[receiver as usize].kill();
                self.receivers[receiver as usize].has_left = true;
                self.complete_at[receiver as usize] = None;
            }
            What::PowerCut { receiver, after_calls, for_ms } => {
                self.power[receiver as usize] = Some(for_ms);
                self.receivers[receiver as usize].disk.stop_after(Some(after_calls.into()));
                if self.receivers[receiver as usize].disk.stopped() {
                    self.lose_power(receiver);
                }
            }
            What::Pause { receiver, for_ms } => {
                self.receivers[receiver as usize].pause(self.now, true);
                self.queue.push(later(for_ms), Event::Resume(receiver, self.receivers[receiver as usize].life));
            }
            What::Skew { receiver, ppm } => {
                self.receivers[receiver as usize].skew(self.now, ppm);
                self.settle_receiver(receiver);
            }
            What::Full { receiver, bytes_left } => self.receivers[receiver as usize].fill(bytes_left),
            What::Rot { receiver, bits } => self.receivers[receiver as usize].rot(bits),
            What::Edit { receiver, files, keep_time } => {
                for (path, inode) in self.receivers[receiver as usize].edit(self.now, files, keep_time) {
                    self.oracles.installed.on_edit(receiver, path, inode);
                }
            }
            What::WriteBackError { receiver, for_ms } => {
                self.receivers[receiver as usize].fail_write_back(true);
                self.queue.push(later(for_ms), Event::WritesAgain(receiver));
            }
            What::Publish => {
                let edition = Arc::new(self.publisher.publish());
                self.learn(Arc::clone(&edition));
                self.all_complete_since = None;
                self.sender.publish(self.now, edition);
                self.settle_sender();
            }
            What::KillSender { for_ms } => {
                self.sender.kill();
                self.oracles.excuse_sender();
                self.busy_until = self.now;
                self.queue.push(later(for_ms), Event::SenderUp(self.sender.life));
            }
            What::PauseSender { for_ms } => {
                self.sender.pause(true);
                self.queue.push(later(for_ms), Event::SenderResume(self.sender.life));
            }
            What::RollSender => {
                self.sender.roll(self.now);
                self.settle_sender();
            }
            What::StepSenderClock { by_ms } => self.sender.wall_error += by_ms,
            What::LoseSender => {
                self.sender.kill();
                self.sender_lost = true;
                self.oracles.excuse_sender();
                self.busy_until = self.now;
            }
            What::Spoil { receiver, for_ms } => {
                let (place, until) = (place(receiver), later(for_ms));
                self.pulls.iter_mut().for_each(|pulls| pulls.exchange.spoil(place, until));
            }
            What::Mute { receiver, for_ms } => {
                let (place, until) = (place(receiver), later(for_ms));
                self.pulls.iter_mut().for_each(|pulls| pulls.exchange.mute(place, until));
            }
            What::Bar { receiver, for_ms } => {
                let (place, until) = (place(receiver), later(for_ms));
                self.pulls.iter_mut().for_each(|pulls| pulls.exchange.bar(place, until));
            }
            What::BreakPulls => self.break_pulls(),
            What::SenderBlind { for_ms } => self.sender.blind_until = later(for_ms),
            What::BadMemory { for_ms } => {
                self.sender.bad_until = later(for_ms);
                self.had_bad_memory = true;
            }
        }
    }

    pub(super) fn heal(&mut self) {
        self.healed = true;
        self.trace.add(self.now, Kind::Happening, u32::MAX, u64::MAX);
        self.network.heal(&self.scenario);
        (self.sender.blind_until, self.sender.bad_until) = (self.now, self.now);
        self.oracles.excuse_sender();
        self.sender_lost &= self.pulls.is_some() && self.scenario.pull.peers && self.is_held();
        if !self.sender.is_up() && !self.sender_lost {
            self.sender.start(self.now);
        }
        self.sender.pause(false);
        self.sender.wake(self.now);
        self.settle_sender();
        self.heal_pulls();
        for number in 0..self.scenario.receivers {
            let receiver = &mut self.receivers[number as usize];
            receiver.heal(self.now);
            receiver.pause(self.now, false);
            let damaged = receiver.tainted || receiver.is_doubtful();
            // What was changed and has left the dataset is nobody's, and may stand in the way.
            if let Some(newest) = self.editions.last().map(|edition| &edition.manifest) {
                receiver.take_away(
                    |path| newest.entry(path).is_none_or(|e| !matches!(e.kind, EntryKind::File { .. })),
                    |path| newest.has_below(path),
                );
            }
            if !receiver.is_up() {
                self.start(number);
            }
            if damaged {
                self.receivers[number as usize].scan(self.now);
                self.complete_at[number as usize] = None;
            }
            self.oracles.silence.on_life(self.now, number);
            self.settle_receiver(number);
        }
    }
}

fn place(receiver: Option<u32>) -> Place {
    receiver.map_or(Place::Sender(0), Place::Receiver)
}
