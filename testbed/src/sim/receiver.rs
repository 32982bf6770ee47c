//! A receiver of the simulated network: the daemon's own node and disk workers on a model disk, with a clock of
//! its own, a socket buffer, and a life of crashes and restarts.
//!
//! | module | what |
//! |---|---|
//! | `work` | its disk workers, and what they report |
//! | `trouble` | what befalls its disk, and how people set it right |
//! | `unicast` | what it pulls, and what it gives |

mod trouble;
mod unicast;
mod work;

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use nackcast_common::clock::Time;
use nackcast_common::control::{Refusal, Scan};
use nackcast_common::ids::RunId;
use nackcast_common::manifest::Mtime;
use nackcast_common::store::MemoryStore;
use nackcast_proto::ticket::Ticket;
use nackcast_receiver::dataset;
use nackcast_receiver::disk::target::TargetDir;
use nackcast_receiver::node::{NodeConfig, OpenError, PullOrder, ReceiverNode, Workers};
use rand::rngs::Xoshiro256PlusPlus;
use rand::{Rng, RngExt, SeedableRng};
use tokio::sync::oneshot;

use self::trouble::faults;
use self::unicast::Giving;
pub use self::unicast::Unicast;
use self::work::Disks;
use super::clock::LocalClock;
use super::disk::{Disk, Settings};
use super::scenario::{DiskSpec, ReceiverSpec};

/// Where the dataset and the state are on the model disk.
pub const INTO: &str = "/into";
pub(super) const STATE: &str = "/state";
/// Memory of one slot, as the node counts it.
pub const SLOT_BYTES: u64 = 256 << 10;
/// Bytes on a disk that is not full.
const CAPACITY: u64 = 1 << 40;
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
    /// Of unicast: answered by [`Receiver::pulled`], [`Receiver::offered`] and [`Receiver::pull_over`].
    Pull(PullOrder),
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
    unicast: Option<Unicast>,
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
    /// It does not come back.
    pub has_left: bool,
}

#[derive(Debug)]
struct Alive {
    node: ReceiverNode,
    disks: Disks,
    giving: Option<Giving>,
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
            unicast: None,
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
            has_left: false,
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
        let local = self.clock.at(now);
        let mut node = ReceiverNode::new(local, config);
        let Workers { blocks, dataset, shelf, .. } = workers;
        let mut giving = None;
        if let Some(unicast) = &self.unicast {
            node.allow_pull(local, unicast.when, unicast.sources.iter().cloned());
            giving = unicast.gives.then(|| Giving::new(&self.ticket, Arc::new(shelf)));
        }
        self.alive = Some(Alive { node, disks: Disks::new(blocks, dataset), giving });
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
                Socket::Data => alive.node.handle_data_datagram(local, local, &mut bytes),
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

    /// The next thing that it wants.
    pub fn poll(&mut self) -> Option<Want> {
        self.wants.pop_front()
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
