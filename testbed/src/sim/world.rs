//! The world: virtual time, all nodes, all cables, and the oracles that look at everything.
//!
//! One thread, one queue of events, random numbers from the scenario's seed alone. A run has a phase of faults, a
//! heal, and a phase in which every receiver must come to hold the newest generation within a stated time.

mod happenings;
mod look;
mod receivers;
mod sender;
mod unicast;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use nackcast_common::clock::Time;
use nackcast_common::ids::{ChannelId, Digest, Epoch};
use nackcast_common::keys::{EpochSecret, SigningKey};
use nackcast_proto::ticket::Ticket;

use super::content::{Edition, Publisher};
use super::figures::Figures;
use super::network::Network;
use super::oracle::bitmap::Bitmap;
use super::oracle::installed::Installed;
use super::oracle::nacks::Nacks;
use super::oracle::nonce::Nonce;
use super::oracle::passes::Passes;
use super::oracle::pool::Pool;
use super::oracle::promises::Promises;
use super::oracle::rate::Rate;
use super::oracle::side_file::SideFile;
use super::oracle::silence::Silence;
use super::oracle::wakes::Wakes;
use super::oracle::window::Window;
use super::oracle::{Failure, Oracles};
use super::queue::Queue;
use super::receiver::{Lane, Receiver, Socket};
use super::scenario::Scenario;
use super::sender::{Identity, Sender, Task};
use super::trace::{Kind, Trace, Watch};
use super::unicast::{Pulls, Step};
use super::wiretap::Wiretap;
use crate::fabric::Datagrams;

/// Between two looks of the oracles at everything.
const LOOK: Duration = Duration::from_millis(100);
/// After everything is complete the world goes on for so long, to see that it stays so.
pub const AFTERGLOW: Duration = Duration::from_secs(1);
/// Events at one moment, after which something spins.
const SPIN_MAX: u32 = 200_000;

/// How a run came out.
#[derive(Debug)]
pub struct Outcome {
    /// What failed, if something did.
    pub failure: Option<Failure>,
    /// Who lacked what at a failure, and why.
    pub diagnosis: Vec<String>,
    /// What happened, as one hash.
    pub hash: Digest,
    /// How much happened.
    pub events: u64,
    /// Virtual time at the end.
    pub end: Time,
    /// Bytes of datagrams that the sender sent to its data group.
    pub sent_bytes: u64,
    /// Of these, repair.
    pub repair_bytes: u64,
    /// NACK datagrams that reached the sender.
    pub nacks: u64,
    /// What can be compared with a run of real processes.
    pub figures: Figures,
    /// How full each table of the sender was at most, and how full it may be.
    pub sender_tables: BTreeMap<&'static str, (usize, usize)>,
    /// Moments for a plot.
    pub samples: Vec<super::trace::Sample>,
    /// What was watched.
    pub timeline: Vec<String>,
}

#[derive(Debug)]
enum Event {
    /// A datagram arrives at a receiver.
    ToReceiver(u32, Socket, Bytes),
    /// A datagram arrives at the sender's socket.
    ToSender(u32, Bytes),
    /// The sender has read it; of the sender's life.
    Read(u32, u32, Bytes),
    /// A deadline of the sender.
    SenderDue,
    /// Something that took the sender time is over; of its life.
    SenderDone(u32, Task),
    /// A deadline of a receiver.
    ReceiverDue(u32),
    /// A receiver's worker is done; of its life.
    Worked(u32, u32, Lane),
    /// Something of unicast is due.
    Pull(Step),
    /// Of the scenario.
    Happens(usize),
    /// A node comes back; of the life in which it was stopped.
    Up(u32, u32),
    SenderUp(u32),
    /// A node goes on; of its life.
    Resume(u32, u32),
    SenderResume(u32),
    /// Writing back works again.
    WritesAgain(u32),
    /// Faults end.
    Heal,
    /// The oracles look.
    Look,
}

/// The world.
#[derive(Debug)]
pub struct World {
    scenario: Scenario,
    now: Time,
    queue: Queue<Event>,
    network: Network,
    sender: Sender,
    /// Until when the sender reads what is in its inbox.
    busy_until: Time,
    sender_due: Time,
    receivers: Vec<Receiver>,
    due: Vec<Time>,
    power: Vec<Option<u64>>,
    publisher: Publisher,
    editions: Vec<Arc<Edition>>,
    oracles: Oracles,
    wiretap: Wiretap,
    trace: Trace,
    pulls: Option<Pulls>,
    healed: bool,
    /// The sender is gone for good, if others can do without.
    sender_lost: bool,
    /// The sender may have sent what no manifest has.
    had_bad_memory: bool,
    complete_at: Vec<Option<Time>>,
    sender_tables: BTreeMap<&'static str, (usize, usize)>,
    symbols: Vec<u64>,
    all_complete_since: Option<Time>,
    nacks: u64,
    /// Datagrams on the sender's cable.
    sent: Datagrams,
    heard: Datagrams,
    at_this_moment: u32,
}

impl World {
    /// A world at its start.
    #[must_use]
    pub fn new(scenario: &Scenario, watch: Option<Watch>) -> Self {
        let seed = scenario.seed;
        let publisher_key = SigningKey::from_seed([1; 32]);
        let channel = ChannelId([9; 16]);
        let secret = EpochSecret::from_slice(&[7; 32]).expect("32 bytes are a secret");
        let advertise: SocketAddr = SocketAddr::from(([239, 1, 1, 1], 7600));
        let identity = Identity {
            channel,
            publisher: publisher_key.clone(),
            sender: SigningKey::from_seed([2; 32]),
            secret: secret.clone(),
            data_group: SocketAddr::from(([239, 1, 1, 1], 7601)),
            nack_port: 7701,
        };
        let sender_key = identity.sender.verifying_key();
        let wiretap = Wiretap::new(channel, secret.clone(), publisher_key.verifying_key(), sender_key);
        let ticket = Ticket {
            channel,
            name: "sim".into(),
            publisher: publisher_key.verifying_key(),
            advertise,
            senders: Vec::new(),
            epoch: Epoch(1),
            secret: Some(secret),
        };
        let mut publisher = Publisher::new(publisher_key, channel, &scenario.content, seed);
        let edition = Arc::new(publisher.publish());
        let receiver = |n: u32| {
            let seed = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) ^ (u64::from(n) << 32);
            let receiver = Receiver::new(n, seed, &scenario.receiver, &scenario.disk, ticket.clone());
            unicast::join(scenario, receiver)
        };
        let spec = &scenario.sender;
        let mut world = Self {
            now: Time::ZERO,
            queue: Queue::default(),
            network: Network::new(scenario),
            sender: Sender::new(spec, identity, Arc::clone(&edition), seed)
                .with_unicast(scenario.pull.sender && !scenario.pull.is_off()),
            busy_until: Time::ZERO,
            sender_due: Time::NEVER,
            receivers: (0..scenario.receivers).map(receiver).collect(),
            due: vec![Time::NEVER; scenario.receivers as usize],
            power: vec![None; scenario.receivers as usize],
            publisher,
            editions: Vec::new(),
            oracles: Oracles {
                installed: Installed::default(),
                bitmap: Bitmap::default(),
                side_file: SideFile::default(),
                passes: Passes::new(spec.max_passes, Duration::from_millis(spec.round_quiet_ms)),
                nonce: Nonce::default(),
                nacks: Nacks::new(scenario.receiver.nack_budget, spec.auto),
                pool: Pool::new(spec.rate_bps, Duration::from_millis(spec.period_ms)),
                promises: Promises::new(Duration::from_millis(scenario.receiver.nack_retry_ms)),
                rate: Rate::new(spec.rate_bps, scenario.receivers, scenario.receiver.nack_budget),
                wakes: Wakes::default(),
                window: Window::default(),
                silence: Silence::default(),
                failure: None,
            },
            wiretap,
            trace: Trace::new(watch),
            pulls: unicast::pulls(scenario),
            healed: false,
            sender_lost: false,
            had_bad_memory: false,
            complete_at: vec![None; scenario.receivers as usize],
            sender_tables: BTreeMap::new(),
            symbols: vec![0; scenario.receivers as usize],
            all_complete_since: None,
            nacks: 0,
            sent: Datagrams::default(),
            heard: Datagrams::default(),
            at_this_moment: 0,
            scenario: scenario.clone(),
        };
        world.learn(edition);
        world
    }

    fn learn(&mut self, edition: Arc<Edition>) {
        self.oracles.installed.learn(&edition.manifest);
        self.oracles.bitmap.learn(&edition.objects);
        self.oracles.side_file.learn(&edition.manifest, &edition.objects);
        self.oracles.pool.learn(&edition.manifest);
        if let Some(pulls) = &mut self.pulls {
            pulls.witness.learn(&edition);
        }
        self.editions.push(edition);
    }

    /// Runs to the end.
    #[must_use]
    pub fn run(mut self) -> Outcome {
        self.sender.start(self.now);
        self.settle_sender();
        for (at, happening) in self.scenario.happenings.iter().enumerate() {
            self.queue.push(Time(happening.at_ms * 1000), Event::Happens(at));
        }
        self.queue.push(Time(self.scenario.heal_at_ms * 1000), Event::Heal);
        self.queue.push(Time::ZERO, Event::Look);
        for receiver in 0..self.scenario.receivers {
            let life = self.receivers[receiver as usize].life;
            self.queue.push(Time(u64::from(receiver) * 10), Event::Up(receiver, life));
        }
        let end = Time((self.scenario.heal_at_ms + self.scenario.liveness_ms) * 1000);
        while let Some((at, event)) = self.queue.pop() {
            if at > end {
                self.now = end;
                let verdict = Err(format!("not everybody is complete {} ms after the heal", self.scenario.liveness_ms));
                self.oracles.judge(end, "liveness", verdict);
                break;
            }
            self.at_this_moment = if at > self.now { 0 } else { self.at_this_moment + 1 };
            if self.at_this_moment > SPIN_MAX {
                self.oracles.judge(at, "spin", Err(format!("{SPIN_MAX} events at one moment; the last: {event:?}")));
            }
            self.now = self.now.max(at);
            self.step(event);
            if self.oracles.failure.is_some() {
                break;
            }
            if self.all_complete_since.is_some_and(|since| self.now.since(since) >= AFTERGLOW) {
                break;
            }
        }
        self.finish()
    }

    fn finish(mut self) -> Outcome {
        self.sample();
        let diagnosis = if self.oracles.failure.is_some() { self.diagnosis() } else { Vec::new() };
        let sent = self.sender.sent();
        let samples = std::mem::take(&mut self.trace.samples);
        Outcome {
            failure: self.oracles.failure,
            diagnosis,
            hash: self.trace.hash(),
            events: self.trace.events(),
            end: self.now,
            sent_bytes: sent.bytes,
            repair_bytes: sent.repair,
            nacks: self.nacks,
            figures: Figures {
                sent: self.sent,
                heard: self.heard,
                complete_at: self.complete_at.iter().map(|at| Some((*at)?.since(Time::ZERO))).collect(),
            },
            sender_tables: self.sender_tables,
            samples,
            timeline: self.trace.timeline(),
        }
    }

    fn step(&mut self, event: Event) {
        let now = self.now;
        match event {
            Event::ToReceiver(receiver, socket, datagram) => {
                self.trace.add_bytes(now, Kind::Delivered, receiver, &datagram);
                self.receivers[receiver as usize].take(now, sender_address(), socket, datagram);
                self.settle_receiver(receiver);
            }
            Event::ToSender(receiver, datagram) => self.arrive(receiver, datagram),
            Event::Read(life, receiver, datagram) => self.read(life, receiver, &datagram),
            // Another deadline came before: this one was looked at then.
            Event::SenderDue if now != self.sender_due => {}
            Event::ReceiverDue(receiver) if now != self.due[receiver as usize] => {}
            Event::SenderDue => {
                self.sender_due = Time::NEVER;
                self.sender.wake(now);
                self.settle_sender();
            }
            Event::SenderDone(life, task) => self.sender_done(life, task),
            Event::ReceiverDue(receiver) => {
                self.due[receiver as usize] = Time::NEVER;
                let deadline = self.receivers[receiver as usize].node().and_then(|node| node.poll_deadline());
                let why = deadline.map_or("no deadline", |deadline| deadline.why);
                let verdict = self.oracles.wakes.on_wake(now, receiver, why);
                self.oracles.judge(now, "wakes", verdict);
                self.receivers[receiver as usize].wake(now);
                self.settle_receiver(receiver);
            }
            Event::Worked(receiver, life, lane) => {
                if self.receivers[receiver as usize].life == life {
                    self.trace.add(now, Kind::Disk, receiver, lane as u64);
                    self.witness_work(receiver, lane);
                    self.receivers[receiver as usize].worked(now, lane);
                    self.settle_receiver(receiver);
                }
            }
            Event::Pull(step) => self.on_pull(step),
            Event::Happens(at) => self.happens(at),
            Event::Up(receiver, life) => {
                if self.receivers[receiver as usize].life == life {
                    self.start(receiver);
                }
            }
            Event::SenderUp(life) => {
                if self.sender.life == life && !self.sender.is_up() && !self.sender_lost {
                    self.sender.start(now);
                    self.settle_sender();
                }
            }
            Event::Resume(receiver, life) => {
                if self.receivers[receiver as usize].life == life {
                    self.receivers[receiver as usize].pause(now, false);
                    self.settle_receiver(receiver);
                }
            }
            Event::SenderResume(life) => {
                if self.sender.life == life {
                    self.sender.pause(false);
                    self.oracles.excuse_sender();
                    self.sender.wake(now);
                    self.settle_sender();
                }
            }
            Event::WritesAgain(receiver) => self.receivers[receiver as usize].fail_write_back(false),
            Event::Heal => self.heal(),
            Event::Look => {
                self.look();
                self.queue.push(now + LOOK, Event::Look);
            }
        }
    }
}

/// Where multicast comes from.
fn sender_address() -> SocketAddr {
    SocketAddr::from(([10, 0, 0, 1], 7600))
}

fn address(receiver: u32) -> SocketAddr {
    let [_, a, b, c] = receiver.to_be_bytes();
    SocketAddr::from(([10, 128 | a, b, c], 40_000))
}

fn number(address: SocketAddr) -> Option<u32> {
    match address {
        SocketAddr::V4(v4) => {
            let [_, a, b, c] = v4.ip().octets();
            Some(u32::from_be_bytes([0, a & 127, b, c]))
        }
        SocketAddr::V6(_) => None,
    }
}

#[cfg(test)]
mod tests;
