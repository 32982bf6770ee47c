//! One channel's task: it feeds the engine and carries out what the engine decides.
//!
//! - Inputs: NACKs, blocks that were made, passes that were recorded, scans, the clock, the wish to end.
//! - After each input all outputs are drained, but at most [`RUNS_MAX`] runs of symbols before inputs are looked at
//!   again, so that NACKs are heard at full speed too.
//! - It never waits for a disk: blocks, stores and scans are other tasks'.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use nackcast_common::clock::{Clock, Time};
use nackcast_common::ids::{ChannelId, Digest, Epoch, ObjectId, StartNumber};
use nackcast_common::keys::{EpochSecret, SigningKey};
use nackcast_common::store::StoreError;
use nackcast_proto::wire::header::DatagramType;
use tokio::sync::{Semaphore, mpsc, watch};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::batch::SessionKeys;
use super::blocks::{self, Blocks, Made, Origin, Request};
use super::nacks::Heard;
use super::outlet::{Outlet, Sockets};
use crate::config::Once;
use crate::engine::{Command, Done, EngineConfig, Event, SenderEngine, Snapshot, SymbolRun, Transmit, Work};
use crate::library;
use crate::publish::Published;
use crate::report::{ChannelProgress, ChannelSummary, Progress};
use crate::scanner::{self, Scanned, Trouble};
use crate::state::NodeState;

/// Runs of symbols between two looks at the inputs.
const RUNS_MAX: usize = 64;
/// NACKs taken at one look.
const NACKS_MAX: usize = 256;
/// Between two progress reports.
const TICK: Duration = Duration::from_millis(500);
/// What is under way when the node ends gets so long.
const DRAIN_MAX: Duration = Duration::from_secs(3);
/// A deadline that has passed is not looked at more often.
const NAP: Duration = Duration::from_micros(500);
/// Before a start number is tried again to be stored.
const ROLL_RETRY: Duration = Duration::from_secs(1);
/// Lines about content that the summary keeps.
const TROUBLES_MAX: usize = 1000;

/// What a channel's task is made of.
#[derive(Debug)]
pub(crate) struct ChannelParts {
    /// Its place in reports.
    pub(crate) index: usize,
    pub(crate) name: String,
    pub(crate) secret: EpochSecret,
    pub(crate) signer: SigningKey,
    /// With the session of `keys`.
    pub(crate) engine: EngineConfig,
    pub(crate) keys: SessionKeys,
    pub(crate) sockets: Sockets,
    pub(crate) clock: Clock,
    pub(crate) state: NodeState,
    pub(crate) ports: ChannelPorts,
    /// Passes of rounds that an earlier run began.
    pub(crate) passes: Vec<(ObjectId, u32)>,
    /// Threads that make blocks, of the whole node.
    pub(crate) makers: Arc<Semaphore>,
}

/// Where a channel's task hears and speaks.
#[derive(Debug)]
pub(crate) struct ChannelPorts {
    pub(crate) nacks: mpsc::Receiver<Heard>,
    pub(crate) scanned: mpsc::Receiver<Scanned>,
    pub(crate) scans: mpsc::Sender<scanner::Request>,
    pub(crate) scan_progress: watch::Receiver<Option<library::Progress>>,
    /// At most `max_jobs` counts are under way, so it need not be bounded.
    pub(crate) counts: mpsc::UnboundedSender<(ObjectId, u32)>,
    pub(crate) recorded: mpsc::Receiver<Vec<ObjectId>>,
    pub(crate) progress: watch::Sender<Progress>,
    pub(crate) shutdown: CancellationToken,
}

/// How a channel ended.
#[derive(Debug)]
pub(crate) struct ChannelEnd {
    pub(crate) summary: ChannelSummary,
    pub(crate) success: bool,
}

/// A channel that runs.
#[derive(Debug)]
pub(crate) struct Channel {
    index: usize,
    name: String,
    id: ChannelId,
    epoch: Epoch,
    once: Option<Once>,
    secret: EpochSecret,
    signer: SigningKey,
    engine: SenderEngine,
    keys: SessionKeys,
    outlet: Outlet,
    clock: Clock,
    state: NodeState,
    ports: ChannelPorts,
    passes: Vec<(ObjectId, u32)>,
    published: Option<Published>,
    origin: Origin,
    blocks: Blocks,
    permits: Arc<Semaphore>,
    making: JoinSet<Result<Made, tokio::task::JoinError>>,
    rolling: JoinSet<Result<Result<StartNumber, StoreError>, tokio::task::JoinError>>,
    troubles: BTreeSet<Trouble>,
    /// Number of the last scan that a bad block asked for, and of the last that was answered.
    scans_asked: u64,
    scans_answered: u64,
    /// An object is out of service since the last publication.
    is_short: bool,
    is_finished: bool,
    drain_until: Option<Time>,
    complete: u64,
    drained_at: Time,
    report_at: Time,
    meter: Meter,
}

/// What woke the task.
#[derive(Debug)]
enum Wake {
    Shutdown,
    Nack(Heard),
    Made(Made),
    Recorded(Vec<ObjectId>),
    Scanned(Scanned),
    Rolled(Result<StartNumber, StoreError>),
    /// A deadline, or room in a socket.
    Due,
}

impl Channel {
    pub(crate) fn new(parts: ChannelParts) -> Self {
        let ChannelParts { index, name, secret, signer, engine, keys, sockets, clock, state, ports, passes, makers } =
            parts;
        Self {
            index,
            id: engine.channel,
            epoch: engine.epoch,
            once: engine.once,
            secret,
            signer,
            engine: SenderEngine::new(engine),
            keys,
            outlet: Outlet::new(sockets, name.clone()),
            name,
            clock,
            state,
            ports,
            passes,
            published: None,
            origin: Origin::default(),
            blocks: Blocks::default(),
            permits: makers,
            making: JoinSet::new(),
            rolling: JoinSet::new(),
            troubles: BTreeSet::new(),
            scans_asked: 0,
            scans_answered: 0,
            is_short: false,
            is_finished: false,
            drain_until: None,
            complete: 0,
            drained_at: Time::ZERO,
            report_at: Time::ZERO,
            meter: Meter::default(),
        }
    }

    /// Runs until it is done or told to end.
    pub(crate) async fn run(mut self) -> ChannelEnd {
        self.engine.handle_timeout(self.clock.now());
        loop {
            let is_more = self.drain_outputs();
            if self.is_over() {
                self.look_back().await;
                return self.end();
            }
            if is_more {
                tokio::task::yield_now().await;
            } else {
                let wake = self.wait().await;
                self.handle(wake);
            }
            self.take_what_waits();
            self.engine.handle_timeout(self.clock.now());
        }
    }

    async fn wait(&mut self) -> Wake {
        // Asked at the time of the last drain: what became due since then is due at once.
        let deadline = [
            self.engine.poll_deadline(self.drained_at).map(|deadline| deadline.at),
            self.drain_until,
            Some(self.report_at),
        ]
        .into_iter()
        .flatten()
        .min();
        let (clock, nap) = (self.clock, self.drained_at + NAP);
        let due = async {
            match deadline {
                Some(at) => tokio::time::sleep_until(clock.instant(at.max(nap)).into()).await,
                None => std::future::pending().await,
            }
        };
        let is_held_up = self.outlet.is_held_up();
        tokio::select! {
            biased;
            () = self.ports.shutdown.cancelled(), if self.drain_until.is_none() => Wake::Shutdown,
            Some(heard) = self.ports.nacks.recv() => Wake::Nack(heard),
            Some(made) = self.making.join_next() => Wake::Made(flat(made)),
            Some(objects) = self.ports.recorded.recv() => Wake::Recorded(objects),
            Some(scanned) = self.ports.scanned.recv() => Wake::Scanned(scanned),
            Some(rolled) = self.rolling.join_next() => Wake::Rolled(flat(rolled)),
            () = self.outlet.ready(&clock), if is_held_up => Wake::Due,
            () = due => Wake::Due,
        }
    }

    fn handle(&mut self, wake: Wake) {
        let now = self.clock.now();
        match wake {
            Wake::Shutdown => self.drain(now),
            Wake::Nack(heard) => self.on_nack(now, &heard),
            Wake::Made(made) => self.on_made(now, made),
            Wake::Recorded(objects) => self.on_recorded(now, objects),
            Wake::Scanned(scanned) => self.on_scanned(now, scanned),
            Wake::Rolled(number) => self.on_rolled(now, number),
            Wake::Due => {}
        }
    }

    /// Inputs that are here already, so that one round serves them all.
    fn take_what_waits(&mut self) {
        let now = self.clock.now();
        for _ in 0..NACKS_MAX {
            let Ok(heard) = self.ports.nacks.try_recv() else { break };
            self.on_nack(now, &heard);
        }
        while let Some(made) = self.making.try_join_next() {
            self.on_made(now, flat(made));
        }
        while let Ok(objects) = self.ports.recorded.try_recv() {
            self.on_recorded(now, objects);
        }
        if let Ok(scanned) = self.ports.scanned.try_recv() {
            self.on_scanned(now, scanned);
        }
        if let Some(rolled) = self.rolling.try_join_next() {
            self.on_rolled(now, flat(rolled));
        }
        if now >= self.report_at {
            self.report_at = now + TICK;
            self.report(now);
        }
        if self.drain_until.is_none() && self.ports.shutdown.is_cancelled() {
            self.drain(now);
        }
    }

    fn on_nack(&mut self, now: Time, heard: &Heard) {
        self.engine.handle_nack(now, heard.from, heard.run, heard.packet, &heard.nack);
    }

    fn on_made(&mut self, now: Time, made: Made) {
        let (object, block) = made.id;
        let sound = match &made.result {
            Ok(_) => true,
            Err(error) => {
                tracing::warn!(channel = self.name, %object, block, "not sent: {error}");
                self.note(Trouble { line: error.to_string(), is_failure: true });
                false
            }
        };
        let (answered, next) = self.blocks.take(made);
        for _ in 0..answered {
            self.engine.handle_done(now, Done::Prepared { object, block, sound });
        }
        if let Some(order) = next {
            self.make(order);
        }
    }

    fn on_recorded(&mut self, now: Time, objects: Vec<ObjectId>) {
        for object in objects {
            self.engine.handle_done(now, Done::PassRecorded { object });
        }
    }

    fn on_scanned(&mut self, now: Time, scanned: Scanned) {
        let Scanned { content, published, problems, answers } = scanned;
        self.scans_answered = self.scans_answered.max(answers);
        problems.into_iter().for_each(|trouble| self.note(trouble));
        let Some(content) = content else { return };
        self.origin.content = Some(content);
        if let Some((published, fresh)) = published {
            self.publish(now, published, fresh);
        } else if let (true, Some(published)) = (self.is_short, self.published.clone()) {
            // The bytes may be there again.
            self.publish(now, published, false);
        }
    }

    fn publish(&mut self, now: Time, published: Published, fresh: bool) {
        let head = published.manifest.head();
        tracing::info!(
            channel = self.name, generation = %head.generation, objects = published.manifest.objects().len(),
            entries = published.manifest.entries().len(), fresh, "serving"
        );
        self.origin.parts = Arc::new(published.objects());
        let publication = published.publication(fresh, std::mem::take(&mut self.passes));
        self.published = Some(published);
        (self.is_short, self.is_finished, self.complete) = (false, false, 0);
        self.engine.handle_command(now, Command::Publish(Box::new(publication)));
    }

    fn note(&mut self, trouble: Trouble) {
        if self.troubles.len() < TROUBLES_MAX {
            self.troubles.insert(trouble);
        }
    }

    /// Everything that the engine wants now; true when there may be more.
    fn drain_outputs(&mut self) -> bool {
        let now = self.clock.now();
        self.drained_at = now;
        self.outlet.flush(now);
        for _ in 0..RUNS_MAX {
            self.drain_orders(now);
            let transmit =
                if self.outlet.is_held_up() { self.engine.poll_control(now) } else { self.engine.poll_transmit(now) };
            match transmit {
                Some(transmit) => self.transmit(now, transmit),
                None => {
                    self.drain_orders(now);
                    return false;
                }
            }
        }
        true
    }

    fn drain_orders(&mut self, now: Time) {
        loop {
            if let Some(work) = self.engine.poll_work() {
                self.on_work(now, work);
            } else if let Some(event) = self.engine.poll_event() {
                self.on_event(event);
            } else {
                return;
            }
        }
    }

    fn on_work(&mut self, now: Time, work: Work) {
        match work {
            Work::Prepare { object, block, repair } => match self.blocks.request((object, block), repair) {
                Request::Ready => self.engine.handle_done(now, Done::Prepared { object, block, sound: true }),
                Request::Make(order) => self.make(order),
                Request::Wait => {}
            },
            Work::Release { object, block } => self.blocks.release((object, block)),
            Work::RecordPass { object, count } => {
                if self.ports.counts.send((object, count)).is_err() {
                    // Only while the node ends.
                    tracing::debug!(channel = self.name, %object, "a pass was not recorded");
                }
            }
        }
    }

    fn make(&mut self, order: blocks::Order) {
        let (origin, permits) = (self.origin.clone(), Arc::clone(&self.permits));
        self.making.spawn(async move {
            // Never closed; a permit only bounds how many threads are busy.
            let _permit = permits.acquire().await;
            tokio::task::spawn_blocking(move || blocks::make(&origin, order)).await
        });
    }

    fn on_event(&mut self, event: Event) {
        match event {
            Event::ObjectChanged(object) => {
                let content = self.origin.content.as_ref();
                let path = content.and_then(|content| content.path_of(content.manifest().index_of(object)?));
                let path = path.map_or_else(|| "a part of the manifest".to_owned(), ToString::to_string);
                tracing::debug!(channel = self.name, %object, path, "no longer offered, until a scan");
                self.is_short = true;
                self.scans_asked += 1;
                // Full: a scan is asked for often enough, and answers all that were asked before.
                if self.ports.scans.try_send(scanner::Request::Soon(self.scans_asked)).is_err() {
                    self.scans_asked -= 1;
                }
            }
            Event::FirstPassOver(generation) => {
                tracing::info!(channel = self.name, %generation, "first pass over");
            }
            Event::SessionEnding => self.roll(Duration::ZERO),
            Event::Finished => self.is_finished = true,
            Event::ReceiverHeard => tracing::debug!(channel = self.name, "a receiver was heard for the first time"),
            Event::ReceiverComplete(manifest) => self.on_complete(manifest),
        }
    }

    fn on_complete(&mut self, manifest: Digest) {
        self.complete += 1;
        tracing::debug!(channel = self.name, %manifest, receivers = self.complete, "a receiver is complete");
    }

    fn transmit(&mut self, now: Time, transmit: Transmit) {
        match transmit {
            Transmit::Advertisement(advertisement) => {
                let body = advertisement.encode(&self.signer);
                let datagram = self.keys.seal_advertised(DatagramType::Advertisement, &body);
                self.outlet.advertise(now, &datagram);
            }
            Transmit::Digest(digest) => {
                let datagram = self.keys.seal_advertised(DatagramType::Digest, &digest.encode(&self.signer));
                self.outlet.advertise(now, &datagram);
            }
            Transmit::Answer(to, answer) => {
                let body = answer.encode((answer.nonce != 0).then_some(&self.signer));
                let datagram = self.keys.seal_answer(&body);
                self.outlet.answer(to, &datagram);
            }
            Transmit::Symbols(run) => self.send_symbols(now, &run),
        }
        if self.keys.must_roll() {
            self.roll(Duration::ZERO);
        }
    }

    fn send_symbols(&mut self, now: Time, run: &SymbolRun) {
        let filled = self
            .blocks
            .get((run.object, run.block))
            .and_then(|block| self.keys.fill_batch(run, block, self.outlet.buffer()));
        if let Some(datagram_len) = filled {
            self.outlet.send_batch(now, datagram_len);
        } else {
            // The engine asks for what was prepared only; receivers would ask again.
            tracing::error!(channel = self.name, ?run, "symbols of a block that is not at hand");
            self.outlet.discard_batch();
        }
    }

    /// Begins a new session as soon as its start number is durable.
    fn roll(&mut self, after: Duration) {
        if !self.rolling.is_empty() {
            return;
        }
        let (state, channel) = (self.state.clone(), self.id);
        self.rolling.spawn(async move {
            tokio::time::sleep(after).await;
            tokio::task::spawn_blocking(move || state.next_start_number(channel, Clock::wall_ms())).await
        });
    }

    fn on_rolled(&mut self, now: Time, number: Result<StartNumber, StoreError>) {
        match number {
            Ok(number) => {
                self.keys = SessionKeys::new(&self.secret, self.id, self.epoch);
                tracing::info!(channel = self.name, session = %self.keys.session, "a new session");
                self.engine.handle_command(now, Command::Roll(self.keys.session, number));
            }
            Err(error) => {
                tracing::error!(channel = self.name, "no new session can begin: {error}");
                self.roll(ROLL_RETRY);
            }
        }
    }

    fn drain(&mut self, now: Time) {
        // Nothing is under way before there is something to serve.
        let patience = if self.published.is_some() { DRAIN_MAX } else { Duration::ZERO };
        self.drain_until = Some(now + patience);
        // Whatever finished before, what runs now gets its time.
        self.is_finished = false;
        self.engine.handle_command(now, Command::Drain);
    }

    fn is_over(&self) -> bool {
        let now = self.clock.now();
        match self.drain_until {
            Some(until) => (self.is_finished && !self.outlet.is_held_up()) || now >= until,
            None => self.once.is_some() && self.is_finished && self.scans_answered >= self.scans_asked,
        }
    }

    /// Whoever sends once must hear of what changed meanwhile, even where every block was still to be had: a large
    /// file that was replaced or removed is sent from the descriptor that was open.
    async fn look_back(&mut self) {
        let Some(content) = self.origin.content.clone().filter(|_| self.once.is_some()) else { return };
        let Ok(changed) = tokio::task::spawn_blocking(move || content.changed_files()).await else { return };
        for error in changed {
            tracing::warn!(channel = self.name, "{error}");
            self.note(Trouble { line: error.to_string(), is_failure: true });
        }
    }

    fn end(mut self) -> ChannelEnd {
        let now = self.clock.now();
        self.report(now);
        let snapshot = self.engine.snapshot();
        let failed = self.troubles.iter().any(|trouble| trouble.is_failure);
        let success = match self.once {
            None => true,
            Some(once) => {
                self.drain_until.is_none()
                    && !failed
                    && once.expect.is_none_or(|expected| snapshot.receivers_complete >= expected)
            }
        };
        let summary = ChannelSummary {
            name: self.name.clone(),
            generation: snapshot.generation.0,
            objects: snapshot.objects,
            bytes: snapshot.bytes,
            sent_bytes: snapshot.sent_bytes,
            repair_bytes: snapshot.repair_bytes,
            receivers: snapshot.receivers.into(),
            receivers_complete: snapshot.receivers_complete.into(),
            problems: self.troubles.into_iter().map(|trouble| trouble.line).collect(),
        };
        ChannelEnd { summary, success }
    }

    fn report(&mut self, now: Time) {
        let snapshot = self.engine.snapshot();
        let rate_bps = self.meter.rate(now, snapshot.sent_bytes);
        let channel = ChannelProgress {
            name: self.name.clone(),
            generation: snapshot.generation.0,
            objects: snapshot.objects,
            objects_done: snapshot.objects_passed,
            bytes: snapshot.bytes,
            bytes_done: snapshot.bytes_passed,
            wire_bytes: snapshot.sent_bytes,
            repair_bytes: snapshot.repair_bytes,
            rate_bps,
            receivers: snapshot.receivers.into(),
            receivers_complete: snapshot.receivers_complete.into(),
            state: self.activity(&snapshot).to_owned(),
            note: self.remark(),
        };
        let index = self.index;
        self.ports.progress.send_modify(|progress| {
            if let Some(place) = progress.channels.get_mut(index) {
                *place = channel;
            }
        });
    }

    fn activity(&self, snapshot: &Snapshot) -> &'static str {
        let expected = self.once.and_then(|once| once.expect).unwrap_or(0);
        if self.drain_until.is_some() {
            "draining"
        } else if self.published.is_none() {
            "hashing"
        } else if snapshot.jobs > 0 {
            "sending"
        } else if snapshot.receivers < expected && snapshot.objects_passed < snapshot.objects {
            "waiting"
        } else if snapshot.objects_passed < snapshot.objects || snapshot.pool > 0 {
            "sending"
        } else {
            "idle"
        }
    }

    /// The most urgent of what else is worth knowing.
    fn remark(&self) -> Option<String> {
        if let Some(trouble) = self.outlet.trouble() {
            return Some(trouble.to_owned());
        }
        let scan = *self.ports.scan_progress.borrow();
        if let Some(scan) = scan.filter(|scan| scan.files_total > 0) {
            return Some(format!("hashed {} of {} files", scan.files, scan.files_total));
        }
        match self.troubles.iter().filter(|trouble| trouble.is_failure).count() {
            0 => None,
            1 => Some("1 problem with the content".to_owned()),
            count => Some(format!("{count} problems with the content")),
        }
    }
}

/// Rate from counters.
#[derive(Debug, Default)]
struct Meter {
    before: Option<(Time, u64)>,
    rate_bps: u64,
}

impl Meter {
    fn rate(&mut self, now: Time, bytes: u64) -> u64 {
        let (since, counted) = self.before.unwrap_or((now, bytes));
        let micros = u64::try_from(now.since(since).as_micros()).unwrap_or(u64::MAX);
        if micros >= 100_000 {
            let latest = bytes.saturating_sub(counted).saturating_mul(8_000_000) / micros;
            self.rate_bps = u64::midpoint(self.rate_bps, latest);
            self.before = Some((now, bytes));
        } else if self.before.is_none() {
            self.before = Some((now, bytes));
        }
        self.rate_bps
    }
}

/// What a task of ours returned; its panic goes on here.
fn flat<T>(joined: Result<Result<T, tokio::task::JoinError>, tokio::task::JoinError>) -> T {
    match joined.and_then(|inner| inner) {
        Ok(value) => value,
        Err(error) => match error.try_into_panic() {
            Ok(panic) => std::panic::resume_unwind(panic),
            // Tasks are cancelled only when the runtime ends, and then nobody runs on.
            Err(error) => panic!("a task was cancelled: {error}"),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rate_is_what_was_sent_lately() {
        let mut meter = Meter::default();
        assert_eq!(meter.rate(Time(0), 1000), 0);
        assert_eq!(meter.rate(Time(50), 9000), 0, "too soon to tell");
        let mut bytes = 1000;
        for half_second in 1..=20 {
            bytes += 62_500;
            meter.rate(Time(half_second * 500_000), bytes);
        }
        assert!((990_000..=1_000_000).contains(&meter.rate(Time(10_000_050), bytes)));
    }
}
