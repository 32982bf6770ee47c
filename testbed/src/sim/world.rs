//! The world: virtual time, all nodes, all cables, and the oracles that look at everything.
//!
//! One thread, one queue of events, random numbers from the scenario's seed alone. A run has a phase of faults, a
//! heal, and a phase in which every receiver must come to hold the newest generation within a stated time.

mod look;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use nackcast_common::clock::Time;
use nackcast_common::ids::{ChannelId, Digest, Epoch};
use nackcast_common::keys::{EpochSecret, SigningKey};
use nackcast_common::manifest::EntryKind;
use nackcast_proto::ticket::Ticket;
use nackcast_sender::node::Destination;

use super::content::{Edition, Publisher};
use super::figures::Figures;
use super::network::{Network, Way};
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
use super::receiver::{self, Lane, Receiver, Socket, Started};
use super::scenario::{Scenario, What};
use super::sender::{Identity, Sender, Task, Want as SenderWant};
use super::trace::{Kind, Trace, Watch};
use super::wiretap::{Said, Wiretap};
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
    healed: bool,
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
            Receiver::new(n, seed, &scenario.receiver, &scenario.disk, ticket.clone())
        };
        let spec = &scenario.sender;
        let mut world = Self {
            now: Time::ZERO,
            queue: Queue::default(),
            network: Network::new(scenario),
            sender: Sender::new(spec, identity, Arc::clone(&edition), seed),
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
                nacks: Nacks::new(scenario.receiver.nack_budget),
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
            healed: false,
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
        let snapshot = self.sender.node().map(nackcast_sender::node::SenderNode::snapshot).unwrap_or_default();
        let samples = std::mem::take(&mut self.trace.samples);
        Outcome {
            failure: self.oracles.failure,
            diagnosis,
            hash: self.trace.hash(),
            events: self.trace.events(),
            end: self.now,
            sent_bytes: snapshot.sent_bytes,
            repair_bytes: snapshot.repair_bytes,
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
                self.trace.add(now, Kind::Delivered, receiver, datagram.len() as u64);
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
                    self.receivers[receiver as usize].worked(now, lane);
                    self.settle_receiver(receiver);
                }
            }
            Event::Happens(at) => self.happens(at),
            Event::Up(receiver, life) => {
                if self.receivers[receiver as usize].life == life {
                    self.start(receiver);
                }
            }
            Event::SenderUp(life) => {
                if self.sender.life == life && !self.sender.is_up() {
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

    fn arrive(&mut self, receiver: u32, datagram: Bytes) {
        self.heard.see(&datagram);
        if let Some(at) = self.sender.arrives(self.now, self.busy_until) {
            self.busy_until = at;
            self.queue.push(at, Event::Read(self.sender.life, receiver, datagram));
        }
    }

    fn read(&mut self, life: u32, receiver: u32, datagram: &Bytes) {
        if self.sender.life != life {
            return;
        }
        if self.sender.is_paused() {
            // It stays in the inbox.
            self.queue.push(self.now + Duration::from_millis(1), Event::Read(life, receiver, datagram.clone()));
            return;
        }
        self.nacks += 1;
        self.trace.add(self.now, Kind::Heard, receiver, datagram.len() as u64);
        let heard = self.sender.read(self.now, address(receiver), datagram);
        if let Some(heard) = &heard {
            if !heard.nack.is_report() {
                self.oracles.window.on_nack(self.now);
                let verdict = self.oracles.rate.on_nack(self.now);
                self.oracles.judge(self.now, "rate", verdict);
            }
            let manifest = self.editions.iter().find(|e| e.encoded.reference.hash.prefix() == heard.nack.manifest);
            self.oracles.pool.on_nack(heard.run, heard.packet, &heard.nack, manifest.map(|e| &*e.manifest));
        }
        self.trace.line(self.now, Some(receiver), None, || match heard {
            Some(heard) => format!("the sender hears {:?}", heard.nack),
            None => "the sender drops a datagram that does not open".to_owned(),
        });
        self.settle_sender();
    }

    fn sender_done(&mut self, life: u32, task: Task) {
        if let Task::Recorded(object, count) = &task {
            let verdict = self.oracles.passes.on_pass(self.now, *object, *count);
            self.oracles.judge(self.now, "passes", verdict);
            self.trace.line(self.now, None, Some(*object), || format!("pass {count} of object {object}"));
        }
        // What was being stored is stored, also for a process that is gone.
        if self.sender.life == life || matches!(task, Task::Recorded(..)) {
            self.sender.done(self.now, task);
            self.settle_sender();
        }
    }

    fn settle_sender(&mut self) {
        let now = self.now;
        loop {
            while let Some(SenderWant::Later(at, task)) = self.sender.poll() {
                self.queue.push(at, Event::SenderDone(self.sender.life, task));
            }
            let Some((datagrams, bytes)) = self.sender.transmit(now) else { break };
            for start in (0..bytes.len()).step_by(datagrams.len.max(1)) {
                let datagram = bytes.slice(start..(start + datagrams.len).min(bytes.len()));
                let verdict = self.oracles.nonce.on_sealed(&datagram);
                self.oracles.judge(now, "nonce", verdict);
                self.overhear(&datagram);
                self.trace.add(now, Kind::Sent, u32::MAX, datagram.len() as u64);
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
        if let Some(node) = self.sender.node() {
            self.oracles.nacks.on_window(node.snapshot().nack_window);
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
    fn overhear(&mut self, datagram: &Bytes) {
        let Some(said) = self.wiretap.on_sent(datagram) else { return };
        match &*said {
            Said::Symbol(symbol) => self.oracles.pool.on_symbol(symbol.object),
            Said::Answer(answer) => {
                let manifest = self.editions.last().map(|edition| &*edition.manifest);
                let verdict = self.oracles.pool.on_answer(self.now, answer, manifest);
                self.oracles.judge(self.now, "pool", verdict);
            }
            Said::Advertisement(said) => {
                let verdict = self.oracles.window.on_advertisement(self.now, said.nack_window, said.grtt);
                self.oracles.judge(self.now, "window", verdict);
            }
            Said::Digest(_) => {}
        }
    }

    fn multicast(&mut self, socket: Socket, datagram: &Bytes) {
        for receiver in 0..self.scenario.receivers {
            self.deliver(receiver, socket, datagram);
        }
    }

    fn deliver(&mut self, receiver: u32, socket: Socket, datagram: &Bytes) {
        // Who is not there need not be told; the cable's own course of chances goes on all the same.
        let arrivals = self.network.pass(self.now, receiver, Way::Down, datagram);
        for (at, bytes) in arrivals.into_iter().flatten() {
            self.queue.push(at, Event::ToReceiver(receiver, socket, bytes));
        }
    }

    fn settle_receiver(&mut self, number: u32) {
        let at = number as usize;
        while let Some(want) = self.receivers[at].poll() {
            match want {
                receiver::Want::Send(_, datagram) => {
                    self.trace.add(self.now, Kind::Nack, number, datagram.len() as u64);
                    let verdict = self.oracles.nonce.on_sealed(&datagram);
                    self.oracles.judge(self.now, "nonce", verdict);
                    let verdict = self.oracles.nacks.on_nack(self.now, number);
                    self.oracles.judge(self.now, "nacks", verdict);
                    self.oracles.silence.on_life(self.now, number);
                    let local = self.receivers[at].local(self.now);
                    let verdict = self.oracles.promises.on_nack(local, number);
                    self.oracles.judge(self.now, "promises", verdict);
                    for (at, bytes) in self.network.pass(self.now, number, Way::Up, &datagram).into_iter().flatten() {
                        self.queue.push(at, Event::ToSender(number, bytes));
                    }
                }
                receiver::Want::Read(datagram) => {
                    if let Some(said) = self.wiretap.heard(&datagram) {
                        self.oracles.promises.on_heard(self.receivers[at].local(self.now), number, &said);
                    }
                }
                receiver::Want::Busy(lane, until) => {
                    let life = self.receivers[at].life;
                    self.queue.push(until, Event::Worked(number, life, lane));
                    if self.trace.is_watching() {
                        for line in self.receivers[at].shown(lane) {
                            self.trace.line(self.now, Some(number), None, || line);
                        }
                    }
                    self.look_at_disk(number, lane);
                }
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

    fn start(&mut self, number: u32) {
        let at = number as usize;
        if self.receivers[at].is_up() {
            return;
        }
        self.oracles.nacks.on_start(number);
        self.oracles.promises.on_start(number);
        self.oracles.silence.on_life(self.now, number);
        self.due[at] = Time::NEVER;
        match self.receivers[at].start(self.now) {
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

    fn stop(&mut self, number: u32, for_ms: u64) {
        let receiver = &mut self.receivers[number as usize];
        self.queue.push(self.now + Duration::from_millis(for_ms), Event::Up(number, receiver.life));
    }

    fn lose_power(&mut self, number: u32) {
        let for_ms = self.power[number as usize].take().unwrap_or(100);
        self.trace.line(self.now, Some(number), None, || "power is cut".to_owned());
        self.receivers[number as usize].cut_power();
        self.complete_at[number as usize] = None;
        self.stop(number, for_ms);
    }

    fn happens(&mut self, at: usize) {
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
            What::SenderBlind { for_ms } => self.sender.blind_until = later(for_ms),
            What::BadMemory { for_ms } => {
                self.sender.bad_until = later(for_ms);
                self.had_bad_memory = true;
            }
        }
    }

    fn heal(&mut self) {
        self.healed = true;
        self.trace.add(self.now, Kind::Happening, u32::MAX, u64::MAX);
        self.network.heal(&self.scenario);
        (self.sender.blind_until, self.sender.bad_until) = (self.now, self.now);
        self.oracles.excuse_sender();
        if !self.sender.is_up() {
            self.sender.start(self.now);
        }
        self.sender.pause(false);
        self.sender.wake(self.now);
        self.settle_sender();
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
