//! The sender in the world: what comes to it, and what it sends.

use std::time::Duration;

use bytes::Bytes;
use nackcast_sender::node::Destination;

use super::{Event, World, address, number};
use crate::sim::network::Way;
use crate::sim::receiver::Socket;
use crate::sim::sender::{Task, Want};
use crate::sim::trace::Kind;
use crate::sim::wiretap::Said;

impl World {
    pub(super) fn arrive(&mut self, receiver: u32, datagram: Bytes) {
        self.heard.see(&datagram);
        if let Some(at) = self.sender.arrives(self.now, self.busy_until) {
            self.busy_until = at;
            self.queue.push(at, Event::Read(self.sender.life, receiver, datagram));
        }
    }

    pub(super) fn read(&mut self, life: u32, receiver: u32, datagram: &Bytes) {
        if self.sender.life != life {
            return;
        }
        if self.sender.is_paused() {
            // It stays in the inbox.
            self.queue.push(self.now + Duration::from_millis(1), Event::Read(life, receiver, datagram.clone()));
            return;
        }
        self.nacks += 1;
        self.trace.add_bytes(self.now, Kind::Heard, receiver, datagram);
        let heard = self.sender.read(self.now, address(receiver), datagram);
        if let Some(heard) = &heard {
            if !heard.nack.is_report() {
                self.oracles.window.on_nack(self.now);
                let verdict = self.oracles.rate.on_nack(self.now);
                self.oracles.judge(self.now, "rate", verdict);
            }
            let manifest = self.editions.iter().find(|e| e.encoded.reference.hash.prefix() == heard.nack.manifest);
            let table = manifest.map(|e| &*e.manifest);
            self.oracles.pool.on_nack(heard.run, heard.packet, &heard.nack, table);
            self.oracles.passes.on_nack(heard.run, heard.packet, &heard.nack, table);
            if let Some(pulls) = &mut self.pulls {
                pulls.witness.on_nack(heard, manifest.map(|e| &e.manifest));
            }
        }
        self.trace.line(self.now, Some(receiver), None, || match heard {
            Some(heard) => format!("the sender hears {:?}", heard.nack),
            None => "the sender drops a datagram that does not open".to_owned(),
        });
        self.settle_sender();
    }

    pub(super) fn sender_done(&mut self, life: u32, task: Task) {
        if self.sender.life != life && matches!(task, Task::Recorded(..)) && self.sender.loses_write() {
            return;
        }
        if let Task::Recorded(object, count) = &task {
            let verdict = self.oracles.passes.on_pass(self.now, *object, *count);
            self.oracles.judge(self.now, "passes", verdict);
            self.trace.line(self.now, None, Some(*object), || format!("pass {count} of object {object}"));
        }
        // What was being stored may be stored, also for a process that is gone.
        if self.sender.life == life || matches!(task, Task::Recorded(..)) {
            self.sender.done(self.now, task);
            self.settle_sender();
        }
    }

    pub(super) fn settle_sender(&mut self) {
        let now = self.now;
        loop {
            while let Some(Want::Later(at, task)) = self.sender.poll() {
                self.queue.push(at, Event::SenderDone(self.sender.life, task));
            }
            let Some((datagrams, bytes)) = self.sender.transmit(now) else { break };
            for start in (0..bytes.len()).step_by(datagrams.len.max(1)) {
                let datagram = bytes.slice(start..(start + datagrams.len).min(bytes.len()));
                let verdict = self.oracles.nonce.on_sealed(&datagram);
                self.oracles.judge(now, "nonce", verdict);
                self.overhear(&datagram);
                self.trace.add_bytes(now, Kind::Sent, u32::MAX, &datagram);
                self.sent.see(&datagram);
                match datagrams.to {
                    Destination::Advertised => self.multicast(Socket::Advertisement, &datagram),
                    Destination::Data => self.multicast(Socket::Data, &datagram),
                    Destination::Receiver(to) | Destination::Sender(to) => {
                        if let Some(receiver) = number(to).filter(|n| *n < self.scenario.receivers) {
                            self.deliver(receiver, Socket::Answer, &datagram);
                        }
                    }
                }
            }
        }
        if let Some(at) = self.sender.deadline(now)
            && at < self.sender_due
        {
            // A deadline that has passed is looked at a little later, as a driver does.
            self.sender_due = at.max(now + Duration::from_micros(200));
            self.queue.push(self.sender_due, Event::SenderDue);
        }
    }

    /// What the sender says is what oracles hold it to.
    pub(super) fn overhear(&mut self, datagram: &Bytes) {
        let Some(said) = self.wiretap.on_sent(datagram) else { return };
        match &*said {
            Said::Symbol(symbol) => {
                self.oracles.pool.on_symbol(symbol.object);
                let verdict = self.oracles.passes.on_symbol(symbol.object);
                self.oracles.judge(self.now, "passes", verdict);
            }
            Said::Answer(answer) => {
                let manifest = self.editions.last().map(|edition| &*edition.manifest);
                self.oracles.passes.on_answer(self.now, answer, manifest);
                let verdict = self.oracles.pool.on_answer(self.now, answer, manifest);
                self.oracles.judge(self.now, "pool", verdict);
            }
            Said::Advertisement(said) => {
                self.oracles.pool.on_rate(said.rate_bps);
                let verdict = self.oracles.window.on_advertisement(self.now, said.nack_window, said.grtt);
                self.oracles.judge(self.now, "window", verdict);
            }
            Said::Digest(_) => {}
        }
    }

    pub(super) fn multicast(&mut self, socket: Socket, datagram: &Bytes) {
        for receiver in 0..self.scenario.receivers {
            self.deliver(receiver, socket, datagram);
        }
    }

    pub(super) fn deliver(&mut self, receiver: u32, socket: Socket, datagram: &Bytes) {
        // Who is not there need not be told; the cable's own course of chances goes on all the same.
        let arrivals = self.network.pass(self.now, receiver, Way::Down, datagram);
        for (at, bytes) in arrivals.into_iter().flatten() {
            self.queue.push(at, Event::ToReceiver(receiver, socket, bytes));
        }
    }
}
