//! The event loop: the sender, the datagrams under way, and the group.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Result;
use nackcast_common::clock::Time;
use nackcast_common::ids::{ChannelId, Epoch, RunId, SessionId, StartNumber};
use nackcast_common::keys::SigningKey;
use nackcast_common::units::{BitRate, RateLimit};
use nackcast_proto::wire::limits::TAG_LEN;
use nackcast_proto::wire::{Nack, NackAnswer, Role, SenderCertificate, header, symbol};
use nackcast_sender::ScheduleConfig;
use nackcast_sender::engine::{Command, Done, EngineConfig, SenderEngine, SymbolRun, Transmit, Work};
use rand::rngs::Xoshiro256PlusPlus;
use rand::{RngExt, SeedableRng};

use super::Scenario;
use super::content::Content;
use super::group::{DELAYS, Group};
use super::inbox::{Arrived, Inbox};
use super::least::least_symbols;
use super::loss::Losses;
use super::meter::{Meter, Owner};
use super::multicast::{Content as Carried, Multicast};
use super::outcome::{Outcome, Sample};

pub(super) const CHANNEL: ChannelId = ChannelId([9; 16]);
const SESSION: SessionId = SessionId(77);
/// IPv6 and UDP, as the sender's rate counts them.
const IP_UDP_LEN: u64 = 48;
/// The sender's timer: it sends what its rate gave in this time.
const TICK: u64 = 7_500;
/// The shortest way to a receiver, and the step between the delays.
const DELAY: Duration = Duration::from_millis(3);
const DELAY_STEP: Duration = Duration::from_micros(4000 / (DELAYS as u64 - 1));
const JITTER: u64 = 1_000;
const SECOND: Duration = Duration::from_secs(1);

enum Happening {
    Multicast(usize, Rc<[Multicast]>),
    Nack(u32, u64, Box<Nack>),
    Answer(u32, Box<NackAnswer>),
}

pub(super) struct World {
    scenario: Scenario,
    meter: Meter,
    now: Time,
    queue: BTreeMap<(Time, u64), Happening>,
    number: u64,
    random: Xoshiro256PlusPlus,
    links: Vec<Losses>,
    sender: SenderEngine,
    key: SigningKey,
    inbox: Inbox,
    group: Group,
    content: Arc<Content>,
    outcome: Outcome,
    sample: Sample,
    sampled: Time,
    content_began: Option<Time>,
    gathered: Option<SymbolRun>,
    /// What is multicast at this moment.
    burst: Vec<Multicast>,
}

impl World {
    pub(super) fn new(scenario: &Scenario, meter: &Meter) -> Result<Self> {
        let publisher = SigningKey::from_seed([1; 32]);
        let key = SigningKey::from_seed([2; 32]);
        let content = meter.count(Owner::Sender, || {
            Content::new(CHANNEL, &publisher, scenario.bytes, scenario.files, scenario.seed).map(Arc::new)
        })?;
        let config = EngineConfig {
            channel: CHANNEL,
            session: SESSION,
            start_number: StartNumber(1),
            epoch: Epoch(1),
            role: Role::Primary,
            certificate: SenderCertificate::issue(&publisher, CHANNEL, key.verifying_key()),
            data_group: SocketAddr::new(IpAddr::V4(Ipv4Addr::new(239, 1, 1, 1)), 7601),
            nack_port: 7701,
            quic_port: 0,
            rate: RateLimit::Fixed(BitRate(scenario.rate)),
            auto: nackcast_sender::RateBounds::default(),
            schedule: ScheduleConfig::default(),
            once: None,
        };
        let sender = meter.count(Owner::Sender, || {
            let mut sender = SenderEngine::new(config);
            sender.handle_command(Time::ZERO, Command::Publish(Box::new(content.publication())));
            sender
        });
        let link = |at: u32| Losses::new(scenario.loss.shared, scenario.seed.wrapping_add(u64::from(at) << 32));
        Ok(Self {
            now: Time::ZERO,
            queue: BTreeMap::new(),
            number: 0,
            random: Xoshiro256PlusPlus::seed_from_u64(scenario.seed),
            links: (0..scenario.loss.links).map(link).collect(),
            sender,
            key,
            inbox: Inbox::default(),
            group: Group::new(scenario.receivers, scenario.loss, scenario.seed, Arc::clone(&content), *meter),
            outcome: expected(scenario, &content),
            content,
            sample: Sample::default(),
            sampled: Time::ZERO,
            content_began: None,
            gathered: None,
            burst: Vec::new(),
            scenario: *scenario,
            meter: *meter,
        })
    }

    pub(super) fn run(&mut self, watch: &mut dyn FnMut(&Sample)) -> Outcome {
        self.drain_sender(true);
        let end = Time::ZERO + self.scenario.limit;
        while self.now < end {
            if self.now >= self.sampled + SECOND {
                self.sample();
                watch(&self.sample);
                if self.group.all_reported() {
                    break;
                }
            }
            if !self.turn(end) {
                break;
            }
        }
        self.finish()
    }

    /// Handles what comes next; false when nothing ever will.
    fn turn(&mut self, end: Time) -> bool {
        let queued = self.queue.first_key_value().map(|((at, _), _)| *at);
        let wake = self.group.next_wake();
        let inbox = self.inbox.next();
        let sender = self.sender_deadline();
        let Some(next) = [queued, wake, inbox, sender].into_iter().flatten().min() else { return false };
        self.now = next.max(self.now).min(end);
        let now = self.now;
        if queued == Some(next) {
            let Some((_, happening)) = self.queue.pop_first() else { return false };
            self.happen(happening);
        } else if wake == Some(next) {
            self.group.wake(now);
        } else if inbox == Some(next) {
            if let Some(Arrived { from, run, packet, nack }) = self.inbox.take(now) {
                let sender = &mut self.sender;
                self.meter.count(Owner::Sender, || sender.handle_nack(now, from, run, packet, &nack));
            }
            self.drain_sender(false);
        } else {
            let sender = &mut self.sender;
            self.meter.count(Owner::Sender, || sender.handle_timeout(now));
            self.drain_sender(true);
        }
        self.post();
        true
    }

    /// When the sender acts by itself. Its timer is coarse where it waits for its rate.
    fn sender_deadline(&self) -> Option<Time> {
        let deadline = self.sender.poll_deadline(self.now)?;
        let at = deadline.at.max(self.now + Duration::from_micros(1));
        Some(if deadline.why == "pacing" { Time(at.0.next_multiple_of(TICK)) } else { at })
    }

    fn happen(&mut self, happening: Happening) {
        let now = self.now;
        match happening {
            Happening::Multicast(delay, burst) => self.group.deliver(now, delay, SESSION, &burst),
            Happening::Answer(to, answer) => self.group.answer(now, to, &answer),
            Happening::Nack(from, packet, nack) => {
                self.outcome.nacks += 1;
                let run = RunId(u64::from(from) + 1);
                self.inbox.put(now, Arrived { from: address(from), run, packet, nack });
            }
        }
    }

    fn at(&mut self, delay: Duration, happening: Happening) {
        self.number += 1;
        self.queue.insert((self.now + delay, self.number), happening);
    }

    /// Puts the receivers' NACKs on the wire.
    fn post(&mut self) {
        for (from, packet, nack) in self.group.take_outbox() {
            if self.group.loses() || self.link_loses(from) {
                continue;
            }
            let bytes = sealed_len(nack.encode().len());
            self.outcome.nack_bytes += bytes;
            if nack.is_report() {
                self.outcome.reports += 1;
                self.outcome.report_bytes += bytes;
                self.outcome.report_bytes_content += if self.content_began.is_some() { bytes } else { 0 };
            }
            let delay = self.delay(from);
            self.at(delay, Happening::Nack(from, packet, Box::new(nack)));
        }
    }

    fn link_loses(&mut self, receiver: u32) -> bool {
        let links = self.links.len();
        links > 0 && self.links[receiver as usize % links].one()
    }

    /// One way to or from a receiver, for a unicast datagram.
    fn delay(&mut self, receiver: u32) -> Duration {
        let steps = u32::try_from(self.group.delay_of(receiver)).unwrap_or(0);
        DELAY + DELAY_STEP * steps + Duration::from_micros(self.random.random_range(0..JITTER))
    }

    fn drain_sender(&mut self, symbols: bool) {
        let now = self.now;
        loop {
            let before = (self.meter.switch)(Owner::Sender);
            while let Some(work) = self.sender.poll_work() {
                match work {
                    Work::Prepare { object, block, .. } => {
                        self.sender.handle_done(now, Done::Prepared { object, block, sound: true });
                    }
                    Work::Release { .. } => {}
                    Work::RecordPass { object, .. } => self.sender.handle_done(now, Done::PassRecorded { object }),
                }
            }
            while self.sender.poll_event().is_some() {}
            let transmit = if symbols { self.sender.poll_transmit(now) } else { self.sender.poll_control(now) };
            (self.meter.switch)(before);
            match transmit {
                Some(transmit) => self.send(transmit),
                None => break,
            }
        }
        self.launch();
    }

    /// Puts on the wire what was multicast at this moment.
    fn launch(&mut self) {
        self.flush();
        if self.burst.is_empty() {
            return;
        }
        let burst: Rc<[Multicast]> = std::mem::take(&mut self.burst).into();
        for delay in (0..DELAYS).filter(|delay| !self.group.of_delay(*delay).is_empty()).collect::<Vec<_>>() {
            let way = DELAY + DELAY_STEP * u32::try_from(delay).unwrap_or(0);
            self.at(way, Happening::Multicast(delay, Rc::clone(&burst)));
        }
    }

    /// Runs that follow each other at one moment become one: nobody can tell the difference.
    fn gather(&mut self, run: SymbolRun) {
        if let Some(before) = &mut self.gathered
            && (before.object, before.block, before.esis.end) == (run.object, run.block, run.esis.start)
        {
            before.esis.end = run.esis.end;
            return;
        }
        self.flush();
        self.gathered = Some(run);
    }

    fn flush(&mut self) {
        if let Some(run) = self.gathered.take() {
            self.count_symbols(&run);
            self.multicast(Carried::Symbols(run));
        }
    }

    fn send(&mut self, transmit: Transmit) {
        match transmit {
            Transmit::Advertisement(a) => {
                self.count_control(a.encode(&self.key).len());
                self.multicast(Carried::Advertisement(a));
            }
            Transmit::Digest(d) => {
                self.count_control(d.encode(&self.key).len());
                self.multicast(Carried::Digest(d));
            }
            Transmit::Symbols(run) => self.gather(run),
            Transmit::Answer(to, answer) => {
                let key = (answer.nonce != 0).then_some(&self.key);
                self.outcome.answer_bytes += sealed_len(answer.encode(key).len());
                let to = receiver_at(to);
                if !self.group.loses() && !self.link_loses(to) {
                    let delay = self.delay(to);
                    self.at(delay, Happening::Answer(to, Box::new(answer)));
                }
            }
        }
    }

    fn multicast(&mut self, content: Carried) {
        self.burst.push(Multicast::new(content, &mut self.links));
    }

    fn count_control(&mut self, body: usize) {
        self.outcome.multicast_bytes += sealed_len(body);
        self.outcome.control_bytes += sealed_len(body);
    }

    fn count_symbols(&mut self, run: &SymbolRun) {
        let count = u64::from(run.esis.end - run.esis.start);
        let size = u16::try_from(self.outcome.symbol_size).unwrap_or(u16::MAX);
        self.outcome.multicast_bytes += count * (symbol::datagram_len(size) as u64 + IP_UDP_LEN);
        if self.content.is_manifest(run.object) {
            self.outcome.manifest_symbols += count;
            return;
        }
        self.content_began.get_or_insert(self.now);
        self.outcome.symbols += count;
        let record = self.content.manifest.index_of(run.object).and_then(|index| self.content.manifest.object(index));
        if record.is_some_and(|o| run.esis.start >= o.layout.source_symbols(run.block)) {
            self.outcome.repair_symbols += count;
        }
    }

    fn sample(&mut self) {
        self.sampled = self.now;
        let snapshot = self.sender.snapshot();
        let nacks = self.outcome.nacks;
        self.outcome.nacks_peak = self.outcome.nacks_peak.max(nacks - self.sample.nacks);
        self.outcome.sender_bytes = self.outcome.sender_bytes.max((self.meter.held)(Owner::Sender));
        let each = (self.meter.held)(Owner::Receivers) / u64::from(self.scenario.receivers.max(1));
        self.outcome.receiver_bytes = self.outcome.receiver_bytes.max(each);
        if self.content_began.is_some() {
            self.outcome.receiver_bytes_content = self.outcome.receiver_bytes_content.max(each);
        }
        self.sample = Sample {
            at: self.now.since(Time::ZERO),
            symbols: self.outcome.symbols,
            nacks,
            dropped: self.inbox.dropped,
            holding: self.group.holding,
            complete: self.group.complete,
            group_size: snapshot.receivers,
            window: snapshot.nack_window,
            jobs: snapshot.jobs,
            pool: snapshot.pool,
            receiver_bytes: each,
            open_blocks: self.group.open_blocks() as f64 / self.group.len().max(1) as f64,
        };
    }

    fn finish(&mut self) -> Outcome {
        let mut outcome = self.outcome.clone();
        outcome.complete = self.group.complete;
        outcome.nacks_dropped = self.inbox.dropped;
        outcome.events = self.group.handled;
        let mut times = self.group.completed_at.clone();
        times.sort_unstable();
        let whole = self.group.complete == self.scenario.receivers;
        let last = if whole { times.last().copied() } else { None };
        outcome.time = last.unwrap_or(self.now).since(Time::ZERO);
        outcome.time_median = times.get(times.len() / 2).copied().unwrap_or(self.now).since(Time::ZERO);
        outcome.content_began = self.content_began.unwrap_or(self.now).since(Time::ZERO);
        if let Some(stuck) = self.group.incomplete() {
            tracing::warn!(stuck, sender = ?self.sender.snapshot(), "not all complete");
        }
        outcome
    }
}

/// What is known before anything is sent.
fn expected(scenario: &Scenario, content: &Content) -> Outcome {
    let objects = content.manifest.objects();
    let geometry = content.manifest.head().geometry;
    let full = objects.first().map_or(0, |o| o.layout.source_symbols(0));
    let full_least = least_symbols(full, scenario.receivers, scenario.loss);
    let blocks = || objects.iter().flat_map(|o| (0..o.layout.block_count()).map(|b| o.layout.source_symbols(b)));
    let least = |k| if k == full { full_least } else { least_symbols(k, scenario.receivers, scenario.loss) };
    let source_symbols = blocks().map(u64::from).sum();
    let datagram = symbol::datagram_len(geometry.symbol_size()) as u64 + IP_UDP_LEN;
    Outcome {
        receivers: scenario.receivers,
        content_bytes: objects.iter().map(|o| o.layout.size()).sum(),
        source_symbols,
        blocks: blocks().count() as u64,
        least_symbols: blocks().map(least).sum(),
        manifest_bytes: content.manifest_bytes(),
        symbol_size: geometry.symbol_size().into(),
        ideal: Duration::from_secs_f64((source_symbols * datagram * 8) as f64 / scenario.rate.max(1) as f64),
        ..Outcome::default()
    }
}

/// A sealed datagram's length on the wire.
const fn sealed_len(body: usize) -> u64 {
    (header::LEN + body + TAG_LEN) as u64 + IP_UDP_LEN
}

/// A receiver's address says which one it is.
fn address(receiver: u32) -> SocketAddr {
    SocketAddr::new(IpAddr::V4(Ipv4Addr::from_bits(0x0a00_0000 + receiver)), 7702)
}

fn receiver_at(address: SocketAddr) -> u32 {
    match address.ip() {
        IpAddr::V4(v4) => v4.to_bits() - 0x0a00_0000,
        IpAddr::V6(_) => u32::MAX,
    }
}
