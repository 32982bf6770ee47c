//! What leaves the engine: work orders and events, then answers, advertisements, Digests and paced symbols, in this
//! order, and the time to ask again.

use std::time::Duration;

use nackcast_common::clock::{Deadline, Time};
use nackcast_common::units::RateLimit;
use nackcast_proto::wire::{Advertisement, SenderState, symbol};

use super::schedule::FirstPassMay;
use super::{Event, IP_UDP_LEN, SenderEngine, Snapshot, SymbolRun, Transmit, Work};

/// Bytes of one run: what one GSO send takes.
const RUN_LEN_MAX: usize = 64_000;
/// Between two advertisements of a manifest that is new: whoever heard none drops what it hears of the manifest, and
/// would have all of it sent once more.
const ANNOUNCE_INTERVAL: Duration = Duration::from_millis(25);
/// Between two advertisements of a sender that stands by.
const STANDBY_INTERVAL: Duration = Duration::from_secs(1);

impl SenderEngine {
    /// The next work order.
    pub fn poll_work(&mut self) -> Option<Work> {
        self.work.pop_front()
    }

    /// The next event.
    pub fn poll_event(&mut self) -> Option<Event> {
        self.events.pop_front()
    }

    /// The next thing to send now.
    pub fn poll_transmit(&mut self, now: Time) -> Option<Transmit> {
        self.poll_control(now).or_else(|| self.symbols(now))
    }

    /// The same without content: for a driver whose data socket is full.
    pub fn poll_control(&mut self, now: Time) -> Option<Transmit> {
        if let Some((to, answer)) = self.answers.pop_front() {
            return Some(Transmit::Answer(to, answer));
        }
        if now >= self.advertise_at {
            return Some(self.advertisement(now));
        }
        if let Some(promises) = self.promises.due(now, self.config.rate) {
            self.sequence += 1;
            let lapse = self.wait();
            return Some(Transmit::Digest(promises.into_digest(&self.config, self.sequence, now, lapse)));
        }
        None
    }

    fn symbols(&mut self, now: Time) -> Option<Transmit> {
        if self.state == SenderState::Paused {
            return None;
        }
        let jobs = self.schedule.jobs.len();
        let at = (0..jobs).map(|step| (self.next_job + step) % jobs).find(|at| self.schedule.jobs[*at].is_ready())?;
        let room = match self.config.rate {
            RateLimit::Max => self.flow.room(now, self.data_packets, self.feedback.grtt(), self.config.auto.leave_slow),
            // What does not fit a socket is an overflow like any other.
            RateLimit::Fixed(_) | RateLimit::Auto => u64::MAX,
        };
        let job = &mut self.schedule.jobs[at];
        let datagram = symbol::datagram_len(job.layout.geometry().symbol_size());
        let wire_len = datagram as u64 + IP_UDP_LEN;
        let affordable = self.pacer.budget(now) / wire_len;
        let most = u16::try_from(affordable.min(room).min((RUN_LEN_MAX / datagram) as u64)).unwrap_or(1);
        if most == 0 {
            return None;
        }
        let object = job.object;
        let (block, esis, through) = job.next_run(now, most, self.data_packets)?;
        let count = u64::from(esis.end - esis.start);
        let (first, k) = (job.first, job.layout.source_symbols(block));
        let run = SymbolRun { object, block, esis, first_packet: self.data_packets };
        self.data_packets += count;
        self.last_symbol = now;
        self.pacer.spend(now, count * wire_len);
        if self.config.rate == RateLimit::Auto {
            self.congestion.on_sent(now, run.first_packet, count, wire_len * 8);
            self.pace(now);
        }
        self.counters.sent_bytes += count * datagram as u64;
        if !first || run.esis.start >= k {
            self.counters.repair_bytes += count * datagram as u64;
        }
        if through {
            self.work.push_back(Work::Release { object, block });
            // Blocks of the running jobs take turns, so that a small object does not wait for a large one.
            self.next_job = at + 1;
            self.advance(now);
        } else {
            self.next_job = at;
        }
        Some(Transmit::Symbols(run))
    }

    /// Between two advertisements: whoever sends nothing has little to tell.
    fn interval(&self) -> Duration {
        match self.state {
            SenderState::Standby | SenderState::Paused => self.config.schedule.interval.max(STANDBY_INTERVAL),
            SenderState::Starting | SenderState::Active | SenderState::Draining => self.config.schedule.interval,
        }
    }

    fn advertisement(&mut self, now: Time) -> Transmit {
        self.sequence += 1;
        self.advertised_at = Some(now);
        self.advertised_size = self.feedback.group_size();
        let interval = self.interval();
        let is_new = self.state == SenderState::Active && self.manifest.is_some() && now < self.announced_at();
        self.advertise_at = now + if is_new { ANNOUNCE_INTERVAL.min(interval) } else { interval };
        let first_pass = self.schedule.first_pass_cursor();
        let reading_every = self.reading_every();
        if reading_every.is_zero() {
            // Nobody tells any more: nobody is waited for.
            self.flow.reset();
        }
        Transmit::Advertisement(Box::new(Advertisement {
            channel: self.config.channel,
            session: self.config.session,
            epoch: self.config.epoch,
            sequence: self.sequence,
            start_number: self.config.start_number,
            time: now.0,
            interval,
            generation: self.manifest.as_ref().map_or_else(Default::default, |(_, m)| m.head().generation),
            manifest: self.manifest.as_ref().map(|(reference, _)| *reference),
            certificate: self.config.certificate,
            role: self.config.role,
            state: self.state,
            data_group: self.config.data_group,
            nack_port: self.config.nack_port,
            quic_port: self.config.quic_port,
            grtt: self.feedback.grtt(),
            nack_window: self.feedback.window(),
            group_size: self.feedback.group_size(),
            max_passes: self.config.schedule.max_passes,
            rate_bps: self.advertised_rate(),
            first_pass_cursor: first_pass.map_or(u32::MAX, |index| index.0),
            first_pass_since: self.schedule.first_pass_since().unwrap_or_default(),
            finished: self.finished.iter().copied().collect(),
            data_packets: self.data_packets,
            manifest_sent: self.schedule.manifest_sent(),
            rank: 0,
            // The node knows the wall clock, what is announced, and who is let in.
            wall_ms: 0,
            next_epoch: None,
            list: 0,
            reading_every,
        }))
    }

    /// When to call [`Self::handle_timeout`], if nothing else comes first.
    #[must_use]
    pub fn poll_deadline(&self, now: Time) -> Option<Deadline> {
        let at = |at: Option<Time>, why| at.map(|at| Deadline { at, why });
        let sends = self.state != SenderState::Paused;
        let ready = self.schedule.jobs.iter().find(|j| sends && j.is_ready());
        let held_up = self.flow.deadline(self.feedback.grtt());
        let pace = ready.and_then(|job| {
            if held_up.is_some() {
                return held_up;
            }
            let datagram = symbol::datagram_len(job.layout.geometry().symbol_size()) as u64 + IP_UDP_LEN;
            // Ready already when the driver asks later than it drained.
            self.pacer.ready_at(now, datagram).or(Some(now))
        });
        let settle = match self.first_pass_may(now) {
            FirstPassMay::Nothing => Some(self.announced_at()).filter(|at| *at > now),
            FirstPassMay::Manifest => self.manifest_sent_at.map(|s| {
                let heard_all = Some(self.heard_all_at()).filter(|at| *at > now);
                heard_all.map_or(Time::NEVER, |at| at).min(s + self.settle())
            }),
            FirstPassMay::All => None,
        };
        [
            at(Some(self.advertise_at), "advertisement"),
            at(self.promises.due_at(), "digest"),
            at(pace, "pacing"),
            at(self.schedule.next_due(), "schedule"),
            at(settle, "first pass"),
            at(self.finished_at().filter(|_| !self.said.finished), "once"),
        ]
        .into_iter()
        .fold(None, Deadline::earlier)
    }

    /// Counters and state, for displays.
    #[must_use]
    pub fn snapshot(&self) -> Snapshot {
        let (left, bytes_left) = self.schedule.first_pass_left();
        let objects = self.manifest.as_ref().map_or(0, |(_, m)| m.objects().len() as u64);
        let bytes = self.manifest.as_ref().map_or(0, |(_, m)| m.objects().iter().map(|o| o.layout.size()).sum());
        Snapshot {
            generation: self.manifest.as_ref().map_or_else(Default::default, |(_, m)| m.head().generation),
            objects,
            objects_passed: objects - left,
            bytes,
            bytes_passed: bytes - bytes_left,
            sent_bytes: self.counters.sent_bytes,
            repair_bytes: self.counters.repair_bytes,
            receivers: self.feedback.group_size(),
            receivers_complete: self.manifest.as_ref().map_or(0, |(r, _)| self.feedback.complete(r.hash.prefix())),
            nacks: self.counters.nacks,
            pool: self.schedule.pool_len(),
            jobs: self.schedule.running(),
            grtt: self.feedback.grtt(),
            nack_window: self.feedback.window(),
            rate_limit_bps: self.advertised_rate(),
            state: Some(self.state),
            loss_ppm: self.feedback.mean_loss(),
            exhausted: self.schedule.exhausted().count() as u64,
        }
    }
}
