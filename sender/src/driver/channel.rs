//! One channel's task: it feeds the node and carries out what the node decides.
//!
//! - Inputs: NACKs, blocks that were made, passes that were recorded, scans, the clock, the wish to end.
//! - After each input all outputs are drained, but at most [`SENDS_MAX`] sends before inputs are looked at again, so
//!   that NACKs are heard at full speed too.
//! - It never waits for a disk: blocks, stores and scans are other tasks'.
//! - A manifest of another epoch is served from the next session on, and nobody sees anything of it before: so what
//!   the scanner brings waits for that session.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use nackcast_common::admission::Admission;
use nackcast_common::clock::{Clock, Time};
use nackcast_common::control::Ask;
use nackcast_common::ids::{ChannelId, ObjectId, SessionId, StartNumber};
use nackcast_proto::wire::Standing;
use tokio::sync::{Semaphore, mpsc, watch};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::caller::{Answer, Caller};
use super::origin::Origin;
use super::outlet::{Outlet, Sockets};
use super::peers::{self, HeardPeer};
use super::shelf::Served;
use crate::gate::Gate;
use crate::library;
use crate::node::{Ending, Heard, Made, Order, ScanResult, SenderNode, Trouble, Work};
use crate::report::{ChannelSummary, Progress};
use crate::role::Path;
use crate::scanner::{self, Scanned};
use crate::state::NodeState;
use crate::strangers::Strangers;

/// Sends between two looks at the inputs.
const SENDS_MAX: usize = 64;
/// NACKs taken at one look.
const NACKS_MAX: usize = 256;
/// Between two progress reports.
const TICK: Duration = Duration::from_millis(500);
/// A deadline that has passed is not looked at more often.
const NAP: Duration = Duration::from_micros(500);
/// Before a start number is tried again to be stored.
const ROLL_RETRY: Duration = Duration::from_secs(1);

/// What a channel's task is made of.
#[derive(Debug)]
pub(crate) struct ChannelParts {
    /// Its place in reports.
    pub(crate) index: usize,
    pub(crate) id: ChannelId,
    pub(crate) name: String,
    pub(crate) node: SenderNode,
    /// It sends once: then it looks back at the end.
    pub(crate) is_once: bool,
    /// It has the right to publish, and scans for what to publish.
    pub(crate) publishes: bool,
    pub(crate) caller: Caller,
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
    pub(crate) peers: mpsc::Receiver<HeardPeer>,
    /// Where other senders are.
    pub(crate) addresses: watch::Receiver<Vec<SocketAddr>>,
    /// Other senders that ask over QUIC.
    pub(crate) askers: mpsc::Receiver<Standing>,
    pub(crate) asked: mpsc::Receiver<Ask>,
    pub(crate) scanned: mpsc::Receiver<Scanned>,
    pub(crate) scans: mpsc::Sender<scanner::Request>,
    pub(crate) scan_progress: watch::Receiver<Option<library::Progress>>,
    /// At most `max_jobs` counts are under way, so it need not be bounded.
    pub(crate) counts: mpsc::UnboundedSender<(ObjectId, u32)>,
    pub(crate) recorded: mpsc::Receiver<Vec<ObjectId>>,
    pub(crate) progress: watch::Sender<Progress>,
    /// For those who pull, and how much they got.
    pub(crate) served: watch::Sender<Served>,
    pub(crate) given: Arc<AtomicU64>,
    pub(crate) gate: Arc<Gate>,
    pub(crate) epoch_overlap: Duration,
    pub(crate) shutdown: CancellationToken,
    /// Datagrams on the node's NACK port that no key opened.
    pub(crate) unopened: watch::Receiver<u64>,
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
    id: ChannelId,
    name: String,
    node: SenderNode,
    is_once: bool,
    publishes: bool,
    caller: Caller,
    outlet: Outlet,
    clock: Clock,
    state: NodeState,
    ports: ChannelPorts,
    passes: Vec<(ObjectId, u32)>,
    origin: Origin,
    permits: Arc<Semaphore>,
    making: JoinSet<Result<Made, tokio::task::JoinError>>,
    rolling: JoinSet<StartNumber>,
    /// A scan that is wanted, while the scanner's queue is full.
    scan_wanted: Option<u64>,
    /// What is of the next session's epoch.
    for_next: Option<Scanned>,
    is_draining: bool,
    drained_at: Time,
    report_at: Time,
    strangers: Strangers,
}

/// What woke the task.
#[derive(Debug)]
enum Wake {
    Shutdown,
    Heard(Heard),
    Peer(Box<HeardPeer>),
    /// More is known of where other senders are.
    Addresses,
    /// A sender asks.
    Call(Box<Standing>),
    /// A sender answered.
    Answer(Box<Answer>),
    Asked(Ask),
    Made(Made),
    Recorded(Vec<ObjectId>),
    Scanned(Scanned),
    Rolled(StartNumber),
    /// A deadline, or room in a socket.
    Due,
}

/// A session id that nobody had before.
pub(crate) fn new_session() -> SessionId {
    let mut id = [0; 8];
    nackcast_common::keys::fill_random(&mut id);
    SessionId(u64::from_be_bytes(id))
}

impl Channel {
    pub(crate) fn new(parts: ChannelParts) -> Self {
        let ChannelParts { index, id, name, node, is_once, publishes, caller, sockets, .. } = parts;
        let ChannelParts { clock, state, ports, passes, makers, .. } = parts;
        Self {
            index,
            id,
            node,
            is_once,
            publishes,
            caller,
            outlet: Outlet::new(sockets, name.clone()),
            name,
            clock,
            state,
            ports,
            passes,
            origin: Origin::default(),
            permits: makers,
            making: JoinSet::new(),
            rolling: JoinSet::new(),
            scan_wanted: None,
            for_next: None,
            is_draining: false,
            drained_at: Time::ZERO,
            report_at: Time::ZERO,
            strangers: Strangers::default(),
        }
    }

    /// Runs until it is done or told to end.
    pub(crate) async fn run(mut self) -> ChannelEnd {
        self.node.set_list(self.ports.gate.list_name());
        self.node.handle_timeout(self.clock.now());
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
            self.node.handle_timeout(self.clock.now());
            self.say_how_it_is();
        }
    }

    async fn wait(&mut self) -> Wake {
        // Asked at the time of the last drain: what became due since then is due at once.
        let deadline = self.node.poll_deadline(self.drained_at).map_or(self.report_at, |d| d.at.min(self.report_at));
        let (clock, nap) = (self.clock, self.drained_at + NAP);
        let is_sending = self.outlet.is_held_up() || (self.is_draining && self.outlet.is_sending());
        tokio::select! {
            biased;
            () = self.ports.shutdown.cancelled(), if !self.is_draining => Wake::Shutdown,
            Some(heard) = self.ports.nacks.recv() => Wake::Heard(heard),
            Some(heard) = self.ports.peers.recv() => Wake::Peer(Box::new(heard)),
            Ok(()) = self.ports.addresses.changed() => Wake::Addresses,
            Some(asker) = self.ports.askers.recv() => Wake::Call(Box::new(asker)),
            answer = self.caller.answered() => Wake::Answer(Box::new(answer)),
            Some(ask) = self.ports.asked.recv() => Wake::Asked(ask),
            Some(made) = self.making.join_next() => Wake::Made(flat(made.and_then(|inner| inner))),
            Some(objects) = self.ports.recorded.recv() => Wake::Recorded(objects),
            Some(scanned) = self.ports.scanned.recv(), if self.for_next.is_none() => Wake::Scanned(scanned),
            Some(rolled) = self.rolling.join_next() => Wake::Rolled(flat(rolled)),
            () = self.outlet.through(), if is_sending => Wake::Due,
            () = tokio::time::sleep_until(clock.instant(deadline.max(nap)).into()) => Wake::Due,
        }
    }

    fn handle(&mut self, wake: Wake) {
        let now = self.clock.now();
        match wake {
            Wake::Shutdown => self.drain(now),
            Wake::Heard(heard) => self.on_heard(now, &heard),
            Wake::Peer(heard) => self.on_peer(now, &heard),
            Wake::Addresses => self.learn_addresses(now),
            Wake::Call(asker) => self.node.handle_call(now, &asker),
            Wake::Answer(answer) => self.on_answer(now, &answer),
            Wake::Asked(ask) => self.answer(now, ask),
            Wake::Made(made) => self.node.handle_made(now, made),
            Wake::Recorded(objects) => self.node.handle_recorded(now, &objects),
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
            self.on_heard(now, &heard);
        }
        self.hear_senders(now);
        if let Ok(ask) = self.ports.asked.try_recv() {
            self.answer(now, ask);
        }
        while let Some(made) = self.making.try_join_next() {
            self.node.handle_made(now, flat(made.and_then(|inner| inner)));
        }
        while let Ok(objects) = self.ports.recorded.try_recv() {
            self.node.handle_recorded(now, &objects);
        }
        if self.for_next.is_none()
            && let Ok(scanned) = self.ports.scanned.try_recv()
        {
            self.on_scanned(now, scanned);
        }
        if let Some(rolled) = self.rolling.try_join_next() {
            self.on_rolled(now, flat(rolled));
        }
        if now >= self.report_at {
            self.report_at = now + TICK;
            self.outlet.look(now);
            self.node.handle_can_send(now, self.outlet.trouble().is_none());
            // They are in the log.
            while self.node.poll_role_event().is_some() {}
            self.report(now);
        }
        if !self.is_draining && self.ports.shutdown.is_cancelled() {
            self.drain(now);
        }
    }

    /// What is here of other senders. A node that sends all the time must not wait for a pause to hear them.
    fn hear_senders(&mut self, now: Time) {
        for _ in 0..peers::QUEUE_LEN {
            let Ok(heard) = self.ports.peers.try_recv() else { break };
            self.on_peer(now, &heard);
        }
        if self.ports.addresses.has_changed().is_ok_and(|changed| changed) {
            self.learn_addresses(now);
        }
        while let Ok(asker) = self.ports.askers.try_recv() {
            self.node.handle_call(now, &asker);
        }
        while let Some(answer) = self.caller.try_answered() {
            self.on_answer(now, &answer);
        }
    }

    fn on_peer(&mut self, now: Time, HeardPeer { from, advertisement }: &HeardPeer) {
        self.ports.gate.hear_list(now, SocketAddr::new(from.ip(), advertisement.nack_port), advertisement.list);
        self.node.handle_advertisement(now, *from, advertisement);
    }

    fn learn_addresses(&mut self, now: Time) {
        let addresses = self.ports.addresses.borrow_and_update().clone();
        self.node.handle_peers(now, addresses);
    }

    fn on_answer(&mut self, now: Time, answer: &Answer) {
        let Answer { from, standing, came, took } = answer;
        self.node.handle_standing(now, *from, Path::Quic { came: *came, took: *took }, standing);
    }

    /// What an admin asks. Whoever asked may be gone by now.
    fn answer(&mut self, now: Time, ask: Ask) {
        match ask {
            Ask::Rate(rate, reply) => {
                self.node.set_rate(now, rate);
                drop(reply.send(Ok(())));
            }
            Ask::Admit(admission, reply) => {
                self.admit(now, admission);
                drop(reply.send(Ok(())));
            }
            Ask::Steer(steer, reply) => drop(reply.send(self.node.steer(now, steer))),
            Ask::Resend { objects, reply } => drop(reply.send(self.node.resend(now, &objects))),
            Ask::Receivers { limit, reply } => drop(reply.send(Ok(self.node.receivers(now, limit)))),
            Ask::Objects { after, busy, limit, reply } => {
                let mut rows = self.node.objects(after, busy, limit);
                for row in &mut rows {
                    row.path = self.origin.path_of(ObjectId(row.id));
                }
                drop(reply.send(Ok(rows)));
            }
            // Those go to the scanner.
            Ask::Scan { .. } => {}
        }
        self.report(now);
    }

    fn on_heard(&mut self, now: Time, heard: &Heard) {
        match heard {
            Heard::Nack(nack) => self.node.handle_nack(now, nack),
            Heard::Probe(probe) => self.node.handle_probe(now, probe),
        }
    }

    /// The key file was read again. Who publishes begins a later epoch, as the scanner was told; others follow.
    fn admit(&mut self, now: Time, admission: Admission) {
        let epoch = admission.epoch;
        if let Some(receivers) = &admission.receivers {
            tracing::info!(channel = self.name, %epoch, "the key file was read: {} receivers are let in", receivers.len());
        }
        self.ports.gate.admit(admission);
        self.node.set_list(self.ports.gate.list_name());
        if self.publishes && epoch > self.node.epoch() {
            self.ports.gate.announce(epoch);
            self.node.announce_epoch(now, epoch, self.ports.epoch_overlap);
        }
    }

    fn on_rolled(&mut self, now: Time, number: StartNumber) {
        self.node.roll(now, new_session(), number);
        self.ports.gate.enter(self.node.epoch());
        if let Some(scanned) = self.for_next.take() {
            self.on_scanned(now, scanned);
        }
    }

    fn on_scanned(&mut self, now: Time, scanned: Scanned) {
        let epoch = scanned.published.as_ref().map(|(published, _)| published.manifest.head().epoch);
        if epoch.is_some_and(|epoch| self.node.enter_epoch(epoch)) {
            self.for_next = Some(scanned);
            return;
        }
        if let Some(epoch) = epoch {
            self.ports.gate.enter(epoch);
        }
        let Scanned { content, published, problems, answers, lacks } = scanned;
        let is_read = content.is_some();
        self.origin.content = content.or_else(|| self.origin.content.take());
        let mut offer = None;
        let publication = published.map(|(published, fresh)| {
            self.origin.parts = Arc::new(published.objects());
            offer = published.offer();
            published.publication(fresh, std::mem::take(&mut self.passes))
        });
        let origin = self.origin.clone();
        self.ports.served.send_modify(|served| {
            served.origin = origin;
            served.offer = offer.or_else(|| served.offer.take());
        });
        self.node.handle_scanned(now, ScanResult { publication, is_read, answers, troubles: problems });
        if !lacks.is_empty() {
            self.node.lacks(now, lacks);
        }
    }

    /// Everything that the node wants now; true when there may be more.
    fn drain_outputs(&mut self) -> bool {
        let now = self.clock.now();
        self.drained_at = now;
        self.ask_for_scan();
        for _ in 0..SENDS_MAX {
            self.drain_work();
            if !self.outlet.send_next(now, &mut self.node) {
                self.drain_work();
                return false;
            }
        }
        true
    }

    fn drain_work(&mut self) {
        while let Some(work) = self.node.poll_work() {
            match work {
                Work::Make(order) => self.make(order),
                Work::RecordPass { object, count } => {
                    if self.ports.counts.send((object, count)).is_err() {
                        // Only while the node ends.
                        tracing::debug!(channel = self.name, %object, "a pass was not recorded");
                    }
                }
                Work::Rescan { number, object } => {
                    let path = self.origin.path_of(object);
                    tracing::debug!(channel = self.name, %object, path, "no longer offered, until a scan");
                    self.scan_wanted = Some(number);
                    self.ask_for_scan();
                }
                Work::Call(to) => self.caller.call(to, self.node.standing(self.clock.now())),
                Work::Roll => self.roll(),
            }
        }
    }

    fn ask_for_scan(&mut self) {
        // Full: tried again in the next round.
        if let Some(number) = self.scan_wanted
            && self.ports.scans.try_send(scanner::Request::Soon(number)).is_ok()
        {
            self.scan_wanted = None;
        }
    }

    fn make(&mut self, order: Order) {
        let (origin, permits) = (self.origin.clone(), Arc::clone(&self.permits));
        self.making.spawn(async move {
            // Never closed; a permit only bounds how many threads are busy.
            let _permit = permits.acquire().await;
            tokio::task::spawn_blocking(move || order.make(|id| origin.read(id))).await
        });
    }

    /// A new session begins as soon as its start number is durable.
    fn roll(&mut self) {
        let (state, channel, name) = (self.state.clone(), self.id, self.name.clone());
        self.rolling.spawn(async move {
            loop {
                let state = state.clone();
                let next = move || state.next_start_number(channel, Clock::wall_ms());
                match flat(tokio::task::spawn_blocking(next).await) {
                    Ok(number) => return number,
                    Err(error) => tracing::error!(channel = name, "no new session can begin: {error}"),
                }
                tokio::time::sleep(ROLL_RETRY).await;
            }
        });
    }

    fn drain(&mut self, now: Time) {
        self.is_draining = true;
        self.node.drain(now);
    }

    fn is_over(&self) -> bool {
        match self.node.ending(self.clock.now()) {
            Ending::Running => false,
            Ending::WhenSent => !self.outlet.is_sending(),
            Ending::Now => true,
        }
    }

    /// Whoever sends once must hear of what changed meanwhile, even where every block was still to be had: a large
    /// file that was replaced or removed is sent from the descriptor that was open.
    async fn look_back(&mut self) {
        let Some(content) = self.origin.content.clone().filter(|_| self.is_once) else { return };
        let Ok(changed) = tokio::task::spawn_blocking(move || content.changed_files()).await else { return };
        for error in changed {
            tracing::warn!(channel = self.name, "{error}");
            self.node.note(Trouble { line: error.to_string(), is_failure: true });
        }
    }

    fn end(mut self) -> ChannelEnd {
        self.report(self.clock.now());
        let (mut summary, success) = self.node.summary();
        summary.unicast_bytes = self.ports.given.load(Ordering::Relaxed);
        ChannelEnd { summary, success }
    }

    /// For those who ask over QUIC. Nobody waits for it to change.
    fn say_how_it_is(&self) {
        let standing = self.node.standing(self.clock.now());
        self.ports.served.send_if_modified(|served| {
            served.standing = Some(standing);
            false
        });
    }

    fn report(&mut self, now: Time) {
        self.node.set_wall_clock(self.clock.wall_origin_ms());
        let mut channel = self.node.progress(now);
        channel.unicast_bytes = self.ports.given.load(Ordering::Relaxed);
        // The most urgent of what else is worth knowing.
        if let Some(trouble) = self.outlet.trouble() {
            channel.note = Some(trouble.to_owned());
        } else if let Some(scan) = self.ports.scan_progress.borrow().filter(|scan| scan.files_total > 0) {
            channel.note = Some(format!("hashed {} of {} files", scan.files, scan.files_total));
        }
        channel.findings.extend(self.ports.gate.findings());
        let index = self.index;
        if index == 0 {
            // It is the node's; the first channel tells of it.
            channel.findings.extend(self.strangers.look(now, *self.ports.unopened.borrow()));
        }
        self.ports.progress.send_modify(|progress| {
            if let Some(place) = progress.channels.get_mut(index) {
                *place = channel;
            }
        });
    }
}

/// What a task of ours returned; its panic goes on here.
fn flat<T>(joined: Result<T, tokio::task::JoinError>) -> T {
    match joined {
        Ok(value) => value,
        Err(error) => match error.try_into_panic() {
            Ok(panic) => std::panic::resume_unwind(panic),
            // Tasks are cancelled only when the runtime ends, and then nobody runs on.
            Err(error) => panic!("a task was cancelled: {error}"),
        },
    }
}
