//! The world of a cast: virtual time, its nodes, the network between any two of them, and the oracles.
//!
//! One thread, one queue of events, random numbers from the seed alone.

mod happenings;
mod look;
mod unicast;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use nackcast_common::clock::Time;
use nackcast_common::ids::{ChannelId, Digest, Epoch};
use nackcast_common::keys::{EpochSecret, SigningKey};
use nackcast_common::path::PART_DIRECTORY;
use nackcast_proto::ticket::Ticket;
use nackcast_sender::node::Destination;
use nackcast_sender::role::{RoleConfig, overlap_max};

use self::unicast::Watched;
use super::cast::{Cast, Turn};
use super::wires::Wires;
use crate::sim::content::{Edition, Publisher};
use crate::sim::oracle::alert::Alert;
use crate::sim::oracle::installed::Installed;
use crate::sim::oracle::nonce::Nonce;
use crate::sim::oracle::passes::Passes;
use crate::sim::oracle::take_over::TakeOver;
use crate::sim::oracle::two_active::TwoActive;
use crate::sim::oracle::{Failure, Verdict};
use crate::sim::queue::Queue;
use crate::sim::receiver::{INTO, Lane, Receiver, Socket, Started, Want};
use crate::sim::scenario::{DiskSpec, ReceiverSpec, SenderSpec};
use crate::sim::sender::{Identity, Sender, Task, Want as SenderWant};
use crate::sim::trace::{Kind, Trace};
use crate::sim::unicast::Step;

const NACK_PORT: u16 = 7701;
/// Between two looks at who is complete.
const LOOK: Duration = Duration::from_millis(100);
/// A process that stands still reads later.
const LATER: Duration = Duration::from_millis(5);
/// A clock that was set to 1970, in milliseconds from where it should be.
const TO_1970: i64 = -1_700_000_000_000;

/// How a run came out.
#[derive(Debug)]
pub struct Outcome {
    /// What failed, if something did.
    pub failure: Option<Failure>,
    /// What the senders did, when, and why.
    pub story: Vec<String>,
    /// What happened, as one hash.
    pub hash: Digest,
    /// How much happened.
    pub events: u64,
    /// Virtual time at the end.
    pub end: Time,
}

#[derive(Debug)]
enum Event {
    ToReceiver(usize, SocketAddr, Socket, Bytes),
    /// A datagram arrives at a sender's NACK port.
    ToSender(usize, SocketAddr, Bytes),
    Read(usize, u32, SocketAddr, Bytes),
    /// An advertisement arrives at another sender.
    Advertised(usize, SocketAddr, Bytes),
    SenderDue(usize),
    SenderDone(usize, u32, Task),
    SenderUp(usize, u32),
    Resume(usize, u32),
    ReceiverDue(usize),
    Worked(usize, u32, Lane),
    /// Something of unicast is due.
    Pull(Step),
    Happens(Turn),
    /// A backup has a generation.
    Follows(usize, usize),
    Heal,
    Look,
}

/// The world.
#[derive(Debug)]
pub struct World {
    cast: Cast,
    now: Time,
    queue: Queue<Event>,
    wires: Wires,
    senders: Vec<Sender>,
    busy_until: Vec<Time>,
    sender_due: Vec<Time>,
    receivers: Vec<Receiver>,
    receiver_due: Vec<Time>,
    publisher: Publisher,
    editions: Vec<Arc<Edition>>,
    /// The newest edition that each sender has, by place.
    followed: Vec<usize>,
    pulls: Option<Watched>,
    /// All senders are gone for good, if receivers can do without.
    lost: bool,
    healed: bool,
    installed: Installed,
    nonce: Nonce,
    two_active: TwoActive,
    take_over: TakeOver,
    alert: Alert,
    /// Of each sender.
    passes: Vec<Passes>,
    trace: Trace,
    failure: Option<Failure>,
    story: Vec<String>,
    done: bool,
}

impl World {
    /// A world at its start.
    #[must_use]
    pub fn new(cast: &Cast) -> Self {
        let publisher_key = SigningKey::from_seed([1; 32]);
        let channel = ChannelId([9; 16]);
        let secret = EpochSecret::from_slice(&[7; 32]).expect("32 bytes are a secret");
        let ticket = Ticket {
            channel,
            name: "sim".into(),
            publisher: publisher_key.verifying_key(),
            advertise: SocketAddr::from(([239, 1, 1, 1], 7600)),
            senders: Vec::new(),
            epoch: Epoch(1),
            secret: Some(secret.clone()),
        };
        let mut publisher = Publisher::new(publisher_key.clone(), channel, &cast.content, cast.seed);
        let edition = Arc::new(publisher.publish());
        let spec = SenderSpec { rate_bps: cast.rate_bps, max_passes: cast.max_passes, ..SenderSpec::default() };
        let drain_limit = Duration::from_millis(cast.drain_limit_ms);
        let round_quiet = Duration::from_millis(spec.round_quiet_ms);
        let sender = |(number, part): (usize, &super::cast::Part)| {
            let identity = Identity {
                channel,
                publisher: publisher_key.clone(),
                sender: sender_key(number),
                secret: secret.clone(),
                data_group: SocketAddr::from(([239, 1, 1, 1], 7601)),
                nack_port: NACK_PORT,
            };
            let peers = (0..cast.parts.len()).filter(|other| *other != number).map(sender_address).collect();
            let seed = cast.seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) ^ number as u64;
            let role = RoleConfig { rank: part.rank, peers, drain_limit, ..RoleConfig::new(part.role, seed) };
            let gives = cast.pull.sender && !cast.pull.is_off();
            Sender::new(&spec, identity, Arc::clone(&edition), seed).with_role(role).with_unicast(gives)
        };
        let senders: Vec<_> = cast.parts.iter().enumerate().map(sender).collect();
        let receiver = |number: usize| {
            let seed = cast.seed.wrapping_mul(0xD1B5_4A32_D192_ED03) ^ ((number as u64) << 32);
            let number = u32::try_from(number).unwrap_or(u32::MAX);
            let receiver = Receiver::new(number, seed, &ReceiverSpec::default(), &DiskSpec::default(), ticket.clone());
            unicast::join(cast, receiver)
        };
        let receivers: Vec<_> = (0..cast.receivers).map(receiver).collect();
        let mut alert = Alert::default();
        if cast.loss > 0.0 {
            alert.on_fault();
        }
        let mut world = Self {
            now: Time::ZERO,
            queue: Queue::default(),
            wires: Wires::new(cast),
            busy_until: vec![Time::ZERO; senders.len()],
            sender_due: vec![Time::NEVER; senders.len()],
            senders,
            receiver_due: vec![Time::NEVER; receivers.len()],
            receivers,
            publisher,
            editions: Vec::new(),
            followed: vec![0; cast.parts.len()],
            pulls: Watched::of(cast, &ticket),
            lost: false,
            healed: false,
            installed: Installed::default(),
            nonce: Nonce::default(),
            two_active: TwoActive::new(overlap_max(drain_limit)),
            take_over: TakeOver::default(),
            alert,
            passes: cast.parts.iter().map(|_| Passes::new(spec.max_passes, round_quiet)).collect(),
            trace: Trace::new(None),
            failure: None,
            story: Vec::new(),
            done: false,
            cast: cast.clone(),
        };
        world.learn(edition);
        world
    }

    fn learn(&mut self, edition: Arc<Edition>) {
        self.installed.learn(&edition.manifest);
        if let Some(pulls) = &mut self.pulls {
            pulls.pulls.witness.learn(&edition);
        }
        self.editions.push(edition);
    }

    /// Runs to the end.
    #[must_use]
    pub fn run(mut self) -> Outcome {
        for (number, part) in self.cast.parts.iter().enumerate() {
            self.queue.push(Time(part.start_ms * 1000), Event::SenderUp(number, 0));
        }
        for (at_ms, turn) in &self.cast.turns {
            self.queue.push(Time(at_ms * 1000), Event::Happens(*turn));
        }
        self.queue.push(Time(self.cast.heal_at_ms * 1000), Event::Heal);
        self.queue.push(Time::ZERO, Event::Look);
        for number in 0..self.receivers.len() {
            let started = self.receivers[number].start(self.now);
            debug_assert_eq!(started, Started::Yes, "a sound disk takes a node");
            self.begin_pulls(number);
            self.settle_receiver(number);
        }
        let end = Time((self.cast.heal_at_ms + self.cast.liveness_ms) * 1000);
        while let Some((at, event)) = self.queue.pop() {
            if at > end {
                let verdict = Err(self.how_it_stands());
                self.judge("liveness", verdict);
                break;
            }
            self.now = self.now.max(at);
            self.step(event);
            self.watch();
            if self.failure.is_some() || self.done {
                break;
            }
        }
        let (hash, events) = (self.trace.hash(), self.trace.events());
        Outcome { failure: self.failure, story: self.story, hash, events, end: self.now }
    }

    fn judge(&mut self, oracle: &'static str, verdict: Verdict) {
        if let (Err(what), None) = (verdict, &self.failure) {
            self.failure = Some(Failure { at: self.now, oracle, what });
        }
    }

    fn tell(&mut self, line: std::fmt::Arguments<'_>) {
        self.story.push(format!("{:.3} s: {line}", self.now.0 as f64 / 1e6));
    }

    fn how_it_stands(&self) -> String {
        let states: Vec<_> = (0..self.senders.len()).map(|sender| self.state(sender)).collect();
        let lacking = (0..self.receivers.len()).filter(|receiver| !self.is_complete(*receiver)).count();
        format!(
            "{} ms after the heal {lacking} receivers are not complete; the senders are {states:?}",
            self.cast.liveness_ms
        )
    }

    fn step(&mut self, event: Event) {
        let now = self.now;
        match event {
            Event::ToReceiver(number, from, socket, datagram) => {
                self.trace.add_bytes(now, Kind::Delivered, self.node(number), &datagram);
                self.receivers[number].take(now, from, socket, datagram);
                self.settle_receiver(number);
            }
            Event::ToSender(number, from, datagram) => {
                if let Some(at) = self.senders[number].arrives(now, self.busy_until[number]) {
                    self.busy_until[number] = at;
                    self.queue.push(at, Event::Read(number, self.senders[number].life, from, datagram));
                }
            }
            Event::Read(number, life, ..)
            | Event::SenderDone(number, life, Task::Made(_) | Task::Scanned(_) | Task::Roll)
                if self.senders[number].life != life => {}
            Event::Read(number, ..) | Event::Advertised(number, ..) | Event::SenderDone(number, ..)
                if self.senders[number].is_paused() =>
            {
                self.queue.push(now + LATER, event);
            }
            Event::Read(number, _, from, datagram) => {
                self.trace.add_bytes(now, Kind::Heard, place(number), &datagram);
                if let Some(heard) = self.senders[number].read(now, from, &datagram) {
                    if !heard.nack.is_report() {
                        self.alert.on_nack(now, number);
                    }
                    self.witness_nack(&heard);
                }
                self.settle_sender(number);
            }
            Event::Advertised(number, from, datagram) => {
                self.senders[number].overhear(now, from, &datagram);
                self.settle_sender(number);
            }
            // Another deadline came before: this one was looked at then.
            Event::SenderDue(number) if now != self.sender_due[number] => {}
            Event::ReceiverDue(number) if now != self.receiver_due[number] => {}
            Event::SenderDue(number) => {
                self.sender_due[number] = Time::NEVER;
                self.senders[number].wake(now);
                self.settle_sender(number);
            }
            Event::SenderDone(number, _, task) => {
                if let Task::Recorded(object, count) = &task {
                    let verdict = self.passes[number].on_pass(now, *object, *count);
                    self.judge("passes", verdict);
                }
                self.senders[number].done(now, task);
                self.settle_sender(number);
            }
            Event::SenderUp(number, life) => {
                if self.senders[number].life == life && !self.senders[number].is_up() && !self.lost {
                    self.senders[number].start(now);
                    self.settle_sender(number);
                }
            }
            Event::Resume(number, life) => {
                if self.senders[number].life == life {
                    self.senders[number].pause(false);
                    self.senders[number].wake(now);
                    self.settle_sender(number);
                }
            }
            Event::ReceiverDue(number) => {
                self.receiver_due[number] = Time::NEVER;
                self.receivers[number].wake(now);
                self.settle_receiver(number);
            }
            Event::Worked(number, life, lane) => {
                if self.receivers[number].life == life {
                    self.trace.add(now, Kind::Disk, self.node(number), lane as u64);
                    self.witness_work(number, lane);
                    self.receivers[number].worked(now, lane);
                    self.settle_receiver(number);
                }
            }
            Event::Pull(step) => self.on_pull(step),
            Event::Happens(turn) => self.happens(turn),
            Event::Follows(number, edition) if self.followed[number] >= edition => {}
            Event::Follows(number, edition) => {
                self.followed[number] = edition;
                let edition = Arc::clone(&self.editions[edition]);
                self.senders[number].publish(now, edition);
                self.settle_sender(number);
            }
            Event::Heal => self.heal(),
            Event::Look => {
                self.look();
                self.queue.push(now + LOOK, Event::Look);
            }
        }
    }

    fn settle_sender(&mut self, number: usize) {
        let now = self.now;
        loop {
            while let Some(SenderWant::Later(at, task)) = self.senders[number].poll() {
                self.queue.push(at, Event::SenderDone(number, self.senders[number].life, task));
            }
            let Some((datagrams, bytes)) = self.senders[number].transmit(now) else { break };
            for start in (0..bytes.len()).step_by(datagrams.len.max(1)) {
                let datagram = bytes.slice(start..(start + datagrams.len).min(bytes.len()));
                let verdict = self.nonce.on_sealed(&datagram);
                self.judge("nonce", verdict);
                self.trace.add_bytes(now, Kind::Sent, place(number), &datagram);
                self.witness_sent(number, datagrams.to, &datagram);
                match datagrams.to {
                    Destination::Advertised => {
                        self.multicast(number, Socket::Advertisement, &datagram);
                        for other in (0..self.senders.len()).filter(|other| *other != number) {
                            if let Some(at) = self.wires.pass(now, number, other) {
                                let from = sender_address(number);
                                self.queue.push(at, Event::Advertised(other, from, datagram.clone()));
                            }
                        }
                    }
                    Destination::Data => self.multicast(number, Socket::Data, &datagram),
                    Destination::Receiver(to) | Destination::Sender(to) => self.unicast(number, to, &datagram),
                }
            }
        }
        while let Some(event) = self.senders[number].poll_role_event() {
            self.on_role_event(number, &event);
        }
        if let Some(at) = self.senders[number].deadline(now)
            && at < self.sender_due[number]
        {
            // A deadline that has passed is looked at a little later, as a driver does.
            self.sender_due[number] = at.max(now + Duration::from_micros(200));
            self.queue.push(self.sender_due[number], Event::SenderDue(number));
        }
    }

    fn multicast(&mut self, from: usize, socket: Socket, datagram: &Bytes) {
        for receiver in 0..self.receivers.len() {
            if let Some(at) = self.wires.pass(self.now, from, self.senders.len() + receiver) {
                self.queue.push(at, Event::ToReceiver(receiver, sender_address(from), socket, datagram.clone()));
            }
        }
    }

    /// From a node, by its number among all, to an address.
    fn unicast(&mut self, from: usize, to: SocketAddr, datagram: &Bytes) {
        let Some(node) = (0..self.senders.len() + self.receivers.len()).find(|node| self.address(*node) == to) else {
            return;
        };
        let Some(at) = self.wires.pass(self.now, from, node) else { return };
        let (from, datagram) = (self.address(from), datagram.clone());
        self.queue.push(
            at,
            match node.checked_sub(self.senders.len()) {
                None => Event::ToSender(node, from, datagram),
                Some(receiver) => Event::ToReceiver(receiver, from, Socket::Answer, datagram),
            },
        );
    }

    fn address(&self, node: usize) -> SocketAddr {
        match node.checked_sub(self.senders.len()) {
            None => sender_address(node),
            Some(receiver) => SocketAddr::from(([10, 0, 1, u8::try_from(receiver).unwrap_or(u8::MAX)], 40_000)),
        }
    }

    /// A receiver's number among all nodes, for the trace.
    fn node(&self, receiver: usize) -> u32 {
        place(self.senders.len() + receiver)
    }

    fn settle_receiver(&mut self, number: usize) {
        while let Some(want) = self.receivers[number].poll() {
            match want {
                Want::Send(to, datagram) => {
                    let verdict = self.nonce.on_sealed(&datagram);
                    self.judge("nonce", verdict);
                    self.trace.add_bytes(self.now, Kind::Nack, self.node(number), &datagram);
                    self.witness_asked(number, &datagram);
                    self.unicast(self.senders.len() + number, to, &datagram);
                }
                Want::Read(datagram) => self.witness_read(number, &datagram),
                Want::Pull(order) => self.order_pull(number, &order),
                Want::Busy(lane, until) => {
                    self.queue.push(until, Event::Worked(number, self.receivers[number].life, lane));
                    if lane == Lane::Dataset {
                        let receiver = &self.receivers[number];
                        let shown = receiver.disk.shown(INTO.as_bytes(), PART_DIRECTORY.as_bytes());
                        let verdict = self.installed.look(receiver.number, &receiver.disk, &shown);
                        self.judge("installed", verdict);
                    }
                }
            }
        }
        if let Some(deadline) = self.receivers[number].deadline()
            && deadline < self.receiver_due[number]
        {
            self.receiver_due[number] = deadline.max(self.now + Duration::from_micros(1));
            self.queue.push(self.receiver_due[number], Event::ReceiverDue(number));
        }
    }
}

/// A node's number, for the trace.
fn place(node: usize) -> u32 {
    u32::try_from(node).unwrap_or(u32::MAX)
}

fn sender_address(number: usize) -> SocketAddr {
    SocketAddr::from(([10, 0, 0, u8::try_from(number + 1).unwrap_or(u8::MAX)], NACK_PORT))
}

fn sender_key(number: usize) -> SigningKey {
    SigningKey::from_seed([u8::try_from(number + 2).unwrap_or(u8::MAX); 32])
}
