//! A receiver of the simulated network: the daemon's own node and disk workers on a model disk, with a clock of
//! its own, a socket buffer, and a life of crashes and restarts.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use nackcast_common::clock::Time;
use nackcast_common::control::{Refusal, Scan};
use nackcast_common::ids::RunId;
use nackcast_common::manifest::Mtime;
use nackcast_common::path::PART_DIRECTORY;
use nackcast_common::store::MemoryStore;
use nackcast_proto::ticket::Ticket;
use nackcast_receiver::blocks;
use nackcast_receiver::dataset;
use nackcast_receiver::disk::target::TargetDir;
use nackcast_receiver::engine::{BlockOutcome, Wants};
use nackcast_receiver::node::{NodeConfig, OpenError, Order, ReceiverNode, ScanRequest, Workers};
use rand::rngs::Xoshiro256PlusPlus;
use rand::{Rng, RngExt, SeedableRng};
use tokio::sync::oneshot::{self, error::TryRecvError};

use super::clock::LocalClock;
use super::disk::{Counts, Disk, Faults, Settings, Stands};
use super::scenario::{DiskSpec, ReceiverSpec};

/// Where the dataset and the state are on the model disk.
pub const INTO: &str = "/into";
pub(super) const STATE: &str = "/state";
/// Memory of one slot, as the node counts it.
pub const SLOT_BYTES: u64 = 256 << 10;
/// Characters of one line of a timeline.
const LINE_LEN: usize = 300;
/// A scan that found something is repeated after so long, when that may be mended.
const SCAN_AGAIN: Duration = Duration::from_secs(8);
/// Bytes on a disk that is not full.
const CAPACITY: u64 = 1 << 40;
/// Share of changes after which the system writes something back by itself.
const WRITE_BACK: f64 = 0.02;
/// A node that could not start tries again after so long.
const START_RETRY: Duration = Duration::from_millis(500);

/// On which socket a datagram arrives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Socket {
    /// Of the data group; read first.
    Data,
    /// Of the advertisement group.
    Advertisement,
    /// Where answers arrive.
    Answer,
}

/// One of the two disk workers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lane {
    /// Blocks.
    Blocks,
    /// The dataset.
    Dataset,
}

/// What a receiver wants of the world.
#[derive(Debug)]
pub enum Want {
    /// Send this to the sender there.
    Send(SocketAddr, Bytes),
    /// Nothing: its process read this, which was no symbol.
    Read(Bytes),
    /// A worker is busy until then: call [`Receiver::worked`].
    Busy(Lane, Time),
}

/// What came of starting.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Started {
    /// It runs.
    Yes,
    /// The disk refused: try again then.
    Again(Time),
}

/// One receiver.
#[derive(Debug)]
pub struct Receiver {
    /// Its number.
    pub number: u32,
    /// Its disk.
    pub disk: Disk,
    /// The disk rotted or lied: what is on it may be anything, until a deep scan has healed it.
    pub tainted: bool,
    healed: bool,
    /// Files that somebody else changed, with their paths: they may be nobody's now.
    pub edited: Vec<(Vec<u8>, u64)>,
    /// Power was cut at least once.
    pub had_power_cut: bool,
    store: MemoryStore,
    spec: ReceiverSpec,
    cost: DiskSpec,
    ticket: Ticket,
    random: Xoshiro256PlusPlus,
    clock: LocalClock,
    /// Counts starts, so that what belongs to an earlier life is known.
    pub life: u32,
    alive: Option<Alive>,
    waiting: VecDeque<(SocketAddr, Socket, Bytes)>,
    waiting_bytes: usize,
    paused: bool,
    wants: VecDeque<Want>,
    /// A scan is wanted; a deep one, if what is on the disk may be anything.
    rotten: bool,
    /// A scan was ordered, and has not answered yet.
    scanning: Option<oneshot::Receiver<Result<Scan, Refusal>>>,
    rescan_at: Option<Time>,
    /// Why it did not start.
    pub refusal: Option<String>,
}

#[derive(Debug)]
struct Alive {
    node: ReceiverNode,
    workers: Workers,
    blocks: Queue<blocks::Order, blocks::Report>,
    dataset: Queue<dataset::Order, dataset::Report>,
}

/// Orders and reports of one worker.
#[derive(Debug)]
struct Queue<O, R> {
    orders: VecDeque<O>,
    /// Of the order that is being carried out.
    reports: Option<Vec<R>>,
}

impl<O, R> Default for Queue<O, R> {
    fn default() -> Self {
        Self { orders: VecDeque::new(), reports: None }
    }
}

impl Receiver {
    /// A machine with an empty disk, not running.
    #[must_use]
    pub fn new(number: u32, seed: u64, spec: &ReceiverSpec, cost: &DiskSpec, ticket: Ticket) -> Self {
        let disk = Disk::new(Settings { seed, capacity: CAPACITY, privileged: false });
        let random = Xoshiro256PlusPlus::seed_from_u64(seed ^ 0x5EED);
        prepare(&disk);
        disk.set_faults(faults(cost));
        let receiver = Self {
            number,
            disk,
            tainted: false,
            healed: false,
            edited: Vec::new(),
            had_power_cut: false,
            store: MemoryStore::new(),
            spec: spec.clone(),
            cost: cost.clone(),
            ticket,
            random,
            clock: LocalClock::default(),
            life: 0,
            alive: None,
            waiting: VecDeque::new(),
            waiting_bytes: 0,
            paused: false,
            wants: VecDeque::new(),
            rotten: false,
            scanning: None,
            rescan_at: None,
            refusal: None,
        };
        receiver.join_power();
        receiver
    }

    /// Starts the process.
    pub fn start(&mut self, now: Time) -> Started {
        self.life += 1;
        self.clock = LocalClock::starting(now, self.clock.ppm());
        self.disk.set_time(time_of(now));
        let workers = match self.open() {
            Ok(workers) => workers,
            Err(error) => {
                self.refusal = Some(error.to_string());
                return Started::Again(now + START_RETRY);
            }
        };
        let config = NodeConfig {
            ticket: self.ticket.clone(),
            into: INTO.to_owned(),
            run: RunId(self.random.next_u64()),
            seed: self.random.next_u64(),
            remembered: workers.remembered,
            nack_retry: Duration::from_millis(self.spec.nack_retry_ms),
            nack_budget: self.spec.nack_budget,
            memory: u64::from(self.spec.slots) * SLOT_BYTES,
            scan: Duration::from_millis(self.spec.scan_ms),
            once: false,
            own_sender: None,
        };
        let node = ReceiverNode::new(self.clock.at(now), config);
        self.alive = Some(Alive { node, workers, blocks: Queue::default(), dataset: Queue::default() });
        if self.rotten {
            self.scan(now);
        }
        self.drain(now);
        Started::Yes
    }

    fn open(&self) -> Result<Workers, OpenError> {
        let settings = dataset::Settings {
            channel: self.ticket.channel,
            publisher: self.ticket.publisher,
            mode_mask: 0o777,
            overwrite: false,
            prune: self.spec.prune,
        };
        let target = TargetDir::open(self.disk.files(), Path::new(INTO))?;
        Workers::open(settings, target, self.store.store(), Path::new(STATE))
    }

    /// The process is gone; what the kernel was given stays.
    pub fn kill(&mut self) {
        self.alive = None;
        (self.scanning, self.rescan_at) = (None, None);
        self.life += 1;
        (self.waiting_bytes, self.paused) = (0, false);
        self.waiting.clear();
        self.wants.clear();
    }

    /// Power is gone: only what was durable stays, and some of the rest.
    pub fn cut_power(&mut self) {
        self.kill();
        self.had_power_cut = true;
        self.tainted |= self.cost.lies_ppm > 0 && !self.healed;
        self.disk = self.disk.crash(self.random.next_u64());
        let random = &mut self.random;
        self.store = self.store.crash(|steps| random.random_range(0..=steps));
        self.join_power();
    }

    /// Store and disk lose power together.
    fn join_power(&self) {
        let disk = self.disk.clone();
        self.store.stop_when(move || disk.stopped());
    }

    /// Whether the process runs.
    #[must_use]
    pub const fn is_up(&self) -> bool {
        self.alive.is_some()
    }

    /// The node, if it runs.
    #[must_use]
    pub fn node(&self) -> Option<&ReceiverNode> {
        self.alive.as_ref().map(|alive| &alive.node)
    }

    /// Orders a scan, as soon as it runs.
    pub fn scan(&mut self, now: Time) {
        self.rotten = true;
        let Some(alive) = &mut self.alive else { return };
        let (answer, scanning) = oneshot::channel();
        alive.node.scan(ScanRequest { deep: self.tainted, answer: Some(answer) });
        self.scanning = Some(scanning);
        self.drain(now);
    }

    /// Whether what the disk holds may differ from what the node believes: it rotted, lied or was written to, and no
    /// scan has looked since.
    #[must_use]
    pub const fn is_doubtful(&self) -> bool {
        self.rotten || (self.tainted && !self.healed)
    }

    /// A scan that found everything sound ends the doubt; another is ordered again, since what is installed after
    /// it may have rotted before.
    fn look_at_scan(&mut self, now: Time) {
        match self.scanning.as_mut().map(oneshot::Receiver::try_recv) {
            Some(Ok(Ok(scan))) if scan.generation > 0 && !scan.changed => {
                (self.rotten, self.scanning) = (false, None);
            }
            Some(Ok(_) | Err(TryRecvError::Closed)) => {
                self.scanning = None;
                self.rescan_at = Some(now + SCAN_AGAIN);
            }
            Some(Err(TryRecvError::Empty)) | None => {}
        }
    }

    /// What its own clock shows.
    #[must_use]
    pub fn local(&self, now: Time) -> Time {
        self.clock.at(now)
    }

    /// Whether the process stands still.
    #[must_use]
    pub const fn is_paused(&self) -> bool {
        self.paused
    }

    /// The process stands still, or goes on.
    pub fn pause(&mut self, now: Time, paused: bool) {
        self.paused = paused && self.is_up();
        if !self.paused {
            self.read(now);
        }
    }

    /// Its clock runs fast by so many millionths from now on.
    pub fn skew(&mut self, now: Time, ppm: i32) {
        self.clock.skew(now, ppm);
    }

    /// A datagram arrives.
    pub fn take(&mut self, now: Time, from: SocketAddr, socket: Socket, datagram: Bytes) {
        if self.alive.is_none() || self.waiting_bytes + datagram.len() > self.spec.socket_bytes {
            return;
        }
        self.waiting_bytes += datagram.len();
        self.waiting.push_back((from, socket, datagram));
        self.read(now);
    }

    fn read(&mut self, now: Time) {
        if self.paused {
            return;
        }
        let local = self.clock.at(now);
        let Some(alive) = &mut self.alive else { return };
        // The contract of the node: data before advertisements.
        let mut waiting = std::mem::take(&mut self.waiting);
        if waiting.len() > 1 {
            waiting.make_contiguous().sort_by_key(|(_, socket, _)| *socket != Socket::Data);
        }
        self.waiting_bytes = 0;
        for (from, socket, datagram) in waiting {
            let mut bytes = BytesMut::from(&datagram[..]);
            match socket {
                Socket::Data => alive.node.handle_data_datagram(local, from, &mut bytes),
                Socket::Advertisement => alive.node.handle_advertisement_datagram(local, from, &mut bytes),
                Socket::Answer => alive.node.handle_answer_datagram(local, from, &mut bytes),
            }
            if socket != Socket::Data {
                self.wants.push_back(Want::Read(datagram));
            }
        }
        self.drain(now);
    }

    /// A deadline may have passed.
    pub fn wake(&mut self, now: Time) {
        if self.paused {
            return;
        }
        let local = self.clock.at(now);
        let Some(alive) = &mut self.alive else { return };
        if alive.node.poll_deadline().is_some_and(|deadline| deadline.at <= local) {
            alive.node.handle_timeout(local);
            self.drain(now);
        }
        if self.rescan_at.is_some_and(|at| at <= now) {
            self.rescan_at = None;
            self.scan(now);
        }
    }

    /// When it wants to be woken.
    #[must_use]
    pub fn deadline(&self) -> Option<Time> {
        if self.paused {
            return None;
        }
        let node = self.alive.as_ref()?.node.poll_deadline().map(|deadline| self.clock.when(deadline.at));
        node.into_iter().chain(self.rescan_at).min()
    }

    /// A worker's time is over: its reports go to the node.
    pub fn worked(&mut self, now: Time, lane: Lane) {
        let local = self.clock.at(now);
        let Some(alive) = &mut self.alive else { return };
        match lane {
            Lane::Blocks => {
                for report in alive.blocks.reports.take().unwrap_or_default() {
                    alive.node.handle_block_report(local, report);
                }
            }
            Lane::Dataset => {
                for report in alive.dataset.reports.take().unwrap_or_default() {
                    alive.node.handle_dataset_report(local, report);
                }
                self.look_at_scan(now);
            }
        }
        self.drain(now);
    }

    /// The next thing that it wants.
    pub fn poll(&mut self) -> Option<Want> {
        self.wants.pop_front()
    }

    fn drain(&mut self, now: Time) {
        let Some(alive) = &mut self.alive else { return };
        while let Some(order) = alive.node.poll_order() {
            match order {
                Order::Blocks(order) => alive.blocks.orders.push_back(order),
                Order::Dataset(order) => match alive.dataset.orders.back_mut() {
                    Some(last) => {
                        if let Some(order) = last.join(order) {
                            alive.dataset.orders.push_back(order);
                        }
                    }
                    None => alive.dataset.orders.push_back(order),
                },
            }
        }
        while let Some((to, datagram)) = alive.node.poll_transmit() {
            self.wants.push_back(Want::Send(to, Bytes::copy_from_slice(datagram)));
        }
        self.work(now);
    }

    /// Gives idle workers their next order. It is carried out at once, and takes the time that the disk takes.
    fn work(&mut self, now: Time) {
        let Some(alive) = &mut self.alive else { return };
        self.disk.set_time(time_of(now));
        if alive.blocks.reports.is_none()
            && let Some(order) = alive.blocks.orders.pop_front()
        {
            let before = self.disk.counts();
            alive.workers.blocks.handle(order);
            let reports = std::iter::from_fn(|| alive.workers.blocks.poll_report()).collect();
            alive.blocks.reports = Some(reports);
            let took = duration(&self.cost, before, self.disk.counts());
            self.wants.push_back(Want::Busy(Lane::Blocks, now + took));
        }
        if alive.dataset.reports.is_none()
            && let Some(order) = alive.dataset.orders.pop_front()
        {
            let before = self.disk.counts();
            alive.workers.dataset.handle(order);
            let reports = std::iter::from_fn(|| alive.workers.dataset.poll_report()).collect();
            alive.dataset.reports = Some(reports);
            let took = duration(&self.cost, before, self.disk.counts());
            self.wants.push_back(Want::Busy(Lane::Dataset, now + took));
        }
    }

    /// The disk has only so many bytes left.
    pub fn fill(&mut self, bytes_left: u64) {
        self.disk.set_capacity(self.disk.used() + bytes_left);
    }

    /// Bits flip at rest.
    pub fn rot(&mut self, bits: u32) {
        if !self.disk.rot(&mut self.random, bits as usize).is_empty() {
            (self.tainted, self.rotten) = (true, true);
        }
    }

    /// Somebody else writes to files of the dataset; gives them.
    pub fn edit(&mut self, now: Time, files: u32, keep_time: bool) -> Vec<(Vec<u8>, u64)> {
        self.disk.set_time(time_of(now));
        let within = (INTO.as_bytes(), PART_DIRECTORY.as_bytes());
        let edited = self.disk.edit_by_hand(&mut self.random, within, files as usize, keep_time);
        self.rotten |= !edited.is_empty();
        self.edited.extend_from_slice(&edited);
        edited
    }

    /// Who changed files takes those away that `leaves` says. After a disk that lied nobody can know whose a file is: if
    /// it `obstructs`, people do as they are told, and move it away.
    pub fn take_away(&self, leaves: impl Fn(&[u8]) -> bool, obstructs: impl Fn(&[u8]) -> bool) {
        let edited = self.edited.iter().filter(|(path, _)| leaves(path)).map(|(path, inode)| (path.clone(), *inode));
        let shown = self.tainted.then(|| self.disk.shown(INTO.as_bytes(), PART_DIRECTORY.as_bytes()));
        let obstacles = shown.into_iter().flatten().filter_map(|one| match one.stands {
            Stands::File { inode, .. } if obstructs(&one.path) => Some((one.path, inode)),
            _ => None,
        });
        for (path, inode) in edited.chain(obstacles) {
            self.disk.remove_by_hand(&[INTO.as_bytes(), b"/", &path[..]].concat(), inode);
        }
    }

    /// What is dirty now cannot be written back. Of a disk that lies, that may be what it said to be durable: nobody is
    /// told of its loss.
    pub fn fail_write_back(&mut self, failing: bool) {
        self.tainted |= failing && self.cost.lies_ppm > 0;
        let write_back_error = if failing { 0.5 } else { 0.0 };
        self.disk.set_faults(Faults { write_back_error, ..faults(&self.cost) });
    }

    /// The disk has no faults any more, and room.
    pub fn heal(&mut self, now: Time) {
        self.healed = true;
        self.cost = DiskSpec { errors_ppm: 0, lies_ppm: 0, ..DiskSpec::default() };
        self.disk.set_faults(faults(&self.cost));
        self.disk.set_capacity(CAPACITY);
        self.disk.stop_after(None);
        self.skew(now, 0);
    }

    /// What a worker, which is busy now, is going to report, a line each.
    #[must_use]
    pub fn shown(&self, lane: Lane) -> Vec<String> {
        let Some(alive) = &self.alive else { return Vec::new() };
        let short = |text: String| text.chars().take(LINE_LEN).collect::<String>();
        match lane {
            Lane::Blocks => alive
                .blocks
                .reports
                .iter()
                .flatten()
                .filter_map(|report| match report {
                    blocks::Report::Complete { object, block, outcome, .. } => {
                        Some(format!("block {block} of object {object}: {outcome:?}"))
                    }
                    blocks::Report::Trouble(error) => Some(error.to_string()),
                    _ => None,
                })
                .collect(),
            Lane::Dataset => alive
                .dataset
                .reports
                .iter()
                .flatten()
                .map(|report| match report {
                    dataset::Report::Wants(wants) => short(format!("wants {:?}", wants.objects)),
                    other => short(format!("{other:?}")),
                })
                .collect(),
        }
    }

    /// Whether the block worker, which is busy now, found a block that is not what the manifest says.
    #[must_use]
    pub fn found_unsound(&self) -> bool {
        let reports = self.alive.as_ref().and_then(|alive| alive.blocks.reports.as_ref());
        let unsound =
            |report: &blocks::Report| matches!(report, blocks::Report::Complete { outcome: BlockOutcome::Unsound, .. });
        reports.into_iter().flatten().any(unsound)
    }

    /// What the worker, which is busy now, found to be on the disk.
    pub fn claims(&self) -> impl Iterator<Item = &Wants> {
        let reports = self.alive.as_ref().and_then(|alive| alive.dataset.reports.as_ref());
        reports.into_iter().flatten().filter_map(|report| match report {
            dataset::Report::Wants(wants) => Some(&**wants),
            _ => None,
        })
    }

    /// Whether the dataset worker has touched the disk and the node does not know yet.
    #[must_use]
    pub fn is_settling(&self) -> bool {
        self.alive.as_ref().is_some_and(|alive| alive.dataset.reports.is_some())
    }

    /// Orders that wait for a worker.
    #[must_use]
    pub fn orders_waiting(&self) -> usize {
        self.alive.as_ref().map_or(0, |alive| alive.blocks.orders.len() + alive.dataset.orders.len())
    }
}

/// What the disk does of itself.
fn faults(cost: &DiskSpec) -> Faults {
    let share = |ppm: u32| f64::from(ppm) / 1e6;
    Faults {
        read_error: share(cost.errors_ppm),
        write_error: share(cost.errors_ppm),
        write_back_error: 0.0,
        lying_sync: share(cost.lies_ppm),
        write_back: WRITE_BACK,
    }
}

/// The directories that a distribution would have made.
fn prepare(disk: &Disk) {
    let files = disk.files();
    for path in [INTO, STATE] {
        let made =
            files.make_directory(Path::new(path), 0o755).and_then(|()| files.open_directory(Path::new("/"))?.sync());
        debug_assert!(made.is_ok(), "an empty disk takes a directory");
    }
}

fn time_of(now: Time) -> Mtime {
    let seconds = i64::try_from(now.0 / 1_000_000).unwrap_or(i64::MAX);
    Mtime { seconds: 1_700_000_000 + seconds, nanos: u32::try_from(now.0 % 1_000_000).unwrap_or(0) * 1000 }
}

fn duration(cost: &DiskSpec, before: Counts, after: Counts) -> Duration {
    let calls = (after.calls - before.calls) * cost.call_us + (after.syncs - before.syncs) * cost.sync_us;
    let moved = |counts: Counts| counts.read + counts.written + counts.stored;
    let bytes = moved(after) - moved(before);
    let transfer = (bytes * 1_000_000).checked_div(cost.bytes_per_second).unwrap_or(0);
    Duration::from_micros(calls + transfer + 1)
}
