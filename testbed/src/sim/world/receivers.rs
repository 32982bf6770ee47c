//! The receivers in the world: what they want, and how they come and go.

use std::time::Duration;

use nackcast_common::clock::Time;

use super::{Event, World};
use crate::sim::network::Way;
use crate::sim::receiver::{Started, Want};
use crate::sim::trace::Kind;

impl World {
    pub(super) fn settle_receiver(&mut self, number: u32) {
        let at = number as usize;
        while let Some(want) = self.receivers[at].poll() {
            match want {
                Want::Send(_, datagram) => {
                    self.trace.add_bytes(self.now, Kind::Nack, number, &datagram);
                    let verdict = self.oracles.nonce.on_sealed(&datagram);
                    self.oracles.judge(self.now, "nonce", verdict);
                    self.oracles.silence.on_life(self.now, number);
                    let local = self.receivers[at].local(self.now);
                    let verdict = self.oracles.nacks.on_nack(local, number);
                    self.oracles.judge(self.now, "nacks", verdict);
                    let verdict = self.oracles.promises.on_nack(local, number);
                    self.oracles.judge(self.now, "promises", verdict);
                    if let Some(pulls) = &mut self.pulls {
                        pulls.witness.on_sent(local, number, &datagram);
                    }
                    for (at, bytes) in self.network.pass(self.now, number, Way::Up, &datagram).into_iter().flatten() {
                        self.queue.push(at, Event::ToSender(number, bytes));
                    }
                }
                Want::Read(datagram) => {
                    if let Some(said) = self.wiretap.heard(&datagram) {
                        let local = self.receivers[at].local(self.now);
                        self.oracles.promises.on_heard(local, number, &said);
                        self.oracles.nacks.on_heard(local, number, &said);
                        if let Some(pulls) = &mut self.pulls {
                            pulls.witness.on_heard(local, number, &said);
                        }
                    }
                }
                Want::Busy(lane, until) => {
                    let life = self.receivers[at].life;
                    self.queue.push(until, Event::Worked(number, life, lane));
                    if self.trace.is_watching() {
                        for line in self.receivers[at].shown(lane) {
                            self.trace.line(self.now, Some(number), None, || line);
                        }
                    }
                    self.look_at_disk(number, lane);
                }
                Want::Pull(order) => self.order_pull(number, &order),
            }
        }
        if self.receivers[at].disk.stopped() {
            self.lose_power(number);
        }
        if let Some(deadline) = self.receivers[at].deadline()
            && deadline < self.due[at]
        {
            self.due[at] = deadline.max(self.now + Duration::from_micros(1));
            self.queue.push(self.due[at], Event::ReceiverDue(number));
        }
    }

    pub(super) fn start(&mut self, number: u32) {
        let at = number as usize;
        if self.receivers[at].is_up() || self.receivers[at].has_left {
            return;
        }
        self.oracles.nacks.on_start(number);
        self.oracles.promises.on_start(number);
        self.oracles.silence.on_life(self.now, number);
        self.due[at] = Time::NEVER;
        let started = self.receivers[at].start(self.now);
        self.begin_pulls(number);
        match started {
            Started::Yes => self.settle_receiver(number),
            Started::Again(when) => {
                let life = self.receivers[at].life;
                self.queue.push(when, Event::Up(number, life));
            }
        }
        if self.receivers[at].disk.stopped() {
            self.lose_power(number);
        }
    }

    pub(super) fn stop(&mut self, number: u32, for_ms: u64) {
        let receiver = &mut self.receivers[number as usize];
        self.queue.push(self.now + Duration::from_millis(for_ms), Event::Up(number, receiver.life));
    }

    pub(super) fn lose_power(&mut self, number: u32) {
        let for_ms = self.power[number as usize].take().unwrap_or(100);
        self.trace.line(self.now, Some(number), None, || "power is cut".to_owned());
        self.receivers[number as usize].cut_power();
        self.complete_at[number as usize] = None;
        self.stop(number, for_ms);
    }
}
